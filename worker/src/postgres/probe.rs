//! What a grant has to know of the databases it names: do its schemas and tables exist, and was anything made since
//! the bundles were last compared. Asked before any lock is taken.

use std::collections::BTreeMap;

use postern_schemas::Identifier;
use postern_schemas::permission::{Permission, Scope};
use serde_json::json;
use tokio_postgres::types::Type;

use crate::access::grant::{missing_schema, missing_table};
use crate::access::state::{BundleKey, Database, Oid, scopes_of};
use crate::postgres::batch::{self, Statement};
use crate::postgres::{Target, TargetError};

/// The newest lasting object of a database and who asks, as a cheap mark: it moves when something is made, and when another
/// account takes the connector's place (with the old one may have gone what it had granted). Object identifiers wrap
/// around after four billion; what is missed then is found by the next clean-up, which compares everything.
pub const MARK: &str = "(SELECT max(newest)::int8 + ((SELECT oid FROM pg_roles WHERE rolname = session_user)::int8 << 32) FROM ( \
       SELECT (SELECT oid FROM pg_class WHERE relpersistence <> 't' ORDER BY oid DESC LIMIT 1) AS newest \
       UNION ALL SELECT (SELECT oid FROM pg_proc ORDER BY oid DESC LIMIT 1) \
       UNION ALL SELECT (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_' ORDER BY oid DESC LIMIT 1)) AS newest)";

/// One database as it was found.
#[derive(Clone, Debug)]
struct Probed {
    oid: Oid,
    mark: i64,
    missing: Vec<String>,
}

/// The databases of one grant as they were found.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    databases: BTreeMap<Identifier, Probed>,
    ensured: Vec<BundleKey>,
}

impl Probes {
    /// Asks every database that `permissions` name. One that does not exist is left out: the observation finds that.
    pub async fn ask(target: &Target, permissions: &[Permission]) -> Result<Self, TargetError> {
        let mut by_database: BTreeMap<&Identifier, Vec<&Scope>> = BTreeMap::new();
        for scope in scopes_of(permissions) {
            by_database.entry(&scope.database).or_default().push(scope);
        }
        let mut databases = BTreeMap::new();
        for (name, scopes) in by_database {
            match ask_one(target, name, &scopes).await {
                Ok(probed) => {
                    databases.insert(name.clone(), probed);
                }
                Err(TargetError::Connect(error)) if !error.is_unreachable() && !error.is_authentication() => {
                    tracing::debug!(database = %name, %error, "the database cannot be probed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { databases, ensured: Vec::new() })
    }

    /// Whether nothing was made in the database since `mark` was taken.
    pub fn is_fresh(&self, database: Oid, mark: i64) -> bool {
        self.databases.values().any(|probed| probed.oid == database && probed.mark == mark)
    }

    /// Adds what was found missing to the databases that were observed.
    pub fn fill(&self, databases: &mut BTreeMap<Identifier, Database>) {
        for (name, database) in databases {
            if let Some(probed) = self.databases.get(name) {
                database.missing.clone_from(&probed.missing);
            }
        }
    }

    /// Notes that bundles were just compared: they count as fresh whatever has been made in the meantime, or a busy
    /// database would never get a grant through.
    pub fn note_ensured(&mut self, keys: &[BundleKey]) {
        self.ensured.extend_from_slice(keys);
    }

    /// Whether a bundle was compared for this very event.
    pub fn was_ensured(&self, key: &BundleKey) -> bool {
        self.ensured.contains(key)
    }
}

async fn ask_one(target: &Target, name: &Identifier, scopes: &[&Scope]) -> Result<Probed, TargetError> {
    let session = target.session(name).await?;
    let named: serde_json::Value = scopes
        .iter()
        .filter_map(|scope| scope.schema.as_ref().map(|schema| (schema, &scope.tables)))
        .flat_map(|(schema, tables)| {
            let all = tables.iter().flatten().map(move |table| json!({ "s": schema, "t": table }));
            std::iter::once(json!({ "s": schema })).chain(all).collect::<Vec<_>>()
        })
        .collect();
    let mark = Statement::query(
        "probing the database",
        format!("SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) AS oid, {MARK} AS mark"),
    );
    let missing = Statement::query(
        "looking for schemas and tables",
        "SELECT DISTINCT x.s, x.t, n.oid IS NULL AS no_schema FROM pg_catalog.jsonb_to_recordset($1) AS x (s text, t text) \
         LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = x.s \
         WHERE n.oid IS NULL OR x.t IS NOT NULL AND NOT EXISTS ( \
           SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = x.t AND c.relkind IN ('r', 'v', 'm', 'f', 'p'))",
    )
    .bind(named, Type::JSONB);
    let answers = batch::alone(session.client(), vec![mark, missing]).await?;
    let row = answers.first().and_then(|rows| rows.first()).ok_or_else(|| TargetError::Unreadable("no mark".to_owned()))?;
    let missing = answers.get(1).map(Vec::as_slice).unwrap_or_default().iter().map(|row| {
        let schema: &str = row.get("s");
        match row.get::<_, Option<&str>>("t") {
            Some(table) if !row.get::<_, bool>("no_schema") => missing_table(schema, table),
            _ => missing_schema(schema),
        }
    });
    Ok(Probed { oid: row.get("oid"), mark: row.get("mark"), missing: missing.collect() })
}
