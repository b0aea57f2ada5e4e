//! Memory that all gates of one query may use together, out of what all queries of a node may. It counts bytes; it
//! allocates nothing.

use std::sync::Arc;

use crate::bounds::Bound;

#[derive(Debug)]
pub struct MemoryShare {
    own: Bound,
    /// What this is a share of.
    whole: Arc<Bound>,
}

impl MemoryShare {
    /// What is taken from it is taken from the whole too.
    pub fn of(whole: Arc<Bound>, max: u64) -> Self {
        Self { own: Bound::of(max), whole }
    }

    /// Takes `bytes` if they fit.
    pub fn reserve(&self, bytes: u64) -> bool {
        if !self.own.reserve(bytes) {
            return false;
        }
        let granted = self.whole.reserve(bytes);
        if !granted {
            self.own.release(bytes);
        }
        granted
    }

    /// Takes `bytes` whether they fit or not: for what an open gate keeps, which is bounded by other means.
    pub fn take(&self, bytes: u64) {
        self.own.take(bytes);
        self.whole.take(bytes);
    }

    pub fn release(&self, bytes: u64) {
        self.own.release(bytes);
        self.whole.release(bytes);
    }

    pub fn used(&self) -> u64 {
        self.own.used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_bounded_by_itself_and_by_the_whole() {
        let whole = Arc::new(Bound::of(10));
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
