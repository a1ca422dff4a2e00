//! Roles that are dropped without leaving anything behind, in any database.
//!
//! Three steps: as the owner role, hand membership in the role to the connector's login; `DROP OWNED` as the login in
//! every database that `pg_shdepend` names (as the owner it only warns and revokes nothing); `DROP ROLE` as the owner.
//! Tried on 14 to 18, with the rights of the bootstrap.

use std::collections::BTreeMap;

use postern_schemas::Principal;
use postern_schemas::result::Blocker;
use tokio_postgres::types::Type;

use crate::access::state::Oid;
use crate::config::integration::OwnedObjects;
use crate::postgres::batch::{self, Statement};
use crate::postgres::bundle::database_name;
use crate::postgres::ledger::{BEGIN, OWNER};
use crate::postgres::names::ident;
use crate::postgres::{Target, TargetError};

/// The ledger's row of a role that is dropped. Whoever changes the role's memberships or drops it holds this row: two
/// workers dropping one role would otherwise leave a membership of a dead role behind (`GRANT` beside `DROP ROLE`).
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A retired bundle, by its row's id.
    Bundle(i64),
    /// A person's account.
    Person(&'a Principal),
}

impl Record<'_> {
    /// Locks the row; no row: somebody else dropped the role.
    fn lock(self, oid: Oid) -> Statement {
        match self {
            Self::Bundle(id) => Statement::query(
                "locking the bundle",
                "SELECT 1 FROM postern.bundle WHERE id = $1 AND role_oid = $2 AND state = 'retired' FOR UPDATE",
            )
            .bind(id, Type::INT8),
            Self::Person(person) => {
                Statement::query("locking the person", "SELECT 1 FROM postern.account WHERE principal = $1 AND role_oid = $2 FOR UPDATE")
                    .text(person.as_str())
            }
        }
        .bind(oid, Type::OID)
    }

    /// Active grants that need the role, as a statement of its own behind the lock.
    fn needed(self) -> Statement {
        match self {
            Self::Bundle(id) => Statement::query(
                "looking for grants",
                "SELECT FROM postern.access_grant WHERE ending IS NULL AND bundles @> ARRAY[$1] LIMIT 1",
            )
            .bind(id, Type::INT8),
            Self::Person(person) => {
                Statement::query("looking for grants", "SELECT FROM postern.access_grant WHERE principal = $1 AND ending IS NULL LIMIT 1")
                    .text(person.as_str())
            }
        }
    }

    /// The role is gone. A person's generation stays, so that it never counts down.
    fn forget(self) -> Statement {
        match self {
            Self::Bundle(id) => Statement::query("forgetting the bundle", "DELETE FROM postern.bundle WHERE id = $1").bind(id, Type::INT8),
            Self::Person(person) => Statement::query(
                "forgetting the role",
                "UPDATE postern.account SET role_name = NULL, role_oid = NULL, password_set_at = NULL, rotation_due = false WHERE principal = $1",
            )
            .text(person.as_str()),
        }
    }
}

/// Drops the role of this OID and everything that was granted to it. Returns what keeps it from being dropped: a grant
/// that came in the meantime among it.
pub async fn drop_role(target: &Target, oid: Oid, owned: &OwnedObjects, record: Record<'_>) -> Result<Vec<Blocker>, TargetError> {
    let _alone = target.heavy().await;
    let (mut session, ledger) = target.maintenance().await?;
    let Some(name) = role_name(&session, oid).await? else {
        batch::alone(session.client(), vec![record.forget()]).await?;
        return Ok(Vec::new());
    };
    let blockers = blockers(target, &session, oid, &name, owned).await?;
    if !blockers.is_empty() {
        return Ok(blockers);
    }
    let databases = databases(&session, oid).await?;
    if !databases.is_empty() {
        let options = if ledger.has_membership_options() { " WITH INHERIT TRUE, SET TRUE" } else { "" };
        let client = session.begin();
        let locked = batch::run(client, &[Statement::plain("beginning a transaction", BEGIN), record.lock(oid)]).await?;
        if locked.get(1).is_none_or(Vec::is_empty) {
            batch::run(client, &[Statement::plain("rolling back", "ROLLBACK")]).await?;
            session.ended();
            return Ok(Vec::new());
        }
        let hand_over = [
            Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
            Statement::plain("joining a role to be dropped", format!("GRANT {} TO SESSION_USER{options}", ident(&name))),
            Statement::plain("committing", "COMMIT"),
        ];
        batch::run(client, &hand_over).await?;
        session.ended();
    }
    for database in databases {
        let Some(database) = database_name(session.client(), database).await? else { continue };
        let mut there = target.session(&database).await?;
        let drop_owned = [
            Statement::plain("beginning a transaction", BEGIN),
            Statement::plain("dropping what a role was given", format!("DROP OWNED BY {}", ident(&name))),
            Statement::plain("committing", "COMMIT"),
        ];
        match batch::run(there.begin(), &drop_owned).await {
            Ok(_) => there.ended(),
            // 2BP01: something else depends on what it owns.
            Err(error) if error.sqlstate() == Some("2BP01") => {
                let object = format!("objects of {name} that others depend on: {error}");
                return Ok(vec![Blocker { database: Some(database.to_string()), object }]);
            }
            Err(error) => return Err(error),
        }
    }
    match drop_last(&mut session, &name, oid, record).await {
        // Something is left that the connector may not take back: name it.
        Err(error) if error.sqlstate() == Some("2BP01") => left(target, oid).await,
        done => done,
    }
}

/// What is still granted to the role or owned by it, by database and identity.
async fn left(target: &Target, oid: Oid) -> Result<Vec<Blocker>, TargetError> {
    let (session, _) = target.maintenance().await?;
    let sql = "SELECT dbid, classid, objid, deptype::text FROM pg_catalog.pg_shdepend \
               WHERE refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND refobjid = $1 AND deptype IN ('o', 'a', 'i', 'r') ORDER BY 1, 2, 3";
    let rows = batch::alone(session.client(), vec![Statement::query("looking for what is left", sql).bind(oid, Type::OID)]).await?;
    let mut blockers = Vec::new();
    for (kind, what) in [("o", ""), ("a", "privileges on "), ("i", "initial privileges on "), ("r", "")] {
        let of_kind = rows.iter().flatten().filter(|row| row.get::<_, &str>("deptype") == kind);
        for (database, (classes, objects)) in by_database(of_kind) {
            let described = describe(target, &session, database, classes, objects).await?;
            blockers.extend(described.into_iter().map(|b| Blocker { object: format!("{what}{}", b.object), ..b }));
        }
    }
    Ok(blockers)
}

/// Objects as class and OID, by the database they are in.
fn by_database<'a>(rows: impl Iterator<Item = &'a tokio_postgres::Row>) -> BTreeMap<Oid, (Vec<Oid>, Vec<Oid>)> {
    let mut by_database: BTreeMap<Oid, (Vec<Oid>, Vec<Oid>)> = BTreeMap::new();
    for row in rows {
        let (classes, objects) = by_database.entry(row.get("dbid")).or_default();
        classes.push(row.get("classid"));
        objects.push(row.get("objid"));
    }
    by_database
}

async fn drop_last(session: &mut super::target::Session, name: &str, oid: Oid, record: Record<'_>) -> Result<Vec<Blocker>, TargetError> {
    let client = session.begin();
    let statements = [Statement::plain("beginning a transaction", BEGIN), record.lock(oid), record.needed()];
    let answers = batch::run(client, &statements).await?;
    let there = answers.get(1).is_some_and(|rows| !rows.is_empty());
    let needed = answers.get(2).is_some_and(|rows| !rows.is_empty());
    if !there || needed {
        batch::run(client, &[Statement::plain("rolling back", "ROLLBACK")]).await?;
        session.ended();
        let later = Blocker { database: None, object: "a grant that was asked in the meantime".to_owned() };
        return Ok(if needed { vec![later] } else { Vec::new() });
    }
    let statements = [
        Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
        Statement::plain("dropping the role", format!("DROP ROLE {}", ident(name))),
        Statement::plain("becoming the connector", "RESET ROLE"),
        record.forget(),
        Statement::plain("committing", "COMMIT"),
    ];
    batch::run(client, &statements).await?;
    session.ended();
    Ok(Vec::new())
}

async fn role_name(session: &super::target::Session, oid: Oid) -> Result<Option<String>, TargetError> {
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1";
    let rows = batch::alone(session.client(), vec![Statement::query("naming the role", sql).bind(oid, Type::OID)]).await?;
    Ok(rows.iter().flatten().next().map(|row| row.get(0)))
}

/// Databases in which something is granted to the role or owned by it. What belongs to the whole server, such as
/// privileges on a database, is dropped from any of them: the maintenance database stands for it.
async fn databases(session: &super::target::Session, oid: Oid) -> Result<Vec<Oid>, TargetError> {
    let sql = "SELECT DISTINCT CASE d.dbid WHEN 0 THEN m.oid ELSE d.dbid END AS database \
               FROM pg_catalog.pg_shdepend d, pg_catalog.pg_database m \
               WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.refobjid = $1 AND m.datname = pg_catalog.current_database() \
               AND d.classid <> 'pg_catalog.pg_auth_members'::pg_catalog.regclass ORDER BY 1";
    let rows = batch::alone(session.client(), vec![Statement::query("finding a role's databases", sql).bind(oid, Type::OID)]).await?;
    Ok(rows.iter().flatten().map(|row| row.get("database")).collect())
}

/// What the role owns, unless policy says that it goes too, and what no statement of ours can undo.
async fn blockers(
    target: &Target,
    session: &super::target::Session,
    oid: Oid,
    name: &str,
    owned: &OwnedObjects,
) -> Result<Vec<Blocker>, TargetError> {
    let prepared = Statement::query(
        "looking for prepared transactions",
        "SELECT gid, database::text FROM pg_catalog.pg_prepared_xacts WHERE owner = $1 ORDER BY prepared",
    )
    .bind(name.to_owned(), Type::NAME);
    let iam = Statement::query(
        "looking for rds_iam",
        "SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_iam' AND pg_catalog.pg_has_role($1, r.oid, 'MEMBER')",
    )
    .bind(oid, Type::OID);
    let owning = Statement::query(
        "looking for owned objects",
        "SELECT dbid, classid, objid FROM pg_catalog.pg_shdepend \
         WHERE refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND refobjid = $1 AND deptype = 'o' ORDER BY 1, 2, 3",
    )
    .bind(oid, Type::OID);
    let answers = batch::alone(session.client(), vec![prepared, iam, owning]).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let mut blockers: Vec<Blocker> = next()
        .iter()
        .map(|row| Blocker {
            database: Some(row.get("database")),
            object: format!("prepared transaction {:?}", row.get::<_, String>("gid")),
        })
        .collect();
    // A connector that joins a role inside rds_iam loses its own password login.
    blockers.extend(next().iter().map(|_| Blocker { database: None, object: "membership in rds_iam".to_owned() }));
    if *owned == OwnedObjects::Drop {
        return Ok(blockers);
    }
    for (database, (classes, objects)) in by_database(next().iter()) {
        blockers.extend(describe(target, session, database, classes, objects).await?);
    }
    Ok(blockers)
}

/// Names objects as PostgreSQL does, in the database they are in.
async fn describe(
    target: &Target,
    session: &super::target::Session,
    database: Oid,
    classes: Vec<Oid>,
    objects: Vec<Oid>,
) -> Result<Vec<Blocker>, TargetError> {
    let statement = Statement::query(
        "describing owned objects",
        "SELECT coalesce(pg_catalog.pg_describe_object(c, o, 0), 'object ' || o) AS object FROM unnest($1::oid[], $2::oid[]) AS x (c, o) ORDER BY 1",
    )
    .bind(classes, Type::OID_ARRAY)
    .bind(objects, Type::OID_ARRAY);
    if database == 0 {
        let rows = batch::alone(session.client(), vec![statement]).await?;
        return Ok(rows.iter().flatten().map(|row| Blocker { database: None, object: row.get("object") }).collect());
    }
    let Some(name) = database_name(session.client(), database).await? else {
        let object = format!("objects in a database (OID {database}) that takes no connections");
        return Ok(vec![Blocker { database: None, object }]);
    };
    let there = target.session(&name).await?;
    let rows = batch::alone(there.client(), vec![statement]).await?;
    Ok(rows.iter().flatten().map(|row| Blocker { database: Some(name.to_string()), object: row.get("object") }).collect())
}
