//! What holds for the server as a whole: encryption, version, role, clock, room for sessions.

use jiff::{SignedDuration, Timestamp};

use super::facts::Facts;
use super::item::Item;
use super::judge::AS_ADMIN;
use crate::config::{Integration, SslMode};
use crate::postgres::ledger::OWNER;
use crate::postgres::names::ident;

/// The versions that are tested, as `server_version_num`: from the first to below the second.
const OLDEST: i32 = 140_000;
const UNTESTED: i32 = 190_000;
/// Grants and rotations that are asked further ahead of the server's clock are refused.
const CLOCK: SignedDuration = SignedDuration::from_mins(1);
/// A login that ends sooner than this is told of.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Everything about the server. `now`: this machine's clock when the server told its own.
pub(super) fn server(facts: &Facts, integration: &Integration, now: Timestamp) -> Vec<Item> {
    let mut items = vec![
        encryption(facts, integration.ssl_mode, integration.ssl_root_cert.is_some()),
        version(facts),
        primary(facts),
        clock(facts, now),
        sessions(facts, integration.max_sessions),
        prepared(facts),
    ];
    items.extend(ending(facts));
    items.extend(passwords(facts));
    items
}

fn encryption(facts: &Facts, mode: SslMode, has_roots: bool) -> Item {
    match &facts.encryption {
        None => Item::warn("tls", format!("the connection is not encrypted (ssl_mode = {:?}); use \"verify-full\"", mode.as_str())),
        Some(met) if mode >= SslMode::VerifyCa || mode == SslMode::Require && has_roots => Item::ok("tls", format!("{met} ({mode})")),
        Some(met) => {
            Item::warn("tls", format!("{met}, but with ssl_mode = {:?} whoever answers is believed; use \"verify-full\"", mode.as_str()))
        }
    }
}

fn version(facts: &Facts) -> Item {
    let met = &facts.version_text;
    match facts.version {
        ..OLDEST => Item::fail("version", format!("PostgreSQL {met}; expected 14 to 18")),
        OLDEST..UNTESTED => Item::ok("version", format!("PostgreSQL {met}")),
        _ => Item::warn("version", format!("PostgreSQL {met}; this version of Postern is tested with 14 to 18")),
    }
}

fn primary(facts: &Facts) -> Item {
    if facts.standby {
        Item::fail("primary", "the server is a standby and takes no changes; name the primary as hostname of the integration")
    } else {
        Item::ok("primary", "takes changes")
    }
}

fn clock(facts: &Facts, now: Timestamp) -> Item {
    let apart = facts.now.duration_since(now);
    let seconds = apart.abs().as_secs();
    if apart.abs() <= CLOCK {
        return Item::ok("clock", format!("the server's is {seconds} s from this machine's"));
    }
    let which = if apart.is_positive() { "ahead of" } else { "behind" };
    let message = format!(
        "the server's clock is {seconds} s {which} this machine's; expiry is judged by the server's, and what is asked more than 60 s ahead \
         of it is refused: set both by NTP"
    );
    Item::warn("clock", message)
}

/// Whether a worker gets the sessions that it may open.
fn sessions(facts: &Facts, wanted: u32) -> Item {
    let login = ident(&facts.login);
    if facts.session_limit >= 0 && i64::from(facts.session_limit) < i64::from(wanted) {
        let message = format!("{} may have {} at once, one worker opens up to {wanted} (max_sessions)", facts.login, facts.session_limit);
        return Item::warn("sessions", message).mend(AS_ADMIN).mend(format!("ALTER ROLE {login} CONNECTION LIMIT -1;"));
    }
    if facts.sessions_left < i64::from(wanted) {
        let message = format!(
            "the server has room for {} more, one worker opens up to {wanted} (max_sessions); raise max_connections, or end what is idle",
            facts.sessions_left.max(0)
        );
        let item = Item::warn("sessions", message);
        // The privilege to use `reserved_connections`.
        return if facts.has_membership_options() {
            item.mend("-- as a superuser, if reserved_connections is set").mend(format!("GRANT pg_use_reserved_connections TO {login};"))
        } else {
            item
        };
    }
    Item::ok("sessions", format!("the server has room for {} more", facts.sessions_left))
}

fn prepared(facts: &Facts) -> Item {
    const ITEM: &str = "prepared transactions";
    if facts.old_prepared > 0 {
        let message = format!(
            "{} older than 5 minutes: each keeps its locks, and the account that it belongs to, from being dropped; see pg_prepared_xacts",
            facts.old_prepared
        );
        return Item::warn(ITEM, message).mend("-- as its owner or a superuser, in its database: COMMIT PREPARED or ROLLBACK PREPARED");
    }
    match facts.max_prepared_transactions {
        0 => Item::ok(ITEM, "not in use"),
        most => Item::ok(ITEM, format!("people may leave up to {most} (max_prepared_transactions), which can hold a clean-up up")),
    }
}

/// The connector's own end.
fn ending(facts: &Facts) -> Option<Item> {
    let until = facts.valid_until.filter(|until| until.duration_since(facts.now) < SOON)?;
    let message = format!("the password of {} ends at {until}; then nothing works any more", facts.login);
    let statement = format!("ALTER ROLE {} VALID UNTIL 'infinity';", ident(&facts.login));
    Some(Item::warn("valid until", message).mend(AS_ADMIN).mend(statement))
}

/// RDS can let members of `rds_password` alone set passwords and VALID UNTIL (Amazon RDS User Guide, "Delegating and
/// controlling user password management"). The owner role sets them.
fn passwords(facts: &Facts) -> Option<Item> {
    if !facts.restricts_passwords || facts.owner_sets_passwords {
        return None;
    }
    let message = format!("rds.restrict_password_commands is on, and {OWNER} is no member of rds_password: no account can be made");
    let item = Item::fail("passwords", message).mend(AS_ADMIN);
    let item =
        if facts.owner.is_some() { item } else { item.mend(format!("-- after the first event, which makes {OWNER} and waits for this")) };
    Some(item.mend(format!("GRANT rds_password TO {};", ident(OWNER))))
}

#[cfg(test)]
mod tests {
    use super::super::item::Status;
    use super::*;

    #[test]
    fn only_a_verified_connection_is_without_a_warning() {
        let status =
            |met: Option<&str>, mode, roots| encryption(&Facts { encryption: met.map(Into::into), ..Facts::default() }, mode, roots).status;
        assert_eq!(status(Some("TLSv1.3"), SslMode::VerifyFull, false), Status::Ok);
        assert_eq!(status(Some("TLSv1.3"), SslMode::Require, true), Status::Ok);
        assert_eq!(status(Some("TLSv1.3"), SslMode::Require, false), Status::Warn);
        assert_eq!(status(None, SslMode::Disable, false), Status::Warn);
    }

    #[test]
    fn versions_below_14_fail_and_above_18_are_not_tested() {
        let status = |version| super::version(&Facts { version, ..Facts::default() }).status;
        assert_eq!([130_022, 140_000, 180_004, 190_000].map(status), [Status::Fail, Status::Ok, Status::Ok, Status::Warn]);
    }

    #[test]
    fn a_clock_that_is_off_by_more_than_a_minute_is_told_of() {
        let facts = Facts { now: Timestamp::UNIX_EPOCH, ..Facts::default() };
        let status = |seconds| clock(&facts, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)).status;
        assert_eq!([-61, -60, 0, 60, 61].map(status), [Status::Warn, Status::Ok, Status::Ok, Status::Ok, Status::Warn]);
        assert!(clock(&facts, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(90)).message.contains("90 s behind"));
    }

    #[test]
    fn too_little_room_for_sessions_is_told_of() {
        let room = |session_limit, sessions_left| {
            let facts = Facts { version: 160_000, session_limit, sessions_left, login: "gate".to_owned(), ..Facts::default() };
            sessions(&facts, 4)
        };
        assert_eq!(room(-1, 4).status, Status::Ok);
        assert_eq!(room(3, 50).mend[1], r#"ALTER ROLE "gate" CONNECTION LIMIT -1;"#);
        assert_eq!(room(-1, 3).status, Status::Warn);
    }
}
