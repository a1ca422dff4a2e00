-- The account that Postern works as, on Amazon RDS and Aurora for PostgreSQL.
-- Run once an instance or cluster, by its master user (a member of rds_superuser), in the maintenance database:
--   psql "host=INSTANCE.xxxx.REGION.rds.amazonaws.com user=MASTER dbname=postgres sslmode=verify-full sslrootcert=global-bundle.pem" \
--     -v ON_ERROR_STOP=1 -f connector-rds.sql -c '\password postern_connector'
-- \password asks for the password and sends no more than its verifier. Keep the password in Postern's secret store.
-- With auth = "iam" there is no password: leave \password out and run the last line below instead.
-- Then run database.sql with -v admin=rds_superuser.
CREATE ROLE postern_connector LOGIN CREATEROLE;
-- With it comes what database.sql gives, and the rights to see and end sessions.
GRANT rds_superuser TO postern_connector;
-- For each existing role that a policy may hand out ([integrations.<id>.policy] roles), by whoever holds it with ADMIN OPTION:
--   GRANT reporting TO postern_connector WITH ADMIN OPTION;
-- With auth = "iam": the connector logs in by token only from then on, and may hand that on to people (docs/rds-iam.md):
--   GRANT rds_iam TO postern_connector WITH ADMIN OPTION;
