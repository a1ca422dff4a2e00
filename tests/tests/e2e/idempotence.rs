//! One effect and one result, however often and in whatever order events arrive.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use postern_tests::events::{Event, grant, revoke_grant};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;

use crate::{explained, stripped};

#[tokio::test]
async fn the_same_event_fifty_times_through_three_workers_has_one_effect_and_one_result() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(3).await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_write").age(&stage.identity.recipient());
    stage.broker.publish_all(&vec![asked.clone(); 50]).await?;
    let copies = stage.audit.wait_for_copies(asked.id(), 50).await?;
    assert_eq!(copies.len(), 50);
    let first = stripped(&copies[0].json);
    for copy in &copies {
        assert_eq!(copy.message_id(), copies[0].message_id());
        assert_eq!(copy.message_id(), copy.json["id"].as_str());
        assert_eq!(stripped(&copy.json), first);
    }
    assert_eq!(first["data"]["outcome"], "succeeded");
    assert_eq!(first["data"]["credential"]["generation"], 1);
    stage.login_as(copies[7].data()).await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn the_same_key_with_another_body_is_a_conflict() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only");
    stage.expect(&asked, "succeeded").await?;
    let other = asked.clone().with("principal", "kim".into());
    stage.publish(&other).await?;
    let both = stage.audit.wait_for_copies(asked.id(), 2).await?;
    assert_eq!(both[1].data()["outcome"], "rejected");
    assert_eq!(both[1].data()["reason"]["code"], "id_conflict");
    assert_ne!(both[0].message_id(), both[1].message_id());
    // White space and the order of keys are not a difference.
    let pretty = serde_json::to_string_pretty(asked.json())?;
    stage.broker.publish_raw(pretty.as_bytes(), &asked.routing_key(), postern_tests::broker::properties(asked.id())).await?;
    let three = stage.audit.wait_for_copies(asked.id(), 3).await?;
    assert_eq!(three[2].message_id(), three[0].message_id());
    stage.finish().await
}

#[tokio::test]
async fn two_hundred_grants_and_revokes_shuffled_and_doubled_end_as_if_in_order() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(3).await?;
    let mut events: Vec<Event> = Vec::new();
    for n in 0..200 {
        let (id, who) = (format!("AR-{n}"), format!("person-{}", n % 20));
        let table = ["invoices", "lines", "shipments"][n % 3];
        events.push(grant(INTEGRATION, &id, &who).tables("orders", "sales", &[table], "read_only"));
        if n % 2 == 0 {
            events.push(revoke_grant(INTEGRATION, &id));
        }
    }
    let mut shuffled: Vec<Event> = events.iter().chain(&events).cloned().collect();
    shuffle(&mut shuffled);
    stage.broker.publish_all(&shuffled).await?;
    let results: Vec<Value> = try_join_all(events.iter().map(|event| stage.result_of(event))).await?;
    for (event, result) in events.iter().zip(&results) {
        ensure!(["succeeded", "superseded"].contains(&result["outcome"].as_str().unwrap_or_default()), "{event:?}: {result:#}");
    }
    explained(&stage).await?;

    // As if in order: odd grants are open, even ones are not.
    let mut wanted: BTreeMap<String, std::collections::BTreeSet<&str>> = BTreeMap::new();
    for n in (1..200).step_by(2) {
        wanted.entry(format!("person-{}", n % 20)).or_default().insert(["invoices", "lines", "shipments"][n % 3]);
    }
    let admin = stage.pg.admin("orders").await?;
    for n in 0..20 {
        let who = format!("person-{n}");
        for table in ["invoices", "lines", "shipments"] {
            let exists: bool = admin.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", &[&who]).await?.get(0);
            let has = exists
                && admin.query_one("SELECT has_table_privilege($1::name, 'sales.' || $2::text, 'SELECT')", &[&who, &table]).await?.get(0);
            assert_eq!(has, wanted.get(&who).is_some_and(|tables| tables.contains(table)), "{who} on {table}");
        }
    }
    stage.finish().await
}

/// A fixed permutation: the same order at every run, and no order that means anything.
fn shuffle<T>(items: &mut [T]) {
    let mut state: u64 = 0x2545_F491_4F6C_DD1D;
    for last in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(last, usize::try_from(state % (last as u64 + 1)).unwrap_or(0));
    }
}
