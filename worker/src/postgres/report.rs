//! What the ledger says of people, for operators to read.

use jiff::Timestamp;
use postern_schemas::{IntegrationId, Permission};
use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};

/// One grant, or one account without access.
#[derive(Clone, Debug, Serialize)]
pub struct Holding {
    /// `active`, `expired`, `swept` (ended by a wide revoke), `revoked`, or `without_access` for an account that has no
    /// active grant of any integration.
    pub state: String,
    /// The person.
    pub principal: String,
    /// The person's role, if there is one.
    pub role: Option<String>,
    /// The grant; none for an account.
    pub grant_id: Option<String>,
    /// The grant's revision.
    pub revision: Option<i32>,
    /// What the grant gives.
    pub permissions: Vec<Permission>,
    /// Since when: this revision of the grant; for an account, when it was made.
    pub opened_at: Option<Timestamp>,
    /// When the grant ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it ended; for an account, when its last grant did.
    pub ended_at: Option<Timestamp>,
}

/// The integration's active grants by person, then (with `all`) the ended ones that are still kept, then the accounts
/// of this ledger that nobody has access with.
pub async fn holdings(client: &Client, integration: &IntegrationId, all: bool) -> Result<Vec<Holding>, TargetError> {
    let sql = "SELECT * FROM ( \
                 SELECT coalesce(g.ending, 'active') AS state, g.principal, a.role_name AS role, g.grant_id, g.revision, g.permissions, \
                        g.opened_at, g.expires_at, g.ended_at \
                 FROM postern.access_grant g JOIN postern.account a USING (principal) \
                 WHERE g.integration = $1 AND ($2 OR g.ending IS NULL) \
                 UNION ALL \
                 SELECT 'without_access', a.principal, a.role_name, NULL, NULL, NULL, a.created_at, NULL, a.last_grant_ended_at \
                 FROM postern.account a WHERE a.role_oid IS NOT NULL \
                   AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL) \
               ) AS holding ORDER BY state <> 'active', state = 'without_access', principal, grant_id";
    let statement = Statement::query("listing who holds what", sql).text(integration.as_str()).bind(all, Type::BOOL);
    let rows = batch::alone(client, vec![statement]).await?;
    rows.iter().flatten().map(holding).collect()
}

fn holding(row: &Row) -> Result<Holding, TargetError> {
    let permissions: Option<serde_json::Value> = row.get("permissions");
    let permissions = permissions.map(serde_json::from_value).transpose();
    Ok(Holding {
        state: row.get("state"),
        principal: row.get("principal"),
        role: row.get("role"),
        grant_id: row.get("grant_id"),
        revision: row.get("revision"),
        permissions: permissions.map_err(|e| TargetError::Unreadable(format!("permissions: {e}")))?.unwrap_or_default(),
        opened_at: row.get("opened_at"),
        expires_at: row.get("expires_at"),
        ended_at: row.get("ended_at"),
    })
}
