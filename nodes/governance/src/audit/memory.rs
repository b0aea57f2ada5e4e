//! A folder in memory, with a disk's bad days: full, failing, and a power cut that keeps any part of what was not synced.
//!
//! It stands in where nothing is kept (a node on a simulated disk), and tells the log's tests what a disk would do.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::storage::{AuditFiles, AuditStorage};

/// What a disk does wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ills {
    /// Bytes that still fit; `None`: no limit. A write over it is short.
    pub room: Option<u64>,
    /// Syncing fails.
    pub sync_fails: bool,
    /// Cutting fails.
    pub truncate_fails: bool,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Content>,
    ills: Ills,
    syncs: u64,
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    /// How much of it a power cut leaves for certain.
    synced: usize,
}

/// Clones are the same folder.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage(Arc<Mutex<State>>);

impl MemoryStorage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_ills(&self, ills: Ills) {
        self.state().ills = ills;
    }

    /// How often something was made durable.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The power fails: of each file's unsynced end this many bytes are left.
    pub fn cut_power(&self, kept: usize) {
        for content in self.state().files.values_mut() {
            let length = content.bytes.len().min(content.synced + kept);
            content.bytes.truncate(length);
            content.synced = length;
        }
    }

    /// The power fails: everything was given to the disk, and of each file's unsynced end these bytes have not arrived.
    pub fn tear(&self, hole: Range<usize>) {
        for content in self.state().files.values_mut() {
            let end = &mut content.bytes[content.synced..];
            let (from, to) = (hole.start.min(end.len()), hole.end.min(end.len()));
            end[from..to].fill(0);
            content.synced = content.bytes.len();
        }
    }

    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.state().files.get(name).map(|c| c.bytes.clone())
    }

    /// Puts a file there, whatever it holds; `None` takes it away.
    pub fn put(&self, name: &str, content: Option<Vec<u8>>) {
        let mut state = self.state();
        match content {
            Some(bytes) => {
                let synced = bytes.len();
                state.files.insert(name.into(), Content { bytes, synced });
            }
            None => {
                state.files.remove(name);
            }
        }
    }

    /// Another folder with the same files, on a healthy disk.
    pub fn copied(&self) -> Self {
        let files = self.state().files.clone();
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }
}

impl State {
    fn file(&mut self, name: &str) -> io::Result<&mut Content> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl AuditFiles for MemoryStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn bytes(&self, name: &str) -> io::Result<u64> {
        Ok(self.state().file(name)?.bytes.len() as u64)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(Cursor::new(self.state().file(name)?.bytes.clone())))
    }
}

impl AuditStorage for MemoryStorage {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.ills.room == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.insert(name.into(), Content::default());
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let fits = state.ills.room.map_or(bytes.len(), |room| bytes.len().min(room as usize));
        if let Some(room) = &mut state.ills.room {
            *room -= fits as u64;
        }
        state.file(name)?.bytes.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.ills.sync_fails {
            return Err(io::Error::other("the disk does not sync"));
        }
        state.syncs += 1;
        let content = state.file(name)?;
        content.synced = content.bytes.len();
        Ok(())
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.ills.truncate_fails {
            return Err(io::Error::other("the disk does not cut"));
        }
        let content = state.file(name)?;
        content.bytes.truncate(bytes as usize);
        content.synced = content.synced.min(content.bytes.len());
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.state().file(name)?;
        self.state().files.remove(name);
        Ok(())
    }
}
