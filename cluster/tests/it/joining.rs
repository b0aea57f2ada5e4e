//! Nodes that join a mesh by a token, and tokens that do not let them.

use std::time::{Duration, Instant};

use greylag_cluster::{LinkState, identity::token};
use greylag_protocol::{
    ErrorCode, NodeId,
    state::{Command, MemberStatus},
};

use crate::node::{Node, assert_code, form, founding_sites, joining_site, source, until};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_fourth_node_joins_and_its_token_is_worth_nothing_afterwards() {
    let sites = founding_sites(3);
    let nodes = form(&sites);
    let seeds: Vec<&Node> = nodes.iter().collect();
    // Made on one node, used at another: that one may not have heard of it yet.
    let token = nodes[0].token(1, HOUR);
    let fourth = joining_site("node-4", &seeds[2..], &token);
    let joined = fourth.run();
    println!("joined_ms={}", joined.took.as_millis());
    assert_eq!(joined.id(), NodeId(4));
    assert_eq!(joined.mesh.id(), nodes[0].mesh.id());
    assert!(joined.mesh.authority().is_none());
    for node in nodes.iter() {
        until("a link", || node.link(NodeId(4)) == Some(LinkState::Connected));
        let state = node.mesh.state();
        let member = state.member(NodeId(4)).unwrap();
        assert_eq!((member.voter, member.status), (false, MemberStatus::Up));
    }
    let command = Command::ApplySource { spec: source("joined"), expect_version: None };
    joined.block_on(joined.mesh.propose(command)).unwrap();
    until("the learner has the log", || joined.mesh.state().sources.len() == 1);

    let since = Instant::now();
    for seeds in [&seeds[..], &[&joined]] {
        let stranger = joining_site("node-5", seeds, &token);
        let error = stranger.start().refused();
        assert_code(&error, ErrorCode::JoinTokenSpent);
    }
    println!("refused_ms={}", since.elapsed().as_millis() / 2);

    // A member without the authority sends a joiner to others.
    let token = joined.token(2, HOUR);
    let fifth_site = joining_site("node-5", &[&joined], &token);
    let fifth = fifth_site.run();
    assert_eq!(fifth.id(), NodeId(5));
    assert_eq!(nodes[0].mesh.state().members.len(), 5);

    // It is known by its data directory from now on, and needs no token.
    joined.kill();
    let mut fourth = fourth;
    fourth.config.join_token = None;
    assert_eq!(fourth.run().id(), NodeId(4));
}

#[test]
fn a_token_that_is_wrong_expired_or_revoked_lets_nobody_in() {
    let sites = founding_sites(3);
    let nodes = form(&sites);
    let seeds: Vec<&Node> = nodes.iter().collect();
    let good = nodes[0].token(1, HOUR);
    let expired = nodes[0].token(1, Duration::ZERO);
    let revoked = nodes[1].token(1, HOUR);
    let id = token::parse(&revoked).unwrap().id;
    nodes[1].block_on(nodes[1].mesh.propose(Command::RevokeGrant { id })).unwrap();
    nodes.iter().for_each(|node| node.block_on(node.mesh.catch_up()).unwrap());

    let with = |change: fn(&mut greylag_protocol::messages::join::JoinToken)| {
        let mut token = token::parse(&good).unwrap();
        change(&mut token);
        token::format(&token)
    };
    let formation = sites[0].config.join_token.clone().unwrap();
    for (name, token, code) in [
        ("wrong secret", with(|token| token.secret[0] ^= 1), ErrorCode::JoinTokenWrong),
        ("unknown id", with(|token| token.id.push('x')), ErrorCode::JoinTokenWrong),
        ("wrong authority", with(|token| token.ca_pin = Some([7; 32])), ErrorCode::ForeignCertificate),
        ("expired", expired, ErrorCode::JoinTokenExpired),
        ("revoked", revoked, ErrorCode::JoinTokenWrong),
        ("the formation's own", formation, ErrorCode::JoinTokenSpent),
    ] {
        let stranger = joining_site("stranger", &seeds, &token);
        let error = stranger.start().refused();
        assert_eq!(error.code, code, "{name}: {error}");
    }
    assert_eq!(nodes[0].mesh.state().members.len(), 3);

    let mut other_name = joining_site("stranger", &seeds, &good);
    other_name.config.mesh = "another".into();
    assert_code(&other_name.start().refused(), ErrorCode::FormationMismatch);
    let friend = joining_site("friend", &seeds, &good);
    assert_eq!(friend.run().id(), NodeId(4), "refusals have not spent it");
}

#[test]
fn a_joiner_waits_for_a_mesh_that_cannot_be_reached_yet() {
    let mut sites = founding_sites(3);
    let nodes = form(&sites);
    let token = nodes[0].token(1, HOUR);
    let seeds: Vec<&Node> = nodes.iter().collect();
    let joiner = joining_site("late", &seeds, &token);
    nodes.into_iter().for_each(Node::kill);
    let joiner = joiner.start();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!joiner.is_finished(), "it founds nothing by itself");
    sites.iter_mut().for_each(|site| site.config.join_token = None);
    let nodes = form(&sites);
    assert_eq!(joiner.settled().id(), NodeId(4));
    assert_eq!(nodes.len(), 3);
}
