//! Whether what deleted accounts own could be given to the role that `reassign_to` names.

use tokio_postgres::Client;
use uuid::Uuid;

use super::{Facts, Item};
use crate::config::Integration;
use crate::config::integration::OwnedObjects;
use crate::postgres::TargetError;
use crate::postgres::dispose::reassign::{Heir, membership};
use crate::postgres::ledger::Ledger;
use crate::postgres::names::ident;

/// `None`: the integration names no such role.
pub(super) async fn look(client: &Client, integration: &Integration, facts: &Facts) -> Result<Option<Item>, TargetError> {
    let OwnedObjects::ReassignTo(role) = &integration.owned_objects else { return Ok(None) };
    let ledger = Ledger { id: Uuid::nil(), version: facts.version, connector: facts.login.clone() };
    let item = format!("reassign_to {role}");
    Ok(Some(match Heir::find(client, &ledger, role, false).await? {
        Ok(_) => Item::ok(item, format!("{} may give it what deleted accounts owned", facts.login)),
        Err(unfit) => {
            let found = Item::fail(item, unfit.why);
            if !unfit.missing && !unfit.membership {
                return Ok(Some(found.mend("-- in the configuration: name a role without such powers, made for this")));
            }
            let found = found.mend("-- as an administrator");
            let found = if unfit.missing { found.mend(format!("CREATE ROLE {} NOLOGIN;", ident(role.as_str()))) } else { found };
            found.mend(format!("{};", membership(&ledger, role)))
        }
    }))
}
