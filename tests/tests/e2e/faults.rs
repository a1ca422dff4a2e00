//! Nothing is lost, whatever dies.

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use postern_tests::events::{Event, grant, revoke_grant};
use postern_tests::proxy::Proxy;
use postern_tests::rabbit::Rabbit;
use postern_tests::stage::{INTEGRATION, Stage};

use crate::{ended, explained, sessions_of};

#[tokio::test]
async fn a_worker_that_dies_between_commit_and_publish_leaves_no_result_out() -> Result<()> {
    let mut stage = Stage::start().await?;
    let once = stage.scratch().path().join("died").display().to_string();
    stage.spawn(&[("POSTERN_FAULT", "after_commit"), ("POSTERN_FAULT_ONCE", &once)])?.ready().await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    stage.publish(&asked).await?;
    stage.workers.first_mut().context("no worker")?.wait().await?;
    assert!(stage.audit.all_for(asked.id()).is_empty(), "the worker died before it published");
    stage.workers(1).await?;
    let result = stage.result_of(&asked).await?;
    assert_eq!(result["outcome"], "succeeded");
    assert_eq!(result["credential"]["generation"], 1);
    stage.login_as(&result).await?;
    assert_eq!(stage.audit.all_for(asked.id()).len(), 1);
    stage.finish().await
}

#[tokio::test]
async fn a_worker_that_dies_before_the_sessions_end_leaves_none() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let _session = stage.login_as(&stage.expect(&asked, "succeeded").await?).await?;
    stage.workers.first_mut().context("no worker")?.terminate().await?;
    let once = stage.scratch().path().join("died").display().to_string();
    stage.spawn(&[("POSTERN_FAULT", "after_commit"), ("POSTERN_FAULT_ONCE", &once)])?.ready().await?;
    let revoke = revoke_grant(INTEGRATION, "AR-1");
    stage.publish(&revoke).await?;
    stage.workers.last_mut().context("no worker")?.wait().await?;
    let admin = stage.pg.admin("postgres").await?;
    assert!(ended(&admin, "jane").await?, "the commit was before the death");
    stage.workers(1).await?;
    let result = stage.result_of(&revoke).await?;
    assert_eq!(result["outcome"], "succeeded");
    assert_eq!(result["sessions_terminated"], 1);
    assert_eq!(sessions_of(&admin, "jane").await?, 0);
    stage.finish().await
}

#[tokio::test]
async fn an_event_that_kills_workers_is_parked_and_its_neighbours_are_not() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let killer = grant(INTEGRATION, "killer", "jane").database("orders", "read_only");
    let neighbours: Vec<Event> = (0..5).map(|n| grant(INTEGRATION, &format!("AR-{n}"), "kim").database("orders", "read_only")).collect();
    stage.workers.first_mut().context("no worker")?.terminate().await?;
    stage.publish(&killer).await?;
    stage.broker.publish_all(&neighbours).await?;
    let fault = format!("event {}", killer.id());
    let parked = |all: &[postern_tests::broker::Message]| all.iter().any(|m| m.data()["reason"]["code"] == "poison").then_some(());
    for _ in 0..20 {
        stage.spawn(&[("POSTERN_FAULT", &fault)])?;
        let Stage { workers, audit, .. } = &mut stage;
        let died = workers.last_mut().context("no worker")?.wait();
        let poison = audit.wait_until(postern_tests::audit::TIMEOUT, parked);
        tokio::select! { died = died => { died?; } poison = poison => { poison?; break; } }
    }
    for event in &neighbours {
        assert_eq!(stage.result_of(event).await?["outcome"], "succeeded");
    }
    // The result is published before the message is parked.
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    while stage.broker.depth("dead").await? == Some(0) && std::time::Instant::now() < deadline {
        tokio::time::sleep(postern_tests::process::POLL).await;
    }
    let dead = stage.broker.drain("dead").await?;
    assert_eq!(dead.len(), 1, "only the killer is parked");
    assert_eq!(dead[0].body, killer.bytes());
    assert_eq!(stage.audit.all_for(killer.id())[0].data()["outcome"], "failed");
    stage.finish().await
}

#[tokio::test]
async fn a_restarted_server_in_the_middle_of_five_hundred_events_loses_none() -> Result<()> {
    let rabbit = Rabbit::start().await?;
    through(rabbit, true).await
}

#[tokio::test]
async fn a_restarted_broker_in_the_middle_of_five_hundred_events_loses_none() -> Result<()> {
    let rabbit = Rabbit::start().await?;
    through(rabbit, false).await
}

async fn through(mut rabbit: Rabbit, restart_postgres: bool) -> Result<()> {
    let mut stage = Stage::builder().broker(&rabbit.amqp_url()).start().await?;
    stage.workers(2).await?;
    let events: Vec<Event> = (0..250)
        .flat_map(|n| {
            let id = format!("AR-{n}");
            let asked = grant(INTEGRATION, &id, &format!("person-{}", n % 25)).schema("orders", "sales", "read_only");
            let ends = (n % 2 == 0).then(|| revoke_grant(INTEGRATION, &id));
            std::iter::once(asked).chain(ends)
        })
        .chain((0..125).map(|n| grant(INTEGRATION, &format!("BR-{n}"), &format!("person-{}", n % 25)).database("orders", "read_write")))
        .collect();
    assert_eq!(events.len(), 500);
    stage.broker.publish_all(&events).await?;
    let some = stage.audit.wait_until(postern_tests::audit::TIMEOUT, |all| (all.len() >= 60).then_some(())).await;
    some?;
    if restart_postgres {
        stage.pg.restart().await?;
    } else {
        rabbit.restart().await?;
        // The collector's queue went with its connection, and with it results that were published in between: what the
        // ledger holds is asked for again below.
        stage.audit = postern_tests::audit::Audit::start(&rabbit.amqp_url(), stage.broker.name("").trim_end_matches('.')).await?;
        settled(&stage, events.len()).await?;
        stage.broker.publish_all(&events).await?;
    }
    try_join_all(events.iter().map(|event| stage.result_of(event))).await?;
    explained(&stage).await?;
    assert_eq!(stage.broker.depth("dead").await?, Some(0));
    stage.finish().await
}

/// Waits until the ledger has a result for each event.
async fn settled(stage: &Stage, count: usize) -> Result<()> {
    let client = stage.pg.superuser("postgres").await?;
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    loop {
        let done: i64 = client.query_one("SELECT count(*) FROM postern.event WHERE phase = 'done'", &[]).await?.get(0);
        if usize::try_from(done)? == count {
            return Ok(());
        }
        anyhow::ensure!(std::time::Instant::now() < deadline, "{done} of {count} events are settled\n{}", stage.worker_logs());
        tokio::time::sleep(postern_tests::process::POLL).await;
    }
}

#[tokio::test]
async fn a_drained_worker_finishes_what_runs_and_gives_the_rest_back() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let events: Vec<Event> =
        (0..60).map(|n| grant(INTEGRATION, &format!("AR-{n}"), &format!("p{n}")).database("orders", "read_only")).collect();
    stage.broker.publish_all(&events).await?;
    stage.audit.wait_until(postern_tests::audit::TIMEOUT, |all| (!all.is_empty()).then_some(())).await?;
    let status = stage.workers.first_mut().context("no worker")?.terminate().await?;
    assert_eq!(status.code(), Some(0));
    stage.workers(1).await?;
    for event in &events {
        stage.result_of(event).await?;
    }
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_dead_target_does_not_slow_another_and_its_events_wait() -> Result<()> {
    let nowhere = postern_tests::process::free_port()?;
    let mut stage = Stage::builder().integration("dead", &format!("port = {nowhere}")).start().await?;
    stage.workers(1).await?;
    let waiting: Vec<Event> = (0..100).map(|n| grant("dead", &format!("D-{n}"), "jane").database("orders", "read_only")).collect();
    stage.broker.publish_all(&waiting).await?;
    let began = std::time::Instant::now();
    for n in 0..20 {
        stage.expect(&grant(INTEGRATION, &format!("AR-{n}"), "jane").database("orders", "read_only"), "succeeded").await?;
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
    assert!(stage.audit.all_for(waiting[0].id()).is_empty(), "nothing is said about an event that waits");
    stage.finish().await
}

#[tokio::test]
async fn a_network_that_forgets_connections_hangs_nobody() -> Result<()> {
    let proxy = Proxy::start().await?;
    let mut stage = Stage::builder().integration(INTEGRATION, &format!("port = {}", proxy.port())).start().await?;
    proxy.relay_to(stage.pg.port());
    stage.workers(1).await?;
    stage.expect(&grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only"), "succeeded").await?;
    proxy.forget();
    // The worker's sessions rest meanwhile; nothing tells it that they are dead.
    let admin = stage.pg.admin("postgres").await?;
    admin.batch_execute("SELECT pg_sleep(0.7)").await?;
    let before = proxy.accepted();
    stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    assert!(ended(&admin, "jane").await?);
    assert!(proxy.accepted() > before, "new sessions took the place of the forgotten ones");
    stage.finish().await
}
