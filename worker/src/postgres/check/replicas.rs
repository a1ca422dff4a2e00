//! The read replicas of an integration: there, replicas of this server, and open to the connector.

use tokio_postgres::Client;

use super::Item;
use crate::config::Integration;
use crate::postgres::batch::{self, Statement};
use crate::postgres::connect::{Purpose, connect};
use crate::postgres::replicas::standbys;
use crate::postgres::{TargetError, ledger};
use crate::secrets::Credential;

const RIGHTS: &str = "SELECT pg_has_role(session_user, 'pg_signal_backend', 'USAGE') AS ends, \
     pg_has_role(session_user, 'pg_read_all_stats', 'USAGE') AS sees";

/// Looks at each; where the integration names none, at what streams from the server. `client`: a session with the primary.
pub(super) async fn look(client: &Client, integration: &Integration, credential: &Credential) -> Vec<Item> {
    let Some(named) = &integration.replicas else { return unnamed(client).await.into_iter().collect() };
    let mut items = Vec::new();
    for place in named {
        let replica = integration.at(place);
        let item = format!("replica {}", replica.address());
        let connected = connect(&replica, Purpose::Looking, &replica.database, credential, "postern check").await;
        items.push(match connected {
            Err(error) => Item::fail(item, format!("{error}; until it can be looked at, a revoke only warns about it")),
            Ok((session, _task)) => match judge(client, &session).await {
                Err(error) => Item::fail(item, error.to_string()),
                Ok(None) => Item::ok(item, "is a read replica of this server, and sessions can be ended there"),
                Ok(Some(problem)) => Item::fail(item, problem),
            },
        });
    }
    items
}

async fn unnamed(client: &Client) -> Option<Item> {
    let names = standbys(client).await.unwrap_or_default();
    (!names.is_empty()).then(|| {
        let message = format!(
            "{} streams from this server, and `replicas` names none: a revoke ends no session there; name what people can reach, \
             or write replicas = []",
            names.join(", ")
        );
        Item::warn("replicas", message)
    })
}

/// What is wrong with a replica, if anything.
async fn judge(primary: &Client, replica: &Client) -> Result<Option<String>, TargetError> {
    let seen = ledger::see(replica).await?;
    if !seen.standby {
        return Ok(Some("is no read replica (not in recovery); sessions there are left alone".to_owned()));
    }
    let (ours, theirs) = (ledger::see(primary).await?.found, seen.found);
    if ours.map(|(id, _)| id) != theirs.map(|(id, _)| id) {
        return Ok(Some("has another ledger: it is a replica of another server, or far behind".to_owned()));
    }
    let rights = batch::reading(replica, vec![Statement::query("looking at the connector", RIGHTS)]).await?;
    let may = rights.iter().flatten().next().is_some_and(|row| row.get("ends") && row.get("sees"));
    Ok((!may).then(|| "the connector may not see or end other people's sessions there: see terminate and activity".to_owned()))
}
