//! A founder that dies between giving out certificates and beginning the log.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use greylag_cluster::{Seams, seams::Disk};
use greylag_protocol::{ErrorCode, NodeId};

use crate::node::{Node, Site, Starting, assert_code, founding_sites, until};

/// Disks of nodes that found together: only some of those who are not the founder can store their enrolment.
#[derive(Debug, Default)]
struct Plan {
    may_enrol: AtomicUsize,
    enrolled: AtomicUsize,
    failed: AtomicUsize,
}

#[derive(Debug)]
struct PlannedDisk {
    disk: Arc<dyn Disk>,
    plan: Arc<Plan>,
    founder: Arc<AtomicBool>,
}

impl Disk for PlannedDisk {
    fn database(&self, name: &str) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.disk.database(name)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(name)
    }

    fn write(&self, name: &str, content: &[u8], secret: bool) -> io::Result<()> {
        if name == "founding" {
            self.founder.store(true, Ordering::SeqCst);
        }
        if name == "membership" && !self.founder.load(Ordering::SeqCst) {
            let granted =
                self.plan.may_enrol.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if granted.is_err() {
                self.plan.failed.fetch_add(1, Ordering::SeqCst);
                return Err(io::Error::other("the power fails"));
            }
            self.disk.write(name, content, secret)?;
            self.plan.enrolled.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        self.disk.write(name, content, secret)
    }
}

fn founder_dies(others_enrolled: usize) {
    let sites = founding_sites(3);
    let plan = Arc::new(Plan { may_enrol: AtomicUsize::new(others_enrolled), ..Plan::default() });
    let mut founding: Option<(usize, Starting)> = None;
    let mut others: Vec<(usize, Starting)> = Vec::new();
    let mut starting = Vec::new();
    for site in &sites {
        let mut seams = Seams::real(site.dir.path().to_owned()).unwrap();
        let founder = Arc::new(AtomicBool::new(false));
        seams.disk = Arc::new(PlannedDisk { disk: seams.disk, plan: plan.clone(), founder: founder.clone() });
        starting.push((founder, site.start_on(seams)));
    }
    until("certificates have been given out", || {
        plan.enrolled.load(Ordering::SeqCst) == others_enrolled
            && plan.failed.load(Ordering::SeqCst) == 2 - others_enrolled
    });
    for (ordinal, (founder, node)) in starting.into_iter().enumerate() {
        if founder.load(Ordering::SeqCst) {
            assert!(founding.replace((ordinal, node)).is_none(), "one founder");
        } else {
            others.push((ordinal, node));
        }
    }
    let (founder, node) = founding.unwrap();
    assert!(!node.is_finished(), "it does not begin without the others");
    node.kill();

    // Those without an enrolment have ended with an error; those with one wait for the founder.
    let mut waiting = Vec::new();
    let mut again = vec![founder];
    for (ordinal, node) in others {
        if waiting.len() < others_enrolled && !node.is_finished() {
            waiting.push(node);
        } else {
            assert_code(&node.refused(), ErrorCode::Internal);
            again.push(ordinal);
        }
    }
    assert_eq!(waiting.len(), others_enrolled);
    let again: Vec<Starting> = again.into_iter().map(|ordinal| sites[ordinal].start()).collect();
    let nodes: Vec<Node> = again.into_iter().chain(waiting).map(Starting::settled).collect();
    let ids: BTreeSet<NodeId> = nodes.iter().map(Node::id).collect();
    assert_eq!(ids, BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]));
    assert_eq!(nodes.iter().map(|node| node.mesh.id()).collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn a_founder_that_dies_before_the_log_begins_goes_on_when_it_is_back() {
    founder_dies(1);
}

#[test]
fn a_founder_that_dies_before_anybody_has_stored_a_certificate_goes_on_when_it_is_back() {
    founder_dies(0);
}

#[test]
fn a_founder_that_does_not_come_back_is_not_replaced() {
    let sites = founding_sites(3);
    let plan = Arc::new(Plan { may_enrol: AtomicUsize::new(1), ..Plan::default() });
    let mut starting: Vec<(usize, Arc<AtomicBool>, Starting)> = Vec::new();
    for (ordinal, site) in sites.iter().enumerate() {
        let mut seams = Seams::real(site.dir.path().to_owned()).unwrap();
        let founder = Arc::new(AtomicBool::new(false));
        seams.disk = Arc::new(PlannedDisk { disk: seams.disk, plan: plan.clone(), founder: founder.clone() });
        starting.push((ordinal, founder, site.start_on(seams)));
    }
    until("one has stored its certificate", || {
        plan.enrolled.load(Ordering::SeqCst) == 1 && plan.failed.load(Ordering::SeqCst) == 1
    });
    let mut rest = Vec::new();
    for (ordinal, founder, node) in starting {
        node.kill();
        if !founder.load(Ordering::SeqCst) {
            rest.push(ordinal);
        }
    }
    let rest: Vec<Starting> = rest.into_iter().map(|ordinal| Site::start(&sites[ordinal])).collect();
    std::thread::sleep(Duration::from_secs(3));
    assert!(rest.iter().all(|node| !node.is_finished()), "the two of them wait, and found nothing");
}

#[test]
fn a_mesh_forms_whichever_moment_of_it_a_node_dies_at() {
    for (round, delay_ms) in [40, 80, 120, 160, 200, 250, 300, 400].into_iter().enumerate() {
        let sites = founding_sites(3);
        let mut starting: Vec<Starting> = sites.iter().map(Site::start).collect();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let victim = round % 3;
        starting.remove(victim).kill();
        starting.insert(victim, sites[victim].start());
        let nodes: Vec<Node> = starting.into_iter().map(Starting::settled).collect();
        let ids: BTreeSet<NodeId> = nodes.iter().map(Node::id).collect();
        assert_eq!(ids, BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]), "killed after {delay_ms} ms");
        assert_eq!(nodes.iter().map(|node| node.mesh.id()).collect::<BTreeSet<_>>().len(), 1);
        for node in &nodes {
            node.block_on(node.mesh.catch_up()).unwrap();
            assert_eq!(node.mesh.state().members.len(), 3);
        }
    }
}
