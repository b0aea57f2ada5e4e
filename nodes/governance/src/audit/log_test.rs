#![allow(clippy::unwrap_used, clippy::panic)]

//! The writer on good and bad disks: what was acknowledged is there, what was refused is not, and what is found wrong is
//! left as it is.

use greylag_protocol::{ErrorCode, NodeId, state::AuditHead};

use super::{
    fixture::{self, ROTATION, open, opening, record},
    verify::{Copy, Knowledge, verify},
    *,
};

const T0: u64 = 1_700_000_000_000;

fn names(storage: &MemoryStorage) -> Vec<String> {
    segment_files(storage).unwrap().into_iter().map(|(_, name)| name).collect()
}

fn assert_clean(storage: &MemoryStorage) -> verify::ChainReport {
    let mut report = verify(&[Copy { label: "n1".into(), files: storage }], &Knowledge::default()).unwrap();
    assert_eq!(report.findings, []);
    report.chains.remove(0)
}

fn queries(storage: &MemoryStorage) -> Vec<u64> {
    let mut found = Vec::new();
    for name in names(storage) {
        for entry in Entries::of(storage, &name).unwrap() {
            if let Some(AuditRecord::Statement(r)) = entry.unwrap().record() {
                found.push(r.at_unix_ms - T0);
            }
        }
    }
    found
}

#[test]
fn a_batch_is_one_write_and_one_sync_and_the_chain_goes_on_after_reopening() {
    let storage = MemoryStorage::default();
    let mut log = open(&storage, opening(1)).unwrap();
    assert_eq!(log.head().sequence, 2, "whose it is, and that it was opened");
    let syncs = storage.syncs();
    let head = log.append(T0, (1..=5).map(record).collect()).unwrap();
    assert_eq!((head.sequence, storage.syncs() - syncs), (7, 1));
    assert_eq!(log.close(T0 + 9).unwrap().sequence, 8);

    let known = Some(log.head());
    let mut again = open(&storage, Opening { known, ..opening(1) }).unwrap();
    again.append(T0, vec![record(6)]).unwrap();
    let report = assert_clean(&storage);
    assert_eq!((report.first, report.last, report.records, report.crashes), (1, 10, 10, 0));
    assert_eq!(queries(&storage), [1, 2, 3, 4, 5, 6]);
    let too_many = again.append(T0, vec![record(1); BATCH_RECORDS_MAX + 1]).unwrap_err();
    assert_eq!((too_many.code, again.head().sequence), (ErrorCode::Internal, 10));
}

#[test]
fn a_full_or_failing_disk_refuses_and_leaves_nothing_behind() {
    let ills = [
        (Ills { room: Some(700), ..Ills::default() }, ErrorCode::DiskFull),
        (Ills { room: Some(0), ..Ills::default() }, ErrorCode::DiskFull),
        (Ills { sync_fails: true, ..Ills::default() }, ErrorCode::AuditUnavailable),
        (Ills { room: Some(700), truncate_fails: true, ..Ills::default() }, ErrorCode::DiskFull),
    ];
    // In the middle of a file, and where one is begun.
    for rotation in [ROTATION, Rotation { bytes_max: 1, ..ROTATION }] {
        for (bad, code) in ills {
            let storage = MemoryStorage::default();
            let mut log = open(&storage, Opening { rotation, ..opening(1) }).unwrap();
            log.append(T0, vec![record(1)]).unwrap();
            let before = log.head();
            storage.set_ills(bad);
            assert_eq!(log.append(T0, vec![record(2), record(3)]).unwrap_err().code, code, "{bad:?}");
            assert_eq!(log.head(), before);
            if bad.truncate_fails && rotation == ROTATION {
                storage.set_ills(Ills { truncate_fails: true, ..Ills::default() });
                let refused = log.append(T0, vec![record(4)]).unwrap_err();
                assert_eq!(refused.code, ErrorCode::AuditUnavailable, "nothing is added after what cannot be cut");
            }
            storage.set_ills(Ills::default());
            log.append(T0, vec![record(5)]).unwrap();
            assert_eq!(queries(&storage), [1, 5], "{bad:?}");
            assert_clean(&storage);
            open(&storage, Opening { known: Some(log.head()), ..opening(1) }).unwrap();
        }
    }
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there_and_an_unfinished_end_is_repaired() {
    for rotation in [ROTATION, Rotation { bytes_max: 1, ..ROTATION }] {
        for kept in (0..1500).step_by(7) {
            let storage = MemoryStorage::default();
            let mut log = open(&storage, Opening { rotation, ..opening(1) }).unwrap();
            let acknowledged = log.append(T0, vec![record(1)]).unwrap();
            // The write gets through and the sync does not; nothing is cut back before the power fails.
            storage.set_ills(Ills { sync_fails: true, truncate_fails: true, ..Ills::default() });
            log.append(T0, vec![record(2)]).unwrap_err();
            storage.set_ills(Ills::default());
            storage.cut_power(kept);
            assert_clean(&storage);

            let log = open(&storage, Opening { known: Some(acknowledged), rotation, ..opening(1) }).unwrap();
            assert!(log.head().sequence > acknowledged.sequence);
            assert_eq!(queries(&storage)[0], 1);
            let report = assert_clean(&storage);
            assert_eq!((report.unfinished_bytes, report.crashes), (0, 1), "{kept}");
        }
    }
}

#[test]
fn after_a_power_cut_that_leaves_a_hole_everything_acknowledged_is_there_and_the_rest_is_kept_aside() {
    for rotation in [ROTATION, Rotation { bytes_max: 1, ..ROTATION }] {
        for (from, length) in (0..2500).step_by(61).flat_map(|from| [1, 40, 512, 4096].map(|length| (from, length))) {
            let storage = MemoryStorage::default();
            let mut log = open(&storage, Opening { rotation, ..opening(1) }).unwrap();
            let acknowledged = log.append(T0, vec![record(1)]).unwrap();
            let before = names(&storage);
            storage.set_ills(Ills { sync_fails: true, truncate_fails: true, ..Ills::default() });
            log.append(T0, (2..=5).map(record).collect()).unwrap_err();
            storage.set_ills(Ills::default());
            let whole: Vec<_> = names(&storage).iter().map(|name| storage.content(name)).collect();
            storage.tear(from..from + length);
            let torn: Vec<_> = names(&storage).iter().map(|name| storage.content(name)).collect();

            let log = open(&storage, Opening { known: Some(acknowledged), rotation, ..opening(1) }).unwrap();
            assert!(log.head().sequence > acknowledged.sequence);
            assert_eq!(queries(&storage)[0], 1);
            assert_eq!(assert_clean(&storage).repaired_bytes > 0, torn != whole, "{from} {length}");
            // A whole record behind the hole is not thrown away.
            let aside = storage.list().unwrap().into_iter().filter(|name| name.ends_with(".torn"));
            let kept: Vec<Vec<u8>> = aside.filter_map(|name| storage.content(&name)).collect();
            assert!(kept.len() <= 1, "{from} {length}");
            let last_is_whole = torn != whole && torn.last().unwrap().as_ref().unwrap().ends_with(b"}\n");
            assert_eq!(last_is_whole, kept.first().is_some_and(|kept| kept.ends_with(b"}\n")), "{from} {length}");
            assert!(before.iter().all(|name| storage.content(name).is_some()), "{from} {length}");
        }
    }
}

#[test]
fn nothing_else_is_repaired() {
    let storage = MemoryStorage::default();
    let mut log = open(&storage, Opening { rotation: Rotation { bytes_max: 2500, ..ROTATION }, ..opening(1) }).unwrap();
    for n in 1..=9 {
        log.append(T0, vec![record(n)]).unwrap();
    }
    let names = names(&storage);
    let (first, last) = (&names[0], names.last().unwrap());
    assert!(names.len() >= 3);
    let refuses = |why: &str, change: &dyn Fn(&MemoryStorage)| {
        let copy = storage.copied();
        change(&copy);
        let before: Vec<_> = self::names(&copy).iter().map(|n| copy.content(n)).collect();
        let error = open(&copy, Opening { known: Some(log.head()), ..opening(1) }).unwrap_err();
        assert_eq!(error.code, ErrorCode::AuditUnavailable);
        assert!(error.message.contains(why), "{why}: {error}");
        assert_eq!(before, self::names(&copy).iter().map(|n| copy.content(n)).collect::<Vec<_>>());
    };
    let edit = |copy: &MemoryStorage, name: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut content = copy.content(name).unwrap();
        edit(&mut content);
        copy.put(name, Some(content));
    };
    refuses("does not follow", &|copy| edit(copy, last, &|bytes| *bytes.iter_mut().nth_back(5).unwrap() ^= 1));
    refuses("no record begins so", &|copy| edit(copy, last, &|bytes| *bytes.last_mut().unwrap() = b'x'));
    refuses("an old copy", &|copy| edit(copy, last, &|bytes| *bytes.iter_mut().nth_back(5).unwrap() = 0));
    refuses("an old copy", &|copy| copy.put(last, None));
    refuses("an old copy", &|copy| {
        edit(copy, last, &|bytes| {
            bytes.pop();
        });
    });
    refuses("does not begin as a record", &|copy| edit(copy, first, &|bytes| bytes[0] = b' '));
    refuses("its hash is wrong", &|copy| edit(copy, first, &|bytes| bytes[100] = b'0' + (bytes[100] == b'0') as u8));
    refuses("it is empty", &|copy| {
        copy.put(&names[1], Some(vec![]));
    });
}

#[test]
fn a_hole_before_what_the_last_write_can_have_been_is_left_for_people() {
    let storage = MemoryStorage::default();
    let mut log =
        open(&storage, Opening { rotation: Rotation { bytes_max: u64::MAX, ..ROTATION }, ..opening(1) }).unwrap();
    for _ in 0..2 {
        log.append(T0, vec![record(1); BATCH_RECORDS_MAX]).unwrap();
    }
    let name = names(&storage).remove(0);
    let mut content = storage.content(&name).unwrap();
    let first_write = content.len() / 3;
    content[first_write..first_write + 40].fill(0);
    storage.put(&name, Some(content.clone()));
    let error = open(&storage, opening(1)).unwrap_err();
    assert!(error.message.contains("more after it than one write leaves"), "{error}");
    assert_eq!(storage.content(&name), Some(content));
}

#[test]
fn a_folder_of_somebody_else_or_of_another_time_is_told() {
    let storage = MemoryStorage::default();
    let mut log = open(&storage, opening(1)).unwrap();
    let early = log.append(T0, vec![record(1)]).unwrap();
    let head = log.append(T0, vec![record(2)]).unwrap();
    let told = |opening: Opening, storage: &MemoryStorage| open(storage, opening).unwrap_err().message;
    assert!(told(opening(2), &storage).contains("it is of n1"));
    let later = AuditHead { sequence: head.sequence + 1, ..head };
    assert!(told(Opening { known: Some(later), ..opening(1) }, &storage).contains("an old copy"));
    for other in [AuditHead { hash: [9; 32], ..head }, AuditHead { hash: [9; 32], ..early }] {
        assert!(
            told(Opening { known: Some(other), ..opening(1) }, &storage).contains("not the one that was committed")
        );
    }
    open(&storage.copied(), Opening { known: Some(early), ..opening(1) }).unwrap();

    let newer = String::from_utf8(storage.content(&names(&storage)[0]).unwrap()).unwrap();
    let copy = storage.copied();
    copy.put(&names(&storage)[0], Some(newer.replace("\"format\":1", "\"format\":2").into_bytes()));
    assert!(told(opening(1), &copy).contains("format 2"));
}

#[test]
fn an_empty_folder_goes_on_after_what_was_committed_and_says_what_is_lost() {
    let known = AuditHead { node: NodeId(1), sequence: 70, hash: [3; 32] };
    let storage = MemoryStorage::default();
    let log = open(&storage, Opening { known: Some(known), ..opening(1) }).unwrap();
    assert_eq!(log.head().sequence, 72);
    let report = verify(&[Copy { label: "n1".into(), files: &storage }], &Knowledge::default()).unwrap();
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert_eq!((finding.fault, finding.first, finding.last), (verify::Fault::Dropped, 1, 70));
    assert!(finding.what.starts_with("lost"), "{finding}");
}

#[test]
fn files_are_rotated_and_the_oldest_go_when_they_are_vouched_for() {
    let storage = MemoryStorage::default();
    let rotation = Rotation { bytes_max: 3000, age_ms_max: 1000 };
    let mut log = open(&storage, Opening { rotation, ..opening(1) }).unwrap();
    for n in 1..=40 {
        log.append(T0 + n, vec![record(n)]).unwrap();
    }
    let by_size = names(&storage).len();
    assert!(by_size > 5 && log.bytes() > 30_000);
    log.append(T0 + 2000, vec![record(41)]).unwrap();
    assert_eq!(names(&storage).len(), by_size + 1, "by age too");

    let over = Retention { bytes_max: Some(20_000), age_ms_max: None };
    assert_eq!(log.retire(T0 + 2000, 0, over).unwrap(), 0, "nobody vouches for any of it");
    assert_eq!(log.retire(T0 + 2000, log.head().sequence, Retention::default()).unwrap(), 0, "nothing asks for it");
    let removed = log.retire(T0 + 2000, log.head().sequence, over).unwrap();
    assert!(removed > 0 && log.bytes() <= 20_000, "{removed}");
    let report = assert_clean(&storage);
    assert!(report.first > 1);

    let second = segment_files(&storage).unwrap()[1].0;
    let old = Retention { age_ms_max: Some(1000), bytes_max: None };
    assert_eq!(log.retire(T0 + 5000, second - 2, old).unwrap(), 0);
    assert_eq!(log.retire(T0 + 5000, second - 1, old).unwrap(), 1);
    assert_eq!(assert_clean(&storage).first, second);

    // The power fails between the record and the removal.
    let kept = storage.copied();
    log.retire(T0 + 5000, log.head().sequence, old).unwrap();
    assert_clean(&storage);
    for name in names(&storage) {
        kept.put(&name, storage.content(&name));
    }
    assert_clean(&kept);
    let log = open(&storage, Opening { known: Some(log.head()), ..opening(1) }).unwrap();
    assert!(log.bytes() > 0);
}

#[test]
fn a_real_folder_does_what_one_in_memory_does() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("audit");
    let rotation = Rotation { bytes_max: 2000, ..ROTATION };
    let folder = || Box::new(Folder::create(path.clone()).unwrap());
    let mut log = AuditLog::open(folder(), Opening { rotation, ..opening(1) }).unwrap();
    for n in 1..=9 {
        log.append(T0, vec![record(n)]).unwrap();
    }
    let all = Retention { bytes_max: Some(4000), age_ms_max: None };
    assert!(log.retire(T0, log.head().sequence, all).unwrap() > 0);
    let head = log.head();
    drop(log);
    let last = segment_files(&*folder()).unwrap().pop().unwrap().1;
    assert_eq!(std::fs::metadata(path.join(&last)).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = std::fs::read(path.join(&last)).unwrap();
    std::fs::write(path.join(&last), [whole.as_slice(), b"{\"sequence\":"].concat()).unwrap();
    let log = AuditLog::open(folder(), Opening { known: Some(head), rotation, ..opening(1) }).unwrap();
    assert!(log.head().sequence > head.sequence);
    let files = Folder::at(path);
    let report = verify(&[Copy { label: "n1".into(), files: &files }], &Knowledge::default()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.chains[0].node, Some(fixture::chain(1).node));
}
