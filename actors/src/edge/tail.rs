//! The answer to one sub-query, with the last batches of it kept for a while: should the connection die, another
//! stream can go on from where the coordinator had got to, and nothing is asked of the source again (R4).
//!
//! INVARIANT: batches come in the order of their numbers, each once between two rewinds.

use std::{collections::VecDeque, sync::Arc};

use arrow::array::RecordBatch;
use futures::StreamExt;
use greylag_protocol::{Result, messages::edge::EdgeReply, statement::BatchStream};

use super::port::EdgeRows;
use crate::{bounds::Bound, recut::bytes_of};

/// Bytes of batches that one answer keeps: more than a stream and a gate have under way.
pub const TAIL_BYTES_MAX: u64 = 24 << 20;

pub struct Tail {
    rows: BatchStream,
    kept: VecDeque<Kept>,
    kept_bytes: u64,
    /// Number of the next batch to be sent. Batches of an attempt are numbered from 0, left out ones included.
    next: u64,
    /// Room for the tails of all answers of the node.
    room: Arc<Bound>,
    /// Of its content: see `EdgeReply::Began`.
    snapshot: Option<String>,
    after_key: bool,
}

struct Kept {
    batch: RecordBatch,
    bytes: u64,
}

impl Tail {
    /// The rows after the first `first` batches of an attempt.
    pub fn new(answer: EdgeRows, first: u64, room: Arc<Bound>) -> Self {
        let EdgeRows { rows, snapshot, after_key } = answer;
        Self { rows, kept: VecDeque::new(), kept_bytes: 0, next: first, room, snapshot, after_key }
    }

    /// What is said before its rows, if anything is to be said.
    pub fn began(&self) -> EdgeReply {
        EdgeReply::Began { snapshot: self.snapshot.clone(), after_key: self.after_key }
    }

    /// Number of the oldest batch that can be sent again.
    fn oldest(&self, newest: u64) -> u64 {
        newest - self.kept.len() as u64
    }

    /// The next batch.
    pub async fn next(&mut self) -> Option<Result<RecordBatch>> {
        let batch = match self.rows.next().await? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        self.next += 1;
        self.keep(batch.clone());
        Some(Ok(batch))
    }

    fn keep(&mut self, batch: RecordBatch) {
        let bytes = bytes_of(&batch);
        while self.kept_bytes + bytes > TAIL_BYTES_MAX && self.drop_oldest() {}
        // What is kept ends with the last batch, or there is nothing.
        let mut fits = bytes <= TAIL_BYTES_MAX && self.room.reserve(bytes);
        while !fits && self.drop_oldest() {
            fits = bytes <= TAIL_BYTES_MAX && self.room.reserve(bytes);
        }
        if fits {
            self.kept_bytes += bytes;
            self.kept.push_back(Kept { batch, bytes });
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.kept.pop_front() else { return false };
        self.kept_bytes -= oldest.bytes;
        self.room.release(oldest.bytes);
        true
    }

    /// Goes back to the batch of this number: it and those after it are sent (again). Gives the tail back if they are
    /// not kept any more.
    pub fn rewound(mut self, to: u64) -> Result<Self, Box<Self>> {
        if to > self.next || to < self.oldest(self.next) {
            return Err(Box::new(self));
        }
        while self.oldest(self.next) < to {
            self.drop_oldest();
        }
        let again: Vec<Result<RecordBatch>> = self.kept.iter().map(|kept| Ok(kept.batch.clone())).collect();
        while self.drop_oldest() {}
        let rows = std::mem::replace(&mut self.rows, futures::stream::empty().boxed());
        let rows = futures::stream::iter(again).chain(rows).boxed();
        let answer = EdgeRows { rows, snapshot: self.snapshot.take(), after_key: self.after_key };
        Ok(Self::new(answer, to, self.room.clone()))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        while self.drop_oldest() {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::{
        array::{ArrayRef, AsArray, Int64Array},
        datatypes::Int64Type,
    };

    use super::*;

    const FIRST: u64 = 3;

    fn batch(n: u64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![n as i64; 128]));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    /// Batches 3 to 9 of an attempt.
    fn tail(room: &Arc<Bound>) -> Tail {
        let rows = futures::stream::iter((FIRST..10).map(|n| Ok(batch(n)))).boxed();
        Tail::new(EdgeRows::plain(rows), FIRST, room.clone())
    }

    async fn read(tail: &mut Tail, count: usize) -> Vec<i64> {
        let mut numbers = Vec::new();
        while numbers.len() < count
            && let Some(batch) = tail.next().await
        {
            numbers.push(batch.unwrap().column(0).as_primitive::<Int64Type>().value(0));
        }
        numbers
    }

    #[tokio::test]
    async fn it_goes_on_from_wherever_the_reader_had_got_to() {
        let room = Arc::new(Bound::of(1 << 20));
        for to in FIRST..=7 {
            let mut tail = tail(&room);
            assert_eq!(read(&mut tail, 4).await, [3, 4, 5, 6]);
            let mut tail = tail.rewound(to).ok().unwrap();
            assert_eq!(read(&mut tail, 100).await, (to as i64..10).collect::<Vec<_>>());
            let mut twice = tail.rewound(9).ok().unwrap();
            assert_eq!(read(&mut twice, 100).await, [9]);
        }
        assert_eq!(room.used(), 0);
    }

    #[tokio::test]
    async fn what_was_not_sent_or_is_not_kept_cannot_be_gone_back_to() {
        let room = Arc::new(Bound::of(1 << 20));
        let mut all = tail(&room);
        read(&mut all, 2).await;
        let all = all.rewound(6).err().unwrap();
        assert!(all.rewound(FIRST - 1).is_err());

        // Room for two batches.
        let room = Arc::new(Bound::of(bytes_of(&batch(0)) * 2));
        let mut some = tail(&room);
        assert_eq!(read(&mut some, 5).await.len(), 5);
        let some = *some.rewound(5).err().unwrap();
        let mut some = some.rewound(6).ok().unwrap();
        assert_eq!(read(&mut some, 100).await, [6, 7, 8, 9]);
        assert!(some.rewound(10).is_ok(), "nothing is needed to go on at the end");
        assert_eq!(room.used(), 0);
    }
}
