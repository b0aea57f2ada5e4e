//! The log as openraft sees it: entries and vote, read from memory, written through the [`Writer`]. The part that is
//! not purged is kept in memory whole; snapshots bound it.
//!
//! INVARIANT: what has been appended can be read at once, durable or not; what is acknowledged is durable.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_protocol::wire;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use serde::Serialize;

use super::{
    database::{Change, Content, META_BYTES_MAX},
    types::{ENTRY_BYTES_MAX, Entry, LogId, TypeConfig, Vote, to_io},
    writer::{Done, Writer},
};

/// Entries sent to a peer in one call, bytes, unless one alone is larger.
const SEND_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub(super) struct LogStore {
    memory: Arc<Mutex<Memory>>,
    writer: Writer,
}

struct Memory {
    /// Entries with their encoded size.
    entries: BTreeMap<u64, (Entry, usize)>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl LogStore {
    pub fn new(content: Content, writer: Writer) -> Self {
        let Content { entries, vote, committed, purged, .. } = content;
        let memory = Memory { entries, vote, committed, purged };
        Self { memory: Arc::new(Mutex::new(memory)), writer }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode_entry(entry: &Entry) -> io::Result<Vec<u8>> {
    wire::encode(entry, ENTRY_BYTES_MAX).map_err(to_io)
}

fn encode_meta<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    wire::encode(value, META_BYTES_MAX).map_err(to_io)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.memory().entries.range(range).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let memory = self.memory();
        let mut taken = 0;
        let fitting = memory.entries.range(start..end).take_while(|(_, (_, bytes))| {
            let first = taken == 0;
            taken += bytes.max(&1);
            first || taken <= SEND_BYTES_MAX
        });
        Ok(fitting.map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory();
        let last = memory.entries.last_key_value().map(|(_, (entry, _))| entry.log_id);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.writer.write(Change::Vote(encode_meta(vote)?)).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.memory().committed = Some(committed);
        self.writer.queue(Change::Committed(encode_meta(&committed)?), Done::Nobody).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut memory = self.memory();
            for entry in entries {
                let bytes = encode_entry(&entry)?;
                memory.entries.insert(entry.log_id.index, (entry.clone(), bytes.len()));
                encoded.push((entry.log_id.index, bytes));
            }
        }
        self.writer.queue(Change::Append(encoded), Done::Raft(callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index + 1);
        self.memory().entries.split_off(&from);
        self.writer.queue(Change::TruncateFrom(from), Done::Nobody).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut memory = self.memory();
            memory.entries = memory.entries.split_off(&(upto.index + 1));
            memory.purged = Some(upto);
        }
        self.writer.queue(Change::Purge(upto.index, encode_meta(&upto)?), Done::Nobody).await
    }
}
