//! Locks, then reads, in one round trip.
//!
//! The order of locks, the same for every event: the integration (a table lock on `postern.watermark`), the event's
//! row, the person, the `grant_id`: whoever holds a person may end any of the person's grants. Then, as statements of
//! their own, the reads: a statement that locks and reads at once, or any under REPEATABLE READ, would see the past
//! (measured on 15 and 18).

use std::collections::BTreeMap;

use jiff::Timestamp;
use postern_schemas::permission::Permission;
use postern_schemas::{EventKey, GrantId, IntegrationId, Principal, Verb};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::iam;
use crate::access::state::{Observed, roles_of, scopes_of};
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::error::BEGINNING;
use crate::postgres::events::{self, EventRow};
use crate::postgres::ledger::{BEGIN, Ledger, OWNER};
use crate::postgres::probe::Probes;
use crate::postgres::rows;

/// Which event is looked at, and what has to be known to decide it.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The event's key.
    pub key: &'a EventKey,
    /// The digest of its body.
    pub digest: [u8; 32],
    /// Its verb.
    pub verb: Verb,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// The person, where the event names one.
    pub principal: Option<&'a Principal>,
    /// The grant, where the event names one.
    pub grant_id: Option<&'a GrantId>,
    /// The role name that the person would get; empty where the event names nobody.
    pub role_name: &'a str,
    /// What is asked for.
    pub permissions: &'a [Permission],
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// The event was taken up before.
    Known(EventRow),
    /// It is new. The locks are held until the transaction ends.
    New(Box<Observed>),
}

/// The SHA-256 of a `grant_id`: what is kept of it for good.
pub fn grant_digest(grant_id: &GrantId) -> Vec<u8> {
    Sha256::digest(grant_id.as_str().as_bytes()).to_vec()
}

/// Whom an event concerns: named by it, or the owner of the grant it names. Takes the first three parameters.
const PERSON: &str = "coalesce($1::text, (SELECT k.principal FROM postern.grant_key k WHERE k.integration = $2 AND k.digest = $3))";

/// Begins the transaction, takes the locks and reads. Whoever calls must end the transaction.
pub async fn observe(client: &Client, ledger: &Ledger, question: &Question<'_>, probes: &Probes) -> Result<Found, TargetError> {
    let statements = statements(ledger, question);
    let answers = batch::run(client, &statements).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default();

    next();
    let event = next();
    if let Some(row) = event.first().map(events::row).transpose()?
        && row.is_known()
    {
        return Ok(Found::Known(row));
    }
    next();
    let account = next();
    let grant_key = next();
    let facts = next();
    let watermark = next();
    let role = next();
    let memberships = next();
    let members = next();
    let active = next();
    let bundles = next();
    let databases = next();
    let roles = next();

    let grant_key = grant_key.first().map(rows::grant_key).transpose()?;
    let owned = grant_key.as_ref().is_some_and(|key| key.principal.is_some());
    if account.is_empty() && (question.principal.is_some() || owned) {
        // Pruned in between, or the grant came in between: whose it is was not known when the person was locked.
        return Err(TargetError::Pruned);
    }
    let facts = facts.first().ok_or_else(|| TargetError::LostFacts)?;
    let principal: Option<String> = account.first().map(|row| row.get("principal"));
    let mut observed = Observed {
        connector: ledger.connector.clone(),
        now: facts.get("now"),
        ledger: facts.get("ledger_id"),
        horizon: rows::moment(facts, "pruned_to").unwrap_or(Timestamp::MIN),
        watermark: watermark.first().and_then(|row| rows::moment(row, "asked_at")),
        principal: principal.map(|p| rows::parsed(&p, "principal")).transpose()?,
        account: account.first().map(rows::account),
        role: role.first().map(rows::role),
        memberships: memberships.iter().map(rows::membership).collect(),
        members: members.iter().map(rows::member).collect(),
        active: active.iter().map(rows::grant).collect::<Result<_, _>>()?,
        grant_key,
        bundles: bundles.iter().map(|row| rows::bundle(row, |oid, mark| probes.is_fresh(oid, mark))).collect::<Result<_, _>>()?,
        databases: databases.iter().map(rows::database).collect::<Result<BTreeMap<_, _>, _>>()?,
        roles: rows::roles(&roles)?,
    };
    probes.fill(&mut observed.databases);
    for bundle in &mut observed.bundles {
        bundle.fresh |= probes.was_ensured(&bundle.key);
    }
    Ok(Found::New(Box::new(observed)))
}

/// Reads one person for a repair or a deletion: the same locks and reads, for no event.
pub async fn person(
    client: &Client,
    ledger: &Ledger,
    integration: &IntegrationId,
    principal: &Principal,
    role_name: &str,
) -> Result<Observed, TargetError> {
    let key = EventKey { integration: integration.clone(), source: String::new(), id: String::new() };
    let question = Question {
        key: &key,
        digest: [0; 32],
        verb: Verb::Unknown,
        asked_at: Timestamp::UNIX_EPOCH,
        principal: Some(principal),
        grant_id: None,
        role_name,
        permissions: &[],
    };
    match observe(client, ledger, &question, &Probes::default()).await? {
        Found::New(observed) => Ok(*observed),
        Found::Known(_) => Err(TargetError::Unreadable("an event without a name".to_owned())),
    }
}

fn statements(ledger: &Ledger, question: &Question<'_>) -> Vec<Statement> {
    let integration = question.key.integration.to_string();
    let digest = question.grant_id.map(grant_digest);
    let of_person = |doing: &'static str, sql: String| {
        Statement::query(doing, sql)
            .bind(question.principal.map(ToString::to_string), Type::TEXT)
            .text(integration.clone())
            .bind(digest.clone(), Type::BYTEA)
    };
    let databases: Vec<String> = scopes_of(question.permissions).map(|scope| scope.database.to_string()).collect();
    let rds_iam = std::iter::once(iam::ROLE.to_owned());
    let roles: Vec<String> = roles_of(question.permissions).map(ToString::to_string).chain(rds_iam).collect();
    let maintenance = question.verb == Verb::Unknown;

    vec![
        Statement::plain(BEGINNING, format!("{BEGIN}; LOCK TABLE postern.watermark IN ROW SHARE MODE")),
        if maintenance { Statement::query("no event", "SELECT 1 WHERE false") } else { events::lock(question) },
        of_person(
            "making the person's row",
            format!(
                "INSERT INTO postern.account (principal) SELECT p FROM (SELECT {PERSON}) AS t (p) WHERE p IS NOT NULL ON CONFLICT DO NOTHING"
            ),
        ),
        of_person(
            "locking the person",
            format!(
                "SELECT principal, role_name, role_oid, generation, password_set_at, password_asked_at, rotation_due, \
                        iam, login_asked_at \
                 FROM postern.account WHERE principal = {PERSON} FOR UPDATE"
            ),
        ),
        // A no-op update, so that the row is locked and its latest state returned whether or not it was there.
        Statement::query(
            "locking the grant_id",
            "INSERT INTO postern.grant_key AS k (integration, digest) SELECT $1, $2 WHERE $2 IS NOT NULL \
             ON CONFLICT (integration, digest) DO UPDATE SET revision = k.revision RETURNING principal, revision, ending",
        )
        .text(integration.clone())
        .bind(digest.clone(), Type::BYTEA),
        Statement::query(
            "reading the facts",
            "SELECT clock_timestamp() AS now, ledger_id, CASE WHEN isfinite(pruned_to) THEN pruned_to END AS pruned_to FROM postern.fact",
        ),
        of_person(
            "reading the watermark",
            format!("SELECT max(asked_at) AS asked_at FROM postern.watermark WHERE integration = $2 AND principal IN ('', {PERSON})"),
        ),
        of_person(
            "reading the role",
            format!(
                "SELECT r.oid, r.rolname::text AS name, shobj_description(r.oid, 'pg_authid') AS comment, r.rolcanlogin AS can_login, \
                        CASE WHEN isfinite(r.rolvaliduntil) THEN r.rolvaliduntil END AS valid_until, r.rolconnlimit AS connection_limit, {}, \
                        coalesce(shobj_description(r.oid, 'pg_authid') = postern.role_mark(r.oid, 'person', {PERSON}), false) AS sealed \
                 FROM pg_roles r WHERE r.oid = {}",
                attributes(ledger),
                role_oid()
            ),
        )
        .text(question.role_name),
        of_person("reading memberships", memberships(ledger)).text(question.role_name),
        of_person("reading members", members(ledger)).text(question.role_name),
        of_person(
            "reading active grants",
            format!(
                "SELECT integration, grant_id, revision, permissions, bundles, expires_at, asked_at \
                 FROM postern.access_grant WHERE principal = {PERSON} AND ending IS NULL ORDER BY integration, grant_id"
            ),
        ),
        of_person("reading bundles", bundles()).bind(asked_keys(question.permissions), Type::JSONB),
        Statement::query(
            "reading databases",
            "SELECT datname::text AS name, oid, datistemplate OR NOT datallowconn AS closed FROM pg_database WHERE datname = ANY ($1)",
        )
        .bind(databases, Type::TEXT_ARRAY),
        of_person("reading roles", role_facts()).bind(roles, Type::TEXT_ARRAY),
    ]
}

/// Columns about a role `r`: `alterable`, `added`, `stuck`. Up to 15 the owner role changes no superuser and no role that
/// replicates; from 16 on no superuser. CREATEDB can be taken up to 15 by CREATEROLE, from 16 on by who has it
/// (PostgreSQL docs, ALTER ROLE; tried on 14 to 18).
pub fn attributes(ledger: &Ledger) -> String {
    let (alterable, createdb) =
        if ledger.has_membership_options() { ("NOT r.rolsuper", "false") } else { ("NOT r.rolsuper AND NOT r.rolreplication", "true") };
    let held = "(VALUES ('SUPERUSER', r.rolsuper), ('CREATEROLE', r.rolcreaterole), ('CREATEDB', r.rolcreatedb), \
                ('REPLICATION', r.rolreplication), ('BYPASSRLS', r.rolbypassrls)) AS held (name, has)";
    let removable = format!("({alterable} AND (name = 'CREATEROLE' OR name = 'CREATEDB' AND {createdb}))");
    format!(
        "{alterable} AS alterable, ARRAY(SELECT name FROM {held} WHERE has AND {removable}) AS added, \
         ARRAY(SELECT name FROM {held} WHERE has AND NOT {removable}) AS stuck"
    )
}

/// The OID of the person's role: the account's or, if there is none any more, that of the name ($4) it would get.
fn role_oid() -> String {
    format!(
        "coalesce((SELECT k.oid FROM pg_roles k JOIN postern.account a ON k.oid = a.role_oid WHERE a.principal = {PERSON}), \
                  (SELECT k.oid FROM pg_roles k WHERE k.rolname = $4))"
    )
}

/// Members of the person's role, with those that are so through others. The owner role and the login are for their work.
fn members(ledger: &Ledger) -> String {
    let revocable = if ledger.has_membership_options() {
        "coalesce(pg_has_role(session_user, g.oid, 'USAGE'), false) AND coalesce(pg_has_role(session_user, m.roleid, 'MEMBER WITH ADMIN OPTION'), false)"
    } else {
        "true"
    };
    let role = role_oid();
    format!(
        "WITH RECURSIVE ours AS (SELECT oid FROM pg_roles WHERE rolname IN ('{OWNER}', session_user)), \
         inside (oid) AS ( \
           SELECT m.member FROM pg_auth_members m WHERE m.roleid = {role} AND m.member NOT IN (TABLE ours) \
           UNION SELECT m.member FROM inside i JOIN pg_auth_members m ON m.roleid = i.oid WHERE m.member NOT IN (TABLE ours)) \
         SELECT DISTINCT x.oid, x.rolname::text AS name, CASE WHEN m.roleid IS NOT NULL THEN coalesce(g.rolname::text, '') END AS grantor, \
           {revocable} AS revocable \
         FROM inside i JOIN pg_roles x ON x.oid = i.oid LEFT JOIN pg_auth_members m ON m.member = x.oid AND m.roleid = {role} \
           LEFT JOIN pg_roles g ON g.oid = m.grantor ORDER BY 2, 3"
    )
}

fn memberships(ledger: &Ledger) -> String {
    // Up to 15 CREATEROLE takes back any membership but a superuser's, whoever gave it. From 16 on it takes the
    // rights of the grantor, who has to be named.
    let (grantor, revocable) = if ledger.has_membership_options() {
        // The owner role holds ADMIN OPTION on every bundle; to ask for it is dear where there are many roles.
        (
            "coalesce(g.rolname::text, '')",
            "g.oid IS NOT NULL AND coalesce(pg_has_role(session_user, g.oid, 'USAGE'), false) \
               AND (EXISTS (SELECT FROM postern.bundle b WHERE b.role_oid = r.oid) OR coalesce(pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION'), false))",
        )
    } else {
        ("''", "NOT r.rolsuper")
    };
    format!(
        "SELECT DISTINCT r.rolname::text AS role, {grantor} AS grantor, {revocable} AS revocable \
         FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid LEFT JOIN pg_roles g ON g.oid = m.grantor \
         WHERE m.member = {} ORDER BY 1, 2",
        role_oid()
    )
}

/// The columns of [`rows::bundle`].
pub const BUNDLE_COLUMNS: &str = "b.id, b.database_oid, d.datname::text AS database_name, b.schema_name, b.table_name, b.access, \
     coalesce(r.rolname::text, b.role_name) AS role_name, b.state = 'ready' AND r.oid IS NOT NULL AS usable, b.mark, b.warnings";

fn bundles() -> String {
    format!(
        "WITH held AS (SELECT DISTINCT unnest(bundles) AS id FROM postern.access_grant WHERE principal = {PERSON} AND ending IS NULL), \
         wanted AS ( \
           SELECT b.database_oid, b.schema_name, b.table_name, b.access FROM postern.bundle b JOIN held USING (id) \
           UNION \
           SELECT d.oid, k.schema, k.tbl, k.access \
           FROM jsonb_to_recordset($4) AS k (database text, schema text, tbl text, access text) JOIN pg_database d ON d.datname = k.database) \
         SELECT {BUNDLE_COLUMNS} FROM postern.bundle b LEFT JOIN pg_database d ON d.oid = b.database_oid LEFT JOIN pg_roles r ON r.oid = b.role_oid \
         WHERE b.id IN (SELECT id FROM held) \
            OR b.state <> 'retired' AND (b.database_oid, b.schema_name, b.table_name, b.access) IN (SELECT * FROM wanted) ORDER BY b.id"
    )
}

/// The event's permissions as keys: one for each table, or one for all.
fn asked_keys(permissions: &[Permission]) -> serde_json::Value {
    let keys = scopes_of(permissions).flat_map(|scope| {
        let tables: Vec<String> = match &scope.tables {
            None => vec![String::new()],
            Some(tables) => tables.iter().map(ToString::to_string).collect(),
        };
        tables.into_iter().map(move |table| {
            let schema = scope.schema.as_ref().map(ToString::to_string).unwrap_or_default();
            json!({ "database": scope.database, "schema": schema, "tbl": table, "access": scope.access })
        })
    });
    keys.collect()
}

fn role_facts() -> String {
    let named = format!(
        "SELECT unnest($4) AS name \
         UNION SELECT p ->> 'role' FROM postern.access_grant g, jsonb_array_elements(g.permissions) p \
               WHERE g.principal = {PERSON} AND g.ending IS NULL AND p ? 'role'"
    );
    role_chains(&named, IN_LEDGER)
}

/// Makes a role one of Postern's, beside its comment. For [`role_chains`], where there is a ledger.
pub const IN_LEDGER: &str = "OR EXISTS (SELECT FROM postern.account a WHERE a.role_oid = r.oid) \
     OR EXISTS (SELECT FROM postern.bundle b WHERE b.role_oid = r.oid)";

/// Asks for the columns of [`rows::roles`]. `named`: a query for the names; `ours`: [`IN_LEDGER`], or nothing.
pub fn role_chains(named: &str, ours: &str) -> String {
    // Up to 15 CREATEROLE hands on any role but a superuser's. From 16 on the login gives a role to the owner role unless it
    // has: what another login gave goes when that one is dropped.
    let (has_options, login_has) = ("current_setting('server_version_num')::int4 >= 160000", "h.roleid = c.root AND h.member = l.oid");
    format!(
        "WITH RECURSIVE named AS ({named}), \
         chain (root, oid) AS ( \
           SELECT r.oid, r.oid FROM pg_roles r JOIN named n ON r.rolname = n.name \
           UNION SELECT c.root, m.roleid FROM chain c JOIN pg_auth_members m ON m.member = c.oid) \
         SELECT root.rolname::text AS root, NOT {has_options} OR coalesce(pg_has_role(session_user, c.root, 'MEMBER WITH ADMIN OPTION'), false) AS can_hand_on, \
                {has_options} AND NOT EXISTS (SELECT FROM pg_auth_members o JOIN pg_roles w ON w.oid = o.member AND w.rolname = '{OWNER}' \
                  WHERE o.roleid = c.root AND o.admin_option AND (o.grantor = l.oid \
                    OR NOT EXISTS (SELECT FROM pg_auth_members h WHERE {login_has} AND h.admin_option))) AS pass, \
                r.rolname::text AS name, r.rolsuper AS superuser, \
                r.rolcreaterole AS createrole, r.rolreplication AS replication, r.rolbypassrls AS bypassrls, \
                r.rolname = session_user OR r.rolname = '{OWNER}' \
                  OR coalesce(starts_with(shobj_description(r.oid, 'pg_authid'), 'postern '), false) {ours} AS ours \
         FROM chain c JOIN pg_roles root ON root.oid = c.root JOIN pg_roles r ON r.oid = c.oid \
         JOIN pg_roles l ON l.rolname = session_user ORDER BY 1, c.oid <> c.root, 4"
    )
}
