//! The writer of one node's chain. It is synchronous and has no clock: time comes in with each call.
//!
//! A batch of records is one write and one sync. If either fails, the file is cut back to where it was and the batch is
//! refused as a whole; until that has succeeded, everything is refused.
//!
//! INVARIANT: the head moves only to what is durable; a refused record leaves nothing behind, however the disk fails.

use std::io;

use greylag_protocol::{ErrorCode, MeshError, Result, state::AuditHead};

use super::{
    cut,
    line::{Chain, FORMAT, Line, RecordHash},
    record::{AuditRecord, ClosedRecord, RetiredRecord, SegmentRecord},
    segment::segment_name,
    storage::AuditStorage,
};

/// Records in one write.
pub const BATCH_RECORDS_MAX: usize = 256;

/// Files removed in one call of [`AuditLog::retire`].
const RETIRED_FILES_MAX: usize = 16;

/// When a new file is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// A file that has as many bytes is not added to.
    pub bytes_max: u64,
    /// Nor is one that was begun so long ago.
    pub age_ms_max: u64,
}

/// When old files are removed. `None`: not for this reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    pub age_ms_max: Option<u64>,
    /// Of all files together.
    pub bytes_max: Option<u64>,
}

/// A file, by its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub name: String,
    pub first: u64,
    /// Hash of the record before its first.
    pub previous: RecordHash,
    pub bytes: u64,
    pub began_unix_ms: u64,
}

/// What must be done before anything can be written again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mend {
    Cut { name: String, bytes: u64 },
    Remove { name: String },
}

/// See the module.
#[derive(Debug)]
pub struct AuditLog {
    pub(super) storage: Box<dyn AuditStorage>,
    pub(super) chain: Chain,
    pub(super) rotation: Rotation,
    /// In order; the last one is added to.
    pub(super) segments: Vec<Segment>,
    /// Sequence and hash of the last durable record; 0 before the first.
    pub(super) sequence: u64,
    pub(super) hash: RecordHash,
    mend: Option<Mend>,
}

impl AuditLog {
    pub(super) fn over(storage: Box<dyn AuditStorage>, chain: Chain, rotation: Rotation) -> Self {
        Self { storage, chain, rotation, segments: Vec::new(), sequence: 0, hash: RecordHash::NONE, mend: None }
    }

    pub fn head(&self) -> AuditHead {
        AuditHead { node: self.chain.node, sequence: self.sequence, hash: self.hash.0 }
    }

    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Of all files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Writes records in this order, durable on return, all or none. At most [`BATCH_RECORDS_MAX`].
    ///
    /// # Errors
    /// GL5006 if the disk is full, GL5008 for any other reason.
    pub fn append(&mut self, now_unix_ms: u64, records: Vec<AuditRecord>) -> Result<AuditHead> {
        if records.len() > BATCH_RECORDS_MAX {
            return Err(MeshError::internal(format!("{} audit records at once", records.len())));
        }
        self.mend()?;
        if records.is_empty() {
            return Ok(self.head());
        }
        match self.segments.last() {
            Some(last) if !self.is_full(last, now_unix_ms) => {
                let mut lines = Lines::after(self);
                records.into_iter().try_for_each(|record| lines.add(record))?;
                let (name, bytes) = (last.name.clone(), last.bytes);
                self.write(&name, &lines.bytes, Mend::Cut { name: name.clone(), bytes })?;
                self.advance(&lines);
            }
            _ => self.begin_segment(now_unix_ms, records)?,
        }
        Ok(self.head())
    }

    /// Writes that the chain ends here by its node's will.
    pub fn close(&mut self, now_unix_ms: u64) -> Result<AuditHead> {
        self.append(now_unix_ms, vec![AuditRecord::Closed(ClosedRecord { at_unix_ms: now_unix_ms })])
    }

    /// Removes the oldest files that nobody needs to keep, and says so in the chain before it does. Never one with a
    /// record after `anchored`, the last that the replicated log knows of. Returns the number of files removed.
    pub fn retire(&mut self, now_unix_ms: u64, anchored: u64, retention: Retention) -> Result<usize> {
        let mut removed = 0;
        while removed < RETIRED_FILES_MAX && self.may_retire(now_unix_ms, anchored, retention) {
            let [oldest, next, ..] = self.segments.as_slice() else { break };
            let (file, bytes, upto, hash) = (oldest.name.clone(), oldest.bytes, next.first - 1, next.previous);
            let record = RetiredRecord { at_unix_ms: now_unix_ms, file: file.clone(), bytes, upto, hash };
            self.append(now_unix_ms, vec![AuditRecord::Retired(record)])?;
            self.storage.remove(&file).map_err(|error| refused("remove", &file, &error))?;
            self.segments.remove(0);
            removed += 1;
        }
        Ok(removed)
    }

    /// Whether [`Self::retire`] would remove a file. What its records say of other nodes goes with it: before, somebody
    /// should write it down again.
    pub fn may_retire(&self, now_unix_ms: u64, anchored: u64, retention: Retention) -> bool {
        let [_, next, ..] = self.segments.as_slice() else { return false };
        let old = retention.age_ms_max.is_some_and(|max| next.began_unix_ms.saturating_add(max) < now_unix_ms);
        let over = retention.bytes_max.is_some_and(|max| self.bytes() > max);
        next.first <= anchored.saturating_add(1) && (old || over)
    }

    fn is_full(&self, segment: &Segment, now_unix_ms: u64) -> bool {
        let age = now_unix_ms.saturating_sub(segment.began_unix_ms);
        segment.bytes >= self.rotation.bytes_max || age >= self.rotation.age_ms_max
    }

    /// The records begin a file of their own, after the one that says whose it is.
    fn begin_segment(&mut self, now_unix_ms: u64, records: Vec<AuditRecord>) -> Result<()> {
        let Chain { mesh, node } = self.chain;
        let whose = SegmentRecord { at_unix_ms: now_unix_ms, format: FORMAT, mesh, node };
        let mut lines = Lines::after(self);
        lines.add(AuditRecord::Segment(whose))?;
        records.into_iter().try_for_each(|record| lines.add(record))?;
        let (first, previous) = (self.sequence + 1, self.hash);
        let name = segment_name(first);
        let undo = Mend::Remove { name: name.clone() };
        if let Err(error) = self.storage.create(&name) {
            // Somebody else's file is not ours to remove.
            if error.kind() != io::ErrorKind::AlreadyExists {
                self.undo(undo);
            }
            return Err(refused("create", &name, &error));
        }
        self.write(&name, &lines.bytes, undo)?;
        self.segments.push(Segment { name, first, previous, bytes: 0, began_unix_ms: now_unix_ms });
        self.advance(&lines);
        Ok(())
    }

    fn write(&mut self, name: &str, bytes: &[u8], undo: Mend) -> Result<()> {
        // Before anything is written: a panic must not leave half of it behind either.
        self.mend = Some(undo.clone());
        let written = self.storage.append(name, bytes).and_then(|()| self.storage.sync(name));
        written.map_err(|error| {
            self.undo(undo);
            refused("write", name, &error)
        })?;
        self.mend = None;
        Ok(())
    }

    fn advance(&mut self, lines: &Lines) {
        (self.sequence, self.hash) = (lines.sequence, lines.hash);
        if let Some(last) = self.segments.last_mut() {
            last.bytes += lines.bytes.len() as u64;
        }
    }

    /// Takes back what a failed write may have left, at once if the disk lets it, else before the next write.
    fn undo(&mut self, undo: Mend) {
        self.mend = Some(undo);
        // The error that led here is the one to tell.
        let _ = self.mend();
    }

    fn mend(&mut self) -> Result<()> {
        let Some(mend) = &self.mend else { return Ok(()) };
        let (name, done) = match mend {
            Mend::Cut { name, bytes } => (name, self.storage.truncate(name, *bytes)),
            Mend::Remove { name } => (name, self.storage.remove(name)),
        };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound || matches!(mend, Mend::Cut { .. }) => {
                Err(refused("mend", name, &error))
            }
            _ => {
                self.mend = None;
                Ok(())
            }
        }
    }
}

pub(super) fn refused(what: &str, file: &str, error: &io::Error) -> MeshError {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
        _ => ErrorCode::AuditUnavailable,
    };
    MeshError::new(code, format!("the audit log cannot {what} `{file}`: {error}"))
}

/// Records on their way to the end of a chain.
struct Lines {
    chain: Chain,
    sequence: u64,
    hash: RecordHash,
    bytes: Vec<u8>,
}

impl Lines {
    fn after(log: &AuditLog) -> Self {
        Self { chain: log.chain, sequence: log.sequence, hash: log.hash, bytes: Vec::new() }
    }

    fn add(&mut self, record: AuditRecord) -> Result<()> {
        let record = cut::encode(record)?;
        let (sequence, previous) = (self.sequence + 1, self.hash);
        let hash = self.chain.hash(sequence, &previous, &record);
        Line { sequence, previous, hash, record: &record }.write(&mut self.bytes);
        (self.sequence, self.hash) = (sequence, hash);
        Ok(())
    }
}
