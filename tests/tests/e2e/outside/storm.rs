//! Hundreds of events, or as many thousands as asked for, by several workers for few people on few bundles, with hostile sessions beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use postern_tests::events::{Event, cleanup, cleanup_principal, grant, revoke_grant, revoke_principal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;

use super::meddlers::Meddlers;
use crate::explained;

const WORKERS: usize = 4;
const PEOPLE: u64 = 50;
/// Everything has its result by then, on a loaded machine too.
const PATIENCE: Duration = Duration::from_mins(8);

/// How many events. `POSTERN_TEST_EVENTS` overrides it: 5000 say more, and take minutes.
fn count() -> u64 {
    std::env::var("POSTERN_TEST_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

/// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Adds one of five bundles: three scopes in one database, two of them on one schema, and another database.
fn scoped(event: Event, number: u64) -> Event {
    match number % 5 {
        0 => event.database("orders", "read_only"),
        1 => event.schema("orders", "sales", "read_only"),
        2 => event.schema("orders", "sales", "read_write"),
        3 => event.tables("orders", "sales", &["lines"], "read_only"),
        _ => event.database("billing", "read_only"),
    }
}

/// Grants, some of them with a second revision, revokes of most of them, and now and then something wide.
fn events(count: u64) -> Vec<Event> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let began = Timestamp::now() - SignedDuration::from_mins(10);
    let mut events = Vec::new();
    let mut grants = 0;
    for n in 0..count {
        let who = |number: u64| format!("p{}", number % PEOPLE);
        let asked = match numbers.below(100) {
            0..55 => {
                grants += 1;
                let event = scoped(grant(INTEGRATION, &format!("AR-{grants}"), &who(grants)), numbers.below(5));
                match numbers.below(10) {
                    0 => event.expires_in(SignedDuration::from_secs(20)),
                    1..4 => scoped(event, numbers.below(5)),
                    _ => event,
                }
            }
            55..67 if grants > 0 => {
                // Narrower, wider or something else: what was held goes, what is new comes, in one transaction.
                let known = 1 + numbers.below(grants);
                scoped(grant(INTEGRATION, &format!("AR-{known}"), &who(known)).revision(2), numbers.below(5))
            }
            67..97 => revoke_grant(INTEGRATION, &format!("AR-{}", 1 + numbers.below(grants.max(1)))),
            97 => revoke_principal(INTEGRATION, &who(numbers.below(PEOPLE))),
            98 if numbers.below(2) == 0 => cleanup_principal(INTEGRATION, &who(numbers.below(PEOPLE))),
            _ if numbers.below(4) == 0 => cleanup(INTEGRATION),
            _ => revoke_grant(INTEGRATION, &format!("AR-{}", 1 + numbers.below(grants.max(1)))),
        };
        events.push(asked.asked_at(began + SignedDuration::from_millis(i64::try_from(n).unwrap_or(0) * 100)));
    }
    // The same revision of one grant_id with another body may be asked once only: the later one is `unchanged`.
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn many_events_beside_hostile_sessions_leave_ledger_and_catalog_equal() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.pg.create_database("billing", "CREATE TABLE bills (id int)").await?;
    stage.workers(WORKERS).await?;
    let events = events(count());
    let mut published = events.clone();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for _ in 0..events.len() / 20 {
        published.push(events[usize::try_from(numbers.below(events.len() as u64))?].clone());
    }
    for last in (1..published.len()).rev() {
        published.swap(last, usize::try_from(numbers.below(last as u64 + 1))?);
    }

    let meddlers = Meddlers::begin(&stage).await?;
    let began = Instant::now();
    for wave in published.chunks(500) {
        stage.broker.publish_all(wave).await?;
    }
    let wanted: BTreeSet<&str> = events.iter().map(Event::id).collect();
    let is_done = |seen: &[postern_tests::broker::Message]| {
        // Looking through all of them is work: not before there can be enough, and then now and then.
        if seen.len() < published.len() {
            return None;
        }
        let finals: BTreeSet<&str> =
            seen.iter().filter(|m| m.data()["final"] == true).filter_map(|m| m.data()["event_id"].as_str()).collect();
        wanted.is_subset(&finals).then_some(())
    };
    stage.audit.wait_until(PATIENCE, is_done).await.with_context(|| stage.worker_logs())?;
    let elapsed = began.elapsed();
    let rounds = meddlers.stop(&stage).await?;
    ensure!(rounds.iter().all(|rounds| *rounds > 0), "every meddler came through now and then: {rounds:?}");

    one_result_each(&stage)?;
    explained(&stage).await?;
    privileges_are_right(&stage).await?;
    no_person_is_named_on_objects(&stage).await?;
    no_deadlock_with_itself(&stage.pg.log()?)?;
    tell(&stage, u32::try_from(events.len())?, elapsed, &rounds).await?;
    stage.finish().await
}

/// Every event has one final result, and it is none that something outside could have caused.
fn one_result_each(stage: &Stage) -> Result<()> {
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for message in stage.audit.all() {
        let data = message.data();
        ensure!(data["final"] == true && data["outcome"] != "failed", "a failure: {data:#}");
        let expired = data["reason"]["code"] == "expired";
        ensure!(data["outcome"] != "rejected" || expired, "an unexpected refusal: {data:#}");
        // A clean-up keeps the role of somebody who is given something while it is being dropped.
        let needed = |blocker: &Value| blocker["object"].as_str().is_some_and(|object| object.starts_with("a grant that was asked"));
        ensure!(data["blocked"].as_array().is_none_or(|all| all.iter().all(needed)), "nothing else was in the way: {data:#}");
        let (event, id) =
            (data["event_id"].to_string() + &data["event_source"].to_string(), message.message_id().unwrap_or_default().to_owned());
        let first = ids.entry(event).or_insert_with(|| id.clone());
        ensure!(*first == id, "two results of one event: {data:#}");
    }
    Ok(())
}

/// Every bundle that is in use gives what it stands for, on the objects that nobody meddled with, and no more.
async fn privileges_are_right(stage: &Stage) -> Result<()> {
    let ledger = stage.pg.superuser("postgres").await?;
    let used = "SELECT b.role_name, b.schema_name, b.table_name, b.access, d.datname::text FROM postern.bundle b \
                JOIN pg_database d ON d.oid = b.database_oid WHERE EXISTS \
                  (SELECT FROM postern.access_grant g WHERE g.ending IS NULL AND b.id = ANY (g.bundles))";
    let bundles = ledger.query(used, &[]).await?;
    ensure!(!bundles.is_empty(), "no bundle is in use");
    for bundle in &bundles {
        let [role, schema, table, access, database]: [String; 5] = std::array::from_fn(|n| bundle.get(n));
        let there = stage.pg.superuser(&database).await?;
        let sql = "SELECT n.nspname::text, c.relname::text, p, has_table_privilege($1::name, c.oid, p) AND has_schema_privilege($1::name, n.oid, 'USAGE') \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, unnest(ARRAY['SELECT', 'INSERT']) p \
                   WHERE c.relkind IN ('r', 'v', 'm', 'p') AND (n.nspname, c.relname) IN (('sales', 'invoices'), ('sales', 'lines'), \
                     ('sales', 'big_invoices'), ('sales', 'shipments_2026'), ('hr', 'salaries'), ('public', 'bills'))";
        for row in there.query(sql, &[&role]).await? {
            let (in_schema, name, privilege, has): (String, String, String, bool) = (row.get(0), row.get(1), row.get(2), row.get(3));
            let in_scope = (schema.is_empty() || schema == in_schema) && (table.is_empty() || table == name);
            let wanted = in_scope && (privilege == "SELECT" || access == "read_write");
            ensure!(has == wanted, "{role}: {privilege} on {in_schema}.{name} is {has}");
        }
    }
    Ok(())
}

/// What a table's row holds does not grow with people (it overflows at the 2,444th grantee): no object names a person.
async fn no_person_is_named_on_objects(stage: &Stage) -> Result<()> {
    let ledger = stage.pg.superuser("postgres").await?;
    let people: Vec<u32> =
        ledger.query("SELECT role_oid FROM postern.account WHERE role_oid IS NOT NULL", &[]).await?.iter().map(|row| row.get(0)).collect();
    for database in ["orders", "billing"] {
        let sql = "SELECT count(*) FROM pg_shdepend WHERE refobjid = ANY ($1) AND deptype = 'a' AND classid <> 'pg_auth_members'::regclass";
        let named: i64 = stage.pg.superuser(database).await?.query_one(sql, &[&people]).await?.get(0);
        ensure!(named == 0, "{named} objects name people in {database}");
    }
    let log = stage.pg.log()?;
    let to_a_person = log.lines().find(|line| line.contains("postern_connector@") && line.contains(" ON ") && line.contains("TO \"p"));
    ensure!(to_a_person.is_none_or(|line| line.contains("TO \"postern:")), "{to_a_person:?}");
    Ok(())
}

/// Deadlocks with others happen; between two of the connector's own sessions they must not. The server names the
/// processes of each in its log.
fn no_deadlock_with_itself(log: &str) -> Result<()> {
    let process = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    let mut users: BTreeMap<String, &str> = BTreeMap::new();
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines {
        if let (Some(pid), Some((_, rest))) = (process(line), line.split_once("] "))
            && let Some((user, _)) = rest.split_once('@')
        {
            users.insert(pid, user);
        }
    }
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("blocked by process")) {
        let report: Vec<&str> = lines[at..].iter().take_while(|line| **line == lines[at] || line.starts_with('\t')).copied().collect();
        let waits = report.iter().filter(|line| line.contains("blocked by process"));
        let parties: Vec<&str> = waits.filter_map(|line| line.split("Process ").nth(1)?.split(' ').next()).collect();
        let foreign = parties.iter().any(|pid| users.get(*pid).is_some_and(|user| *user != "postern_connector"));
        ensure!(foreign || !lines[at].contains("DETAIL"), "Postern against itself:\n{}", report.join("\n"));
    }
    Ok(())
}

/// The figures, for whoever runs it with `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures of a measurement")]
async fn tell(stage: &Stage, events: u32, elapsed: Duration, rounds: &[u64]) -> Result<()> {
    let mut numbers: BTreeMap<String, u64> = BTreeMap::new();
    for worker in &stage.workers {
        let (_, text) = worker.get("/metrics").await?;
        for line in text.lines().filter(|line| line.starts_with("postern_retries_total{") || line.starts_with("postern_waiting_total{")) {
            if let Some((name, value)) = line.rsplit_once(' ') {
                *numbers.entry(name.to_owned()).or_default() += value.parse::<u64>()?;
            }
        }
    }
    let later = stage.audit.all().iter().filter(|m| m.data()["attempt"].as_u64() > Some(1)).count();
    let codes: BTreeMap<String, usize> = stage.audit.all().iter().fold(BTreeMap::new(), |mut all, m| {
        *all.entry(outcome(m.data())).or_default() += 1;
        all
    });
    eprintln!(
        "PostgreSQL {}: {events} events in {:.1} s, {:.0}/s; {later} results after the first attempt; {numbers:?}; {codes:?}; meddlers {rounds:?}",
        stage.pg.version(),
        elapsed.as_secs_f64(),
        f64::from(events) / elapsed.as_secs_f64()
    );
    Ok(())
}

fn outcome(data: &Value) -> String {
    data["outcome"].as_str().unwrap_or_default().to_owned()
}
