//! `role_name`: how a person's role is called.

use postern_schemas::id::sha256_hex;
use postern_schemas::names::MAX_IDENTIFIER_BYTES;
use postern_schemas::{Identifier, Principal};

const PLACEHOLDER: &str = "{principal}";
/// `~` and ten hexadecimal digits.
const SUFFIX_BYTES: usize = 11;

/// A template with `{principal}` in it; `{principal}` alone by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleTemplate {
    before: String,
    after: String,
}

impl RoleTemplate {
    /// Checks `text`; the error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a text with {PLACEHOLDER} once in it, such as jit_{PLACEHOLDER}");
        let Some((before, after)) = text.split_once(PLACEHOLDER) else {
            return Err(format!("{text:?} gives everybody the same role; {}", expected()));
        };
        if before.contains(['{', '}']) || after.contains(['{', '}']) {
            return Err(format!("{text:?} contains another {{ or }}; {}", expected()));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("contains a control character; {}", expected()));
        }
        // At least a part of the principal has to stay readable when a name is shortened.
        if before.len() + after.len() > 40 {
            return Err(format!("adds {} bytes to a name; expected at most 40 of {MAX_IDENTIFIER_BYTES}", before.len() + after.len()));
        }
        for reserved in ["pg_", "postern_"] {
            if before.starts_with(reserved) {
                return Err(format!("{text:?} begins with {reserved}, which PostgreSQL or Postern keeps for itself; {}", expected()));
            }
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// The name of a person's role: always the same for one person, at most 63 bytes, different for different people.
    ///
    /// A longer one is cut at a character's boundary and gets a suffix: `~` and the first ten hexadecimal digits of the
    /// SHA-256 of the full name. A name that only looks as if it had been cut is treated the same way, so nobody can
    /// be called what somebody else's name is shortened to.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "principals are not empty, neither they nor templates hold NUL, and the length is cut here"
    )]
    pub fn role_name(&self, principal: &Principal) -> Identifier {
        let full = format!("{}{principal}{}", self.before, self.after);
        if !looks_shortened(&full)
            && let Ok(name) = Identifier::new(&full)
        {
            return name;
        }
        let mut end = full.len().min(MAX_IDENTIFIER_BYTES - SUFFIX_BYTES);
        while !full.is_char_boundary(end) {
            end -= 1;
        }
        let hex = sha256_hex(full.as_bytes());
        let short = format!("{}~{}", &full[..end], &hex[..SUFFIX_BYTES - 1]);
        Identifier::new(&short).expect("a shortened name is an identifier")
    }
}

fn looks_shortened(name: &str) -> bool {
    name.rsplit_once('~')
        .is_some_and(|(_, hex)| hex.len() == SUFFIX_BYTES - 1 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(template: &str, principal: &str) -> String {
        RoleTemplate::parse(template).unwrap().role_name(&Principal::new(principal).unwrap()).to_string()
    }

    #[test]
    fn a_short_name_is_the_template_filled_in() {
        assert_eq!(name("{principal}", "Jane.Doe@example.com"), "jane.doe@example.com");
        assert_eq!(name("jit_{principal}_x", "jane"), "jit_jane_x");
        assert_eq!(name("{principal}", &"a".repeat(63)), "a".repeat(63));
    }

    #[test]
    fn a_long_name_is_cut_and_stays_one_persons() {
        // Computed with: printf 'a%.0s' $(seq 64) | sha256sum
        assert_eq!(name("{principal}", &"a".repeat(64)), format!("{}~ffe054fe7a", "a".repeat(52)));
        let (one, other) = (name("{principal}", &format!("{}1", "a".repeat(70))), name("{principal}", &format!("{}2", "a".repeat(70))));
        assert_ne!(one, other);
        assert_eq!((one.len(), other.len()), (63, 63));
    }

    #[test]
    fn the_cut_is_at_a_characters_boundary() {
        let name = name("x{principal}", &"\u{e9}".repeat(40));
        assert_eq!(name.split_once('~').map(|(kept, _)| kept), Some(format!("x{}", "\u{e9}".repeat(25)).as_str()));
        assert!(name.len() <= 63);
    }

    #[test]
    fn nobody_can_take_the_name_that_anothers_is_shortened_to() {
        let taken = name("{principal}", &"a".repeat(64));
        assert_ne!(name("{principal}", &taken), taken);
    }

    #[test]
    fn templates_are_checked() {
        for bad in [
            "",
            "jit",
            "{user}",
            "{principal}{principal}",
            "pg_{principal}",
            "postern_{principal}",
            "{principal}\0",
            &format!("{{principal}}{}", "x".repeat(41)),
        ] {
            assert!(RoleTemplate::parse(bad).is_err(), "{bad:?}");
        }
    }
}
