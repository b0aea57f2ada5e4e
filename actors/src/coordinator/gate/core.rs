//! What the release gate decides: which batches it keeps, when it lets them through, and what is thrown away when an
//! attempt dies. Pure: it is told of frames and of the consumer's steps and answers; [`super::ReleaseGate`] does the
//! waiting and waking.
//!
//! INVARIANT: the consumer gets the rows of one attempt. A fence raised before any row was taken discards everything; one
//! raised afterwards freezes the gate, until an attempt is let in that proves to begin with the very rows taken.

use std::{collections::VecDeque, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Int16Type, Int32Type, Int64Type},
};
use greylag_protocol::{
    MeshError, SourceName,
    prefix::{Digest, Prefix, content},
};

use super::{check::Verified, share::MemoryShare};
use crate::{coordinator::spill::Place, recut::bytes_of};

/// Batches an open gate keeps ahead of its consumer. Two let decoding and planning overlap; more only hides a slow
/// consumer from QUIC's flow control.
pub const GATE_BATCHES_MAX: usize = 4;
/// Bytes an open gate keeps ahead of its consumer, over which even one batch more has to wait.
pub const GATE_BYTES_MAX: u64 = 8 << 20;

/// Bytes that one gate holds back in memory; what is more goes to disk.
pub const GATE_MEMORY_BYTES_MAX: u64 = 32 << 20;

/// When a gate lets rows through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// At once.
    Nothing,
    /// Once more than this many bytes are held, or at the end.
    Window { bytes: u64 },
    /// At the end, because the consumer can use nothing earlier; or when there is room neither in memory nor on disk.
    Build,
    /// At the end and never before: with no room left in memory or on disk the gate fails, with GL5006.
    Spool,
}

/// A batch with its size in memory and the digest of its values.
#[derive(Debug)]
pub struct Parcel {
    pub batch: RecordBatch,
    pub bytes: u64,
    pub content: Digest,
    /// Of its last row, if the rows come in the order of one.
    pub key: Option<i64>,
}

impl Parcel {
    pub fn new(batch: RecordBatch) -> Self {
        Self { content: content(&batch), bytes: bytes_of(&batch), batch, key: None }
    }

    /// Of rows in the order of an integer column.
    pub fn by_key(batch: RecordBatch, column: Option<usize>) -> Self {
        let key = column.and_then(|column| last_key(&batch, column));
        Self { key, ..Self::new(batch) }
    }
}

/// The last value of an integer column; `None` for any other column, or for NULL.
fn last_key(batch: &RecordBatch, column: usize) -> Option<i64> {
    let (column, last) = (batch.columns().get(column)?, batch.num_rows().checked_sub(1)?);
    let value = match column.data_type() {
        _ if column.is_null(last) => return None,
        DataType::Int16 => column.as_primitive::<Int16Type>().value(last).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(last).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(last),
        _ => return None,
    };
    Some(value)
}

/// Where the rows taken end, for a source that can go on from there (R2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub key: i64,
    /// What the source calls the content that they came from.
    pub snapshot: String,
}

/// Why a producer has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another attempt has been started, or the gate has its end already.
    Fenced,
    /// The consumer has gone.
    Closed,
    /// What came cannot be kept or does not add up; the gate has failed with this.
    Failed(MeshError),
}

/// Answer to a batch.
#[derive(Debug)]
pub enum Offer {
    /// Kept. `readable` if the consumer may take something now.
    Stored {
        readable: bool,
    },
    /// No room until the consumer takes something; here it is back.
    Full(Parcel),
    /// No room in memory: it is to be written to disk, and [`GateCore::spilled`] told how that went.
    Spill(Parcel),
    Refused(Refusal),
}

/// Answer to the consumer.
#[derive(Debug)]
pub enum Take {
    Batch(RecordBatch),
    /// The batch that lies there on disk.
    Read(Place),
    Pending,
    Done,
    Failed(MeshError),
}

/// What a fence found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fenced {
    /// What the consumer has taken: it cannot be called back.
    pub taken: Prefix,
    /// Rows that the fenced attempt had delivered, taken or thrown away.
    pub received_rows: u64,
    /// The gate had its end already; nothing was changed.
    pub ended: bool,
    /// There is a [`Mark`] for what was taken.
    pub marked: bool,
}

/// A batch that waits for the consumer.
#[derive(Debug)]
enum Kept {
    InMemory(Parcel),
    OnDisk { place: Place, content: Digest, key: Option<i64> },
}

#[derive(Debug)]
enum End {
    Complete,
    Failed(MeshError),
}

#[derive(Debug)]
pub struct GateCore {
    hold: Hold,
    share: Arc<MemoryShare>,
    /// Whose rows they are, for errors.
    source: Option<SourceName>,
    /// The one attempt whose frames are let in; 0 before the first fence.
    attempt: u32,
    queue: VecDeque<Kept>,
    /// Of those in memory.
    queued_bytes: u64,
    received_rows: u64,
    taken: Prefix,
    /// Name of the content that the current attempt reads.
    snapshot: Option<String>,
    mark: Option<Mark>,
    open: bool,
    frozen: bool,
    closed: bool,
    end: Option<End>,
}

impl GateCore {
    pub fn new(hold: Hold, share: Arc<MemoryShare>, source: Option<SourceName>) -> Self {
        Self {
            hold,
            share,
            source,
            attempt: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            received_rows: 0,
            taken: Prefix::default(),
            snapshot: None,
            mark: None,
            open: hold == Hold::Nothing,
            frozen: false,
            closed: false,
            end: None,
        }
    }

    /// A gate whose consumer has got these rows elsewhere already.
    pub fn after(mut self, taken: Prefix) -> Self {
        self.taken = taken;
        self
    }

    /// From here on only frames of `attempt` are let in. What an older attempt left here is thrown away.
    pub fn fence(&mut self, attempt: u32) -> Fenced {
        let ended = self.end.is_some();
        let marked = self.mark.is_some();
        let found = Fenced { taken: self.taken, received_rows: self.received_rows, ended, marked };
        if ended || attempt <= self.attempt {
            return found;
        }
        self.attempt = attempt;
        self.snapshot = None;
        self.received_rows = 0;
        self.clear();
        self.open = self.hold == Hold::Nothing;
        self.frozen = !self.taken.is_empty();
        found
    }

    /// The attempt that the last fence was raised for leaves out what was taken, having proved that it begins with it.
    pub fn resume(&mut self, attempt: u32) {
        if attempt == self.attempt {
            self.frozen = false;
            self.open |= !self.taken.is_empty();
        }
    }

    /// An attempt says what it reads, before its first batch.
    pub fn reads(&mut self, attempt: u32, snapshot: Option<String>) {
        if attempt == self.attempt {
            self.snapshot = snapshot;
        }
    }

    /// Where what was taken ends, if it has a name.
    pub fn mark(&self) -> Option<Mark> {
        self.mark.clone()
    }

    /// A batch of an attempt.
    pub fn offer(&mut self, attempt: u32, parcel: Parcel) -> Offer {
        if let Some(refusal) = self.refuses(attempt) {
            return Offer::Refused(refusal);
        }
        if self.open {
            let full = self.queue.len() >= GATE_BATCHES_MAX || self.queued_bytes >= GATE_BYTES_MAX;
            if full && !self.queue.is_empty() {
                return Offer::Full(parcel);
            }
            self.share.take(parcel.bytes);
        } else if self.queued_bytes + parcel.bytes > GATE_MEMORY_BYTES_MAX || !self.share.reserve(parcel.bytes) {
            match self.hold {
                Hold::Build | Hold::Spool => return Offer::Spill(parcel),
                Hold::Window { .. } | Hold::Nothing => self.force_open(parcel.bytes),
            }
        }
        self.keep(parcel)
    }

    /// A batch that was to be written to disk is there, or could not be.
    pub fn spilled(&mut self, attempt: u32, parcel: Parcel, written: Result<Place, MeshError>) -> Offer {
        if let Some(refusal) = self.refuses(attempt) {
            return Offer::Refused(refusal);
        }
        match written {
            Ok(place) => {
                self.received_rows += place.rows;
                self.queue.push_back(Kept::OnDisk { place, content: parcel.content, key: parcel.key });
                Offer::Stored { readable: self.open }
            }
            Err(error) if self.hold == Hold::Spool => Offer::Refused(Refusal::Failed(self.broken(error))),
            Err(_) => {
                self.force_open(parcel.bytes);
                self.keep(parcel)
            }
        }
    }

    /// There is no room to hold anything back any more.
    fn force_open(&mut self, bytes: u64) {
        self.share.take(bytes);
        self.open = true;
    }

    fn keep(&mut self, parcel: Parcel) -> Offer {
        self.received_rows += parcel.batch.num_rows() as u64;
        self.queued_bytes += parcel.bytes;
        self.queue.push_back(Kept::InMemory(parcel));
        if let Hold::Window { bytes } = self.hold {
            self.open |= self.queued_bytes > bytes;
        }
        Offer::Stored { readable: self.open }
    }

    /// The attempt is whole: its trailer fits what came. The rows it counted must be the rows let in here.
    pub fn complete(&mut self, verified: Verified) -> Result<(), Refusal> {
        if let Some(refusal) = self.refuses(verified.attempt()) {
            return Err(refusal);
        }
        if verified.rows() != self.received_rows {
            let error = MeshError::internal(format!(
                "a gate let in {} rows of an attempt that verified {}",
                self.received_rows,
                verified.rows()
            ));
            return Err(Refusal::Failed(self.broken(error)));
        }
        self.end = Some(End::Complete);
        Ok(())
    }

    /// Ends the gate with an error, unless it has its end already. Rows not yet taken are thrown away.
    pub fn fail(&mut self, error: MeshError) {
        if self.end.is_none() || (matches!(self.end, Some(End::Complete)) && !self.queue.is_empty()) {
            self.clear();
            self.end = Some(End::Failed(error));
        }
    }

    /// The consumer's next step.
    pub fn take(&mut self) -> Take {
        match &self.end {
            Some(End::Failed(error)) => return Take::Failed(error.clone()),
            None if self.frozen || !self.open => return Take::Pending,
            _ => {}
        }
        match self.queue.pop_front() {
            Some(Kept::InMemory(parcel)) => {
                self.share.release(parcel.bytes);
                self.queued_bytes -= parcel.bytes;
                self.taken.extend(parcel.batch.num_rows(), parcel.content);
                self.mark_at(parcel.key);
                Take::Batch(parcel.batch)
            }
            Some(Kept::OnDisk { place, content, key }) => {
                self.mark_at(key);
                self.taken.extend(usize::try_from(place.rows).unwrap_or(usize::MAX), content);
                Take::Read(place)
            }
            None if self.end.is_some() => Take::Done,
            None => Take::Pending,
        }
    }

    fn mark_at(&mut self, key: Option<i64>) {
        self.mark = key.zip(self.snapshot.clone()).map(|(key, snapshot)| Mark { key, snapshot });
    }

    /// The consumer has gone. Says whether the gate had been completed.
    pub fn close(&mut self) -> bool {
        self.closed = true;
        self.clear();
        matches!(self.end, Some(End::Complete))
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn taken_rows(&self) -> u64 {
        self.taken.rows
    }

    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    fn refuses(&self, attempt: u32) -> Option<Refusal> {
        match &self.end {
            _ if self.closed => Some(Refusal::Closed),
            Some(_) => Some(Refusal::Fenced),
            None if attempt != self.attempt || self.frozen => Some(Refusal::Fenced),
            None => None,
        }
    }

    fn broken(&mut self, error: MeshError) -> MeshError {
        let error = match &self.source {
            Some(source) => error.of_source(source.clone()),
            None => error,
        };
        self.fail(error.clone());
        error
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.share.release(self.queued_bytes);
        self.queued_bytes = 0;
    }
}

impl Drop for GateCore {
    fn drop(&mut self) {
        self.clear();
    }
}
