//! Placement by table, and its invariants over random states.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    NodeId, SourceName,
    state::{ControlState, Member, MemberStatus, Role, RoleChange, RoleCount, RoleWanted, Unreached},
};
use proptest::prelude::*;

use super::{DOMAIN_LABEL, plan};
use crate::state::fixture::member;

fn edge(source: &str) -> Role {
    Role::Edge(SourceName::new(source).unwrap())
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn wanted(count: RoleCount, pairs: &[(&str, &str)]) -> RoleWanted {
    RoleWanted { count, labels: labels(pairs) }
}

fn mesh(members: &[(u64, MemberStatus)]) -> ControlState {
    let draining = members.iter().filter(|(_, status)| *status == Draining).map(|(id, _)| NodeId(*id)).collect();
    let members = members.iter().map(|(id, status)| (NodeId(*id), Member { status: *status, ..member(*id) }));
    ControlState { members: members.collect(), draining, ..ControlState::default() }
}

fn hold(state: &mut ControlState, role: Role, nodes: &[u64]) {
    state.held.insert(role, nodes.iter().map(|n| NodeId(*n)).collect());
}

fn carry_out(state: &mut ControlState, changes: &[RoleChange]) {
    for change in changes {
        let holders = state.held.entry(change.role.clone()).or_default();
        let news = if change.held { holders.insert(change.node) } else { holders.remove(&change.node) };
        assert!(news, "{change:?} changes nothing");
    }
    state.held.retain(|_, holders| !holders.is_empty());
}

/// Who holds `role` after each plan, until nothing is left to plan.
fn steps(state: &ControlState, role: &Role) -> Vec<Vec<u64>> {
    let (mut state, mut steps) = (state.clone(), Vec::new());
    loop {
        let changes = plan(&state);
        if changes.is_empty() {
            return steps;
        }
        carry_out(&mut state, &changes);
        steps.push(state.held.get(role).map(|nodes| nodes.iter().map(|n| n.0).collect()).unwrap_or_default());
        assert!(steps.len() <= 2, "plans do not come to an end");
    }
}

/// Holders of `role` after the plan.
fn planned(state: &ControlState, role: &Role) -> Vec<u64> {
    let mut after = state.clone();
    carry_out(&mut after, &plan(state));
    after.held.get(role).map(|nodes| nodes.iter().map(|n| n.0).collect()).unwrap_or_default()
}

use MemberStatus::{Down, Draining, Up};
use RoleCount::{All, AtMost};

#[test]
fn all_means_everybody_who_is_up() {
    let mut state = mesh(&[(1, Up), (2, Down), (3, Draining), (4, Up)]);
    state.wanted.insert(Role::Coordinator, wanted(All, &[]));
    assert_eq!(planned(&state, &Role::Coordinator), [1, 4]);
    // The planner is where the coordinator is, wanted or not.
    assert_eq!(planned(&state, &Role::Planner), [1, 4]);
    state.wanted.insert(Role::Planner, wanted(AtMost(1), &[("site", "nowhere")]));
    assert_eq!(planned(&state, &Role::Planner), [1, 4]);
}

#[test]
fn spread_by_load_then_by_id() {
    let mut state = mesh(&[(1, Up), (2, Up), (3, Up)]);
    state.wanted.insert(edge("a"), wanted(AtMost(2), &[]));
    state.wanted.insert(edge("b"), wanted(AtMost(1), &[]));
    state.wanted.insert(edge("c"), wanted(AtMost(2), &[]));
    assert_eq!(planned(&state, &edge("a")), [1, 2]);
    assert_eq!(planned(&state, &edge("b")), [3]);
    assert_eq!(planned(&state, &edge("c")), [1, 2]);
}

#[test]
fn holders_stay_and_surplus_leaves_the_most_loaded() {
    let mut state = mesh(&[(1, Up), (2, Up), (3, Up)]);
    state.wanted.insert(edge("a"), wanted(AtMost(1), &[]));
    state.wanted.insert(edge("b"), wanted(AtMost(1), &[]));
    hold(&mut state, edge("a"), &[3]);
    hold(&mut state, edge("b"), &[3]);
    assert_eq!(plan(&state), [], "a balance is not worth a move");
    state.wanted.insert(edge("c"), wanted(AtMost(2), &[]));
    hold(&mut state, edge("c"), &[1, 2, 3]);
    assert_eq!(planned(&state, &edge("c")), [1, 2]);
}

#[test]
fn labels_decide_and_node_is_the_name() {
    let mut state = mesh(&[(1, Up), (2, Up), (3, Up)]);
    state.members.get_mut(&NodeId(2)).unwrap().labels = labels(&[("site", "a"), ("node", "n3")]);
    state.wanted.insert(edge("by_site"), wanted(AtMost(3), &[("site", "a")]));
    state.wanted.insert(edge("by_name"), wanted(AtMost(3), &[("node", "n3")]));
    state.wanted.insert(edge("nowhere"), wanted(AtMost(3), &[("site", "b")]));
    assert_eq!(planned(&state, &edge("by_site")), [2]);
    assert_eq!(planned(&state, &edge("by_name")), [3]);
    assert_eq!(planned(&state, &edge("nowhere")), [] as [u64; 0]);
    // A holder that lost the label loses the role.
    hold(&mut state, edge("by_site"), &[1, 2]);
    assert_eq!(planned(&state, &edge("by_site")), [2]);
}

#[test]
fn a_member_is_given_nothing_that_its_token_does_not_allow() {
    let mut state = mesh(&[(1, Up), (2, Up), (3, Up)]);
    let allow = |roles: &[&str]| Some(roles.iter().map(|role| role.parse().unwrap()).collect());
    state.members.get_mut(&NodeId(2)).unwrap().allowed = allow(&["edge:a"]);
    state.members.get_mut(&NodeId(3)).unwrap().allowed = allow(&["edge", "policy"]);
    for role in [Role::Coordinator, Role::Policy, edge("a"), edge("b")] {
        state.wanted.insert(role, wanted(All, &[]));
    }
    assert_eq!(planned(&state, &Role::Coordinator), [1]);
    assert_eq!(planned(&state, &Role::Planner), [1]);
    assert_eq!(planned(&state, &Role::Policy), [1, 3]);
    assert_eq!(planned(&state, &edge("a")), [1, 2, 3]);
    assert_eq!(planned(&state, &edge("b")), [1, 3]);
}

fn in_zones(state: &mut ControlState, zones: &[(u64, &str)]) {
    for (id, zone) in zones {
        state.members.get_mut(&NodeId(*id)).unwrap().labels.insert(DOMAIN_LABEL.to_owned(), (*zone).to_owned());
    }
}

fn bar(state: &mut ControlState, source: &str, nodes: &[u64]) {
    let entry = Unreached { since_unix_ms: 0, tries: 1, barred: true };
    let nodes = nodes.iter().map(|id| (NodeId(*id), entry)).collect();
    state.unreached.insert(SourceName::new(source).unwrap(), nodes);
}

#[test]
fn seats_are_spread_over_failure_domains_and_not_moved_for_it() {
    let mut state = mesh(&[(1, Up), (2, Up), (3, Up), (4, Up), (5, Up)]);
    in_zones(&mut state, &[(1, "a"), (2, "a"), (3, "b"), (4, "b")]);
    state.wanted.insert(Role::Policy, wanted(AtMost(3), &[]));
    assert_eq!(planned(&state, &Role::Policy), [1, 3, 5], "the fifth is a domain of its own");
    hold(&mut state, Role::Policy, &[1, 2, 3]);
    assert_eq!(plan(&state), [], "a better spread is not worth a move");
    state.wanted.insert(Role::Policy, wanted(AtMost(2), &[]));
    assert_eq!(planned(&state, &Role::Policy), [1, 3], "of a crowded domain one goes first");
    state.members.get_mut(&NodeId(1)).unwrap().status = Down;
    hold(&mut state, Role::Policy, &[1, 3]);
    assert_eq!(planned(&state, &Role::Policy), [2, 3]);
}

#[test]
fn an_edge_goes_to_who_reaches_its_source_if_there_is_one() {
    let mut state = mesh(&[(1, Up), (2, Up), (3, Down)]);
    state.wanted.insert(edge("a"), wanted(AtMost(1), &[]));
    state.wanted.insert(edge("b"), wanted(AtMost(1), &[]));
    hold(&mut state, edge("a"), &[1]);
    hold(&mut state, edge("b"), &[1]);
    bar(&mut state, "a", &[1]);
    assert_eq!(planned(&state, &edge("a")), [2]);
    assert_eq!(planned(&state, &edge("b")), [1], "of another source nothing was said");
    // Nobody reaches it: it stays where it is, and one of them has it at least.
    bar(&mut state, "a", &[1, 2]);
    assert_eq!(plan(&state), []);
    state.held.remove(&edge("a"));
    assert_eq!(planned(&state, &edge("a")), [2]);
    // Two seats: who cannot reach it keeps the seat that nobody else can take.
    state.wanted.insert(edge("a"), wanted(AtMost(2), &[]));
    hold(&mut state, edge("a"), &[1, 2]);
    bar(&mut state, "a", &[1]);
    assert_eq!(plan(&state), []);
    state.members.get_mut(&NodeId(3)).unwrap().status = Up;
    assert_eq!(planned(&state, &edge("a")), [2, 3]);
}

#[test]
fn a_seat_of_a_node_that_is_down_moves_where_it_can() {
    let mut state = mesh(&[(1, Down), (2, Up), (3, Up)]);
    state.wanted.insert(edge("a"), wanted(AtMost(1), &[]));
    hold(&mut state, edge("a"), &[1]);
    assert_eq!(planned(&state, &edge("a")), [2]);
    // Back again, it does not take the role back.
    let changes = plan(&state);
    carry_out(&mut state, &changes);
    state.members.get_mut(&NodeId(1)).unwrap().status = Up;
    assert_eq!(plan(&state), []);
    // Nobody else fits: the role waits for its node.
    let mut alone = mesh(&[(1, Down), (2, Up)]);
    alone.wanted.insert(edge("a"), wanted(AtMost(1), &[("node", "n1")]));
    hold(&mut alone, edge("a"), &[1]);
    assert_eq!(plan(&alone), []);
    // Three seats, two nodes up: the third seat waits for its holder.
    let mut three = mesh(&[(1, Up), (2, Up), (3, Down)]);
    three.wanted.insert(Role::Policy, wanted(AtMost(3), &[]));
    hold(&mut three, Role::Policy, &[1, 2, 3]);
    assert_eq!(plan(&three), []);
}

#[test]
fn who_drains_gives_its_roles_away_once_another_holds_them() {
    let mut state = mesh(&[(1, Draining), (2, Up), (3, Up)]);
    state.wanted.insert(edge("a"), wanted(AtMost(1), &[]));
    state.wanted.insert(edge("b"), wanted(AtMost(2), &[]));
    state.wanted.insert(edge("c"), wanted(AtMost(1), &[("node", "n1")]));
    state.wanted.insert(Role::Coordinator, wanted(All, &[]));
    hold(&mut state, edge("a"), &[1]);
    hold(&mut state, edge("b"), &[1, 2]);
    hold(&mut state, edge("c"), &[1]);
    hold(&mut state, Role::Coordinator, &[1, 2, 3]);
    hold(&mut state, Role::Planner, &[1, 2, 3]);
    assert_eq!(steps(&state, &edge("a")), [vec![1, 3], vec![3]]);
    assert_eq!(steps(&state, &edge("b")), [vec![1, 2, 3], vec![2, 3]]);
    // Nobody else could ever hold it, and others hold these already.
    assert_eq!(steps(&state, &edge("c")), [vec![], vec![]] as [Vec<u64>; 2]);
    assert_eq!(steps(&state, &Role::Coordinator)[0], [2, 3]);
    assert_eq!(steps(&state, &Role::Planner)[0], [2, 3]);
}

#[test]
fn who_drains_keeps_what_others_cannot_take_yet_and_is_given_nothing() {
    let mut state = mesh(&[(1, Draining), (2, Down)]);
    state.wanted.insert(edge("a"), wanted(AtMost(1), &[]));
    state.wanted.insert(edge("b"), wanted(AtMost(1), &[]));
    hold(&mut state, edge("a"), &[1]);
    assert_eq!(plan(&state), [], "the other is down");
    state.members.get_mut(&NodeId(2)).unwrap().status = Up;
    assert_eq!(steps(&state, &edge("a")), [[1, 2].to_vec(), vec![2]]);
    // Down while it drains, it is no better than up: it keeps nothing that another holds.
    let mut state = mesh(&[(1, Down), (2, Up)]);
    state.draining.insert(NodeId(1));
    state.wanted.insert(Role::Coordinator, wanted(All, &[]));
    hold(&mut state, Role::Coordinator, &[1, 2]);
    hold(&mut state, Role::Planner, &[1, 2]);
    assert_eq!(steps(&state, &Role::Coordinator), [[2]]);
    // Taken back, it may hold roles again.
    state.draining.clear();
    state.members.get_mut(&NodeId(1)).unwrap().status = Up;
    hold(&mut state, Role::Coordinator, &[2]);
    assert_eq!(planned(&state, &Role::Coordinator), [1, 2]);
}

#[test]
fn what_is_not_wanted_is_released() {
    let mut state = mesh(&[(1, Up)]);
    hold(&mut state, edge("a"), &[1]);
    hold(&mut state, Role::Planner, &[1, 9]);
    assert_eq!(planned(&state, &edge("a")), [] as [u64; 0]);
    assert_eq!(planned(&state, &Role::Planner), [] as [u64; 0]);
}

fn any_state() -> impl Strategy<Value = ControlState> {
    let role = prop_oneof![
        Just(Role::Coordinator),
        Just(Role::Planner),
        Just(Role::Policy),
        Just(edge("a")),
        Just(edge("b")),
        Just(edge("c")),
    ];
    let status = prop_oneof![3 => Just(Up), 1 => Just(Down), 1 => Just(Draining)];
    let label = prop::option::of(prop_oneof![Just("a".to_owned()), Just("b".to_owned())]);
    let count = prop_oneof![Just(All), (0u32..4).prop_map(AtMost)];
    let members = prop::collection::btree_map(1u64..9, (status, any::<bool>(), label.clone()), 0..8);
    let wanted = prop::collection::btree_map(role.clone(), (count, label), 0..6);
    let held = prop::collection::btree_map(role, prop::collection::btree_set(1u64..9, 1..5), 0..6);
    (members, wanted, held).prop_map(|(members, wanted, held)| {
        let site = |label: Option<String>| label.map(|l| ("site".to_owned(), l)).into_iter().collect();
        // Some of those that are down are to drain when they are back.
        let drains = |status: MemberStatus, when_back: bool| status == Draining || (status == Down && when_back);
        let draining = members.iter().filter(|(_, (status, when_back, _))| drains(*status, *when_back));
        let draining = draining.map(|(id, _)| NodeId(*id)).collect();
        let members = members
            .into_iter()
            .map(|(id, (status, _, label))| (NodeId(id), Member { status, labels: site(label), ..member(id) }));
        let wanted = wanted.into_iter().map(|(role, (count, l))| (role, RoleWanted { count, labels: site(l) }));
        let held = held.into_iter().map(|(role, nodes)| (role, nodes.into_iter().map(NodeId).collect()));
        ControlState {
            members: members.collect(),
            wanted: wanted.collect(),
            held: held.collect(),
            draining,
            ..ControlState::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_plan_is_final_bounded_and_fits(state in any_state()) {
        let mut after = state.clone();
        carry_out(&mut after, &plan(&state));
        // A role is taken from one that drains only where others hold it, or nobody who stays could.
        for (role, holders) in &state.held {
            let Some(wanted) = state.wanted.get(role).filter(|wanted| wanted.count != AtMost(0)) else { continue };
            let fits = |m: &&Member| wanted.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v));
            let could = state.members.values().filter(fits).any(|m| !state.draining.contains(&m.id));
            let drained = holders.iter().any(|n| state.draining.contains(n) && !after.holds(*n, role)
                && state.member(*n).as_ref().is_some_and(fits));
            if drained && could && *role != Role::Planner {
                let kept = holders.iter().any(|n| !state.draining.contains(n) && after.holds(*n, role));
                prop_assert!(kept, "{role} was taken before another held it");
            }
        }
        // The second plan does nothing but take from those who drain.
        let second = plan(&after);
        prop_assert!(second.iter().all(|change| !change.held && state.draining.contains(&change.node)), "{second:?}");
        carry_out(&mut after, &second);
        prop_assert_eq!(plan(&after), Vec::<RoleChange>::new());

        let empty = BTreeSet::new();
        for (role, holders) in &after.held {
            let followed = state.wanted.contains_key(&Role::Coordinator) && *role == Role::Planner;
            let Some(wanted) = after.wanted.get(if followed { &Role::Coordinator } else { role }) else {
                return Err(TestCaseError::fail(format!("{role} is held and not wanted")));
            };
            if let AtMost(count) = wanted.count {
                let stay = holders.iter().filter(|node| !state.draining.contains(node)).count();
                prop_assert!(stay <= count as usize);
            }
            let up = |node: &NodeId| after.members[node].status == Up;
            for node in holders {
                let Some(member) = after.members.get(node) else {
                    return Err(TestCaseError::fail(format!("{node} is no member")));
                };
                prop_assert!(wanted.labels.iter().all(|(k, v)| member.labels.get(k) == Some(v)));
                // Only who held the role keeps it while it is not up.
                let role = if followed { &Role::Coordinator } else { role };
                prop_assert!(up(node) || state.held.get(role).unwrap_or(&empty).contains(node));
            }
            // A live member without the role means that no seat is with one that is not up.
            let idle = after.members.values().any(|m| {
                m.status == Up && !holders.contains(&m.id) && wanted.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v))
            });
            prop_assert!(!idle || holders.iter().all(up));
            let draining = holders.iter().any(|n| state.draining.contains(n));
            prop_assert!(!draining || !holders.iter().any(up));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    /// Nodes go down and come back in any order: a loss moves no more than what the lost one held, a return moves nothing,
    /// and what is placed once is not planned again.
    #[test]
    fn ups_and_downs_move_no_more_than_they_must(
        steps in prop::collection::vec(1u64..7, 1..60),
        counts in prop::collection::vec(1u32..4, 3),
        zoned in any::<bool>(),
    ) {
        let mut state = mesh(&(1..7).map(|id| (id, Up)).collect::<Vec<_>>());
        if zoned {
            in_zones(&mut state, &[(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")]);
        }
        for (role, count) in [Role::Policy, edge("a"), edge("b")].into_iter().zip(counts) {
            state.wanted.insert(role, wanted(AtMost(count), &[]));
        }
        let first = plan(&state);
        carry_out(&mut state, &first);
        for id in steps {
            let member = state.members.get_mut(&NodeId(id)).unwrap();
            let lost = member.status == Up;
            member.status = if lost { Down } else { Up };
            let changes = plan(&state);
            for change in changes.iter().filter(|change| !change.held) {
                let of = state.member(change.node).unwrap();
                prop_assert_eq!(of.status, Down, "{:?} takes a role from one that is up", change);
            }
            let given = changes.iter().filter(|change| change.held).count();
            let taken = changes.len() - given;
            if lost {
                prop_assert!(given <= state.roles_of(NodeId(id)).len(), "more moves than it held: {:?}", changes);
            } else {
                // It takes only what nobody who is up has had: seats that were waiting for somebody.
                let alone = changes.iter().filter(|change| change.held).all(|change| change.node == NodeId(id));
                prop_assert!(alone && given >= taken || changes.is_empty(), "{:?}", changes);
            }
            carry_out(&mut state, &changes);
            prop_assert_eq!(plan(&state), []);
        }
    }
}
