//! Opening a chain's folder to go on writing: whose it is, where it ends, and whether that is where it should.
//!
//! It reads the last file whole, of the others the first record; proving them all is for [`super::verify`]. The one thing
//! that it repairs is the end that a power cut leaves of a write that was never acknowledged: a line that does not end, or
//! one with a hole of zero bytes, which no record has, and what follows it. What follows a hole is kept beside the file.
//! Anything else that is wrong is an error, for people to look at, and the files stay as they are.
//!
//! A folder that ends before what the replicated log knows of is an old copy, and is refused. An empty one is taken for
//! the decision to go on without it: the chain continues after the last known record, and every verification names what
//! is missing.

use std::io::{self, Read};

use greylag_protocol::{ErrorCode, MeshError, Result, state::AuditHead};

use super::{
    line::{Chain, FORMAT, RecordHash, is_beginning_of},
    log::{AuditLog, BATCH_RECORDS_MAX, Rotation, Segment, refused},
    record::{AuditRecord, OpenedRecord},
    segment::{Ending, Entries, segment_files},
    storage::AuditStorage,
};

/// What the node knows when it opens its chain.
#[derive(Debug, Clone)]
pub struct Opening {
    pub chain: Chain,
    /// The chain's head as the replicated log has it.
    pub known: Option<AuditHead>,
    pub rotation: Rotation,
    /// Version of the program.
    pub release: String,
    pub now_unix_ms: u64,
}

/// How far a file is good.
struct Tail {
    segment: Segment,
    sequence: u64,
    hash: RecordHash,
    /// Bytes that an unfinished write has left after it.
    unfinished: u64,
}

/// What an unfinished write has left.
#[derive(Default)]
struct Unfinished {
    /// The last file, in which there is nothing else.
    file: Option<String>,
    /// At the end of the last file that is kept.
    bytes: u64,
}

/// Name of what is kept of a file after a hole, which begins where this record was to be.
fn torn_name(name: &str, sequence: u64) -> String {
    format!("{name}.{sequence}.torn")
}

fn wrong(file: &str, line: u64, what: &str) -> MeshError {
    MeshError::new(ErrorCode::AuditUnavailable, format!("the audit file `{file}`, line {line}: {what}"))
}

impl AuditLog {
    /// Opens the chain, or begins it, and writes that it has.
    pub fn open(storage: Box<dyn AuditStorage>, opening: Opening) -> Result<Self> {
        let mut log = Self::over(storage, opening.chain, opening.rotation);
        let names = segment_files(&*log.storage).map_err(|error| refused("list", "its folder", &error))?;
        let (mut repaired_bytes, mut lost_upto) = (0, None);
        if names.is_empty() {
            if let Some(known) = opening.known {
                (log.sequence, log.hash) = (known.sequence, RecordHash(known.hash));
                lost_upto = Some(known.sequence);
            }
        } else {
            // Nothing is repaired before everything else was found right.
            let unfinished = log.take_up(&names)?;
            opening.known.map_or(Ok(()), |known| log.compare(known))?;
            repaired_bytes = log.repair(unfinished)?;
        }
        let (Chain { mesh, node }, at_unix_ms, release) = (opening.chain, opening.now_unix_ms, opening.release);
        let opened = OpenedRecord { at_unix_ms, mesh, node, release, repaired_bytes, lost_upto };
        log.append(at_unix_ms, vec![AuditRecord::Opened(opened)])?;
        Ok(log)
    }

    /// Goes on after the last record of these files. Returns what an unfinished write has left.
    fn take_up(&mut self, names: &[(u64, String)]) -> Result<Unfinished> {
        let mut unfinished = Unfinished::default();
        let Some(((mut first, mut name), mut earlier)) = names.split_last().map(|(l, rest)| (l.clone(), rest)) else {
            return Ok(unfinished);
        };
        let mut tail = self.read_last(first, &name)?;
        if tail.is_none() {
            // It was begun, and nothing in it was acknowledged: the one before it is the last.
            unfinished.file = Some(name);
            let Some((before, rest)) = earlier.split_last() else { return Ok(unfinished) };
            ((first, name), earlier) = (before.clone(), rest);
            tail = self.read_last(first, &name)?;
        }
        let Some(tail) = tail else { return Err(wrong(&name, 1, "it is empty")) };
        for (first, name) in earlier {
            let segment = self.read_first(*first, name)?;
            self.segments.push(segment);
        }
        (self.sequence, self.hash) = (tail.sequence, tail.hash);
        self.segments.push(tail.segment);
        unfinished.bytes = tail.unfinished;
        Ok(unfinished)
    }

    /// Removes what an unfinished write has left. Returns its bytes.
    fn repair(&mut self, unfinished: Unfinished) -> Result<u64> {
        let mut bytes = unfinished.bytes;
        if let Some(name) = &unfinished.file {
            bytes += self.storage.bytes(name).map_err(|error| refused("read", name, &error))?;
            self.keep_torn(name, 0)?;
            self.storage.remove(name).map_err(|error| refused("remove", name, &error))?;
        }
        if let Some((name, good)) = self.segments.last().map(|s| (s.name.clone(), s.bytes))
            && unfinished.bytes > 0
        {
            self.keep_torn(&name, good)?;
            self.storage.truncate(&name, good).map_err(|error| refused("cut", &name, &error))?;
        }
        Ok(bytes)
    }

    /// Copies what comes after so many bytes, if there is a hole and more behind it.
    fn keep_torn(&mut self, name: &str, good: u64) -> Result<()> {
        let mut torn = Vec::new();
        let read = |torn: &mut Vec<u8>| {
            let mut file = self.storage.open(name)?;
            io::copy(&mut (&mut file).take(good), &mut io::sink())?;
            file.read_to_end(torn)
        };
        read(&mut torn).map_err(|error| refused("read", name, &error))?;
        let hole = torn.iter().position(|byte| *byte == 0).unwrap_or(torn.len());
        if torn[hole..].iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let copy = torn_name(name, self.sequence + 1);
        match self.storage.remove(&copy) {
            // Left of an earlier try.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused("remove", &copy, &error)),
        }
        self.storage
            .create(&copy)
            .and_then(|()| self.storage.append(&copy, &torn))
            .and_then(|()| self.storage.sync(&copy))
            .map_err(|error| refused("write", &copy, &error))
    }

    /// The file's first record, which says whose it is.
    fn read_first(&self, first: u64, name: &str) -> Result<Segment> {
        let io = |error| refused("read", name, &error);
        let entry = Entries::of(&*self.storage, name).map_err(io)?.next().transpose().map_err(io)?;
        let entry = entry.ok_or_else(|| wrong(name, 1, "it is empty"))?;
        let line = entry.line().map_err(|why| wrong(name, 1, why))?;
        let Some(AuditRecord::Segment(whose)) = entry.record() else {
            return Err(wrong(name, 1, "it does not say whose it is"));
        };
        if whose.format > FORMAT {
            let what = format!("it has format {}, and this release knows up to {FORMAT}", whose.format);
            return Err(wrong(name, 1, &what));
        }
        if (whose.mesh, whose.node) != (self.chain.mesh, self.chain.node) {
            let what = format!(
                "it is of {} in mesh {}, and this is {} in mesh {}",
                whose.node, whose.mesh, self.chain.node, self.chain.mesh
            );
            return Err(wrong(name, 1, &what));
        }
        if line.sequence != first {
            return Err(wrong(name, 1, "it begins with another record than its name says"));
        }
        if !line.is_of(&self.chain) {
            return Err(wrong(name, 1, "its hash is wrong"));
        }
        let bytes = self.storage.bytes(name).map_err(io)?;
        let (name, previous, began_unix_ms) = (name.to_owned(), line.previous, whose.at_unix_ms);
        Ok(Segment { name, first, previous, bytes, began_unix_ms })
    }

    /// Reads the last file to its end. `None`: not even its first line is whole.
    fn read_last(&self, first: u64, name: &str) -> Result<Option<Tail>> {
        let io = |error| refused("read", name, &error);
        let mut sequence = first.wrapping_sub(1);
        let mut hash: Option<RecordHash> = None;
        let (mut good, mut unfinished) = (0u64, 0u64);
        let mut entries = Entries::of(&*self.storage, name).map_err(io)?;
        while let Some(entry) = entries.next().transpose().map_err(io)? {
            let is_unfinished = entry.ending == Ending::Unfinished;
            let begins_well = is_unfinished && is_beginning_of(&entry.bytes, sequence.wrapping_add(1), hash.as_ref());
            if begins_well || entry.bytes.contains(&0) {
                // Only the last write can be unfinished.
                if entries.by_ref().take(BATCH_RECORDS_MAX).count() == BATCH_RECORDS_MAX {
                    return Err(wrong(name, entry.number, "it has a hole, and more after it than one write leaves"));
                }
                unfinished = self.storage.bytes(name).map_err(io)?.saturating_sub(good);
                break;
            }
            if is_unfinished {
                return Err(wrong(name, entry.number, "its line does not end, and no record begins so"));
            }
            let line = entry.line().map_err(|why| wrong(name, entry.number, why))?;
            if hash.is_none() {
                // Says more exactly what is wrong with a first line.
                self.read_first(first, name)?;
            }
            let follows = line.sequence == sequence.wrapping_add(1) && hash.is_none_or(|hash| hash == line.previous);
            if !follows || !line.is_of(&self.chain) {
                return Err(wrong(name, entry.number, "it does not follow from the records before it"));
            }
            (sequence, hash) = (line.sequence, Some(line.hash));
            good += entry.bytes.len() as u64 + 1;
        }
        let Some(hash) = hash else { return Ok(None) };
        let segment = Segment { bytes: good, ..self.read_first(first, name)? };
        Ok(Some(Tail { segment, sequence, hash, unfinished }))
    }

    /// The replicated log must not know more, or another chain.
    fn compare(&self, known: AuditHead) -> Result<()> {
        if known.sequence > self.sequence {
            let message = format!(
                "the audit folder ends with record {}, and record {} had been committed: it is an old copy, or its end \
                 was cut off; put the right one back, or move it away to go on without it",
                self.sequence, known.sequence
            );
            return Err(MeshError::new(ErrorCode::AuditUnavailable, message));
        }
        let found = self.hash_of(known.sequence)?;
        if found.is_some_and(|found| found.0 != known.hash) {
            let message = format!("record {} of the audit folder is not the one that was committed", known.sequence);
            return Err(MeshError::new(ErrorCode::AuditUnavailable, message));
        }
        Ok(())
    }

    /// The record's hash, unless its file has been removed.
    fn hash_of(&self, sequence: u64) -> Result<Option<RecordHash>> {
        if sequence == self.sequence {
            return Ok(Some(self.hash));
        }
        if let Some(next) = self.segments.iter().find(|s| s.first == sequence + 1) {
            return Ok(Some(next.previous));
        }
        let Some(segment) = self.segments.iter().rev().find(|s| s.first <= sequence) else { return Ok(None) };
        let name = &segment.name;
        let io = |error| refused("read", name, &error);
        for entry in Entries::of(&*self.storage, name).map_err(io)? {
            let entry = entry.map_err(io)?;
            let line = entry.line().map_err(|why| wrong(name, entry.number, why))?;
            if line.sequence == sequence {
                return Ok(Some(line.hash));
            }
        }
        Err(wrong(name, 0, &format!("record {sequence} is missing")))
    }
}
