//! Facts as items: what is missing, and the statement that gives it.

use uuid::Uuid;

use super::facts::{Facts, Named, Owner};
use super::item::{Item, Status};
use crate::config::SslMode;
use crate::postgres::ledger::{self, OWNER};
use crate::postgres::names::ident;

/// The oldest version that is supported.
const OLDEST: i32 = 140_000;

/// Who runs most of what is printed.
const AS_ADMIN: &str = "-- as an administrator";

/// Encryption, version, and that it is the primary.
pub(super) fn server(facts: &Facts, mode: SslMode, has_roots: bool) -> Vec<Item> {
    let encryption = match &facts.encryption {
        None => Item::warn("tls", format!("the connection is not encrypted (ssl_mode = {:?}); use \"verify-full\"", mode.as_str())),
        Some(met) if mode >= SslMode::VerifyCa || mode == SslMode::Require && has_roots => Item::ok("tls", format!("{met} ({mode})")),
        Some(met) => {
            Item::warn("tls", format!("{met}, but with ssl_mode = {:?} whoever answers is believed; use \"verify-full\"", mode.as_str()))
        }
    };
    let version = if facts.version >= OLDEST {
        Item::ok("version", format!("PostgreSQL {}", facts.version_text))
    } else {
        Item::fail("version", format!("PostgreSQL {}; expected 14 or newer", facts.version_text))
    };
    let primary = if facts.standby {
        Item::fail("primary", "the server is a standby and takes no changes; name the primary as hostname of the integration")
    } else {
        Item::ok("primary", "takes changes")
    };
    vec![encryption, version, primary]
}

/// The connector's own rights.
pub(super) fn rights(facts: &Facts) -> Vec<Item> {
    let login = ident(&facts.login);
    let superuser = if facts.superuser {
        Item::warn("superuser", format!("{} is a superuser and could do more than Postern needs", facts.login))
            .mend("-- as another superuser; then run check again, it says what is missing")
            .mend(format!("ALTER ROLE {login} NOSUPERUSER CREATEROLE;"))
    } else {
        Item::ok("superuser", format!("{} is none", facts.login))
    };
    let createrole = if facts.createrole || facts.superuser {
        Item::ok("createrole", format!("{} may make roles", facts.login))
    } else {
        Item::fail("createrole", format!("{} may not make roles (CREATEROLE)", facts.login))
            .mend(AS_ADMIN)
            .mend(format!("ALTER ROLE {login} CREATEROLE;"))
    };
    vec![
        superuser,
        createrole,
        owner(facts),
        predefined(facts, facts.ends_sessions, "terminate", "pg_signal_backend", "end other people's sessions"),
        predefined(facts, facts.sees_sessions, "activity", "pg_read_all_stats", "see when other people's sessions began"),
    ]
}

fn predefined(facts: &Facts, has: bool, item: &str, role: &str, what: &str) -> Item {
    if has {
        return Item::ok(item, format!("{} may {what}", facts.login));
    }
    Item::fail(item, format!("{} may not {what}, so that a revoke cannot prove that they are gone: it lacks {role}", facts.login))
        .mend(AS_ADMIN)
        .mend(format!("GRANT {role} TO {};", ident(&facts.login)))
}

/// The role that owns everything of ours.
fn owner(facts: &Facts) -> Item {
    let Some(owner) = &facts.owner else {
        return Item::ok("owner", format!("{OWNER} is not there yet; the first event makes it"));
    };
    if !(facts.superuser || owner.sets && owner.inherits) {
        let message = format!("{} is not a member of {OWNER}, which owns everything that Postern made on this server", facts.login);
        return Item::fail("owner", message).mend(givers(owner)).mend(format!("{};", join_owner(facts)));
    }
    if !owner.createrole {
        return Item::fail("owner", format!("{OWNER} may not make roles (CREATEROLE)"))
            .mend(AS_ADMIN)
            .mend(format!("ALTER ROLE {} CREATEROLE;", ident(OWNER)));
    }
    Item::ok("owner", format!("{} is a member of {OWNER}", facts.login))
}

/// From 16 on only who has ADMIN OPTION may give a membership; an administrator need not.
fn givers(owner: &Owner) -> String {
    if owner.admins.is_empty() {
        return "-- as a superuser".to_owned();
    }
    format!("-- as a superuser, or as {}", owner.admins.iter().map(|name| ident(name)).collect::<Vec<_>>().join(" or "))
}

fn join_owner(facts: &Facts) -> String {
    let options = if facts.has_membership_options() { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    format!("GRANT {} TO {}{options}", ident(OWNER), ident(&facts.login))
}

/// The ledger's schema: made, or ready to be made. `found`: its identity and version, if it could be read.
pub(super) fn ledger(facts: &Facts, found: Option<(Uuid, i32)>) -> Item {
    let own = format!("ALTER SCHEMA postern OWNER TO {};", ident(OWNER));
    match &facts.schema_owner {
        Some(met) if met != OWNER => {
            let item = Item::fail("ledger", format!("schema postern belongs to {met}, not to {OWNER}"))
                .mend(format!("-- as a superuser, in database {}", ident(&facts.database)));
            let item = if facts.owner.is_some() {
                item
            } else {
                item.mend(format!("CREATE ROLE {} NOLOGIN CREATEROLE;", ident(OWNER))).mend(format!("{};", join_owner(facts)))
            };
            return item.mend(own);
        }
        _ => {}
    }
    if !facts.has_ledger {
        if facts.creates_schemas {
            return Item::ok("ledger", format!("not there yet; the first event makes it in database {}", facts.database));
        }
        return Item::fail("ledger", format!("{} may not make the schema postern in database {}", facts.login, facts.database))
            .mend("-- as the database's owner")
            .mend(format!("GRANT CREATE ON DATABASE {} TO {};", ident(&facts.database), ident(&facts.login)));
    }
    let known = ledger::known_version();
    match found {
        Some((_, met)) if met > known => {
            Item::fail("ledger", format!("it has schema version {met}, this version of Postern knows {known}; run a newer one"))
        }
        Some((id, met)) if met < known => Item::ok("ledger", format!("{id}, schema version {met}; the next worker brings it to {known}")),
        Some((id, met)) => Item::ok("ledger", format!("{id}, schema version {met}")),
        None => Item::fail("ledger", format!("it is there, but {} cannot read it; see owner", facts.login)),
    }
}

/// Other ledgers on the server: roles are cluster-wide, so two can get in each other's way.
pub(super) fn others(facts: &Facts, others: &[String], found: bool) -> Option<Item> {
    if others.is_empty() || !found && facts.has_ledger {
        return None;
    }
    let message = format!(
        "roles on this server belong to another ledger ({}): another Postern, or an integration with another `database`; \
         who has an account there is refused here (role_not_managed)",
        others.join(", ")
    );
    Some(Item::warn("other ledgers", message))
}

/// A role that policy lists.
pub(super) fn role(facts: &Facts, role: &Named) -> Item {
    let item = format!("role {}", role.name);
    let hand_on = format!("GRANT {} TO {} WITH ADMIN OPTION;", ident(&role.name), ident(&facts.login));
    if !role.there {
        let item = Item::fail(item, "the policy lists it, but it does not exist")
            .mend("-- as an administrator, or take it out of the policy's roles")
            .mend(format!("CREATE ROLE {} NOLOGIN;", ident(&role.name)));
        return if facts.has_membership_options() { item.mend(hand_on) } else { item };
    }
    // Up to 15 CREATEROLE hands on any role but a superuser's.
    if role.usable || facts.superuser || !facts.has_membership_options() {
        return Item::ok(item, format!("{} may hand it on", facts.login));
    }
    Item::fail(item, format!("{} may not hand it on: it lacks ADMIN OPTION", facts.login)).mend(AS_ADMIN).mend(hand_on)
}

/// A database that may be granted. What policy does not list by name is only a warning.
pub(super) fn database(facts: &Facts, database: &Named, listed: bool) -> Item {
    let item = format!("database {}", database.name);
    let (name, login) = (ident(&database.name), ident(&facts.login));
    let found = if !database.there {
        Item::fail(item, "the policy lists it, but it does not exist or takes no connections")
            .mend("-- as an administrator, or take it out of the policy's databases")
            .mend(format!("CREATE DATABASE {name};"))
    } else if !database.usable {
        Item::fail(item, format!("{} may not connect to it", facts.login))
            .mend("-- as the database's owner")
            .mend(format!("GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {login} WITH GRANT OPTION;"))
    } else if !database.open {
        Item::fail(item, format!("{} may not let others connect to it: it lacks the grant option", facts.login))
            .mend("-- as the database's owner")
            .mend(format!("GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {login} WITH GRANT OPTION;"))
    } else {
        Item::ok(item, format!("{} may connect and let others in", facts.login))
    };
    if found.status == Status::Fail && !listed { Item { status: Status::Warn, ..found } } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connector with all it needs, before its first event.
    fn facts() -> Facts {
        Facts {
            version: 160_004,
            login: "the \"gate\"".to_owned(),
            database: "postgres".to_owned(),
            createrole: true,
            ends_sessions: true,
            sees_sessions: true,
            creates_schemas: true,
            ..Facts::default()
        }
    }

    fn failing(items: Vec<Item>) -> Vec<(String, Vec<String>)> {
        items.into_iter().filter(|item| item.status == Status::Fail).map(|item| (item.item, item.mend)).collect()
    }

    fn owned(sets: bool, inherits: bool) -> Facts {
        let owner = Owner { createrole: true, sets, inherits, admins: vec!["old".to_owned()] };
        Facts { owner: Some(owner), schema_owner: Some(OWNER.to_owned()), has_ledger: true, ..facts() }
    }

    #[test]
    fn a_bootstrapped_connector_lacks_nothing() {
        assert_eq!(failing(rights(&facts())), []);
        assert_eq!(ledger(&facts(), None).status, Status::Ok);
        assert_eq!(failing(rights(&owned(true, true))), []);
        assert_eq!(ledger(&owned(true, true), Some((Uuid::nil(), 1))).status, Status::Ok);
    }

    #[test]
    fn names_in_statements_are_quoted() {
        let facts = Facts { createrole: false, ends_sessions: false, sees_sessions: false, ..facts() };
        let statements: Vec<String> = failing(rights(&facts)).into_iter().filter_map(|(_, mend)| mend.last().cloned()).collect();
        assert_eq!(
            statements,
            [
                r#"ALTER ROLE "the ""gate""" CREATEROLE;"#,
                r#"GRANT pg_signal_backend TO "the ""gate""";"#,
                r#"GRANT pg_read_all_stats TO "the ""gate""";"#
            ]
        );
    }

    #[test]
    fn a_replaced_connector_needs_one_membership() {
        for facts in [owned(false, false), owned(true, false), owned(false, true)] {
            let [(item, mend)] = failing(rights(&facts)).try_into().unwrap();
            assert_eq!(item, "owner");
            assert_eq!(
                mend,
                ["-- as a superuser, or as \"old\"", r#"GRANT "postern_owner" TO "the ""gate""" WITH INHERIT TRUE, SET TRUE;"#]
            );
        }
        let older = Facts { version: 150_000, ..owned(false, false) };
        assert_eq!(failing(rights(&older))[0].1[1], r#"GRANT "postern_owner" TO "the ""gate""";"#);
    }

    #[test]
    fn a_ledger_that_cannot_be_made_or_read_fails() {
        let unmade = ledger(&Facts { creates_schemas: false, ..facts() }, None);
        assert_eq!(unmade.mend[1], r#"GRANT CREATE ON DATABASE "postgres" TO "the ""gate""";"#);
        let foreign = ledger(&Facts { schema_owner: Some("dba".to_owned()), ..facts() }, None);
        assert_eq!(foreign.mend.len(), 4);
        assert_eq!(ledger(&owned(true, true), Some((Uuid::nil(), 99))).status, Status::Fail);
        assert_eq!(ledger(&owned(false, false), None).status, Status::Fail);
    }

    #[test]
    fn roles_are_handed_on_with_admin_option_from_16_on() {
        let reporting = Named { name: "reporting".to_owned(), there: true, usable: false, open: true };
        assert_eq!(role(&facts(), &reporting).mend[1], r#"GRANT "reporting" TO "the ""gate""" WITH ADMIN OPTION;"#);
        assert_eq!(role(&Facts { version: 150_000, ..facts() }, &reporting).status, Status::Ok);
        assert_eq!(role(&facts(), &Named { there: false, ..reporting }).status, Status::Fail);
    }

    #[test]
    fn a_closed_database_fails_only_where_policy_lists_it() {
        let closed = Named { name: "orders".to_owned(), there: true, usable: false, open: false };
        assert_eq!(database(&facts(), &closed, true).status, Status::Fail);
        assert_eq!(database(&facts(), &closed, false).status, Status::Warn);
        assert_eq!(database(&facts(), &Named { usable: true, open: true, ..closed }, true).status, Status::Ok);
    }

    #[test]
    fn only_a_verified_connection_is_without_a_warning() {
        let status = |encryption: Option<&str>, mode, roots| {
            server(&Facts { encryption: encryption.map(Into::into), ..facts() }, mode, roots)[0].status
        };
        assert_eq!(status(Some("TLSv1.3"), SslMode::VerifyFull, false), Status::Ok);
        assert_eq!(status(Some("TLSv1.3"), SslMode::Require, true), Status::Ok);
        assert_eq!(status(Some("TLSv1.3"), SslMode::Require, false), Status::Warn);
        assert_eq!(status(None, SslMode::Disable, false), Status::Warn);
    }
}
