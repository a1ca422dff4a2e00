//! Instances that are named by their id, and what `postern check` says when AWS does not answer as it should.

use anyhow::{Result, ensure};
use postern_tests::aws::Services;
use postern_tests::events::grant;
use postern_tests::stage::INTEGRATION;

use super::{PORT, REGION, Rds};
use crate::allowed;

const ID: &str = "orders-prod";

/// The only failing item, as name, message and what mends it.
async fn failing(rds: &Rds, over: &[(&str, &str)]) -> Result<(String, String)> {
    let items = rds.check(1, over).await?;
    let failing: Vec<_> = items.iter().filter(|item| item["status"] == "fail").collect();
    ensure!(failing.len() == 1, "{failing:?}");
    Ok((failing[0]["item"].as_str().unwrap_or_default().to_owned(), failing[0].to_string()))
}

#[tokio::test]
async fn an_instance_is_found_by_its_id_and_found_again_after_it_moved() -> Result<()> {
    let services = Services::start(&[]).await?;
    let host = services.create_instance(REGION, ID, PORT)?;
    let place = format!("region = '{REGION}'\ninstance_id = '{ID}'");
    let mut rds = Rds::with(&place, &host, "").await?;
    rds.env.push(("AWS_ENDPOINT_URL".to_owned(), services.url()));
    let items = rds.check(0, &[]).await?;
    ensure!(items.iter().any(|item| item["message"].as_str().is_some_and(|m| m.ends_with(&format!("is at {host}:{PORT}")))), "{items:?}");
    rds.worker().await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").schema("orders", "sales", "read_only").age(&rds.stage.identity.recipient());
    let first = rds.stage.expect(&asked("AR-1"), "succeeded").await?;
    assert_eq!((&first["access"]["host"], &first["access"]["port"]), (&host.as_str().into(), &PORT.into()));
    allowed(&rds.stage.login_as(&first).await?, "SELECT * FROM sales.invoices").await?;

    // Restored under the same id it has another endpoint, and the sessions with the old one are gone.
    services.delete_instance(REGION, ID)?;
    assert_eq!(services.create_instance(REGION, ID, PORT + 1)?, host);
    rds.gate.move_to(PORT + 1);
    let superuser = rds.stage.pg.superuser("postgres").await?;
    superuser.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postern_connector'").await?;
    let second = rds.stage.expect(&asked("AR-2"), "succeeded").await?;
    assert_eq!(second["access"]["port"], PORT + 1);
    rds.finish().await
}

#[tokio::test]
async fn check_tells_apart_what_aws_does_not_give() -> Result<()> {
    let services = Services::start(&[]).await?;
    services.create_instance("us-east-1", ID, PORT)?;
    let place = format!("region = '{REGION}'\ninstance_id = '{ID}'");
    let mut rds = Rds::with(&place, super::HOST, "").await?;
    rds.env.push(("AWS_ENDPOINT_URL".to_owned(), services.url()));

    // It is in another region.
    let (item, said) = failing(&rds, &[]).await?;
    ensure!(item == "endpoint" && said.contains("no DB instance") && said.contains(&format!("--region {REGION}")), "{said}");
    let (item, said) = failing(&rds, &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")]).await?;
    ensure!(item == "secret" && said.contains("no AWS credentials are found"), "{said}");
    let (item, said) = failing(&rds, &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]).await?;
    ensure!(item == "endpoint" && said.contains("cannot be asked"), "{said}");

    // Who asks is unknown there.
    let strict = Services::start(&[("INITIAL_NO_AUTH_ACTION_COUNT", "0")]).await?;
    let (item, said) = failing(&rds, &[("AWS_ENDPOINT_URL", &strict.url())]).await?;
    ensure!(item == "endpoint" && said.contains("AWS refuses rds:DescribeDBInstances") && said.contains("get-caller-identity"), "{said}");
    rds.finish().await
}
