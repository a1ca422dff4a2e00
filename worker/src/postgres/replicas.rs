//! Ending a person's sessions on read replicas.
//!
//! A replica has the same roles under the same OIDs, but later: until it has replayed a revoke it lets the person in
//! again. So its own picture of the roles is compared with the primary's until it gives nothing more, and only then
//! the sessions are ended for good. Log positions are not compared: not every platform shows them on a replica.
//! Nothing here fails an event: access on the primary is over, and what could not be done here is a warning.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::access::state::Oid;
use crate::postgres::batch::{self, Statement};
use crate::postgres::ledger::{self, Ledger};
use crate::postgres::sessions::{self, Ended};
use crate::postgres::target::Session;
use crate::postgres::{Target, TargetError};

/// How long a replica may lag behind before the result says so.
const REPLAY_PATIENCE: Duration = Duration::from_secs(5);
/// All of it on one replica: connecting, the lag, the dying of backends.
const LONGEST: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(25);

/// Login and memberships of roles. Parameter: their OIDs.
const STATE: &str = "SELECT r.oid, r.rolcanlogin, ARRAY(SELECT m.roleid FROM pg_auth_members m WHERE m.member = r.oid) AS member_of \
     FROM pg_roles r WHERE r.oid = ANY ($1)";

/// Read replicas that stream from this server. Others that read its log, such as `pg_receivewal`, report no replay.
const STANDBYS: &str = "SELECT DISTINCT concat_ws(' at ', nullif(r.application_name, ''), host(r.client_addr)) AS name \
     FROM pg_stat_replication r WHERE r.state = 'streaming' AND r.replay_lsn IS NOT NULL \
       AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical') ORDER BY 1";

/// What roles may do: whether they can log in, and what they are members of.
type State = BTreeMap<Oid, (bool, Vec<Oid>)>;

/// Ends the sessions of `roles` on all replicas. Fails only if the primary does, which is asked what roles may do.
pub async fn end(target: &Target, roles: &[Oid]) -> Result<Ended, TargetError> {
    let (session, ledger) = target.maintenance().await?;
    let question = Question::ask(target, session, &ledger, roles).await?;
    Ok(question.end(target).await)
}

/// Whose sessions are to end on the replicas, with what the primary says of them.
struct Question {
    roles: Vec<Oid>,
    ledger: Uuid,
    state: State,
    warnings: Vec<String>,
}

impl Question {
    /// Asks the primary. The session goes back before any replica is looked at.
    async fn ask(target: &Target, session: Session, ledger: &Ledger, roles: &[Oid]) -> Result<Self, TargetError> {
        let mut question = Self { roles: roles.to_vec(), ledger: ledger.id, state: State::new(), warnings: Vec::new() };
        if target.integration().replicas.is_none() {
            let unnamed = standbys(session.client()).await?;
            if !unnamed.is_empty() {
                let names = unnamed.join(", ");
                question.warnings.push(format!("replicas were not looked at: {names}; the integration's `replicas` names none"));
            }
        } else if !target.replicas().is_empty() {
            question.state = state(session.client(), roles).await?;
        }
        Ok(question)
    }

    /// Ends the sessions on every replica at once.
    async fn end(self, target: &Target) -> Ended {
        let all = join_all(target.replicas().iter().map(|replica| self.end_on(replica))).await;
        let mut ended = Ended { warnings: self.warnings, ..Ended::default() };
        for one in all {
            ended.add(one);
        }
        ended
    }

    async fn end_on(&self, replica: &Target) -> Ended {
        let address = replica.integration().address();
        let not_looked_at = |why: &str| Ended { warnings: vec![format!("replica {address} was not looked at: {why}")], ..Ended::default() };
        if replica.pause().is_some() {
            return not_looked_at("it could not be reached a moment ago");
        }
        let outcome = tokio::time::timeout(LONGEST, self.look_and_end(replica)).await;
        let outcome = outcome.unwrap_or(Err(TargetError::Busy(LONGEST.as_secs())));
        replica.note(outcome.as_ref().err().filter(|error| error.closes_circuit()).map(TargetError::reason));
        outcome.unwrap_or_else(|error| not_looked_at(&error.to_string()))
    }

    async fn look_and_end(&self, replica: &Target) -> Result<Ended, TargetError> {
        let address = replica.integration().address();
        let mut session = replica.session(&replica.integration().database).await?;
        let began = Instant::now();
        let mut ended = Ended::default();
        loop {
            let picture = self.picture(&mut session).await?;
            if let Picture::Stranger(why) = picture {
                ended.warnings.push(format!("replica {address} was not looked at: {why}"));
                return Ok(ended);
            }
            // While the replica catches up too: nobody goes on reading meanwhile.
            if picture != Picture::Empty {
                ended.surviving = 0;
                ended.add(sessions::end_on(session.client(), &self.roles).await?);
            }
            if picture == Picture::Same {
                replica.lags.store(false, Ordering::Relaxed);
                return Ok(ended);
            }
            // One that lagged at the last look is not waited for by every event again.
            if began.elapsed() >= REPLAY_PATIENCE || replica.lags.load(Ordering::Relaxed) {
                replica.lags.store(true, Ordering::Relaxed);
                ended.warnings.push(format!(
                    "replica {address} lags behind and has not replayed this change: sessions there were ended, but who logs in there \
                     before it does keeps access until the next clean-up"
                ));
                return Ok(ended);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn picture(&self, session: &mut Session) -> Result<Picture, TargetError> {
        let seen = ledger::see(session.begin()).await?;
        session.ended();
        if !seen.standby {
            return Ok(Picture::Stranger("it is no read replica (not in recovery), so its roles may be others"));
        }
        match seen.found {
            None => Ok(Picture::Empty),
            Some((id, _)) if id != self.ledger => Ok(Picture::Stranger("it is a replica of another server: its ledger is another")),
            Some(_) if gives_no_more(&state(session.client(), &self.roles).await?, &self.state) => Ok(Picture::Same),
            Some(_) => Ok(Picture::Late),
        }
    }
}

/// What a replica shows of the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Picture {
    /// Nothing more than the primary gives.
    Same,
    /// More than the primary gives: it has not replayed everything.
    Late,
    /// No ledger: it is very late, or no replica of ours, whose OIDs mean other people.
    Empty,
    /// It is not what it should be: nobody is to be touched there.
    Stranger(&'static str),
}

/// Whether `theirs` opens nothing that `ours` does not.
fn gives_no_more(theirs: &State, ours: &State) -> bool {
    let nothing = (false, Vec::new());
    theirs.iter().all(|(oid, (can_login, member_of))| {
        let (may_login, may_be) = ours.get(oid).unwrap_or(&nothing);
        (*may_login || !can_login) && member_of.iter().all(|role| may_be.contains(role))
    })
}

async fn state(client: &Client, roles: &[Oid]) -> Result<State, TargetError> {
    let statement = Statement::query("reading roles", STATE).bind(roles.to_vec(), Type::OID_ARRAY);
    let rows = batch::reading(client, vec![statement]).await?;
    Ok(rows.iter().flatten().map(|row| (row.get("oid"), (row.get("rolcanlogin"), row.get("member_of")))).collect())
}

/// The read replicas that stream from the server, as far as the connector may see them.
pub async fn standbys(client: &Client) -> Result<Vec<String>, TargetError> {
    let rows = batch::reading(client, vec![Statement::query("looking for replicas", STANDBYS)]).await?;
    Ok(rows.iter().flatten().map(|row| row.get("name")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_followed_once_it_gives_nothing_more() {
        let open = |roles: &[Oid]| State::from([(7, (true, roles.to_vec()))]);
        let shut = State::from([(7, (false, Vec::new()))]);
        assert!(!gives_no_more(&open(&[]), &shut), "it still lets the person in");
        assert!(!gives_no_more(&open(&[1, 2]), &open(&[1])), "it still has the membership that was taken away");
        assert!(!gives_no_more(&open(&[]), &State::new()), "it still has a role that was dropped");
        assert!(gives_no_more(&open(&[1]), &open(&[1, 2])), "what was given since may come later");
        assert!(gives_no_more(&shut, &shut) && gives_no_more(&State::new(), &shut));
    }
}
