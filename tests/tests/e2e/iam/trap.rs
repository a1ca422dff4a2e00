//! The trap of `rds_iam`: a login that becomes a member of a role in `rds_iam` loses its own password. Disposing of a
//! person's role makes the connector a member of it, so that must not happen while it is in `rds_iam`, nor stay so.

use anyhow::{Result, ensure};
use postern_tests::events::{cleanup_principal, grant, revoke_grant};
use postern_tests::postgres::CONNECTOR;
use postern_tests::stage::INTEGRATION;

use super::{Rds, in_rds_iam};

/// Whether the connector itself was made a member of the role. That it has ADMIN OPTION through the owner, from 16 on,
/// is the server's doing.
async fn joined(rds: &Rds, role: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
                              WHERE r.rolname = $1 AND m.member = 'postern_connector'::regrole)";
    Ok(rds.stage.pg.superuser("postgres").await?.query_one(sql, &[&role]).await?.get(0))
}

#[tokio::test]
async fn a_role_in_rds_iam_is_never_joined_by_whatever_chain_it_is_in() -> Result<()> {
    let mut rds = Rds::start().await?;
    rds.worker().await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_only");
    rds.stage.expect(&asked, "succeeded").await?;
    rds.stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    // What somebody else gave on the server makes the disposal need the connector's membership.
    let superuser = rds.stage.pg.superuser("orders").await?;
    superuser
        .batch_execute("CREATE ROLE team; CREATE ROLE crew; GRANT rds_iam TO crew; GRANT crew TO team; GRANT team TO jane; GRANT SELECT ON sales.invoices TO jane")
        .await?;
    let result = rds.stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    let log = rds.stage.pg.log()?;
    let (left, handed) = (log.find("REVOKE \"team\" FROM \"jane\""), log.find("GRANT \"jane\" TO SESSION_USER"));
    if rds.stage.pg.version().major() <= 15 {
        ensure!(left.is_some() && (handed.is_none() || left < handed), "handed over inside rds_iam: {result:#}");
        ensure!(result["drift"].to_string().contains("team"), "{result:#}");
    } else {
        // Only who gave it can take it back from 16 on.
        ensure!(handed.is_none(), "handed over inside rds_iam: {result:#}");
        ensure!(result["blocked"].to_string().contains("membership in rds_iam"), "{result:#}");
        ensure!(!joined(&rds, "jane").await?);
        superuser.batch_execute("REVOKE team FROM jane").await?;
        superuser.batch_execute("REVOKE SELECT ON sales.invoices FROM jane").await?;
        rds.stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    }
    rds.finish().await
}

/// A disposal that was broken off leaves nothing of itself: the person may come back and log in by token, and then a
/// connector that was still a member would come by token only, too.
#[tokio::test]
async fn a_disposal_that_is_broken_off_takes_the_connectors_membership_back() -> Result<()> {
    let mut rds = Rds::start().await?;
    let superuser = rds.stage.pg.superuser("orders").await?;
    rds.worker().await?;
    let recipient = rds.stage.identity.recipient();
    let asked = |id: &str| grant(INTEGRATION, id, "jane").schema("orders", "sales", "read_only");
    rds.stage.expect(&asked("AR-1").age(&recipient), "succeeded").await?;
    rds.stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    // Given by a role that the connector cannot stand in for.
    superuser
        .batch_execute("CREATE ROLE other; CREATE TABLE sales.theirs (id int); ALTER TABLE sales.theirs OWNER TO other; GRANT USAGE ON SCHEMA sales TO other")
        .await?;
    superuser.batch_execute("SET ROLE other; GRANT SELECT ON sales.theirs TO jane; RESET ROLE").await?;
    let result = rds.stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    ensure!(result["blocked"].to_string().contains("sales.theirs"), "{result:#}");
    let log = rds.stage.pg.log()?;
    ensure!(log.contains("GRANT \"jane\" TO SESSION_USER"), "the disposal did not get that far");
    ensure!(!joined(&rds, "jane").await?, "the connector is still a member");

    // Whatever joined it, it leaves before the person gets rds_iam.
    let options = if rds.stage.pg.version().major() >= 16 { " GRANTED BY postern_owner" } else { "" };
    superuser.batch_execute(&format!("GRANT jane TO {CONNECTOR}{options}")).await?;
    rds.stage.expect(&asked("AR-2"), "succeeded").await?;
    ensure!(in_rds_iam(&rds.stage, "jane").await? && !joined(&rds, "jane").await?, "a connector with a password is locked out");
    if rds.stage.pg.version().major() <= 15 {
        // Up to 15 a connector need not be in rds_iam, and goes on with its password.
        superuser.batch_execute(&format!("REVOKE rds_iam FROM {CONNECTOR}")).await?;
        rds.stage.pg.connector("postgres").await?;
    } else {
        // From 16 on it is in rds_iam through every person who is, because it made their roles.
        superuser.batch_execute(&format!("GRANT rds_iam TO jane; REVOKE rds_iam FROM {CONNECTOR} CASCADE")).await?;
        ensure!(rds.stage.pg.connector("postgres").await.is_err(), "the server has changed: see docs/rds-iam.md");
    }
    rds.finish().await
}
