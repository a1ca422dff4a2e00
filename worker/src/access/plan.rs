//! The vocabulary of what is to be done.

use jiff::Timestamp;
use postern_schemas::permission::Permission;
use postern_schemas::result::{Change, CredentialStatus};
use postern_schemas::{GrantId, IntegrationId, Outcome, Principal, Reason};

use crate::access::state::{BundleKey, Ending};

/// What a verb decided after looking at what was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and nearly every one is a plan")]
pub enum Decision {
    /// Carry this out, in the transaction of the observation.
    Do(Plan),
    /// These bundles must be made or compared first; then observe and decide again.
    Ensure(Vec<BundleKey>),
    /// An expiry that fired early: wait until then.
    NotYet(Timestamp),
    /// An expiry of something that has ended, or goes on, for other reasons: there is nothing to say.
    Moot,
}

/// What is to be done, and what the result says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The outcome once all steps are done.
    pub outcome: Option<Outcome>,
    /// Why.
    pub reason: Option<Reason>,
    /// In this order, in one transaction.
    pub steps: Vec<Step>,
    /// Bundle rows to be held against dropping until the commit.
    pub hold: Vec<i64>,
    /// Something was taken away: the person's sessions end, and the result waits for it.
    pub end_sessions: bool,
    /// What the steps do, for the result.
    pub changes: Vec<Change>,
    /// What was found different from the ledger.
    pub drift: Vec<Change>,
    /// `grant_id`s that end.
    pub ended: Vec<String>,
    /// What the reader should know.
    pub warnings: Vec<String>,
    /// What happens to the password, and the generation afterwards.
    pub credential: Option<(CredentialStatus, i32)>,
    /// The role's name, where there is one.
    pub role: Option<String>,
    /// The grant is in effect afterwards.
    pub in_effect: bool,
    /// When the grant ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// One statement, of the catalog or of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a person's role, as the owner role.
    CreateRole {
        /// Its name.
        name: String,
        /// The door for new logins closes then.
        valid_until: Option<Timestamp>,
        /// Whether it gets the password that was drawn.
        password: bool,
        /// CONNECTION LIMIT; `None`: none.
        connection_limit: Option<u32>,
        /// Whom it is for; stands in the comment that marks it as ours.
        whom: String,
    },
    /// Changes a person's role, as the owner role.
    AlterRole {
        /// Its name.
        name: String,
        /// New LOGIN or NOLOGIN.
        login: Option<bool>,
        /// New VALID UNTIL; `Some(None)` is infinity.
        valid_until: Option<Option<Timestamp>>,
        /// New CONNECTION LIMIT.
        connection_limit: Option<u32>,
        /// Whether it gets the password that was drawn.
        password: bool,
        /// Attributes that it loses, such as `CREATEROLE`.
        without: Vec<String>,
    },
    /// Takes memberships back that `grantor` gave.
    RevokeMembership {
        /// The person's role.
        member: String,
        /// The roles it leaves.
        roles: Vec<String>,
        /// Who had given them.
        grantor: String,
    },
    /// Takes a membership in the person's role back that `grantor` gave.
    RevokeMember {
        /// The person's role.
        role: String,
        /// Its member.
        member: String,
        /// Who had made it one.
        grantor: String,
    },
    /// Gives membership in bundles, as the owner role. Sorted, and last: from 16 it locks the granted role.
    GrantBundles {
        /// The person's role.
        member: String,
        /// The bundle roles.
        bundles: Vec<String>,
    },
    /// Gives existing roles to the owner role to hand on, and nothing of what they may do.
    PassRoles {
        /// The roles.
        roles: Vec<String>,
    },
    /// Hands existing roles on: from 16 on as the owner role, up to 15 as the connector.
    GrantRoles {
        /// The person's role.
        member: String,
        /// The roles.
        roles: Vec<String>,
    },
    /// Makes the person log in by IAM token: membership in `rds_iam`. The connector leaves the person's role first, if
    /// it is a member: it would log in by token only, too.
    GrantIam {
        /// The person's role.
        member: String,
    },
    /// Takes the password away, as the owner role.
    DropPassword {
        /// The person's role.
        name: String,
    },
    /// Records whether the person logs in by IAM token.
    SaveLogin {
        /// The person.
        principal: Principal,
        /// By token; else by password.
        iam: bool,
        /// The event's `time`.
        asked_at: Timestamp,
    },
    /// Binds the account to the role of that name as it is then.
    ClaimRole {
        /// The person.
        principal: Principal,
        /// The role.
        role: String,
    },
    /// Counts a new password.
    SaveCredential {
        /// The person.
        principal: Principal,
        /// The `time` of the event that set it.
        asked_at: Timestamp,
    },
    /// Writes the grant's row, active or ended.
    SaveGrant(GrantRecord),
    /// Points an active grant at the bundle rows that took the place of lost ones.
    RebindGrant {
        /// Its integration.
        integration: IntegrationId,
        /// Its id.
        grant_id: GrantId,
        /// The rows.
        bundles: Vec<i64>,
    },
    /// Ends an active grant.
    EndGrant {
        /// Its integration.
        integration: IntegrationId,
        /// Its id.
        grant_id: GrantId,
        /// Why.
        ending: Ending,
    },
    /// Ends a `grant_id` for good, whether or not it ever came.
    BarGrant {
        /// Its integration.
        integration: IntegrationId,
        /// The id.
        grant_id: GrantId,
    },
    /// Every revision of the person asked until then is over.
    RaiseWatermark {
        /// The integration.
        integration: IntegrationId,
        /// The person; `None`: everyone.
        principal: Option<Principal>,
        /// Until when.
        asked_at: Timestamp,
    },
    /// Marks passwords as due for replacement that were set before then.
    MarkRotationDue {
        /// Passwords set before are due.
        before: Timestamp,
    },
}

/// The contents of a row of `postern.access_grant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// Its integration.
    pub integration: IntegrationId,
    /// Its id.
    pub grant_id: GrantId,
    /// Its revision.
    pub revision: i32,
    /// The person.
    pub principal: Principal,
    /// What it gives.
    pub permissions: Vec<Permission>,
    /// Through which bundle rows.
    pub bundles: Vec<i64>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// The event's `time`.
    pub asked_at: Timestamp,
    /// Set when it is over as it comes.
    pub ending: Option<Ending>,
}

impl Plan {
    /// A plan that changes nothing and says why.
    pub fn settled(outcome: Outcome, reason: Reason) -> Self {
        Self { outcome: Some(outcome), reason: Some(reason), ..Self::default() }
    }

    /// A refusal.
    pub fn rejected(reason: Reason) -> Self {
        Self::settled(Outcome::Rejected, reason)
    }

    /// Puts off what needs the role's own row. A person can hold that row in an open transaction (`ALTER ROLE` of one's own
    /// password), but not the memberships: so access goes first, then the sessions, and the login last, by the repair that
    /// follows. Returns whether anything was put off.
    pub fn put_role_off(&mut self) -> bool {
        let before = self.steps.len();
        if self.end_sessions {
            self.steps.retain(|step| !matches!(step, Step::AlterRole { password: false, .. }));
        }
        self.steps.len() < before
    }

    /// The outcome; `succeeded` or `unchanged` where no rule said otherwise.
    pub fn outcome(&self) -> Outcome {
        self.outcome.unwrap_or(if self.changes.is_empty() { Outcome::Unchanged } else { Outcome::Succeeded })
    }
}
