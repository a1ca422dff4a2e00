//! What keeps a role from being dropped, by its identity as PostgreSQL describes it.

use postern_schemas::result::Blocker;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::OWNS;
use crate::access::state::Oid;
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::names::{ident, literal};

const LEFT: &str = include_str!("left.sql");
const DEPENDENTS: &str = include_str!("dependents.sql");
const ALONG: &str = include_str!("along.sql");

/// Prepared transactions that hold something of the role $1, whose name is $2, with their database and owner. A lock of
/// one has no process; the transaction's lock on its own number says whose it is.
const HOLDERS: &str = "SELECT p.gid, p.database::text AS database, p.owner::text AS owner FROM pg_prepared_xacts p \
     WHERE p.owner = $2 OR EXISTS ( \
       SELECT FROM pg_locks x JOIN pg_locks l ON l.virtualtransaction = x.virtualtransaction AND l.pid IS NULL \
       WHERE x.pid IS NULL AND x.locktype = 'transactionid' AND x.transactionid = p.transaction AND ";
const HOLDS_ROLE: &str = "l.locktype = 'object' AND l.database = 0 AND l.classid = 'pg_authid'::regclass AND l.objid = $1";
/// Also those that changed any role, whose row may be this one's, or hold what it owns here.
const HOLDS_ANYTHING: &str = "(l.locktype = 'object' AND l.database = 0 AND l.classid = 'pg_authid'::regclass AND l.objid = $1 \
     OR l.locktype = 'relation' AND l.relation IN ('pg_authid'::regclass, 'pg_auth_members'::regclass) AND l.mode = 'RowExclusiveLock' \
     OR EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 \
         AND d.dbid IN (0, l.database) AND (l.locktype = 'relation' AND d.classid = 'pg_class'::regclass AND d.objid = l.relation \
           OR l.locktype = 'object' AND d.classid = l.classid AND d.objid = l.objid)))";

/// What no statement of ours can undo, wherever it is.
pub(super) async fn of_the_server(client: &Client, oid: Oid, name: &str) -> Result<Vec<Blocker>, TargetError> {
    let answers = batch::alone(client, vec![prepared(oid, name, HOLDS_ROLE)]).await?;
    Ok(answers.iter().flatten().map(holder).collect())
}

/// The roles that the role was given and through which it is in `rds_iam`, that one itself among them.
pub(super) async fn ways_into_rds_iam(client: &Client, oid: Oid, name: &str) -> Result<Vec<String>, TargetError> {
    let sql = "SELECT DISTINCT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles i ON i.rolname = 'rds_iam' \
               WHERE m.member = $1 AND pg_has_role(g.oid, i.oid, 'MEMBER') ORDER BY 1";
    let answers = batch::run(client, &[Statement::query("looking for rds_iam", sql).bind(oid, Type::OID)]).await?;
    let in_rds_iam = |way: &str| {
        let way = ident(way);
        format!("membership in rds_iam, by {way}; as whoever gave it run: REVOKE {way} FROM {}", ident(name))
    };
    Ok(answers.iter().flatten().map(|row| in_rds_iam(row.get(0))).collect())
}

/// Prepared transactions that may be what was waited for in vain.
pub(super) async fn holders(client: &Client, oid: Oid) -> Result<Vec<Blocker>, TargetError> {
    let answers = batch::alone(client, vec![prepared(oid, "", HOLDS_ANYTHING)]).await?;
    Ok(answers.iter().flatten().map(holder).collect())
}

fn prepared(oid: Oid, name: &str, holds: &str) -> Statement {
    Statement::query("looking for prepared transactions", format!("{HOLDERS}{holds}) ORDER BY p.prepared"))
        .bind(oid, Type::OID)
        .bind(name.to_owned(), Type::NAME)
}

fn holder(row: &Row) -> Blocker {
    let (gid, owner): (String, String) = (row.get("gid"), row.get("owner"));
    let mend = format!("ROLLBACK PREPARED {}", literal(&gid));
    let object = format!("prepared transaction {gid:?} of {}; in this database, as that role or a superuser: {mend}", ident(&owner));
    Blocker { database: Some(row.get("database")), object }
}

/// What the role owns in this database; with `shared`, also databases and tablespaces.
pub(super) async fn owned(client: &Client, oid: Oid, shared: bool) -> Result<Vec<String>, TargetError> {
    let sql = format!(
        "SELECT coalesce(pg_describe_object(d.classid, d.objid, 0), 'object ' || d.objid) AS object FROM pg_shdepend d \
         WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND {OWNS} \
           AND (d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) OR $2 AND d.dbid = 0) ORDER BY 1"
    );
    let question = Statement::query("looking for owned objects", sql).bind(oid, Type::OID).bind(shared, Type::BOOL);
    Ok(objects(&batch::run(client, &[question]).await?))
}

/// What is left of the role in this database; with `shared`, also what belongs to the whole server.
pub(super) async fn left(client: &Client, oid: Oid, shared: bool, version: i32) -> Result<Vec<String>, TargetError> {
    // Up to 14 there are no privileges on parameters, nor the catalog for them.
    let parameter = "WHEN 'pg_parameter_acl'::regclass THEN (SELECT paracl FROM pg_parameter_acl WHERE oid = d.objid)";
    let sql = LEFT.replace("/* parameter */", if version >= 150_000 { parameter } else { "" });
    let question = Statement::query("looking for what is left", sql).bind(oid, Type::OID).bind(shared, Type::BOOL);
    Ok(objects(&batch::alone(client, vec![question]).await?))
}

/// What of others depends on what the role owns in this database.
pub(super) async fn dependents(client: &Client, oid: Oid) -> Result<Vec<String>, TargetError> {
    Ok(objects(&batch::alone(client, vec![Statement::query("looking for dependent objects", DEPENDENTS).bind(oid, Type::OID)]).await?))
}

/// What of others would be dropped along with what the role owns in this database, inside the caller's transaction. The
/// tables are locked first: no partition is attached between the question and the drop.
pub(super) async fn along(client: &Client, oid: Oid, name: &str) -> Result<Vec<String>, TargetError> {
    let name = ident(name);
    let statements = [
        // To itself: nothing changes, and every relation is locked. LOCK TABLE would take rights on the schemas.
        Statement::plain("locking what a role owns", format!("REASSIGN OWNED BY {name} TO {name}")),
        Statement::query("looking for what would be dropped along", ALONG).bind(oid, Type::OID),
    ];
    Ok(objects(&batch::run(client, &statements).await?))
}

fn objects(answers: &[Vec<Row>]) -> Vec<String> {
    answers.iter().flatten().map(|row| row.get("object")).collect()
}
