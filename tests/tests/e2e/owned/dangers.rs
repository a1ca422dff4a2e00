//! What could run with the new owner's rights is not given to it, and named.

use anyhow::{Result, ensure};
use postern_tests::events::cleanup_principal;
use postern_tests::stage::INTEGRATION;

use super::{HEIR, blocked, exists, make_heir, person, stage};

/// What a person makes in the schema `mine`, and the start of what is said of it.
const DANGERS: [(&str, &str, &str); 25] = [
    ("trigger", "CREATE TRIGGER t AFTER INSERT ON mine.t EXECUTE FUNCTION mine.trg()", "function mine.trg() of trigger t on table mine.t"),
    (
        "trigger_elsewhere",
        "CREATE TRIGGER jane AFTER INSERT ON sales.invoices EXECUTE FUNCTION mine.trg()",
        "function mine.trg() of trigger jane on table sales.invoices",
    ),
    ("trigger_function", "SELECT 1", "function mine.trg(), for triggers"),
    ("definer", "CREATE FUNCTION mine.d() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'", "function mine.d(), SECURITY DEFINER"),
    ("index", "CREATE INDEX i ON mine.t (mine.f(n))", "function mine.f(integer) of index mine.i"),
    ("partial_index", "CREATE INDEX i ON mine.t (n) WHERE mine.f(n) > 0", "function mine.f(integer) of index mine.i"),
    (
        "default",
        "ALTER TABLE mine.t ALTER n SET DEFAULT mine.f(1)",
        "function mine.f(integer) of default value for column n of table mine.t",
    ),
    (
        "generated",
        "ALTER TABLE mine.t ADD g int GENERATED ALWAYS AS (mine.f(n)) STORED",
        "function mine.f(integer) of default value for column g of table mine.t",
    ),
    ("check", "ALTER TABLE mine.t ADD CONSTRAINT c CHECK (mine.f(n) > 0)", "function mine.f(integer) of constraint c on table mine.t"),
    (
        "policy",
        "ALTER TABLE mine.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine.t USING (mine.f(n) > 0)",
        "function mine.f(integer) of policy p on table mine.t",
    ),
    ("statistics", "CREATE STATISTICS mine.s ON (mine.f(n)), n FROM mine.t", "function mine.f(integer) of statistics object mine.s"),
    ("partition_key", "CREATE TABLE mine.p (n int) PARTITION BY RANGE (mine.f(n))", "function mine.f(integer) of table mine.p"),
    ("domain", "CREATE DOMAIN mine.dom AS int CHECK (mine.f(VALUE) > 0)", "function mine.f(integer) of constraint dom_check"),
    ("domain_default", "CREATE DOMAIN mine.dom AS int DEFAULT mine.f(1)", "function mine.f(integer) of type mine.dom"),
    ("view", "CREATE VIEW mine.v AS SELECT mine.f(n) FROM mine.t", "function mine.f(integer) of view mine.v"),
    (
        "materialised",
        "CREATE MATERIALIZED VIEW mine.m AS SELECT mine.f(n) FROM mine.t",
        "function mine.f(integer) of materialized view mine.m",
    ),
    (
        "operator",
        "CREATE OPERATOR mine.! (FUNCTION = mine.f, RIGHTARG = int); ALTER TABLE mine.t ADD CONSTRAINT c CHECK (OPERATOR(mine.!) n > 0)",
        "function mine.f(integer) of constraint c on table mine.t",
    ),
    (
        "cast",
        "CREATE TYPE mine.pair AS (a int); CREATE FUNCTION mine.cast(mine.pair) RETURNS int LANGUAGE sql AS 'SELECT 1';
      CREATE CAST (mine.pair AS int) WITH FUNCTION mine.cast(mine.pair) AS ASSIGNMENT",
        "function mine.\"cast\"(mine.pair) of cast from mine.pair to integer",
    ),
    ("rule", "CREATE RULE r AS ON INSERT TO mine.t DO ALSO DELETE FROM public.roots", "rule r on table mine.t"),
    ("reads_others", "CREATE VIEW mine.v AS SELECT * FROM hr.salaries", "table hr.salaries of rule _RETURN on view mine.v"),
    ("reads_roots", "CREATE VIEW mine.v AS SELECT * FROM public.roots", "view mine.v on table public.roots"),
    (
        "refreshes_others",
        "CREATE MATERIALIZED VIEW mine.m AS SELECT * FROM hr.salaries WITH NO DATA",
        "table hr.salaries of rule _RETURN on materialized view mine.m",
    ),
    (
        "runs_text",
        "ALTER TABLE mine.t ADD x xml DEFAULT query_to_xml('SELECT mine.f(1)', true, true, '')",
        "function query_to_xml(text,boolean,boolean,text) of default value for column x of table mine.t",
    ),
    ("trigger_right", "GRANT TRIGGER ON mine.t TO PUBLIC", "TRIGGER on table mine.t for PUBLIC"),
    (
        "range",
        "CREATE FUNCTION mine.diff(int, int) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 1::float8';
      CREATE TYPE mine.span AS RANGE (subtype = int, subtype_diff = mine.diff)",
        "function mine.diff(integer,integer) of type mine.span",
    ),
];

const GROUND: &str = "CREATE SCHEMA mine; CREATE TABLE mine.t (id int PRIMARY KEY, n int);
    CREATE FUNCTION mine.f(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';";
const TRIGGER_FUNCTION: &str = "CREATE FUNCTION mine.trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";

#[tokio::test]
async fn what_could_run_as_the_new_owner_stays_with_the_account_and_is_named() -> Result<()> {
    let mut stage = stage(&format!("owned_objects = {{ reassign_to = '{HEIR}' }}")).await?;
    make_heir(&stage).await?;
    let superuser = stage.pg.superuser("orders").await?;
    let rights = format!(
        "GRANT USAGE ON SCHEMA hr TO {HEIR}; GRANT SELECT ON hr.salaries TO {HEIR};
         CREATE TABLE public.roots (id int); GRANT SELECT ON public.roots TO {HEIR}, server_admin WITH GRANT OPTION"
    );
    superuser.batch_execute(&rights).await?;
    stage.workers(1).await?;
    for (who, makes, said) in DANGERS {
        let session = person(&stage, who, &["orders"]).await?.remove(0);
        session.batch_execute(GROUND).await?;
        if who.starts_with("trigger") && who != "trigger_right" {
            session.batch_execute(TRIGGER_FUNCTION).await?;
        }
        session.batch_execute(makes).await.map_err(|error| anyhow::anyhow!("{who}: {error:?}"))?;
        let result = stage.send(&cleanup_principal(INTEGRATION, who)).await?;
        let met = blocked(&result);
        let expected = |b: &String| b.starts_with(&format!("orders: {said}")) && b.contains(&format!("\"{HEIR}\""));
        ensure!(met.len() == 1 && met.iter().all(expected), "{who}: {met:#?}");
        let owner: String =
            superuser.query_one("SELECT tableowner::text FROM pg_tables WHERE schemaname = 'mine' AND tablename = 't'", &[]).await?.get(0);
        assert_eq!(owner, who, "all or nothing in one database");
        let login: bool = superuser.query_one("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", &[&who]).await?.get(0);
        assert!(!login, "{who}");
        superuser.batch_execute("DROP SCHEMA mine CASCADE").await?;
        stage.expect(&cleanup_principal(INTEGRATION, who), "succeeded").await?;
        assert!(!exists(&superuser, who).await?, "{who}");
    }
    stage.finish().await
}

#[tokio::test]
async fn what_cannot_run_as_the_new_owner_is_given_to_it() -> Result<()> {
    let mut stage = stage(&format!("owned_objects = {{ reassign_to = '{HEIR}' }}")).await?;
    make_heir(&stage).await?;
    let superuser = stage.pg.superuser("orders").await?;
    stage.workers(1).await?;
    let harmless = [
        "CREATE VIEW mine.v AS SELECT t.n, now(), random() FROM mine.t",
        // A superuser's. The heir may not read it either: nobody gets anything by it.
        "CREATE VIEW mine.v AS SELECT * FROM public.roots",
        "CREATE VIEW mine.v AS SELECT * FROM pg_catalog.pg_stat_activity",
        "CREATE FUNCTION mine.g() RETURNS int LANGUAGE sql AS 'SELECT mine.f(1)'",
        "ALTER TABLE mine.t ADD u uuid DEFAULT gen_random_uuid(), ADD s serial, ADD CONSTRAINT c CHECK (n BETWEEN 1 AND 9), ADD at timestamptz DEFAULT now()",
        "CREATE TABLE mine.child (id int REFERENCES mine.t ON DELETE CASCADE, of int REFERENCES public.roots)",
        "CREATE TRIGGER t BEFORE UPDATE ON mine.t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE mine.u (r int4range, a text[], v varchar(9) CHECK (v ~ '^a' AND upper(v) LIKE 'A%'), d date CHECK (d + 1 > '2000-01-01'::text::date))",
        "CREATE INDEX i ON mine.t (abs(n)) WHERE n > 0; GRANT SELECT, INSERT ON mine.t TO PUBLIC",
    ];
    let roots = "CREATE TABLE public.roots (id int PRIMARY KEY); CREATE POLICY p ON public.roots USING (true);
                 GRANT REFERENCES ON public.roots TO PUBLIC";
    superuser.batch_execute(roots).await?;
    for (index, makes) in harmless.iter().enumerate() {
        let who = format!("jane{index}");
        let session = person(&stage, &who, &["orders"]).await?.remove(0);
        session.batch_execute(GROUND).await?;
        session.batch_execute(makes).await.map_err(|error| anyhow::anyhow!("{makes}: {error:?}"))?;
        let result = stage.send(&cleanup_principal(INTEGRATION, &who)).await?;
        assert_eq!(blocked(&result), [""; 0], "{makes}");
        assert!(!exists(&superuser, &who).await?, "{makes}");
        let owner: String =
            superuser.query_one("SELECT tableowner::text FROM pg_tables WHERE schemaname = 'mine' AND tablename = 't'", &[]).await?.get(0);
        assert_eq!(owner, HEIR, "{makes}");
        superuser.batch_execute("DROP SCHEMA mine CASCADE").await?;
    }
    stage.finish().await
}

/// What another person makes, who may change it when the account is gone.
const FRIEND: &str = "CREATE SCHEMA friend; GRANT USAGE ON SCHEMA friend TO PUBLIC; CREATE DOMAIN friend.dom AS int;
    CREATE DOMAIN friend.bad AS int CHECK (VALUE > 0); CREATE TYPE friend.comp AS (a int); CREATE TYPE friend.mood AS ENUM ('a');
    CREATE FUNCTION friend.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; CREATE COLLATION friend.c (locale = 'C');
    CREATE OPERATOR friend.=== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
    CREATE TABLE friend.parent (id int PRIMARY KEY); GRANT REFERENCES ON friend.parent TO PUBLIC;
    CREATE VIEW friend.v AS SELECT 1 AS a; GRANT SELECT ON friend.v TO PUBLIC";

/// What a person makes, what a superuser does then, and the start of one of the things said.
const SHARED: [(&str, &str, &str, &str); 24] = [
    ("s_references", "GRANT REFERENCES ON mine.t TO PUBLIC", "", "REFERENCES on table mine.t for PUBLIC"),
    ("s_references_column", "GRANT REFERENCES (id) ON mine.t TO PUBLIC", "", "REFERENCES on column id of table mine.t for PUBLIC"),
    (
        "s_referenced",
        "SELECT 1",
        "CREATE TABLE friend.c (x int CONSTRAINT fk REFERENCES mine.t); ALTER TABLE friend.c OWNER TO friend",
        "constraint fk on table friend.c",
    ),
    (
        "s_domain_key",
        "CREATE TABLE mine.k (id friend.dom CONSTRAINT k REFERENCES friend.parent ON UPDATE CASCADE)",
        "",
        "table friend.parent of constraint k on table mine.k",
    ),
    ("s_domain", "CREATE TABLE mine.k (id friend.dom)", "", "type friend.dom of table mine.k"),
    ("s_domain_array", "CREATE TABLE mine.k (id friend.dom[])", "", "type friend.dom[] of table mine.k"),
    ("s_domain_in_own", "CREATE TYPE mine.pair AS (a friend.dom)", "", "type friend.dom of composite type mine.pair"),
    ("s_domain_on_own", "CREATE DOMAIN mine.dom AS friend.dom", "", "type friend.dom of type mine.dom"),
    ("s_domain_in_roots", "CREATE TABLE mine.k (c public.pair)", "", "type friend.dom: is used"),
    ("s_domain_cast", "ALTER TABLE mine.t ADD CONSTRAINT c CHECK ((n::friend.bad) IS NOT NULL)", "", "type friend.bad of constraint c"),
    ("s_domain_policy", "CREATE POLICY p ON mine.t USING (n::friend.bad > 0)", "", "type friend.bad of policy p on table mine.t"),
    (
        "s_array_in",
        "ALTER TABLE mine.t ADD CONSTRAINT c CHECK (array_in('{1}', to_regtype('friend.bad')::oid, -1) IS NOT NULL)",
        "",
        "function array_in(cstring,oid,integer) of constraint c on table mine.t",
    ),
    (
        "s_array_in_later",
        "ALTER TABLE mine.t ADD CONSTRAINT c CHECK (array_in('{1}', to_regtype('later.bad')::oid, -1) IS NOT NULL)",
        "",
        "function array_in(cstring,oid,integer) of constraint c on table mine.t",
    ),
    (
        "s_own_operator",
        "CREATE OPERATOR mine.=== (FUNCTION = jsonb_populate_record, LEFTARG = anyelement, RIGHTARG = jsonb);
         ALTER TABLE mine.t ADD CONSTRAINT c CHECK ((NULL::public.pair OPERATOR(mine.===) '{}'::jsonb) IS NOT NULL)",
        "",
        "function jsonb_populate_record(anyelement,jsonb) of constraint c on table mine.t",
    ),
    (
        "s_input_is_valid",
        "ALTER TABLE mine.t ADD CONSTRAINT c CHECK (pg_input_is_valid('1', 'later.bad'))",
        "",
        "function pg_input_is_valid(text,text) of constraint c on table mine.t",
    ),
    (
        "s_json",
        "CREATE TABLE mine.k (c friend.mood, CONSTRAINT k CHECK (to_json(c) IS NOT NULL))",
        "",
        "function to_json(anyelement) of constraint k",
    ),
    (
        "s_row_json",
        "CREATE TABLE mine.k (c friend.comp, CONSTRAINT k CHECK (to_json(ROW(c)) IS NOT NULL))",
        "",
        "type friend.comp of table mine.k",
    ),
    (
        "s_refresh",
        "CREATE MATERIALIZED VIEW mine.m AS SELECT * FROM friend.v",
        "",
        "view friend.v of rule _RETURN on materialized view mine.m",
    ),
    ("s_view", "CREATE VIEW mine.v AS SELECT * FROM friend.v", "", "view friend.v of rule _RETURN on view mine.v"),
    ("s_function", "CREATE INDEX i ON mine.t (friend.f(n))", "", "function friend.f(integer) of index mine.i"),
    (
        "s_operator",
        "ALTER TABLE mine.t ADD CONSTRAINT c CHECK (n OPERATOR(friend.===) 1)",
        "",
        "operator friend.===(integer,integer) of constraint c",
    ),
    ("s_collation", "CREATE TABLE mine.k (c text COLLATE friend.c)", "", "collation friend.c of table mine.k"),
    ("s_statistics", "CREATE STATISTICS mine.s ON (n::friend.bad), id FROM mine.t", "", "type friend.bad of statistics object mine.s"),
    (
        "s_policies",
        "CREATE VIEW mine.v AS SELECT * FROM public.rls; GRANT SELECT ON mine.v TO PUBLIC",
        "",
        "view mine.v on table public.rls",
    ),
];

#[tokio::test]
async fn what_others_could_still_change_is_not_given_away() -> Result<()> {
    let mut stage = stage(&format!("owned_objects = {{ reassign_to = '{HEIR}' }}")).await?;
    make_heir(&stage).await?;
    let superuser = stage.pg.superuser("orders").await?;
    stage.workers(1).await?;
    let friend = person(&stage, "friend", &["orders"]).await?.remove(0);
    friend.batch_execute(FRIEND).await?;
    let roots = format!(
        "CREATE TABLE public.rls (who text); ALTER TABLE public.rls ENABLE ROW LEVEL SECURITY; GRANT SELECT ON public.rls TO PUBLIC;
         CREATE POLICY own ON public.rls USING (who = current_user); CREATE POLICY heir ON public.rls TO {HEIR} USING (true);
         CREATE TYPE public.pair AS (a friend.dom)"
    );
    superuser.batch_execute(&roots).await?;
    for (who, makes, then, said) in SHARED {
        // Since 16.
        if who == "s_input_is_valid" && stage.pg.version().major() < 16 {
            continue;
        }
        let session = person(&stage, who, &["orders"]).await?.remove(0);
        session.batch_execute(GROUND).await?;
        session.batch_execute(makes).await.map_err(|error| anyhow::anyhow!("{who}: {error:?}"))?;
        superuser.batch_execute(then).await?;
        let result = stage.send(&cleanup_principal(INTEGRATION, who)).await?;
        let met = blocked(&result);
        ensure!(met.iter().any(|b| b.starts_with(&format!("orders: {said}"))), "{who}: {met:#?}");
        ensure!(met.iter().all(|b| b.contains(&format!("\"{HEIR}\""))), "{who}: {met:#?}");
        let owner: String =
            superuser.query_one("SELECT tableowner::text FROM pg_tables WHERE schemaname = 'mine' AND tablename = 't'", &[]).await?.get(0);
        assert_eq!(owner, who);
        superuser.batch_execute("DROP SCHEMA mine CASCADE").await?;
        stage.expect(&cleanup_principal(INTEGRATION, who), "succeeded").await?;
    }
    stage.finish().await
}
