//! Access levels and what they are given on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fields::{Fields, FromText, Problems};
use crate::names::Identifier;

/// How much may be done, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read rows.
    ReadOnly,
    /// Read and change rows, call functions.
    ReadWrite,
    /// All privileges on the objects in scope.
    Admin,
}

impl Access {
    /// All levels, from least to most.
    pub const ALL: [Self; 3] = [Self::ReadOnly, Self::ReadWrite, Self::Admin];

    /// The contract's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::ReadWrite => "read_write",
            Self::Admin => "admin",
        }
    }
}

impl FromText for Access {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not an access level; expected read_only, read_write or admin"))
    }
}

/// One entry of a grant's `permissions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Permission {
    /// An access level on objects of a database.
    Objects(Scope),
    /// Membership in an existing role.
    Role(RoleMembership),
}

/// A database, one of its schemas, or tables of a schema, and the level given there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("if" = { "required": ["tables"] }, "then" = { "required": ["schema"] }))]
pub struct Scope {
    /// Name of the database.
    pub database: Identifier,
    /// Name of a schema; absent: every schema but the system's and Postern's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Identifier>,
    /// Names of tables, views, materialised views, foreign or partitioned tables of the schema; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub tables: Option<Vec<Identifier>>,
    /// The level.
    pub access: Access,
}

/// Membership in an existing role that policy lists and the connector may hand on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleMembership {
    /// Name of the role.
    pub role: Identifier,
}

impl Permission {
    /// Reads one entry that stands at `path`.
    pub(crate) fn read(value: &Value, path: String, problems: &Problems) -> Option<Self> {
        let fields = Fields::new(value, path, problems)?;
        let permission = if fields.has("role") {
            let role = fields.required_text("role");
            role.map(|role| Self::Role(RoleMembership { role }))
        } else {
            let database = fields.required_text("database");
            let schema = fields.text("schema");
            let tables = fields.texts::<Identifier>("tables");
            let access = fields.required_text("access");
            if fields.has("tables") && !fields.has("schema") {
                fields.problem("schema", "is missing; tables are named within a schema");
            }
            if tables.as_ref().is_some_and(Vec::is_empty) && fields.value("tables").and_then(Value::as_array).is_some_and(Vec::is_empty) {
                fields.problem("tables", "is an empty list; name a table, or leave the field out for all of them");
            }
            database.zip(access).map(|(database, access)| Self::Objects(Scope { database, schema, tables, access }))
        };
        fields.finish();
        permission
    }
}
