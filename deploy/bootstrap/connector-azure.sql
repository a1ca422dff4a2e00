-- The account that Postern works as, on Azure Database for PostgreSQL (flexible server).
-- Run once a server, by its administrator (a member of azure_pg_admin), in the maintenance database:
--   psql "host=SERVER.postgres.database.azure.com user=ADMIN dbname=postgres sslmode=verify-full sslrootcert=system" \
--     -v ON_ERROR_STOP=1 -f connector-azure.sql -c '\password postern_connector'
-- \password asks for the password and sends no more than its verifier. Keep the password in Postern's secret store.
-- Then run database.sql with -v admin=azure_pg_admin.
CREATE ROLE postern_connector LOGIN CREATEROLE;
-- With it comes what database.sql gives, and the rights to see and end sessions.
GRANT azure_pg_admin TO postern_connector;
-- For each existing role that a policy may hand out ([integrations.<id>.policy] roles), by whoever holds it with ADMIN OPTION:
--   GRANT reporting TO postern_connector WITH ADMIN OPTION;
