//! Properties of the pure rules, over any events in any order.

use proptest::prelude::*;

use super::plan::Decision;
use super::world::{Ask, FORBIDDEN_ROLE, Hand, World, at, mentions, role};

const NOW: i64 = 1000;

fn ask() -> impl Strategy<Value = Ask> {
    let what = prop::collection::vec(0_u8..5, 1..4);
    let grant = (0_u8..3, 1_i32..4, NOW - 100..NOW, prop::option::of(NOW - 50..NOW + 100), what, any::<bool>()).prop_map(
        |(id, revision, asked, expires, what, age)| {
            // Two events of one revision are one grant twice: that is what a revision means.
            let what = what.into_iter().map(|w| (w + u8::try_from(revision).unwrap_or(0)) % 5).collect();
            Ask::Grant { id, revision, asked, expires, what, age }
        },
    );
    prop_oneof![
        4 => grant,
        1 => (0_u8..3).prop_map(|id| Ask::RevokeGrant { id }),
        1 => (NOW - 100..NOW + 5000).prop_map(|until| Ask::RevokePerson { until }),
        1 => (0_u8..3, 1_i32..4).prop_map(|(id, revision)| Ask::Expiry { id, revision }),
        1 => (NOW - 100..NOW).prop_map(|asked| Ask::Rotate { asked }),
        1 => Just(Ask::Repair),
    ]
}

/// Events whose every revision is one body: as a producer sends them.
fn history() -> impl Strategy<Value = Vec<Ask>> {
    prop::collection::vec(ask(), 1..12).prop_map(|asks| {
        let mut seen = std::collections::BTreeSet::new();
        asks.into_iter()
            .filter(|ask| match ask {
                Ask::Grant { id, revision, .. } => seen.insert((*id, *revision)),
                _ => true,
            })
            .collect()
    })
}

/// What somebody may do to a role by hand.
fn hand() -> impl Strategy<Value = Hand> {
    let member_of = prop::collection::vec(prop::sample::select(vec!["hers", "reporting", FORBIDDEN_ROLE]), 0..3);
    (any::<bool>(), member_of, any::<bool>(), prop::option::of(NOW - 50..NOW + 200), any::<bool>()).prop_map(
        |(login, joins, leaves, until, createrole)| Hand {
            login,
            joins: joins.into_iter().map(ToOwned::to_owned).collect(),
            leaves,
            until,
            createrole,
        },
    )
}

/// Every permutation, by Heap's algorithm.
fn permutations(items: &[Ask]) -> Vec<Vec<Ask>> {
    fn heap(k: usize, items: &mut Vec<Ask>, out: &mut Vec<Vec<Ask>>) {
        if k <= 1 {
            out.push(items.clone());
            return;
        }
        for i in 0..k {
            heap(k - 1, items, out);
            let j = if k.is_multiple_of(2) { i } else { 0 };
            items.swap(j, k - 1);
        }
    }
    let mut out = Vec::new();
    heap(items.len(), &mut items.to_vec(), &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Applying an event twice is applying it once: the second plan takes and gives nothing.
    #[test]
    fn twice_is_once(asks in history()) {
        let mut world = World::new(NOW);
        for ask in &asks {
            world.carry_out(ask);
            let before = world.clone();
            if let Some(again) = world.carry_out(ask) {
                let rotation = matches!(ask, Ask::Rotate { .. });
                prop_assert!(rotation || !again.end_sessions, "{ask:?} ended sessions twice");
            }
            prop_assert_eq!(before.visible(), world.visible());
        }
    }

    /// The catalog is what the active grants call for, after every event.
    #[test]
    fn the_catalog_is_what_the_ledger_says(asks in history()) {
        let mut world = World::new(NOW);
        for ask in &asks {
            world.carry_out(ask);
            // Those that are over but not yet ended by their expiry give nothing.
            let mut in_force = world.clone();
            in_force.active.retain(|_, row| !row.is_over(world.now));
            prop_assert!(world.member_of.is_subset(&world.called_for()));
            prop_assert!(in_force.called_for().is_subset(&world.member_of), "{:?}", world);
            prop_assert_eq!(world.role.as_ref().is_some_and(|r| r.can_login), !in_force.active.is_empty());
        }
    }

    /// A forbidden role is in no plan and was never granted, whatever event and policy say.
    #[test]
    fn no_plan_mentions_a_forbidden_role(asks in history()) {
        let mut world = World::new(NOW);
        for ask in &asks {
            if let Some(plan) = world.carry_out(ask) {
                prop_assert!(!mentions(&plan, FORBIDDEN_ROLE), "{plan:?}");
            }
        }
        prop_assert!(!world.ever_granted.contains(FORBIDDEN_ROLE));
    }

    /// A role that ledger and comment do not both claim is in no plan.
    #[test]
    fn what_is_not_ours_is_not_touched(asks in history(), claimed in any::<bool>(), marked in any::<bool>()) {
        prop_assume!(!(claimed && marked));
        let mut world = World::new(NOW);
        let comment = marked.then(|| super::state::comment_prefix(uuid::Uuid::nil()) + "jane");
        let oid = if claimed { 42 } else { 43 };
        world.role = Some(role(oid, comment, false));
        world.account.role_oid = Some(42);
        world.member_of.insert("hers".to_owned());
        let (role, member_of) = (world.role.clone(), world.member_of.clone());
        for ask in &asks {
            world.carry_out(ask);
        }
        prop_assert_eq!(role, world.role);
        prop_assert_eq!(member_of, world.member_of);
    }

    /// What somebody took away by hand stays away until a grant event for that person.
    #[test]
    fn repair_only_removes(asks in history(), more in history()) {
        let mut world = World::new(NOW);
        for ask in &asks { world.carry_out(ask); }
        world.member_of.clear();
        if let Some(role) = &mut world.role { role.can_login = false; }
        for ask in more.iter().filter(|ask| !matches!(ask, Ask::Grant { .. })) {
            world.carry_out(ask);
        }
        prop_assert!(world.member_of.is_empty());
        prop_assert!(world.role.is_none_or(|role| !role.can_login));
    }

    /// Whatever was changed by hand, a repair leaves the person with no more than before, and with nothing that the ledger
    /// does not explain. A second one finds nothing more to take.
    #[test]
    fn a_repair_takes_and_gives_nothing(asks in history(), hand in hand()) {
        let mut world = World::new(NOW);
        for ask in &asks { world.carry_out(ask); }
        world.tamper(&hand);
        let before = world.clone();
        let Some(plan) = world.carry_out(&Ask::Repair) else { panic!("a repair always says something") };
        prop_assert!(world.member_of.is_subset(&before.member_of));
        prop_assert!(world.member_of.is_subset(&world.called_for()), "{plan:?}");
        if let (Some(role), Some(was)) = (&world.role, &before.role) {
            prop_assert!(!role.can_login || was.can_login && world.active.values().any(|row| !row.is_over(world.now)));
            prop_assert!(role.added.is_empty());
            prop_assert!(was.added.is_empty() || plan.drift.iter().any(|drift| drift.kind == "attribute_added"));
        }
        prop_assert!(before.member_of == world.member_of || plan.end_sessions && !plan.drift.is_empty() || plan.drift.is_empty());
        let again = world.clone();
        world.carry_out(&Ask::Repair);
        prop_assert_eq!(again, world);
    }

    /// A role that a restored ledger has forgotten loses its access at the first look, and is the person's again at the
    /// next grant.
    #[test]
    fn a_forgotten_role_is_closed_and_taken_up_again(asks in history(), later in history()) {
        let mut world = World::new(NOW);
        for ask in &asks { world.carry_out(ask); }
        world.forget();
        world.role = Some(world.role.take().unwrap_or_else(|| role(43, Some("postern".to_owned()), true)));
        world.member_of.insert("hers".to_owned());
        let Some(plan) = world.carry_out(&Ask::Repair) else { panic!("a repair always says something") };
        prop_assert!(plan.drift.iter().any(|drift| drift.kind == "account_unknown"));
        prop_assert!(world.member_of.is_empty() && plan.end_sessions);
        prop_assert!(world.role.as_ref().is_some_and(|role| !role.can_login));
        prop_assert_eq!(world.account.role_oid, world.role.as_ref().map(|role| role.oid));
        for ask in &later { world.carry_out(ask); }
        prop_assert!(world.member_of.is_subset(&world.called_for()));
    }
}

/// Every order of {revision 1, wide revoke, revision 2, revoke by id, expiry, duplicate} ends equal, for every order in
/// which revisions and revoke were asked, and whether or not the revoke by id is among them.
#[test]
fn every_order_of_arrival_ends_equal() {
    let grant = |revision: i32, asked: i64, expires: Option<i64>| Ask::Grant {
        id: 0,
        revision,
        asked,
        expires,
        what: if revision == 1 { vec![0, 3] } else { vec![1] },
        age: true,
    };
    for (first, wide, second) in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (3, 1, 2), (2, 3, 1), (3, 2, 1), (1, 1, 2), (1, 2, 2)] {
        for expires in [None, Some(NOW - 1)] {
            for by_id in [false, true] {
                let one = grant(1, NOW - 10 + first, expires);
                let mut asks = vec![
                    one.clone(),
                    Ask::RevokePerson { until: NOW - 10 + wide },
                    grant(2, NOW - 10 + second, None),
                    Ask::Expiry { id: 0, revision: 1 },
                    one,
                ];
                if by_id {
                    asks.push(Ask::RevokeGrant { id: 0 });
                }
                let ends = permutations(&asks).into_iter().map(|order| {
                    let mut world = World::new(NOW);
                    for ask in &order {
                        world.carry_out(ask);
                    }
                    (world.visible(), order)
                });
                let mut ends = ends.collect::<Vec<_>>();
                let Some((expected, _)) = ends.pop() else { panic!("no order") };
                for (met, order) in ends {
                    assert_eq!(met, expected, "asked {first}/{wide}/{second}, arrived as {order:?}");
                }
            }
        }
    }
}

#[test]
fn an_early_expiry_waits_and_a_moot_one_says_nothing() {
    let mut world = World::new(NOW);
    world.carry_out(&Ask::Grant { id: 0, revision: 1, asked: NOW - 1, expires: Some(NOW + 5), what: vec![0], age: false });
    assert_eq!(world.decide(&Ask::Expiry { id: 0, revision: 1 }), Decision::NotYet(at(NOW + 5)));
    assert_eq!(world.decide(&Ask::Expiry { id: 0, revision: 2 }), Decision::Moot);
    world.now = at(NOW + 5);
    assert!(matches!(world.decide(&Ask::Expiry { id: 0, revision: 1 }), Decision::Do(plan) if plan.end_sessions));
}
