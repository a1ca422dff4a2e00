//! A server and a ledger in memory, for the properties: it carries plans out as PostgreSQL would, and can be observed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use postern_schemas::permission::{Access, Permission, RoleMembership, Scope};
use postern_schemas::{Deliver, Grant, GrantId, Identifier, IntegrationId, Principal};
use uuid::Uuid;

use super::plan::{Decision, GrantRecord, Plan, Step};
use super::policy::Rules;
use super::state::{
    Account, Bundle, BundleKey, Database, Ending, GrantKey, GrantRow, Membership, Observed, Oid, Role, RoleFacts, RoleLink,
};
use super::{cleanup, expiry, grant, revoke, rotate};

/// What a producer may send about one person.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Grant {
        id: u8,
        revision: i32,
        asked: i64,
        expires: Option<i64>,
        what: Vec<u8>,
        age: bool,
    },
    RevokeGrant {
        id: u8,
    },
    RevokePerson {
        until: i64,
    },
    Expiry {
        id: u8,
        revision: i32,
    },
    Rotate {
        asked: i64,
    },
    /// The periodic clean-up looks at the person.
    Repair,
}

/// Changes made by hand.
#[derive(Clone, Debug)]
pub(super) struct Hand {
    pub(super) login: bool,
    pub(super) joins: Vec<String>,
    /// Loses one membership.
    pub(super) leaves: bool,
    /// The new VALID UNTIL; `None` is infinity.
    pub(super) until: Option<i64>,
    pub(super) createrole: bool,
}

/// One server with one person's account, or none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) watermark: Option<Timestamp>,
    pub(super) account: Account,
    pub(super) role: Option<Role>,
    pub(super) member_of: BTreeSet<String>,
    pub(super) active: BTreeMap<GrantId, GrantRow>,
    pub(super) keys: BTreeMap<GrantId, GrantKey>,
    pub(super) bundles: Vec<Bundle>,
    /// Everything that was ever granted.
    pub(super) ever_granted: BTreeSet<String>,
}

pub(super) const ROLE: &str = "jane";
pub(super) const FORBIDDEN_ROLE: &str = "mighty";

fn name<T: std::str::FromStr<Err = String>>(text: &str) -> T {
    text.parse().unwrap_or_else(|e: String| panic!("{text}: {e}"))
}

pub(super) fn integration() -> IntegrationId {
    name("orders-prod")
}

fn principal() -> Principal {
    name(ROLE)
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000 + seconds)
}

pub(super) fn grant_id(id: u8) -> GrantId {
    name(&format!("AR-{id}"))
}

pub(super) fn rules() -> Rules {
    Rules {
        max_duration: None,
        iam: false,
        access: Access::ALL.into_iter().collect(),
        roles: ["reporting", FORBIDDEN_ROLE].into_iter().map(name).collect(),
        databases: None,
        deliver_to: Vec::new(),
        max_event_age: SignedDuration::from_hours(24),
        credential_rotation: None,
        connection_limit: None,
    }
}

/// Permissions by number: scopes, an existing role, and one that is never handed out.
fn permission(what: u8) -> Permission {
    let scope = |schema: Option<&str>, access| {
        Permission::Objects(Scope { database: name("orders"), schema: schema.map(name), tables: None, access })
    };
    match what {
        0 => scope(None, Access::ReadOnly),
        1 => scope(Some("sales"), Access::ReadWrite),
        2 => scope(Some("hr"), Access::Admin),
        3 => Permission::Role(RoleMembership { role: name("reporting") }),
        _ => Permission::Role(RoleMembership { role: name(FORBIDDEN_ROLE) }),
    }
}

/// A role that can log in. `sealed`: it was made by us for the person, and says so.
pub(super) fn role(oid: Oid, comment: Option<String>, sealed: bool) -> Role {
    let (added, stuck) = (Vec::new(), Vec::new());
    let name = ROLE.to_owned();
    Role { oid, name, comment, sealed, can_login: true, valid_until: None, connection_limit: -1, alterable: true, added, stuck }
}

impl World {
    /// An empty server at `seconds`.
    pub(super) fn new(seconds: i64) -> Self {
        Self {
            now: at(seconds),
            watermark: None,
            account: Account::default(),
            role: None,
            member_of: BTreeSet::new(),
            active: BTreeMap::new(),
            keys: BTreeMap::new(),
            bundles: Vec::new(),
            ever_granted: BTreeSet::new(),
        }
    }

    pub(super) fn observe(&self, id: Option<u8>) -> Observed {
        let link = |name: &str, superuser| RoleLink {
            name: name.to_owned(),
            superuser,
            createrole: false,
            replication: false,
            bypassrls: false,
            ours: false,
        };
        let facts = |chain: Vec<RoleLink>| RoleFacts { chain, can_hand_on: true, pass: false };
        let membership = |role: &String| Membership { role: role.clone(), grantor: "postern_owner".to_owned(), revocable: true };
        Observed {
            connector: "postern_connector".to_owned(),
            now: self.now,
            ledger: Uuid::nil(),
            horizon: Timestamp::MIN,
            watermark: self.watermark,
            principal: Some(principal()),
            account: Some(self.account.clone()),
            role: self.role.clone(),
            memberships: self.member_of.iter().map(membership).collect(),
            members: Vec::new(),
            active: self.active.values().cloned().collect(),
            grant_key: id.map(|id| self.keys.get(&grant_id(id)).cloned().unwrap_or_default()),
            bundles: self.bundles.clone(),
            databases: [(name("orders"), Database { oid: 7, closed: false, missing: Vec::new() })].into(),
            roles: [
                (name("reporting"), facts(vec![link("reporting", false)])),
                (name(FORBIDDEN_ROLE), facts(vec![link(FORBIDDEN_ROLE, false), link("admins", false), link("postgres", true)])),
            ]
            .into(),
        }
    }

    /// Decides what `ask` does here.
    pub(super) fn decide(&self, ask: &Ask) -> Decision {
        let integration = integration();
        match ask {
            Ask::Grant { id, revision, asked, expires, what, age } => {
                let grant = Grant {
                    integration,
                    grant_id: grant_id(*id),
                    revision: *revision,
                    principal: principal(),
                    permissions: what.iter().copied().map(permission).collect(),
                    expires_at: expires.map(at),
                    credential: if *age { Deliver::Age { recipient: String::new() } } else { Deliver::None },
                    justification: None,
                    requested_by: None,
                    approved_by: None,
                };
                grant::plan(&grant, at(*asked), ROLE, &self.observe(Some(*id)), &rules())
            }
            Ask::RevokeGrant { id } => Decision::Do(revoke::one(&integration, &grant_id(*id), ROLE, &self.observe(Some(*id)))),
            Ask::RevokePerson { until } => {
                let until = revoke::effective(at(*until), self.now);
                Decision::Do(revoke::person(&integration, &principal(), until, true, ROLE, &self.observe(None)))
            }
            Ask::Expiry { id, revision } => expiry::plan(&integration, &grant_id(*id), *revision, ROLE, &self.observe(Some(*id))),
            Ask::Repair => Decision::Do(cleanup::repair(ROLE, &self.observe(None))),
            Ask::Rotate { asked } => {
                let request = postern_schemas::request::RotatePrincipal { integration, principal: principal(), credential: Deliver::None };
                rotate::person(&request, at(*asked), ROLE, &self.observe(None), &rules())
            }
        }
    }

    /// Carries `ask` out, making bundles where they are missing. Returns the plan that was carried out.
    pub(super) fn carry_out(&mut self, ask: &Ask) -> Option<Plan> {
        loop {
            match self.decide(ask) {
                Decision::Do(plan) => {
                    plan.steps.iter().for_each(|step| self.step(step));
                    return Some(plan);
                }
                Decision::Ensure(keys) => keys.into_iter().for_each(|key| self.ensure(key)),
                Decision::NotYet(_) | Decision::Moot => return None,
            }
        }
    }

    fn ensure(&mut self, key: BundleKey) {
        let id = i64::try_from(self.bundles.len()).unwrap_or(i64::MAX) + 1;
        let schema = key.schema.as_ref().map(ToString::to_string).unwrap_or_default();
        let role = format!("bundle:{}:{schema}", key.access.as_str());
        self.bundles.push(Bundle { id, key, role, usable: true, fresh: true, warnings: Vec::new() });
        // Row numbers depend on the order in which bundles were first needed; what they stand for does not.
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::CreateRole { name, valid_until, connection_limit, whom, .. } => {
                assert!(self.role.is_none(), "a role is made once");
                let mut role = role(42, Some(super::state::comment_prefix(Uuid::nil()) + whom), true);
                (role.name, role.valid_until) = (name.clone(), *valid_until);
                role.connection_limit = limit(*connection_limit, -1);
                self.role = Some(role);
            }
            Step::AlterRole { login, valid_until, connection_limit, without, .. } => {
                let role = self.role.as_mut().unwrap_or_else(|| panic!("no role to alter"));
                assert!(role.alterable, "the server would refuse");
                role.added.retain(|attribute| !without.contains(attribute));
                role.can_login = login.unwrap_or(role.can_login);
                role.connection_limit = limit(*connection_limit, role.connection_limit);
                role.valid_until = valid_until.unwrap_or(role.valid_until);
            }
            Step::RevokeMembership { roles, .. } => roles.iter().for_each(|role| assert!(self.member_of.remove(role))),
            Step::GrantBundles { bundles: roles, .. } | Step::GrantRoles { roles, .. } => {
                self.member_of.extend(roles.iter().cloned());
                self.ever_granted.extend(roles.iter().cloned());
            }
            Step::ClaimRole { role, .. } => {
                self.account.role_name = Some(role.clone());
                self.account.role_oid = self.role.as_ref().map(|role| role.oid);
                self.account.password_set_at = None;
            }
            Step::SaveCredential { asked_at, .. } => {
                self.account.generation += 1;
                self.account.password_set_at = Some(self.now);
                self.account.password_asked_at = self.account.password_asked_at.max(Some(*asked_at));
            }
            Step::SaveGrant(record) => self.save(record),
            Step::GrantIam { .. } => {
                self.member_of.insert(super::iam::ROLE.to_owned());
            }
            Step::DropPassword { .. } => self.account.password_set_at = None,
            Step::SaveLogin { iam, asked_at, .. } => {
                self.account.iam = *iam;
                self.account.login_asked_at = self.account.login_asked_at.max(Some(*asked_at));
            }
            Step::RebindGrant { .. } | Step::MarkRotationDue { .. } | Step::PassRoles { .. } | Step::RevokeMember { .. } => {}
            Step::EndGrant { grant_id, ending, .. } => {
                self.active.remove(grant_id);
                let key = self.keys.entry(grant_id.clone()).or_default();
                if key.ending != Some(Ending::Revoked) {
                    key.ending = Some(*ending);
                }
            }
            Step::BarGrant { grant_id, .. } => self.keys.entry(grant_id.clone()).or_default().ending = Some(Ending::Revoked),
            Step::RaiseWatermark { asked_at, .. } => self.watermark = self.watermark.max(Some(*asked_at)),
        }
    }

    fn save(&mut self, record: &GrantRecord) {
        let GrantRecord { integration, grant_id, revision, permissions, bundles, expires_at, asked_at, ending, .. } = record.clone();
        let key = GrantKey { principal: Some(principal()), revision, ending };
        self.keys.insert(grant_id.clone(), key);
        self.active.remove(&grant_id);
        if ending.is_none() {
            self.active.insert(grant_id.clone(), GrantRow { integration, grant_id, revision, permissions, bundles, expires_at, asked_at });
        }
    }

    /// Somebody changes the role by hand.
    pub(super) fn tamper(&mut self, hand: &Hand) {
        let Some(role) = &mut self.role else { return };
        role.can_login = hand.login;
        role.valid_until = hand.until.map(at);
        role.added = if hand.createrole { vec!["CREATEROLE".to_owned()] } else { Vec::new() };
        if hand.leaves {
            self.member_of.pop_first();
        }
        self.member_of.extend(hand.joins.iter().cloned());
    }

    /// The ledger is restored from a backup that knows nothing of the person.
    pub(super) fn forget(&mut self) {
        let role = self.role.take().map(|role| Role { sealed: true, ..role });
        let member_of = std::mem::take(&mut self.member_of);
        *self = Self { role, member_of, now: self.now, ..Self::new(0) };
    }

    /// What a person can tell: who is open, what the role can do. Without row numbers and generations.
    pub(super) fn visible(&self) -> (BTreeMap<GrantId, i32>, BTreeSet<String>, bool, Option<Timestamp>) {
        let open = self.active.iter().map(|(id, row)| (id.clone(), row.revision)).collect();
        let role = self.role.as_ref();
        let can_login = role.is_some_and(|role| role.can_login);
        (open, self.member_of.clone(), can_login, role.filter(|_| can_login).and_then(|role| role.valid_until))
    }

    /// What the active grants call for, by the rules' own words.
    pub(super) fn called_for(&self) -> BTreeSet<String> {
        let roles = self.active.values().flat_map(|row| row.roles().map(ToString::to_string));
        let bundles = self.active.values().flat_map(|row| row.bundles.iter()).filter_map(|id| self.bundles.iter().find(|b| b.id == *id));
        roles.chain(bundles.map(|bundle| bundle.role.clone())).collect()
    }
}

/// The identifier of a role, to look for it in plans.
pub(super) fn mentions(plan: &Plan, role: &str) -> bool {
    let identifier: Identifier = name(role);
    plan.steps.iter().any(|step| match step {
        Step::GrantBundles { bundles: roles, .. } | Step::GrantRoles { roles, .. } => roles.iter().any(|r| r == identifier.as_str()),
        Step::SaveGrant(record) => {
            record.ending.is_none() && record.permissions.iter().any(|p| matches!(p, Permission::Role(m) if m.role == identifier))
        }
        _ => false,
    })
}

fn limit(wanted: Option<u32>, otherwise: i32) -> i32 {
    wanted.and_then(|limit| i32::try_from(limit).ok()).unwrap_or(otherwise)
}
