//! Who should vote, by table; and that losses and returns in any order move no more seats than they must.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use greylag_protocol::{
    NodeId,
    state::{Command, MemberStatus},
};
use proptest::prelude::*;

use super::{
    duties::Duty,
    duties_test::{Scene, nodes},
};
use crate::{placement::DOMAIN_LABEL, state::apply};

/// The voters that the leader would make, if others than now.
fn voters(scene: &Scene) -> Option<Vec<u64>> {
    let changes: Vec<Duty> = scene
        .duties()
        .into_iter()
        .filter(|duty| matches!(duty, Duty::ChangeVoters(_) | Duty::RemoveFromLog(_)))
        .collect();
    match changes.as_slice() {
        [] => None,
        [Duty::ChangeVoters(voters)] => Some(voters.iter().map(|n| n.0).collect()),
        other => panic!("{other:?}"),
    }
}

fn in_zones(scene: &mut Scene, zones: &[(u64, &str)]) {
    for (id, zone) in zones {
        let labels = &mut scene.state.members.get_mut(&NodeId(*id)).unwrap().labels;
        labels.insert(DOMAIN_LABEL.to_owned(), (*zone).to_owned());
    }
}

#[test]
fn who_was_admitted_without_a_vote_is_given_none() {
    let mut scene = Scene::new(4, 1);
    let edges = Some(["edge".parse().unwrap()].into());
    scene.state.members.get_mut(&NodeId(2)).unwrap().allowed = edges;
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
}

/// Down for longer than the grace.
fn lost(scene: &mut Scene, id: u64) {
    scene.down(id);
    scene.lost.insert(NodeId(id));
}

fn back(scene: &mut Scene, id: u64) {
    scene.connected.insert(NodeId(id));
    scene.gone.remove(&NodeId(id));
    scene.lost.remove(&NodeId(id));
    scene.state.members.get_mut(&NodeId(id)).unwrap().status = MemberStatus::Up;
}

/// Carries a change out, as the log does: who does not vote any more learns.
fn carry_out(scene: &mut Scene) -> bool {
    let Some(voters) = voters(scene) else { return false };
    let voters = nodes(voters);
    let all: BTreeSet<NodeId> = scene.log.voters.union(&scene.log.learners).copied().collect();
    scene.log.learners = all.difference(&voters).copied().collect();
    scene.log.voters = voters;
    for (id, member) in &mut scene.state.members {
        member.voter = scene.log.voters.contains(id);
    }
    true
}

#[test]
fn voters_are_one_three_or_five() {
    assert_eq!(voters(&Scene::new(2, 1)), None, "two voters survive no more than one");
    assert_eq!(voters(&Scene::new(3, 1)), Some(vec![1, 2, 3]));
    assert_eq!(voters(&Scene::new(4, 1)), Some(vec![1, 2, 3]));
    assert_eq!(voters(&Scene::new(7, 3)), Some(vec![1, 2, 3, 4, 5]));
    assert_eq!(voters(&Scene::new(7, 5)), None);
    assert_eq!(voters(&Scene::new(3, 2)), Some(vec![1, 2, 3]));
    // Not the one behind, not the one that cannot be dialled, not the one that is down.
    let mut scene = Scene::new(4, 1);
    scene.log.caught_up.remove(&NodeId(2));
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
    scene.state.members.get_mut(&NodeId(3)).unwrap().outbound_only = true;
    assert_eq!(voters(&scene), None);
    let mut scene = Scene::new(5, 1);
    scene.down(2);
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
    // Three of the five that five voters need have not caught up: three for now.
    let mut scene = Scene::new(5, 1);
    scene.log.caught_up = nodes([4, 5]);
    assert_eq!(voters(&scene), Some(vec![1, 4, 5]));
}

#[test]
fn removals_give_seats_up_and_losses_do_not() {
    // One of five, and one of three, were removed and nobody can take their seats.
    assert_eq!(voters(&Scene::new(4, 4)), Some(vec![1, 2, 3]));
    assert_eq!(voters(&Scene::new(2, 2)), Some(vec![1]));
    // The one that is down goes first, then the one whose domain has others.
    let mut scene = Scene::new(4, 4);
    scene.down(2);
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
    let mut scene = Scene::new(4, 4);
    in_zones(&mut scene, &[(1, "a"), (2, "b"), (3, "b"), (4, "c")]);
    assert_eq!(voters(&scene), Some(vec![1, 2, 4]));
    // However many are lost, nobody gives up a seat for it.
    let mut scene = Scene::new(5, 5);
    lost(&mut scene, 4);
    lost(&mut scene, 5);
    assert_eq!(voters(&scene), None);
    // One that cannot be dialled and votes since the foundation counts.
    let mut scene = Scene::new(3, 3);
    scene.state.members.get_mut(&NodeId(3)).unwrap().outbound_only = true;
    assert_eq!(voters(&scene), None);
}

#[test]
fn a_seat_moves_after_the_grace_and_stays_moved() {
    let mut scene = Scene::new(5, 3);
    scene.state.members.get_mut(&NodeId(5)).unwrap().outbound_only = true;
    scene.down(2);
    assert_eq!(voters(&scene), None, "it may come back");
    lost(&mut scene, 2);
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
    // Out of contact with the leader, but not noticed by the log yet.
    scene.state.members.get_mut(&NodeId(2)).unwrap().status = MemberStatus::Up;
    assert_eq!(voters(&scene), None);
    lost(&mut scene, 2);
    assert!(carry_out(&mut scene));
    assert_eq!(voters(&scene), None);
    back(&mut scene, 2);
    assert_eq!(voters(&scene), None, "it learns from now on");
    // It takes the seat of the next that is lost.
    lost(&mut scene, 3);
    assert_eq!(voters(&scene), Some(vec![1, 2, 4]));
}

#[test]
fn a_seat_stays_where_nobody_can_take_it() {
    let mut scene = Scene::new(4, 3);
    lost(&mut scene, 2);
    scene.log.caught_up.remove(&NodeId(4));
    assert_eq!(voters(&scene), None, "the learner is behind");
    scene.log.caught_up.insert(NodeId(4));
    scene.down(4);
    assert_eq!(voters(&scene), None, "the learner is down");
    let mut scene = Scene::new(3, 3);
    lost(&mut scene, 2);
    assert_eq!(voters(&scene), None, "there is no learner");
}

#[test]
fn one_seat_at_a_time_and_over_zones() {
    let mut scene = Scene::new(8, 5);
    let zones = [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b"), (6, "a"), (7, "c"), (8, "b")];
    in_zones(&mut scene, &zones);
    lost(&mut scene, 3);
    lost(&mut scene, 5);
    assert_eq!(voters(&scene), Some(vec![1, 2, 4, 5, 7]), "the lost voter of zone c gives its seat to one of zone c");
    assert!(carry_out(&mut scene));
    assert_eq!(voters(&scene), Some(vec![1, 2, 4, 7, 8]), "then the next");
    assert!(carry_out(&mut scene));
    assert_eq!(voters(&scene), None);
    // Room for three only: one of each zone.
    let mut scene = Scene::new(6, 1);
    in_zones(&mut scene, &[(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")]);
    scene.down(6);
    scene.down(4);
    assert_eq!(voters(&scene), Some(vec![1, 3, 5]));
}

#[test]
fn who_drains_or_was_removed_gives_its_seat_away_first() {
    let mut scene = Scene::new(4, 3);
    scene.drain(2);
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
    // Also while it is down, and without another grace.
    scene.down(2);
    assert_eq!(voters(&scene), Some(vec![1, 3, 4]));
    scene.down(4);
    assert_eq!(voters(&scene), None, "it keeps its seat while nobody can take it");
    // Removed: the seat first, then the membership; without a successor it goes at once.
    let mut scene = Scene::new(4, 3);
    apply(&mut scene.state, &Command::Remove { node: NodeId(3) });
    assert_eq!(scene.duties()[0], Duty::ChangeVoters(nodes([1, 2, 4])));
    assert!(carry_out(&mut scene));
    assert_eq!(scene.duties()[0], Duty::RemoveFromLog(NodeId(3)));
    let mut scene = Scene::new(3, 3);
    apply(&mut scene.state, &Command::Remove { node: NodeId(3) });
    assert_eq!(scene.duties()[0], Duty::RemoveFromLog(NodeId(3)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    /// Each step one member that is not the leader is lost for good, or comes back.
    #[test]
    fn losses_and_returns_settle_and_never_cost_a_voter(
        members in 1u64..9,
        steps in prop::collection::vec((2u64..9, any::<bool>()), 0..30),
    ) {
        let mut scene = Scene::new(members, 1);
        while carry_out(&mut scene) {}
        let full = scene.log.voters.len();
        prop_assert_eq!(full, match members { 5.. => 5, 3.. => 3, _ => 1 });
        for (id, comes) in steps.into_iter().filter(|(id, _)| *id <= members) {
            let before = scene.log.voters.clone();
            if comes { back(&mut scene, id) } else { lost(&mut scene, id) }
            let mut changes = 0;
            while carry_out(&mut scene) {
                prop_assert_eq!(scene.log.voters.len(), full);
                changes += 1;
                prop_assert!(changes <= 1, "one loss or return moves one seat at most");
            }
            let lost_votes = before.iter().any(|node| scene.lost.contains(node));
            prop_assert!(changes == 0 || lost_votes, "a seat was taken from {:?} without need", before);
            // Nobody that is up learns while somebody that is lost votes.
            let idle = scene.log.learners.iter().any(|node| !scene.lost.contains(node));
            prop_assert!(!idle || scene.log.voters.iter().all(|node| !scene.lost.contains(node)));
        }
    }
}
