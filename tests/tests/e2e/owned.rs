//! What people with `admin` access made, when their accounts are disposed of.

mod dangers;

use anyhow::{Context, Result, ensure};
use postern_tests::events::{Event, cleanup, cleanup_principal, grant, revoke_principal};
use postern_tests::postgres::CONNECTOR;
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{explained, sessions_of};

/// The role that `reassign_to` names.
const HEIR: &str = "reporting_owner";

/// One of each kind that a person with `admin` on a database can make.
const EVERYTHING: &str = "CREATE SCHEMA mine; CREATE TABLE mine.t (id serial PRIMARY KEY, n int CHECK (n > 0), at timestamptz DEFAULT now());
    CREATE TABLE sales.jane_t (id int); CREATE INDEX jane_i ON mine.t (lower(n::text)); CREATE VIEW mine.v AS SELECT * FROM mine.t;
    CREATE MATERIALIZED VIEW mine.m AS SELECT * FROM mine.t; CREATE SEQUENCE mine.s; CREATE TYPE mine.kind AS ENUM ('a');
    CREATE DOMAIN mine.positive AS int CHECK (VALUE > 0); CREATE TYPE mine.pair AS (a int, b int);
    CREATE FUNCTION mine.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION sales.jane_f() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE PROCEDURE mine.p() LANGUAGE sql AS 'SELECT 1'; CREATE AGGREGATE mine.sum (int) (SFUNC = int4pl, STYPE = int);
    CREATE PUBLICATION jane_pub FOR TABLE mine.t; CREATE STATISTICS mine.st ON id, n FROM mine.t; SELECT lo_create(4711);
    CREATE COLLATION mine.c (locale = 'C'); CREATE TABLE mine.parts (at date) PARTITION BY RANGE (at);
    CREATE TABLE mine.part PARTITION OF mine.parts DEFAULT; CREATE TEMP TABLE passing (id int);
    CREATE TEXT SEARCH CONFIGURATION mine.ts (COPY = simple); CREATE OPERATOR mine.=== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES IN SCHEMA mine GRANT EXECUTE ON FUNCTIONS TO PUBLIC";

async fn stage(config: &str) -> Result<Stage> {
    let stage = Stage::builder().integration(INTEGRATION, config).start().await?;
    stage.pg.create_database("billing", "CREATE SCHEMA sales").await?;
    Ok(stage)
}

/// The heir, which the connector may give objects to.
async fn make_heir(stage: &Stage) -> Result<()> {
    stage.pg.create_handable_role(HEIR).await
}

fn admin(who: &str, databases: &[&str], recipient: &str) -> Event {
    let asked = grant(INTEGRATION, &format!("{who}-1"), who).age(recipient);
    databases.iter().fold(asked, |asked, database| asked.database(database, "admin"))
}

/// A person with `admin` on the databases, and a session in each.
async fn person(stage: &Stage, who: &str, databases: &[&str]) -> Result<Vec<Client>> {
    let result = stage.expect(&admin(who, databases, &stage.identity.recipient()), "succeeded").await?;
    let credential = stage.credential(&result)?;
    let mut sessions = Vec::new();
    for database in databases {
        sessions.push(stage.pg.login(&credential.username, &credential.password, database).await?);
    }
    Ok(sessions)
}

async fn exists(client: &Client, role: &str) -> Result<bool> {
    Ok(client.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", &[&role]).await?.get(0))
}

/// `database: object` of everything in `blocked`.
fn blocked(result: &Value) -> Vec<String> {
    let all = result["blocked"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|b| format!("{}: {}", b["database"].as_str().unwrap_or("-"), b["object"].as_str().unwrap_or_default())).collect()
}

/// No role is a member of the person's, nor is the connector of anything it was not before.
async fn nobody_joined(superuser: &Client, role: &str) -> Result<()> {
    let sql = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid \
               WHERE r.rolname = $1 AND m.member = (SELECT oid FROM pg_roles WHERE rolname = $2) AND NOT m.admin_option";
    let joined: i64 = superuser.query_one(sql, &[&role, &CONNECTOR]).await?.get(0);
    ensure!(joined == 0, "the connector stayed a member of {role}");
    Ok(())
}

#[tokio::test]
async fn kept_objects_are_named_with_their_database_and_keep_the_account_disabled() -> Result<()> {
    let mut stage = stage("").await?;
    stage.workers(1).await?;
    let sessions = person(&stage, "jane", &["orders", "billing"]).await?;
    for session in &sessions {
        session.batch_execute(EVERYTHING).await?;
    }
    let superuser = stage.pg.superuser("postgres").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(result["reason"]["code"], "objects_owned", "{result:#}");
    let met = blocked(&result);
    for database in ["orders", "billing"] {
        for object in [
            "schema mine",
            "table mine.t",
            "table sales.jane_t",
            "view mine.v",
            "materialized view mine.m",
            "sequence mine.s",
            "type mine.kind",
            "type mine.positive",
            "type mine.pair",
            "function mine.f()",
            "function sales.jane_f()",
            "publication jane_pub",
            "large object 4711",
            "collation mine.c",
            "table mine.part",
            "statistics object mine.st",
            "text search configuration mine.ts",
        ] {
            ensure!(met.contains(&format!("{database}: {object}")), "{database}: {object} is not among {met:#?}");
        }
    }
    // Settings of a role that is going are nobody's objects, and temporary ones went with the session.
    ensure!(!met.iter().any(|b| b.contains("default privileges") || b.contains("passing")), "{met:#?}");
    let login: bool = superuser.query_one("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'jane'", &[]).await?.get(0);
    assert!(!login);
    assert_eq!(sessions_of(&superuser, "jane").await?, 0);
    nobody_joined(&superuser, "jane").await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn dropped_objects_go_in_every_database_with_the_account() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    stage.workers(1).await?;
    for session in person(&stage, "jane", &["orders", "billing"]).await? {
        session.batch_execute(EVERYTHING).await?;
    }
    let result = stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert_eq!(blocked(&result), [""; 0], "{result:#}");
    for database in ["orders", "billing"] {
        let client = stage.pg.superuser(database).await?;
        assert!(!exists(&client, "jane").await?);
        let left: i64 = client.query_one("SELECT count(*) FROM pg_namespace WHERE nspname = 'mine'", &[]).await?.get(0);
        assert_eq!(left, 0, "{database}");
        client.batch_execute("SELECT FROM pg_namespace WHERE nspname = 'sales'").await?;
    }
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn others_objects_that_depend_on_a_persons_are_named_not_dropped() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    stage.workers(1).await?;
    let sessions = person(&stage, "jane", &["orders"]).await?;
    let setup = "CREATE TABLE sales.jane_t (id int); GRANT SELECT ON sales.jane_t TO server_admin;
                 CREATE VIEW sales.jane_v AS SELECT * FROM sales.jane_t";
    sessions[0].batch_execute(setup).await?;
    stage.pg.admin("orders").await?.batch_execute("CREATE VIEW sales.theirs AS SELECT * FROM sales.jane_t").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(blocked(&result), ["orders: rule _RETURN on view sales.theirs depends on table sales.jane_t"], "{result:#}");
    let admin = stage.pg.admin("orders").await?;
    admin.batch_execute("SELECT FROM sales.theirs; DROP VIEW sales.theirs").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert!(!exists(&admin, "jane").await?);
    stage.finish().await
}

#[tokio::test]
async fn others_partitions_of_a_persons_table_are_named_not_dropped() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("orders").await?;
    superuser.batch_execute("CREATE TABLE sales.dba_big (at date NOT NULL); INSERT INTO sales.dba_big VALUES ('2026-01-01')").await?;
    let sessions = person(&stage, "jane", &["orders"]).await?;
    let setup = "CREATE SCHEMA mine; CREATE TABLE mine.parts (at date NOT NULL) PARTITION BY RANGE (at);
                 CREATE TABLE mine.own PARTITION OF mine.parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01'); CREATE INDEX ON mine.parts (at)";
    sessions[0].batch_execute(setup).await?;
    superuser
        .batch_execute(
            "ALTER TABLE mine.parts ATTACH PARTITION sales.dba_big DEFAULT; CREATE STATISTICS sales.st ON (at + 1) FROM mine.own",
        )
        .await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(blocked(&result), ["orders: table sales.dba_big, of \"postgres\", is a partition of mine.parts"], "{result:#}");
    let rows: i64 = superuser.query_one("SELECT count(*) FROM sales.dba_big", &[]).await?.get(0);
    assert_eq!(rows, 1);
    superuser.batch_execute("ALTER TABLE mine.parts DETACH PARTITION sales.dba_big").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    superuser.batch_execute("SELECT FROM sales.dba_big").await?;
    assert!(!exists(&superuser, "jane").await?);
    stage.finish().await
}

#[tokio::test]
async fn reassigned_objects_go_to_the_named_role_in_every_database() -> Result<()> {
    let mut stage = stage(&format!("owned_objects = {{ reassign_to = '{HEIR}' }}")).await?;
    make_heir(&stage).await?;
    stage.workers(1).await?;
    for session in person(&stage, "jane", &["orders", "billing"]).await? {
        session.batch_execute(EVERYTHING).await?;
    }
    let result = stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert_eq!(blocked(&result), [""; 0], "{result:#}");
    for database in ["orders", "billing"] {
        let client = stage.pg.superuser(database).await?;
        assert!(!exists(&client, "jane").await?);
        let sql = "SELECT string_agg(DISTINCT pg_get_userbyid(o.owner), ', ') FROM (
                     SELECT relowner AS owner FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = 'mine') OR relname = 'jane_t'
                     UNION SELECT proowner FROM pg_proc WHERE proname IN ('f', 'jane_f') UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'mine'
                     UNION SELECT pubowner FROM pg_publication UNION SELECT lomowner FROM pg_largeobject_metadata) AS o (owner)";
        let owners: String = client.query_one(sql, &[]).await?.get(0);
        assert_eq!(owners, HEIR, "{database}");
        // What was lent to the heir for the change is gone, and what it owns is its own.
        let sql = "SELECT has_schema_privilege($1, 'sales', 'CREATE'), has_database_privilege($1, current_database(), 'CREATE'), has_schema_privilege($1, 'mine', 'CREATE')";
        let row = client.query_one(sql, &[&HEIR]).await?;
        assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1), row.get::<_, bool>(2)), (false, false, true), "{database}");
    }
    nobody_joined(&stage.pg.superuser("postgres").await?, HEIR).await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn nothing_is_given_to_a_role_with_powers_or_without_a_person_to_answer_for_it() -> Result<()> {
    let admin_role = postern_tests::postgres::Version::under_test()?.platform().admin_role();
    let heirs = ["root", "through", admin_role, "server_admin", "maker", "nobody", "kim", "postern_owner", CONNECTOR, "pg_write_all_data"];
    let stage = heirs.iter().enumerate().fold(Stage::builder(), |stage, (index, heir)| {
        stage.integration(
            &format!("to-{index}"),
            &format!("owned_objects = {{ reassign_to = '{heir}' }}\n[policy]\naccess = ['read_only', 'admin']"),
        )
    });
    let mut stage = stage.start().await?;
    let superuser = stage.pg.superuser("orders").await?;
    let setup = format!(
        "CREATE ROLE root SUPERUSER; CREATE ROLE step; GRANT {admin_role} TO step; CREATE ROLE through; GRANT step TO through; CREATE ROLE maker CREATEROLE;
         GRANT through, maker TO {CONNECTOR}"
    );
    superuser.batch_execute(&setup).await?;
    stage.workers(1).await?;
    stage.expect(&grant("to-0", "kim-1", "kim").database("orders", "read_only"), "succeeded").await?;
    for (index, heir) in heirs.iter().enumerate() {
        let who = format!("jane{index}");
        let integration = format!("to-{index}");
        let asked = grant(&integration, &who, &who).database("orders", "admin").age(&stage.identity.recipient());
        let session = stage.login_as(&stage.expect(&asked, "succeeded").await?).await?;
        session.batch_execute(&format!("CREATE TABLE sales.{who} (id int)")).await?;
        let result = stage.send(&cleanup_principal(&integration, &who)).await?;
        let met = blocked(&result);
        ensure!(met.len() == 2 && met[0].contains("reassign_to") && met[0].contains(heir), "{heir}: {result:#}");
        assert_eq!(met[1], format!("orders: table sales.{who}"));
        let owner: String = superuser.query_one("SELECT tableowner::text FROM pg_tables WHERE tablename = $1", &[&who]).await?.get(0);
        assert_eq!(owner, who, "{heir}");
    }
    stage.finish().await
}

#[tokio::test]
async fn check_says_what_the_role_that_gets_objects_lacks() -> Result<()> {
    let stage = stage(&format!("owned_objects = {{ reassign_to = '{HEIR}' }}")).await?;
    let admin = stage.pg.superuser("postgres").await?;
    let check = async || -> Result<Value> {
        let output = stage.cli(&["check", "--json"]).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let found: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        item(&found).with_context(|| format!("no such item: {found:#}"))
    };
    let missing = check().await?;
    assert_eq!(missing["status"], "fail");
    let mend: Vec<&str> = missing["mend"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(mend[1], format!("CREATE ROLE \"{HEIR}\" NOLOGIN;"));
    admin.batch_execute(&mend.join("\n")).await?;
    assert_eq!(check().await?["status"], "ok", "what check printed mends it");
    admin.batch_execute(&format!("REVOKE {HEIR} FROM {CONNECTOR}")).await?;
    // Up to 15 CREATEROLE is enough to become a member for the moment.
    let expected = if stage.pg.version().major() >= 16 { "fail" } else { "ok" };
    assert_eq!(check().await?["status"], expected);
    admin.batch_execute(&format!("ALTER ROLE {HEIR} CREATEROLE")).await?;
    let powerful = check().await?;
    ensure!(powerful["status"] == "fail" && powerful["message"].to_string().contains("may create roles"), "{powerful:#}");
    stage.finish().await
}

/// The item about `reassign_to`, wherever it is.
fn item(found: &Value) -> Option<Value> {
    match found {
        Value::Object(object) if object.get("item").is_some_and(|item| item.to_string().contains("reassign_to")) => Some(found.clone()),
        Value::Object(object) => object.values().find_map(item),
        Value::Array(array) => array.iter().find_map(item),
        _ => None,
    }
}

#[tokio::test]
async fn a_prepared_transaction_is_named_until_it_is_ended() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    stage.workers(1).await?;
    let sessions = person(&stage, "jane", &["orders", "billing"]).await?;
    sessions[1].batch_execute("BEGIN; CREATE TABLE sales.later (id int); PREPARE TRANSACTION 'jane''s'").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    let expected =
        "billing: prepared transaction \"jane's\" of \"jane\"; in this database, as that role or a superuser: ROLLBACK PREPARED 'jane''s'";
    assert_eq!(blocked(&result), [expected], "{result:#}");
    stage.pg.superuser("billing").await?.batch_execute("ROLLBACK PREPARED 'jane''s'").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;

    // Somebody else's, who holds a table of the person's.
    let sessions = person(&stage, "kim", &["orders"]).await?;
    sessions[0].batch_execute("CREATE TABLE sales.kims (id int); GRANT ALL ON sales.kims TO server_admin").await?;
    let admin = stage.pg.admin("orders").await?;
    admin.batch_execute("BEGIN; LOCK TABLE sales.kims IN ACCESS SHARE MODE; PREPARE TRANSACTION 'other'").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "kim")).await?;
    let met = blocked(&result);
    ensure!(met.len() == 1 && met[0].starts_with("orders: prepared transaction \"other\" of \"server_admin\""), "{result:#}");
    admin.batch_execute("ROLLBACK PREPARED 'other'").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "kim"), "succeeded").await?;
    assert!(!exists(&admin, "kim").await?);
    stage.finish().await
}

#[tokio::test]
async fn a_prepared_transaction_under_another_role_is_found_by_its_locks() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    // From 16 on nobody may set a bundle role.
    if stage.pg.version().major() >= 16 {
        return stage.finish().await;
    }
    stage.workers(1).await?;
    let sessions = person(&stage, "jane", &["orders"]).await?;
    let bundle: String = stage.pg.superuser("postgres").await?.query_one("SELECT role_name FROM postern.bundle", &[]).await?.get(0);
    let hidden = format!("BEGIN; CREATE TABLE sales.later (id int); SET ROLE \"{bundle}\"; PREPARE TRANSACTION 'hidden'");
    sessions[0].batch_execute(&hidden).await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    let met = blocked(&result);
    ensure!(met.len() == 1 && met[0].starts_with("orders: prepared transaction \"hidden\" of \"postern:admin:orders"), "{result:#}");
    stage.pg.superuser("orders").await?.batch_execute("ROLLBACK PREPARED 'hidden'").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    stage.finish().await
}

#[tokio::test]
async fn what_a_bundle_was_made_to_own_keeps_the_bundle() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    stage.workers(1).await?;
    let sessions = person(&stage, "jane", &["orders"]).await?;
    let superuser = stage.pg.superuser("orders").await?;
    let bundle: String = stage.pg.superuser("postgres").await?.query_one("SELECT role_name FROM postern.bundle", &[]).await?.get(0);
    let made = sessions[0].batch_execute(&format!("SET ROLE \"{bundle}\"; CREATE TABLE sales.of_bundle AS SELECT 1 AS one")).await;
    assert_eq!(made.is_ok(), stage.pg.version().major() <= 15, "from 16 on nobody may set a bundle role");
    if made.is_err() {
        superuser
            .batch_execute(&format!("CREATE TABLE sales.of_bundle AS SELECT 1 AS one; ALTER TABLE sales.of_bundle OWNER TO \"{bundle}\""))
            .await?;
    }
    stage.expect(&revoke_principal(INTEGRATION, "jane"), "succeeded").await?;
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    assert_eq!(blocked(&result), [format!("orders: table sales.of_bundle (of role {bundle:?})")], "{result:#}");
    superuser.batch_execute("SELECT FROM sales.of_bundle; DROP TABLE sales.of_bundle").await?;
    stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert!(!exists(&superuser, &bundle).await?);
    stage.finish().await
}

#[tokio::test]
async fn a_database_that_lets_the_connector_not_in_is_named() -> Result<()> {
    let mut stage = stage("owned_objects = 'drop'").await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let admin_role = stage.pg.version().platform().admin_role();
    superuser.batch_execute("CREATE DATABASE closed").await?;
    let asked = || admin("jane", &["orders"], &stage.identity.recipient());
    stage.expect(&asked(), "succeeded").await?;
    stage.pg.superuser("closed").await?.batch_execute("CREATE TABLE t (id int); ALTER TABLE t OWNER TO jane").await?;
    superuser.batch_execute(&format!("REVOKE ALL ON DATABASE closed FROM PUBLIC, {admin_role}, {CONNECTOR}")).await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(
        blocked(&result),
        ["closed: what \"jane\" owns or was given there: the connector may not connect to the database"],
        "{result:#}"
    );
    superuser.batch_execute("GRANT CONNECT ON DATABASE closed TO PUBLIC; ALTER DATABASE closed ALLOW_CONNECTIONS false").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(blocked(&result), ["closed: what \"jane\" owns or was given there: the database takes no connections"], "{result:#}");
    superuser.batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS true").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert!(!exists(&superuser, "jane").await?);
    stage.finish().await
}
