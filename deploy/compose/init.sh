#!/bin/sh
# Sets up PostgreSQL for Postern with a small database "orders", as an operator does by hand: see ../bootstrap.
# Run by the image's entry point, once, as the superuser.
set -eu
run() { psql --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" -v ON_ERROR_STOP=1 "$@"; }

run --dbname postgres --file "${BOOTSTRAP:-/bootstrap}/connector-postgresql.sql"
run --dbname postgres -v password="$CONNECTOR_PASSWORD" <<'SQL'
ALTER ROLE postern_connector PASSWORD :'password';
CREATE DATABASE orders;
SQL
run --dbname orders --file "${SAMPLE:-/sample.sql}"
for database in postgres template1 orders; do
  run --dbname "$database" -v admin=postern_admin --output /dev/null --file "${BOOTSTRAP:-/bootstrap}/database.sql"
done
