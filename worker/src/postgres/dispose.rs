//! Roles that are dropped without leaving anything behind, in any database.
//!
//! `pg_shdepend` says in which databases the role owns something or was given something, so the cost does not grow with
//! the databases of the server. Each of them is one transaction: as the owner role, hand membership in the role to the
//! connector's login; dispose of what it owns; `DROP OWNED` as the login (as the owner it only warns and revokes
//! nothing); take the membership back. Never while the role is in `rds_iam`: on RDS the connector would log in by
//! token only, too. Then `DROP ROLE` as the owner. Tried on 14 to 18, with the rights of the bootstrap.

mod blockers;
pub mod reassign;

use postern_schemas::fields::FromText as _;
use postern_schemas::result::Blocker;
use postern_schemas::{Identifier, Principal};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::state::Oid;
use crate::config::integration::OwnedObjects;
use crate::postgres::batch::{self, Statement};
use crate::postgres::error::BEGINNING;
use crate::postgres::ledger::{BEGIN, Ledger, OWNER};
use crate::postgres::names::ident;
use crate::postgres::target::Session;
use crate::postgres::{Rounds, Target, TargetError, apply, bundle};

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
                "UPDATE postern.account SET role_name = NULL, role_oid = NULL, password_set_at = NULL, rotation_due = false, iam = false \
                 WHERE principal = $1",
            )
            .text(person.as_str()),
        }
    }
}

/// A role on its way out.
struct Doomed<'a> {
    oid: Oid,
    name: String,
    ledger: &'a Ledger,
    fate: Fate,
}

/// What becomes of what the role owns.
enum Fate {
    Keep,
    Drop,
    Reassign(reassign::Heir),
}

/// A database in which something is granted to the role or owned by it.
struct Place {
    oid: Oid,
    name: String,
    /// The maintenance database, which stands for what belongs to the whole server.
    shared: bool,
    /// It takes connections.
    open: bool,
    /// The role owns something.
    owns: bool,
}

/// Drops the role of this OID and everything that was granted to it. Returns what keeps it from being dropped: a grant
/// that came in the meantime among it. What it was given is taken away in any case where the connector may.
pub async fn drop_role(target: &Target, oid: Oid, owned: &OwnedObjects, record: Record<'_>) -> Result<Vec<Blocker>, TargetError> {
    let mut rounds = Rounds::of(target);
    let mut left = None;
    loop {
        match try_to_drop(target, oid, owned, record).await {
            Ok(Tried::Dropped) => return Ok(Vec::new()),
            Ok(Tried::Blocked(blockers)) => return Ok(blockers),
            // What somebody gave to the role since DROP OWNED goes with another one. What is left again is not ours to take.
            Ok(Tried::Left(blockers)) if !blockers.is_empty() && left.as_ref() == Some(&blockers) => return Ok(blockers),
            Ok(Tried::Left(blockers)) => {
                rounds.after(TargetError::Depended).await?;
                left = Some(blockers);
            }
            Err(error) => rounds.after(error).await?,
        }
    }
}

/// How one try to drop a role ended.
enum Tried {
    /// It is gone, or somebody else's to drop.
    Dropped,
    /// Something keeps it from being dropped.
    Blocked(Vec<Blocker>),
    /// 2BP01 at the last step: something is still given to the role.
    Left(Vec<Blocker>),
}

async fn try_to_drop(target: &Target, oid: Oid, owned: &OwnedObjects, record: Record<'_>) -> Result<Tried, TargetError> {
    let _alone = target.heavy().await;
    let (mut session, ledger) = target.maintenance().await?;
    let Some(name) = role_name(&session, oid).await? else {
        batch::alone(session.client(), vec![record.forget()]).await?;
        return Ok(Tried::Dropped);
    };
    if batch::alone(session.client(), vec![record.needed()]).await?.iter().any(|rows| !rows.is_empty()) {
        return Ok(Tried::Blocked(vec![asked_again()]));
    }
    let mut blocked = blockers::of_the_server(session.client(), oid, &name).await?;
    if !blocked.is_empty() {
        return Ok(Tried::Blocked(blocked));
    }
    let places = places(&session, oid).await?;
    let fate = match owned {
        OwnedObjects::Keep => Fate::Keep,
        OwnedObjects::Drop => Fate::Drop,
        OwnedObjects::ReassignTo(_) if !places.iter().any(|place| place.owns) => Fate::Keep,
        OwnedObjects::ReassignTo(heir) => match reassign::Heir::find(session.client(), &ledger, heir, true).await? {
            Ok(heir) => Fate::Reassign(heir),
            Err(unfit) => {
                // What it owns is named too: it stays.
                blocked.push(Blocker { database: None, object: unfit.why });
                Fate::Keep
            }
        },
    };
    let doomed = Doomed { oid, name, ledger: &ledger, fate };
    for place in &places {
        // Not beside a worker that gives privileges there: two changes of one object's privileges fail.
        bundle::lock(session.begin(), place.oid).await?;
        blocked.extend(visit(target, place, &doomed).await?);
        batch::run(session.client(), &[Statement::plain("committing", "COMMIT")]).await?;
        session.ended();
    }
    if !blocked.is_empty() {
        return Ok(Tried::Blocked(blocked));
    }
    match drop_last(&mut session, &doomed.name, oid, record).await {
        // Something is left that the connector may not take back: name it.
        Err(error) if error.sqlstate() == Some("2BP01") => left(target, &mut session, oid).await.map(Tried::Left),
        // Somebody holds the role: a prepared transaction does so until it is ended.
        Err(error) if error.is_lock_timeout() => held(&session, oid, error).await.map(Tried::Blocked),
        Ok(blockers) if blockers.is_empty() => Ok(Tried::Dropped),
        done => done.map(Tried::Blocked),
    }
}

/// Disposes of the role in one database. What it was given is gone afterwards, unless something is in the way.
async fn visit(target: &Target, place: &Place, doomed: &Doomed<'_>) -> Result<Vec<Blocker>, TargetError> {
    let mut there = match enter(target, place, &doomed.name).await? {
        Ok(there) => there,
        Err(blocker) => return Ok(vec![blocker]),
    };
    let named = |objects: Vec<String>| -> Vec<Blocker> {
        objects.into_iter().map(|object| Blocker { database: Some(place.name.clone()), object }).collect()
    };
    let done = empty(there.begin(), place, doomed).await;
    let end = if matches!(&done, Ok(blocked) if blocked.is_empty()) { "COMMIT" } else { "ROLLBACK" };
    batch::run(there.client(), &[Statement::plain("ending the transaction", end)]).await?;
    there.ended();
    let error = match done {
        Ok(blocked) => return Ok(named(blocked)),
        Err(error) => error,
    };
    match (error.sqlstate(), &doomed.fate) {
        // Something of others depends on what it owns.
        (Some("2BP01"), _) => {
            let mut found = blockers::dependents(there.client(), doomed.oid).await?;
            if found.is_empty() {
                found.push(error.to_string());
            }
            Ok(named(found))
        }
        (Some("42501"), Fate::Reassign(heir)) => {
            Ok(named(vec![format!("objects of {:?} cannot become those of {:?}: {error}", doomed.name, heir.name())]))
        }
        (Some("55P03"), _) => held(&there, doomed.oid, error).await,
        _ => Err(error),
    }
}

/// A session with the database, or why there can be none.
async fn enter(target: &Target, place: &Place, role: &str) -> Result<Result<Session, Blocker>, TargetError> {
    let blocker =
        |why: &str| Blocker { database: Some(place.name.clone()), object: format!("what {role:?} owns or was given there: {why}") };
    let Ok(name) = Identifier::from_text(&place.name) else {
        return Err(TargetError::Unreadable(format!("a database called {:?}", place.name)));
    };
    if !place.open {
        return Ok(Err(blocker("the database takes no connections")));
    }
    match target.session(&name).await {
        Ok(there) => Ok(Ok(there)),
        Err(error) if error.sqlstate() == Some("42501") => Ok(Err(blocker("the connector may not connect to the database"))),
        Err(error) => Err(error),
    }
}

/// The transaction in one database but for its end: commit it if nothing is returned.
async fn empty(client: &Client, place: &Place, doomed: &Doomed<'_>) -> Result<Vec<String>, TargetError> {
    batch::run(client, &[Statement::plain(BEGINNING, BEGIN)]).await?;
    let ways = blockers::ways_into_rds_iam(client, doomed.oid, &doomed.name).await?;
    if !ways.is_empty() {
        return Ok(ways);
    }
    batch::run(client, &join(doomed)).await?;
    let found = match &doomed.fate {
        Fate::Keep => blockers::owned(client, doomed.oid, place.shared).await?,
        Fate::Drop => blockers::along(client, doomed.oid, &doomed.name).await?,
        Fate::Reassign(heir) => heir.take_over(client, doomed.ledger, &doomed.name).await?,
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let mut statements = vec![Statement::plain("dropping what a role was given", format!("DROP OWNED BY {}", ident(&doomed.name)))];
    statements.extend(leave(doomed));
    batch::run(client, &statements).await?;
    Ok(Vec::new())
}

/// Membership in the role for the connector's login, inside a transaction that ends with [`leave`]: nobody ever sees it.
fn join(doomed: &Doomed<'_>) -> [Statement; 3] {
    let options = if doomed.ledger.has_membership_options() { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    as_owner("joining a role to be dropped", format!("GRANT {} TO SESSION_USER{options}", ident(&doomed.name)))
}

fn leave(doomed: &Doomed<'_>) -> [Statement; 3] {
    as_owner("leaving a role to be dropped", apply::leave(&doomed.name, doomed.ledger))
}

fn as_owner(doing: &'static str, sql: String) -> [Statement; 3] {
    [
        Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
        Statement::plain(doing, sql),
        Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"),
    ]
}

/// What is still granted to the role or owned by it, by database and identity.
async fn left(target: &Target, session: &mut Session, oid: Oid) -> Result<Vec<Blocker>, TargetError> {
    batch::run(session.client(), &[Statement::plain("rolling back", "ROLLBACK")]).await?;
    session.ended();
    let version = target.maintenance().await?.1.version;
    let mut blocked = Vec::new();
    for place in places(session, oid).await? {
        let Ok(there) = enter(target, &place, "the role").await? else { continue };
        let found = blockers::left(there.client(), oid, place.shared, version).await?;
        blocked.extend(found.into_iter().map(|object| Blocker { database: Some(place.name.clone()), object }));
    }
    Ok(blocked)
}

/// Prepared transactions that hold what somebody waited for in vain; `error` if it was somebody who will go away.
async fn held(session: &Session, oid: Oid, error: TargetError) -> Result<Vec<Blocker>, TargetError> {
    if session.is_open() {
        batch::run(session.client(), &[Statement::plain("rolling back", "ROLLBACK")]).await?;
    }
    let found = blockers::holders(session.client(), oid).await?;
    if found.is_empty() { Err(error) } else { Ok(found) }
}

/// The same with the role's name, for a result about several.
pub fn of_role(blockers: Vec<Blocker>, role: &str) -> Vec<Blocker> {
    blockers.into_iter().map(|b| Blocker { object: format!("{} (of role {role:?})", b.object), ..b }).collect()
}

fn asked_again() -> Blocker {
    Blocker { database: None, object: "a grant that was asked in the meantime".to_owned() }
}

async fn drop_last(session: &mut Session, name: &str, oid: Oid, record: Record<'_>) -> Result<Vec<Blocker>, TargetError> {
    let client = session.begin();
    let statements = [Statement::plain(BEGINNING, BEGIN), record.lock(oid), record.needed()];
    let answers = batch::run(client, &statements).await?;
    let there = answers.get(1).is_some_and(|rows| !rows.is_empty());
    let needed = answers.get(2).is_some_and(|rows| !rows.is_empty());
    if !there || needed {
        batch::run(client, &[Statement::plain("rolling back", "ROLLBACK")]).await?;
        session.ended();
        return Ok(if needed { vec![asked_again()] } else { Vec::new() });
    }
    let statements = [
        Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
        Statement::plain("dropping the role", format!("DROP ROLE {}", ident(name))),
        Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"),
        record.forget(),
        Statement::plain("committing", "COMMIT"),
    ];
    batch::run(client, &statements).await?;
    session.ended();
    Ok(Vec::new())
}

async fn role_name(session: &Session, oid: Oid) -> Result<Option<String>, TargetError> {
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1";
    let rows = batch::alone(session.client(), vec![Statement::query("naming the role", sql).bind(oid, Type::OID)]).await?;
    Ok(rows.iter().flatten().next().map(|row| row.get(0)))
}

/// Databases in which something is granted to the role or owned by it. What belongs to the whole server, such as
/// privileges on a database, is dropped from any of them: the maintenance database stands for it.
async fn places(session: &Session, oid: Oid) -> Result<Vec<Place>, TargetError> {
    let sql = format!(
        "SELECT p.oid, p.datname::text AS name, p.datname = current_database() AS shared, p.datallowconn AS open, bool_or({OWNS}) AS owns \
         FROM pg_shdepend d JOIN pg_database p ON p.oid = d.dbid OR d.dbid = 0 AND p.datname = current_database() \
         WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 GROUP BY p.oid, p.datname, p.datallowconn ORDER BY 1"
    );
    let rows = batch::alone(session.client(), vec![Statement::query("finding a role's databases", sql).bind(oid, Type::OID)]).await?;
    let place = |row: &tokio_postgres::Row| Place {
        oid: row.get("oid"),
        name: row.get("name"),
        shared: row.get("shared"),
        open: row.get("open"),
        owns: row.get("owns"),
    };
    Ok(rows.iter().flatten().map(place).collect())
}

/// Whether a row `d` of `pg_shdepend` is of something that outlives its owner: default privileges and user mappings
/// are the role's own settings and mean nothing without it.
const OWNS: &str = "d.deptype = 'o' AND d.classid <> 'pg_default_acl'::regclass AND d.classid <> 'pg_user_mapping'::regclass";
