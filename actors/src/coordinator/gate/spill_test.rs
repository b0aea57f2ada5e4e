//! Rows that are held back and do not fit into memory: they come from disk in their places, once, or not at all.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    datatypes::Int64Type,
};
use futures::StreamExt;
use greylag_protocol::{ErrorCode, prefix::Prefix};

use super::{
    ReleaseGate, Released, Room,
    check::Verified,
    core::{Hold, Parcel, Refusal},
    share::MemoryShare,
};
use crate::{
    bounds::Bound,
    coordinator::spill::{SpillSpace, fixture},
};

const ROWS: i64 = 1_000;
const BATCHES: i64 = 20;

fn parcel(n: i64) -> Parcel {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(n * ROWS..(n + 1) * ROWS));
    Parcel::new(RecordBatch::try_from_iter([("n", numbers)]).unwrap())
}

/// Memory for two batches and a half.
fn gate(hold: Hold, disk: &Arc<SpillSpace>) -> (ReleaseGate, Released) {
    let share = Arc::new(MemoryShare::of(Arc::new(Bound::of(u64::MAX)), 20_000));
    let (gate, rows) = ReleaseGate::new(hold, &Room { share, disk: disk.clone() }, None, |_| {});
    gate.fence(1);
    (gate, rows)
}

async fn push(gate: &ReleaseGate, attempt: u32, batches: std::ops::Range<i64>) -> Result<(), Refusal> {
    for n in batches {
        gate.push(attempt, parcel(n)).await?;
    }
    Ok(())
}

async fn numbers(rows: Released) -> Vec<i64> {
    let batches: Vec<_> = rows.map(Result::unwrap).collect().await;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test]
async fn rows_on_disk_come_in_their_places() {
    for hold in [Hold::Build, Hold::Spool] {
        let disk = fixture::space(1 << 20);
        let (gate, rows) = gate(hold, &disk);
        push(&gate, 1, 0..BATCHES).await.unwrap();
        assert!(disk.used() > 0, "{hold:?}");
        gate.complete(Verified::in_process(1, (BATCHES * ROWS) as u64)).unwrap();
        assert_eq!(numbers(rows).await, (0..BATCHES * ROWS).collect::<Vec<_>>(), "{hold:?}");
        let mut whole = Prefix::default();
        (0..BATCHES).for_each(|n| whole.extend(ROWS as usize, parcel(n).content));
        assert_eq!(gate.fence(2).taken, whole, "what came from disk counts as taken");
        drop(gate);
        assert_eq!(disk.used(), 0);
    }
}

#[tokio::test]
async fn an_attempt_that_dies_leaves_nothing_of_what_it_had_on_disk() {
    let disk = fixture::space(1 << 20);
    let (gate, rows) = gate(Hold::Spool, &disk);
    push(&gate, 1, 100..100 + BATCHES).await.unwrap();
    assert!(gate.fence(2).taken.is_empty());
    assert_eq!(push(&gate, 1, 0..1).await, Err(Refusal::Fenced));
    push(&gate, 2, 0..BATCHES).await.unwrap();
    gate.complete(Verified::in_process(2, (BATCHES * ROWS) as u64)).unwrap();
    assert_eq!(numbers(rows).await, (0..BATCHES * ROWS).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_room_on_disk_a_build_goes_on_and_a_spool_says_so() {
    let disk = fixture::space(10_000);
    let (build, mut rows) = gate(Hold::Build, &disk);
    let reading = async {
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            count += batch.unwrap().num_rows() as i64;
        }
        count
    };
    let writing = async {
        push(&build, 1, 0..BATCHES).await.unwrap();
        build.complete(Verified::in_process(1, (BATCHES * ROWS) as u64)).unwrap();
    };
    assert_eq!(futures::join!(reading, writing).0, BATCHES * ROWS);

    let disk = fixture::space(10_000);
    let (spool, mut rows) = gate(Hold::Spool, &disk);
    let Err(Refusal::Failed(error)) = push(&spool, 1, 0..BATCHES).await else { panic!("it found room") };
    assert_eq!(error.code, ErrorCode::DiskFull);
    assert_eq!(rows.next().await.unwrap().unwrap_err().code, ErrorCode::DiskFull);
}
