//! What other people do on a server all day, each in loops of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use postern_tests::stage::Stage;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// As the owner of the objects, in the database of the objects.
const OWNER: [&str; 5] = [
    "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA sales TO outsider; REVOKE ALL ON ALL TABLES IN SCHEMA sales FROM outsider",
    "GRANT USAGE ON SCHEMA sales, hr TO outsider; REVOKE USAGE ON SCHEMA sales, hr FROM outsider; \
     GRANT CONNECT ON DATABASE orders, billing TO outsider; ALTER DATABASE orders SET work_mem = '8MB'; \
     REVOKE CONNECT ON DATABASE orders, billing FROM outsider",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO outsider; ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM outsider",
    "CREATE TABLE sales.passing (id serial); ALTER TABLE sales.passing RENAME TO passed; SELECT pg_sleep(0.02); DROP TABLE sales.passed; \
     CREATE SCHEMA passing; CREATE TABLE passing.t (id int); CREATE FUNCTION sales.passing() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
     SELECT pg_sleep(0.02); DROP FUNCTION sales.passing(); DROP SCHEMA passing CASCADE; SELECT pg_sleep(0.3)",
    "BEGIN; CREATE TABLE sales.never (id int); GRANT SELECT ON sales.lines TO outsider; SELECT pg_sleep(0.4); ROLLBACK",
];

/// As an administrator, in the maintenance database.
const ADMINISTRATOR: [&str; 2] = [
    "CREATE ROLE visitor; COMMENT ON ROLE visitor IS 'passing by'; GRANT outsider TO visitor; ALTER ROLE visitor RENAME TO guest; \
     REVOKE outsider FROM guest; DROP ROLE guest",
    "ALTER DATABASE billing SET work_mem = '4MB'; ALTER DATABASE billing RESET work_mem",
];

/// As a superuser, in the database of the objects. What ends statements and sessions of the connector rests for a while:
/// a comparison of a whole database has to get through between two of them.
const SUPERUSER: [&str; 6] = [
    "BEGIN; LOCK TABLE sales.invoices, sales.lines IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.1); COMMIT; SELECT pg_sleep(0.3)",
    "CREATE TABLE sales.moved (id int); ALTER TABLE sales.moved OWNER TO outsider; SELECT pg_sleep(0.05); DROP TABLE sales.moved; SELECT pg_sleep(0.3)",
    "VACUUM pg_auth_members; VACUUM pg_authid; VACUUM pg_shdepend; ANALYZE pg_class; SELECT pg_sleep(0.3)",
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE usename = 'postern_connector' ORDER BY random() LIMIT 1) s; \
     SELECT pg_sleep(3)",
    "SELECT pg_cancel_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE usename = 'postern_connector' ORDER BY random() LIMIT 1) s; \
     SELECT pg_sleep(2)",
    // Takes the bundles in the opposite order.
    "DO $$ DECLARE b record; BEGIN \
       FOR b IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'postern:%' ORDER BY 1 DESC LOOP \
         EXECUTE format('GRANT %I TO outsider', b.rolname); PERFORM pg_sleep(0.01); END LOOP; \
       FOR b IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'postern:%' ORDER BY 1 DESC LOOP \
         EXECUTE format('REVOKE %I FROM outsider', b.rolname); END LOOP; END $$; SELECT pg_sleep(0.3)",
];

/// A person who changes the own password in a transaction that takes its time.
const PERSON: &str = "SET SESSION AUTHORIZATION p7; BEGIN; ALTER ROLE p7 PASSWORD 'mine'; SELECT pg_sleep(0.2); COMMIT";

/// They meddle until they are told to stop.
pub(super) struct Meddlers {
    stop: Arc<AtomicBool>,
    at_work: Vec<JoinHandle<u64>>,
}

impl Meddlers {
    /// Makes the role `outsider` and begins.
    pub(super) async fn begin(stage: &Stage) -> Result<Self> {
        stage.pg.admin("postgres").await?.batch_execute("CREATE ROLE outsider").await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut at_work = Vec::new();
        let mut begin = |client: Client, sql: &'static str, after: &'static str| {
            at_work.push(tokio::spawn(meddle(client, sql, after, Arc::clone(&stop))));
        };
        for sql in OWNER {
            begin(stage.pg.admin("orders").await?, sql, "ROLLBACK");
        }
        for sql in ADMINISTRATOR {
            begin(stage.pg.admin("postgres").await?, sql, "DROP ROLE IF EXISTS visitor, guest");
        }
        for sql in SUPERUSER {
            begin(stage.pg.superuser("orders").await?, sql, "ROLLBACK; DROP TABLE IF EXISTS sales.moved");
        }
        begin(stage.pg.superuser("orders").await?, PERSON, "ROLLBACK; RESET SESSION AUTHORIZATION");
        Ok(Self { stop, at_work })
    }

    /// Stops them, and takes the role `outsider` with them: a role of theirs that was dropped beside a change of its
    /// memberships leaves one behind, on all versions. Returns how often each of them came through.
    pub(super) async fn stop(self, stage: &Stage) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut rounds = Vec::new();
        for meddler in self.at_work {
            rounds.push(meddler.await?);
        }
        for database in ["orders", "billing"] {
            stage.pg.superuser(database).await?.batch_execute("DROP OWNED BY outsider").await?;
        }
        stage.pg.superuser("postgres").await?.batch_execute("DROP ROLE outsider").await?;
        Ok(rounds)
    }
}

/// Each statement travels alone: VACUUM takes no transaction, and what fails for one of them is part of the day.
async fn meddle(client: Client, sql: &str, after: &str, stop: Arc<AtomicBool>) -> u64 {
    let mut rounds = 0;
    let alone = sql.starts_with("DO ");
    while !stop.load(Ordering::Relaxed) && !client.is_closed() {
        let mut failed = false;
        let statements: Vec<&str> = if alone { vec![sql] } else { sql.split("; ").collect() };
        for statement in statements {
            failed |= client.batch_execute(statement).await.is_err();
        }
        for statement in after.split("; ") {
            let _ = client.batch_execute(statement).await;
        }
        let _ = client.batch_execute("SELECT pg_sleep(0.03)").await;
        rounds += u64::from(!failed);
    }
    rounds
}
