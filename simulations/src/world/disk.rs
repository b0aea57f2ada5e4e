//! A disk that can lose power: what was synced stays; of what was not, each 512-byte sector stays or goes by chance, so
//! writes come out torn and out of order. Handles from before the cut are dead for good.
//!
//! Power goes off before the software does: redb writes and syncs in its destructor.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_cluster::seams::Disk;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::trace;

const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Default)]
struct File {
    /// What survives.
    durable: Vec<u8>,
    /// What readers see.
    view: Vec<u8>,
    /// Since the last sync.
    pending: Vec<Change>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    files: BTreeMap<String, File>,
    on: bool,
    /// Raised at each return of power.
    generation: u64,
    chance: ChaCha8Rng,
}

/// All files of one host. It outlives the host's crashes.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

impl SimDisk {
    pub fn new(name: &str, seed: u64) -> Self {
        let chance = ChaCha8Rng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(Inner { name: name.into(), files: BTreeMap::new(), on: true, generation: 0, chance })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every operation fails. Call it before the host is crashed.
    pub fn power_off(&self) {
        self.lock().on = false;
    }

    /// Each sector of each write that was not synced survives with probability `survive`. Returns how many did not.
    pub fn power_on(&self, survive: f64) -> u64 {
        let mut inner = self.lock();
        let Inner { files, chance, .. } = &mut *inner;
        let mut torn = 0;
        for file in files.values_mut() {
            for change in std::mem::take(&mut file.pending) {
                torn += survive_in_part(&mut file.durable, &change, survive, chance);
            }
            file.view.clone_from(&file.durable);
        }
        inner.generation += 1;
        inner.on = true;
        torn
    }

    /// Hash of everything that would survive now.
    pub fn hash(&self) -> u64 {
        let inner = self.lock();
        inner.files.iter().fold(0, |h, (name, file)| trace::fold(trace::fold(h, name.as_bytes()), &file.durable))
    }
}

fn survive_in_part(durable: &mut Vec<u8>, change: &Change, survive: f64, chance: &mut ChaCha8Rng) -> u64 {
    let mut torn = 0;
    match change {
        Change::SetLen(len) => {
            if chance.random_bool(survive) {
                durable.resize(usize::try_from(*len).unwrap_or(0), 0);
            } else {
                torn += 1;
            }
        }
        Change::Write(offset, data) => {
            let mut at = 0;
            while at < data.len() {
                let absolute = usize::try_from(*offset).unwrap_or(0) + at;
                let sector = (SECTOR_BYTES - absolute % SECTOR_BYTES).min(data.len() - at);
                let fits = absolute + sector <= durable.len();
                if chance.random_bool(survive) && fits {
                    durable[absolute..absolute + sector].copy_from_slice(&data[at..at + sector]);
                } else {
                    torn += 1;
                }
                at += sector;
            }
        }
    }
    torn
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::SetLen(len) => bytes.resize(usize::try_from(*len).unwrap_or(0), 0),
        Change::Write(offset, data) => {
            let start = usize::try_from(*offset).unwrap_or(0);
            let end = start + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl Inner {
    /// The file, for a handle of this generation.
    fn file(&mut self, name: &str, generation: u64) -> io::Result<&mut File> {
        if !self.on || generation != self.generation {
            return Err(off());
        }
        Ok(self.files.entry(name.to_owned()).or_default())
    }
}

impl Disk for SimDisk {
    fn database(&self, name: &str) -> io::Result<Box<dyn redb::StorageBackend>> {
        let generation = self.lock().generation;
        self.lock().file(name, generation)?;
        Ok(Box::new(Backend { disk: self.clone(), file: name.to_owned(), generation }))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let inner = self.lock();
        if inner.on { Ok(inner.files.get(name).map(|f| f.view.clone())) } else { Err(off()) }
    }

    fn write(&self, name: &str, content: &[u8], _secret: bool) -> io::Result<()> {
        let mut inner = self.lock();
        let generation = inner.generation;
        let host = inner.name.clone();
        let file = inner.file(name, generation)?;
        *file = File { durable: content.to_vec(), view: content.to_vec(), pending: Vec::new() };
        trace::disk(&format!("{host} replaces {name}"), content);
        Ok(())
    }
}

#[derive(Debug)]
struct Backend {
    disk: SimDisk,
    file: String,
    generation: u64,
}

impl Backend {
    fn with<T>(&self, work: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        work(self.disk.lock().file(&self.file, self.generation)?)
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.with(|f| Ok(f.view.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|f| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = f.view.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|f| {
            let change = Change::SetLen(len);
            apply(&mut f.view, &change);
            f.pending.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let host = self.disk.lock().name.clone();
        self.with(|f| {
            for change in std::mem::take(&mut f.pending) {
                if let Change::Write(offset, data) = &change {
                    trace::disk(&format!("{host} syncs {offset}"), data);
                }
                apply(&mut f.durable, &change);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|f| {
            let change = Change::Write(offset, data.to_vec());
            apply(&mut f.view, &change);
            f.pending.push(change);
            Ok(())
        })
    }
}
