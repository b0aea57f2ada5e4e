//! Nodes in one process: electing, proposing, catching up, losing a leader, losing power, changing members.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use greylag_protocol::{
    ErrorCode, NodeId,
    state::{Command, ControlState, Outcome},
};
use tokio::time::{Instant, sleep};

use super::{
    ProposeError, RaftNode,
    world::{World, seams, timing},
};
use crate::{
    seams::Seams,
    state::fixture::{grant, source},
};

fn put(i: usize) -> Command {
    Command::PutGrant { grant: grant(&format!("p{i}"), 1) }
}

fn has(state: &ControlState, i: usize) -> bool {
    state.grants.contains_key(&format!("p{i}"))
}

async fn agreed(nodes: &[RaftNode]) -> ControlState {
    let target = nodes.iter().map(|n| n.state().epoch).max().unwrap();
    for node in nodes {
        let mut watch = node.watch();
        let waiting = watch.wait_for(|state| state.epoch >= target);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    }
    let states: Vec<_> = nodes.iter().map(|n| n.state()).collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "the nodes disagree");
    (*states[0]).clone()
}

#[tokio::test(start_paused = true)]
async fn three_nodes_elect_propose_and_agree() {
    let (world, leader) = World::formed(3).await;
    assert!(leader.is_initialized().await.unwrap());
    let outcome = leader.propose(Command::ApplySource { spec: source("orders"), expect_version: None }).await;
    assert_eq!(outcome, Ok(Outcome::Applied { version: 1, changed: true }));
    // A proposer reads what it wrote.
    assert_eq!(leader.state().sources.len(), 1);
    // A refusal is an outcome like any other.
    let refused = leader.propose(Command::RevokeGrant { id: "nobody".to_owned() }).await.unwrap();
    assert!(matches!(refused, Outcome::Refused(e) if e.code == ErrorCode::ProposalRefused));
    agreed(&world.nodes()).await;
    for follower in world.nodes().iter().filter(|n| n.id() != leader.id()) {
        assert_eq!(follower.propose(put(1)).await, Err(ProposeError::Forward(Some(leader.id()))));
        assert_eq!(follower.read_index().await, Err(ProposeError::Forward(Some(leader.id()))));
        assert_eq!(follower.ensure_linearizable().await.unwrap_err().code, ErrorCode::NoLeader);
        assert!(!follower.is_leader() && follower.leader() == leader.leader());
        // A follower that has applied the read index has seen everything committed before.
        leader.propose(put(usize::try_from(follower.id().0).unwrap())).await.unwrap();
        let index = leader.read_index().await.unwrap();
        follower.wait_applied(index, Duration::from_secs(5)).await.unwrap();
        assert!(has(&follower.state(), usize::try_from(follower.id().0).unwrap()));
    }
    assert_eq!(leader.addresses()[&NodeId(2)], "n2:7400");
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_leads_at_once_and_after_a_restart() {
    let (world, leader) = World::formed(1).await;
    leader.propose(put(1)).await.unwrap();
    let before = leader.state();
    let stopped = tokio::spawn(async move { leader.stopped().await });
    world.stop(1).await;
    assert_eq!(stopped.await.unwrap().code, ErrorCode::ShuttingDown);
    let start = Instant::now();
    let node = world.start(1).await;
    node.ensure_linearizable().await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(node.state(), before);
    assert_eq!(node.transfer_leadership().await, ());
    assert!(node.is_leader(), "there is nobody to hand over to");
}

#[tokio::test(start_paused = true)]
async fn a_learner_catches_up_by_snapshot_and_becomes_a_voter() {
    let (world, leader) = World::formed(1).await;
    for i in 0..1100 {
        leader.propose(put(i % 50)).await.unwrap();
    }
    // The first entries are purged once the snapshot is there.
    leader.inner.raft.trigger().purge_log(1000).await.unwrap();
    let purged = |m: &openraft::RaftMetrics<super::types::TypeConfig>| m.purged.is_some();
    leader.inner.raft.wait(Some(Duration::from_secs(10))).metrics(purged, "purged").await.unwrap();
    for id in [2, 3] {
        let learner = world.start(id).await;
        assert!(!learner.is_initialized().await.unwrap());
        leader.add_learner(NodeId(id), format!("n{id}:7400")).await.unwrap();
        leader.add_learner(NodeId(id), format!("n{id}:7400")).await.unwrap();
        learner.wait_applied(leader.read_index().await.unwrap(), Duration::from_secs(10)).await.unwrap();
    }
    assert!(world.snapshots.load(Ordering::Relaxed) >= 2);
    agreed(&world.nodes()).await;
    assert_eq!(leader.membership(), (BTreeSet::from([NodeId(1)]), BTreeSet::from([NodeId(2), NodeId(3)])));
    leader.change_voters((1..=3).map(NodeId).collect()).await.unwrap();
    assert_eq!(leader.membership().0, (1..=3).map(NodeId).collect());
    // The snapshot that came over the network survives a power cut.
    world.kill(2).await;
    let node = world.start(2).await;
    node.wait_applied(leader.read_index().await.unwrap(), Duration::from_secs(10)).await.unwrap();
    agreed(&world.nodes()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let (world, mut leader) = World::formed(3).await;
    let mut acknowledged = Vec::new();
    let mut outages = Vec::new();
    for round in 0..6 {
        for i in round * 100..round * 100 + 20 {
            leader.propose(put(i)).await.unwrap();
            acknowledged.push(i);
        }
        let dead = leader.id().0;
        // Proposals in flight while the power goes: each is acknowledged or not, and only the acknowledged count.
        let flying: Vec<_> = (20..30)
            .map(|i| {
                let (leader, i) = (leader.clone(), round * 100 + i);
                tokio::spawn(async move { leader.propose(put(i)).await.ok().map(|_| i) })
            })
            .collect();
        sleep(Duration::from_millis(round as u64)).await;
        let start = Instant::now();
        world.kill(dead).await;
        for task in flying {
            acknowledged.extend(task.await.unwrap());
        }
        leader = world.leader().await;
        leader.ensure_linearizable().await.unwrap();
        leader.propose(put(round * 100 + 50)).await.unwrap();
        acknowledged.push(round * 100 + 50);
        outages.push(start.elapsed());
        world.start(dead).await;
    }
    let state = agreed(&world.nodes()).await;
    let lost: Vec<_> = acknowledged.iter().filter(|i| !has(&state, **i)).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
    // Election time-out 200-400 ms, and the lease of the old leader before it.
    assert!(outages.iter().all(|t| *t < Duration::from_secs(3)), "{outages:?}");
}

#[tokio::test(start_paused = true)]
async fn everybody_restarts_and_the_state_is_there() {
    let (world, leader) = World::formed(3).await;
    for i in 0..30 {
        leader.propose(put(i)).await.unwrap();
    }
    for clean in [true, false] {
        for id in 1..=3 {
            if clean { world.stop(id).await } else { world.kill(id).await }
        }
        for id in 1..=3 {
            world.start(id).await;
        }
        let leader = world.leader().await;
        leader.ensure_linearizable().await.unwrap();
        assert!((0..30).all(|i| has(&leader.state(), i)));
        agreed(&world.nodes()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_commits_nothing_and_rejoins_quietly() {
    let (world, old) = World::formed(3).await;
    agreed(&world.nodes()).await;
    world.cut(old.id().0);
    let error = old.propose(put(1)).await.unwrap_err();
    assert!(
        matches!(&error, ProposeError::Failed(e) if e.code == ErrorCode::NoLeader)
            || error == ProposeError::Forward(None)
    );
    assert_eq!(old.ensure_linearizable().await.unwrap_err().code, ErrorCode::NoLeader);
    let new = world.leader().await;
    assert_ne!(new.id(), old.id());
    new.propose(put(2)).await.unwrap();
    // Pre-vote: a node that was cut off does not unseat the leader when it comes back.
    sleep(Duration::from_secs(10)).await;
    let (leader, term) = new.leader();
    world.mend(old.id().0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(new.leader(), (leader, term));
    let state = agreed(&world.nodes()).await;
    assert!(has(&state, 2) && !has(&state, 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hears_no_heartbeats_does_not_unseat_the_leader() {
    let (world, leader) = World::formed(3).await;
    agreed(&world.nodes()).await;
    let before = leader.leader();
    let deaf = world.nodes().iter().map(RaftNode::id).find(|id| *id != leader.id()).unwrap();
    world.deafen(deaf.0);
    for i in 0..10 {
        sleep(Duration::from_secs(1)).await;
        leader.propose(put(i)).await.unwrap();
    }
    world.mend(deaf.0);
    agreed(&world.nodes()).await;
    assert_eq!(leader.leader(), before);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_and_members_leave() {
    let (world, first) = World::formed(3).await;
    let start = Instant::now();
    first.transfer_leadership().await;
    let second = world.leader().await;
    assert_ne!(second.id(), first.id());
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    second.ensure_linearizable().await.unwrap();
    second.remove(first.id()).await.unwrap();
    second.remove(first.id()).await.unwrap();
    let (voters, learners) = second.membership();
    assert!(voters.len() == 2 && !voters.contains(&first.id()) && learners.is_empty());
    world.stop(first.id().0).await;
    second.propose(put(1)).await.unwrap();
    // A voter becomes a learner, and a learner leaves.
    let third = *voters.iter().find(|id| **id != second.id()).unwrap();
    second.change_voters(BTreeSet::from([second.id()])).await.unwrap();
    assert_eq!(second.membership().1, BTreeSet::from([third]));
    second.remove(third).await.unwrap();
    assert_eq!(second.membership(), (BTreeSet::from([second.id()]), BTreeSet::new()));
    second.propose(put(2)).await.unwrap();
    let unknown = second.change_voters(BTreeSet::from([second.id(), NodeId(9)])).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::ProposalRefused);
}

#[tokio::test(start_paused = true)]
async fn a_failed_disk_stops_the_node_and_not_the_mesh() {
    let (world, leader) = World::formed(3).await;
    world.disk(leader.id().0).power_off();
    let failed = leader.propose(put(1)).await.unwrap_err();
    assert!(matches!(failed, ProposeError::Failed(_) | ProposeError::Forward(_)), "{failed:?}");
    let reason = tokio::time::timeout(Duration::from_secs(10), leader.stopped()).await.unwrap();
    assert_eq!(reason.code, ErrorCode::ShuttingDown);
    world.cut(leader.id().0);
    let next = world.leader().await;
    next.ensure_linearizable().await.unwrap();
    next.propose(put(2)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn hostile_calls_are_refused() {
    let (world, leader) = World::formed(1).await;
    let calls: [&[u8]; 5] = [b"", b"\x00", b"\x09abc", b"\x01", b"\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff"];
    for call in calls {
        assert_eq!(leader.serve(call).await.unwrap_err().code, ErrorCode::MalformedFrame, "{call:?}");
    }
    assert_eq!(leader.propose(put(1)).await.map(|_| ()), Ok(()));
    let huge = Command::RevokeGrant { id: "x".repeat(2 << 20) };
    let refused = leader.propose(huge).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Failed(e) if e.code == ErrorCode::FrameTooLarge));
    let slow = greylag_config::Timing { heartbeat_ms: 900, ..timing() };
    let error = RaftNode::open(NodeId(1), &seams(world.disk(9)), &slow, "flock", world.link(1)).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::InvalidConfig);
}

/// Prints what a proposal costs on this machine's disk, with links that cost nothing. Run with
/// `--run-ignored only --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_proposals() {
    let world = Arc::new(World::default());
    world.no_delay.store(true, Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap();
    for id in 1..=3 {
        world.start_on(id, &Seams::real(dir.path().join(id.to_string())).unwrap()).await;
    }
    let leader = world.form().await;
    for (what, writers) in [("sequential", 1), ("64 at once", 64)] {
        let begun = std::time::Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let leader = leader.clone();
            tasks.spawn(async move {
                let mut taken = Vec::new();
                for i in 0..640 / writers {
                    let start = std::time::Instant::now();
                    leader.propose(put(writer * 10 + i)).await.unwrap();
                    taken.push(start.elapsed());
                }
                taken
            });
        }
        let mut taken: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
        taken.sort();
        let rate = taken.len() as f64 / begun.elapsed().as_secs_f64();
        println!("{what}: p50 {:?} p99 {:?} {rate:.0}/s", taken[taken.len() / 2], taken[taken.len() * 99 / 100]);
    }
    let mut taken = Vec::new();
    for _ in 0..500 {
        let start = std::time::Instant::now();
        leader.ensure_linearizable().await.unwrap();
        taken.push(start.elapsed());
    }
    taken.sort();
    println!("ensure_linearizable: p50 {:?} p99 {:?}", taken[250], taken[495]);
}
