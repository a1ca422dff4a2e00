//! Rows as the types of `access::state`. The ledger holds only what was validated before, so a value that does not
//! parse was written by a newer version or by hand; it is reported, not skipped.

use std::collections::BTreeMap;

use jiff::Timestamp;
use postern_schemas::fields::FromText;
use postern_schemas::permission::{Access, Permission};
use postern_schemas::{Identifier, Principal};
use tokio_postgres::Row;

use crate::access::state::{
    Account, Bundle, BundleKey, Database, Ending, GrantKey, GrantRow, Member, Membership, Oid, Role, RoleFacts, RoleLink,
};
use crate::postgres::TargetError;

/// Parses a stored text.
pub fn parsed<T: FromText>(text: &str, what: &str) -> Result<T, TargetError> {
    T::from_text(text).map_err(|message| TargetError::Unreadable(format!("{what} {text:?}: {message}")))
}

fn optional<T: FromText>(text: &str, what: &str) -> Result<Option<T>, TargetError> {
    if text.is_empty() { Ok(None) } else { parsed(text, what).map(Some) }
}

/// Columns: `role_name, role_oid, generation, password_set_at, password_asked_at, rotation_due, iam, login_asked_at`.
pub fn account(row: &Row) -> Account {
    Account {
        role_name: row.get("role_name"),
        role_oid: row.get("role_oid"),
        generation: row.get("generation"),
        password_set_at: row.get("password_set_at"),
        password_asked_at: row.get("password_asked_at"),
        rotation_due: row.get("rotation_due"),
        iam: row.get("iam"),
        login_asked_at: row.get("login_asked_at"),
    }
}

/// Columns: `oid, name, comment, sealed, can_login, valid_until, connection_limit, alterable, added, stuck`.
pub fn role(row: &Row) -> Role {
    Role {
        oid: row.get("oid"),
        name: row.get("name"),
        comment: row.get("comment"),
        sealed: row.get("sealed"),
        can_login: row.get("can_login"),
        valid_until: row.get("valid_until"),
        alterable: row.get("alterable"),
        added: row.get("added"),
        stuck: row.get("stuck"),
        connection_limit: row.get("connection_limit"),
    }
}

/// Columns: `role, grantor, revocable`.
pub fn membership(row: &Row) -> Membership {
    Membership { role: row.get("role"), grantor: row.get("grantor"), revocable: row.get("revocable") }
}

/// Columns: `oid, name, grantor, revocable`.
pub fn member(row: &Row) -> Member {
    Member { oid: row.get("oid"), name: row.get("name"), grantor: row.get("grantor"), revocable: row.get("revocable") }
}

/// Columns: `principal, revision, ending`.
pub fn grant_key(row: &Row) -> Result<GrantKey, TargetError> {
    let principal: Option<String> = row.get("principal");
    let ending: Option<String> = row.get("ending");
    Ok(GrantKey {
        principal: principal.map(|p| parsed::<Principal>(&p, "principal")).transpose()?,
        revision: row.get("revision"),
        ending: ending.and_then(|e| Ending::parse(&e)),
    })
}

/// Columns: `integration, grant_id, revision, permissions, bundles, expires_at, asked_at`.
pub fn grant(row: &Row) -> Result<GrantRow, TargetError> {
    let permissions: serde_json::Value = row.get("permissions");
    let permissions: Vec<Permission> =
        serde_json::from_value(permissions).map_err(|e| TargetError::Unreadable(format!("permissions: {e}")))?;
    Ok(GrantRow {
        integration: parsed(row.get("integration"), "integration")?,
        grant_id: parsed(row.get("grant_id"), "grant_id")?,
        revision: row.get("revision"),
        permissions,
        bundles: row.get("bundles"),
        expires_at: row.get("expires_at"),
        asked_at: row.get("asked_at"),
    })
}

/// Columns: `id, database_oid, database_name, schema_name, table_name, access, role_name, usable, mark, warnings`.
/// `is_fresh` compares the stored mark of a database with what it is now.
pub fn bundle(row: &Row, is_fresh: impl Fn(Oid, i64) -> bool) -> Result<Bundle, TargetError> {
    let database: Oid = row.get("database_oid");
    let warnings: serde_json::Value = row.get("warnings");
    Ok(Bundle {
        id: row.get("id"),
        key: key(row)?,
        role: row.get("role_name"),
        usable: row.get("usable"),
        fresh: is_fresh(database, row.get("mark")),
        warnings: serde_json::from_value(warnings).unwrap_or_default(),
    })
}

/// Columns: `database_oid, database_name, schema_name, table_name, access`.
pub fn key(row: &Row) -> Result<BundleKey, TargetError> {
    let name: Option<&str> = row.get("database_name");
    Ok(BundleKey {
        database: row.get("database_oid"),
        database_name: parsed(name.unwrap_or(BundleKey::gone()), "database")?,
        schema: optional(row.get("schema_name"), "schema")?,
        table: optional(row.get("table_name"), "table")?,
        access: parsed::<Access>(row.get("access"), "access")?,
    })
}

/// Columns: `name, oid, closed`.
pub fn database(row: &Row) -> Result<(Identifier, Database), TargetError> {
    let name = parsed(row.get("name"), "database")?;
    Ok((name, Database { oid: row.get("oid"), closed: row.get("closed"), missing: Vec::new() }))
}

/// Columns: `root, can_hand_on, pass, name, superuser, createrole, replication, bypassrls, ours`; one row a link.
pub fn roles(rows: &[Row]) -> Result<BTreeMap<Identifier, RoleFacts>, TargetError> {
    let mut facts: BTreeMap<Identifier, RoleFacts> = BTreeMap::new();
    for row in rows {
        let entry = facts.entry(parsed(row.get("root"), "role")?).or_insert_with(|| RoleFacts {
            chain: Vec::new(),
            can_hand_on: row.get("can_hand_on"),
            pass: row.get("pass"),
        });
        entry.chain.push(RoleLink {
            name: row.get("name"),
            superuser: row.get("superuser"),
            createrole: row.get("createrole"),
            replication: row.get("replication"),
            bypassrls: row.get("bypassrls"),
            ours: row.get("ours"),
        });
    }
    Ok(facts)
}

/// A moment as the ledger stores it.
pub fn moment(row: &Row, column: &str) -> Option<Timestamp> {
    row.get(column)
}
