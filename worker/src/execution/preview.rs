//! What an event would do, changing nothing: the same locks, reads and rules, and a rollback.

use postern_schemas::{Cleanup, Event, Principal, Request, Revoke, Rotate};

use crate::access::state::{Bundle, BundleKey, Observed};
use crate::access::{Decision, Plan, Rules, cleanup, revoke};
use crate::execution::single::task;
use crate::postgres::apply::{self, Context};
use crate::postgres::ledger::{self, Ledger};
use crate::postgres::observe::{self, Found, observe};
use crate::postgres::probe::Probes;
use crate::postgres::target::Session;
use crate::postgres::{Target, TargetError, sweep};

/// What stands where a verifier would.
const PASSWORD: &str = "‹password›";

/// The statements and remarks, a line each.
pub async fn preview(event: &Event, target: &Target, rules: &Rules) -> Result<Vec<String>, TargetError> {
    let mut session = target.session(&target.integration().database).await?;
    let found = ledger::look(session.begin()).await?;
    session.ended();
    let Some(ledger) = found else {
        return Ok(vec![
            "-- the ledger (role postern_owner, schema postern) is made first; the first event does that".to_owned(),
            "-- the event's own statements can be shown once it is there".to_owned(),
        ]);
    };
    match &event.request {
        Request::Revoke(Revoke::All(_)) => {
            let until = revoke::effective(event.time, jiff::Timestamp::now());
            let people = sweep::people_with_grants(session.client(), event.request.integration(), until).await?;
            let mut lines = vec![format!("-- {} people lose the grants that were asked until {until}", people.len())];
            for person in people {
                let decide = |role: &str, seen: &Observed| revoke::person(event.request.integration(), &person, until, false, role, seen);
                lines.extend(of_person(&mut session, &ledger, target, event, &person, decide).await?);
            }
            Ok(lines)
        }
        Request::Cleanup(Cleanup { principal: Some(person), .. }) => {
            let until = revoke::effective(event.time, jiff::Timestamp::now());
            let decide = |role: &str, seen: &Observed| cleanup::person(event.request.integration(), person, until, role, seen);
            let mut lines = of_person(&mut session, &ledger, target, event, person, decide).await?;
            lines.push("-- then the role is dropped, with what it was granted in every database, unless it owns objects".to_owned());
            Ok(lines)
        }
        Request::Cleanup(_) => policy(&session, target, event).await,
        Request::Rotate(Rotate::Policy(_)) => {
            Ok(vec!["-- passwords older than credential_rotation_days are marked in the ledger".to_owned()])
        }
        _ => of_single(&mut session, &ledger, event, target, rules).await,
    }
}

async fn of_single(
    session: &mut Session,
    ledger: &Ledger,
    event: &Event,
    target: &Target,
    rules: &Rules,
) -> Result<Vec<String>, TargetError> {
    let task = task(event, target);
    let probes = Probes::ask(target, task.permissions()).await?;
    let found = observe(session.begin(), ledger, &task.question(), &probes).await?;
    apply::rollback(session.client()).await?;
    session.ended();
    let mut seen = match found {
        Found::New(seen) => seen,
        Found::Known(row) => {
            return Ok(vec![format!("-- this event was carried out before (phase {}): nothing to do", row.phase.as_str())]);
        }
    };
    let mut lines = Vec::new();
    loop {
        match task.decide(&seen, rules) {
            Decision::Ensure(keys) => {
                for key in keys {
                    lines.push(format!("-- a bundle role is made or compared: {}", describe(&key)));
                    pretend(&mut seen, key);
                }
            }
            Decision::Do(plan) => {
                lines.extend(sql(&plan, ledger));
                return Ok(lines);
            }
            Decision::NotYet(_) | Decision::Moot => return Ok(vec!["-- nothing to do".to_owned()]),
        }
    }
}

async fn of_person(
    session: &mut Session,
    ledger: &Ledger,
    target: &Target,
    event: &Event,
    person: &Principal,
    decide: impl Fn(&str, &Observed) -> Plan,
) -> Result<Vec<String>, TargetError> {
    let role_name = target.integration().role_name.role_name(person).to_string();
    let seen = observe::person(session.begin(), ledger, event.request.integration(), person, &role_name).await?;
    apply::rollback(session.client()).await?;
    session.ended();
    let mut lines = vec![format!("-- {person}")];
    lines.extend(sql(&decide(&role_name, &seen), ledger));
    Ok(lines)
}

async fn policy(session: &Session, target: &Target, event: &Event) -> Result<Vec<String>, TargetError> {
    let client = session.client();
    let mut lines = Vec::new();
    for (grant_id, revision) in sweep::expired(client, event.request.integration()).await? {
        lines.push(format!("-- grant {grant_id} (revision {revision}) has expired and ends"));
    }
    for person in sweep::drifted(client).await? {
        lines.push(format!("-- {person} has more or less than the ledger says; what is more is taken back"));
    }
    if let Some(days) = target.integration().user_cleanup_days {
        for person in sweep::deletable(client, jiff::SignedDuration::from_hours(24 * i64::from(days))).await? {
            lines.push(format!("-- {person} has had no grant for {days} days; the account is dropped unless it owns objects"));
        }
    }
    lines.push("-- bundle roles in use are compared, the others dropped, and the ledger is pruned".to_owned());
    Ok(lines)
}

/// The plan's outcome, its catalog changes as SQL, and a word for each ledger row.
fn sql(plan: &Plan, ledger: &Ledger) -> Vec<String> {
    let reason = plan.reason.as_ref().map(|r| format!(" ({}: {})", r.code.as_str(), r.message)).unwrap_or_default();
    let mut lines = vec![format!("-- {}{reason}", plan.outcome().as_str())];
    lines.extend(plan.drift.iter().map(|d| format!("-- differs from the ledger: {} {}", d.kind, d.target)));
    let context = Context { ledger, verifier: Some(PASSWORD), by: "" };
    for statement in apply::statements(plan, context) {
        if statement.is_ledger() {
            lines.push(format!("-- ledger: {}", statement.doing));
        } else {
            lines.push(format!("{};", statement.sql));
        }
    }
    if plan.end_sessions {
        lines.push("-- then every session of the person ends".to_owned());
    }
    lines
}

fn describe(key: &BundleKey) -> String {
    let scope = [Some(&key.database_name), key.schema.as_ref(), key.table.as_ref()];
    let scope: Vec<&str> = scope.into_iter().flatten().map(postern_schemas::Identifier::as_str).collect();
    format!("{} on {}", key.access.as_str(), scope.join("."))
}

/// Decides as if the bundle were there.
fn pretend(seen: &mut Observed, key: BundleKey) {
    let role = format!("‹bundle {}›", describe(&key));
    seen.bundles.retain(|bundle| bundle.key != key);
    seen.bundles.push(Bundle { id: 0, key, role, usable: true, fresh: true, warnings: Vec::new() });
}
