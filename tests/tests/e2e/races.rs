//! Two workers on the same bundle, one giving and one dropping.

use anyhow::{Result, ensure};
use postern_tests::events::{Event, cleanup, grant, revoke_grant};
use postern_tests::stage::{INTEGRATION, Stage};

use crate::explained;

/// Rounds of a grant beside a clean-up. `POSTERN_TEST_ROUNDS` overrides it.
fn rounds() -> usize {
    std::env::var("POSTERN_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_beside_cleanups_that_drop_their_bundle_never_lose_rights() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(2).await?;
    let rounds = rounds();
    let superuser = stage.pg.superuser("postgres").await?;
    let mut round = 0;
    while round < rounds {
        // A wave of rounds at once: each grants, revokes and cleans up the one bundle.
        let wave = 25.min(rounds - round);
        let grants: Vec<Event> = (0..wave)
            .map(|n| {
                grant(INTEGRATION, &format!("AR-{}", round + n), &format!("p{}", n % 5)).tables("orders", "sales", &["lines"], "read_only")
            })
            .collect();
        let revokes: Vec<Event> = (0..wave).map(|n| revoke_grant(INTEGRATION, &format!("AR-{}", round + n))).collect();
        let cleanups: Vec<Event> = (0..wave).map(|_| cleanup(INTEGRATION)).collect();
        let mixed: Vec<Event> = (0..wave).flat_map(|n| [grants[n].clone(), cleanups[n].clone(), revokes[n].clone()]).collect();
        stage.broker.publish_all(&mixed).await?;
        for event in &mixed {
            let result = stage.result_of(event).await?;
            ensure!(["succeeded", "unchanged", "superseded"].contains(&result["outcome"].as_str().unwrap_or_default()), "{result:#}");
        }
        let dead: i64 = superuser
            .query_one("SELECT count(*) FROM pg_auth_members m WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = m.roleid)", &[])
            .await?
            .get(0);
        assert_eq!(dead, 0, "a membership of a dead role after round {round}");
        round += wave;
    }
    // No grant without its rights: one that stays, beside clean-ups.
    let last: Vec<Event> = (0..20)
        .flat_map(|n| {
            [
                grant(INTEGRATION, &format!("last-{n}"), &format!("q{n}")).tables("orders", "sales", &["lines"], "read_only"),
                cleanup(INTEGRATION),
            ]
        })
        .collect();
    stage.broker.publish_all(&last).await?;
    for event in &last {
        stage.result_of(event).await?;
    }
    let orders = stage.pg.admin("orders").await?;
    for n in 0..20 {
        let has: bool =
            orders.query_one("SELECT has_table_privilege($1::name, 'sales.lines', 'SELECT')", &[&format!("q{n}")]).await?.get(0);
        assert!(has, "q{n} has a grant without its rights");
    }
    explained(&stage).await?;
    stage.finish().await
}
