//! What the maintenance database says: of the server, the connector, the policy's roles and the databases.

use tokio_postgres::Row;

/// What the server says of itself and of the connector.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one answer of the server")]
pub(super) struct Facts {
    pub(super) version: i32,
    pub(super) version_text: String,
    pub(super) login: String,
    pub(super) database: String,
    pub(super) standby: bool,
    pub(super) superuser: bool,
    pub(super) createrole: bool,
    pub(super) ends_sessions: bool,
    pub(super) sees_sessions: bool,
    pub(super) creates_schemas: bool,
    /// The owner role, if it is there.
    pub(super) owner: Option<Owner>,
    /// Who owns the schema `postern`, if it is there.
    pub(super) schema_owner: Option<String>,
    pub(super) has_ledger: bool,
    /// Whether the platform's admin role (of the bootstrap) is there.
    pub(super) has_admin_role: bool,
    /// Its name.
    pub(super) admin_role: &'static str,
    /// The connector is a member of the admin role.
    pub(super) joined_admin: bool,
    /// The connector has the admin role's rights.
    pub(super) is_admin: bool,
    /// Up to 15: the connector has the rights of the roles that it is a member of.
    pub(super) inherits: bool,
    /// The end of the connector's password, if it has one.
    pub(super) valid_until: Option<jiff::Timestamp>,
    /// The most sessions that the connector may have; -1: any number.
    pub(super) session_limit: i32,
    /// Sessions that the server has room for, those kept back for superusers aside.
    pub(super) sessions_left: i64,
    /// The server's clock, and the database's owner.
    pub(super) now: jiff::Timestamp,
    pub(super) database_owner: String,
    pub(super) max_prepared_transactions: i32,
    /// Prepared transactions that are older than five minutes.
    pub(super) old_prepared: i64,
    /// RDS lets only members of `rds_password` set passwords.
    pub(super) restricts_passwords: bool,
    /// The owner role is one of those.
    pub(super) owner_sets_passwords: bool,
    /// Whether the connector may hand `rds_iam` on; `None`: there is no such role.
    pub(super) hands_iam_on: Option<bool>,
    /// Protocol and cipher, if the session is encrypted.
    pub(super) encryption: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pub(super) createrole: bool,
    /// The connector may become it.
    pub(super) sets: bool,
    /// The connector has its rights without becoming it.
    pub(super) inherits: bool,
    /// Who may give membership in it, superusers aside.
    pub(super) admins: Vec<String>,
}

impl Facts {
    /// From 16 on CREATEROLE alone grants nothing, and memberships have options.
    pub(super) fn has_membership_options(&self) -> bool {
        self.version >= 160_000
    }

    /// Who is to get what is missing: the admin role of the bootstrap, or a connector that does without.
    pub(super) fn holder(&self) -> &str {
        if self.is_admin { self.admin_role } else { &self.login }
    }

    /// There is an admin role, and the connector does not have its rights.
    pub(super) fn lacks_admin_role(&self) -> bool {
        self.has_admin_role && !self.is_admin && !self.superuser
    }
}

/// A database that policy allows, as it looks from outside.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) name: String,
    /// Empty if it is not there.
    pub(super) owner: String,
    /// It exists and takes connections.
    pub(super) there: bool,
    /// It lets the connector in.
    pub(super) usable: bool,
    /// The connector may let others in, so the bootstrap ran in it.
    pub(super) prepared: bool,
}

/// Parameters: the owner role's name, the admin role's. A privilege that an older version does not know is never asked there: CASE.
pub(super) const FACTS: &str = "
SELECT current_setting('server_version_num')::int4 AS version, current_setting('server_version') AS version_text,
  r.rolname::text AS login, current_database()::text AS database, pg_is_in_recovery() AS standby,
  r.rolsuper AS superuser, r.rolcreaterole AS createrole,
  pg_has_role(r.oid, 'pg_signal_backend', 'USAGE') AS ends_sessions, pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS sees_sessions,
  has_database_privilege(r.oid, current_database(), 'CREATE') AS creates_schemas,
  o.rolcreaterole AS owner_createrole, pg_has_role(r.oid, o.oid, 'USAGE') AS owner_inherits,
  CASE WHEN current_setting('server_version_num')::int4 >= 160000 THEN pg_has_role(r.oid, o.oid, 'SET')
       ELSE pg_has_role(r.oid, o.oid, 'MEMBER') END AS owner_sets,
  ARRAY(SELECT DISTINCT a.rolname::text FROM pg_auth_members m JOIN pg_roles a ON a.oid = m.member
        WHERE m.roleid = o.oid AND m.admin_option AND a.oid <> r.oid ORDER BY 1) AS owner_admins,
  (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'postern') AS schema_owner,
  EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'postern' AND c.relname = 'fact') AS has_ledger,
  a.oid IS NOT NULL AS has_admin_role, coalesce(pg_has_role(r.oid, a.oid, 'MEMBER'), false) AS joined_admin,
  coalesce(pg_has_role(r.oid, a.oid, 'USAGE'), false) AS is_admin, r.rolinherit AS inherits,
  CASE WHEN isfinite(r.rolvaliduntil) THEN r.rolvaliduntil END AS valid_until, r.rolconnlimit AS session_limit,
  current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
    - coalesce(current_setting('reserved_connections', true), '0')::int8
    - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS sessions_left,
  clock_timestamp() AS now, pg_get_userbyid(d.datdba)::text AS database_owner,
  current_setting('max_prepared_transactions')::int4 AS max_prepared_transactions,
  (SELECT count(*) FROM pg_prepared_xacts WHERE prepared < now() - interval '5 min') AS old_prepared,
  coalesce(current_setting('rds.restrict_password_commands', true) IN ('on', '1', 'true'), false) AS restricts_passwords,
  EXISTS (SELECT FROM pg_roles p WHERE p.rolname = 'rds_password' AND pg_has_role(o.oid, p.oid, 'USAGE')) AS owner_sets_passwords,
  (SELECT CASE WHEN current_setting('server_version_num')::int4 >= 160000 THEN pg_has_role(r.oid, i.oid, 'MEMBER WITH ADMIN OPTION') ELSE true END
   FROM pg_roles i WHERE i.rolname = 'rds_iam') AS hands_iam_on,
  (SELECT version || ', ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl) AS encryption
FROM pg_roles r JOIN pg_database d ON d.datname = current_database() LEFT JOIN pg_roles o ON o.rolname = $1
  LEFT JOIN pg_roles a ON a.rolname = $2 WHERE r.rolname = session_user";

/// Parameter: the names that policy lists; null for all that take connections.
pub(super) const DATABASES: &str = "
SELECT n.name, coalesce(pg_get_userbyid(d.datdba)::text, '') AS owner, coalesce(d.datallowconn AND NOT d.datistemplate, false) AS there,
  coalesce(has_database_privilege(session_user, d.oid, 'CONNECT'), false) AS usable,
  coalesce(has_database_privilege(session_user, d.oid, 'CONNECT WITH GRANT OPTION'), false) AS prepared
FROM (SELECT unnest($1::text[]) UNION SELECT datname FROM pg_database WHERE $1 IS NULL AND datallowconn AND NOT datistemplate) AS n (name)
LEFT JOIN pg_database d ON d.datname = n.name ORDER BY 1";

/// Roles are cluster-wide, and each says in its comment which ledger it belongs to.
pub(super) const LEDGERS: &str = "
SELECT DISTINCT substring(description FROM '^postern ([0-9a-f-]{36}): ') AS ledger FROM pg_shdescription
WHERE classoid = 'pg_authid'::regclass AND description ~ '^postern [0-9a-f-]{36}: ' ORDER BY 1";

impl Facts {
    /// The answer to [`FACTS`].
    pub(super) fn of(row: &Row, admin_role: &'static str) -> Self {
        let owner = row.get::<_, Option<bool>>("owner_createrole").map(|createrole| Owner {
            createrole,
            sets: row.get("owner_sets"),
            inherits: row.get("owner_inherits"),
            admins: row.get("owner_admins"),
        });
        Self {
            version: row.get("version"),
            version_text: row.get("version_text"),
            login: row.get("login"),
            database: row.get("database"),
            standby: row.get("standby"),
            superuser: row.get("superuser"),
            createrole: row.get("createrole"),
            ends_sessions: row.get("ends_sessions"),
            sees_sessions: row.get("sees_sessions"),
            creates_schemas: row.get("creates_schemas"),
            owner,
            schema_owner: row.get("schema_owner"),
            has_ledger: row.get("has_ledger"),
            admin_role,
            joined_admin: row.get("joined_admin"),
            has_admin_role: row.get("has_admin_role"),
            is_admin: row.get("is_admin"),
            inherits: row.get("inherits"),
            valid_until: row.get("valid_until"),
            session_limit: row.get("session_limit"),
            sessions_left: row.get("sessions_left"),
            now: row.get("now"),
            database_owner: row.get("database_owner"),
            max_prepared_transactions: row.get("max_prepared_transactions"),
            old_prepared: row.get("old_prepared"),
            restricts_passwords: row.get("restricts_passwords"),
            owner_sets_passwords: row.get("owner_sets_passwords"),
            hands_iam_on: row.get("hands_iam_on"),
            encryption: row.get("encryption"),
        }
    }
}

impl Database {
    /// A row of [`DATABASES`].
    pub(super) fn of(row: &Row) -> Self {
        Self {
            name: row.get("name"),
            owner: row.get("owner"),
            there: row.get("there"),
            usable: row.get("usable"),
            prepared: row.get("prepared"),
        }
    }
}
