//! `[integrations.<id>.policy]`: what events may ask of an integration.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use postern_schemas::fields::{Fields, FromText};
use postern_schemas::store::StoreRef;
use postern_schemas::{Access, Identifier};

use super::read;

/// What events may ask of an integration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest time a grant may last; a grant must then say when it ends. `None`: no limit.
    pub max_duration: Option<SignedDuration>,
    /// The levels that may be granted; by default `read_only` and `read_write`.
    pub access: BTreeSet<Access>,
    /// Existing roles whose membership may be granted; by default none.
    pub roles: BTreeSet<Identifier>,
    /// The databases that may be opened; `None`: all but templates and the platform's own.
    pub databases: Option<BTreeSet<Identifier>>,
    /// Patterns of secret places where credentials may be written, such as `hashicorp_vault:secret/jit/*`, where `*`
    /// stands for any text; compared with the display of a [`StoreRef`]. By default nowhere.
    pub deliver_to: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_duration: None,
            access: BTreeSet::from([Access::ReadOnly, Access::ReadWrite]),
            roles: BTreeSet::new(),
            databases: None,
            deliver_to: Vec::new(),
        }
    }
}

impl Policy {
    /// Reads the section.
    pub(super) fn read(fields: Fields<'_>) -> Self {
        let hours = read::number(&fields, "max_duration_hours", 1, 87_600);
        let access = fields.texts("access").map(BTreeSet::from_iter);
        let roles = fields.texts("roles").map(BTreeSet::from_iter);
        let databases = fields.texts("databases").map(BTreeSet::from_iter);
        let deliver_to = fields.texts::<Pattern>("deliver_to").map(|patterns| patterns.into_iter().map(|p| p.0).collect());
        fields.finish();
        let default = Self::default();
        Self {
            max_duration: hours.map(|hours| SignedDuration::from_hours(hours.into())),
            access: access.unwrap_or(default.access),
            roles: roles.unwrap_or_default(),
            databases,
            deliver_to: deliver_to.unwrap_or_default(),
        }
    }
}

struct Pattern(String);

impl FromText for Pattern {
    fn from_text(text: &str) -> Result<Self, String> {
        let legal = text.split_once(':').is_some_and(|(store, place)| StoreRef::NAMES.contains(&store) && !place.is_empty());
        if legal && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            let stores = StoreRef::NAMES.join(", ");
            Err(format!("{text:?} is not a place; expected store:place with a store of {stores}, such as hashicorp_vault:secret/jit/*"))
        }
    }
}
