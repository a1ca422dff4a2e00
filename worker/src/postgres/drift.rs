//! What somebody changed by hand, or what a restored ledger no longer knows: found for the periodic clean-up, and the
//! statements that take away what the ledger does not explain. Nothing here gives anybody anything.

use postern_schemas::Principal;
use postern_schemas::fields::FromText as _;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::policy::forbidden;
use crate::access::state::Oid;
use crate::postgres::batch::{self, Statement};
use crate::postgres::ledger::{Ledger, OWNER};
use crate::postgres::names::ident;
use crate::postgres::observe::{IN_LEDGER, attributes, role_chains};
use crate::postgres::{TargetError, rows};

/// Roles that we made, by their seal, and that the ledger has forgotten: it was restored from a backup older than they are.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// People's roles: whose, OID and name.
    pub people: Vec<(Principal, Oid, String)>,
    /// Bundle roles, by OID and name.
    pub bundles: Vec<(Oid, String)>,
}

/// Finds the roles that the ledger has forgotten.
pub async fn forgotten(client: &Client) -> Result<Forgotten, TargetError> {
    let sql = "SELECT r.oid, r.rolname::text AS name, mark[2] AS kind, mark[1] AS whom \
               FROM pg_roles r JOIN pg_shdescription d ON d.classoid = 'pg_authid'::regclass AND d.objoid = r.oid, \
                 regexp_match(d.description, '^postern [0-9a-f-]{36}: (.*) \\[(person|bundle) [0-9a-f]{32}\\]$') AS mark \
               WHERE NOT EXISTS (SELECT FROM postern.account a WHERE a.role_oid = r.oid) \
                 AND NOT EXISTS (SELECT FROM postern.bundle b WHERE b.role_oid = r.oid) \
                 AND d.description = postern.role_mark(r.oid, mark[2], mark[1]) ORDER BY 2";
    let rows = batch::alone(client, vec![Statement::query("looking for forgotten roles", sql)]).await?;
    let mut forgotten = Forgotten::default();
    for row in rows.iter().flatten() {
        let (oid, name): (Oid, String) = (row.get("oid"), row.get("name"));
        match (row.get::<_, &str>("kind"), Principal::from_text(row.get("whom"))) {
            ("person", Ok(principal)) => forgotten.people.push((principal, oid, name)),
            _ => forgotten.bundles.push((oid, name)),
        }
    }
    Ok(forgotten)
}

/// Notes forgotten bundle roles as retired, so that they are dropped as others are that nobody needs. What they stood for
/// is not asked any more.
pub async fn retire_forgotten(client: &Client, bundles: &[Oid]) -> Result<(), TargetError> {
    let sql = "INSERT INTO postern.bundle (database_oid, access, role_name, role_oid, state) \
               SELECT 0, 'read_only', rolname, oid, 'retired' FROM pg_roles WHERE oid = ANY ($1) \
               ON CONFLICT (role_name) DO UPDATE SET role_oid = excluded.role_oid, state = 'retired'";
    let statement = Statement::query("retiring forgotten bundles", sql).bind(bundles.to_vec(), Type::OID_ARRAY);
    batch::alone(client, vec![statement]).await.map(|_| ())
}

/// Closes a role of ours that the ledger has forgotten and whose person has another account by now.
pub async fn close_forgotten(client: &Client, name: &str) -> Result<(), TargetError> {
    let statements = vec![
        Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
        Statement::plain("closing a forgotten role", format!("ALTER ROLE {} NOLOGIN", ident(name))),
        Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"),
    ];
    batch::alone(client, statements).await.map(|_| ())
}

/// A membership that nobody of ours gave: of somebody in a person's role or a bundle, or of a bundle in another role.
#[derive(Debug)]
pub struct Stray {
    /// The role.
    pub role: String,
    /// The member.
    pub member: String,
    /// Whose sessions may have set the role; `None` for a bundle, into which nobody logs in.
    pub sessions_of: Option<Oid>,
    /// Who gave it; empty up to 15, where it does not matter.
    grantor: String,
    /// Whether the connector can take it back.
    pub revocable: bool,
}

impl Stray {
    /// The statement that takes it back.
    pub fn revoke(&self) -> String {
        let by = if self.grantor.is_empty() { String::new() } else { format!(" GRANTED BY {}", ident(&self.grantor)) };
        format!("REVOKE {} FROM {}{by}", ident(&self.role), ident(&self.member))
    }
}

/// Finds memberships in roles of ours, and of bundles in others, that nobody of ours gave. The connector's login and the owner
/// role are members for their work.
pub async fn strays(client: &Client, ledger: &Ledger) -> Result<Vec<Stray>, TargetError> {
    let (grantor, revocable) = if ledger.has_membership_options() {
        (
            "coalesce(g.rolname::text, '')",
            "g.oid IS NOT NULL AND pg_has_role(session_user, g.oid, 'USAGE') AND pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION')",
        )
    } else {
        ("''", "NOT r.rolsuper")
    };
    let sql = format!(
        "WITH person AS (SELECT role_oid AS oid FROM postern.account WHERE role_oid IS NOT NULL), \
              bundle AS (SELECT role_oid AS oid FROM postern.bundle) \
         SELECT r.rolname::text AS role, x.rolname::text AS member, CASE WHEN x.oid NOT IN (TABLE bundle) THEN x.oid END AS sessions_of, {grantor} AS grantor, {revocable} AS revocable \
         FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles x ON x.oid = m.member LEFT JOIN pg_roles g ON g.oid = m.grantor \
         WHERE x.rolname NOT IN ('{OWNER}', session_user) \
           AND (r.oid IN (TABLE person) OR r.oid IN (TABLE bundle) AND x.oid NOT IN (TABLE person) OR x.oid IN (TABLE bundle)) ORDER BY 1, 2"
    );
    let rows = batch::alone(client, vec![Statement::query("looking for memberships given by hand", sql)]).await?;
    let stray = |row: &tokio_postgres::Row| Stray {
        role: row.get("role"),
        member: row.get("member"),
        sessions_of: row.get("sessions_of"),
        grantor: row.get("grantor"),
        revocable: row.get("revocable"),
    };
    Ok(rows.iter().flatten().map(stray).collect())
}

/// Takes such a membership back.
pub async fn remove_stray(client: &Client, stray: &Stray) -> Result<(), TargetError> {
    batch::alone(client, vec![Statement::plain("taking a membership back", stray.revoke())]).await.map(|_| ())
}

/// A bundle role that somebody renamed, or gave LOGIN or another attribute.
#[derive(Debug)]
pub struct ChangedBundle {
    id: i64,
    /// The role's OID.
    pub oid: Oid,
    /// Its name in the ledger.
    pub known: String,
    /// Its present name.
    pub name: String,
    /// It can log in.
    pub can_login: bool,
    /// Attributes that can be taken away.
    pub added: Vec<String>,
    /// Attributes that only a superuser can take away.
    pub stuck: Vec<String>,
    alterable: bool,
}

/// Finds bundle roles that are not as they were made.
pub async fn changed_bundles(client: &Client, ledger: &Ledger) -> Result<Vec<ChangedBundle>, TargetError> {
    let sql = format!(
        "SELECT b.id, r.oid, b.role_name AS known, r.rolname::text AS name, r.rolcanlogin AS can_login, {} \
         FROM postern.bundle b JOIN pg_roles r ON r.oid = b.role_oid \
         WHERE r.rolname <> b.role_name OR r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls \
         ORDER BY b.id",
        attributes(ledger)
    );
    let rows = batch::alone(client, vec![Statement::query("looking for changed bundles", sql)]).await?;
    let changed = |row: &tokio_postgres::Row| ChangedBundle {
        id: row.get("id"),
        oid: row.get("oid"),
        known: row.get("known"),
        name: row.get("name"),
        can_login: row.get("can_login"),
        added: row.get("added"),
        stuck: row.get("stuck"),
        alterable: row.get("alterable"),
    };
    Ok(rows.iter().flatten().map(changed).collect())
}

/// Takes LOGIN and attributes away from a bundle, and notes its name.
pub async fn mend_bundle(client: &Client, bundle: &ChangedBundle) -> Result<(), TargetError> {
    let mut statements = Vec::new();
    if bundle.alterable && (bundle.can_login || !bundle.added.is_empty()) {
        let without = bundle.added.iter().fold(" NOLOGIN".to_owned(), |sql, attribute| sql + " NO" + attribute);
        statements.push(Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))));
        statements.push(Statement::plain("changing the bundle role", format!("ALTER ROLE {}{without}", ident(&bundle.name))));
        statements.push(Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"));
    }
    let rename = Statement::query("noting the bundle's name", "UPDATE postern.bundle SET role_name = $2 WHERE id = $1");
    statements.push(rename.bind(bundle.id, Type::INT8).text(bundle.name.as_str()));
    batch::alone(client, statements).await.map(|_| ())
}

/// People who are members of a role that an active grant of theirs names and that has become powerful since.
pub async fn with_forbidden_roles(client: &Client) -> Result<Vec<Principal>, TargetError> {
    let named = "SELECT DISTINCT p ->> 'role' AS name FROM postern.access_grant g, jsonb_array_elements(g.permissions) p \
                 WHERE g.ending IS NULL AND p ? 'role'";
    let facts = Statement::query("reading roles", role_chains(named, IN_LEDGER));
    let facts = rows::roles(batch::alone(client, vec![facts]).await?.first().map(Vec::as_slice).unwrap_or_default())?;
    let powerful: Vec<String> = facts.iter().filter(|(_, facts)| forbidden(facts).is_some()).map(|(name, _)| name.to_string()).collect();
    if powerful.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT DISTINCT a.principal FROM postern.account a JOIN pg_auth_members m ON m.member = a.role_oid \
               JOIN pg_roles r ON r.oid = m.roleid WHERE r.rolname = ANY ($1) ORDER BY 1";
    let people = Statement::query("listing people with forbidden roles", sql).bind(powerful, Type::TEXT_ARRAY);
    let rows = batch::alone(client, vec![people]).await?;
    rows.iter().flatten().map(|row| rows::parsed(row.get(0), "principal")).collect()
}

/// How many roles of the server carry another ledger's mark, with its identity.
pub async fn of_other_ledgers(client: &Client, ledger: &Ledger) -> Result<Vec<(String, i64)>, TargetError> {
    let sql = "SELECT substring(d.description FROM '^postern ([0-9a-f-]{36}): ') AS ledger, count(*) AS roles \
               FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid \
               WHERE d.classoid = 'pg_authid'::regclass AND d.description ~ '^postern [0-9a-f-]{36}: ' \
                 AND NOT starts_with(d.description, 'postern ' || $1 || ': ') GROUP BY 1 ORDER BY 1";
    let rows = batch::alone(client, vec![Statement::query("looking for other ledgers", sql).text(ledger.id.to_string())]).await?;
    Ok(rows.iter().flatten().map(|row| (row.get("ledger"), row.get("roles"))).collect())
}
