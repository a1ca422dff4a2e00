//! What was observed, under the locks, of one person on one server.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use postern_schemas::permission::{Access, Permission, Scope};
use postern_schemas::{GrantId, Identifier, IntegrationId, Principal};
use uuid::Uuid;

/// A PostgreSQL object identifier.
pub type Oid = u32;

/// Ledger and catalog as they concern one event. Read after the locks were taken, in statements of their own.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The connector's login.
    pub connector: String,
    /// The target's clock.
    pub now: Timestamp,
    /// The ledger's own identity; stands in the comment of every role that is ours.
    pub ledger: Uuid,
    /// Events asked at or before this moment have been pruned from the ledger.
    pub horizon: Timestamp,
    /// The latest wide revoke that covers the person: the integration's or the person's own.
    pub watermark: Option<Timestamp>,
    /// Whose account is looked at; unknown for a revoke of a grant that never came.
    pub principal: Option<Principal>,
    /// The ledger's row of the person.
    pub account: Option<Account>,
    /// The role of the account's OID or, if there is none, of the name that the account would get.
    pub role: Option<Role>,
    /// What the role is a member of.
    pub memberships: Vec<Membership>,
    /// Who was made a member of the person's role, directly or through others: nobody should be.
    pub members: Vec<Member>,
    /// The person's active grants in every integration of this ledger.
    pub active: Vec<GrantRow>,
    /// What is known of the event's own `grant_id`.
    pub grant_key: Option<GrantKey>,
    /// Bundles of the active grants and those that the event's permissions call for.
    pub bundles: Vec<Bundle>,
    /// Databases that the event names, by name; absent ones do not exist.
    pub databases: BTreeMap<Identifier, Database>,
    /// Existing roles that the event or an active grant names, and `rds_iam`.
    pub roles: BTreeMap<Identifier, RoleFacts>,
}

/// A row of `postern.account`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The role as it was named when it was made.
    pub role_name: Option<String>,
    /// The role's OID; `None` before it is made and after it was dropped.
    pub role_oid: Option<Oid>,
    /// How many passwords the account has had.
    pub generation: i32,
    /// When the present password was set; `None` when the role has none.
    pub password_set_at: Option<Timestamp>,
    /// The `time` of the event that set it.
    pub password_asked_at: Option<Timestamp>,
    /// A policy rotation found the password too old.
    pub rotation_due: bool,
    /// The person logs in by IAM token and has no password.
    pub iam: bool,
    /// The `time` of the event that decided so, or against it.
    pub login_asked_at: Option<Timestamp>,
}

/// A row of `pg_roles`, with its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `pg_roles.oid`.
    pub oid: Oid,
    /// `pg_roles.rolname`.
    pub name: String,
    /// The comment on it.
    pub comment: Option<String>,
    /// The comment's seal proves that we made this very role for this person, whether or not the ledger still knows.
    pub sealed: bool,
    /// `rolcanlogin`.
    pub can_login: bool,
    /// `rolvaliduntil`; `None` for null and infinity.
    pub valid_until: Option<Timestamp>,
    /// Whether the owner role may change it: not once somebody has made it a superuser.
    pub alterable: bool,
    /// Attributes that we never give and can take away, such as `CREATEROLE`.
    pub added: Vec<String>,
    /// Attributes that we never give and that only somebody else can take away, such as `SUPERUSER`.
    pub stuck: Vec<String>,
    /// `rolconnlimit`; -1 for none.
    pub connection_limit: i32,
}

/// Somebody who was made a member of the person's role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its OID.
    pub oid: Oid,
    /// Its name.
    pub name: String,
    /// Who made it a direct member; `None`: it is one through another member.
    pub grantor: Option<String>,
    /// Whether the connector can take that back.
    pub revocable: bool,
}

/// One row of `pg_auth_members` whose member is the person. From 16 on one role may be given by several grantors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// The role that the person is a member of.
    pub role: String,
    /// Who gave it.
    pub grantor: String,
    /// Whether the connector can take it back.
    pub revocable: bool,
}

/// A row of `postern.access_grant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRow {
    /// The integration it came through.
    pub integration: IntegrationId,
    /// The producer's name of it.
    pub grant_id: GrantId,
    /// The revision in force.
    pub revision: i32,
    /// What it gives.
    pub permissions: Vec<Permission>,
    /// The bundle rows it was opened with.
    pub bundles: Vec<i64>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// The `time` of the event that opened it.
    pub asked_at: Timestamp,
}

impl GrantRow {
    /// Whether its own expiry has passed, whether or not the expiry was carried out.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires| expires <= now)
    }

    /// The existing roles it names.
    pub fn roles(&self) -> impl Iterator<Item = &Identifier> {
        roles_of(&self.permissions)
    }
}

/// The existing roles that permissions name.
pub fn roles_of(permissions: &[Permission]) -> impl Iterator<Item = &Identifier> {
    permissions.iter().filter_map(|permission| match permission {
        Permission::Role(membership) => Some(&membership.role),
        Permission::Objects(_) => None,
    })
}

/// The object scopes that permissions name.
pub fn scopes_of(permissions: &[Permission]) -> impl Iterator<Item = &Scope> {
    permissions.iter().filter_map(|permission| match permission {
        Permission::Objects(scope) => Some(scope),
        Permission::Role(_) => None,
    })
}

/// Why a grant ended. The order is the order of finality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Its time was up.
    Expired,
    /// A wide revoke covered it.
    Swept,
    /// Revoked by its id: it never opens again.
    Revoked,
}

impl Ending {
    /// As stored in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Swept => "swept",
            Self::Revoked => "revoked",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Expired, Self::Swept, Self::Revoked].into_iter().find(|e| e.as_str() == text)
    }
}

/// What the ledger keeps of a `grant_id` for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantKey {
    /// The person it belongs to; unknown when the revoke came first.
    pub principal: Option<Principal>,
    /// The highest revision seen; 0 for none.
    pub revision: i32,
    /// Why the highest revision ended; `None` while it is active.
    pub ending: Option<Ending>,
}

/// What a bundle role stands for: one level on one database, one of its schemas, or one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleKey {
    /// The database by OID: one that is dropped and made again is another one.
    pub database: Oid,
    /// The database's present name.
    pub database_name: Identifier,
    /// The schema, or all.
    pub schema: Option<Identifier>,
    /// The table, or all.
    pub table: Option<Identifier>,
    /// The level.
    pub access: Access,
}

/// Stands for the name of a database that is gone. Should a real one be called so, its lost bundles are only made by the
/// next grant that names them.
const GONE: &str = "//gone";

impl BundleKey {
    /// The name of a database that no longer exists.
    pub fn gone() -> &'static str {
        GONE
    }

    /// Whether its database no longer exists.
    pub fn is_gone(&self) -> bool {
        self.database_name.as_str() == GONE
    }

    /// The bundles that `scope` calls for in the database with the given OID: one for each table, or one for all.
    pub fn of(scope: &Scope, database: Oid) -> Vec<Self> {
        let key = |table: Option<&Identifier>| Self {
            database,
            database_name: scope.database.clone(),
            schema: scope.schema.clone(),
            table: table.cloned(),
            access: scope.access,
        };
        match &scope.tables {
            None => vec![key(None)],
            Some(tables) => tables.iter().collect::<BTreeSet<_>>().into_iter().map(|table| key(Some(table))).collect(),
        }
    }
}

/// A row of `postern.bundle` joined with its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The row's id.
    pub id: i64,
    /// What it stands for.
    pub key: BundleKey,
    /// Name of the bundle role.
    pub role: String,
    /// The row is `ready` and its role exists.
    pub usable: bool,
    /// Nothing was made in the database since its privileges were last compared.
    pub fresh: bool,
    /// What had to be left out of it.
    pub warnings: Vec<String>,
}

/// A database that an event names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// `pg_database.oid`.
    pub oid: Oid,
    /// `datistemplate`, or connections are not allowed.
    pub closed: bool,
    /// Schemas and tables that the event names in it and that do not exist, as the event's reader would write them.
    pub missing: Vec<String>,
}

/// An existing role that a grant names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFacts {
    /// The role itself and every role it is a member of, directly or through others.
    pub chain: Vec<RoleLink>,
    /// Whether the connector may hand it on.
    pub can_hand_on: bool,
    /// Whether the connector's login has to give it to the owner role first, which then hands it on: so a connector that
    /// takes this one's place can take it back. From 16 on.
    pub pass: bool,
}

/// One role of a chain of memberships.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the columns of pg_roles")]
pub struct RoleLink {
    /// Its name.
    pub name: String,
    /// `rolsuper`.
    pub superuser: bool,
    /// `rolcreaterole`.
    pub createrole: bool,
    /// `rolreplication`.
    pub replication: bool,
    /// `rolbypassrls`.
    pub bypassrls: bool,
    /// The connector, an owner role, a bundle or a person's account.
    pub ours: bool,
}

impl Observed {
    /// The person's role, if the ledger and the role's comment both say that it is ours, or the comment's seal does.
    pub fn our_role(&self) -> Option<&Role> {
        let role = self.role.as_ref()?;
        let marked = role.comment.as_deref().is_some_and(|comment| comment.starts_with(&comment_prefix(self.ledger)));
        (self.claims(role) && marked || role.sealed).then_some(role)
    }

    /// The person's role, where the ledger has forgotten it: it was restored from a backup that is older than the role.
    pub fn forgotten_role(&self) -> Option<&Role> {
        self.our_role().filter(|role| !self.claims(role))
    }

    fn claims(&self, role: &Role) -> bool {
        self.account.as_ref().is_some_and(|account| account.role_oid == Some(role.oid))
    }

    /// Whose sessions end when access is taken away: the role's, those of its members, who may have set it, and those that
    /// outlived a role dropped by hand.
    pub fn session_roles(&self) -> Vec<Oid> {
        let members = self.our_role().into_iter().flat_map(|_| self.members.iter().map(|member| member.oid));
        self.own_session_roles().into_iter().chain(members).collect()
    }

    fn own_session_roles(&self) -> Vec<Oid> {
        let known = self.account.as_ref().and_then(|account| account.role_oid);
        match (&self.role, known) {
            (Some(role), Some(known)) if role.oid == known => self.our_role().map(|role| role.oid).into_iter().collect(),
            _ => self.our_role().map(|role| role.oid).into_iter().chain(known).collect(),
        }
    }

    /// Whether the person logs in by IAM token, by the ledger.
    pub fn logs_in_by_token(&self) -> bool {
        self.our_role().is_some() && self.account.as_ref().is_some_and(|account| account.iam)
    }

    /// A role of the person's name that is not ours.
    pub fn foreign_role(&self) -> Option<&Role> {
        self.role.as_ref().filter(|_| self.our_role().is_none())
    }

    /// Whether the connector's login has to give this role to the owner role before it is handed on.
    pub(super) fn passes(&self, role: &str) -> bool {
        self.roles.iter().any(|(name, facts)| name.as_str() == role && facts.pass)
    }

    /// Grants that are active and not over.
    pub fn in_force(&self) -> impl Iterator<Item = &GrantRow> {
        self.active.iter().filter(|grant| !grant.is_over(self.now))
    }

    /// The usable bundle of a key.
    pub fn bundle(&self, key: &BundleKey) -> Option<&Bundle> {
        self.bundles.iter().find(|b| b.usable && &b.key == key)
    }
}

/// The ledger that a role's comment names.
pub fn ledger_of(comment: &str) -> Option<Uuid> {
    comment.strip_prefix("postern ")?.split_once(": ")?.0.parse().ok()
}

/// How the comment of every role of this ledger begins.
pub fn comment_prefix(ledger: Uuid) -> String {
    format!("postern {ledger}: ")
}
