//! Labels as AWS tags, whose values hold letters, digits, spaces and `_.:/=+-@` (AWS docs, "Tag naming limits and
//! requirements").

use aws_sdk_secretsmanager::types::Tag;

use crate::secrets::store::Labels;

/// Postern's own tags are escaped; those of others are shown as they are.
const OURS: &str = "postern-";

/// What the tags say.
pub(super) fn labels(tags: &[Tag]) -> Labels {
    let label = |tag: &Tag| {
        let (key, value) = (tag.key()?, tag.value().unwrap_or_default());
        let value = if key.starts_with(OURS) { decoded(value) } else { value.to_owned() };
        Some((key.to_owned(), value))
    };
    tags.iter().filter_map(label).collect()
}

/// The tags that say it.
pub(super) fn tags(labels: &Labels) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| {
        let value = if key.starts_with(OURS) { encoded(value) } else { value.clone() };
        Tag::builder().key(key).value(value).build()
    };
    labels.iter().map(tag).collect()
}

/// A byte that no tag can hold becomes `=` and two hexadecimal digits.
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b' ' | b'_' | b'.' | b':' | b'/' | b'+' | b'-' | b'@' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => text.extend(["=", &format!("{byte:02X}")]),
        }
    }
    text
}

fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('=') {
        bytes.extend(before.bytes());
        let Some(byte) = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            // Nothing that was escaped here.
            return value.to_owned();
        };
        bytes.push(byte);
        rest = &after[2..];
    }
    bytes.extend(rest.bytes());
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_and_only_legal_characters_go_out() {
        for text in ["", "jane.doe@example.com", "AR-1/2#3", "a=b", "=", "é", "100%"] {
            let sent = encoded(text);
            assert_eq!(decoded(&sent), text);
            assert!(sent.chars().all(|c| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c)), "{sent}");
        }
        assert_eq!(decoded("not=ours"), "not=ours");
    }
}
