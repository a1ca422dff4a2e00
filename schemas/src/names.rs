//! Names that can only hold legal values.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::fields::FromText;

/// The longest name PostgreSQL keeps, in bytes (`NAMEDATALEN - 1`; PostgreSQL docs, "Identifiers and Key Words").
/// A longer one is truncated by the server with only a notice, so two long names would collide.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $schema:meta, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String")]
        pub struct $name(#[$schema] String);

        impl $name {
            /// Checks `text` and makes the name; the error says what was expected.
            pub fn new(text: &str) -> Result<Self, String> {
                let check: fn(&str) -> Result<String, String> = $check;
                check(text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                Self::new(&text)
            }
        }

        impl FromText for $name {
            fn from_text(text: &str) -> Result<Self, String> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// The id of a configured integration: `[a-z0-9-]{1,63}`.
    IntegrationId,
    schemars(regex(pattern = r"^[a-z0-9-]{1,63}$")),
    |text| {
        let legal = (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if legal { Ok(text.to_owned()) } else { Err(format!("{text:?} is not an integration id; expected 1 to 63 of a-z, 0-9 and -")) }
    }
);

name!(
    /// A PostgreSQL identifier as the server keeps it: 1 to 63 bytes, no NUL. Case is kept; nothing is folded.
    Identifier,
    schemars(regex(pattern = r"^[^\x00]{1,63}$"), extend("$comment" = "at most 63 bytes of UTF-8")),
    |text| {
        if text.is_empty() {
            return Err("is empty; expected a name".to_owned());
        }
        if text.contains('\0') {
            return Err("contains a NUL character, which no PostgreSQL name can".to_owned());
        }
        if text.len() > MAX_IDENTIFIER_BYTES {
            return Err(format!("is {} bytes long; PostgreSQL keeps at most {MAX_IDENTIFIER_BYTES}", text.len()));
        }
        Ok(text.to_owned())
    }
);

name!(
    /// The producer's name of one grant: 1 to 200 bytes without control characters.
    GrantId,
    schemars(regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,200}$"), extend("$comment" = "at most 200 bytes of UTF-8")),
    |text| plain(text, "grant id")
);

name!(
    /// A CloudEvents `id` or `source`: 1 to 200 bytes without control characters.
    Attribute,
    schemars(regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,200}$"), extend("$comment" = "at most 200 bytes of UTF-8")),
    |text| plain(text, "CloudEvents attribute")
);

name!(
    /// A person, after Unicode NFC and ASCII lower-casing: two spellings of one person are one principal.
    ///
    /// 1 to 200 bytes, no control characters, no white space at either end (it would make two accounts that
    /// look the same to a reader).
    Principal,
    schemars(
        regex(pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]{0,198}[^\s\x00-\x1f\x7f-\x9f])?$"),
        extend("$comment" = "at most 200 bytes of UTF-8 after NFC")
    ),
    |text| {
        let normal: String = text.nfc().collect::<String>().to_ascii_lowercase();
        if normal.trim() != normal {
            return Err("begins or ends with white space".to_owned());
        }
        plain(&normal, "principal")
    }
);

fn plain(text: &str, what: &str) -> Result<String, String> {
    if text.is_empty() {
        Err(format!("is empty; expected a {what}"))
    } else if text.len() > 200 {
        Err(format!("is {} bytes long; a {what} has at most 200", text.len()))
    } else if text.chars().any(char::is_control) {
        Err(format!("contains a control character; a {what} has none"))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_one_person_in_every_spelling() {
        let composed = Principal::new("Jos\u{e9}@Example.com");
        let decomposed = Principal::new("jose\u{301}@example.COM");
        assert_eq!(composed, decomposed);
        assert_eq!(composed.map(|p| p.to_string()), Ok("jos\u{e9}@example.com".to_owned()));
    }

    #[test]
    fn identifiers_are_measured_in_bytes() {
        assert!(Identifier::new(&"a".repeat(63)).is_ok());
        assert!(Identifier::new(&"\u{e9}".repeat(32)).is_err());
        assert!(Identifier::new("a\0b").is_err());
        assert!(Identifier::new("").is_err());
    }

    #[test]
    fn integration_ids_are_lower_case() {
        assert!(IntegrationId::new("orders-prod").is_ok());
        for bad in ["", "Orders", "a_b", &"a".repeat(64), "é"] {
            assert!(IntegrationId::new(bad).is_err(), "{bad}");
        }
    }
}
