//! What a session in one database finds: objects that the connector cannot hand on, what their owners' later objects
//! will be like, and what everybody has anyway.

use std::collections::{BTreeMap, BTreeSet};

use postern_schemas::permission::Access;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::facts::{Database, Facts};
use super::item::{Item, Status};
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::error::BEGINNING;
use crate::postgres::ledger::BEGIN_READING;
use crate::postgres::names::{ident, literal};
use crate::postgres::privileges::{Extent, level};

/// Up to so many objects are named one by one; for more a loop is printed that finds them itself.
const NAMED: i32 = 20;

/// The schemas that a grant can reach, with who can grant on them: `pg_database_owner` stands for the database's owner.
const SCHEMAS: &str = "db AS (SELECT oid, datname, datdba FROM pg_database WHERE datname = current_database()), \
  schemas AS (SELECT n.oid, n.nspacl, format('%I', n.nspname) AS name, \
      CASE pg_get_userbyid(n.nspowner) WHEN 'pg_database_owner' THEN db.datdba ELSE n.nspowner END AS owner \
    FROM pg_namespace n, db WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'postern'))";

/// Objects with what policy could ask on them ($1 to $5: database, schema, relation, sequence, routine). What belongs
/// to an extension is left out: its maker says who may do what.
const OBJECTS: &str = "objects AS (SELECT o.* FROM ( \
    SELECT 'DATABASE' AS class, oid, format('%I', datname) AS name, datdba AS owner, $1::text[] AS wanted, 'pg_database'::regclass AS catalog FROM db \
    UNION ALL SELECT 'SCHEMA', oid, name, owner, $2::text[], 'pg_namespace'::regclass FROM schemas \
    UNION ALL SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid, format('%s.%I', s.name, c.relname), c.relowner, \
      CASE c.relkind WHEN 'S' THEN $4::text[] ELSE $3::text[] END, 'pg_class'::regclass \
      FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S') \
    UNION ALL SELECT 'ROUTINE', p.oid, format('%s.%I(%s)', s.name, p.proname, \
        (SELECT coalesce(string_agg(format_type(t, NULL), ', ' ORDER BY k), '') FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, k))), p.proowner, $5::text[], \
      'pg_proc'::regclass FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace) AS o \
  WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.catalog AND d.objid = o.oid AND d.deptype = 'e'))";

/// By kind and owner: what the connector may not hand on and not everybody has. What it owns itself it may.
const LACKING: &str = "SELECT o.class, pg_get_userbyid(o.owner)::text AS owner, count(DISTINCT o.oid) AS objects, \
    (array_agg(DISTINCT o.name ORDER BY o.name))[1:$6] AS names, array_agg(DISTINCT w ORDER BY w) AS privileges, \
    coalesce(starts_with(shobj_description(o.owner, 'pg_authid'), 'postern '), false) AS ours \
  FROM objects o, unnest(o.wanted) w WHERE NOT pg_has_role(session_user, o.owner, 'USAGE') AND NOT CASE o.class \
    WHEN 'DATABASE' THEN has_database_privilege(o.oid, w || ' WITH GRANT OPTION') OR has_database_privilege('public', o.oid, w) \
    WHEN 'SCHEMA' THEN has_schema_privilege(o.oid, w || ' WITH GRANT OPTION') OR has_schema_privilege('public', o.oid, w) \
    WHEN 'TABLE' THEN has_table_privilege(o.oid, w || ' WITH GRANT OPTION') OR has_table_privilege('public', o.oid, w) \
    WHEN 'SEQUENCE' THEN has_sequence_privilege(o.oid, w || ' WITH GRANT OPTION') OR has_sequence_privilege('public', o.oid, w) \
    ELSE has_function_privilege(o.oid, w || ' WITH GRANT OPTION') OR has_function_privilege('public', o.oid, w) END \
  GROUP BY o.class, o.owner ORDER BY 2, array_position('{DATABASE,SCHEMA,TABLE,SEQUENCE,ROUTINE}'::text[], o.class)";

/// Who makes objects here (owners, and the database's owner unless a superuser), with the kinds of objects that come
/// without a grant option for the connector.
const CREATORS: &str = "SELECT r.rolname::text AS owner, ARRAY(SELECT k.name \
      FROM (VALUES ('TABLES', 'r', $3::text[]), ('SEQUENCES', 'S', $4::text[]), ('ROUTINES', 'f', $5::text[]), ('SCHEMAS', 'n', $2::text[])) AS k (name, kind, wanted) \
      WHERE EXISTS (SELECT FROM unnest(k.wanted) w WHERE NOT EXISTS ( \
        SELECT FROM pg_default_acl a, aclexplode(a.defaclacl) x \
        WHERE a.defaclrole = r.oid AND a.defaclnamespace = 0 AND a.defaclobjtype::text = k.kind AND x.privilege_type = w \
          AND CASE WHEN x.is_grantable AND x.grantee <> 0 THEN pg_has_role(session_user, x.grantee, 'USAGE') ELSE false END))) AS kinds \
  FROM pg_roles r WHERE NOT pg_has_role(session_user, r.oid, 'USAGE') \
    AND NOT coalesce(starts_with(shobj_description(r.oid, 'pg_authid'), 'postern '), false) \
    AND (r.oid IN (SELECT owner FROM objects WHERE class <> 'DATABASE') OR NOT r.rolsuper AND r.oid = (SELECT datdba FROM db)) ORDER BY 1";

/// What everybody may change or read, whatever Postern grants.
const PUBLIC: &str = "SELECT 'SCHEMA' AS class, pg_get_userbyid(s.owner)::text AS owner, count(*) AS objects, (array_agg(s.name ORDER BY s.name))[1:$6] AS names \
    FROM schemas s WHERE has_schema_privilege('public', s.oid, 'CREATE') GROUP BY s.owner \
  UNION ALL SELECT 'TABLE', pg_get_userbyid(o.owner)::text, count(*), (array_agg(o.name ORDER BY o.name))[1:$6] FROM objects o \
    WHERE o.class = 'TABLE' AND (has_table_privilege('public', o.oid, 'SELECT') OR has_table_privilege('public', o.oid, 'INSERT') \
      OR has_table_privilege('public', o.oid, 'UPDATE') OR has_table_privilege('public', o.oid, 'DELETE')) GROUP BY o.owner \
  ORDER BY 1, 2";

/// The privileges that policy's levels can ask for, over all of them.
#[derive(Debug)]
pub(super) struct Wanted([Vec<String>; 5]);

impl Wanted {
    pub(super) fn of(access: &BTreeSet<Access>, facts: &Facts) -> Self {
        let mut lists: [BTreeSet<&str>; 5] = Default::default();
        for access in access {
            let level = level(*access, Extent::Database, facts.version >= 170_000);
            for (list, more) in lists.iter_mut().zip([level.database, level.schema, level.relation, level.sequence, level.routine]) {
                list.extend(more);
            }
        }
        Self(lists.map(|list| list.into_iter().map(str::to_owned).collect()))
    }

    fn ask(&self, doing: &'static str, select: &str) -> Statement {
        let statement = Statement::query(doing, format!("WITH {SCHEMAS}, {OBJECTS} {select}"));
        let bound = self.0.iter().fold(statement, |statement, list| statement.bind(list.clone(), Type::TEXT_ARRAY));
        bound.bind(NAMED + 1, Type::INT4)
    }

    /// What is asked of the database itself.
    pub(super) fn of_database(&self) -> String {
        self.0[0].join(", ")
    }
}

/// Objects of one kind and owner.
#[derive(Clone, Debug)]
struct Group {
    class: String,
    owner: String,
    count: i64,
    /// Quoted, and at most one more than are named one by one.
    names: Vec<String>,
}

impl Group {
    fn of(row: &Row) -> Self {
        Self { class: row.get("class"), owner: row.get("owner"), count: row.get("objects"), names: row.get("names") }
    }

    /// `3 schemas` or `table sales.invoices`.
    fn shown(&self) -> String {
        let class = self.class.to_lowercase();
        match self.names.as_slice() {
            [name] => format!("{class} {name}"),
            _ => format!("{} {class}s", self.count),
        }
    }

    /// `change` for every object: `GRANT USAGE ON` … `TO x`.
    fn change(&self, verb: &str, direction: &str) -> String {
        let class = &self.class;
        if self.names.len() <= usize::try_from(NAMED).unwrap_or_default() {
            return format!("{verb} ON {class} {} {direction};", self.names.join(", "));
        }
        // Whoever is `pg_database_owner` owns schema public too.
        let (select, owner) = match class.as_str() {
            "SCHEMA" => (
                "format('%I', nspname) FROM pg_namespace n",
                "CASE pg_get_userbyid(nspowner) WHEN 'pg_database_owner' THEN (SELECT datdba FROM pg_database WHERE datname = current_database()) ELSE nspowner END",
            ),
            "ROUTINE" => ("p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace", "proowner"),
            "SEQUENCE" => (
                "format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace AND relkind = 'S'",
                "relowner",
            ),
            _ => (
                "format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace AND relkind IN ('r', 'v', 'm', 'f', 'p')",
                "relowner",
            ),
        };
        let body = format!(
            "DECLARE o text; BEGIN FOR o IN SELECT {select} WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'postern') \
             AND pg_get_userbyid({owner}) = {} LOOP EXECUTE {} || o || {}; END LOOP; END",
            literal(&self.owner),
            literal(&format!("{verb} ON {class} ")),
            literal(&format!(" {direction}"))
        );
        format!("DO {};", literal(&body))
    }
}

/// Looks from inside the database. What policy does not list by name and was never prepared is only a warning.
pub(super) async fn survey(
    client: &Client,
    facts: &Facts,
    database: &Database,
    wanted: &Wanted,
    listed: bool,
) -> Result<Vec<Item>, TargetError> {
    let statements = [
        Statement::plain(BEGINNING, BEGIN_READING),
        wanted.ask("looking for grant options", LACKING),
        wanted.ask("looking at default privileges", CREATORS),
        wanted.ask("looking at what everybody has", PUBLIC),
        Statement::plain("ending the transaction", "ROLLBACK"),
    ];
    let answers = batch::run(client, &statements).await?;
    let [_, lacking, creators, public, _] = answers.as_slice() else {
        return Err(TargetError::Unreadable("fewer answers than questions".to_owned()));
    };
    let matters = listed || database.prepared;
    let mut items = without_option(facts, database, lacking, matters);
    if items.is_empty() {
        items.push(Item::ok(format!("database {}", database.name), format!("{} may hand on what is in it", facts.login)));
    }
    items.extend(creators.iter().filter_map(|row| later(facts, database, row)));
    items.extend(public.iter().map(|row| everybody(database, &Group::of(row))));
    Ok(items)
}

/// One item an owner: only they, or a superuser, can mend it.
fn without_option(facts: &Facts, database: &Database, rows: &[Row], matters: bool) -> Vec<Item> {
    let mut owners: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        owners.entry(row.get("owner")).or_default().push(row);
    }
    let mut items = Vec::new();
    for (owner, rows) in owners {
        let lacks = |row: &&Row| {
            let privileges: Vec<String> = row.get("privileges");
            (Group::of(row), privileges.join(", "))
        };
        let groups: Vec<(Group, String)> = rows.iter().map(lacks).collect();
        let what = groups.iter().map(|(group, privileges)| format!("{privileges} on {}", group.shown())).collect::<Vec<_>>().join("; ");
        // What a person made goes with the person.
        let ours = rows.iter().any(|row| row.get("ours"));
        let status = if matters && !ours { Status::Fail } else { Status::Warn };
        let message = format!("{} has no grant option for what {owner} owns: {what}", facts.login);
        let item = Item { status, ..Item::warn(format!("database {}", database.name), message) }.mend(inside(database, &owner));
        let to = format!("TO {} WITH GRANT OPTION", ident(facts.holder()));
        let statements = groups.iter().map(|(group, privileges)| group.change(&format!("GRANT {privileges}"), &to));
        items.push(facts.with_admin_role(statements.fold(item, Item::mend)));
    }
    items
}

/// What somebody makes from now on.
fn later(facts: &Facts, database: &Database, row: &Row) -> Option<Item> {
    let (owner, kinds): (String, Vec<String>) = (row.get("owner"), row.get("kinds"));
    if kinds.is_empty() {
        return None;
    }
    let message = format!("{} will have no grant option for {} that {owner} makes later", facts.login, kinds.join(", ").to_lowercase());
    let item = Item::warn(format!("default privileges in {}", database.name), message).mend(inside(database, &owner));
    let statement = |kind: &String| {
        let (by, to) = (ident(&owner), ident(facts.holder()));
        format!("ALTER DEFAULT PRIVILEGES FOR ROLE {by} GRANT ALL ON {kind} TO {to} WITH GRANT OPTION;")
    };
    Some(facts.with_admin_role(kinds.iter().map(statement).fold(item, Item::mend)))
}

/// What needs no grant.
fn everybody(database: &Database, group: &Group) -> Item {
    let name = format!("public in {}", database.name);
    let (item, verb) = if group.class == "SCHEMA" {
        (Item::warn(name, format!("everybody may make objects in {}", group.shown())), "REVOKE CREATE")
    } else {
        let message = format!("everybody has privileges on {}: access to them does not depend on a grant", group.shown());
        (Item::warn(name, message), "REVOKE ALL")
    };
    item.mend(inside(database, &group.owner)).mend(group.change(verb, "FROM PUBLIC"))
}

/// Where the statements run, and as whom.
fn inside(database: &Database, owner: &str) -> String {
    format!("-- in database {}, as {}", ident(&database.name), ident(owner))
}
