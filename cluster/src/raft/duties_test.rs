//! A leader's duties by table.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    Epoch, NodeId, SourceName,
    state::{Command, ControlState, MemberStatus, Role, RoleChange, RoleCount, RoleWanted, Rotation, Unreached},
};

use proptest::prelude::*;

use super::duties::{Duty, LogMembership, Sight, duties};
use crate::{
    identity::certificate::fingerprint,
    placement::NODE_LABEL,
    state::{apply, fixture::form},
};

pub(super) struct Scene {
    pub state: ControlState,
    pub log: LogMembership,
    pub connected: BTreeSet<NodeId>,
    pub gone: BTreeSet<NodeId>,
    pub lost: BTreeSet<NodeId>,
    pub disk_refuses: bool,
    pub now_unix_ms: u64,
}

pub(super) fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

impl Scene {
    /// Members `1..=members`, of whom the first `voters` vote and the rest learn, all caught up and connected to 1.
    pub fn new(members: u64, voters: u64) -> Self {
        let mut state = ControlState::default();
        apply(&mut state, &form(1..=members));
        for (id, member) in &mut state.members {
            member.voter = id.0 <= voters;
        }
        let log = LogMembership {
            voters: nodes(1..=voters),
            learners: nodes(voters + 1..=members),
            unfinished: None,
            caught_up: nodes(2..=members),
        };
        Self {
            state,
            log,
            connected: nodes(2..=members),
            gone: BTreeSet::new(),
            lost: BTreeSet::new(),
            disk_refuses: false,
            now_unix_ms: 9,
        }
    }

    pub fn lose(&mut self, id: u64) {
        self.connected.remove(&NodeId(id));
        self.gone.insert(NodeId(id));
    }

    pub fn drain(&mut self, id: u64) {
        apply(&mut self.state, &Command::SetDraining { node: NodeId(id), draining: true, now_unix_ms: 0 });
    }

    pub fn down(&mut self, id: u64) {
        self.lose(id);
        self.state.members.get_mut(&NodeId(id)).unwrap().status = MemberStatus::Down;
    }

    pub fn duties(&self) -> Vec<Duty> {
        let Self { state, log, connected, gone, lost, disk_refuses, now_unix_ms } = self;
        duties(&Sight {
            me: NodeId(1),
            state,
            log,
            connected,
            gone,
            lost,
            now_unix_ms: *now_unix_ms,
            drain_grace_ms: 5,
            disk_refuses: *disk_refuses,
        })
    }
}

fn set_status(node: u64, from: MemberStatus, to: MemberStatus) -> Duty {
    Duty::Propose(Command::SetStatus { node: NodeId(node), from, to, now_unix_ms: 9 })
}

#[test]
fn nothing_to_do_and_nothing_before_formation() {
    assert_eq!(Scene::new(3, 3).duties(), []);
    let mut scene = Scene::new(3, 3);
    scene.state = ControlState::default();
    scene.lose(2);
    assert_eq!(scene.duties(), [], "the founder has not formed the mesh yet");
}

#[test]
fn the_lost_are_down_and_the_found_are_up() {
    use MemberStatus::{Down, Draining, Up};
    let mut scene = Scene::new(5, 5);
    scene.lose(2);
    scene.connected.remove(&NodeId(3));
    scene.state.members.get_mut(&NodeId(4)).unwrap().status = Down;
    scene.state.members.get_mut(&NodeId(1)).unwrap().status = Down;
    assert_eq!(scene.duties(), [set_status(1, Down, Up), set_status(2, Up, Down), set_status(4, Down, Up)]);
    let mut scene = Scene::new(3, 3);
    scene.drain(2);
    assert_eq!(scene.duties(), []);
    scene.lose(2);
    assert_eq!(scene.duties(), [set_status(2, Draining, Down)]);
    scene.down(2);
    scene.connected.insert(NodeId(2));
    assert_eq!(scene.duties(), [set_status(2, Down, Draining)]);
}

#[test]
fn members_join_the_log_and_removed_ones_leave_it() {
    let mut scene = Scene::new(4, 3);
    scene.log.learners.clear();
    assert_eq!(scene.duties(), [Duty::AddLearner { node: NodeId(4), address: "10.0.0.4:7400".to_owned() }]);
    let mut scene = Scene::new(4, 3);
    apply(&mut scene.state, &Command::Remove { node: NodeId(3) });
    apply(&mut scene.state, &Command::Remove { node: NodeId(4) });
    assert_eq!(scene.duties()[0], Duty::RemoveFromLog(NodeId(3)));
    // A node of the log that the state does not know yet stays.
    let mut scene = Scene::new(3, 3);
    scene.log.learners.insert(NodeId(9));
    assert_eq!(scene.duties(), []);
}

#[test]
fn a_change_that_was_begun_is_ended_first() {
    let mut scene = Scene::new(5, 3);
    scene.log.unfinished = Some(nodes([1, 2]));
    scene.state.members.get_mut(&NodeId(3)).unwrap().voter = false;
    assert_eq!(scene.duties(), [Duty::ChangeVoters(nodes([1, 2]))]);
}

#[test]
fn a_leader_that_leaves_hands_over() {
    let mut scene = Scene::new(3, 3);
    scene.drain(1);
    assert_eq!(scene.duties(), [Duty::HandOver]);
    let mut scene = Scene::new(3, 3);
    scene.disk_refuses = true;
    assert_eq!(scene.duties(), [Duty::HandOver], "its own log goes on no more");
    // It votes alone: its seat goes to the other, and with it the lead.
    let mut scene = Scene::new(2, 1);
    scene.drain(1);
    assert_eq!(scene.duties()[0], Duty::ChangeVoters(nodes([2])));
    let mut scene = Scene::new(3, 3);
    apply(&mut scene.state, &Command::Remove { node: NodeId(1) });
    assert_eq!(scene.duties(), [Duty::HandOver]);
    scene.down(2);
    scene.down(3);
    assert!(!scene.duties().contains(&Duty::HandOver), "there is nobody to hand over to");
    assert!(!scene.duties().contains(&Duty::RemoveFromLog(NodeId(1))));
}

#[test]
fn queries_have_time_to_end_on_a_node_that_drains() {
    let assigned = |scene: &Scene| {
        let assign = |duty| match duty {
            Duty::Propose(Command::Assign { changes, .. }) => {
                Some(changes.into_iter().map(|change| (change.node.0, change.held)).collect::<Vec<_>>())
            }
            _ => None,
        };
        scene.duties().into_iter().find_map(assign)
    };
    let mut scene = Scene::new(2, 1);
    scene.state.wanted.insert(Role::Policy, RoleWanted { count: RoleCount::AtMost(1), labels: BTreeMap::new() });
    scene.state.held.insert(Role::Policy, nodes([2]));
    scene.drain(2);
    let since = |scene: &mut Scene, at| scene.state.members.get_mut(&NodeId(2)).unwrap().status_since_unix_ms = at;
    // It is given to the other at once, and taken when the time is up: five of nine.
    since(&mut scene, 8);
    assert_eq!(assigned(&scene), Some(vec![(1, true)]));
    scene.state.held.insert(Role::Policy, nodes([1, 2]));
    assert_eq!(assigned(&scene), None);
    since(&mut scene, 5);
    assert_eq!(assigned(&scene), None);
    since(&mut scene, 4);
    assert_eq!(assigned(&scene), Some(vec![(2, false)]));
    since(&mut scene, 1_000);
    assert_eq!(assigned(&scene), Some(vec![(2, false)]), "by a clock that is far ahead");
    // Who is down serves nothing, and nobody waits for what is not wanted.
    since(&mut scene, 8);
    scene.down(2);
    assert_eq!(assigned(&scene), Some(vec![(2, false)]));
    let mut scene = Scene::new(2, 1);
    scene.state.held.insert(Role::Policy, nodes([2]));
    scene.drain(2);
    since(&mut scene, 8);
    assert_eq!(assigned(&scene), Some(vec![(2, false)]));
}

#[test]
fn a_role_in_which_nothing_runs_goes_once_another_holds_it() {
    let taken = |scene: &Scene| {
        let assign = |duty| match duty {
            Duty::Propose(Command::Assign { changes, .. }) => Some(changes),
            _ => None,
        };
        let changes = scene.duties().into_iter().find_map(assign).unwrap_or_default();
        changes.into_iter().filter(|change| !change.held).map(|change| change.role).collect::<Vec<_>>()
    };
    let mut scene = Scene::new(3, 3);
    let alone = Role::Edge(SourceName::new("alone").unwrap());
    for role in [Role::Coordinator, Role::Policy, alone.clone()] {
        // The edge fits nobody but the node that leaves.
        let labels = (role == alone).then(|| (NODE_LABEL.to_owned(), scene.state.members[&NodeId(2)].name.clone()));
        scene
            .state
            .wanted
            .insert(role.clone(), RoleWanted { count: RoleCount::All, labels: labels.into_iter().collect() });
        scene.state.held.insert(role.clone(), if role == alone { nodes([2]) } else { nodes([1, 2, 3]) });
    }
    scene.state.held.insert(Role::Planner, nodes([1, 2, 3]));
    scene.drain(2);
    scene.state.members.get_mut(&NodeId(2)).unwrap().status_since_unix_ms = 8;
    let rest = |scene: &mut Scene, roles: &[&Role]| {
        let roles = roles.iter().map(|role| (*role).clone()).collect();
        apply(&mut scene.state, &Command::Rest { node: NodeId(2), roles });
    };
    assert_eq!(taken(&scene), [], "it has said nothing yet");
    rest(&mut scene, &[&Role::Policy, &alone]);
    assert_eq!(taken(&scene), [Role::Policy], "nobody else has the edge: it has its time");
    rest(&mut scene, &[&Role::Coordinator, &Role::Planner]);
    assert_eq!(taken(&scene), [Role::Coordinator, Role::Planner]);
    // Who is to go as well is no other.
    scene.drain(3);
    scene.down(1);
    assert_eq!(taken(&scene), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever nodes say of themselves, a role leaves before its time only where another node stays with it; and once
    /// all who drain rest in all that others hold, nothing of that is left with them and nothing is left to do.
    #[test]
    fn resting_hurries_only_what_others_hold(
        drained in prop::collection::btree_set(2u64..5, 0..3),
        downs in prop::collection::btree_set(2u64..5, 0..2),
        holders in prop::collection::vec((prop::collection::btree_set(1u64..5, 0..4), prop::option::of(1u32..4)), 2),
        rests in prop::collection::btree_map(1u64..5, prop::collection::btree_set(0usize..2, 0..3), 0..4),
    ) {
        let mut scene = Scene::new(4, 3);
        let roles = [Role::Policy, Role::Edge(SourceName::new("a").unwrap())];
        for (role, (holders, count)) in roles.iter().zip(holders) {
            let count = count.map_or(RoleCount::All, RoleCount::AtMost);
            scene.state.wanted.insert(role.clone(), RoleWanted { count, labels: BTreeMap::new() });
            if !holders.is_empty() {
                scene.state.held.insert(role.clone(), nodes(holders));
            }
        }
        drained.iter().for_each(|id| scene.drain(*id));
        downs.iter().for_each(|id| scene.down(*id));
        (1..5).for_each(|id| scene.state.members.get_mut(&NodeId(id)).unwrap().status_since_unix_ms = 8);
        for (id, which) in rests {
            let roles = which.into_iter().map(|at| roles[at].clone()).collect();
            apply(&mut scene.state, &Command::Rest { node: NodeId(id), roles });
        }
        for round in 0..12 {
            let before = scene.state.clone();
            for duty in scene.duties() {
                if let Duty::Propose(command @ Command::Assign { .. }) = duty {
                    apply(&mut scene.state, &command);
                }
            }
            for (role, node) in before.held.iter().flat_map(|(role, nodes)| nodes.iter().map(move |node| (role, *node))) {
                let taken = !scene.state.holds(node, role) && before.members[&node].status == MemberStatus::Draining;
                let rested = before.resting.get(&node).is_some_and(|roles| roles.contains(role));
                prop_assert!(!taken || (rested && before.others_stay(node, role)), "{} was taken from {}", role, node);
            }
            // From here on everybody says what is so.
            for node in before.members.keys().filter(|_| round > 1) {
                let roles = scene.state.roles_of(*node).into_iter().filter(|r| scene.state.others_stay(*node, r)).collect();
                apply(&mut scene.state, &Command::Rest { node: *node, roles });
            }
        }
        let left = scene.duties().into_iter().find(|duty| matches!(duty, Duty::Propose(Command::Assign { .. })));
        prop_assert_eq!(left, None);
        for (role, node) in scene.state.draining.iter().flat_map(|node| roles.iter().map(move |role| (role, *node))) {
            prop_assert!(!scene.state.holds(node, role) || !scene.state.others_stay(node, role), "{} stays", role);
        }
    }
}

#[test]
fn roles_are_placed_when_nothing_else_moves_the_epoch() {
    let mut scene = Scene::new(2, 1);
    scene.state.wanted.insert(Role::Policy, RoleWanted { count: RoleCount::All, labels: BTreeMap::new() });
    let change = |node| RoleChange { role: Role::Policy, node: NodeId(node), held: true };
    let assign = Command::Assign { at: Epoch(1), changes: vec![change(1), change(2)] };
    assert_eq!(scene.duties(), [Duty::Propose(assign)]);
    scene.lose(2);
    assert_eq!(scene.duties(), [set_status(2, MemberStatus::Up, MemberStatus::Down)]);
    let mut scene = Scene::new(2, 1);
    scene.state.members.get_mut(&NodeId(2)).unwrap().voter = true;
    assert_eq!(scene.duties(), [Duty::Propose(Command::SetVoter { node: NodeId(2), voter: false })]);
}

#[test]
fn a_node_that_could_not_reach_a_source_is_forgiven_later_each_time() {
    for (tries, pause) in [(1, 30_000u64), (2, 60_000), (3, 120_000), (7, 1_920_000), (60, 1_920_000)] {
        let mut scene = Scene::new(3, 3);
        let entry = Unreached { since_unix_ms: 9 + 5_000_000 - pause, tries, barred: true };
        let source = SourceName::new("s").unwrap();
        scene.now_unix_ms = 9 + 5_000_000;
        scene.state.unreached.insert(source.clone(), [(NodeId(2), entry)].into());
        let forgive = Duty::Propose(Command::Forgive { node: NodeId(2), source, tries });
        assert!(scene.duties().contains(&forgive), "{tries}");
        scene.now_unix_ms -= 1;
        assert!(!scene.duties().contains(&forgive), "{tries}");
    }
}

#[test]
fn the_former_authority_goes_when_its_time_is_over_and_nobody_who_is_up_needs_it() {
    let mut scene = Scene::new(3, 3);
    let rotation = Rotation {
        former_ca: scene.state.mesh.as_ref().unwrap().ca_certificate.clone(),
        new_by_former: vec![1],
        former_by_new: vec![2],
        until_unix_ms: 20,
    };
    let former_ca = rotation.former_ca.clone();
    apply(&mut scene.state, &Command::RotateAuthority { ca_certificate: vec![7; 300], rotation: Box::new(rotation) });
    let ends = |scene: &Scene| {
        let end = Duty::Propose(Command::EndRotation { former_ca: former_ca.clone() });
        scene.duties().contains(&end)
    };
    scene.now_unix_ms = 30;
    assert!(!ends(&scene), "nobody has renewed");
    for id in [1, 2] {
        scene.state.members.get_mut(&NodeId(id)).unwrap().certified_by = fingerprint(&[7; 300]).to_vec();
    }
    assert!(!ends(&scene));
    scene.down(3);
    assert!(ends(&scene), "who is down is not waited for");
    scene.now_unix_ms = 19;
    assert!(!ends(&scene), "but has its time");
}
