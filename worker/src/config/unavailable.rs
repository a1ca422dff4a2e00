//! What the contract describes and this version refuses. Nothing pretends: an operator who asks for one of these is told
//! at start. When one becomes available, its lines here go; readers and types know it already.

use postern_schemas::fields::Fields;
use serde_json::Value;

/// Stores that this version does not read.
const UNREAD: [&str; 3] = ["azure", "gcp", "kubernetes"];

/// Reports every key of an integration that this version cannot honour. `fields` has been read by its owner.
pub(super) fn report(fields: &Fields<'_>, integration: &Value) {
    let refuse =
        |name: &str, what: &str, instead: &str| fields.problem(name, format!("{what} is not available in this version; {instead}"));

    if let Some(Value::Object(secret)) = integration.get("secret")
        && let Some(store) = secret.keys().find(|store| UNREAD.contains(&store.as_str()))
    {
        refuse(&format!("secret.{store}"), "reading this secret store", "use secret = { local = { username, password_file } }");
    }
    if fields.has("connector_rotation_days") {
        refuse("connector_rotation_days", "rotating the connector's credential", "leave it out and rotate it where the secret is kept");
    }
}
