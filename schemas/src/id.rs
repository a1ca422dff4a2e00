//! Result identifiers and body digests.

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// `UUIDv5(namespace, [parts…] as a compact JSON array)`, where the namespace is `UUIDv5(URL, "postern:result")`.
pub fn result_id(parts: &[&str]) -> Uuid {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"postern:result");
    let name = Value::from(parts).to_string();
    Uuid::new_v5(&namespace, name.as_bytes())
}

/// SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// SHA-256 of an event's `type`, `time` and `data` compared as values: neither the order of keys, white space,
/// nor the offset in which the time is written matters.
pub fn digest(kind: &str, time: Timestamp, data: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut text = String::new();
    canonical(&Value::from(vec![Value::from(kind), Value::from(time.to_string())]), &mut text);
    canonical(data, &mut text);
    hash.update(text);
    hash.finalize().into()
}

/// JSON with sorted keys and no white space. Written out here because the map's own order depends on a feature
/// of `serde_json` that any dependency may switch on.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_id_is_the_published_formula() {
        // Computed with Python: uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "postern:result"), '["a","b","c"]')
        assert_eq!(result_id(&["a", "b", "c"]).to_string(), PYTHON);
    }

    const PYTHON: &str = "d41b192e-c5f9-5ba0-aefd-5344dff0124c";
}
