//! Leaders at work on a small mesh: loss and return, joining and leaving, roles, and a leader that is lost itself.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use greylag_protocol::{
    NodeId,
    state::{Command, ControlState, Member, MemberStatus, Outcome, Role, RoleCount, RoleWanted},
};
use tokio::time::{Instant, timeout};

use super::{
    RaftNode,
    contacts::LOST_GRACE,
    world::{World, timing},
};
use crate::state::fixture::{member, source};

/// Waits until the state as `node` sees it is so, and says how long that took.
async fn until(node: &RaftNode, what: &str, so: impl FnMut(&Arc<ControlState>) -> bool) -> Duration {
    let start = Instant::now();
    let mut watch = node.watch();
    let Ok(seen) = timeout(Duration::from_secs(30), watch.wait_for(so)).await else {
        panic!("{what} has not happened: {:?}", node.state());
    };
    drop(seen.unwrap());
    start.elapsed()
}

fn status(state: &ControlState, id: u64) -> Option<MemberStatus> {
    state.member(NodeId(id)).map(|m| m.status)
}

fn holders(state: &ControlState, role: &Role) -> Vec<u64> {
    state.held.get(role).map(|nodes| nodes.iter().map(|n| n.0).collect()).unwrap_or_default()
}

async fn dutiful(count: u64) -> (Arc<World>, RaftNode) {
    let (world, leader) = World::formed(count).await;
    for node in world.nodes() {
        world.take_up_duties(&node);
    }
    (world, leader)
}

async fn admit(world: &Arc<World>, leader: &RaftNode, id: u64) -> RaftNode {
    let node = world.start_with_duties(id).await;
    let admit = Command::Admit {
        grant: "g".to_owned(),
        member: Box::new(Member { voter: false, ..member(id) }),
        now_unix_ms: 1,
    };
    let admitted = leader.propose(admit).await.unwrap();
    assert!(matches!(admitted, Outcome::Admitted { node, .. } if node == NodeId(id)), "{admitted:?}");
    node
}

async fn want(leader: &RaftNode, role: Role, count: RoleCount) {
    let wanted = Some(RoleWanted { count, labels: BTreeMap::new() });
    leader.propose(Command::Want { role, wanted }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_member_is_down_and_its_roles_move_and_it_comes_back() {
    use MemberStatus::{Down, Up};
    let (world, leader) = dutiful(3).await;
    let lost = if leader.id() == NodeId(2) { 3 } else { 2 };
    want(&leader, Role::Coordinator, RoleCount::All).await;
    leader.propose(Command::ApplySource { spec: source_for_all(), expect_version: None }).await.unwrap();
    let edge = Role::Edge(source_for_all().name);
    until(&leader, "placement", |s| {
        holders(s, &Role::Coordinator) == [1, 2, 3]
            && holders(s, &Role::Planner) == [1, 2, 3]
            && !holders(s, &edge).is_empty()
    })
    .await;
    // The one edge is moved to the node that will be lost.
    let (old, epoch) = (holders(&leader.state(), &edge)[0], leader.state().epoch);
    let change = |node, held| greylag_protocol::state::RoleChange { role: edge.clone(), node: NodeId(node), held };
    let moved = Command::Assign { at: epoch, changes: vec![change(old, false), change(lost, true)] };
    assert!(matches!(leader.propose(moved).await.unwrap(), Outcome::Done { .. }));

    world.kill(lost).await;
    let noticed = until(&leader, "the loss", |s| status(s, lost) == Some(Down)).await;
    assert!(noticed >= LOST_GRACE && noticed < LOST_GRACE + Duration::from_millis(200), "{noticed:?}");
    let moved = until(&leader, "the move", |s| holders(s, &edge).iter().all(|id| *id != lost)).await;
    assert!(moved < Duration::from_millis(200), "{moved:?}");
    assert_eq!(holders(&leader.state(), &edge).len(), 1);
    // Its seat as coordinator waits for it: nobody else could take it.
    assert_eq!(holders(&leader.state(), &Role::Coordinator), [1, 2, 3]);

    world.start_with_duties(lost).await;
    let back = until(&leader, "the return", |s| status(s, lost) == Some(Up)).await;
    assert!(back < Duration::from_millis(500), "{back:?}");
    assert!(!holders(&leader.state(), &edge).contains(&lost));
}

fn source_for_all() -> greylag_protocol::state::SourceSpec {
    greylag_protocol::state::SourceSpec { replicas: 1, labels: BTreeMap::new(), ..source("orders") }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_blinks_is_no_loss() {
    let (world, leader) = dutiful(3).await;
    until(&leader, "quiet", |s| s.mesh.is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let epoch = leader.state().epoch;
    let other = world.nodes().iter().map(RaftNode::id).find(|id| *id != leader.id()).unwrap();
    for _ in 0..5 {
        world.cut(other.0);
        tokio::time::sleep(LOST_GRACE / 2).await;
        world.mend(other.0);
        tokio::time::sleep(LOST_GRACE).await;
    }
    assert_eq!(leader.state().epoch, epoch);
}

#[tokio::test(start_paused = true)]
async fn members_join_the_log_and_become_voters_and_leave() {
    let (world, leader) = dutiful(1).await;
    let second = admit(&world, &leader, 2).await;
    until(&second, "the log", |s| s.member(NodeId(2)).is_some()).await;
    assert_eq!(leader.membership().1.len(), 1, "two voters would be worse than one");
    let third = admit(&world, &leader, 3).await;
    until(&third, "voters", |s| s.members.len() == 3 && s.members.values().all(|m| m.voter)).await;
    assert_eq!(leader.membership().0.len(), 3);
    assert_eq!(leader.state().members[&NodeId(3)].address, leader.addresses()[&NodeId(3)]);
    // A majority is two now.
    world.kill(3).await;
    until(&leader, "the loss", |s| status(s, 3) == Some(MemberStatus::Down)).await;
    leader.propose(Command::Remove { node: NodeId(3) }).await.unwrap();
    timeout(Duration::from_secs(10), async {
        while leader.membership().0.contains(&NodeId(3)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(leader.state().removed.contains(&NodeId(3)));
}

fn voters(node: &RaftNode) -> Vec<u64> {
    node.membership().0.into_iter().map(|id| id.0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_stays_away_is_replaced_and_learns_when_it_is_back() {
    let grace = Duration::from_millis(timing().voter_grace_ms);
    let (world, leader) = dutiful(3).await;
    admit(&world, &leader, 4).await;
    until(&leader, "the learner", |s| s.members.len() == 4).await;
    let lost = if leader.id() == NodeId(2) { 3 } else { 2 };
    // A voter that is back in time keeps its seat.
    world.kill(lost).await;
    tokio::time::sleep(grace - Duration::from_secs(1)).await;
    world.start_with_duties(lost).await;
    tokio::time::sleep(grace).await;
    assert_eq!(voters(&leader), [1, 2, 3]);

    world.kill(lost).await;
    let took = until(&leader, "the replacement", |s| s.members[&NodeId(4)].voter).await;
    assert!(took >= grace && took < grace + Duration::from_secs(1), "{took:?}");
    until(&leader, "the flag", |s| !s.members[&NodeId(lost)].voter).await;
    assert_eq!(voters(&leader).len(), 3);
    // The new voter counts: another loss leaves a majority.
    let second = (1..=3).find(|id| *id != lost && NodeId(*id) != leader.id()).unwrap();
    world.kill(second).await;
    want(&leader, Role::Policy, RoleCount::AtMost(1)).await;
    let back = world.start_with_duties(lost).await;
    // It is back as a learner, has the log, and takes the second one's seat once that one is away for too long.
    until(&back, "the log", |s| s.wanted.contains_key(&Role::Policy)).await;
    assert!(!voters(&leader).contains(&lost));
    until(&leader, "the seat", |s| s.members[&NodeId(lost)].voter).await;
    world.start_with_duties(second).await;
    tokio::time::sleep(2 * grace).await;
    assert!(voters(&leader).len() == 3 && !voters(&leader).contains(&second));
    assert_eq!(world.leader().await.id(), leader.id(), "who returns unseats nobody");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stays_away_is_replaced_as_a_voter_too() {
    let (world, leader) = dutiful(3).await;
    admit(&world, &leader, 4).await;
    until(&leader, "the learner", |s| s.members.len() == 4).await;
    let dead = leader.id().0;
    world.kill(dead).await;
    let next = world.leader().await;
    until(&next, "the replacement", |s| s.members[&NodeId(4)].voter && !s.members[&NodeId(dead)].voter).await;
    world.start_with_duties(dead).await;
    until(&next, "the return", |s| status(s, dead) == Some(MemberStatus::Up)).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(voters(&next).len(), 3);
    assert!(voters(&next).contains(&4) && !voters(&next).contains(&dead));
}

#[tokio::test(start_paused = true)]
async fn a_removed_voter_s_seat_goes_to_a_learner() {
    let (world, leader) = dutiful(3).await;
    admit(&world, &leader, 4).await;
    until(&leader, "the learner", |s| s.members.len() == 4).await;
    let removed = if leader.id() == NodeId(2) { 3 } else { 2 };
    leader.propose(Command::Remove { node: NodeId(removed) }).await.unwrap();
    until(&leader, "the replacement", |s| s.members[&NodeId(4)].voter).await;
    timeout(Duration::from_secs(10), async {
        while leader.addresses().contains_key(&NodeId(removed)) {
            assert_eq!(voters(&leader).len(), 3);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    world.stop(removed).await;
    // With three left there are three; with two left there is one.
    let next = if leader.id() == NodeId(1) { 4 } else { 1 };
    leader.propose(Command::Remove { node: NodeId(next) }).await.unwrap();
    until(&leader, "one voter", |s| s.members.values().filter(|m| m.voter).count() == 1).await;
    assert_eq!(voters(&leader), [leader.id().0]);
    want(&leader, Role::Policy, RoleCount::AtMost(1)).await;
}

async fn drain(leader: &RaftNode, id: u64, draining: bool) {
    let command = Command::SetDraining { node: NodeId(id), draining, now_unix_ms: 1 };
    assert!(matches!(leader.propose(command).await.unwrap(), Outcome::Done { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_gives_roles_and_seat_away_and_takes_them_back() {
    let (world, leader) = dutiful(3).await;
    want(&leader, Role::Coordinator, RoleCount::All).await;
    want(&leader, Role::Policy, RoleCount::AtMost(3)).await;
    until(&leader, "placement", |s| holders(s, &Role::Policy) == [1, 2, 3] && holders(s, &Role::Planner).len() == 3)
        .await;
    let drained = if leader.id() == NodeId(2) { 3 } else { 2 };
    drain(&leader, drained, true).await;
    until(&leader, "the drain", |s| s.roles_of(NodeId(drained)).is_empty()).await;
    // Nobody could take its seat so far.
    assert_eq!(voters(&leader), [1, 2, 3]);
    admit(&world, &leader, 4).await;
    until(&leader, "the seat", |s| !s.members[&NodeId(drained)].voter && s.members[&NodeId(4)].voter).await;
    world.kill(drained).await;
    until(&leader, "the loss", |s| status(s, drained) == Some(MemberStatus::Down)).await;
    world.start_with_duties(drained).await;
    until(&leader, "the return", |s| status(s, drained) == Some(MemberStatus::Draining)).await;
    assert!(leader.state().roles_of(NodeId(drained)).is_empty());
    drain(&leader, drained, false).await;
    until(&leader, "its roles", |s| s.holds(NodeId(drained), &Role::Coordinator)).await;
    assert!(!voters(&leader).contains(&drained), "a seat is not given back");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_drains_leads_no_more_even_where_it_votes_alone() {
    let (world, leader) = dutiful(1).await;
    admit(&world, &leader, 2).await;
    until(&leader, "the other", |s| s.members.len() == 2).await;
    drain(&leader, 1, true).await;
    let next = timeout(Duration::from_secs(10), async {
        loop {
            let next = world.leader().await;
            if next.id() == NodeId(2) {
                return next;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    until(&next, "the flags", |s| !s.members[&NodeId(1)].voter && s.members[&NodeId(2)].voter).await;
    assert_eq!(voters(&next), [2]);
    world.kill(1).await;
    want(&next, Role::Policy, RoleCount::AtMost(1)).await;
    until(&next, "placement", |s| holders(s, &Role::Policy) == [2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_noticed_by_the_next() {
    let (world, leader) = dutiful(3).await;
    want(&leader, Role::Policy, RoleCount::AtMost(1)).await;
    until(&leader, "placement", |s| !holders(s, &Role::Policy).is_empty()).await;
    let dead = leader.id().0;
    let start = Instant::now();
    world.kill(dead).await;
    let next = world.leader().await;
    until(&next, "the loss", |s| status(s, dead) == Some(MemberStatus::Down)).await;
    // Lease and election, and no second grace after them.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    until(&next, "the move", |s| !holders(s, &Role::Policy).contains(&dead)).await;
    world.start_with_duties(dead).await;
    until(&next, "the return", |s| status(s, dead) == Some(MemberStatus::Up)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_removed_hands_over_and_leaves() {
    let (world, leader) = dutiful(3).await;
    let gone = leader.id();
    leader.propose(Command::Remove { node: gone }).await.unwrap();
    timeout(Duration::from_secs(10), async {
        loop {
            let next = world.leader().await;
            if next.id() != gone && !next.membership().0.contains(&gone) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    world.stop(gone.0).await;
    let next = world.leader().await;
    want(&next, Role::Policy, RoleCount::All).await;
    until(&next, "placement", |s| holders(s, &Role::Policy).len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_everybody_nobody_is_taken_for_lost_too_early() {
    let (world, _) = dutiful(3).await;
    for id in 1..=3 {
        world.kill(id).await;
    }
    let mut nodes = Vec::new();
    for id in 1..=2 {
        nodes.push(world.start_with_duties(id).await);
    }
    let leader = world.leader().await;
    leader.ensure_linearizable().await.unwrap();
    // The third is late, but not later than a first contact may be.
    tokio::time::sleep(Duration::from_millis(timing().idle_timeout_ms / 2)).await;
    assert_eq!(status(&leader.state(), 3), Some(MemberStatus::Up));
    until(&leader, "the loss", |s| status(s, 3) == Some(MemberStatus::Down)).await;
    world.start_with_duties(3).await;
    until(&leader, "the return", |s| status(s, 3) == Some(MemberStatus::Up)).await;
}
