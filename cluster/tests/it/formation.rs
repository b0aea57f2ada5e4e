//! Nodes that form a mesh by themselves.

use std::{collections::BTreeSet, time::Duration};

use greylag_cluster::LinkState;
use greylag_protocol::{
    ErrorCode, NodeId,
    state::{Command, Outcome},
};

use crate::node::{Site, assert_code, form, founding_sites, free_addresses, source, until};

#[test]
fn three_nodes_form_a_mesh_and_any_of_them_can_change_it() {
    let sites = founding_sites(3);
    let nodes = form(&sites);
    let slowest = nodes.iter().map(|node| node.took).max().unwrap();
    println!("formed_ms={}", slowest.as_millis());

    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id()).collect();
    assert_eq!(ids, BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]));
    let meshes: BTreeSet<_> = nodes.iter().map(|node| node.mesh.id()).collect();
    assert_eq!(meshes.len(), 1);
    for node in &nodes {
        let state = node.mesh.state();
        assert_eq!(state.members.keys().copied().collect::<BTreeSet<_>>(), ids);
        assert!(state.members.values().all(|member| member.voter));
        assert_eq!(state.member(node.id()).unwrap().address, sites[index(&nodes, node.id())].config.listen.to_string());
        assert!(node.mesh.authority().is_some(), "founding voters can let others in");
        let others = ids.iter().filter(|id| **id != node.id());
        for other in others {
            until("a link", || node.link(*other) == Some(LinkState::Connected));
        }
    }

    for (ordinal, node) in nodes.iter().enumerate() {
        let command = Command::ApplySource { spec: source(&format!("source_{ordinal}")), expect_version: Some(0) };
        let applied = node.block_on(node.mesh.propose(command)).unwrap();
        assert_eq!(applied, Outcome::Applied { version: 1, changed: true });
    }
    for node in &nodes {
        node.block_on(node.mesh.catch_up()).unwrap();
        assert_eq!(node.mesh.state().sources.len(), 3);
    }
    until("the same state everywhere", || {
        let states: Vec<_> = nodes.iter().map(|node| node.mesh.state()).collect();
        states.iter().all(|state| *state == states[0])
    });

    let signature = nodes[0].mesh.sign(b"sub-query");
    nodes[1].mesh.verify(nodes[0].id(), b"sub-query", &signature).unwrap();
    for (signer, bytes) in [(nodes[2].id(), &b"sub-query"[..]), (nodes[0].id(), b"other"), (NodeId(9), b"sub-query")] {
        assert_code(&nodes[1].mesh.verify(signer, bytes, &signature).unwrap_err(), ErrorCode::BadSignature);
    }
    nodes.into_iter().for_each(|node| node.shut_down());
}

fn index(nodes: &[crate::node::Node], id: NodeId) -> usize {
    nodes.iter().position(|node| node.id() == id).unwrap()
}

#[test]
fn one_common_seed_is_enough_also_for_nodes_that_nobody_can_dial() {
    let mut sites = founding_sites(3);
    let seed = sites[0].config.listen.to_string();
    for site in &mut sites {
        site.config.seeds = vec![seed.clone()];
    }
    sites[2].config.outbound_only = true;
    sites[1].config.labels.insert("site".into(), "a".into());
    let nodes = form(&sites);
    for node in &nodes {
        let state = node.mesh.state();
        assert_eq!(state.members.len(), 3);
        assert!(state.member(nodes[2].id()).unwrap().outbound_only);
        assert_eq!(state.member(nodes[1].id()).unwrap().labels["site"], "a");
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            until("a link", || node.link(other.id()) == Some(LinkState::Connected));
        }
    }
}

#[test]
fn a_mesh_of_one_needs_no_seed_and_comes_back() {
    let mut site = Site::new("alone", free_addresses(1)[0]);
    site.config.dev = true;
    let node = site.run();
    println!("alone_ms={}", node.took.as_millis());
    let mesh = node.mesh.id();
    let command = Command::ApplySource { spec: source("orders"), expect_version: None };
    node.block_on(node.mesh.propose(command)).unwrap();
    node.kill();

    let node = site.run();
    println!("alone_again_ms={}", node.took.as_millis());
    assert_eq!((node.mesh.id(), node.id()), (mesh, NodeId(1)));
    assert_eq!(node.mesh.state().sources.len(), 1, "what was committed is there at once");
    node.shut_down();
}

#[test]
fn a_node_that_is_its_own_only_seed_founds_alone_and_its_name_binds() {
    let mut site = founding_sites(1).remove(0);
    let node = site.run();
    assert_eq!(node.mesh.state().members.len(), 1);
    node.shut_down();
    site.config.mesh = "another".into();
    assert_code(&site.start().refused(), ErrorCode::FormationMismatch);
}

#[test]
fn nodes_that_disagree_on_how_to_form_say_so_and_end() {
    for change in [0, 1] {
        let mut sites = founding_sites(2);
        match change {
            0 => sites[1].config.mesh = "another".into(),
            _ => sites[1].config.expect = 3,
        }
        let starting: Vec<_> = sites.iter().map(Site::start).collect();
        // Whoever is asked first may be gone before it has asked the other, who then goes on waiting.
        until("an end", || starting.iter().any(|node| node.is_finished()));
        let (ended, waiting): (Vec<_>, Vec<_>) = starting.into_iter().partition(|node| node.is_finished());
        ended.into_iter().for_each(|node| assert_code(&node.refused(), ErrorCode::FormationMismatch));
        waiting.into_iter().for_each(|node| node.kill());
    }
}

#[test]
fn a_node_without_a_token_or_with_one_that_is_none_does_not_start() {
    let mut sites = founding_sites(2);
    sites[0].config.join_token = None;
    sites[1].config.join_token = Some("secret".into());
    for site in &sites {
        assert_code(&site.start().refused(), ErrorCode::InvalidConfig);
    }
}

#[test]
fn a_start_that_waits_for_others_can_be_dropped_and_done_again() {
    let sites = founding_sites(2);
    let first = sites[0].start();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!first.is_finished(), "it waits for the other");
    first.kill();
    assert_eq!(form(&sites).len(), 2);
}
