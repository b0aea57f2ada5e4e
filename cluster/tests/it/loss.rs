//! A node is lost, and comes back.

use std::time::{Duration, Instant};

use greylag_cluster::LinkState;
use greylag_protocol::{
    ErrorCode,
    state::{Command, MemberStatus},
};

use crate::node::{Node, Site, assert_code, form, founding_sites, free_addresses, source, until};

fn leader(nodes: &[Node]) -> usize {
    until("a leader that all know", || {
        let known: Vec<_> = nodes.iter().map(|node| node.mesh.leader().0).collect();
        known[0].is_some() && known.iter().all(|leader| *leader == known[0])
    });
    let leader = nodes[0].mesh.leader().0.unwrap();
    nodes.iter().position(|node| node.id() == leader).unwrap()
}

/// Kills the leader or a follower, and has it back.
fn kill_and_restart(kill_leader: bool) {
    let mut sites = founding_sites(3);
    let mut nodes = form(&sites);
    let leader = leader(&nodes);
    let victim = if kill_leader { leader } else { (leader + 1) % 3 };
    let (lost, site) = (nodes.remove(victim), sites.remove(victim));
    let id = lost.id();
    lost.kill();
    let since = Instant::now();
    for node in &nodes {
        until("the link is lost", || node.link(id) == Some(LinkState::Lost));
    }
    let link_ms = since.elapsed().as_millis();
    for node in &nodes {
        until("Down is committed", || node.status(id) == Some(MemberStatus::Down));
    }
    let down_ms = since.elapsed().as_millis();
    let command = Command::ApplySource { spec: source("after"), expect_version: None };
    nodes[0].block_on(nodes[0].mesh.propose(command)).unwrap();
    let write_ms = since.elapsed().as_millis();
    println!("killed_leader={kill_leader} link_lost_ms={link_ms} down_ms={down_ms} write_ms={write_ms}");

    let since = Instant::now();
    let back = site.run();
    assert_eq!(back.id(), id);
    assert_eq!(back.mesh.state().sources.len(), 1, "it has caught up when it is back");
    for node in &nodes {
        until("Up is committed", || node.status(id) == Some(MemberStatus::Up));
        until("the link is up", || node.link(id) == Some(LinkState::Connected));
    }
    println!("start_ms={} up_ms={}", back.took.as_millis(), since.elapsed().as_millis());
}

#[test]
fn a_follower_that_is_killed_is_noticed_and_takes_its_old_place_again() {
    kill_and_restart(false);
}

#[test]
fn a_leader_that_is_killed_is_replaced_and_takes_its_old_place_again() {
    kill_and_restart(true);
}

#[test]
fn a_node_that_leaves_is_noticed_at_once() {
    let sites = founding_sites(3);
    let mut nodes = form(&sites);
    let follower = (leader(&nodes) + 1) % 3;
    let leaving = nodes.remove(follower);
    let id = leaving.id();
    let since = Instant::now();
    leaving.shut_down();
    for node in &nodes {
        until("the link is lost", || node.link(id) == Some(LinkState::Lost));
    }
    println!("leave_noticed_ms={}", since.elapsed().as_millis());
}

#[test]
fn a_mesh_whose_nodes_were_all_killed_comes_back_when_they_are_started_again() {
    let sites = founding_sites(3);
    let nodes = form(&sites);
    let mesh = nodes[0].mesh.id();
    let ids: Vec<_> = nodes.iter().map(Node::id).collect();
    let command = Command::ApplySource { spec: source("before"), expect_version: None };
    nodes[0].block_on(nodes[0].mesh.propose(command)).unwrap();
    nodes.into_iter().for_each(Node::kill);

    let since = Instant::now();
    let nodes = form(&sites);
    println!("all_back_ms={}", since.elapsed().as_millis());
    assert_eq!(nodes.iter().map(Node::id).collect::<Vec<_>>(), ids);
    for node in &nodes {
        assert_eq!(node.mesh.id(), mesh);
        node.block_on(node.mesh.catch_up()).unwrap();
        assert_eq!(node.mesh.state().sources.len(), 1);
    }
}

#[test]
fn a_node_that_comes_back_under_another_address_tells_the_mesh() {
    let mut sites = founding_sites(3);
    let mut nodes = form(&sites);
    let (moved, mut site) = (nodes.remove(2), sites.remove(2));
    let id = moved.id();
    moved.kill();
    site.config.listen = free_addresses(1)[0];
    site.config.labels.insert("rack".into(), "7".into());
    let moved = site.run();
    assert_eq!(moved.id(), id);
    for node in &nodes {
        until("the new address is known", || {
            let state = node.mesh.state();
            let member = state.member(id).unwrap();
            member.address == site.config.listen.to_string() && member.labels.get("rack").is_some_and(|r| r == "7")
        });
        until("the link is up", || node.link(id) == Some(LinkState::Connected));
    }
}

#[test]
fn without_a_majority_a_change_fails_in_time_and_a_node_starts_all_the_same() {
    let mut sites = founding_sites(3);
    for site in &mut sites {
        site.config.timing.call_timeout_ms = 1500;
    }
    let mut nodes = form(&sites);
    let last = nodes.remove(0);
    // What is committed is on disk no later than with the next entry.
    for ordinal in 0..3 {
        let command = Command::ApplySource { spec: source(&format!("s_{ordinal}")), expect_version: None };
        last.block_on(last.mesh.propose(command)).unwrap();
    }
    last.block_on(last.mesh.catch_up()).unwrap();
    nodes.into_iter().for_each(Node::kill);

    let since = Instant::now();
    let command = Command::ApplySource { spec: source("lonely"), expect_version: None };
    let error = last.block_on(last.mesh.propose(command)).unwrap_err();
    assert_code(&error, ErrorCode::NoLeader);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    last.kill();

    let alone = sites[0].run();
    assert_eq!(alone.mesh.state().members.len(), 3, "it knows what it knew");
    let rest: Vec<Node> =
        sites[1..].iter().map(Site::start).collect::<Vec<_>>().into_iter().map(|s| s.settled()).collect();
    alone.block_on(async {
        loop {
            match alone.mesh.catch_up().await {
                Ok(()) => return,
                Err(error) => assert_eq!(error.code, ErrorCode::NoLeader),
            }
        }
    });
    assert_eq!(rest.len(), 2);
}
