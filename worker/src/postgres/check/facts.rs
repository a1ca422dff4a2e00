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
}

/// A role or database that policy names.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) there: bool,
    /// For a role: may be handed on. For a database: lets the connector in.
    pub(super) usable: bool,
    /// For a database: bundles get in.
    pub(super) open: bool,
}

/// Parameter: the owner role's name. A privilege that an older version does not know is never asked there: CASE.
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
  (SELECT version || ', ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl) AS encryption
FROM pg_roles r LEFT JOIN pg_roles o ON o.rolname = $1 WHERE r.rolname = session_user";

pub(super) const ROLES: &str = "
SELECT n.name, r.oid IS NOT NULL AS there, coalesce(pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION'), false) AS usable,
  true AS open
FROM unnest($1::text[]) AS n (name) LEFT JOIN pg_roles r ON r.rolname = n.name ORDER BY 1";

/// Parameter: the names that policy lists; null for all that take connections. `open`: who is let in by a bundle gets
/// in, because the connector may give that away or everybody has it.
pub(super) const DATABASES: &str = "
SELECT n.name, coalesce(d.datallowconn AND NOT d.datistemplate, false) AS there,
  coalesce(has_database_privilege(session_user, d.oid, 'CONNECT'), false) AS usable,
  coalesce(has_database_privilege(session_user, d.oid, 'CONNECT WITH GRANT OPTION'), false)
    OR EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT') AS open
FROM (SELECT unnest($1::text[]) UNION SELECT datname FROM pg_database WHERE $1 IS NULL AND datallowconn AND NOT datistemplate) AS n (name)
LEFT JOIN pg_database d ON d.datname = n.name ORDER BY 1";

/// Roles are cluster-wide, and each says in its comment which ledger it belongs to.
pub(super) const LEDGERS: &str = "
SELECT DISTINCT substring(description FROM '^postern ([0-9a-f-]{36}): ') AS ledger FROM pg_shdescription
WHERE classoid = 'pg_authid'::regclass AND description ~ '^postern [0-9a-f-]{36}: ' ORDER BY 1";

impl Facts {
    /// The answer to [`FACTS`].
    pub(super) fn of(row: &Row) -> Self {
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
            encryption: row.get("encryption"),
        }
    }
}

/// A row of [`ROLES`] or [`DATABASES`].
pub(super) fn named(row: &Row) -> Named {
    Named { name: row.get("name"), there: row.get("there"), usable: row.get("usable"), open: row.get("open") }
}
