#![allow(clippy::unwrap_used, clippy::panic)]

//! Chains of several nodes that vouch for each other, tampered with at random: whatever is done to what is vouched for is
//! named, and what nobody has touched is clean.

use std::collections::BTreeMap;

use greylag_protocol::NodeId;
use proptest::prelude::*;

use super::{
    super::{
        AuditLog, AuditRecord, Began, HeadSeen, HeadsRecord, Line, MemoryStorage, Opening, RecordHash, Retention,
        Rotation,
        fixture::{self, chain, open, opening, record},
        segment_files,
    },
    *,
};

const T0: u64 = 1_700_000_000_000;
const NODES: u64 = 3;

struct Mesh {
    folders: BTreeMap<u64, MemoryStorage>,
    /// The last record of each node that another one vouches for.
    vouched: BTreeMap<u64, u64>,
}

impl Mesh {
    fn write_heads(&mut self, logs: &mut BTreeMap<u64, AuditLog>, node: u64, now: u64) {
        let heads: Vec<HeadSeen> = logs.values().map(|log| log.head().into()).collect();
        for head in heads.iter().filter(|head| head.node.0 != node) {
            self.vouched.insert(head.node.0, head.sequence);
        }
        let record = AuditRecord::Heads(HeadsRecord { at_unix_ms: now, heads });
        logs.get_mut(&node).unwrap().append(now, vec![record]).unwrap();
    }
}

/// What happens: to node `0`, this.
#[derive(Debug, Clone)]
enum Event {
    Statements(u64, u64),
    /// The node writes down the heads of all.
    Heads(u64),
    Reopen(u64, bool),
    Retire(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = || 1..=NODES;
    let event = prop_oneof![
        5 => (node(), 1u64..6).prop_map(|(node, count)| Event::Statements(node, count)),
        3 => node().prop_map(Event::Heads),
        1 => (node(), any::<bool>()).prop_map(|(node, clean)| Event::Reopen(node, clean)),
        1 => node().prop_map(Event::Retire),
    ];
    proptest::collection::vec(event, 4..40)
}

fn play(events: &[Event]) -> Mesh {
    let rotation = Rotation { bytes_max: 4000, age_ms_max: u64::MAX };
    let of = |node| Opening { rotation, ..opening(node) };
    let mut mesh = Mesh { folders: BTreeMap::new(), vouched: BTreeMap::new() };
    let mut logs = BTreeMap::new();
    for node in 1..=NODES {
        let storage = MemoryStorage::default();
        logs.insert(node, open(&storage, of(node)).unwrap());
        mesh.folders.insert(node, storage);
    }
    for (number, event) in events.iter().enumerate() {
        let now = T0 + number as u64;
        match *event {
            Event::Statements(node, count) => {
                let records = (0..count).map(|n| record(number as u64 * 10 + n)).collect();
                logs.get_mut(&node).unwrap().append(now, records).unwrap();
            }
            Event::Heads(node) => mesh.write_heads(&mut logs, node, now),
            Event::Reopen(node, clean) => {
                if clean {
                    logs.get_mut(&node).unwrap().close(now).unwrap();
                }
                let known = Some(logs[&node].head());
                logs.insert(node, open(&mesh.folders[&node], Opening { known, ..of(node) }).unwrap());
            }
            Event::Retire(node) => {
                // What it has said of others in the files that go.
                mesh.write_heads(&mut logs, node, now);
                let all = Retention { bytes_max: Some(0), age_ms_max: None };
                let anchored = mesh.vouched.get(&node).copied().unwrap_or_default();
                logs.get_mut(&node).unwrap().retire(now, anchored, all).unwrap();
            }
        }
    }
    mesh
}

fn proven(mesh: &Mesh) -> Report {
    let copies: Vec<Copy<'_>> =
        mesh.folders.iter().map(|(node, files)| Copy { label: format!("n{node}"), files }).collect();
    verify(&copies, &Knowledge::default()).unwrap()
}

/// All lines of a folder, with their ends: file and text.
fn lines(files: &MemoryStorage) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (_, name) in segment_files(files).unwrap() {
        let content = files.content(&name).unwrap();
        all.extend(content.split_inclusive(|b| *b == b'\n').map(|line| (name.clone(), line.to_vec())));
    }
    all
}

fn put(files: &MemoryStorage, lines: &[(String, Vec<u8>)]) {
    for (_, name) in segment_files(files).unwrap() {
        files.put(&name, None);
    }
    let mut contents: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (name, line) in lines {
        contents.entry(name).or_default().extend(line);
    }
    for (name, content) in contents {
        files.put(name, Some(content));
    }
}

fn sequence_of(line: &[u8]) -> u64 {
    Line::read(line.strip_suffix(b"\n").unwrap()).unwrap().sequence
}

#[derive(Debug, Clone, Copy)]
enum Tampering {
    Flip {
        byte: prop::sample::Index,
        bit: u8,
    },
    Delete,
    DeleteFile,
    Swap {
        with: prop::sample::Index,
    },
    Double {
        to: prop::sample::Index,
    },
    /// A record that has never been, with the right hash for its place.
    Insert,
    /// This record is another one, and all after it are hashed anew.
    Rewrite,
    Cut,
    /// Within a line.
    CutInside {
        at: prop::sample::Index,
    },
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), 0u8..8).prop_map(|(byte, bit)| Tampering::Flip { byte, bit }),
        1 => Just(Tampering::Delete),
        1 => Just(Tampering::DeleteFile),
        1 => index().prop_map(|with| Tampering::Swap { with }),
        1 => index().prop_map(|to| Tampering::Double { to }),
        1 => Just(Tampering::Insert),
        2 => Just(Tampering::Rewrite),
        1 => Just(Tampering::Cut),
        1 => index().prop_map(|at| Tampering::CutInside { at }),
    ]
}

/// Hashes the lines from `from` on anew, as one would who wants to hide what was done.
fn rehash(node: u64, lines: &mut [(String, Vec<u8>)], from: usize) {
    for at in from..lines.len() {
        let previous = match at.checked_sub(1) {
            Some(before) => Line::read(lines[before].1.strip_suffix(b"\n").unwrap()).unwrap().hash,
            None => Line::read(lines[at].1.strip_suffix(b"\n").unwrap()).unwrap().previous,
        };
        let old = lines[at].1.clone();
        let line = Line::read(old.strip_suffix(b"\n").unwrap()).unwrap();
        let hash = chain(node).hash(line.sequence, &previous, line.record);
        lines[at].1.clear();
        Line { previous, hash, ..line }.write(&mut lines[at].1);
    }
}

/// Does it, and says which records must be named, if any must: at least one finding must be about one of them.
fn tamper(files: &MemoryStorage, node: u64, vouched: u64, at: prop::sample::Index, how: Tampering) -> Option<Vec<u64>> {
    let mut all = lines(files);
    let at = at.index(all.len());
    let sequence = sequence_of(&all[at].1);
    let last = all.len() - 1;
    let named = match how {
        Tampering::Flip { byte, bit } => {
            let byte = byte.index(all[at].1.len());
            all[at].1[byte] ^= 1 << bit;
            Some(vec![sequence])
        }
        Tampering::Delete => {
            all.remove(at);
            (at < last || sequence <= vouched).then_some(vec![sequence])
        }
        Tampering::DeleteFile => {
            let name = all[at].0.clone();
            let gone: Vec<u64> = all.iter().filter(|(n, _)| *n == name).map(|(_, l)| sequence_of(l)).collect();
            all.retain(|(n, _)| *n != name);
            if all.is_empty() {
                return None;
            }
            let is_last = gone.contains(&(sequence_of(&lines(files)[last].1)));
            let expected: Vec<u64> = gone.iter().copied().filter(|s| !is_last || *s <= vouched).collect();
            (!expected.is_empty()).then_some(expected)
        }
        Tampering::Swap { with } => {
            let with = with.index(all.len());
            let (one, other) = (all[at].1.clone(), all[with].1.clone());
            (all[at].1, all[with].1) = (other, one);
            (at != with).then(|| vec![sequence, sequence_of(&all[at].1)])
        }
        Tampering::Double { to } => {
            let (to, copy) = (to.index(all.len() + 1), all[at].1.clone());
            let name = all[to.min(last)].0.clone();
            all.insert(to, (name, copy));
            Some(vec![sequence])
        }
        Tampering::Insert => {
            let text = serde_json::to_vec(&record(999_999)).unwrap();
            let line = Line::read(all[at].1.strip_suffix(b"\n").unwrap()).unwrap();
            let hash = chain(node).hash(sequence + 1, &line.hash, &text);
            let mut forged = Vec::new();
            Line { sequence: sequence + 1, previous: line.hash, hash, record: &text }.write(&mut forged);
            let name = all[at].0.clone();
            all.insert(at + 1, (name, forged));
            // After the last record it is what the node could have written itself.
            (at < last || sequence < vouched).then_some(vec![sequence, sequence + 1, sequence + 2])
        }
        Tampering::Rewrite => {
            let text = serde_json::to_vec(&record(999_999)).unwrap();
            let line = Line::read(all[at].1.strip_suffix(b"\n").unwrap()).unwrap();
            let (mut forged, previous, hash) = (Vec::new(), line.previous, line.hash);
            Line { sequence, previous, hash, record: &text }.write(&mut forged);
            all[at].1 = forged;
            rehash(node, &mut all, at);
            (sequence <= vouched).then_some(vec![sequence])
        }
        Tampering::Cut => {
            all.truncate(at.max(1));
            (at > 0 && sequence <= vouched).then_some(vec![sequence])
        }
        Tampering::CutInside { at: byte } => {
            all.truncate(at + 1);
            let byte = byte.index(all[at].1.len());
            all[at].1.truncate(byte);
            (sequence <= vouched).then_some(vec![sequence])
        }
    };
    put(files, &all);
    named
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn untouched_chains_are_clean_and_whatever_is_done_to_them_is_named(
        events in events(), node in 1..=NODES, at: prop::sample::Index, how in tampering(),
    ) {
        let mesh = play(&events);
        let report = proven(&mesh);
        prop_assert_eq!(&report.findings, &vec![]);
        for chain in &report.chains {
            let vouched = chain.vouched.as_ref().map_or(0, |v| v.upto);
            // Only what the first record follows from can be told of what has been removed.
            let expected = mesh.vouched.get(&chain.node.unwrap().0).copied().filter(|upto| upto + 1 >= chain.first);
            prop_assert_eq!(vouched, expected.unwrap_or(0));
        }

        let files = &mesh.folders[&node];
        let vouched = mesh.vouched.get(&node).copied().unwrap_or(0);
        if let Some(named) = tamper(files, node, vouched, at, how) {
            let report = proven(&mesh);
            let folder = format!("n{node}");
            let is_named = |f: &Finding| f.folder == folder && named.iter().any(|s| (f.first..=f.last).contains(s));
            prop_assert!(report.findings.iter().any(is_named), "{:?} {:?}: {:#?}", how, named, report.findings);
            prop_assert!(report.findings.iter().all(|f| f.folder == folder), "{:#?}", report.findings);
        }
    }
}

fn three() -> Mesh {
    play(&[Event::Statements(1, 5), Event::Statements(1, 5), Event::Statements(2, 2), Event::Heads(2)])
}

/// Fault, first and last of each finding after a change of node 1's lines.
fn found(change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<(Fault, u64, u64)> {
    let mesh = three();
    let mut all = lines(&mesh.folders[&1]);
    change(&mut all);
    put(&mesh.folders[&1], &all);
    proven(&mesh).findings.into_iter().map(|f| (f.fault, f.first, f.last)).collect()
}

#[test]
fn one_thing_that_is_done_is_one_finding() {
    use Fault::{Changed, Dropped, Forged, Reordered};
    assert_eq!(found(|_| ()), []);
    assert_eq!(found(|all| all[5].1[250] ^= 1), [(Changed, 6, 6)]);
    assert_eq!(found(|all| all[5].1[12] ^= 1), [(Changed, 6, 6)], "its number");
    assert_eq!(found(|all| all[0].1[200] ^= 1), [(Changed, 1, 1)], "whose it is");
    assert_eq!(found(|all| drop(all.remove(5))), [(Dropped, 6, 6)]);
    assert_eq!(found(|all| drop(all.drain(3..6))), [(Dropped, 4, 6)]);
    assert_eq!(found(|all| drop(all.remove(0))), [(Dropped, 1, 1)]);
    assert_eq!(found(|all| all.truncate(7)), [(Dropped, 8, 13)]);
    let swap = |a: usize, b: usize| {
        move |all: &mut Vec<(String, Vec<u8>)>| {
            let (one, other) = (all[a].1.clone(), all[b].1.clone());
            (all[a].1, all[b].1) = (other, one);
        }
    };
    assert_eq!(found(swap(3, 4)), [(Reordered, 5, 5)]);
    assert_eq!(found(swap(2, 6)), [(Reordered, 3, 3), (Reordered, 7, 7)]);
    let double = |all: &mut Vec<(String, Vec<u8>)>| all.insert(6, all[4].clone());
    assert_eq!(found(double), [(Forged, 5, 5)]);
    let forge = |all: &mut Vec<(String, Vec<u8>)>| rehash_as(all, 7, 12);
    assert_eq!(found(forge), [(Forged, 1, 13)], "from some record up to the first that is vouched for");
    let one = |all: &mut Vec<(String, Vec<u8>)>| rehash_as(all, 7, 7);
    assert_eq!(found(one), [(Forged, 8, 9)]);
}

/// Replaces record `at` and gives it and those up to `to` right hashes.
fn rehash_as(all: &mut [(String, Vec<u8>)], at: usize, to: usize) {
    let text = serde_json::to_vec(&record(999_999)).unwrap();
    let old = all[at].1.clone();
    let line = Line::read(old.strip_suffix(b"\n").unwrap()).unwrap();
    all[at].1.clear();
    Line { record: &text, ..line }.write(&mut all[at].1);
    let end = (to + 1).min(all.len());
    rehash(1, &mut all[..end], at);
}

#[test]
fn heads_from_outside_nodes_that_are_not_here_and_late_words_are_told_apart() {
    let mesh = three();
    let copies = |nodes: &[u64]| -> Vec<(String, MemoryStorage)> {
        nodes.iter().map(|n| (format!("n{n}"), mesh.folders[n].copied())).collect()
    };
    let prove = |folders: &[(String, MemoryStorage)], known: &Knowledge| {
        let copies: Vec<Copy<'_>> = folders.iter().map(|(label, files)| Copy { label: label.clone(), files }).collect();
        verify(&copies, known).unwrap()
    };
    let report = prove(&copies(&[2]), &Knowledge::default());
    assert_eq!((report.findings.len(), report.absent), (0, vec![NodeId(1), NodeId(3)]));

    let head = |node, sequence, byte| AuditHead { node: NodeId(node), sequence, hash: [byte; 32] };
    let given = Knowledge { heads: vec![head(3, 2, 9)], copied_unix_ms: None };
    let report = prove(&copies(&[1, 2, 3]), &given);
    let faults: Vec<_> = report.findings.iter().map(|f| (f.fault, f.node, f.last)).collect();
    assert_eq!(faults, [(Fault::Forged, Some(NodeId(3)), 2)]);

    let folders = copies(&[1, 2, 3]);
    let mut cut = lines(&folders[0].1);
    cut.truncate(9);
    put(&folders[0].1, &cut);
    assert_eq!(prove(&folders, &Knowledge::default()).findings.len(), 1);
    let early = Knowledge { copied_unix_ms: Some(T0 + 2), ..Knowledge::default() };
    assert_eq!(prove(&folders, &early).findings, [], "what n2 has said was said later");
}

#[test]
fn statements_without_an_end_and_crashes_are_shown() {
    let storage = MemoryStorage::default();
    let mut log = open(&storage, opening(1)).unwrap();
    let began = |n| {
        let facts = fixture::facts(n, "SELECT 1");
        AuditRecord::Began(Box::new(Began { at_unix_ms: T0, facts, cut: false }))
    };
    log.append(T0, vec![began(1), began(2), record(1)]).unwrap();
    open(&storage, opening(1)).unwrap();
    let report = verify(&[Copy { label: "x".into(), files: &storage }], &Knowledge::default()).unwrap();
    assert!(report.is_clean());
    let chain = &report.chains[0];
    assert_eq!((chain.unended.as_slice(), chain.unended_count), ([fixture::query(2)].as_slice(), 1));
    assert_eq!((chain.crashes, chain.vouched.clone()), (1, None));
}

#[test]
fn many_anchors_take_bounded_memory_and_the_last_still_counts() {
    let mut anchors = Anchors::given(&Knowledge::default(), std::iter::empty());
    let total = 3 * anchors::ANCHORS_MAX as u64 + 1;
    for sequence in 1..=total {
        let hash = RecordHash([if sequence == total { 7 } else { 1 }; 32]);
        anchors.say(chain(2), sequence, T0, &[HeadSeen { node: NodeId(1), sequence, hash }]);
    }
    let mut check = anchors.check(chain(1));
    let line = |sequence| Line { sequence, previous: RecordHash::NONE, hash: RecordHash([1; 32]), record: b"{}" };
    (1..=total).for_each(|sequence| check.pass(&line(sequence), "f", sequence));
    let (mut found, mut report) = (Found::default(), ChainReport::default());
    check.end(&mut found, &mut report);
    let [finding] = found.kept.as_slice() else { panic!("{found:?}") };
    assert_eq!((finding.fault, finding.last), (Fault::Forged, total));
    assert!(report.vouched.is_some_and(|v| v.upto < total && v.upto > total - 10));
}
