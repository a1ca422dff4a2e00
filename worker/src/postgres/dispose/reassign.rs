//! The role that gets what a deleted account owned: only one that policy names, that nothing dangerous can be done with,
//! and only what could never run with its rights.

use std::collections::BTreeMap;

use postern_schemas::Identifier;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::access::policy::forbidden;
use crate::access::state::RoleFacts;
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::ledger::Ledger;
use crate::postgres::names::ident;
use crate::postgres::{observe, rows};

const DANGERS: &str = include_str!("dangers.sql");

/// The role that `reassign_to` names, found fit.
pub struct Heir {
    name: Identifier,
    /// The connector has to become a member for the moment.
    joins: bool,
}

/// Why a role gets nothing.
pub struct Unfit {
    /// What is wrong, and what would mend it.
    pub why: String,
    /// There is no such role.
    pub missing: bool,
    /// All that is missing is the connector's membership.
    pub membership: bool,
}

impl Heir {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Judges the role by the catalog, and with `in_ledger` by the ledger too. The inner error says what is wrong with it.
    pub async fn find(client: &Client, ledger: &Ledger, name: &Identifier, in_ledger: bool) -> Result<Result<Self, Unfit>, TargetError> {
        let answers = batch::alone(client, vec![chain(name, in_ledger), rights(ledger, name)]).await?;
        let facts = answers.first().map(|found| rows::roles(found)).transpose()?.unwrap_or_default();
        let uses = answers.last().is_some_and(|rows| rows.iter().any(|row| row.get("uses")));
        Ok(Self::judge(ledger, name, &facts, uses))
    }

    fn judge(ledger: &Ledger, name: &Identifier, facts: &BTreeMap<Identifier, RoleFacts>, uses: bool) -> Result<Self, Unfit> {
        let facts = facts.get(name);
        if let Some(why) = refusal(name, facts) {
            return Err(Unfit { why, missing: facts.is_none(), membership: false });
        }
        if !uses && !facts.is_some_and(|facts| facts.can_hand_on) {
            let connector = &ledger.connector;
            let why = format!(
                "the connector {connector:?} is no member of {:?}, the role that reassign_to names; as an administrator: {}",
                name.as_str(),
                membership(ledger, name)
            );
            return Err(Unfit { why, missing: false, membership: true });
        }
        Ok(Self { name: name.clone(), joins: !uses })
    }

    /// Gives it what the role `from` owns in this database, and judges what that was, inside the caller's transaction.
    /// Roll back if anything is returned: it could run with the heir's rights.
    pub(super) async fn take_over(&self, client: &Client, ledger: &Ledger, from: &str) -> Result<Vec<String>, TargetError> {
        let (heir, login) = (ident(self.name()), ident(&ledger.connector));
        let lacking = batch::run(client, &[lacking(from, self.name())]).await?;
        let (lend, take_back) = lent(lacking.first().map_or(&[], Vec::as_slice), &heir);
        let mut statements = lend;
        if self.joins {
            statements.push(Statement::plain("joining the role that reassign_to names", membership(ledger, &self.name)));
        }
        statements.push(Statement::plain("reassigning", format!("REASSIGN OWNED BY {} TO {heir}", ident(from))));
        statements.extend(take_back);
        if self.joins {
            statements.push(Statement::plain("leaving the role that reassign_to names", format!("REVOKE {heir} FROM {login}")));
        }
        // It may have been given powers since it was looked at.
        statements.push(chain(&self.name, false));
        statements.push(Statement::query("looking for what could run as the new owner", DANGERS).bind(self.name().to_owned(), Type::NAME));
        let mut answers = batch::run(client, &statements).await?;
        let dangers = answers.pop().unwrap_or_default();
        let facts = rows::roles(&answers.pop().unwrap_or_default())?;
        let mut found: Vec<String> = refusal(&self.name, facts.get(&self.name)).into_iter().collect();
        found.extend(dangers.iter().map(|row| row.get::<_, String>("object")));
        Ok(found)
    }
}

/// An owner of functions, operators and the like needs CREATE on their schema, one of publications on the database. It is
/// lent for the moment of the change where the heir lacks it: what the heir owns then was made there already.
fn lacking(from: &str, heir: &str) -> Statement {
    Statement::query(
        "looking for what an owner needs",
        "WITH owned AS ( \
           SELECT d.classid, d.objid, d.refobjid AS owner FROM pg_shdepend d JOIN pg_roles f ON f.oid = d.refobjid \
           WHERE f.rolname = $1 AND d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' \
             AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND d.classid <> 'pg_class'::regclass AND d.classid <> 'pg_type'::regclass) \
         SELECT DISTINCT 'SCHEMA' AS kind, n.nspname::text AS name, n.nspowner = o.owner AS moves \
         FROM owned o JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid AND d.refclassid = 'pg_namespace'::regclass \
           JOIN pg_namespace n ON n.oid = d.refobjid \
         WHERE NOT has_schema_privilege($2, n.oid, 'CREATE') AND has_schema_privilege(session_user, n.oid, 'CREATE WITH GRANT OPTION') \
         UNION SELECT 'DATABASE', current_database()::text, false FROM owned o \
         WHERE o.classid = 'pg_publication'::regclass AND NOT has_database_privilege($2, current_database(), 'CREATE') \
           AND has_database_privilege(session_user, current_database(), 'CREATE WITH GRANT OPTION') ORDER BY 1, 2",
    )
    .bind(from.to_owned(), Type::NAME)
    .bind(heir.to_owned(), Type::NAME)
}

/// Statements that lend what is lacking, and that take it back. A schema that moves too makes it the heir's own.
fn lent(lacking: &[Row], heir: &str) -> (Vec<Statement>, Vec<Statement>) {
    let on = |row: &Row| format!("{} {}", row.get::<_, &str>("kind"), ident(row.get("name")));
    let lend = |row: &Row| Statement::plain("lending CREATE", format!("GRANT CREATE ON {} TO {heir}", on(row)));
    let take = |row: &Row| Statement::plain("taking CREATE back", format!("REVOKE CREATE ON {} FROM {heir}", on(row)));
    (lacking.iter().map(lend).collect(), lacking.iter().filter(|row| !row.get::<_, bool>("moves")).map(take).collect())
}

/// Why nothing may be given to the role; `None`: it may.
fn refusal(name: &Identifier, facts: Option<&RoleFacts>) -> Option<String> {
    let name = name.as_str();
    let Some(facts) = facts else { return Some(format!("reassign_to names {name:?}, and there is no such role")) };
    let (link, why) = forbidden(facts)?;
    let through = if link.name == name { String::new() } else { format!(" is a member of {:?}, which", link.name) };
    Some(format!("reassign_to names {name:?}, which{through} {why}; nothing is ever given to such a role"))
}

/// What makes the connector a member, so that it may give the role objects.
pub fn membership(ledger: &Ledger, name: &Identifier) -> String {
    let options = if ledger.has_membership_options() { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    format!("GRANT {} TO {}{options}", ident(name.as_str()), ident(&ledger.connector))
}

fn chain(name: &Identifier, in_ledger: bool) -> Statement {
    let sql = observe::role_chains("SELECT $1::text AS name", if in_ledger { observe::IN_LEDGER } else { "" });
    Statement::query("looking at the role that reassign_to names", sql).text(name.as_str())
}

/// Whether the connector has the role's rights and may set it, which giving it objects takes.
fn rights(ledger: &Ledger, name: &Identifier) -> Statement {
    let set = if ledger.has_membership_options() { "SET" } else { "MEMBER" };
    let sql = format!(
        "SELECT pg_has_role(session_user, oid, 'USAGE') AND pg_has_role(session_user, oid, '{set}') AS uses FROM pg_roles WHERE rolname = $1"
    );
    Statement::query("looking at the connector's rights", sql).text(name.as_str())
}
