//! `postern check`: what is missing, and what mends it. Changes nothing.

use std::sync::Arc;

use futures_util::future::join_all;
use postern_schemas::IntegrationId;
use serde_json::{Value, json};

use super::{CliError, DONE, FAILED, output};
use crate::broker::{self, BrokerError, Finding, Settings};
use crate::config::{Config, Integration};
use crate::execution;
use crate::postgres::check::{self, Item, Status};
use crate::secrets::Stores;

/// Arguments of `postern check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look at this integration alone; without it at the broker and all integrations.
    integration: Option<IntegrationId>,
    /// Print JSON: a list of what was looked at.
    #[arg(long)]
    json: bool,
}

/// An item, and the integration it is about.
type Checked = (Option<IntegrationId>, Item);

/// Looks at everything, prints it, and fails if anything does.
pub async fn run(config: &Config, args: &Args) -> Result<u8, CliError> {
    let chosen: Vec<&Arc<Integration>> = match &args.integration {
        Some(id) => vec![super::integration(config, id)?],
        None => config.integrations.values().collect(),
    };
    let mut checked = vec![(None, configuration(config))];
    let servers = join_all(chosen.into_iter().map(|integration| server(config, integration)));
    if args.integration.is_some() {
        checked.extend(servers.await.into_iter().flatten());
    } else {
        let (broker, servers) = tokio::join!(broker(&config.broker), servers);
        checked.extend(broker.into_iter().map(|item| (None, item)));
        checked.extend(servers.into_iter().flatten());
    }
    if args.json {
        output::json(&checked.iter().map(as_json).collect::<Vec<_>>());
    } else {
        checked.iter().flat_map(lines).for_each(output::line);
    }
    let failed = checked.iter().any(|(_, item)| item.status == Status::Fail);
    Ok(if failed { FAILED } else { DONE })
}

fn configuration(config: &Config) -> Item {
    match config.integrations.len() {
        0 => Item::warn("configuration", "has no integrations, so every event will be rejected"),
        1 => Item::ok("configuration", "one integration"),
        n => Item::ok("configuration", format!("{n} integrations")),
    }
}

async fn server(config: &Config, integration: &Integration) -> Vec<Checked> {
    let mut items = check::integration(integration, &Stores::new(config), &execution::rules(integration, config)).await;
    items.extend(neighbour(config, integration));
    items.extend(other_login(config, integration));
    items.into_iter().map(|item| (Some(integration.id.clone()), item)).collect()
}

/// Roles are cluster-wide: integrations on one server have to share one ledger.
fn neighbour(config: &Config, integration: &Integration) -> Option<Item> {
    let elsewhere = |other: &&Arc<Integration>| other.address() == integration.address() && other.database != integration.database;
    let other = config.integrations.values().find(elsewhere)?;
    let message = format!(
        "{} is on the same server with another `database` ({} there, {} here), so they have two ledgers: who has an account from one \
         is refused by the other (role_not_managed); give both the same `database`",
        other.id, other.database, integration.database
    );
    Some(Item::warn("neighbour", message))
}

/// From 16 on a connector is a member of every role it made, so people in `rds_iam` bring it in, too.
fn other_login(config: &Config, integration: &Integration) -> Option<Item> {
    let elsewhere = |other: &&Arc<Integration>| other.address() == integration.address() && other.is_iam();
    let other = config.integrations.values().find(elsewhere).filter(|_| !integration.is_iam())?;
    let message = format!(
        "{} is on the same server with auth = \"iam\": once people log in by token there, RDS refuses the password of a connector that made \
         their roles (from PostgreSQL 16 on); give both auth = \"iam\"",
        other.id
    );
    Some(Item::warn("login", message))
}

async fn broker(settings: &Settings) -> Vec<Item> {
    match broker::client::check(settings).await {
        Ok(findings) => topology(&settings.prefix, &findings),
        Err(error) => vec![Item::fail("broker", error.to_string())],
    }
}

/// What the topology's parts say together.
fn topology(prefix: &str, findings: &[Finding]) -> Vec<Item> {
    let mut items = vec![Item::ok("broker", "reached and logged in")];
    let is_missing = |finding: &&Finding| matches!(finding.problem, Some(BrokerError::Missing { .. }));
    let missing: Vec<&str> = findings.iter().filter(is_missing).map(|finding| finding.name.as_str()).collect();
    let problems: Vec<&BrokerError> = findings.iter().filter(|finding| !is_missing(finding)).filter_map(|f| f.problem.as_ref()).collect();
    items.extend(problems.iter().map(|problem| Item::fail("topology", problem.to_string())));
    if missing.len() == findings.len() {
        items.push(Item::ok("topology", format!("nothing of {prefix}.* is there yet; the worker declares it when it starts")));
    } else if !missing.is_empty() {
        items.push(Item::warn("topology", format!("not there: {}; the worker declares it when it starts", missing.join(", "))));
    } else if problems.is_empty() {
        items.push(Item::ok("topology", format!("all {} exchanges and queues of {prefix}.* are there", findings.len())));
    }
    let counts = |name: &str| findings.iter().find(|finding| finding.name == format!("{prefix}.{name}")).and_then(|finding| finding.queue);
    if let Some((ready, consumers)) = counts("work") {
        let message = format!("consumers of {prefix}.work: {consumers}, events ready in it: {ready}");
        items.push(if consumers == 0 { Item::warn("workers", message) } else { Item::ok("workers", message) });
    }
    if let Some((ready @ 1.., _)) = counts("dead") {
        items.push(Item::warn("dead", format!("events given up: {ready}")).mend("postern dead list"));
    }
    if missing.len() < findings.len() {
        let message = format!(
            "whether a queue is bound to {prefix}.audit cannot be seen from here; results go nowhere without: rabbitmqctl list_bindings"
        );
        items.push(Item::ok("audit", message));
    }
    items
}

fn as_json((integration, item): &Checked) -> Value {
    json!({ "integration": integration, "item": item.item, "status": item.status, "message": item.message, "mend": item.mend })
}

/// One line, and one for each line of what mends it.
fn lines((integration, item): &Checked) -> Vec<String> {
    let status = match item.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let about = integration.as_ref().map(|id| format!("{id}: ")).unwrap_or_default();
    let head = output::plain(&format!("{status:<4}  {about}{}: {}", item.item, item.message));
    std::iter::once(head).chain(item.mend.iter().map(|line| format!("        {}", output::plain(line)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, queue: Option<(u32, u32)>, missing: bool) -> Finding {
        let name = format!("p.{name}");
        let problem = missing.then(|| BrokerError::Missing { name: name.clone() });
        Finding { name, queue, problem }
    }

    fn statuses(findings: &[Finding]) -> Vec<(String, Status)> {
        topology("p", findings).into_iter().map(|item| (item.item, item.status)).collect()
    }

    #[test]
    fn a_topology_that_a_worker_will_declare_is_no_failure() {
        let findings = [finding("events", None, true), finding("work", None, true)];
        assert_eq!(statuses(&findings), [("broker".to_owned(), Status::Ok), ("topology".to_owned(), Status::Ok)]);
    }

    #[test]
    fn queues_tell_of_workers_and_of_the_dead() {
        let findings = [finding("work", Some((3, 0)), false), finding("dead", Some((2, 0)), false)];
        let met = statuses(&findings);
        assert!(met.contains(&("workers".to_owned(), Status::Warn)) && met.contains(&("dead".to_owned(), Status::Warn)), "{met:?}");
    }

    #[test]
    fn mending_stands_indented_under_its_item() {
        let item = Item::fail("createrole", "may not").mend("what mends it;");
        let checked = (IntegrationId::new("orders-prod").ok(), item);
        assert_eq!(lines(&checked), ["FAIL  orders-prod: createrole: may not", "        what mends it;"]);
    }
}
