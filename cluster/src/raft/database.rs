//! The redb file of a node's log: its tables, how it is opened and read back whole, and how a group of writes becomes
//! one durable transaction. Everything here blocks; nothing here waits for a task.
//!
//! | table | key | value |
//! |---|---|---|
//! | `log` | index | entry |
//! | `meta` | `format`, `node`, `vote`, `committed`, `purged` | that value |
//! | `snapshot` | `meta`, `data` | the one current snapshot |
//!
//! INVARIANT: the entries are consecutive and start right after `purged`. `committed` may be older than what was
//! committed, never newer.

use std::{collections::BTreeMap, io, ops::Bound};

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, wire};
use redb::{BackendError, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::de::DeserializeOwned;

use super::types::{ENTRY_BYTES_MAX, Entry, LogId, SnapshotMeta, Vote};
use crate::{seams::Disk, state::SNAPSHOT_BYTES_MAX};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SNAPSHOT: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshot");

/// Format of the file.
const FORMAT: u32 = 1;
/// Bytes at the beginning of every redb file that are not zero.
const HEAD_BYTES: usize = 9;
/// redb's page cache, bytes. Reads come from memory, so it only serves writes.
const CACHE_BYTES: usize = 4 << 20;
/// Largest value of `meta`, and of a snapshot's description (which names every member), bytes.
pub(super) const META_BYTES_MAX: usize = 1 << 20;

/// What a log file holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Each with its encoded size.
    pub entries: BTreeMap<u64, (Entry, usize)>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
}

/// One write, already encoded.
#[derive(Debug)]
pub(super) enum Change {
    Append(Vec<(u64, Vec<u8>)>),
    Vote(Vec<u8>),
    Committed(Vec<u8>),
    /// Drops entries from this index on.
    TruncateFrom(u64),
    /// Drops entries up to this index, and notes the last id dropped.
    Purge(u64, Vec<u8>),
    Snapshot {
        meta: Vec<u8>,
        data: Vec<u8>,
    },
}

/// Opens or creates the file of `node` and reads it back. Repairs what a crash has left.
///
/// A second, empty file says that the first has been made to its end. Without it a file that has no head yet is one
/// whose making was cut short, and is made anew; with it such a file is damaged, and an error.
pub(super) fn open(disk: &dyn Disk, name: &str, node: NodeId) -> Result<(Database, Content)> {
    let failed = |e: io::Error| broken(format!("`{name}` could not be opened: {e}"));
    let mark = format!("{name}.made");
    let made = disk.read(&mark).map_err(failed)?.is_some();
    let backend = disk.database(name).map_err(failed)?;
    if !made {
        clear_unmade(backend.as_ref()).map_err(failed)?;
    }
    let opened = open_file(backend, node)?;
    if !made {
        disk.write(&mark, b"", false).map_err(failed)?;
    }
    Ok(opened)
}

/// Opens a file again that this process has had open, after a write to it has failed.
pub(super) fn reopen(disk: &dyn Disk, name: &str) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(Backend(disk.database(name)?))?)
}

/// Empties a file that redb had begun to make: it writes the head last.
fn clear_unmade(backend: &dyn StorageBackend) -> io::Result<()> {
    let mut head = [0; HEAD_BYTES];
    if backend.len()? >= HEAD_BYTES as u64 {
        backend.read(0, &mut head)?;
    }
    if backend.len()? > 0 && head == [0; HEAD_BYTES] {
        backend.set_len(0)?;
        backend.sync_data()?;
    }
    Ok(())
}

fn open_file(backend: Box<dyn StorageBackend>, node: NodeId) -> Result<(Database, Content)> {
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(Backend(backend))
        .map_err(|e| broken(format!("the log could not be opened: {e}")))?;
    prepare(&database, node)?;
    let content = read(&database)?;
    Ok((database, checked(content)?))
}

/// Makes the tables, and makes sure that the file is this node's and of a format that is known.
fn prepare(database: &Database, node: NodeId) -> Result<()> {
    let number = |value: &[u8]| wire::decode::<u64>(value, META_BYTES_MAX);
    let failed = |e: redb::Error| broken(format!("the log could not be prepared: {e}"));
    let write = database.begin_write().map_err(|e| failed(e.into()))?;
    {
        write.open_table(LOG).map_err(|e| failed(e.into()))?;
        write.open_table(SNAPSHOT).map_err(|e| failed(e.into()))?;
        let mut meta = write.open_table(META).map_err(|e| failed(e.into()))?;
        for (key, expected) in [("format", u64::from(FORMAT)), ("node", node.0)] {
            let known = meta.get(key).map_err(|e| failed(e.into()))?.map(|v| number(v.value())).transpose()?;
            match known {
                None => {
                    let value = wire::encode(&expected, META_BYTES_MAX)?;
                    meta.insert(key, value.as_slice()).map_err(|e| failed(e.into()))?;
                }
                Some(known) if known == expected => {}
                Some(known) => {
                    return Err(MeshError::new(
                        ErrorCode::InvalidConfig,
                        format!("the log has {key} {known}, not {expected}: it is not this node's log"),
                    ));
                }
            }
        }
    }
    write.commit().map_err(|e| failed(e.into()))
}

fn read(database: &Database) -> Result<Content> {
    let failed = |e: redb::Error| broken(format!("the log could not be read: {e}"));
    let read = database.begin_read().map_err(|e| failed(e.into()))?;
    let meta = read.open_table(META).map_err(|e| failed(e.into()))?;
    let snapshot = read.open_table(SNAPSHOT).map_err(|e| failed(e.into()))?;
    let log = read.open_table(LOG).map_err(|e| failed(e.into()))?;

    let mut content = Content {
        vote: value(&meta, "vote")?,
        committed: value(&meta, "committed")?,
        purged: value(&meta, "purged")?,
        ..Content::default()
    };
    if let Some(described) = value(&snapshot, "meta")? {
        let data = snapshot.get("data").map_err(|e| failed(e.into()))?;
        let data = data.ok_or_else(|| broken("a snapshot is described and not there".to_owned()))?;
        content.snapshot = Some((described, data.value().to_vec()));
    }
    for row in log.iter().map_err(|e| failed(e.into()))? {
        let (index, entry) = row.map_err(|e| failed(e.into()))?;
        let bytes = entry.value();
        content.entries.insert(index.value(), (wire::decode(bytes, ENTRY_BYTES_MAX)?, bytes.len()));
    }
    Ok(content)
}

fn value<T: DeserializeOwned>(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Option<T>> {
    let found = table.get(key).map_err(|e| broken(format!("`{key}` of the log could not be read: {e}")))?;
    found.map(|bytes| wire::decode(bytes.value(), META_BYTES_MAX)).transpose()
}

fn checked(mut content: Content) -> Result<Content> {
    let first = content.purged.map_or(0, |id| id.index + 1);
    for (expected, (index, (entry, _))) in (first..).zip(&content.entries) {
        if *index != expected || entry.log_id.index != expected {
            return Err(broken(format!("the log has entry {index} where {expected} should be")));
        }
    }
    // A crash between writes may leave `committed` ahead of what it refers to. An older value is always safe.
    let last = content.entries.last_key_value().map(|(_, (entry, _))| entry.log_id).or(content.purged);
    let covered = content.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
    content.committed = content.committed.min(last.max(covered));
    Ok(content)
}

/// Makes all changes durable, in order, in one transaction; or none of them.
pub(super) fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut log = write.open_table(LOG)?;
        let mut meta = write.open_table(META)?;
        let mut snapshot = write.open_table(SNAPSHOT)?;
        for change in changes {
            match change {
                Change::Append(entries) => {
                    for (index, entry) in entries {
                        log.insert(*index, entry.as_slice())?;
                    }
                }
                Change::Vote(vote) => {
                    meta.insert("vote", vote.as_slice())?;
                }
                Change::Committed(committed) => {
                    meta.insert("committed", committed.as_slice())?;
                }
                Change::TruncateFrom(index) => log.retain_in(*index.., |_, _| false)?,
                Change::Purge(index, id) => {
                    log.retain_in(..=*index, |_, _| false)?;
                    meta.insert("purged", id.as_slice())?;
                }
                Change::Snapshot { meta, data } => {
                    snapshot.insert("meta", meta.as_slice())?;
                    snapshot.insert("data", data.as_slice())?;
                }
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// A snapshot that is too large would be refused by every peer: it is an error here already.
pub(super) fn check_snapshot(data: &[u8]) -> Result<()> {
    if data.len() > SNAPSHOT_BYTES_MAX + 2 {
        return Err(broken(format!("a snapshot of {} bytes is over its limit", data.len())));
    }
    Ok(())
}

fn broken(message: String) -> MeshError {
    MeshError::internal(message)
}

/// redb takes a backend by value; the seam gives a boxed one.
#[derive(Debug)]
struct Backend(Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
