//! Roles that are never granted, however they are reached, and roles that become such.

use anyhow::{Result, ensure};
use postern_tests::events::{cleanup, grant, revoke_grant};
use postern_tests::stage::{INTEGRATION, Stage};

use crate::{ended, sessions_of};

/// How a listed role reaches the powerful one.
const ROUTES: [&str; 4] = ["direct", "one_hop", "two_hops", "noinherit_hop"];

/// Powerful roles: attributes, the platforms' admin roles, predefined roles of this version.
fn powerful(major: u16) -> Vec<&'static str> {
    let mut names = vec![
        "a_superuser",
        "a_createrole",
        "a_replication",
        "a_bypassrls",
        "azure_pg_admin",
        "rds_superuser",
        "cloudsqlsuperuser",
        "pg_execute_server_program",
        "pg_read_server_files",
        "pg_write_server_files",
        "pg_read_all_data",
        "pg_write_all_data",
        "pg_signal_backend",
        "postern_connector",
        "postern_owner",
        "postern_admin",
        "somebody",
    ];
    if major >= 16 {
        names.extend(["pg_create_subscription", "pg_use_reserved_connections"]);
    }
    if major >= 17 {
        names.push("pg_maintain");
    }
    if major >= 18 {
        names.push("pg_signal_autovacuum_worker");
    }
    names
}

#[tokio::test]
async fn every_forbidden_role_is_refused_by_every_route() -> Result<()> {
    let major = postern_tests::postgres::Version::under_test()?.major();
    let mut names: Vec<String> = powerful(major).into_iter().map(ToOwned::to_owned).collect();
    // The name of the first bundle of a ledger is not known before; a role stands in for it as its member.
    let bundle = "bundle";
    let routes = |name: &str| ROUTES.map(|route| format!("{route}_{name}"));
    let listed: Vec<String> =
        names.iter().flat_map(|name| routes(name).into_iter().skip(1).chain([name.clone()])).chain(routes(bundle)).collect();
    let mut stage = Stage::builder().policy(&format!("roles = {listed:?}")).start().await?;
    stage.workers(1).await?;
    stage.expect(&grant(INTEGRATION, "0", "somebody").schema("orders", "sales", "read_only"), "succeeded").await?;

    let superuser = stage.pg.superuser("postgres").await?;
    superuser
        .batch_execute(
            "CREATE ROLE a_superuser SUPERUSER; CREATE ROLE a_createrole CREATEROLE; CREATE ROLE a_replication REPLICATION;
             CREATE ROLE a_bypassrls BYPASSRLS",
        )
        .await?;
    for platform in ["azure_pg_admin", "rds_superuser", "cloudsqlsuperuser", "postern_admin"] {
        let make = format!("DO $$ BEGIN CREATE ROLE {platform}; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
        superuser.batch_execute(&make).await?;
    }
    let of_bundle: String = superuser.query_one("SELECT role_name FROM postern.bundle", &[]).await?.get(0);
    names.push(of_bundle.clone());
    for name in &names {
        let [direct, one, two, noinherit] = routes(if *name == of_bundle { bundle } else { name });
        let inner = format!("inner_{one}");
        // From 16 on a hop may also be one whose membership does not inherit.
        let option = if major >= 16 { " WITH INHERIT FALSE" } else { "" };
        superuser
            .batch_execute(&format!(
                "CREATE ROLE \"{one}\"; GRANT \"{name}\" TO \"{one}\";
                 CREATE ROLE \"{two}\"; CREATE ROLE \"{inner}\"; GRANT \"{name}\" TO \"{inner}\"; GRANT \"{inner}\" TO \"{two}\";
                 CREATE ROLE \"{noinherit}\" NOINHERIT; GRANT \"{name}\" TO \"{noinherit}\"{option}"
            ))
            .await?;
        let direct = if *name == of_bundle {
            superuser.batch_execute(&format!("CREATE ROLE \"{direct}\"; GRANT \"{name}\" TO \"{direct}\"")).await.map(|()| direct)?
        } else {
            name.clone()
        };
        for role in [direct, one, two, noinherit] {
            let refused = stage.expect(&grant(INTEGRATION, &format!("to {role}"), "jane").role(&role), "rejected").await?;
            assert_eq!(refused["reason"]["code"], "forbidden_role", "{role}: {refused:#}");
        }
    }
    let jane: bool = superuser.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'jane')", &[]).await?.get(0);
    assert!(!jane, "a refused event leaves nothing behind");
    stage.finish().await
}

#[tokio::test]
async fn a_role_that_becomes_powerful_after_it_was_granted_is_taken_away() -> Result<()> {
    let mut stage = Stage::builder().policy("roles = ['reporting', 'watching']").start().await?;
    for role in ["reporting", "watching"] {
        stage.pg.create_handable_role(role).await?;
    }
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("GRANT pg_monitor TO watching; CREATE ROLE middle; GRANT middle TO reporting").await?;
    let recipient = stage.identity.recipient();
    let asked = |id: &str, who: &str| {
        grant(INTEGRATION, id, who).database("orders", "read_only").role("reporting").role("watching").age(&recipient)
    };
    let member = async |who: &str, role: &str| -> Result<bool> {
        Ok(superuser.query_one("SELECT pg_has_role($1::name, $2::name, 'MEMBER')", &[&who, &role]).await?.get(0))
    };
    for (power, undo) in [
        ("GRANT pg_write_all_data TO middle", "REVOKE pg_write_all_data FROM middle"),
        ("ALTER ROLE reporting CREATEROLE", "ALTER ROLE reporting NOCREATEROLE"),
    ] {
        let id = power.to_owned();
        let result = stage.expect(&asked(&id, "jane").revision(1), "succeeded").await?;
        let session = if result["credential"]["status"] == "delivered" { Some(stage.login_as(&result).await?) } else { None };
        assert!(member("jane", "reporting").await?);
        assert_eq!(stage.send(&cleanup(INTEGRATION)).await?["drift"], serde_json::json!([]));
        superuser.batch_execute(power).await?;
        let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
        ensure!(result["drift"].to_string().contains("role_became_forbidden"), "{result:#}");
        assert!(!member("jane", "reporting").await? && member("jane", "watching").await?);
        if let Some(session) = session {
            assert!(session.batch_execute("SELECT 1").await.is_err(), "what the session had set is gone with it");
            assert_eq!(sessions_of(&superuser, "jane").await?, 0);
        }
        // A grant of something else does not bring it back; neither does asking again.
        stage.expect(&grant(INTEGRATION, &format!("{id} more"), "jane").schema("orders", "hr", "read_only"), "succeeded").await?;
        assert!(!member("jane", "reporting").await?);
        let refused = stage.expect(&asked(&format!("{id} again"), "kim"), "rejected").await?;
        assert_eq!(refused["reason"]["code"], "forbidden_role");
        superuser.batch_execute(undo).await?;
        stage.expect(&revoke_grant(INTEGRATION, &id), "succeeded").await?;
        stage.expect(&revoke_grant(INTEGRATION, &format!("{id} more")), "succeeded").await?;
        assert!(ended(&superuser, "jane").await?);
    }
    stage.finish().await
}
