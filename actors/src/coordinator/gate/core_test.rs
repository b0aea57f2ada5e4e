//! The gate's decisions, as tables: what is let through when, and what a fence leaves of it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use arrow::{
    array::{AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use greylag_protocol::{ErrorCode, MeshError, prefix::Prefix};

use super::{
    check::Verified,
    core::{GATE_BATCHES_MAX, GateCore, Hold, Mark, Offer, Parcel, Refusal, Take},
    share::MemoryShare,
};
use crate::bounds::Bound;

/// Bytes of a batch of `ROWS` rows.
const BYTES: u64 = 8 * ROWS;
const ROWS: u64 = 4;

fn batch(from: i64) -> Parcel {
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false)]));
    let rows = Int64Array::from_iter_values(from..from + ROWS as i64);
    let parcel = Parcel::new(RecordBatch::try_new(schema, vec![Arc::new(rows)]).unwrap());
    assert_eq!(parcel.bytes, BYTES);
    parcel
}

fn gate(hold: Hold, share: u64) -> (GateCore, Arc<MemoryShare>) {
    let share = Arc::new(MemoryShare::of(Arc::new(Bound::of(u64::MAX)), share));
    let mut gate = GateCore::new(hold, share.clone(), None);
    gate.fence(1);
    (gate, share)
}

#[track_caller]
fn stored(gate: &mut GateCore, attempt: u32, from: i64) -> bool {
    match gate.offer(attempt, batch(from)) {
        Offer::Stored { readable } => readable,
        other => panic!("not stored: {other:?}"),
    }
}

#[track_caller]
fn refused(gate: &mut GateCore, attempt: u32, from: i64) -> Refusal {
    match gate.offer(attempt, batch(from)) {
        Offer::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Everything that can be taken now, and how it ended.
fn drain(gate: &mut GateCore) -> (Vec<i64>, &'static str) {
    let mut rows = Vec::new();
    loop {
        match gate.take() {
            Take::Read(place) => panic!("nothing was written, and {place:?} is to be read"),
            Take::Batch(batch) => rows.extend(batch.column(0).as_primitive::<Int64Type>().values().to_vec()),
            Take::Pending => return (rows, "pending"),
            Take::Done => return (rows, "done"),
            Take::Failed(_) => return (rows, "failed"),
        }
    }
}

#[test]
fn a_window_holds_back_until_it_is_full() {
    let (mut gate, share) = gate(Hold::Window { bytes: 2 * BYTES }, 1 << 20);
    assert!(!stored(&mut gate, 1, 0));
    assert!(!stored(&mut gate, 1, 4));
    assert_eq!(drain(&mut gate), (vec![], "pending"));
    assert_eq!(share.used(), 2 * BYTES);
    assert!(stored(&mut gate, 1, 8), "over the window it opens");
    assert_eq!(drain(&mut gate), ((0..12).collect(), "pending"));
    assert_eq!(share.used(), 0);
    assert!(stored(&mut gate, 1, 12), "and stays open");
    gate.complete(Verified::in_process(1, 16)).unwrap();
    assert_eq!(drain(&mut gate), ((12..16).collect(), "done"));
}

#[test]
fn a_small_result_is_released_only_at_its_end() {
    for hold in [Hold::Window { bytes: 1 << 20 }, Hold::Build, Hold::Spool] {
        let (mut gate, _) = gate(hold, 1 << 20);
        stored(&mut gate, 1, 0);
        assert_eq!(drain(&mut gate), (vec![], "pending"), "{hold:?}");
        gate.complete(Verified::in_process(1, 4)).unwrap();
        assert_eq!(drain(&mut gate), ((0..4).collect(), "done"), "{hold:?}");
    }
}

#[test]
fn an_open_gate_is_bounded() {
    let (mut gate, _) = gate(Hold::Nothing, 1 << 20);
    for n in 0..GATE_BATCHES_MAX {
        assert!(stored(&mut gate, 1, n as i64));
    }
    assert!(matches!(gate.offer(1, batch(0)), Offer::Full(_)));
    assert!(matches!(gate.take(), Take::Batch(_)));
    assert!(stored(&mut gate, 1, 0));
}

#[test]
fn killed_before_the_first_row_or_while_held_back_nothing_of_it_remains() {
    for rows_before in [0, 2] {
        let (mut gate, share) = gate(Hold::Window { bytes: 1 << 20 }, 1 << 20);
        for n in 0..rows_before {
            stored(&mut gate, 1, n * 4);
        }
        let found = gate.fence(2);
        assert_eq!((found.taken.rows, found.received_rows, found.ended), (0, rows_before as u64 * ROWS, false));
        assert_eq!(share.used(), 0);
        stored(&mut gate, 2, 100);
        gate.complete(Verified::in_process(2, 4)).unwrap();
        assert_eq!(drain(&mut gate), ((100..104).collect(), "done"));
    }
}

#[test]
fn killed_twice() {
    let (mut gate, _) = gate(Hold::Spool, 1 << 20);
    stored(&mut gate, 1, 0);
    gate.fence(2);
    stored(&mut gate, 2, 10);
    stored(&mut gate, 2, 14);
    assert_eq!(gate.fence(3).received_rows, 2 * ROWS);
    stored(&mut gate, 3, 20);
    gate.complete(Verified::in_process(3, 4)).unwrap();
    assert_eq!(drain(&mut gate), ((20..24).collect(), "done"));
}

#[test]
fn killed_after_rows_were_taken_the_gate_gives_no_more() {
    let (mut gate, share) = gate(Hold::Nothing, 1 << 20);
    stored(&mut gate, 1, 0);
    assert!(matches!(gate.take(), Take::Batch(_)));
    stored(&mut gate, 1, 4);
    assert_eq!(gate.fence(2).taken.rows, ROWS);
    assert_eq!(share.used(), 0);
    assert_eq!(refused(&mut gate, 2, 0), Refusal::Fenced, "not even of the new attempt");
    assert_eq!(drain(&mut gate), (vec![], "pending"));
    gate.fail(MeshError::internal("given up"));
    assert_eq!(drain(&mut gate), (vec![], "failed"));
}

#[test]
fn an_attempt_that_has_proved_to_begin_with_what_was_taken_goes_on_after_it() {
    for hold in [Hold::Nothing, Hold::Window { bytes: 1 }] {
        let (mut gate, _) = gate(hold, 1 << 20);
        stored(&mut gate, 1, 0);
        stored(&mut gate, 1, 4);
        assert!(matches!(gate.take(), Take::Batch(_)));
        let mut first = Prefix::default();
        first.extend(ROWS as usize, batch(0).content);
        assert_eq!(gate.fence(2).taken, first);
        gate.resume(1);
        assert_eq!(refused(&mut gate, 2, 4), Refusal::Fenced, "an older attempt's proof is worth nothing");
        gate.resume(2);
        assert_eq!(refused(&mut gate, 1, 4), Refusal::Fenced);
        stored(&mut gate, 2, 4);
        gate.complete(Verified::in_process(2, ROWS)).unwrap();
        assert_eq!(drain(&mut gate), ((4..8).collect(), "done"), "{hold:?}");
    }
}

#[test]
fn what_was_taken_elsewhere_counts_as_taken() {
    let (held, share) = gate(Hold::Nothing, 1 << 20);
    drop(held);
    let mut taken = Prefix::default();
    taken.extend(ROWS as usize, batch(0).content);
    let mut gate = GateCore::new(Hold::Nothing, share, None).after(taken);
    assert_eq!(gate.fence(1).taken, taken);
    gate.resume(1);
    stored(&mut gate, 1, 4);
    assert_eq!(drain(&mut gate), ((4..8).collect(), "pending"));
    taken.extend(ROWS as usize, batch(4).content);
    assert_eq!(gate.fence(2).taken, taken);
}

#[test]
fn a_zombie_is_shut_out_at_every_point() {
    let (mut gate, _) = gate(Hold::Window { bytes: 1 << 20 }, 1 << 20);
    stored(&mut gate, 1, 0);
    gate.fence(2);
    assert_eq!(refused(&mut gate, 1, 4), Refusal::Fenced);
    stored(&mut gate, 2, 100);
    assert_eq!(refused(&mut gate, 1, 8), Refusal::Fenced);
    assert_eq!(gate.complete(Verified::in_process(1, 4)), Err(Refusal::Fenced), "its end is not this attempt's");
    gate.complete(Verified::in_process(2, 4)).unwrap();
    assert_eq!(refused(&mut gate, 1, 12), Refusal::Fenced);
    assert_eq!(refused(&mut gate, 2, 12), Refusal::Fenced, "after the end nothing more is let in");
    assert_eq!(drain(&mut gate), ((100..104).collect(), "done"));
}

#[test]
fn a_fence_never_goes_back_and_changes_nothing_after_the_end() {
    let (mut gate, _) = gate(Hold::Spool, 1 << 20);
    gate.fence(5);
    stored(&mut gate, 5, 0);
    gate.fence(4);
    stored(&mut gate, 5, 4);
    gate.complete(Verified::in_process(5, 8)).unwrap();
    assert!(gate.fence(6).ended);
    assert_eq!(drain(&mut gate), ((0..8).collect(), "done"));
}

#[test]
fn rows_that_do_not_add_up_fail_the_gate() {
    let (mut gate, _) = gate(Hold::Spool, 1 << 20);
    stored(&mut gate, 1, 0);
    let Err(Refusal::Failed(error)) = gate.complete(Verified::in_process(1, 5)) else { panic!("complete") };
    assert_eq!(error.code, ErrorCode::Internal);
    assert_eq!(drain(&mut gate), (vec![], "failed"));
}

/// A gate whose memory is used up, and the batch that is to go to disk.
fn over_memory(hold: Hold) -> (GateCore, Arc<MemoryShare>, Parcel) {
    let (mut gate, share) = gate(hold, 2 * BYTES);
    assert!(!stored(&mut gate, 1, 0) && !stored(&mut gate, 1, 4));
    let Offer::Spill(parcel) = gate.offer(1, batch(8)) else { panic!("{hold:?} does not spill") };
    (gate, share, parcel)
}

#[test]
fn with_neither_memory_nor_disk_a_build_opens_and_a_spool_fails() {
    let full = || Err(MeshError::new(ErrorCode::DiskFull, "full"));
    let (mut open, share, parcel) = over_memory(Hold::Build);
    assert!(matches!(open.spilled(1, parcel, full()), Offer::Stored { readable: true }));
    assert_eq!(drain(&mut open), ((0..12).collect(), "pending"));
    assert_eq!(share.used(), 0);

    let (mut failed, share, parcel) = over_memory(Hold::Spool);
    let Offer::Refused(Refusal::Failed(error)) = failed.spilled(1, parcel, full()) else { panic!("not failed") };
    assert_eq!(error.code, ErrorCode::DiskFull);
    assert_eq!((drain(&mut failed), share.used()), ((vec![], "failed"), 0));
}

#[test]
fn what_came_back_from_disk_after_a_fence_is_nobodys() {
    let (mut gate, _, parcel) = over_memory(Hold::Spool);
    gate.fence(2);
    let written = Err(MeshError::new(ErrorCode::DiskFull, "full"));
    assert!(matches!(gate.spilled(1, parcel, written), Offer::Refused(Refusal::Fenced)));
    stored(&mut gate, 2, 0);
    gate.complete(Verified::in_process(2, 4)).unwrap();
    assert_eq!(drain(&mut gate), ((0..4).collect(), "done"));
}

#[test]
fn a_consumer_that_has_gone_stops_the_producer() {
    let (mut gate, share) = gate(Hold::Spool, 1 << 20);
    stored(&mut gate, 1, 0);
    gate.close();
    assert_eq!(refused(&mut gate, 1, 4), Refusal::Closed);
    assert_eq!(gate.complete(Verified::in_process(1, 4)), Err(Refusal::Closed));
    assert_eq!(share.used(), 0);
}

#[test]
fn a_failure_after_the_end_reaches_a_reader_that_is_not_through() {
    let (mut unread, _) = gate(Hold::Spool, 1 << 20);
    stored(&mut unread, 1, 0);
    unread.complete(Verified::in_process(1, 4)).unwrap();
    unread.fail(MeshError::new(ErrorCode::Cancelled, "cancelled"));
    assert_eq!(drain(&mut unread), (vec![], "failed"));

    let (mut read, _) = gate(Hold::Spool, 1 << 20);
    read.complete(Verified::in_process(1, 0)).unwrap();
    read.fail(MeshError::new(ErrorCode::Cancelled, "cancelled"));
    assert_eq!(drain(&mut read), (vec![], "done"));
}

#[test]
fn a_mark_is_the_last_key_taken_and_the_content_it_came_from() {
    let by_key = |from: i64| Parcel::by_key(batch(from).batch, Some(0));
    let (mut gate, _) = gate(Hold::Nothing, 1 << 20);
    gate.reads(1, Some("one".into()));
    for from in [0, 4] {
        assert!(matches!(gate.offer(1, by_key(from)), Offer::Stored { .. }));
    }
    assert!(matches!(gate.take(), Take::Batch(_)));
    let mark = |key, snapshot: &str| Some(Mark { key, snapshot: snapshot.to_owned() });
    assert_eq!(gate.mark(), mark(3, "one"), "what waits is not taken");
    assert!(gate.fence(2).marked);
    // An attempt that dies before a row of it is taken changes nothing, whatever it reads.
    gate.resume(2);
    gate.reads(2, Some("two".into()));
    gate.reads(1, Some("late".into()));
    assert_eq!(gate.mark(), mark(3, "one"));
    assert!(matches!(gate.offer(2, by_key(4)), Offer::Stored { .. }));
    assert!(matches!(gate.take(), Take::Batch(_)));
    assert_eq!(gate.mark(), mark(7, "two"));
    // One that cannot name what it reads leaves no mark.
    gate.fence(3);
    gate.resume(3);
    assert!(matches!(gate.offer(3, by_key(8)), Offer::Stored { .. }));
    assert!(matches!(gate.take(), Take::Batch(_)));
    assert_eq!(gate.mark(), None);
    assert!(!gate.fence(4).marked);
    assert_eq!(Parcel::by_key(batch(0).batch, Some(7)).key, None, "there is no such column");
}
