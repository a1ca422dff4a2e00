//! What a bundle should hold in its database, compared with what it holds, object by object.
//!
//! Nothing is granted with `ON ALL TABLES`: where one object belongs to somebody else that fails whole on some
//! servers and is only a warning on others (measured on 15 and 17).

use std::collections::BTreeMap;

use postern_schemas::permission::Access;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::access::state::{BundleKey, Oid};
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::ledger::Ledger;
use crate::postgres::names::ident;

/// How many objects one GRANT names at most.
const OBJECTS_A_STATEMENT: usize = 500;

/// What keeps a bundle from being exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What is more than it should be: taken back where the connector can, and reported in any case.
    pub taken: Vec<String>,
    /// What the connector may not give, and has no other way to the bundle.
    pub withheld: Vec<String>,
    /// Whether nothing at all can be reached: no CONNECT, or the named table is withheld.
    pub unusable: bool,
}

/// Privileges by level (CONTRACT, "grant"; PostgreSQL docs, "Privileges").
pub(super) struct Level {
    pub(super) database: &'static [&'static str],
    pub(super) schema: &'static [&'static str],
    pub(super) relation: &'static [&'static str],
    pub(super) sequence: &'static [&'static str],
    pub(super) routine: &'static [&'static str],
}

/// What a permission is given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Database,
    Schema,
    Table,
}

impl BundleKey {
    fn extent(&self) -> Extent {
        match (&self.schema, &self.table) {
            (_, Some(_)) => Extent::Table,
            (Some(_), None) => Extent::Schema,
            (None, None) => Extent::Database,
        }
    }
}

/// The privileges of a level; `maintain`: the server knows MAINTAIN (from 17).
pub(super) fn level(access: Access, extent: Extent, maintain: bool) -> Level {
    let of_table = extent == Extent::Table;
    let of_database = extent == Extent::Database;
    match access {
        Access::ReadOnly => {
            Level { database: &["CONNECT"], schema: &["USAGE"], relation: &["SELECT"], sequence: &["SELECT"], routine: &[] }
        }
        Access::ReadWrite => Level {
            database: &["CONNECT", "TEMPORARY"],
            schema: &["USAGE"],
            relation: &["SELECT", "INSERT", "UPDATE", "DELETE"],
            sequence: &["SELECT", "USAGE", "UPDATE"],
            routine: if of_table { &[] } else { &["EXECUTE"] },
        },
        Access::Admin => Level {
            database: if of_database { &["CONNECT", "TEMPORARY", "CREATE"] } else { &["CONNECT", "TEMPORARY"] },
            schema: if of_table { &["USAGE"] } else { &["USAGE", "CREATE"] },
            relation: if maintain {
                &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"]
            } else {
                &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
            },
            sequence: &["SELECT", "USAGE", "UPDATE"],
            routine: if of_table { &[] } else { &["EXECUTE"] },
        },
    }
}

/// Parameters: role OID, role name, schema or null, table or null, then the five lists of privileges.
/// Rows: what is wanted and not held, and what is held and not wanted.
const DIFFERENCE: &str = "
WITH schemas AS (
  SELECT oid, nspname, nspacl, nspowner FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'postern') AND ($3::text IS NULL OR nspname = $3)),
relations AS (
  SELECT c.oid, c.relkind, c.relacl, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND ($4::text IS NULL OR c.relname = $4)),
sequences AS (
  SELECT c.oid, c.relacl, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND CASE WHEN $4::text IS NULL
    THEN n.oid IN (SELECT oid FROM schemas)
    ELSE EXISTS (SELECT FROM pg_depend d JOIN relations r ON r.oid = d.refobjid
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) END),
routines AS (
  SELECT p.oid, p.proacl, format('%I.%I(%s)', n.nspname, p.proname, (SELECT coalesce(string_agg(format_type(t, NULL), ', ' ORDER BY o), '') FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, o))) AS name
  FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace WHERE cardinality($9::text[]) > 0),
wanted (class, oid, name, privilege) AS (
  SELECT 'DATABASE', d.oid, format('%I', d.datname), w FROM pg_database d, unnest($5::text[]) w WHERE d.datname = current_database()
  UNION ALL SELECT 'SCHEMA', s.oid, format('%I', s.nspname), w FROM schemas s, unnest($6::text[]) w
  UNION ALL SELECT 'TABLE', r.oid, r.name, w FROM relations r, unnest($7::text[]) w
  UNION ALL SELECT 'SEQUENCE', q.oid, q.name, w FROM sequences q, unnest($8::text[]) w
  UNION ALL SELECT 'ROUTINE', f.oid, f.name, w FROM routines f, unnest($9::text[]) w),
held (class, oid, name, privilege, ours) AS (
  SELECT 'DATABASE', d.oid, format('%I', d.datname), a.privilege_type, pg_has_role(a.grantor, 'USAGE') FROM pg_database d, aclexplode(d.datacl) a
    WHERE d.datname = current_database() AND a.grantee = $1
  UNION ALL SELECT 'SCHEMA', n.oid, format('%I', n.nspname), a.privilege_type, pg_has_role(a.grantor, 'USAGE')
    FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee = $1 AND n.nspname !~ '^pg_'
  UNION ALL SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid, format('%I.%I', n.nspname, c.relname), a.privilege_type,
    pg_has_role(a.grantor, 'USAGE') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    WHERE a.grantee = $1 AND n.nspname !~ '^pg_'
  UNION ALL SELECT 'ROUTINE', p.oid, format('%I.%I(%s)', n.nspname, p.proname, (SELECT coalesce(string_agg(format_type(t, NULL), ', ' ORDER BY o), '') FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, o))), a.privilege_type,
    pg_has_role(a.grantor, 'USAGE') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(p.proacl) a
    WHERE a.grantee = $1 AND n.nspname !~ '^pg_'),
missing AS (SELECT * FROM wanted w WHERE NOT EXISTS (
  SELECT FROM held h WHERE h.class = w.class AND h.oid = w.oid AND h.privilege = w.privilege)),
extra AS (SELECT DISTINCT h.* FROM held h WHERE NOT EXISTS (
  SELECT FROM wanted w WHERE h.class = w.class AND h.oid = w.oid AND h.privilege = w.privilege))
SELECT class, name, privilege, true AS wanted,
  CASE class WHEN 'DATABASE' THEN has_database_privilege(oid, privilege || ' WITH GRANT OPTION')
             WHEN 'SCHEMA' THEN has_schema_privilege(oid, privilege || ' WITH GRANT OPTION')
             WHEN 'TABLE' THEN has_table_privilege(oid, privilege || ' WITH GRANT OPTION')
             WHEN 'SEQUENCE' THEN has_sequence_privilege(oid, privilege || ' WITH GRANT OPTION')
             ELSE has_function_privilege(oid, privilege || ' WITH GRANT OPTION') END AS grantable,
  CASE class WHEN 'DATABASE' THEN has_database_privilege($2, oid, privilege)
             WHEN 'SCHEMA' THEN has_schema_privilege($2, oid, privilege)
             WHEN 'TABLE' THEN has_table_privilege($2, oid, privilege)
             WHEN 'SEQUENCE' THEN has_sequence_privilege($2, oid, privilege)
             ELSE has_function_privilege($2, oid, privilege) END AS effective
FROM missing
UNION ALL SELECT class, name, privilege, false, coalesce(bool_or(ours), false), false FROM extra GROUP BY class, name, privilege
ORDER BY 1, 2, 3";

/// Makes the privileges of `role` in the session's database exactly what `key` stands for. Part of the caller's
/// transaction.
pub async fn make_exact(client: &Client, ledger: &Ledger, key: &BundleKey, role: &str, oid: Oid) -> Result<Difference, TargetError> {
    let mut taken = None;
    let mut missing = usize::MAX;
    loop {
        let rows = difference(client, ledger, key, role, oid).await?;
        // A GRANT by a role that has only a part of the grant options, since a moment ago or each in another role of
        // ours, gives that part and warns (01007). What the catalog says afterwards counts.
        let given = rows.iter().filter(|row| row.get("wanted") && row.get::<_, Option<bool>>("grantable") == Some(true)).count();
        let stuck = given >= missing;
        let Compared { mut difference, give, take } = judge(key, &rows, !stuck);
        difference.taken = taken.unwrap_or(difference.taken);
        if stuck || give.is_empty() && take.is_empty() {
            return Ok(difference);
        }
        let mut statements = change("taking privileges back", "REVOKE", "FROM", take, role);
        statements.extend(change("giving privileges", "GRANT", "TO", give, role));
        batch::run(client, &statements).await?;
        missing = given;
        taken = Some(difference.taken);
    }
}

/// A comparison, and the changes that follow from it.
struct Compared<'a> {
    difference: Difference,
    give: Groups<'a>,
    take: Groups<'a>,
}

/// `can_give`: whether a grant option means that a GRANT gives something.
fn judge<'a>(key: &BundleKey, rows: &'a [Row], can_give: bool) -> Compared<'a> {
    let mut difference = Difference::default();
    let mut give: Groups<'_> = BTreeMap::new();
    let mut take: Groups<'_> = BTreeMap::new();
    let mut withheld: Groups<'_> = BTreeMap::new();
    for row in rows {
        let (class, name, privilege): (&str, &str, &str) = (row.get("class"), row.get("name"), row.get("privilege"));
        // Null: the object was dropped since the statement began (PostgreSQL docs, "Access Privilege Inquiry Functions").
        let answers: (Option<bool>, Option<bool>) = (row.get("grantable"), row.get("effective"));
        let (Some(grantable), Some(effective)) = answers else { continue };
        let wanted: bool = row.get("wanted");
        if !wanted {
            // What somebody gave who is not of ours only they can take back: it is said, and left.
            if grantable {
                take.entry((class, name)).or_default().push(privilege);
            }
            difference.taken.push(format!("{privilege} ON {class} {name}"));
        } else if grantable && can_give {
            give.entry((class, name)).or_default().push(privilege);
        } else if !effective {
            withheld.entry((class, name)).or_default().push(privilege);
        }
    }
    for ((class, name), privileges) in withheld {
        difference.unusable |= class == "DATABASE" && privileges.contains(&"CONNECT") || key.table.is_some() && class != "SEQUENCE";
        difference.withheld.push(format!(
            "{} on {} {name}: the connector has no grant option",
            privileges.join(", "),
            class.to_lowercase()
        ));
    }
    Compared { difference, give, take }
}

async fn difference(client: &Client, ledger: &Ledger, key: &BundleKey, role: &str, oid: Oid) -> Result<Vec<Row>, TargetError> {
    let level = level(key.access, key.extent(), ledger.has_maintain());
    let list = |privileges: &[&str]| privileges.iter().map(|p| (*p).to_owned()).collect::<Vec<String>>();
    let statement = Statement::query("comparing privileges", DIFFERENCE)
        .bind(oid, Type::OID)
        .bind(role.to_owned(), Type::NAME)
        .bind(key.schema.as_ref().map(ToString::to_string), Type::TEXT)
        .bind(key.table.as_ref().map(ToString::to_string), Type::TEXT)
        .bind(list(level.database), Type::TEXT_ARRAY)
        .bind(list(level.schema), Type::TEXT_ARRAY)
        .bind(list(level.relation), Type::TEXT_ARRAY)
        .bind(list(level.sequence), Type::TEXT_ARRAY)
        .bind(list(level.routine), Type::TEXT_ARRAY);
    Ok(batch::run(client, &[statement]).await?.into_iter().flatten().collect())
}

/// Privileges by (class, object).
type Groups<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a str>>;

/// One statement for all objects of a class that get the same privileges.
fn change(doing: &'static str, verb: &str, direction: &str, groups: Groups<'_>, role: &str) -> Vec<Statement> {
    let mut alike: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((class, name), privileges) in groups {
        alike.entry((class, privileges)).or_default().push(name);
    }
    let statement = |class: &str, privileges: &[&str], names: &[&str]| {
        let sql = format!("{verb} {} ON {class} {} {direction} {}", privileges.join(", "), names.join(", "), ident(role));
        Statement::plain(doing, sql)
    };
    alike
        .iter()
        .flat_map(|((class, privileges), names)| names.chunks(OBJECTS_A_STATEMENT).map(move |names| statement(class, privileges, names)))
        .collect()
}
