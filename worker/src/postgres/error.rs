//! What can go wrong with a target, and what to do about it. SQLSTATE decides, never a message: servers speak
//! many languages.

use postern_schemas::{Code, Reason};
use tokio_postgres::error::SqlState;

use crate::aws::AwsError;
use crate::postgres::connect::ConnectError;
use crate::secrets::SecretError;

/// What a statement that begins a transaction is for.
pub const BEGINNING: &str = "beginning a transaction";

/// A failure of one event's work on a target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No session could be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The maintenance database is gone or was renamed: without it nothing can be done on this server.
    #[error(transparent)]
    NoMaintenance(ConnectError),
    /// The connector's credential could not be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Nobody says where the server is.
    #[error(transparent)]
    Lookup(#[from] AwsError),
    /// A statement failed.
    #[error("{doing}: {}", describe(source))]
    Sql {
        /// What it was for.
        doing: &'static str,
        /// The server's answer, or the connection's end.
        source: tokio_postgres::Error,
    },
    /// All sessions of the integration were in use for too long.
    #[error("no session came free within {0} seconds; the server is slow, or max_sessions is too low")]
    Busy(u64),
    /// Statements were sent and nothing came back.
    #[error("the server gave no answer within {0} seconds; it hangs, or the network between drops packets")]
    Silent(u64),
    /// The target could not be reached a moment ago, for this reason; it is tried again soon.
    #[error("{}", .0.message)]
    CircuitOpen(Box<Reason>),
    /// The event cannot be done, now or later.
    #[error("{}", .0.message)]
    Rejected(Box<Reason>),
    /// The connector lacks a right that an operator has to give.
    #[error("{what}; mend it with: {mend}")]
    MissingRight {
        /// What is lacking.
        what: String,
        /// The statement to run, and as whom.
        mend: String,
    },
    /// The server takes no changes.
    #[error("the server is a read replica (in recovery) and takes no changes; name the primary as hostname of the integration")]
    Standby,
    /// The ledger was written by a newer version.
    #[error("the ledger has schema version {met}, this worker knows {known}: run a newer worker")]
    NewerLedger {
        /// What the ledger says.
        met: i32,
        /// What this worker can read.
        known: i32,
    },
    /// What was observed kept changing.
    #[error("what was observed kept changing; tried {0} times")]
    Restless(u32),
    /// The person whom the event needs was pruned, or became known, between two statements.
    #[error("the person's row changed while it was looked at")]
    Pruned,
    /// Somebody holds the role's row, so that its login cannot be closed yet.
    #[error(
        "access is taken away, but somebody holds the role in an open transaction, and the login cannot be closed yet; look for ALTER ROLE in pg_stat_activity"
    )]
    Held,
    /// Something was given to a role while it was being dropped.
    #[error("somebody goes on giving something to a role that is being dropped")]
    Depended,
    /// Another worker holds the event's claim.
    #[error("another worker is at this event")]
    Claimed,
    /// The ledger has lost its row of facts, and with it its identity.
    #[error("the ledger's row in postern.fact is gone; `postern check` prints the statement that puts it back")]
    LostFacts,
    /// The ledger holds something that this version cannot read.
    #[error("the ledger holds {0}, which this version cannot read")]
    Unreadable(String),
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Try again at once: somebody else changed the same thing.
    Again,
    /// The target cannot be reached: wait without counting an attempt.
    Unreachable,
    /// Another worker is at it: wait a moment without counting an attempt.
    Wait,
    /// Try again later, counting attempts.
    Later,
    /// Never: the event is refused.
    Reject,
}

impl TargetError {
    /// The failure of a session with the maintenance database: if it is gone the target is, not one database of many.
    pub fn of_maintenance(error: Self) -> Self {
        match error {
            Self::Connect(error) if error.is_no_database() => Self::NoMaintenance(error),
            other => other,
        }
    }

    /// A failed statement.
    pub fn sql(doing: &'static str, source: tokio_postgres::Error) -> Self {
        match source.code().map(SqlState::code) {
            // A standby, where a transaction of ours cannot begin; or one that became one in its middle.
            Some("25006") => Self::Standby,
            Some("0A000") if doing == BEGINNING => Self::Standby,
            _ => Self::Sql { doing, source },
        }
    }

    /// The server's SQLSTATE, where a statement or a login failed with one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql { source, .. } => source.code().map(SqlState::code),
            Self::Connect(error) | Self::NoMaintenance(error) => error.sqlstate(),
            Self::Standby => Some("25006"),
            _ => None,
        }
    }

    /// What is to be done.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Rejected(_) => Disposition::Reject,
            Self::Claimed => Disposition::Wait,
            Self::Pruned | Self::Depended => Disposition::Again,
            Self::Connect(error) if error.is_unreachable() => Disposition::Unreachable,
            // One database of the server is gone, not the server.
            Self::Connect(error) if error.is_no_database() => Disposition::Later,
            Self::Secret(_)
            | Self::Lookup(_)
            | Self::Connect(_)
            | Self::NoMaintenance(_)
            | Self::Standby
            | Self::Busy(_)
            | Self::Silent(_)
            | Self::CircuitOpen(_) => Disposition::Unreachable,
            Self::Held
            | Self::MissingRight { .. }
            | Self::LostFacts
            | Self::NewerLedger { .. }
            | Self::Restless(_)
            | Self::Unreadable(_) => Disposition::Later,
            Self::Sql { source, .. } => match source.code() {
                None => Disposition::Unreachable,
                Some(state) => of_sqlstate(state.code()),
            },
        }
    }

    /// Whether the session ended under a statement: somebody or some time-out ended it, or the connection broke. Only a
    /// new session tells whether the server is still there.
    pub fn lost_session(&self) -> bool {
        match self {
            Self::Sql { source, .. } => source.code().is_none_or(|state| ended_the_session(state.code())),
            _ => false,
        }
    }

    /// Whether a table or the schema of the ledger may be gone (SQLSTATE 42P01, 3F000): it is looked for anew.
    pub fn lost_ledger(&self) -> bool {
        matches!(self.sqlstate(), Some("42P01" | "3F000"))
    }

    /// Whether the server refuses the connector's credential.
    pub fn is_refused_login(&self) -> bool {
        matches!(self, Self::Connect(error) if error.is_authentication())
    }

    /// Whether the server may be at another address by now: nobody was reached, or somebody else.
    pub fn may_be_elsewhere(&self) -> bool {
        matches!(self, Self::Connect(error) if error.may_be_elsewhere())
    }

    /// Whether somebody holds a lock that a statement needed (SQLSTATE 55P03, `lock_not_available`).
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate() == Some("55P03")
    }

    /// Whether the target as a whole is out of reach, so that nobody else need try for a while.
    pub fn closes_circuit(&self) -> bool {
        !matches!(self, Self::Busy(_)) && self.disposition() == Disposition::Unreachable
    }

    /// The code for results and metrics.
    pub fn code(&self) -> Code {
        match self {
            Self::Rejected(reason) | Self::CircuitOpen(reason) => reason.code,
            Self::Secret(_) | Self::Lookup(AwsError::NoCredentials | AwsError::Credentials(_)) => Code::SecretUnavailable,
            Self::MissingRight { .. } => Code::PermissionMissing,
            Self::Sql { source, .. } if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Code::PermissionMissing,
            _ if self.disposition() == Disposition::Unreachable => Code::TargetUnreachable,
            _ => Code::Internal,
        }
    }

    /// The reason for a result.
    pub fn reason(&self) -> Reason {
        if let Self::Rejected(reason) | Self::CircuitOpen(reason) = self {
            return (**reason).clone();
        }
        let mut reason = Reason::new(self.code(), self.to_string());
        reason.sqlstate = self.sqlstate().map(ToOwned::to_owned);
        reason
    }
}

/// PostgreSQL docs, Appendix A; which of them concurrent role DDL raises was measured on 14 to 18.
fn of_sqlstate(state: &str) -> Disposition {
    match state {
        // Two sessions changed one catalog row, or it went away with its object; serialization, deadlock and lock
        // time-out; somebody cancelled the statement; our own: a bundle was retired since it was looked at.
        "XX000" | "40001" | "40P01" | "55P03" | "57014" | "PT001"
        // Two made the same role, schema, table or function.
        | "23505" | "42710" | "42P06" | "42P07" | "42723"
        // A role, database, schema, table or function went away between the look and the statement that names it.
        | "42704" | "3D000" | "3F000" | "42P01" | "42883" => Disposition::Again,
        // Crash of the server, start-up, too many connections, a full disk.
        "57P02" | "57P03" | "53300" | "53100" => Disposition::Unreachable,
        _ if ended_the_session(state) || state.starts_with("28") => Disposition::Unreachable,
        _ => Disposition::Later,
    }
}

/// An administrator's or a shutdown's end of a session, its database dropped, the time-outs of idle sessions and
/// transactions (one that a DBA set on the connector included), connection exceptions.
fn ended_the_session(state: &str) -> bool {
    matches!(state, "57P01" | "57P04" | "57P05" | "25P03" | "25P04") || state.starts_with("08")
}

/// The server's message with its SQLSTATE, never its DETAIL (which may quote a row), or the transport's error.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

impl From<Reason> for TargetError {
    fn from(reason: Reason) -> Self {
        Self::Rejected(Box::new(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_sorted_by_what_helps() {
        for (state, expected) in [
            ("XX000", Disposition::Again),
            ("PT001", Disposition::Again),
            ("08006", Disposition::Unreachable),
            ("57P03", Disposition::Unreachable),
            ("53300", Disposition::Unreachable),
            ("53100", Disposition::Unreachable),
            // Out of shared memory: the locks of one event may be too many, which is no reason to keep others waiting.
            ("53200", Disposition::Later),
            ("28P01", Disposition::Unreachable),
            ("42501", Disposition::Later),
            ("57014", Disposition::Again),
            ("42P01", Disposition::Again),
            ("57P01", Disposition::Unreachable),
            ("57P05", Disposition::Unreachable),
            ("25P04", Disposition::Unreachable),
            ("XX001", Disposition::Later),
        ] {
            assert_eq!(of_sqlstate(state), expected, "{state}");
        }
    }
}
