//! Memory that all gates of one query may use together. It counts bytes; it allocates nothing.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct MemoryShare {
    used: AtomicU64,
    max: u64,
}

impl MemoryShare {
    pub fn new(max: u64) -> Self {
        Self { used: AtomicU64::new(0), max }
    }

    /// Takes `bytes` if they fit.
    pub fn reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Takes `bytes` whether they fit or not: for what an open gate keeps, which is bounded by other means.
    pub fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    pub fn max(&self) -> u64 {
        self.max
    }
}
