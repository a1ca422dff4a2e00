//! Facts as items: what is missing, and the statement that gives it.

use uuid::Uuid;

use super::databases::Wanted;
use super::facts::{Database, Facts, Owner};
use super::item::{Item, Status};
use crate::access::policy::forbidden;
use crate::access::state::RoleFacts;
use crate::config::Platform;
use crate::postgres::ledger::{self, OWNER};
use crate::postgres::names::ident;

/// Who runs most of what is printed.
pub(super) const AS_ADMIN: &str = "-- as an administrator";

/// The connector's own rights.
pub(super) fn rights(facts: &Facts, platform: Platform) -> Vec<Item> {
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
    let mut items = vec![superuser, createrole, owner(facts)];
    for (has, item, role, what) in [
        (facts.ends_sessions, "terminate", "pg_signal_backend", "end other people's sessions"),
        (facts.sees_sessions, "activity", "pg_read_all_stats", "see when other people's sessions began"),
    ] {
        let found = predefined(facts, has, item, role, what);
        // On a server of one's own the bootstrap gives these to the connector itself.
        items.push(if platform == Platform::Postgresql { found } else { facts.with_admin_role(found) });
    }
    items
}

/// Membership in the platform's admin role, where something is missing that comes with it. `found`: everything else.
pub(super) fn admin_role(facts: &Facts, found: &[Item]) -> Option<Item> {
    let waits = |item: &Item| item.status != Status::Ok && item.message.ends_with(&facts.comes_with());
    if !facts.lacks_admin_role() || !found.iter().any(waits) {
        return None;
    }
    let (role, login) = (facts.admin_role, &facts.login);
    let item = Item::fail("admin role", format!("{login} does not have the rights of {role}, which holds what the bootstrap gave"));
    Some(item.mend(format!("-- as an administrator who has ADMIN OPTION on {role}")).mend(join(facts, role, facts.joined_admin)))
}

/// Membership with the role's rights. `joined`: there is one, without them.
fn join(facts: &Facts, role: &str, joined: bool) -> String {
    let (role, login) = (ident(role), ident(&facts.login));
    match facts.has_membership_options() {
        true => format!("GRANT {role} TO {login} WITH INHERIT TRUE;"),
        false if joined && !facts.inherits => format!("ALTER ROLE {login} INHERIT;"),
        false => format!("GRANT {role} TO {login};"),
    }
}

impl Facts {
    /// How an item ends that is mended by the admin role.
    fn comes_with(&self) -> String {
        format!("; it comes with {}", self.admin_role)
    }

    /// What the admin role would give needs no statement of its own while the connector lacks that role.
    pub(super) fn with_admin_role(&self, mut item: Item) -> Item {
        if self.lacks_admin_role() && item.status != Status::Ok {
            item.message += &self.comes_with();
            item.mend.clear();
        }
        item
    }
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
        if owner.sets && !facts.has_membership_options() {
            return Item::fail("owner", message).mend(AS_ADMIN).mend(format!("ALTER ROLE {} INHERIT;", ident(&facts.login)));
        }
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
        let unmade = Item::fail("ledger", format!("{} may not make the schema postern in database {}", facts.login, facts.database))
            .mend(format!("-- in database {}, as {}", ident(&facts.database), ident(&facts.database_owner)))
            .mend(format!("GRANT CREATE ON DATABASE {} TO {};", ident(&facts.database), ident(facts.holder())));
        return facts.with_admin_role(unmade);
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

/// The ledger's row of facts is gone. `id`: what its roles say that it was.
pub(super) fn lost_facts(facts: &Facts, id: Option<Uuid>) -> Item {
    let item = Item::fail("ledger", "its row in postern.fact is gone, and with it the ledger's identity: no event can be carried out")
        .mend(format!("-- as {}, in database {}", ident(&facts.login), facts.database));
    match id {
        Some(id) => item.mend(format!(
            "INSERT INTO postern.fact (ledger_id, schema_version, pruned_to) VALUES ('{id}', {}, now());",
            ledger::known_version()
        )),
        None => {
            item.mend("-- no role of the ledger is left to tell who it was: DROP SCHEMA postern CASCADE, the next event makes a new one")
        }
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
    let restore =
        "-- if that ledger was lost: restore its schema from a backup, in its database, and run a clean-up; see docs/operations.md";
    let item = Item::warn("other ledgers", message).mend(restore);
    Some(item.mend(format!("-- pg_restore --dbname {} --schema postern BACKUP", facts.database)))
}

/// A role that policy lists. `met`: what is known of it, if it is there.
pub(super) fn role(facts: &Facts, name: &str, met: Option<&RoleFacts>) -> Item {
    let item = format!("role {name}");
    let hand_on = format!("GRANT {} TO {} WITH ADMIN OPTION;", ident(name), ident(&facts.login));
    let Some(met) = met else {
        let item = Item::fail(item, "the policy lists it, but it does not exist")
            .mend("-- as an administrator, or take it out of the policy's roles")
            .mend(format!("CREATE ROLE {} NOLOGIN;", ident(name)));
        return if facts.has_membership_options() { item.mend(hand_on) } else { item };
    };
    if let Some((link, why)) = forbidden(met) {
        let message = format!("the policy lists it, but it is never handed out: {} {why}; take it out of the policy's roles", link.name);
        let item = Item::fail(item, message);
        return if link.name == name {
            item
        } else {
            item.mend("-- or, by who gave it").mend(format!("REVOKE {} FROM {};", ident(&link.name), ident(name)))
        };
    }
    if met.can_hand_on || facts.superuser {
        return Item::ok(item, format!("{} may hand it on", facts.login));
    }
    Item::fail(item, format!("{} may not hand it on: it lacks ADMIN OPTION", facts.login)).mend(AS_ADMIN).mend(hand_on)
}

/// A database that may be granted, if it cannot be looked at from inside. What policy does not list by name is only a
/// warning.
pub(super) fn closed_database(facts: &Facts, database: &Database, wanted: &Wanted, listed: bool) -> Option<Item> {
    let item = format!("database {}", database.name);
    let name = ident(&database.name);
    let found = if !database.there {
        Item::fail(item, "the policy lists it, but it does not exist or takes no connections")
            .mend("-- as an administrator, or take it out of the policy's databases")
            .mend(format!("CREATE DATABASE {name};"))
    } else if !database.usable {
        let all = wanted.of_database();
        let given = format!("GRANT {all} ON DATABASE {name} TO {} WITH GRANT OPTION;", ident(facts.holder()));
        let found = Item::fail(item, format!("{} may not connect to it, so what is in it was not looked at", facts.login))
            .mend(format!("-- as {}, and then check again", ident(&database.owner)))
            .mend(given);
        facts.with_admin_role(found)
    } else {
        return None;
    };
    Some(if listed { found } else { Item { status: Status::Warn, ..found } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::state::RoleLink;
    use postern_schemas::permission::Access;

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
        assert_eq!(failing(rights(&facts(), Platform::Postgresql)), []);
        assert_eq!(ledger(&facts(), None).status, Status::Ok);
        assert_eq!(failing(rights(&owned(true, true), Platform::Postgresql)), []);
        assert_eq!(ledger(&owned(true, true), Some((Uuid::nil(), 1))).status, Status::Ok);
    }

    #[test]
    fn names_in_statements_are_quoted() {
        let facts = Facts { createrole: false, ends_sessions: false, sees_sessions: false, ..facts() };
        let statements: Vec<String> =
            failing(rights(&facts, Platform::Postgresql)).into_iter().filter_map(|(_, mend)| mend.last().cloned()).collect();
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
            let [(item, mend)] = failing(rights(&facts, Platform::Postgresql)).try_into().unwrap();
            assert_eq!(item, "owner");
            assert_eq!(
                mend,
                ["-- as a superuser, or as \"old\"", r#"GRANT "postern_owner" TO "the ""gate""" WITH INHERIT TRUE, SET TRUE;"#]
            );
        }
        let older = Facts { version: 150_000, ..owned(false, false) };
        assert_eq!(failing(rights(&older, Platform::Postgresql))[0].1[1], r#"GRANT "postern_owner" TO "the ""gate""";"#);
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
    fn roles_are_handed_on_with_admin_option() {
        let met = |can_hand_on, name: &str| {
            let link =
                RoleLink { name: name.to_owned(), superuser: false, createrole: false, replication: false, bypassrls: false, ours: false };
            RoleFacts { chain: vec![link], can_hand_on, pass: false }
        };
        let cannot = role(&facts(), "reporting", Some(&met(false, "reporting")));
        assert_eq!(cannot.mend[1], r#"GRANT "reporting" TO "the ""gate""" WITH ADMIN OPTION;"#);
        assert_eq!(role(&facts(), "reporting", Some(&met(true, "reporting"))).status, Status::Ok);
        assert_eq!(role(&facts(), "reporting", None).status, Status::Fail);
        let through = role(&facts(), "reporting", Some(&met(true, "pg_write_all_data")));
        assert_eq!((through.status, through.mend[1].as_str()), (Status::Fail, r#"REVOKE "pg_write_all_data" FROM "reporting";"#));
    }

    #[test]
    fn what_comes_with_the_admin_role_is_mended_once() {
        let facts = Facts { has_admin_role: true, admin_role: "azure_pg_admin", ends_sessions: false, sees_sessions: false, ..facts() };
        let items = rights(&facts, Platform::Azure);
        let mends: usize = items.iter().map(|item| item.mend.len()).sum();
        assert_eq!((mends, failing(items.clone()).len()), (0, 2));
        let membership = admin_role(&facts, &items).map(|item| item.mend[1].clone());
        assert_eq!(membership.as_deref(), Some(r#"GRANT "azure_pg_admin" TO "the ""gate""" WITH INHERIT TRUE;"#));
        // On a server of one's own the connector has these itself, and who lacks nothing needs no membership.
        let own = rights(&facts, Platform::Postgresql);
        assert_eq!((failing(own.clone()).len(), admin_role(&facts, &own)), (2, None));
        let older = Facts { version: 150_000, joined_admin: true, inherits: false, ..facts };
        assert_eq!(
            admin_role(&older, &rights(&older, Platform::Azure)).map(|item| item.mend[1].clone()),
            Some(r#"ALTER ROLE "the ""gate""" INHERIT;"#.to_owned())
        );
    }

    #[test]
    fn a_closed_database_fails_only_where_policy_lists_it() {
        let closed = Database { name: "orders".to_owned(), owner: "dba".to_owned(), there: true, usable: false, prepared: false };
        let wanted = Wanted::of(&[Access::ReadOnly].into(), &facts());
        let status = |database: &Database, listed| closed_database(&facts(), database, &wanted, listed).map(|item| item.status);
        assert_eq!(status(&closed, true), Some(Status::Fail));
        assert_eq!(status(&closed, false), Some(Status::Warn));
        assert_eq!(status(&Database { usable: true, ..closed }, true), None);
    }
}
