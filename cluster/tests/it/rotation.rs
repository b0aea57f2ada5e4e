//! One authority takes over from another while calls go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use greylag_cluster::{LinkState, identity::certificate::fingerprint};
use greylag_protocol::{
    ErrorCode,
    state::{MemberStatus, RegisterOp},
};

use crate::{
    node::{Node, Site, assert_code, form, founding_sites, joining_site, until},
    renewal::chain,
};

fn ca(node: &Node) -> Vec<u8> {
    node.mesh.state().mesh.as_ref().unwrap().ca_certificate.clone()
}

fn renewed(nodes: &[&Node]) {
    until("everybody who is up has a certificate of the new authority", || {
        let state = nodes[0].mesh.state();
        let new = fingerprint(&ca(nodes[0]));
        state.members.values().all(|m| m.status == MemberStatus::Down || m.certified_by == new)
    });
}

fn linked(nodes: &[&Node]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            until("a link", || node.link(other.id()) == Some(LinkState::Connected));
        }
    }
}

/// Changes from every node all the while, none of which may fail.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Traffic {
    fn start(nodes: &[&Node]) -> Self {
        let traffic = Self { stop: Arc::default(), done: Arc::default(), failed: Arc::default() };
        for node in nodes {
            let (mesh, stop) = (node.mesh.clone(), traffic.stop.clone());
            let (done, failed) = (traffic.done.clone(), traffic.failed.clone());
            node.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match mesh.change_register("n", RegisterOp::Add { delta: 1 }, None).await {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        traffic
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "calls have failed");
    }
}

#[test]
fn an_authority_takes_over_under_traffic_and_who_was_away_for_all_of_it_is_refused() {
    let sites = founding_sites(3);
    let nodes = form(&sites);
    let old_token = nodes[0].token(5, Duration::from_secs(3600));
    let (away_site, away) = join("away", &nodes[0], &old_token);
    let (lost_site, lost) = join("lost", &nodes[0], &old_token);
    let former = ca(&nodes[0]);
    let lost_id = lost.id();
    away.kill();
    lost.kill();
    let all: Vec<&Node> = nodes.iter().collect();
    until("two are down", || {
        nodes[0].mesh.state().members.values().filter(|m| m.status == MemberStatus::Down).count() == 2
    });

    let traffic = Traffic::start(&all);
    let overlap = Duration::from_secs(20);
    let keepers = |nodes: &[&Node]| nodes.iter().all(|node| node.mesh.authority().is_some());
    assert!(keepers(&all));
    nodes[1].block_on(nodes[1].mesh.rotate_authority(overlap)).unwrap();
    let again = nodes[2].block_on(nodes[2].mesh.rotate_authority(overlap)).unwrap_err();
    assert_code(&again, ErrorCode::ProposalRefused);
    until("all know", || all.iter().all(|node| ca(node) != former));
    renewed(&all);
    until("all voters keep the new keys", || keepers(&all));
    until("calls have gone on", || traffic.done.load(Ordering::Relaxed) > 200);
    traffic.end();

    // One that was down all the while trusts the former alone, and finds its way; a token of before is good still.
    let away = away_site.run();
    linked(&[&nodes[0], &nodes[1], &nodes[2], &away]);
    let (_late_site, late) = join("late", &nodes[2], &old_token);
    let all: Vec<&Node> = nodes.iter().chain([&away, &late]).collect();
    linked(&all);
    renewed(&all);
    // A certificate and the authority that has signed it, and nothing that vouches for the former.
    until("the former is trusted no more", || all.iter().all(|node| chain(node).len() == 2));
    assert!(all.iter().all(|node| node.mesh.state().rotation.is_none()));
    let traffic = Traffic::start(&all);
    until("calls go on", || traffic.done.load(Ordering::Relaxed) > 20);
    traffic.end();
    // A dial that began before goes on as it began, for as long as a dial may take.
    std::thread::sleep(Duration::from_secs(2));
    let refused = lost_site.start();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(nodes[0].status(lost_id), Some(MemberStatus::Down));
    assert_ne!(nodes[0].link(lost_id), Some(LinkState::Connected), "a certificate of the former is good for nothing");
    refused.kill();
    let fresh_site = joining_site("fresh", &[&nodes[0]], &old_token);
    let fresh = fresh_site.start();
    std::thread::sleep(Duration::from_secs(2));
    if fresh.is_finished() {
        assert_code(&fresh.refused(), ErrorCode::ForeignCertificate);
    } else {
        fresh.kill();
    }
    assert_eq!(nodes[0].mesh.state().members.len(), 6, "its token pins the former");

    // All at once, from what is on their disks.
    drop(all);
    away.kill();
    late.kill();
    nodes.into_iter().for_each(Node::kill);
    let nodes = form(&sites);
    linked(&nodes.iter().collect::<Vec<_>>());
    assert!(nodes.iter().all(|node| node.mesh.authority().is_some()));
}

fn join(name: &str, seed: &Node, token: &str) -> (Site, Node) {
    let site = joining_site(name, &[seed], token);
    let node = site.run();
    (site, node)
}
