-- The account that Postern works as, on a PostgreSQL server of your own.
-- Run once a cluster, by a superuser, in the maintenance database:
--   psql -U postgres -d postgres -v ON_ERROR_STOP=1 -f connector-postgresql.sql -c '\password postern_connector'
-- \password asks for the password and sends no more than its verifier. Keep the password in Postern's secret store.
-- Then run database.sql with -v admin=postern_admin.
CREATE ROLE postern_connector LOGIN CREATEROLE;
-- Holds the grant options that database.sql gives, so that another account can take the connector's place.
CREATE ROLE postern_admin NOLOGIN;
GRANT postern_admin TO postern_connector;
-- To see and end the sessions of people whose access is over.
GRANT pg_read_all_stats, pg_signal_backend TO postern_connector;
-- For each existing role that a policy may hand out ([integrations.<id>.policy] roles):
--   GRANT reporting TO postern_connector WITH ADMIN OPTION;
