//! The store against openraft's own suite, against power cuts in the middle of anything, and against `kill -9` of a real
//! process on a real disk.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader},
    process::{Command as Process, Stdio},
    sync::Arc,
    time::Duration,
};

use greylag_protocol::{
    NodeId,
    state::{Command, ControlState},
};
use openraft::{
    EntryPayload, RaftLogReader, StorageError,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
    vote::{RaftLeaderId, leader_id_adv::LeaderId},
};

use super::{
    database::{self, Content},
    log::LogStore,
    machine::Machine,
    types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote},
    world::{MemoryDisk, seams},
    writer::{Place, Writer},
};
use crate::{
    health::DiskWatch,
    seams::{Disk, Seams},
    state::encode_snapshot,
};

struct Store {
    log: LogStore,
    machine: Machine,
    writer: Writer,
    watch: Arc<DiskWatch>,
}

fn open(seams: &Seams) -> Store {
    let (database, mut content) = database::open(seams.disk.as_ref(), "raft.redb", NodeId(1)).unwrap();
    let (disk, blocking) = (seams.disk.clone(), seams.blocking.clone());
    let watch = DiskWatch::new(Duration::from_millis(500));
    let writer = Writer::start(database, Place { disk, name: "raft.redb", blocking, watch: watch.clone() });
    let machine = Machine::new(content.snapshot.take(), writer.clone()).unwrap();
    Store { log: LogStore::new(content, writer.clone()), machine, writer, watch }
}

fn content(disk: &dyn Disk) -> Content {
    database::open(disk, "raft.redb", NodeId(1)).unwrap().1
}

fn entry(index: u64) -> Entry {
    let command = Command::RevokeGrant { id: "x".repeat(1 + index as usize % 3000) };
    Entry::new(log_id(index), EntryPayload::Normal(command))
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 1).to_committed(), index)
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, ()> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let store = open(&seams(MemoryDisk::default()));
        Ok(((), store.log, store.machine))
    }
}

#[tokio::test]
async fn openrafts_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn everything_is_there_after_a_reopen() {
    let disk = MemoryDisk::default();
    let mut store = open(&seams(disk.clone()));
    store.log.save_vote(&Vote::new(3, 2)).await.unwrap();
    for index in 0..10 {
        append(&mut store.log, index).await;
    }
    store.log.save_committed(Some(log_id(7))).await.unwrap();
    store.log.truncate_after(Some(log_id(8))).await.unwrap();
    let state = ControlState { next_node: 9, ..ControlState::default() };
    let meta = SnapshotMeta { last_log_id: Some(log_id(4)), last_membership: StoredMembership::default() };
    store.machine.install_snapshot(&meta, encode_snapshot(&state).unwrap()).await.unwrap();
    store.log.purge(log_id(3)).await.unwrap();
    store.writer.close().await;
    assert!(store.log.save_vote(&Vote::new(4, 2)).await.is_err(), "a closed log takes nothing");

    let mut store = open(&seams(disk.clone()));
    assert_eq!(store.log.read_vote().await.unwrap(), Some(Vote::new(3, 2)));
    assert_eq!(store.log.read_committed().await.unwrap(), Some(log_id(7)));
    let logs = store.log.get_log_state().await.unwrap();
    assert_eq!((logs.last_purged_log_id, logs.last_log_id), (Some(log_id(3)), Some(log_id(8))));
    assert_eq!(store.log.try_get_log_entries(..).await.unwrap(), (4..=8).map(entry).collect::<Vec<_>>());
    assert_eq!(store.machine.applied_state().await.unwrap().0, Some(log_id(4)));
    assert_eq!(**store.machine.watch().borrow(), state);
    store.writer.close().await;

    let other = database::open(&disk, "raft.redb", NodeId(2)).unwrap_err();
    assert!(other.message.contains("not this node's log"), "{other}");
}

#[tokio::test]
async fn a_file_whose_making_was_cut_short_is_made_anew_and_a_damaged_one_is_not() {
    for bytes in [1, 9, 4096, 1 << 20] {
        let disk = MemoryDisk::default();
        disk.database("raft.redb").unwrap().set_len(bytes).unwrap();
        assert!(content(&disk).entries.is_empty(), "{bytes} bytes without a head");
        disk.database("raft.redb").unwrap().write(0, &[0; 9]).unwrap();
        let error = database::open(&disk, "raft.redb", NodeId(1)).unwrap_err();
        assert!(error.message.contains("could not be opened"), "{error}");
    }
}

#[tokio::test]
async fn a_snapshot_never_replaces_a_newer_one() {
    let disk = MemoryDisk::default();
    let mut store = open(&seams(disk.clone()));
    let data = encode_snapshot(&ControlState::default()).unwrap();
    for index in [8, 5] {
        let meta = SnapshotMeta { last_log_id: Some(log_id(index)), last_membership: StoredMembership::default() };
        store.machine.install_snapshot(&meta, data.clone()).await.unwrap();
    }
    store.writer.close().await;
    assert_eq!(content(&disk).snapshot.unwrap().0.last_log_id, Some(log_id(8)));
}

#[tokio::test]
async fn writes_queued_together_share_a_sync() {
    let disk = MemoryDisk::default();
    let mut store = open(&seams(disk.clone()));
    let before = disk.syncs();
    let mut waiting = Vec::new();
    for index in 0..100 {
        let (done, durable) = TypeConfig::oneshot();
        store.log.append([entry(index)], IOFlushed::signal(done)).await.unwrap();
        waiting.push(durable);
    }
    for durable in waiting {
        durable.await.unwrap().unwrap();
    }
    let syncs = disk.syncs() - before;
    assert!(syncs <= 4, "{syncs} syncs for 100 appends");
}

#[tokio::test]
async fn a_peer_is_sent_no_more_than_fits() {
    let mut store = open(&seams(MemoryDisk::default()));
    let large = |index| {
        let command = Command::RevokeGrant { id: "x".repeat(1 << 20) };
        Entry::new(log_id(index), EntryPayload::Normal(command))
    };
    store.log.append((0..10).map(large), IOFlushed::noop()).await.unwrap();
    let sent = store.log.limited_get_log_entries(2, 10).await.unwrap();
    assert_eq!(sent.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(store.log.try_get_log_entries(2..10).await.unwrap().len(), 8);
}

async fn append(log: &mut LogStore, index: u64) {
    try_append(log, index).await.unwrap();
}

async fn try_append(log: &mut LogStore, index: u64) -> std::io::Result<()> {
    let (done, durable) = TypeConfig::oneshot();
    log.append([entry(index)], IOFlushed::signal(done)).await?;
    durable.await.unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))
}

/// Appends, votes, truncates, purges and snapshots until the power fails somewhere; then everything that was
/// acknowledged is there and nothing is torn.
#[tokio::test]
async fn a_power_cut_loses_nothing_acknowledged() {
    let mut unacknowledged = 0;
    for seed in 1..=120u64 {
        let disk = MemoryDisk::seeded(seed);
        let (mut next, mut purged, mut vote) = (0u64, None, 0u64);
        for round in 0..4 {
            let mut store = open(&seams(disk.clone()));
            disk.power_off_after(seed * 7 % 150 + round * 11);
            while !disk.is_off() {
                if try_append(&mut store.log, next).await.is_err() {
                    break;
                }
                next += 1;
                if next.is_multiple_of(5) && store.log.save_vote(&Vote::new(vote + 1, 1)).await.is_ok() {
                    vote += 1;
                }
                if next.is_multiple_of(9) {
                    let meta = SnapshotMeta {
                        last_log_id: Some(log_id(next - 3)),
                        last_membership: StoredMembership::default(),
                    };
                    let data = encode_snapshot(&ControlState::default()).unwrap();
                    if store.machine.install_snapshot(&meta, data).await.is_ok() {
                        store.log.purge(log_id(next - 3)).await.ok();
                        purged = Some(next - 3);
                    }
                }
            }
            disk.power_off();
            drop(store);
            // Its writer closes the dead file before the power comes back.
            tokio::time::sleep(Duration::from_millis(1)).await;
            disk.power_on();
            let found = content(&disk);
            let last = found.entries.last_key_value().map(|(index, _)| *index).or(found.purged.map(|id| id.index));
            let last = last.map_or(0, |index| index + 1);
            assert!(last == next || last == next + 1, "seed {seed}: {last} entries, {next} acknowledged");
            unacknowledged += last - next;
            next = last;
            assert!(found.entries.iter().all(|(index, (e, _))| *e == entry(*index)), "seed {seed}");
            let found_vote = found.vote.map_or(0, |v| v.leader_id.term);
            assert!(found_vote == vote || found_vote == vote + 1, "seed {seed}");
            vote = found_vote;
            if let Some(purged) = purged {
                let covered = found.snapshot.unwrap().0.last_log_id.unwrap().index;
                assert!(covered >= purged && found.purged.is_none_or(|id| id.index <= covered), "seed {seed}");
            }
        }
    }
    // Some cuts must have fallen between durable and acknowledged, or the test cuts nothing.
    assert!(unacknowledged > 0);
}

const CHILD: &str = "GREYLAG_TEST_APPEND_UNTIL_KILLED";

/// Not a test of its own: the process that [`kill_minus_nine_loses_nothing_acknowledged`] kills.
#[tokio::test]
async fn child_appends_until_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut store = open(&Seams::real(dir.into()).unwrap());
    let state = store.log.get_log_state().await.unwrap();
    let mut next = state.last_log_id.map_or(0, |id| id.index + 1);
    store.log.save_vote(&Vote::new(7, 1)).await.unwrap();
    loop {
        append(&mut store.log, next).await;
        println!("acknowledged {next}");
        next += 1;
    }
}

#[test]
fn kill_minus_nine_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = None;
    for _ in 0..3 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "raft::store_test::child_appends_until_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = 0;
        for line in lines {
            if let Some(index) = line.split("acknowledged ").nth(1) {
                last = Some(index.parse::<u64>().unwrap());
                seen += 1;
            }
            if seen == 40 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 40, "the child appended {seen}");
        let seams = Seams::real(dir.path().to_owned()).unwrap();
        let content = content(seams.disk.as_ref());
        let found = content.entries.last_key_value().map(|(index, _)| *index);
        assert!(found >= last, "{last:?} was acknowledged, {found:?} is there");
        assert!(content.entries.iter().all(|(index, (e, _))| *e == entry(*index)));
        assert_eq!(content.vote, Some(Vote::new(7, 1)));
    }
}

#[tokio::test]
async fn a_failed_disk_is_told_to_everybody() {
    let disk = MemoryDisk::default();
    let mut store = open(&seams(disk.clone()));
    append(&mut store.log, 0).await;
    disk.power_off();
    assert!(try_append(&mut store.log, 1).await.is_err());
    assert!(store.log.save_vote(&Vote::new(1, 1)).await.is_err());
    let meta = SnapshotMeta { last_log_id: Some(log_id(0)), last_membership: StoredMembership::default() };
    let data = encode_snapshot(&ControlState::default()).unwrap();
    assert!(store.machine.install_snapshot(&meta, data).await.is_err());
    assert!(store.machine.get_current_snapshot().await.unwrap().is_none());
}

#[tokio::test]
async fn a_disk_without_space_is_waited_for_and_nothing_is_lost_or_acknowledged_meanwhile() {
    let disk = MemoryDisk::default();
    let mut store = open(&seams(disk.clone()));
    append(&mut store.log, 0).await;
    for round in 1..4u64 {
        disk.set_full(true);
        let mut log = store.log.clone();
        let mut appending = tokio::spawn(async move { append(&mut log, round).await });
        let early = tokio::time::timeout(Duration::from_millis(700), &mut appending).await;
        assert!(early.is_err(), "it was acknowledged, or has failed");
        assert!(store.watch.is_refusing());
        disk.set_full(false);
        tokio::time::timeout(Duration::from_secs(10), appending).await.unwrap().unwrap();
        assert!(!store.watch.is_refusing());
    }
    store.log.save_vote(&Vote::new(4, 1)).await.unwrap();
    // Who closes it meanwhile does not wait for space.
    disk.set_full(true);
    let mut log = store.log.clone();
    let waiting = tokio::spawn(async move { try_append(&mut log, 4).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::time::timeout(Duration::from_secs(10), store.writer.close()).await.unwrap();
    assert!(waiting.await.unwrap().is_err());
    disk.set_full(false);
    let content = content(&disk);
    assert_eq!(content.entries.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(content.vote, Some(Vote::new(4, 1)));
}

/// What redb itself does on a file system that is really full. Needs to mount one, so it runs as root alone, on demand:
/// `cargo test -p greylag-cluster --lib -- --ignored a_real_disk`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a small tmpfs"]
async fn a_real_disk_that_is_full_corrupts_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mount = |program: &str, args: &[&str]| Process::new(program).args(args).arg(root.path()).status().unwrap();
    assert!(mount("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).success());
    let path = root.path().join("data");
    let full = root.path().join("ballast");
    let mut acknowledged = 0;
    for round in 0..5u64 {
        let mut store = open(&Seams::real(path.clone()).unwrap());
        for _ in 0..20 {
            append(&mut store.log, acknowledged).await;
            acknowledged += 1;
        }
        // Everything but a little is taken: the next entries run into the end at some other place each time.
        let free = rustix::fs::statvfs(root.path()).unwrap();
        let ballast = (free.f_bavail * free.f_frsize).saturating_sub(round * 4096) as usize;
        let _ = std::fs::write(&full, vec![1; ballast]);
        let mut log = store.log.clone();
        let from = acknowledged;
        let appending = tokio::spawn(async move {
            for index in from..from + 400 {
                append(&mut log, index).await;
            }
        });
        let since = std::time::Instant::now();
        while !store.watch.is_refusing() {
            assert!(since.elapsed() < Duration::from_secs(30), "it never was full");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if round % 2 == 0 {
            // It goes on where it was.
            std::fs::remove_file(&full).unwrap();
            tokio::time::timeout(Duration::from_secs(30), appending).await.unwrap().unwrap();
            store.writer.close().await;
        } else {
            // It is stopped while it is full, and started when there is space: what was acknowledged is there.
            store.writer.close().await;
            assert!(appending.await.is_err());
            std::fs::remove_file(&full).unwrap();
        }
        drop(store);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let seams = Seams::real(path.clone()).unwrap();
        let found = content(seams.disk.as_ref());
        let last = *found.entries.keys().next_back().unwrap();
        assert!(last + 1 >= acknowledged, "entry {acknowledged} was acknowledged, the last is {last}");
        acknowledged = last + 1;
    }
    assert!(mount("umount", &[]).success());
}
