//! A wrong certificate is a server out of reach: events wait for whoever mends it, and say what it is.

use anyhow::{Result, ensure};
use jiff::SignedDuration;
use postern_tests::audit::TIMEOUT;
use postern_tests::certificates::{Authority, Valid, Wanted};
use postern_tests::events::{cleanup, grant, revoke_grant};
use postern_tests::postgres::Access;
use postern_tests::scratch::Scratch;
use postern_tests::stage::{INTEGRATION, Stage};

use crate::logged;

#[tokio::test]
async fn events_wait_for_a_certificate_to_be_mended() -> Result<()> {
    let root = Authority::root("Test Root", Valid::Now)?;
    let named = Wanted::new("server", &["localhost"]);
    let (expired, good) = (root.issue(&named.clone().valid(Valid::Past))?, root.issue(&named)?);
    let scratch = Scratch::new("roots")?;
    let roots = scratch.write_private("roots.pem", &root.pem())?;
    let settings = format!("hostname = 'localhost'\nssl_mode = 'verify-full'\nssl_root_cert = '{}'", roots.display());
    let mut stage = Stage::builder().integration(INTEGRATION, &settings).start().await?;
    stage.pg.set_access(Access { tls: Some(&expired), ..Access::default() }).await?;
    stage.workers(1).await?;

    let asked = grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only");
    stage.publish(&asked).await?;
    let what = "the server's certificate has expired; renew it there (met: subject CN=server, issuer CN=Test Root, valid from 2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z)";
    logged(&stage, &format!("localhost:{}, database postgres, as postern_connector: {what}", stage.pg.port())).await?;
    // What is too old to wait says why in its result, whoever met the certificate last.
    let late = grant(INTEGRATION, "AR-2", "kim").database("orders", "read_only").asked_in(SignedDuration::from_hours(-25));
    stage.publish(&late).await?;
    let failed = stage.audit.wait_where(|message| message.data()["event_id"] == late.id(), TIMEOUT).await?;
    let (outcome, reason) = (&failed.data()["outcome"], &failed.data()["reason"]);
    ensure!(outcome == "failed" && reason["code"] == "target_unreachable" && reason["message"].to_string().contains(what), "{reason:#}");

    stage.pg.set_access(Access { tls: Some(&good), ..Access::default() }).await?;
    let result = stage.result_of(&asked).await?;
    ensure!(result["outcome"] == "succeeded" && result["attempt"] == 1, "{result:#}");
    let uri = result["access"]["uri"].as_str().unwrap_or_default();
    ensure!(uri.ends_with("sslmode=verify-full"), "{uri}");
    let superuser = stage.pg.superuser("postgres").await?;
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE usename = 'postern_connector' AND NOT ssl";
    assert_eq!(superuser.query_one(plain, &[]).await?.get::<_, i64>(0), 0);

    // Another issuer: the file is renewed, the worker is not restarted.
    let next = Authority::root("Next Root", Valid::Now)?;
    scratch.write_private("roots.pem", &next.pem())?;
    stage.pg.set_access(Access { tls: Some(&next.issue(&named)?), ..Access::default() }).await?;
    stage.pg.restart().await?;
    stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;

    // A file that breaks while the worker runs is told with its key.
    let broken = scratch.write_private("roots.pem", "")?;
    stage.pg.restart().await?;
    let sweep = cleanup(INTEGRATION);
    stage.publish(&sweep).await?;
    logged(&stage, &format!("ssl_root_cert {}: holds no PEM certificate", broken.display())).await?;
    scratch.write_private("roots.pem", &next.pem())?;
    let result = stage.result_of(&sweep).await?;
    ensure!(result["attempt"] == 1, "{result:#}");
    stage.finish().await
}
