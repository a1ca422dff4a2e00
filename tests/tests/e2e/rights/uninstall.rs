//! `deploy/bootstrap/uninstall.sql` leaves nothing of Postern behind.

use anyhow::{Context, Result, ensure};
use postern_tests::events::{grant, revoke_grant};
use postern_tests::postgres::{CONNECTOR, Platform};
use postern_tests::stage::{INTEGRATION, Stage};

const UNINSTALL: &str = include_str!("../../../../deploy/bootstrap/uninstall.sql");
const DATABASES: [&str; 2] = ["orders", "postgres"];

/// Roles, schemas, privileges and dependencies that name Postern.
const LEFT: &str = "SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ 'postern' OR rolname IN ('jane', 'lee')
  UNION ALL SELECT 'comment ' || description FROM pg_shdescription WHERE description ~ '^postern '
  UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'postern' OR nspacl::text ~ 'postern'
  UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relacl::text ~ 'postern'
  UNION ALL SELECT 'routine ' || oid::regprocedure FROM pg_proc WHERE proacl::text ~ 'postern'
  UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datacl::text ~ 'postern'
  UNION ALL SELECT 'default privilege ' || defaclacl::text FROM pg_default_acl WHERE defaclacl::text ~ 'postern'
  UNION ALL SELECT 'dangling membership' FROM pg_auth_members m WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = m.roleid)";

async fn nothing_is_left(platform: Platform) -> Result<()> {
    let stage = Stage::builder().platform(platform).start().await?;
    for (id, person) in [("AR-1", "jane"), ("AR-2", "lee")] {
        let asked = grant(INTEGRATION, id, person).database("orders", "read_write").database("postgres", "read_only");
        ensure!(super::apply(&stage, &asked).await?["data"]["outcome"] == "succeeded");
    }
    ensure!(super::apply(&stage, &revoke_grant(INTEGRATION, "AR-2")).await?["data"]["outcome"] == "succeeded");

    // An account that owns something is nobody's to drop unseen.
    let orders = stage.pg.superuser("orders").await?;
    orders.batch_execute("CREATE TABLE sales.notes (id int); ALTER TABLE sales.notes OWNER TO jane").await?;
    ensure!(stage.pg.connector("orders").await?.batch_execute(UNINSTALL).await.is_err(), "jane owns a table");
    orders.batch_execute("REASSIGN OWNED BY jane TO server_admin").await?;

    for database in DATABASES {
        stage.pg.connector(database).await?.batch_execute(UNINSTALL).await.with_context(|| format!("uninstall.sql in {database}"))?;
    }
    if platform == Platform::SelfHosted {
        for database in ["template1"].into_iter().chain(DATABASES) {
            stage.pg.superuser(database).await?.batch_execute("DROP OWNED BY postern_admin").await?;
        }
        stage.pg.superuser("postgres").await?.batch_execute(&format!("DROP ROLE {CONNECTOR}; DROP ROLE postern_admin")).await?;
    } else {
        stage.pg.admin("postgres").await?.batch_execute(&format!("DROP ROLE {CONNECTOR}")).await?;
    }
    for database in DATABASES {
        let left: Vec<String> = stage.pg.superuser(database).await?.query(LEFT, &[]).await?.iter().map(|row| row.get(0)).collect();
        ensure!(left.is_empty(), "left in {database}: {left:?}");
    }
    stage.finish().await
}

#[tokio::test]
async fn nothing_is_left_on_a_managed_server() -> Result<()> {
    let version = postern_tests::postgres::Version::under_test()?;
    nothing_is_left(version.platform()).await
}

#[tokio::test]
async fn nothing_is_left_on_a_server_of_one_s_own() -> Result<()> {
    nothing_is_left(Platform::SelfHosted).await
}
