//! The text of a connector's secret: JSON `{"username", "password"[, "pending_password"]}`, or a password alone where the
//! configuration gives the user name. The one place where it is read and written.

use postern_schemas::Identifier;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::{Credential, SecretFailure};

const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const PENDING: &str = "pending_password";

/// What a body says.
#[derive(Clone, Debug)]
pub struct Body {
    /// The current credential.
    pub current: Credential,
    /// The one that a rotation has begun to replace it with, in stores without stages.
    pub pending: Option<Credential>,
}

impl Body {
    /// Reads a body. `username` is the configuration's, if it has one; then a password alone is a body too.
    pub fn parse(text: &SecretString, username: Option<&Identifier>) -> Result<Self, SecretFailure> {
        let fields = Fields::parse(text, username)?;
        let username = fields.username(username)?;
        let credential = |password: &str| Credential { username: username.clone(), password: SecretString::from(password.to_owned()) };
        let current = credential(fields.required(PASSWORD)?);
        let pending = fields.optional(PENDING)?.map(credential);
        Ok(Self { current, pending })
    }
}

/// The body with another password and nothing pending; everything else in it stays.
pub fn with_password(text: &SecretString, username: Option<&Identifier>, password: &SecretString) -> Result<SecretString, SecretFailure> {
    let mut fields = Fields::parse(text, username)?;
    fields.set(PASSWORD, password);
    fields.remove(PENDING);
    Ok(fields.text())
}

/// The body with a pending password beside the current one.
pub fn with_pending(text: &SecretString, username: Option<&Identifier>, pending: &SecretString) -> Result<SecretString, SecretFailure> {
    let mut fields = Fields::parse(text, username)?;
    fields.set(PENDING, pending);
    Ok(fields.text())
}

/// The body with nothing pending.
pub fn without_pending(text: &SecretString, username: Option<&Identifier>) -> Result<SecretString, SecretFailure> {
    let mut fields = Fields::parse(text, username)?;
    fields.remove(PENDING);
    Ok(fields.text())
}

/// The body's object. Its texts are overwritten when it is dropped.
struct Fields(Map<String, Value>);

impl Drop for Fields {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| wipe(value));
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(map) => map.iter_mut().for_each(|(_, value)| wipe(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Fields {
    /// The parser's own message is not shown: it may quote the text.
    fn parse(text: &SecretString, username: Option<&Identifier>) -> Result<Self, SecretFailure> {
        let text = text.expose_secret();
        if text.trim().is_empty() {
            return Err(malformed("is empty", username));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => return Ok(Self(map)),
            Ok(mut other) => {
                wipe(&mut other);
                if username.is_none() {
                    return Err(malformed("is JSON, but no object", username));
                }
            }
            Err(_) if username.is_none() => return Err(malformed("is not JSON", username)),
            Err(_) => {}
        }
        // The one newline that editors and `echo` leave; anything else is the password's own.
        let password = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        let mut map = Map::new();
        if let Some(username) = username {
            map.insert(USERNAME.to_owned(), username.as_str().into());
        }
        map.insert(PASSWORD.to_owned(), password.into());
        Ok(Self(map))
    }

    fn username(&self, configured: Option<&Identifier>) -> Result<String, SecretFailure> {
        let Some(configured) = configured else { return self.required(USERNAME).map(str::to_owned) };
        match self.optional(USERNAME)? {
            Some(met) if met != configured.as_str() => Err(SecretFailure::Malformed(format!(
                "its {USERNAME} is {met:?}, but the configuration says {:?}; mend one of them",
                configured.as_str()
            ))),
            _ => Ok(configured.to_string()),
        }
    }

    fn required(&self, key: &str) -> Result<&str, SecretFailure> {
        let missing = || SecretFailure::Malformed(format!("lacks the key {key:?}; expected {EXPECTED}"));
        self.optional(key)?.ok_or_else(missing)
    }

    fn optional(&self, key: &str) -> Result<Option<&str>, SecretFailure> {
        let wrong = |what: &str| Err(SecretFailure::Malformed(format!("its {key} {what}")));
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => wrong("is empty"),
            Some(Value::String(text)) if text.contains('\0') => wrong("contains a NUL character, which PostgreSQL cannot take"),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => wrong("is no string"),
        }
    }

    fn set(&mut self, key: &str, value: &SecretString) {
        if let Some(mut old) = self.0.insert(key.to_owned(), value.expose_secret().into()) {
            wipe(&mut old);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(mut old) = self.0.remove(key) {
            wipe(&mut old);
        }
    }

    fn text(&self) -> SecretString {
        // A map of texts and values that were JSON before.
        SecretString::from(serde_json::to_string(&self.0).unwrap_or_default())
    }
}

const EXPECTED: &str = r#"JSON {"username": "…", "password": "…"}"#;

fn malformed(what: &str, username: Option<&Identifier>) -> SecretFailure {
    let or = if username.is_some() { ", or the password alone" } else { "; for a password alone give `username` beside the store" };
    SecretFailure::Malformed(format!("{what}; expected {EXPECTED}{or}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    type Parsed = Result<(String, String, Option<String>), String>;

    fn parsed(text: &str, username: Option<&str>) -> Parsed {
        let username = username.map(|name| Identifier::new(name).unwrap());
        let body = Body::parse(&secret(text), username.as_ref()).map_err(|error| error.to_string())?;
        let pending = body.pending.map(|pending| pending.password.expose_secret().to_owned());
        Ok((body.current.username, body.current.password.expose_secret().to_owned(), pending))
    }

    fn is(met: &Parsed, username: &str, password: &str, pending: Option<&str>) {
        assert_eq!(*met, Ok((username.to_owned(), password.to_owned(), pending.map(str::to_owned))));
    }

    #[test]
    fn a_body_is_an_object_or_a_password_beside_a_configured_name() {
        is(&parsed(r#"{"username":"u","password":"p"}"#, None), "u", "p", None);
        is(&parsed(r#" {"username":"u","password":"p","pending_password":"q","host":1}"#, None), "u", "p", Some("q"));
        is(&parsed("p w\n", Some("u")), "u", "p w", None);
        is(&parsed("p\r\n", Some("u")), "u", "p", None);
        is(&parsed("12345", Some("u")), "u", "12345", None);
        is(&parsed(r#"{"password":"p"}"#, Some("u")), "u", "p", None);
        is(&parsed(r#"{"username":"u","password":"p"}"#, Some("u")), "u", "p", None);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_value_is_not() {
        for (text, username, expected) in [
            ("", None, "is empty; expected JSON"),
            ("\n", Some("u"), "is empty; expected JSON"),
            ("hunter2", None, "is not JSON; expected JSON"),
            ("\"hunter2\"", None, "is JSON, but no object"),
            ("hunter2\0", Some("u"), "its password contains a NUL"),
            (r#"{"username":"u","passwort":"hunter2"}"#, None, "lacks the key \"password\""),
            (r#"{"password":"hunter2"}"#, None, "lacks the key \"username\""),
            (r#"{"username":"u","password":""}"#, None, "its password is empty"),
            (r#"{"username":"u","password":["hunter2"]}"#, None, "its password is no string"),
            (r#"{"username":"u","password":"hunter2\u0000"}"#, None, "its password contains a NUL"),
            (r#"{"username":"other","password":"hunter2"}"#, Some("u"), "its username is \"other\", but the configuration says \"u\""),
            (r#"{"username":"u","password":"hunter2","pending_password":7}"#, None, "its pending_password is no string"),
        ] {
            let met = parsed(text, username).unwrap_err();
            assert!(met.starts_with(expected) && !met.contains("hunter2"), "{text:?}: {met}");
        }
    }

    #[test]
    fn a_pending_password_comes_and_goes_and_the_rest_stays() {
        let name = Identifier::new("u").unwrap();
        let before = secret(r#"{"host":"h","password":"p","username":"u"}"#);
        let staged = with_pending(&before, None, &secret("q")).unwrap();
        assert_eq!(staged.expose_secret(), r#"{"host":"h","password":"p","pending_password":"q","username":"u"}"#);
        assert_eq!(without_pending(&staged, None).unwrap().expose_secret(), before.expose_secret());
        let promoted = with_password(&staged, None, &secret("q")).unwrap();
        assert_eq!(promoted.expose_secret(), r#"{"host":"h","password":"q","username":"u"}"#);
        let plain = with_pending(&secret("p\n"), Some(&name), &secret("q")).unwrap();
        assert_eq!(plain.expose_secret(), r#"{"password":"p","pending_password":"q","username":"u"}"#);
    }
}
