#![allow(clippy::unwrap_used, clippy::panic)]

//! Several nodes' chains over one replicated log, on disks that refuse and come back.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use greylag_cluster::seams::Blocking;
use greylag_governance::audit::{
    Chain, ChangeRecord, Ills, MemoryStorage, Outcome, Who,
    verify::{Copy, Knowledge, Report, verify},
};
use greylag_protocol::{
    MeshId, NodeId, Result,
    principal::{Principal, PrincipalKind},
};
use tokio::task::JoinHandle;

use super::*;

/// The heads of all nodes; one for all of them.
#[derive(Default)]
struct Shared {
    heads: Mutex<BTreeMap<NodeId, AuditHead>>,
    cut_off: AtomicBool,
    commits: std::sync::atomic::AtomicU64,
}

struct FakeLog(NodeId, Arc<Shared>);

#[derive(Debug)]
struct Inline;

impl Blocking for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        work();
        Box::pin(std::future::ready(()))
    }
}

#[async_trait]
impl HeadLog for FakeLog {
    fn chain(&self) -> Chain {
        Chain { mesh: MeshId(uuid::Uuid::from_u128(5)), node: self.0 }
    }

    fn heads(&self) -> BTreeMap<NodeId, AuditHead> {
        lock(&self.1.heads).clone()
    }

    async fn commit(&self, head: AuditHead) -> Result<()> {
        if self.1.cut_off.load(Ordering::Relaxed) {
            return Err(MeshError::new(ErrorCode::NoLeader, "cut off"));
        }
        self.1.commits.fetch_add(1, Ordering::Relaxed);
        lock(&self.1.heads).insert(head.node, head);
        Ok(())
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn blocking(&self) -> Arc<dyn Blocking> {
        Arc::new(Inline)
    }
}

struct Node {
    audit: Arc<Audit>,
    disk: MemoryStorage,
    task: JoinHandle<Result<()>>,
}

async fn node(id: u64, shared: &Arc<Shared>, disk: MemoryStorage, config: AuditConfig) -> Node {
    let parts = AuditParts { config, place: Arc::new(MemoryPlace(disk.clone())) };
    let log = Arc::new(FakeLog(NodeId(id), shared.clone()));
    let audit = Arc::new(Audit::new(&parts, log, Bound::named("audit.waiting_records_max", "", WAITING_RECORDS_MAX)));
    audit.open().await;
    let task = tokio::spawn(drive(audit.clone()));
    Node { audit, disk, task }
}

impl Node {
    async fn stop(self) -> MemoryStorage {
        self.task.abort();
        let _ = self.task.await;
        self.audit.close().await;
        self.disk
    }

    /// Waits, in paused time, until a condition holds.
    async fn until(&self, holds: impl Fn(&Audit) -> bool) {
        for _ in 0..1_000 {
            if holds(&self.audit) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("waited in vain: {:?}", self.audit);
    }
}

fn proven(disks: &[&MemoryStorage]) -> Report {
    let copies: Vec<Copy<'_>> =
        disks.iter().enumerate().map(|(at, disk)| Copy { label: format!("{at}"), files: *disk }).collect();
    let report = verify(&copies, &Knowledge::default()).unwrap();
    assert_eq!(report.findings, []);
    report
}

fn change(what: &str) -> AuditRecord {
    let principal =
        Principal { id: "ada".into(), kind: PrincipalKind::Person, roles: vec![], attributes: BTreeMap::new() };
    AuditRecord::Change(Box::new(ChangeRecord {
        at_unix_ms: 1,
        who: Who::of(&principal),
        door: "flight".into(),
        client: None,
        call: "policy.put".into(),
        what: what.into(),
        epoch_before: 3,
        epoch_after: Some(4),
        outcome: Outcome::Done,
        code: None,
        cut: false,
    }))
}

fn changes(audit: &Audit) -> Vec<String> {
    let name = |recorded: &Recorded| match &*recorded.record {
        AuditRecord::Change(r) => Some(r.what.clone()),
        _ => None,
    };
    audit.recent().iter().filter_map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn records_are_written_in_order_and_the_chain_ends_with_the_node() {
    let shared = Arc::new(Shared::default());
    let one = node(1, &shared, MemoryStorage::default(), AuditConfig::default()).await;
    let admitted = one.audit.admit().unwrap();
    one.audit.record(change("a")).unwrap();
    one.audit.record_durably(change("b")).await.unwrap();
    assert_eq!(changes(&one.audit), ["a", "b"], "durable, and what came before it too");
    admitted.record_durably(change("c")).await.unwrap();
    admitted.record(change("d"));
    one.until(|audit| changes(audit).len() == 4 && audit.waiting.used() == 0).await;
    let sequences: Vec<u64> = one.audit.recent().iter().map(|r| r.sequence).collect();
    assert_eq!(sequences, [3, 4, 5, 6]);

    one.audit.record(change("e")).unwrap();
    let audit = one.audit.clone();
    let disk = one.stop().await;
    assert_eq!(audit.admit().err().map(|e| e.code), Some(ErrorCode::ShuttingDown));
    assert_eq!(audit.record_durably(change("late")).await.unwrap_err().code, ErrorCode::ShuttingDown);
    let chain = proven(&[&disk]).chains.remove(0);
    assert_eq!(
        (chain.last, lock(&shared.heads)[&NodeId(1)].sequence),
        (8, 8),
        "e, and that it was closed, is committed"
    );
    assert_eq!(chain.crashes, 0);
}

#[tokio::test(start_paused = true)]
async fn nodes_vouch_for_each_other_and_idle_ones_fall_silent() {
    let shared = Arc::new(Shared::default());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(node(id, &shared, MemoryStorage::default(), AuditConfig::default()).await);
    }
    nodes[0].audit.record_durably(change("a")).await.unwrap();
    let written = nodes[0].audit.head().unwrap();
    let vouched = |audit: &Audit, head: AuditHead| {
        audit.recent().iter().any(|r| matches!(&*r.record, AuditRecord::Heads(h) if h.heads.contains(&head.into())))
    };
    for other in &nodes[1..] {
        other.until(|audit| vouched(audit, written)).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before: Vec<_> = nodes.iter().map(|n| n.audit.head()).collect();
    let commits = shared.commits.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(before, nodes.iter().map(|n| n.audit.head()).collect::<Vec<_>>());
    assert_eq!(commits, shared.commits.load(Ordering::Relaxed));

    // A head that cannot be committed is committed later.
    shared.cut_off.store(true, Ordering::Relaxed);
    nodes[0].audit.record_durably(change("b")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    shared.cut_off.store(false, Ordering::Relaxed);
    let head = nodes[0].audit.head().unwrap();
    nodes[2].until(|audit| vouched(audit, head)).await;

    let mut disks = Vec::new();
    for node in nodes {
        disks.push(node.stop().await);
    }
    let report = proven(&[&disks[0], &disks[1], &disks[2]]);
    assert!(report.chains[0].vouched.as_ref().is_some_and(|v| v.upto == head.sequence), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_refuses_nothing_is_admitted_and_what_was_is_kept() {
    for (bad, code) in [
        (Ills { room: Some(100), ..Ills::default() }, ErrorCode::DiskFull),
        (Ills { sync_fails: true, ..Ills::default() }, ErrorCode::AuditUnavailable),
    ] {
        let shared = Arc::new(Shared::default());
        let one = node(1, &shared, MemoryStorage::default(), AuditConfig::default()).await;
        let under_way = one.audit.admit().unwrap();
        let durable = one.audit.admit().unwrap();
        one.disk.set_ills(bad);
        assert_eq!(durable.record_durably(change("began")).await.unwrap_err().code, code);
        assert_eq!(one.audit.admit().err().map(|e| e.code), Some(code));
        under_way.record(change("under way"));
        durable.record(change("failed"));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(one.audit.admit().err().map(|e| e.code), Some(code), "as long as something waits");
        assert_eq!(changes(&one.audit), [""; 0]);

        one.disk.set_ills(Ills::default());
        one.until(|audit| audit.trouble().is_none()).await;
        one.audit.record_durably(change("after")).await.unwrap();
        assert_eq!(changes(&one.audit), ["under way", "failed", "after"], "and not what was refused");
        // With nothing that waits, the next one finds out whether the disk is well again.
        one.disk.set_ills(bad);
        assert_eq!(one.audit.record_durably(change("x")).await.unwrap_err().code, code);
        one.disk.set_ills(Ills::default());
        one.until(|audit| audit.trouble().is_none()).await;
        proven(&[&one.stop().await]);
    }
}

/// Cannot be opened until it is told to.
struct Stubborn(Arc<AtomicBool>, MemoryStorage);

impl AuditPlace for Stubborn {
    fn storage(&self) -> io::Result<Box<dyn greylag_governance::audit::AuditStorage>> {
        match self.0.load(Ordering::Relaxed) {
            true => Ok(Box::new(self.1.clone())),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_opened_is_tried_again_and_until_then_nothing_is_admitted() {
    let (well, disk) = (Arc::new(AtomicBool::new(false)), MemoryStorage::default());
    let place = Arc::new(Stubborn(well.clone(), disk.clone()));
    let log = Arc::new(FakeLog(NodeId(1), Arc::default()));
    let parts = AuditParts { config: AuditConfig::default(), place };
    let audit = Arc::new(Audit::new(&parts, log, Bound::named("audit.waiting_records_max", "", WAITING_RECORDS_MAX)));
    audit.open().await;
    assert_eq!(audit.admit().err().map(|e| e.code), Some(ErrorCode::AuditUnavailable));
    let one = Node { audit: audit.clone(), disk, task: tokio::spawn(drive(audit.clone())) };
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(audit.admit().err().map(|e| e.code), Some(ErrorCode::AuditUnavailable));
    well.store(true, Ordering::Relaxed);
    one.until(|audit| audit.trouble().is_none()).await;
    audit.record_durably(change("a")).await.unwrap();
    proven(&[&one.stop().await]);
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_of_the_folder_and_another_chain_in_the_log_stop_the_node() {
    let shared = Arc::new(Shared::default());
    let one = node(1, &shared, MemoryStorage::default(), AuditConfig::default()).await;
    one.audit.record_durably(change("a")).await.unwrap();
    let old = one.disk.copied();
    one.audit.record_durably(change("b")).await.unwrap();
    one.stop().await;
    let two = node(1, &shared, old.copied(), AuditConfig::default()).await;
    let refused = two.audit.admit().err().unwrap();
    assert!(refused.code == ErrorCode::AuditUnavailable && refused.message.contains("an old copy"), "{refused}");
    two.task.abort();

    // The log tells it only later.
    let late = Arc::new(Shared::default());
    let three = node(1, &late, old, AuditConfig::default()).await;
    three.audit.record_durably(change("c")).await.unwrap();
    lock(&late.heads).insert(NodeId(1), lock(&shared.heads)[&NodeId(1)]);
    let known = AuditHead { sequence: 1_000, ..lock(&shared.heads)[&NodeId(1)] };
    lock(&late.heads).insert(NodeId(1), known);
    three.until(|audit| audit.trouble().is_some()).await;
    assert!(three.audit.admit().is_err());
    three.task.abort();
}

#[tokio::test(start_paused = true)]
async fn old_files_go_when_they_are_vouched_for_and_what_they_said_of_others_stays() {
    let shared = Arc::new(Shared::default());
    let small = AuditConfig { file_bytes_max: 4096, keep_bytes_max: Some(8192), ..AuditConfig::default() };
    let one = node(1, &shared, MemoryStorage::default(), small).await;
    let two = node(2, &shared, MemoryStorage::default(), AuditConfig::default()).await;
    two.audit.record_durably(change("two")).await.unwrap();
    let head = two.audit.head().unwrap();
    for n in 0..200 {
        one.audit.record_durably(change(&n.to_string())).await.unwrap();
    }
    let total = |node: &Node| lock(&node.audit.chain).as_ref().map_or(0, |log| log.bytes());
    assert!(total(&one) > 50_000);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!(total(&one) <= 8192 + 4096, "{}", total(&one));
    let (first, second) = (one.stop().await, two.stop().await);
    let report = proven(&[&first, &second]);
    assert!(report.chains[0].first > 100);
    assert!(report.chains[1].vouched.as_ref().is_some_and(|v| v.upto >= head.sequence));
}

#[tokio::test(start_paused = true)]
async fn room_is_bounded_and_off_keeps_nothing() {
    let shared = Arc::new(Shared::default());
    let one = node(1, &shared, MemoryStorage::default(), AuditConfig::default()).await;
    let mut admitted: Vec<Admission> = (0..WAITING_RECORDS_MAX).map(|_| one.audit.admit().unwrap()).collect();
    assert_eq!(one.audit.admit().err().map(|e| e.code), Some(ErrorCode::AuditUnavailable));
    admitted.pop().unwrap().record(change("a"));
    one.until(|audit| audit.waiting.used() < WAITING_RECORDS_MAX).await;
    admitted.push(one.audit.admit().unwrap());
    admitted.into_iter().for_each(|admission| admission.record(change("x")));
    one.until(|audit| audit.waiting.used() == 0).await;
    assert_eq!(one.audit.recent().len(), RECENT_RECORDS_MAX);
    one.stop().await;

    let off = AuditConfig { mode: AuditMode::Off, ..AuditConfig::default() };
    let two = node(2, &shared, MemoryStorage::default(), off).await;
    two.audit.admit().unwrap().record(change("a"));
    two.audit.record_durably(change("b")).await.unwrap();
    assert!(two.audit.recent().is_empty() && two.audit.head().is_none());
    let disk = two.stop().await;
    assert_eq!(greylag_governance::audit::segment_files(&disk).unwrap(), []);
}
