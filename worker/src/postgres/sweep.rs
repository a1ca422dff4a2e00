//! The questions of wide revokes, rotations by policy and clean-ups: who is concerned.

use jiff::{SignedDuration, Timestamp};
use postern_schemas::{GrantId, IntegrationId, Principal};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::state::Oid;
use crate::postgres::TargetError;
use crate::postgres::apply::raise_watermark;
use crate::postgres::batch::{self, Statement};
use crate::postgres::error::BEGINNING;
use crate::postgres::ledger::BEGIN;
use crate::postgres::rows;

/// Raises the watermark of a whole integration, with the integration to itself: grants that are being opened have
/// committed before, and those that come later read it.
pub async fn raise_for_all(client: &Client, integration: &IntegrationId, until: Timestamp) -> Result<(), TargetError> {
    let statements = [
        Statement::plain(BEGINNING, format!("{BEGIN}; LOCK TABLE postern.watermark IN EXCLUSIVE MODE")),
        raise_watermark(integration, None, until),
        Statement::plain("committing", "COMMIT"),
    ];
    batch::run(client, &statements).await.map(|_| ())
}

/// People with active grants of the integration that were asked at or before `until`.
pub async fn people_with_grants(client: &Client, integration: &IntegrationId, until: Timestamp) -> Result<Vec<Principal>, TargetError> {
    let sql = "SELECT DISTINCT principal FROM postern.access_grant WHERE integration = $1 AND ending IS NULL AND asked_at <= $2 ORDER BY 1";
    let statement = Statement::query("listing people with grants", sql).text(integration.as_str()).bind(until, Type::TIMESTAMPTZ);
    people(client, statement).await
}

/// What one wide revoke ended so far, over all tries: `grant_id`s, and the roles of the people who had them.
pub async fn ended_by(client: &Client, integration: &IntegrationId, by: &str) -> Result<(Vec<String>, Vec<Oid>), TargetError> {
    let sql = "SELECT g.grant_id, a.role_oid FROM postern.access_grant g JOIN postern.account a USING (principal) \
               WHERE g.integration = $1 AND g.ended_by = $2 ORDER BY 1";
    let rows = batch::alone(client, vec![Statement::query("listing what was ended", sql).text(integration.as_str()).text(by)]).await?;
    let mut roles: Vec<Oid> = rows.iter().flatten().filter_map(|row| row.get("role_oid")).collect();
    roles.sort_unstable();
    roles.dedup();
    Ok((rows.iter().flatten().map(|row| row.get("grant_id")).collect(), roles))
}

/// Active grants whose time is up, as (`grant_id`, revision).
pub async fn expired(client: &Client, integration: &IntegrationId) -> Result<Vec<(GrantId, i32)>, TargetError> {
    let sql = "SELECT grant_id, revision FROM postern.access_grant \
               WHERE integration = $1 AND ending IS NULL AND expires_at <= pg_catalog.clock_timestamp() ORDER BY expires_at, grant_id";
    let rows = batch::alone(client, vec![Statement::query("listing expired grants", sql).text(integration.as_str())]).await?;
    rows.iter().flatten().map(|row| Ok((rows::parsed(row.get("grant_id"), "grant_id")?, row.get("revision")))).collect()
}

/// People whose role is not what their active grants say: a membership more or less, LOGIN without a grant, another VALID
/// UNTIL, an attribute that we never give.
pub async fn drifted(client: &Client) -> Result<Vec<Principal>, TargetError> {
    let sql = "WITH wanted AS ( \
                 SELECT a.principal, b.role_oid AS roleid FROM postern.access_grant g JOIN postern.account a USING (principal) \
                   JOIN postern.bundle b ON b.id = ANY (g.bundles) WHERE g.ending IS NULL \
                 UNION SELECT a.principal, r.oid FROM postern.access_grant g JOIN postern.account a USING (principal), \
                   jsonb_array_elements(g.permissions) p JOIN pg_catalog.pg_roles r ON r.rolname = p ->> 'role' WHERE g.ending IS NULL \
                 UNION SELECT a.principal, r.oid FROM postern.access_grant g JOIN postern.account a USING (principal), pg_catalog.pg_roles r \
                   WHERE a.iam AND r.rolname = 'rds_iam' AND g.ending IS NULL), \
               actual AS ( \
                 SELECT a.principal, m.roleid FROM postern.account a JOIN pg_catalog.pg_auth_members m ON m.member = a.role_oid) \
               SELECT principal FROM ((TABLE wanted EXCEPT TABLE actual) UNION (TABLE actual EXCEPT TABLE wanted)) AS x \
               UNION SELECT a.principal FROM postern.account a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.role_oid \
                 LEFT JOIN LATERAL (SELECT max(coalesce(g.expires_at, 'infinity')) AS until FROM postern.access_grant g \
                                    WHERE g.principal = a.principal AND g.ending IS NULL) AS access ON true \
                 WHERE a.role_oid IS NOT NULL AND (r.oid IS NULL OR r.rolname <> a.role_name \
                   OR r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls \
                   OR r.rolcanlogin AND coalesce(r.rolvaliduntil, 'infinity') <> access.until \
                   OR r.rolcanlogin <> EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL)) \
               ORDER BY 1";
    people(client, Statement::query("listing drifted accounts", sql)).await
}

/// People whose account has had no active grant, in any integration, for `age`.
pub async fn deletable(client: &Client, age: SignedDuration) -> Result<Vec<Principal>, TargetError> {
    let sql = "SELECT a.principal FROM postern.account a WHERE a.role_oid IS NOT NULL \
               AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL) \
               AND coalesce(a.last_grant_ended_at, a.created_at) <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1) ORDER BY 1";
    people(client, Statement::query("listing accounts to delete", sql).bind(age.as_secs_f64(), Type::FLOAT8)).await
}

/// Roles of people without an active grant in any integration.
pub async fn without_access(client: &Client) -> Result<Vec<Oid>, TargetError> {
    let sql = "SELECT a.role_oid FROM postern.account a WHERE a.role_oid IS NOT NULL \
               AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL)";
    let rows = batch::alone(client, vec![Statement::query("listing accounts without access", sql)]).await?;
    Ok(rows.iter().flatten().map(|row| row.get("role_oid")).collect())
}

/// Roles whose password was set at or before `before` and is not marked yet.
pub async fn old_passwords(client: &Client, before: Timestamp) -> Result<Vec<String>, TargetError> {
    let sql = "SELECT role_name FROM postern.account \
               WHERE password_set_at <= $1 AND NOT rotation_due AND role_oid IS NOT NULL ORDER BY 1";
    let rows = batch::alone(client, vec![Statement::query("listing old passwords", sql).bind(before, Type::TIMESTAMPTZ)]).await?;
    Ok(rows.iter().flatten().map(|row| row.get(0)).collect())
}

/// Forgets events and ended grants that nobody can ask about any more, and moves the horizon: grants and rotations
/// asked before it are refused from now on, whatever the setting says later. What ended for good stays known by digest.
pub async fn prune(client: &Client, keep: SignedDuration) -> Result<u64, TargetError> {
    let horizon = "(SELECT pruned_to FROM postern.fact)";
    let statements = [
        Statement::plain(BEGINNING, BEGIN),
        Statement::query(
            "moving the horizon",
            "UPDATE postern.fact SET pruned_to = greatest(pruned_to, now() - make_interval(secs => $1))",
        )
        .bind(keep.as_secs_f64(), Type::FLOAT8),
        Statement::query(
            "pruning events",
            format!(
                "WITH gone AS (DELETE FROM postern.event WHERE phase = 'done' AND settled_at <= {horizon} AND asked_at <= {horizon} RETURNING 1) SELECT count(*) FROM gone"
            ),
        ),
        Statement::query(
            "pruning grants",
            format!(
                "WITH gone AS (DELETE FROM postern.access_grant WHERE ended_at <= {horizon} AND asked_at <= {horizon} RETURNING integration, grant_id), \
                     bare AS (UPDATE postern.grant_key k SET principal = NULL FROM gone \
                              WHERE k.integration = gone.integration AND k.digest = sha256(convert_to(gone.grant_id, 'UTF8')) RETURNING 1) \
                     SELECT count(*) FROM gone"
            ),
        ),
        Statement::plain(
            "pruning accounts",
            "DELETE FROM postern.account a WHERE role_oid IS NULL AND generation = 0 \
             AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal)",
        ),
        Statement::plain("committing", "COMMIT"),
    ];
    let answers = batch::run(client, &statements).await?;
    let count = |index: usize| answers.get(index).and_then(|rows| rows.first()).map_or(0, |row| row.get::<_, i64>(0));
    Ok(u64::try_from(count(2) + count(3)).unwrap_or(0))
}

async fn people(client: &Client, statement: Statement) -> Result<Vec<Principal>, TargetError> {
    let rows = batch::alone(client, vec![statement]).await?;
    rows.iter().flatten().map(|row| rows::parsed(row.get(0), "principal")).collect()
}
