//! `HASHICORP_VAULT_CONFIG`, or the file that `HASHICORP_VAULT_CONFIG_FILE_PATH` names: the servers of HashiCorp Vault or
//! OpenBao. It holds tokens, so no message repeats any of its texts.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_schemas::fields::{Fields, Problems, kind};
use postern_schemas::store::StoreRef;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Env, read};

const INLINE: &str = "HASHICORP_VAULT_CONFIG";
const FILE: &str = "HASHICORP_VAULT_CONFIG_FILE_PATH";
const NAMESPACE: &str = "VAULT_NAMESPACE";

/// The servers, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultConfig {
    /// May be empty.
    pub servers: Vec<VaultEntry>,
    /// `VAULT_NAMESPACE`, sent to every server.
    pub namespace: Option<String>,
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultEntry {
    /// A server.
    Server(VaultServer),
    /// The place of a secret that holds a server, in another store.
    From(StoreRef),
}

/// A server and a token for it.
#[derive(Clone)]
pub struct VaultServer {
    /// `https://host[:port]` or `http://…`, without a slash at the end.
    pub address: String,
    /// Never shown.
    pub token: SecretString,
    /// The only issuers to believe, DER; empty: the system's.
    pub issuers: Vec<CertificateDer<'static>>,
    /// Whether any certificate is believed.
    pub skip_verify: bool,
}

impl PartialEq for VaultServer {
    fn eq(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret as _;
        let secret = |server: &Self| server.token.expose_secret().to_owned();
        (&self.address, &self.issuers, self.skip_verify) == (&other.address, &other.issuers, other.skip_verify)
            && secret(self) == secret(other)
    }
}

impl Eq for VaultServer {}

impl fmt::Debug for VaultServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultServer").field("address", &self.address).field("skip_verify", &self.skip_verify).finish_non_exhaustive()
    }
}

impl VaultConfig {
    /// Reads the environment, and the file that it names.
    pub(super) fn read(env: Env<'_>, problems: &Problems) -> Self {
        let namespace = read::variable(env, NAMESPACE).map(|name| name.trim_matches('/').to_owned());
        if namespace.as_ref().is_some_and(|name| !is_header(name)) {
            problems.add(NAMESPACE, "is no namespace; expected a path of visible ASCII characters");
        }
        let (name, text) = match (read::variable(env, INLINE), read::variable(env, FILE)) {
            (Some(_), Some(_)) => {
                problems.add(INLINE, format!("is set beside {FILE}; set one of them"));
                return Self::default();
            }
            (Some(text), None) => (INLINE, Zeroizing::new(text)),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) => (FILE, Zeroizing::new(text)),
                Err(error) => {
                    problems.add(FILE, format!("{path}: cannot be read: {error}"));
                    return Self::default();
                }
            },
            (None, None) => return Self { servers: Vec::new(), namespace },
        };
        let servers = match serde_json::from_str(&text) {
            Ok(Value::Array(items)) => {
                items.iter().enumerate().filter_map(|(i, item)| entry(item, &format!("{name}[{i}]"), problems)).collect()
            }
            Ok(other) => {
                problems.add(name, format!("is {}; expected a JSON list of {EXPECTED}", kind(&other)));
                Vec::new()
            }
            Err(error) => {
                let at = format!("line {}, column {}", error.line(), error.column());
                problems.add(name, format!("is not JSON ({at}); expected a list of {EXPECTED}"));
                Vec::new()
            }
        };
        Self { servers, namespace }
    }
}

const EXPECTED: &str = "{\"address\", \"token\"[, \"ca_cert_base64\"][, \"skip_verify\"]} or {\"from_secret_store\", …}";

impl VaultServer {
    /// Reads a server from the text of a secret that an entry names. The failure repeats nothing of it.
    pub fn from_secret(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|_| "is not JSON; expected {\"address\", \"token\", …}".to_owned())?;
        let problems = Problems::default();
        let server = Fields::new(&lower(&value), "", &problems).and_then(|fields| server(fields));
        match (server, problems.into_vec()) {
            (Some(server), none) if none.is_empty() => Ok(server),
            (_, problems) => Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// Keys are taken in either case.
fn lower(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.to_ascii_lowercase(), value.clone())).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn entry(value: &Value, path: &str, problems: &Problems) -> Option<VaultEntry> {
    let value = lower(value);
    let fields = Fields::new(&value, path, problems)?;
    if fields.has("from_secret_store") { from(&fields).map(VaultEntry::From) } else { server(fields).map(VaultEntry::Server) }
}

/// The stores' names and keys are those of the contract, which are not the ones of an integration's `secret`.
fn from(fields: &Fields<'_>) -> Option<StoreRef> {
    let store = read::parsed(fields, "from_secret_store", |name| match name.to_ascii_uppercase().as_str() {
        "AWS" => Ok(("aws", [("region", "region"), ("secret_id", "secret_id")])),
        "GCP" => Ok(("gcp", [("project", "project"), ("secret_id", "secret_id")])),
        "AZURE" => Ok(("azure", [("azure_key_vault_url", "vault_url"), ("name", "name")])),
        "KUBERNETES" => Ok(("kubernetes", [("namespace", "namespace"), ("name", "name")])),
        _ => Err("is no store that a server can be read from; expected AWS, GCP, AZURE or KUBERNETES".to_owned()),
    });
    let (name, keys) = store?;
    let mut place = Map::new();
    for (written, meant) in keys {
        let text: String = fields.required_text(written)?;
        place.insert(meant.to_owned(), text.into());
    }
    for key in fields.keys().filter(|key| *key != "from_secret_store" && keys.iter().all(|(written, _)| written != key)) {
        fields.problem(key, "unknown field beside from_secret_store");
    }
    Fields::new(&Value::Object(place), fields.path(""), fields.problems()).and_then(|place| StoreRef::read(name, place))
}

fn server(fields: Fields<'_>) -> Option<VaultServer> {
    fields.required("address");
    fields.required("token");
    let address = read::parsed(&fields, "address", address);
    let token = read::parsed(&fields, "token", |token| {
        if token.is_empty() || !is_header(token) {
            return Err("is empty, or no token: it has white space or characters beyond ASCII".to_owned());
        }
        Ok(SecretString::from(token.to_owned()))
    });
    let issuers = read::parsed(&fields, "ca_cert_base64", issuers);
    let skip_verify = skip_verify(&fields);
    if address.as_ref().is_some_and(|address| address.starts_with("http://")) {
        for (key, is_set) in [("skip_verify", skip_verify), ("ca_cert_base64", fields.has("ca_cert_base64"))] {
            if is_set {
                fields.problem(key, "goes with https; without TLS there is nothing to verify: change the address, or leave it out");
            }
        }
    }
    fields.finish();
    Some(VaultServer { address: address?, token: token?, issuers: issuers.unwrap_or_default(), skip_verify })
}

fn skip_verify(fields: &Fields<'_>) -> bool {
    match fields.value("skip_verify") {
        None => false,
        Some(Value::Bool(skip)) => *skip,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") || text.is_empty() => false,
        Some(_) => {
            fields.problem("skip_verify", "expected \"true\" or \"false\"");
            false
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected https://host:8200, without user, query or fragment";
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '?' | '#' | '"' | '\\');
    match host {
        Some(host) if !host.is_empty() && !host.starts_with([':', '/']) && host.chars().all(legal) => Ok(text.to_owned()),
        _ => Err(format!("is no address of a server; {EXPECTED}")),
    }
}

/// Base64 of PEM, with one certificate or more.
fn issuers(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let pem = STANDARD.decode(compact).map_err(|_| "is not base64; expected a PEM file in base64".to_owned())?;
    let issuers: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match issuers {
        Ok(issuers) if !issuers.is_empty() => Ok(issuers),
        _ => Err("holds no certificate; expected a PEM file in base64".to_owned()),
    }
}

fn is_header(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> (VaultConfig, String) {
        let problems = Problems::default();
        let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let config = VaultConfig::read(&env, &problems);
        (config, problems.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    const PEM: &str = include_str!("../postgres/tls/verify/fixtures/issuer.pem");

    #[test]
    fn both_spellings_and_all_kinds_of_entries_are_read() {
        let list = format!(
            r#"[{{"address":"https://a:8200/","token":"t","ca_cert_base64":"{}","skip_verify":"false"}},
                {{"ADDRESS":"https://b","TOKEN":"t","SKIP_VERIFY":"true"}},
                {{"from_secret_store":"AWS","region":"r","secret_id":"s"}},
                {{"FROM_SECRET_STORE":"GCP","PROJECT":"p","SECRET_ID":"s"}},
                {{"from_secret_store":"AZURE","AZURE_KEY_VAULT_URL":"https://kv","name":"n"}},
                {{"from_secret_store":"KUBERNETES","NAMESPACE":"ns","name":"n"}}]"#,
            STANDARD.encode(PEM)
        );
        let (config, problems) = config(&[(INLINE, &list), (NAMESPACE, "team/")]);
        assert_eq!(problems, "");
        assert_eq!(config.namespace.as_deref(), Some("team"));
        let [VaultEntry::Server(a), VaultEntry::Server(b), aws, gcp, azure, kubernetes] = config.servers.as_slice() else {
            panic!("{config:?}")
        };
        assert_eq!((a.address.as_str(), a.issuers.len(), a.skip_verify), ("https://a:8200", 1, false));
        assert_eq!((b.address.as_str(), b.issuers.len(), b.skip_verify), ("https://b", 0, true));
        for (entry, expected) in [(aws, "aws:r/s"), (gcp, "gcp:p/s"), (azure, "azure:https://kv/n"), (kubernetes, "kubernetes:ns/n")] {
            assert!(matches!(entry, VaultEntry::From(place) if place.to_string() == expected), "{entry:?}");
        }
    }

    #[test]
    fn mistakes_are_named_by_their_path_and_nothing_of_the_list_is_shown() {
        for (list, expected) in [
            ("hunter2", "HASHICORP_VAULT_CONFIG: is not JSON (line 1, column 1)"),
            (r#"{"address":"https://hunter2"}"#, "HASHICORP_VAULT_CONFIG: is an object; expected a JSON list"),
            (r#"["hunter2"]"#, "HASHICORP_VAULT_CONFIG[0]: expected an object"),
            (r#"[{"address":"https://a"}]"#, "HASHICORP_VAULT_CONFIG[0].token: is missing"),
            (r#"[{"token":"hunter2"}]"#, "HASHICORP_VAULT_CONFIG[0].address: is missing"),
            (r#"[{"address":"hunter2","token":"t"}]"#, "[0].address: is no address"),
            (r#"[{"address":"https://u:hunter2@a","token":"t"}]"#, "[0].address: is no address"),
            (r#"[{"address":"https://a","token":"hunter2 "}]"#, "[0].token: is empty, or no token"),
            (r#"[{"address":"http://a","token":"t","skip_verify":"true"}]"#, "[0].skip_verify: goes with https"),
            (r#"[{"address":"http://a","token":"t","ca_cert_base64":""}]"#, "[0].ca_cert_base64: goes with https"),
            (r#"[{"address":"https://a","token":"t","ca_cert_base64":"hunter2!"}]"#, "[0].ca_cert_base64: is not base64"),
            (r#"[{"address":"https://a","token":"t","ca_cert_base64":"aHVudGVyMg=="}]"#, "[0].ca_cert_base64: holds no certificate"),
            (r#"[{"address":"https://a","token":"t","skip_verify":"hunter2"}]"#, "[0].skip_verify: expected"),
            (r#"[{"address":"https://a","token":"t","tokn":"hunter2"}]"#, "[0].tokn: unknown field"),
            (r#"[{"from_secret_store":"hunter2"}]"#, "[0].from_secret_store: is no store"),
            (r#"[{"from_secret_store":"AWS","region":"hunter2"}]"#, "[0].secret_id: is missing"),
            (r#"[{"from_secret_store":"AWS","region":"r","secret_id":"s","token":"hunter2"}]"#, "[0].token: unknown field"),
        ] {
            let (config, problems) = config(&[(INLINE, list)]);
            assert!(problems.contains(expected), "{list}: {problems}");
            assert!(!problems.contains("hunter2") && !format!("{config:?}").contains("hunter2"), "{problems} {config:?}");
        }
        let (_, problems) = config(&[(INLINE, "[]"), (FILE, "/nonexistent")]);
        assert!(problems.contains("set one of them"), "{problems}");
        let (_, problems) = config(&[(FILE, "/nonexistent")]);
        assert!(problems.starts_with("HASHICORP_VAULT_CONFIG_FILE_PATH: /nonexistent: cannot be read"), "{problems}");
    }

    #[test]
    fn a_server_read_from_a_secret_is_checked_the_same() {
        let server = VaultServer::from_secret(r#"{"ADDRESS":"https://a","TOKEN":"hunter2"}"#).unwrap();
        assert!(server.address == "https://a" && !format!("{server:?}").contains("hunter2"));
        for text in ["hunter2", r#"{"address":"https://a"}"#, r#"{"address":"http://a","token":"hunter2","skip_verify":true}"#] {
            assert!(!VaultServer::from_secret(text).unwrap_err().contains("hunter2"));
        }
    }
}
