//! What else `check` finds: odd names, many objects, other owners, everybody's privileges, the connector's own state.

use anyhow::{Context, Result, ensure};
use postern_tests::postgres::{CONNECTOR, Platform};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;

use super::{found, lines, mend};

/// Items of the name, with what mends them.
fn named(items: &[Value], name: &str) -> Vec<Vec<String>> {
    items.iter().filter(|item| item["item"] == name).map(lines).collect()
}

#[tokio::test]
async fn many_objects_and_odd_names_are_mended_by_few_statements() -> Result<()> {
    const ODD: &str = "we\"ird db";
    let stage = Stage::builder().policy("databases = ['we\"ird db']").start().await?;
    // Made after the bootstrap by somebody whose default privileges say nothing.
    stage.pg.create_database(ODD, "CREATE SCHEMA before").await?;
    let superuser = stage.pg.superuser(ODD).await?;
    for kind in ["TABLES", "SEQUENCES", "ROUTINES", "SCHEMAS"] {
        let sql = format!("ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM {}", stage.pg.platform().admin_role());
        superuser.batch_execute(&sql).await?;
    }
    superuser
        .batch_execute(
            "CREATE ROLE \"O'Neil $$ \"\"x\"\"\";
             DO $do$ BEGIN FOR i IN 1..300 LOOP
               EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', 'Mixed ' || i, 'O''Neil $$ \"x\"');
               EXECUTE format('CREATE TABLE %I.\"T\" (id serial)', 'Mixed ' || i);
               EXECUTE format('ALTER TABLE %I.\"T\" OWNER TO %I', 'Mixed ' || i, 'O''Neil $$ \"x\"');
             END LOOP; END $do$;
             CREATE SCHEMA \"It's\"; CREATE TABLE \"It's\".\"a.b\" (id int)",
        )
        .await?;
    let items = found(&stage).await?;
    let items_of_database = named(&items, &format!("database {ODD}"));
    assert_eq!(items_of_database.len(), 2, "one an owner: {items:#?}");
    let printed: usize = items.iter().map(|item| lines(item).len()).sum();
    ensure!(printed < 25, "{printed} lines: {items:#?}");
    ensure!(items.iter().any(|item| item["message"].as_str().is_some_and(|m| m.contains("300 schemas"))), "{items:#?}");
    // Both owners have no login here: the superuser stands for them.
    for line in items.iter().flat_map(lines).filter(|line| !line.starts_with("--")) {
        superuser.batch_execute(&line).await.with_context(|| line.clone())?;
    }
    let after = found(&stage).await?;
    ensure!(after.is_empty(), "{after:#?}");
    superuser.batch_execute("SET ROLE \"O'Neil $$ \"\"x\"\"\"; CREATE TABLE \"Mixed 1\".later (id serial); RESET ROLE").await?;
    let later = found(&stage).await?;
    ensure!(later.is_empty(), "the default privileges that were printed do not reach what is made later: {later:#?}");
    stage.finish().await
}

#[tokio::test]
async fn what_everybody_has_and_what_policy_cannot_hand_out_is_told() -> Result<()> {
    let policy = "databases = ['orders', 'nowhere']\nroles = ['mighty', 'absent']";
    let stage = Stage::builder().policy(policy).start().await?;
    stage.pg.create_handable_role("mighty").await?;
    let superuser = stage.pg.superuser("orders").await?;
    superuser
        .batch_execute("GRANT pg_write_all_data TO mighty; GRANT SELECT ON hr.salaries TO PUBLIC; GRANT CREATE ON SCHEMA hr TO PUBLIC")
        .await?;
    let output = stage.cli(&["check", INTEGRATION, "--json"]).await?;
    let items: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let status = |name: &str| items.iter().find(|item| item["item"] == name).map(|item| item["status"].clone());
    for name in ["role mighty", "role absent", "database nowhere"] {
        assert_eq!(status(name), Some("fail".into()), "{name}: {items:#?}");
    }
    let public = named(&items, "public in orders").concat();
    ensure!(public.contains(&"REVOKE ALL ON TABLE hr.salaries FROM PUBLIC;".to_owned()), "{public:?}");
    ensure!(public.iter().any(|line| line.starts_with("REVOKE CREATE ON SCHEMA ") && line.contains("hr")), "{public:?}");
    ensure!(named(&items, "role mighty").concat().contains(&"REVOKE \"pg_write_all_data\" FROM \"mighty\";".to_owned()), "{items:#?}");
    for line in public.iter().filter(|line| !line.starts_with("--")) {
        superuser.batch_execute(line).await?;
    }
    let output = stage.cli(&["check", INTEGRATION, "--json"]).await?;
    let items: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    assert_eq!(named(&items, "public in orders").len(), 0, "{items:#?}");
    stage.finish().await
}

#[tokio::test]
async fn the_connector_s_own_state_is_looked_at() -> Result<()> {
    let stage = Stage::builder().platform(Platform::Rds).policy("databases = ['orders']").start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    for (sql, item, status) in [
        (format!("ALTER ROLE {CONNECTOR} VALID UNTIL 'yesterday'"), "login", "fail"),
        (format!("ALTER ROLE {CONNECTOR} VALID UNTIL 'tomorrow'"), "valid until", "warn"),
        (format!("ALTER ROLE {CONNECTOR} CONNECTION LIMIT 2"), "sessions", "warn"),
        (format!("ALTER ROLE {CONNECTOR} SUPERUSER"), "superuser", "warn"),
    ] {
        superuser.batch_execute(&sql).await?;
        let met = found(&stage).await?;
        let told = met.iter().find(|met| met["item"] == item).with_context(|| format!("`{sql}`: {met:#?}"))?;
        assert_eq!(told["status"], status, "{told:#}");
        for line in lines(told).iter().filter(|line| !line.starts_with("--") && !line.starts_with('\\')) {
            superuser.batch_execute(line).await?;
        }
        let after = found(&stage).await?;
        ensure!(after.is_empty(), "after `{sql}`: {after:#?}");
    }
    // RDS can keep passwords to the members of one role.
    superuser
        .batch_execute(&format!("CREATE ROLE postern_owner CREATEROLE; ALTER ROLE {CONNECTOR} SET rds.restrict_password_commands = 'on'"))
        .await?;
    let statements = mend(&stage, &found(&stage).await?).await?;
    ensure!(statements.contains(&"GRANT rds_password TO \"postern_owner\";".to_owned()), "{statements:?}");
    ensure!(found(&stage).await?.is_empty());
    stage.finish().await
}
