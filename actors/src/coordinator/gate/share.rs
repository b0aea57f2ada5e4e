//! Memory that all gates of one query may use together, out of what all queries of a node may. It counts bytes; it
//! allocates nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

#[derive(Debug)]
pub struct MemoryShare {
    used: AtomicU64,
    max: u64,
    /// What this is a share of.
    whole: Option<Arc<MemoryShare>>,
}

impl MemoryShare {
    pub fn new(max: u64) -> Self {
        Self { used: AtomicU64::new(0), max, whole: None }
    }

    /// A share of another: what is taken from it is taken from both.
    pub fn of(whole: Arc<MemoryShare>, max: u64) -> Self {
        Self { used: AtomicU64::new(0), max, whole: Some(whole) }
    }

    /// Takes `bytes` if they fit.
    pub fn reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        if self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
            return false;
        }
        let granted = self.whole.as_ref().is_none_or(|whole| whole.reserve(bytes));
        if !granted {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
        }
        granted
    }

    /// Takes `bytes` whether they fit or not: for what an open gate keeps, which is bounded by other means.
    pub fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        if let Some(whole) = &self.whole {
            whole.take(bytes);
        }
    }

    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(whole) = &self.whole {
            whole.release(bytes);
        }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    pub fn max(&self) -> u64 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_bounded_by_itself_and_by_the_whole() {
        let whole = Arc::new(MemoryShare::new(10));
        let (one, other) = (MemoryShare::of(whole.clone(), 8), MemoryShare::of(whole.clone(), 8));
        assert!(one.reserve(7) && !one.reserve(2), "over its own");
        assert!(other.reserve(3) && !other.reserve(1), "over the whole");
        assert_eq!((one.used(), other.used(), whole.used()), (7, 3, 10));
        one.release(7);
        other.take(9);
        assert_eq!((other.used(), whole.used()), (12, 12));
        other.release(12);
        assert_eq!(whole.used(), 0);
    }
}
