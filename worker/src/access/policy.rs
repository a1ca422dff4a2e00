//! What may be asked of an integration, and the roles that are never handed out.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use postern_schemas::permission::{Access, Permission};
use postern_schemas::store::StoreRef;
use postern_schemas::{Code, Deliver, Grant, Identifier, Reason};

use crate::access::state::{Observed, Role, RoleFacts, RoleLink, ledger_of};

/// How far ahead of the target's clock an event's `time` may be.
pub const MAX_AHEAD: SignedDuration = SignedDuration::from_secs(60);

/// The rules of one integration.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The longest time from asking to expiry; also makes `expires_at` required.
    pub max_duration: Option<SignedDuration>,
    /// Who needs no credential delivered logs in by IAM token (`auth = "iam"`).
    pub iam: bool,
    /// Levels that may be given.
    pub access: BTreeSet<Access>,
    /// Existing roles that may be given.
    pub roles: BTreeSet<Identifier>,
    /// Databases that may be named; `None`: all but templates and the platform's own.
    pub databases: Option<BTreeSet<Identifier>>,
    /// Where credentials may be written, with `*` for any text.
    pub deliver_to: Vec<String>,
    /// Grants and rotations asked longer ago are refused.
    pub max_event_age: SignedDuration,
    /// A password older than this is replaced at the next request that delivers one.
    pub credential_rotation: Option<SignedDuration>,
    /// The most sessions a person may have at once.
    pub connection_limit: Option<u32>,
}

/// Databases of the platforms themselves: Azure Database for PostgreSQL, Amazon RDS, Google Cloud SQL.
const PLATFORM_DATABASES: [&str; 4] = ["azure_maintenance", "azure_sys", "cloudsqladmin", "rdsadmin"];

/// Roles that are never granted, whatever event or policy say: the platforms' admin roles and the one that our bootstrap
/// makes where there is none, and predefined roles that reach the server's files, every table, other people's sessions, the
/// connections kept back for the connector, or code that runs as somebody else, as a subscription's does (PostgreSQL docs,
/// "Predefined Roles"). `pg_monitor` and its parts only read statistics and settings, `pg_checkpoint` only costs time:
/// they are given where policy lists them.
const FORBIDDEN: [&str; 21] = [
    "azure_pg_admin",
    "azure_superuser",
    "azuresu",
    "cloudsqladmin",
    "cloudsqlsuperuser",
    "pg_create_subscription",
    "pg_execute_server_program",
    "pg_maintain",
    "pg_read_all_data",
    "pg_read_server_files",
    "pg_signal_autovacuum_worker",
    "pg_signal_backend",
    "pg_use_reserved_connections",
    "pg_write_all_data",
    "pg_write_server_files",
    "postern_admin",
    "rds_ad",
    "rds_replication",
    "rds_superuser",
    "rdsadmin",
    "rdsrepladmin",
];

impl Rules {
    /// Judges a grant's contents. The first rule that is broken decides.
    pub fn check(&self, grant: &Grant, asked: Timestamp) -> Result<(), Reason> {
        for (index, permission) in grant.permissions.iter().enumerate() {
            let at = |name: &str| format!("data.permissions[{index}].{name}");
            match permission {
                Permission::Role(membership) => {
                    if !self.roles.contains(&membership.role) {
                        return Err(denied(format!("role {:?} is not among the policy's roles", membership.role.as_str())).at(at("role")));
                    }
                }
                Permission::Objects(scope) => {
                    if !self.access.contains(&scope.access) {
                        let allowed: Vec<_> = self.access.iter().map(|a| a.as_str()).collect();
                        let message = format!("access {} is not allowed; expected one of {}", scope.access.as_str(), allowed.join(", "));
                        return Err(denied(message).at(at("access")));
                    }
                    if !self.allows_database(&scope.database) {
                        return Err(denied(format!("database {:?} is not open to grants", scope.database.as_str())).at(at("database")));
                    }
                    if let Some(schema) = &scope.schema
                        && is_system_schema(schema)
                    {
                        return Err(denied(format!("schema {:?} is the system's or Postern's own", schema.as_str())).at(at("schema")));
                    }
                }
            }
        }
        self.check_duration(grant, asked)?;
        self.check_delivery(&grant.credential)
    }

    /// Whether a database is open to grants at all.
    pub fn allows_database(&self, name: &Identifier) -> bool {
        match &self.databases {
            Some(listed) => listed.contains(name),
            None => !PLATFORM_DATABASES.contains(&name.as_str()) && !matches!(name.as_str(), "template0" | "template1"),
        }
    }

    fn check_duration(&self, grant: &Grant, asked: Timestamp) -> Result<(), Reason> {
        let Some(longest) = self.max_duration else { return Ok(()) };
        let hours = longest.as_hours();
        match grant.expires_at {
            None => Err(denied(format!("expires_at is missing; this integration grants for at most {hours} hours")).at("data.expires_at")),
            Some(expires) if asked.duration_until(expires) > longest => {
                Err(denied(format!("expires_at is {expires}; expected at most {hours} hours after the event's time {asked}"))
                    .at("data.expires_at"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Judges where a credential is to be written.
    pub fn check_delivery(&self, deliver: &Deliver) -> Result<(), Reason> {
        match deliver {
            Deliver::Secret { to } if !self.may_write(to) => {
                Err(denied(format!("credentials may not be written to {to}; the policy's deliver_to does not list it"))
                    .at("data.credential.to"))
            }
            _ => Ok(()),
        }
    }

    fn may_write(&self, to: &StoreRef) -> bool {
        let place = to.to_string();
        self.deliver_to.iter().any(|pattern| matches_pattern(pattern, &place))
    }

    /// Judges an event's age by the target's clock. Revokes and clean-ups are never too old and never ahead.
    pub fn check_age(&self, asked: Timestamp, now: Timestamp, horizon: Timestamp) -> Result<(), Reason> {
        if asked.duration_since(now) > MAX_AHEAD {
            let message = format!("time is {asked}, more than 60 seconds ahead of the server's clock {now}");
            return Err(Reason::new(Code::InvalidEvent, message).at("time"));
        }
        if now.duration_since(asked) > self.max_event_age || asked <= horizon {
            let message = format!("the event was asked at {asked}, which is too long ago; ask again with a new id and time");
            return Err(Reason::new(Code::EventTooOld, message).at("time"));
        }
        Ok(())
    }
}

fn denied(message: String) -> Reason {
    Reason::new(Code::PolicyDenied, message)
}

/// A schema that no grant ever includes.
pub fn is_system_schema(schema: &Identifier) -> bool {
    let name = schema.as_str();
    name.starts_with("pg_") || matches!(name, "information_schema" | "postern")
}

/// The first role of a chain that is never handed out, with why.
pub fn forbidden(facts: &RoleFacts) -> Option<(&RoleLink, &'static str)> {
    facts.chain.iter().find_map(|link| {
        let why = if link.superuser {
            "is a superuser"
        } else if link.createrole {
            "may create roles"
        } else if link.replication {
            "may replicate"
        } else if link.bypassrls {
            "bypasses row-level security"
        } else if link.ours {
            "is Postern's own or a person's account"
        } else if FORBIDDEN.contains(&link.name.as_str()) {
            "is one of the server's or the platform's powerful roles"
        } else {
            return None;
        };
        Some((link, why))
    })
}

/// Refuses a role of the person's name that is not ours, and names that PostgreSQL reserves.
pub fn check_account(seen: &Observed, role_name: &str) -> Result<(), Reason> {
    if let Some(Role { name, oid, comment, .. }) = seen.foreign_role() {
        let whose = match comment.as_deref().and_then(ledger_of) {
            Some(other) if other != seen.ledger => format!("belongs to another ledger ({other})"),
            _ => "was not made by Postern".to_owned(),
        };
        let message =
            format!("role {name:?} (OID {oid}) {whose} and is not touched; rename or drop it, or give people other names with role_name");
        return Err(Reason::new(Code::RoleNotManaged, message).at("data.principal"));
    }
    // PostgreSQL docs, CREATE ROLE: names that begin with pg_, and the words public and none, are reserved.
    if role_name.starts_with("pg_") || matches!(role_name, "public" | "none") {
        let message = format!("PostgreSQL reserves the role name {role_name:?}; give people other names with role_name");
        return Err(Reason::new(Code::RoleNotManaged, message).at("data.principal"));
    }
    Ok(())
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut rest = rest;
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        // No star at all: the whole text must have been taken.
        None => rest.is_empty(),
        Some(part) => part.is_empty() || rest.is_empty() || text.ends_with(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("hashicorp_vault:secret/jit/*", "hashicorp_vault:secret/jit/jane", true),
            ("hashicorp_vault:secret/jit/*", "hashicorp_vault:secret/other", false),
            ("aws:*/jit-*", "aws:eu-central-1/jit-jane", true),
            ("aws:*/jit", "aws:eu/jit/jit", true),
            ("aws:eu/jit", "aws:eu/jit-jane", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_forbidden_role_is_found_at_the_end_of_a_chain() {
        let link = |name: &str| RoleLink {
            name: name.to_owned(),
            superuser: false,
            createrole: false,
            replication: false,
            bypassrls: false,
            ours: false,
        };
        let facts =
            RoleFacts { chain: vec![link("reporting"), link("harmless"), link("pg_write_all_data")], can_hand_on: true, pass: false };
        assert_eq!(forbidden(&facts).map(|(link, _)| link.name.as_str()), Some("pg_write_all_data"));
        let harmless = RoleFacts { chain: vec![link("reporting"), link("pg_monitor")], can_hand_on: true, pass: false };
        assert_eq!(forbidden(&harmless), None);
    }
}
