//! Every shape of privilege that somebody can give a person by hand, and what a clean-up of the person makes of it:
//! the account is dropped, or kept with the exact object that blocks it. Nothing is left behind in silence.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use postern_tests::events::{cleanup_principal, grant};
use postern_tests::stage::{INTEGRATION, Stage};
use tokio_postgres::Client;

/// Who gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The objects' owner, whose grants the connector may not take back.
    Owner,
    /// The platform's admin role, which the connector is a member of.
    AdminRole,
    /// A superuser.
    Superuser,
}

/// A shape: its name, the database, the statements (`$who` is the person), and how the blocker is called where the
/// giver's grants cannot be taken back.
type Shape = (&'static str, &'static str, &'static str, &'static str);

/// What both an owner and the admin role may give.
const GRANTS: [Shape; 11] = [
    ("table", "orders", "GRANT SELECT ON sales.invoices TO $who", "SELECT on table sales.invoices"),
    ("column", "orders", "GRANT UPDATE (total) ON sales.invoices TO $who", "UPDATE on column total of table sales.invoices"),
    ("view", "orders", "GRANT SELECT ON sales.big_invoices TO $who", "SELECT on view sales.big_invoices"),
    (
        "function",
        "orders",
        "GRANT EXECUTE ON FUNCTION sales.invoice_total(int) TO $who",
        "EXECUTE on function sales.invoice_total(integer)",
    ),
    ("sequence in another schema", "orders", "GRANT USAGE ON SEQUENCE hr.salaries_id_seq TO $who", "USAGE on sequence hr.salaries_id_seq"),
    ("USAGE of a schema only", "orders", "GRANT USAGE ON SCHEMA hr TO $who", "USAGE on schema hr"),
    ("CREATE on a schema", "orders", "GRANT CREATE ON SCHEMA sales TO $who", "CREATE on schema sales"),
    ("CREATE on a database", "orders", "GRANT CREATE ON DATABASE orders TO $who", "CREATE on database orders"),
    ("CONNECT to another database", "orders", "GRANT CONNECT ON DATABASE billing TO $who", "CONNECT on database billing"),
    ("table in another database", "billing", "GRANT SELECT ON app.t TO $who", "SELECT on table app.t"),
    ("database without public", "bare", "GRANT SELECT ON app.t TO $who", "SELECT on table app.t"),
];

/// What only an owner may give. Default privileges are nobody's grant: whoever disposes of the role takes them away.
const OWNERS: [Shape; 5] = [
    ("type", "orders", "GRANT USAGE ON TYPE sales.kind TO $who", "USAGE on type sales.kind"),
    ("large object", "orders", "GRANT SELECT ON LARGE OBJECT 4712 TO $who", "SELECT on large object 4712"),
    ("default privileges", "orders", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO $who", ""),
    ("default privileges in a schema", "orders", "ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT EXECUTE ON FUNCTIONS TO $who", ""),
    (
        "row-level policy",
        "orders",
        "CREATE POLICY $who ON sales.lines TO $who USING (true)",
        "policy $who on table sales.lines names the role",
    ),
];

/// What a superuser gives, or does to the role.
const SUPERUSERS: [Shape; 14] = [
    ("foreign data wrapper", "orders", "GRANT USAGE ON FOREIGN DATA WRAPPER w TO $who", "USAGE on foreign-data wrapper w"),
    ("foreign server", "orders", "GRANT USAGE ON FOREIGN SERVER s TO $who", "USAGE on server s"),
    ("user mapping", "orders", "CREATE USER MAPPING FOR $who SERVER s", ""),
    ("language", "orders", "GRANT USAGE ON LANGUAGE plpgsql TO $who", "USAGE on language plpgsql"),
    ("tablespace", "orders", "GRANT CREATE ON TABLESPACE pg_default TO $who", "CREATE on tablespace pg_default"),
    ("parameter", "orders", "GRANT SET ON PARAMETER log_min_messages TO $who", "SET on parameter log_min_messages"),
    ("setting", "orders", "ALTER ROLE $who SET work_mem = '1MB'; ALTER ROLE $who IN DATABASE orders SET work_mem = '2MB'", ""),
    ("membership", "orders", "GRANT sheep TO $who", ""),
    ("membership handed on", "orders", "GRANT sheep TO $who WITH ADMIN OPTION; SET ROLE $who; GRANT sheep TO lamb; RESET ROLE", ""),
    ("member of the role", "orders", "GRANT $who TO lamb", ""),
    ("own default privileges", "orders", "ALTER DEFAULT PRIVILEGES FOR ROLE $who GRANT SELECT ON TABLES TO PUBLIC", ""),
    ("owned table", "orders", "CREATE TABLE sales.$who (id int); ALTER TABLE sales.$who OWNER TO $who", "table sales.$who"),
    ("owned table in another database", "billing", "CREATE TABLE app.$who (id int); ALTER TABLE app.$who OWNER TO $who", "table app.$who"),
    ("owned database", "orders", "ALTER DATABASE spare OWNER TO $who", "database spare"),
];

const APP: &str = "CREATE SCHEMA app; CREATE TABLE app.t (id int)";

#[tokio::test]
async fn every_shape_is_dropped_or_named() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.pg.create_database("billing", APP).await?;
    stage.pg.create_database("bare", APP).await?;
    let superuser = stage.pg.superuser("orders").await?;
    superuser.batch_execute("CREATE DATABASE spare").await?;
    let bare = stage.pg.superuser("bare").await?;
    bare.batch_execute("DROP SCHEMA IF EXISTS public CASCADE").await?;
    let setup = "CREATE ROLE sheep; CREATE ROLE lamb; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w";
    superuser.batch_execute(setup).await?;
    stage.pg.admin("orders").await?.batch_execute("CREATE TYPE sales.kind AS ENUM ('a'); SELECT lo_create(4712)").await?;
    stage.workers(1).await?;

    let owner = GRANTS.iter().chain(&OWNERS).map(|shape| (shape, By::Owner));
    let admin_role = GRANTS.iter().map(|shape| (shape, By::AdminRole));
    let root = SUPERUSERS.iter().map(|shape| (shape, By::Superuser));
    let mut table = format!("PostgreSQL {}\n", stage.pg.version());
    let mut number = 0;
    for (shape, by) in owner.chain(admin_role).chain(root) {
        number += 1;
        let who = format!("p{number}");
        let row = one(&mut stage, *shape, by, &who).await.with_context(|| format!("{} by {by:?}", shape.0))?;
        writeln!(table, "{:32} {:10} {row}", shape.0, format!("{by:?}"))?;
    }
    writeln!(table, "{:32} {:10} {}", "session in SET ROLE", "-", in_set_role(&stage).await?)?;
    print(&table);
    stage.finish().await
}

/// Gives the shape, cleans up, and returns what became of the account.
async fn one(stage: &mut Stage, (name, database, sql, blocker): Shape, by: By, who: &str) -> Result<String> {
    if name == "parameter" && stage.pg.version().major() < 15 {
        return Ok("not in this version".to_owned());
    }
    stage.expect(&grant(INTEGRATION, who, who).schema("orders", "sales", "read_only"), "succeeded").await?;
    let admin_role = stage.pg.version().platform().admin_role();
    let (giver, sql) = match by {
        By::Owner => (stage.pg.admin(database).await?, sql.to_owned()),
        By::AdminRole => (stage.pg.superuser(database).await?, format!("SET ROLE {admin_role}; {sql}; RESET ROLE")),
        By::Superuser => (stage.pg.superuser(database).await?, sql.to_owned()),
    };
    let superuser = stage.pg.superuser(database).await?;
    let before = dependencies(&superuser, who).await?;
    giver.batch_execute(&sql.replace("$who", who)).await?;
    let recorded = dependencies(&superuser, who).await? > before || matches!(name, "setting" | "membership" | "member of the role");
    ensure!(recorded || stage.pg.version().major() <= 15 && name == "membership handed on", "the shape was not given at all");

    let result = stage.send(&cleanup_principal(INTEGRATION, who)).await?;
    let blocked: Vec<String> =
        result["blocked"].as_array().into_iter().flatten().map(|b| b["object"].as_str().unwrap_or_default().to_owned()).collect();
    let there: bool = superuser.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", &[&who]).await?.get(0);
    let giver = match by {
        By::Owner => "server_admin",
        By::AdminRole => admin_role,
        By::Superuser => "postgres",
    };
    // Whether DROP OWNED takes a role out of a policy of others differs between minor versions: either is said or done.
    let of_policy = name == "row-level policy" && !there;
    if by == By::AdminRole || blocker.is_empty() || of_policy {
        ensure!(!there && blocked.is_empty(), "should be dropped: {result:#}");
        let left = dependencies(&superuser, who).await?;
        ensure!(left == 0);
        return Ok("dropped".to_owned());
    }
    let mut expected = blocker.replace("$who", who);
    if expected.contains(" on ") && !expected.starts_with("policy") {
        write!(expected, ", given by \"{giver}\"")?;
    }
    ensure!(
        there && blocked == [expected.clone()] && result["reason"]["code"] == "objects_owned",
        "should be kept for {expected}: {result:#}"
    );
    let closed: bool = superuser
        .query_one("SELECT NOT rolcanlogin AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE r.oid IN (m.member, m.roleid) AND NOT m.admin_option) FROM pg_roles r WHERE rolname = $1", &[&who])
        .await?
        .get(0);
    ensure!(closed, "kept, but not closed");
    Ok(format!("kept: {expected}"))
}

/// How often the role is named by something else of the server.
async fn dependencies(client: &Client, role: &str) -> Result<i64> {
    let sql = "SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname = $1";
    Ok(client.query_one(sql, &[&role]).await?.get(0))
}

/// A session that took on a bundle's rights ends, and the account goes.
async fn in_set_role(stage: &Stage) -> Result<String> {
    let asked = grant(INTEGRATION, "set", "set").schema("orders", "sales", "read_only").age(&stage.identity.recipient());
    let session = stage.login_as(&stage.expect(&asked, "succeeded").await?).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let sql = "SELECT b.role_name FROM postern.bundle b WHERE b.schema_name = 'sales' AND b.state = 'ready'";
    let bundle: String = superuser.query_one(sql, &[]).await?.get(0);
    let set = session.batch_execute(&format!("SET ROLE \"{bundle}\"")).await;
    ensure!(set.is_ok() == (stage.pg.version().major() <= 15), "{set:?}");
    session.batch_execute("SELECT FROM sales.invoices").await?;
    let result = stage.expect(&cleanup_principal(INTEGRATION, "set"), "succeeded").await?;
    ensure!(result["blocked_total"] == 0 && result["sessions_terminated"] == 1, "{result:#}");
    ensure!(session.batch_execute("SELECT FROM sales.invoices").await.is_err(), "the session still reads");
    Ok("dropped, session ended".to_owned())
}

#[expect(clippy::print_stdout, reason = "the table is what the test is read for")]
fn print(table: &str) {
    println!("{table}");
}
