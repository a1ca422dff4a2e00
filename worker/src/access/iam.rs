//! People who log in by IAM tokens. On RDS a member of the role `rds_iam`, directly or through others, logs in by token
//! and never by password (RDS user guide, "Creating a database account using IAM authentication"); so an account has
//! one way to log in, and the latest event that asked for one decides which.

use jiff::Timestamp;
use postern_schemas::{Code, Deliver, Reason};

use crate::access::policy::Rules;
use crate::access::state::Observed;

/// The role whose members log in by token.
pub const ROLE: &str = "rds_iam";

/// Whether the person logs in by token once an event asked at `asked` is carried out. Without a credential to deliver
/// an integration with `auth = "iam"` means a token, another one leaves it as it is; a credential means a password.
pub fn decide(deliver: &Deliver, asked: Timestamp, seen: &Observed, rules: &Rules) -> bool {
    let before = seen.logs_in_by_token();
    let wanted = match deliver {
        Deliver::None if rules.iam => true,
        Deliver::None => return before,
        _ => false,
    };
    let decided = seen.our_role().and(seen.account.as_ref()).and_then(|account| account.login_asked_at);
    match decided {
        // Of two events asked at one moment the one for a password counts, in whatever order they come.
        Some(last) if asked < last || asked == last && wanted => before,
        _ => wanted,
    }
}

/// Refuses what the server cannot do: a role that is not there, or that the connector may not hand on.
pub fn check(by_token: bool, seen: &Observed) -> Result<(), Reason> {
    if !by_token || seen.memberships.iter().any(|membership| membership.role == ROLE) {
        return Ok(());
    }
    let missing = |message: String| Err(Reason::new(Code::PermissionMissing, message).at("data.credential"));
    match seen.roles.iter().find(|(name, _)| name.as_str() == ROLE) {
        None => missing(format!(
            "the server has no role {ROLE}, so nobody logs in by IAM token there; as its administrator run: CREATE ROLE {ROLE}"
        )),
        Some((_, facts)) if !facts.can_hand_on => {
            let connector = seen.connector.replace('"', "\"\"");
            missing(format!(
                "the connector may not hand {ROLE} on; as the server's master user run: GRANT {ROLE} TO \"{connector}\" WITH ADMIN OPTION"
            ))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
