//! Ticks, by which a stall of the whole process is noticed, and a look at the disk now and then.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{DiskWatch, Stalls};
use crate::seams::{Blocking, Disk};

/// Between two ticks.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks at the disk.
const LOOK_TICKS: u32 = 20;

/// Runs until it is dropped.
pub(crate) async fn watch(
    stalls: Arc<Stalls>,
    writes: Arc<DiskWatch>,
    disk: Arc<dyn Disk>,
    blocking: Arc<dyn Blocking>,
    free_bytes_min: u64,
) {
    let looking = async {
        loop {
            look(&writes, &disk, &*blocking, free_bytes_min).await;
            sleep(TICK * LOOK_TICKS).await;
        }
    };
    let ticking = async {
        loop {
            stalls.tick(Instant::now(), TICK);
            sleep(TICK).await;
        }
    };
    tokio::join!(looking, ticking);
}

/// One durable write, and how much is free after it.
async fn look(writes: &DiskWatch, disk: &Arc<dyn Disk>, blocking: &dyn Blocking, free_bytes_min: u64) {
    let started = Instant::now();
    writes.begins(started);
    let (found, disk) = (Arc::new(Mutex::new(Ok(None))), disk.clone());
    let put = found.clone();
    blocking.run(Box::new(move || *put.lock().unwrap_or_else(PoisonError::into_inner) = disk.free_bytes())).await;
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *found, Ok(None)) {
        Ok(free) => {
            // The log alone may say that it can write again: a small file may fit where an entry does not.
            if !writes.is_refusing() {
                writes.wrote(started.elapsed());
            }
            if let Some(free) = free {
                writes.has_free(free, free_bytes_min);
            }
        }
        Err(error) if is_full(&error) => writes.has_free(0, free_bytes_min),
        Err(error) => tracing::debug!(%error, "the disk could not be tried"),
    }
}

/// Whether a disk has refused a write for want of space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
