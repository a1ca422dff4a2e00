//! `postern ledger`: who holds what now, and since when.

use std::sync::Arc;

use jiff::Timestamp;
use postern_schemas::IntegrationId;

use super::{CliError, DONE, output, permission};
use crate::config::Config;
use crate::postgres::report::{self, Holding};
use crate::postgres::{Target, TargetError, ledger};
use crate::secrets::Stores;

/// Arguments of `postern ledger`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The integration.
    integration: IntegrationId,
    /// Also grants that have ended, as long as they are kept.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the ledger. One that nobody has made yet is empty.
pub async fn run(config: &Config, args: &Args) -> Result<u8, CliError> {
    let integration = super::integration(config, &args.integration)?;
    let target = Target::new(Arc::clone(integration), &Stores::new(config));
    let holdings = read(&target, args).await.map_err(CliError::failed)?.unwrap_or_else(|| {
        let database = &integration.database;
        output::note(format_args!("database {database} at {} has no ledger yet; the first event makes it", integration.address()));
        Vec::new()
    });
    if args.json {
        output::json(&holdings);
    } else {
        show(&holdings, args.all);
    }
    Ok(DONE)
}

async fn read(target: &Target, args: &Args) -> Result<Option<Vec<Holding>>, TargetError> {
    // Not `Target::maintenance`, which makes the ledger.
    let session = target.session(&target.integration().database).await?;
    match ledger::look(session.client()).await? {
        Some(_) => report::holdings(session.client(), &args.integration, args.all).await.map(Some),
        None => Ok(None),
    }
}

fn show(holdings: &[Holding], all: bool) {
    let (grants, accounts): (Vec<&Holding>, Vec<&Holding>) = holdings.iter().partition(|holding| holding.grant_id.is_some());
    if all {
        let rows: Vec<_> = grants.iter().map(|holding| ended(holding)).collect();
        output::table(["PRINCIPAL", "ROLE", "GRANT", "REV", "PERMISSIONS", "OPENED", "EXPIRES", "STATE", "ENDED"], &rows);
    } else {
        let rows: Vec<_> = grants.iter().map(|holding| active(holding)).collect();
        output::table(["PRINCIPAL", "ROLE", "GRANT", "REV", "PERMISSIONS", "OPENED", "EXPIRES"], &rows);
    }
    if !accounts.is_empty() {
        let rows: Vec<_> =
            accounts.iter().map(|account| [account.principal.clone(), text(account.role.as_ref()), moment(account.ended_at)]).collect();
        output::line("");
        output::table(["WITHOUT ACCESS", "ROLE", "LAST GRANT ENDED"], &rows);
    }
}

fn active(holding: &Holding) -> [String; 7] {
    let permissions: Vec<String> = holding.permissions.iter().map(permission::short).collect();
    [
        holding.principal.clone(),
        text(holding.role.as_ref()),
        text(holding.grant_id.as_ref()),
        holding.revision.map(|revision| revision.to_string()).unwrap_or_default(),
        permissions.join("; "),
        moment(holding.opened_at),
        moment(holding.expires_at),
    ]
}

fn ended(holding: &Holding) -> [String; 9] {
    let [principal, role, grant, revision, permissions, opened, expires] = active(holding);
    [principal, role, grant, revision, permissions, opened, expires, holding.state.clone(), moment(holding.ended_at)]
}

fn text(value: Option<&String>) -> String {
    value.cloned().unwrap_or_default()
}

fn moment(moment: Option<Timestamp>) -> String {
    moment.map(|moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_one_row() {
        let holding = Holding {
            state: "active".to_owned(),
            principal: "jane".to_owned(),
            role: None,
            grant_id: Some("AR-1".to_owned()),
            revision: Some(2),
            permissions: serde_json::from_value(serde_json::json!([{ "database": "orders", "access": "read_only" }, { "role": "r" }]))
                .unwrap(),
            opened_at: Some(Timestamp::UNIX_EPOCH),
            expires_at: None,
            ended_at: None,
        };
        assert_eq!(active(&holding), ["jane", "", "AR-1", "2", "orders:read_only; role r", "1970-01-01T00:00:00Z", ""]);
    }
}
