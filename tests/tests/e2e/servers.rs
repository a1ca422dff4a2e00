//! Servers as they are: shared by integrations, with objects of others, changed by hand.

use anyhow::{Result, ensure};
use postern_tests::events::{cleanup, grant, revoke_all, revoke_grant};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::json;

use crate::{allowed, denied, ended, explained, logged, sessions_of};

#[tokio::test]
async fn integrations_on_one_ledger_share_the_account_and_end_only_their_own_grants() -> Result<()> {
    let mut stage = Stage::builder().integration("second", "").start().await?;
    stage.workers(2).await?;
    let recipient = stage.identity.recipient();
    let first = stage
        .expect(&grant(INTEGRATION, "AR-1", "jane").tables("orders", "sales", &["invoices"], "read_only").age(&recipient), "succeeded")
        .await?;
    let credential = stage.credential(&first)?;
    let second = stage
        .expect(&grant("second", "AR-1", "jane").tables("orders", "sales", &["lines"], "read_only").age(&recipient), "succeeded")
        .await?;
    assert_eq!(second["credential"]["status"], "unchanged", "one account, one password");
    let login = async || stage.pg.login(&credential.username, &credential.password, "orders").await;
    let jane = login().await?;
    allowed(&jane, "SELECT * FROM sales.invoices; SELECT * FROM sales.lines").await?;

    let ended = stage.expect(&revoke_all(INTEGRATION), "succeeded").await?;
    assert_eq!(ended["ended"], json!(["AR-1"]));
    let jane = login().await?;
    denied(&jane, "SELECT * FROM sales.invoices").await?;
    allowed(&jane, "SELECT * FROM sales.lines").await?;
    stage.expect(&revoke_grant("second", "AR-1"), "succeeded").await?;
    ensure!(login().await.is_err());
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_second_ledger_on_the_server_does_not_touch_the_firsts_people() -> Result<()> {
    let mut stage = Stage::builder().integration("second", "database = 'ledger2'").start().await?;
    stage.pg.create_database("ledger2", "").await?;
    stage.workers(1).await?;
    stage.expect(&grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only"), "succeeded").await?;
    let refused = stage.expect(&grant("second", "AR-1", "jane").database("orders", "read_only"), "rejected").await?;
    assert_eq!(refused["reason"]["code"], "role_not_managed");
    stage.expect(&grant("second", "AR-2", "kim").database("orders", "read_only"), "succeeded").await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn what_the_connector_may_not_give_is_left_out_with_a_warning_or_refused_where_it_was_named() -> Result<()> {
    let mut stage = Stage::start().await?;
    let superuser = stage.pg.superuser("orders").await?;
    superuser
        .batch_execute("CREATE ROLE team; GRANT USAGE, CREATE ON SCHEMA sales TO team; SET ROLE team; CREATE TABLE sales.theirs (id int)")
        .await?;
    stage.workers(1).await?;
    let result = stage
        .expect(&grant(INTEGRATION, "1", "jane").schema("orders", "sales", "read_only").age(&stage.identity.recipient()), "succeeded")
        .await?;
    ensure!(result["warnings"].to_string().contains("sales.theirs"), "{result:#}");
    let jane = stage.login_as(&result).await?;
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    denied(&jane, "SELECT * FROM sales.theirs").await?;

    let named =
        stage.expect(&grant(INTEGRATION, "2", "kim").tables("orders", "sales", &["invoices", "theirs"], "read_only"), "rejected").await?;
    assert_eq!(named["reason"]["code"], "permission_missing", "{named:#}");
    let kim: bool = superuser.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kim')", &[]).await?.get(0);
    assert!(!kim, "an event is all or nothing");
    stage.finish().await
}

#[tokio::test]
async fn roles_that_were_dropped_or_renamed_by_hand_are_made_again_by_the_next_grant() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let asked = |id: &str, who: &str| grant(INTEGRATION, id, who).schema("orders", "sales", "read_only").age(&recipient);
    stage.expect(&asked("1", "jane"), "succeeded").await?;
    stage.expect(&asked("2", "kim"), "succeeded").await?;
    let superuser = stage.pg.superuser("orders").await?;
    let bundle: String = stage.pg.superuser("postgres").await?.query_one("SELECT role_name FROM postern.bundle", &[]).await?.get(0);
    superuser.batch_execute(&format!("DROP ROLE jane; GRANT \"{bundle}\" TO postern_connector")).await?;
    stage.pg.connector("orders").await?.batch_execute(&format!("DROP OWNED BY \"{bundle}\"")).await?;
    superuser.batch_execute(&format!("DROP ROLE \"{bundle}\"")).await?;

    let result = stage.expect(&asked("3", "jane"), "succeeded").await?;
    ensure!(result["drift"].to_string().contains("role_missing"), "{result:#}");
    assert_eq!(result["credential"]["status"], "delivered", "a new role has no password");
    let jane = stage.login_as(&result).await?;
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    // Kim's membership went with the bundle, and comes back with the next grant for Kim only.
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(result["drift"].to_string().contains("membership_removed"), "{result:#}");
    let has = async |who: &str| -> Result<bool> {
        Ok(superuser.query_one("SELECT has_table_privilege($1::name, 'sales.invoices', 'SELECT')", &[&who]).await?.get(0))
    };
    assert!(!has("kim").await?);
    stage.expect(&asked("4", "kim"), "succeeded").await?;
    assert!(has("kim").await?);

    superuser.batch_execute("ALTER ROLE kim RENAME TO kimberly").await?;
    let result = stage.expect(&revoke_grant(INTEGRATION, "2"), "succeeded").await?;
    ensure!(result["drift"].to_string().contains("role_renamed"), "{result:#}");
    stage.expect(&revoke_grant(INTEGRATION, "4"), "succeeded").await?;
    assert!(!has("kimberly").await?);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn names_that_look_like_sql_are_names() -> Result<()> {
    let mut stage = Stage::start().await?;
    let hostile = r#"s"; DROP TABLE x; -- '\"#;
    let quoted = hostile.replace('"', "\"\"");
    stage.pg.create_database("hostile", &format!("CREATE SCHEMA \"{quoted}\"; CREATE TABLE \"{quoted}\".\"{quoted}\" (id int)")).await?;
    stage.workers(1).await?;
    let who = r#"x"; ALTER ROLE postern_connector SUPERUSER; --'\@example.com"#;
    let asked = grant(INTEGRATION, r"id'\", who).tables("hostile", hostile, &[hostile], "read_write").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    let client = stage.login_as(&result).await?;
    allowed(&client, &format!("INSERT INTO \"{quoted}\".\"{quoted}\" VALUES (1)")).await?;
    stage.expect(&revoke_grant(INTEGRATION, r"id'\"), "succeeded").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    stage.finish().await
}

#[tokio::test]
async fn objects_in_public_do_not_run_with_the_connectors_rights() -> Result<()> {
    let mut stage = Stage::start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    // What anybody who may create in `public` could prepare: exact matches for calls that the connector makes.
    superuser
        .batch_execute(
            "CREATE TABLE public.trap (who text); GRANT ALL ON public.trap TO PUBLIC;
             CREATE FUNCTION public.spring() RETURNS boolean LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO public.trap VALUES (current_user); RETURN true; END $$;
             CREATE FUNCTION public.holds(bigint[], bigint[]) RETURNS boolean LANGUAGE sql AS 'SELECT public.spring()';
             CREATE OPERATOR public.@> (FUNCTION = public.holds, LEFTARG = bigint[], RIGHTARG = bigint[]);
             CREATE FUNCTION public.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT public.spring()';
             CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT CASE WHEN public.spring() THEN now() END'",
        )
        .await?;
    stage.workers(1).await?;
    stage.expect(&grant(INTEGRATION, "1", "jane").database("orders", "read_only"), "succeeded").await?;
    stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    let sprung: i64 = superuser.query_one("SELECT count(*) FROM public.trap", &[]).await?.get(0);
    assert_eq!(sprung, 0);
    stage.finish().await
}

#[tokio::test]
async fn a_schema_postern_that_somebody_else_made_is_not_trusted() -> Result<()> {
    let mut stage = Stage::start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("CREATE ROLE eve LOGIN; CREATE SCHEMA postern AUTHORIZATION eve").await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "1", "jane").database("orders", "read_only");
    stage.publish(&asked).await?;
    logged(&stage, "ALTER SCHEMA postern OWNER TO").await?;
    superuser.batch_execute("DROP SCHEMA postern").await?;
    assert_eq!(stage.result_of(&asked).await?["outcome"], "succeeded");
    stage.finish().await
}

#[tokio::test]
async fn a_person_who_holds_locks_cannot_keep_access() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let admin = stage.pg.admin("postgres").await?;
    let mut held = Vec::new();
    for who in ["aa", "mm", "zz"] {
        let asked = grant(INTEGRATION, who, who).database("orders", "read_only").age(&recipient);
        held.push(stage.login_as(&stage.expect(&asked, "succeeded").await?).await?);
    }
    // Holds the row of the own role, which ALTER ROLE needs.
    held[1].batch_execute("BEGIN; ALTER ROLE mm PASSWORD 'mine'").await?;
    let result = stage.expect(&revoke_all(INTEGRATION), "succeeded").await?;
    assert_eq!(result["ended_total"], 3, "{result:#}");
    for who in ["aa", "mm", "zz"] {
        assert!(ended(&admin, who).await?, "{who}");
        assert_eq!(sessions_of(&admin, who).await?, 0, "{who}");
    }
    let asked = grant(INTEGRATION, "again", "mm").database("orders", "read_only").age(&recipient);
    stage.expect(&asked, "succeeded").await?;
    let session = stage.pg.login("mm", &own_password(&stage, "mm").await?, "orders").await?;
    session.batch_execute("BEGIN; ALTER ROLE mm PASSWORD 'mine'").await?;
    stage.expect(&revoke_grant(INTEGRATION, "again"), "succeeded").await?;
    assert!(ended(&admin, "mm").await?);
    assert_eq!(sessions_of(&admin, "mm").await?, 0);
    explained(&stage).await?;
    stage.finish().await
}

/// A password for a person, set past Postern.
async fn own_password(stage: &Stage, who: &str) -> Result<String> {
    stage.pg.superuser("postgres").await?.batch_execute(&format!("ALTER ROLE {who} PASSWORD 'set-by-hand'")).await?;
    Ok("set-by-hand".to_owned())
}

#[tokio::test]
async fn what_people_grant_to_bundles_and_odd_functions_stop_nobody_else() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    // Their arguments are written otherwise in a listing than in a GRANT.
    let odd = "CREATE FUNCTION sales.step(float8, float8) RETURNS float8 LANGUAGE sql AS 'SELECT $2';
               CREATE FUNCTION sales.last(float8, float8) RETURNS float8 LANGUAGE sql AS 'SELECT $1';
               CREATE AGGREGATE sales.middle(float8 ORDER BY float8) (SFUNC = sales.step, STYPE = float8, FINALFUNC = sales.last);
               CREATE FUNCTION sales.many(VARIADIC n int[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
               CREATE PROCEDURE sales.out(a int, OUT b int) LANGUAGE sql AS 'SELECT 1'";
    stage.pg.admin("orders").await?.batch_execute(odd).await?;
    let asked = |id: &str, who: &str| grant(INTEGRATION, id, who).schema("orders", "sales", "admin").age(&recipient);
    let evil = stage.login_as(&stage.expect(&asked("1", "evil"), "succeeded").await?).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let bundle: String = superuser.query_one("SELECT role_name FROM postern.bundle", &[]).await?.get(0);
    evil.batch_execute(&format!(
        "CREATE TEMP TABLE t (i int); GRANT ALL ON t TO \"{bundle}\"; CREATE TABLE sales.evil (i int); GRANT ALL ON sales.evil TO \"{bundle}\""
    ))
    .await?;
    stage.expect(&asked("2", "kim"), "succeeded").await?;
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(
        result["outcome"] != "failed" && result["warnings_total"] == 0 || result["warnings"].to_string().contains("evil"),
        "{result:#}"
    );
    explained(&stage).await?;
    stage.finish().await
}
