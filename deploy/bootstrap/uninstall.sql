-- Takes Postern's roles and its ledger from a server. First stop the workers. Then, as the connector, in every database that
-- Postern manages, and in the maintenance database last:
--   psql "host=SERVER user=postern_connector dbname=DATABASE" -v ON_ERROR_STOP=1 -f uninstall.sql
-- It ends every account that Postern made. An account that owns objects stops it: see docs/owned-objects.md.
-- With the roles of several ledgers on the server it stops too. Say which one goes: PGOPTIONS='-c postern.ledger=UUID' psql …
-- Then, as whoever ran connector-*.sql:  DROP ROLE postern_connector;
-- On a server of your own before that, as a superuser, DROP OWNED BY postern_admin; in each database, and DROP ROLE postern_admin;
DO $$
DECLARE
  options constant text :=
    CASE WHEN current_setting('server_version_num')::int >= 160000 THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END;
  ledgers constant text[] := ARRAY(SELECT DISTINCT substring(shobj_description(oid, 'pg_authid') FROM '^postern ([0-9a-f-]{36}): ')
    FROM pg_roles WHERE shobj_description(oid, 'pg_authid') ~ '^postern [0-9a-f-]{36}: ');
  ledger constant text := coalesce(nullif(current_setting('postern.ledger', true), ''), ledgers[1]);
  ours constant text[] := ARRAY(SELECT rolname FROM pg_roles
    WHERE starts_with(shobj_description(oid, 'pg_authid'), 'postern ' || ledger || ': ') ORDER BY 1);
  r text;
BEGIN
  IF cardinality(ledgers) > 1 AND coalesce(current_setting('postern.ledger', true), '') = '' THEN
    RAISE EXCEPTION 'there are roles of several ledgers: %', array_to_string(ledgers, ', ')
      USING HINT = 'Say which one goes: PGOPTIONS=''-c postern.ledger=UUID''.';
  END IF;
  FOREACH r IN ARRAY ours LOOP
    IF EXISTS (SELECT FROM pg_shdepend d JOIN pg_roles o ON o.oid = d.refobjid
               WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND o.rolname = r) THEN
      RAISE EXCEPTION '% owns objects', r USING HINT = 'Let Postern clean up first, see docs/owned-objects.md; whatever is reassigned may run as its new owner.';
    END IF;
    EXECUTE 'SET LOCAL ROLE postern_owner';
    EXECUTE format('ALTER ROLE %I NOLOGIN', r);
    EXECUTE format('GRANT %I TO %I%s', r, session_user, options);
    EXECUTE 'RESET ROLE';
    EXECUTE format('DROP OWNED BY %I', r);
  END LOOP;
  IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'postern' AND pg_get_userbyid(nspowner) = 'postern_owner') THEN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY (ours);
    EXECUTE 'SET LOCAL ROLE postern_owner';
    FOREACH r IN ARRAY ours LOOP
      EXECUTE format('DROP ROLE %I', r);
    END LOOP;
    EXECUTE 'DROP SCHEMA postern CASCADE';
    EXECUTE 'RESET ROLE';
    EXECUTE 'DROP ROLE postern_owner';
  END IF;
END $$;
