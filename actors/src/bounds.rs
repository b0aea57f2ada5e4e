//! Named bounds and how full they are: what `system.bounds` shows. Whoever limits something counts it here, so that a
//! limit that is hit can be seen, with its setting's name.
//!
//! INVARIANT: `used` never passes `max` through [`Bound::reserve`]; only [`Bound::take`], for what is bounded by other
//! means too, may pass it.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

use greylag_protocol::{NodeId, messages::control::BoundRow};

/// All bounds of a node that are in use.
#[derive(Debug, Default)]
pub struct Bounds(Mutex<Vec<Weak<Bound>>>);

/// One limit. It is listed for as long as somebody keeps it.
#[derive(Debug)]
pub struct Bound {
    /// Key of the setting.
    name: &'static str,
    /// What it bounds, where there are several of it: a source, a peer.
    of: String,
    max: u64,
    used: AtomicU64,
    peak: AtomicU64,
    refused: AtomicU64,
}

impl Bounds {
    pub fn open(&self, name: &'static str, of: impl Into<String>, max: u64) -> Arc<Bound> {
        let bound = Bound::named(name, of, max);
        self.list(&bound);
        bound
    }

    /// Lists a bound that somebody else has made.
    pub fn list(&self, bound: &Arc<Bound>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|bound| bound.strong_count() > 0);
        all.push(Arc::downgrade(bound));
    }

    pub fn rows(&self, node: NodeId) -> Vec<BoundRow> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<BoundRow> = all.iter().filter_map(Weak::upgrade).map(|bound| bound.row(node)).collect();
        rows.sort_by(|a, b| (&a.name, &a.of).cmp(&(&b.name, &b.of)));
        rows
    }
}

/// One of what a bound counts, until it is dropped.
#[derive(Debug)]
pub struct Taken(Arc<Bound>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

impl Bound {
    /// One that is listed when somebody does so: see [`Bounds::list`].
    pub fn named(name: &'static str, of: impl Into<String>, max: u64) -> Arc<Self> {
        Arc::new(Self { name, of: of.into(), ..Self::of(max) })
    }

    /// One that is not listed.
    pub fn of(max: u64) -> Self {
        let zero = AtomicU64::default;
        Self { name: "", of: String::new(), max, used: zero(), peak: zero(), refused: zero() }
    }

    /// Takes `amount` if it fits; counts a refusal if not.
    pub fn reserve(&self, amount: u64) -> bool {
        let fits = |used: u64| used.checked_add(amount).filter(|sum| *sum <= self.max);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(before) => {
                self.peak.fetch_max(before + amount, Ordering::Relaxed);
                true
            }
            Err(_) => {
                self.refuse();
                false
            }
        }
    }

    /// Takes `amount` whether it fits or not.
    pub fn take(&self, amount: u64) {
        let before = self.used.fetch_add(amount, Ordering::AcqRel);
        self.peak.fetch_max(before + amount, Ordering::Relaxed);
    }

    /// Takes one for as long as what is returned is kept, whether it fits or not.
    pub fn taken(self: &Arc<Self>) -> Taken {
        self.take(1);
        Taken(self.clone())
    }

    pub fn release(&self, amount: u64) {
        self.used.fetch_sub(amount, Ordering::AcqRel);
    }

    /// Counts a refusal that was decided elsewhere.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    fn row(&self, node: NodeId) -> BoundRow {
        BoundRow {
            node,
            name: self.name.to_owned(),
            of: self.of.clone(),
            max: self.max,
            used: self.used(),
            peak: self.peak.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_counts_what_it_gives_and_what_it_refuses_while_somebody_keeps_it() {
        let bounds = Bounds::default();
        let bound = bounds.open("limits.a", "x", 10);
        let other = bounds.open("limits.a", "", 1);
        assert!(bound.reserve(6) && !bound.reserve(5) && bound.reserve(4));
        bound.release(3);
        other.take(2);
        let row = |of: &str, max, used, peak, refused| BoundRow {
            node: NodeId(1),
            name: "limits.a".to_owned(),
            of: of.to_owned(),
            max,
            used,
            peak,
            refused,
        };
        assert_eq!(bounds.rows(NodeId(1)), vec![row("", 1, 2, 2, 0), row("x", 10, 7, 10, 1)]);
        drop(other);
        assert_eq!(bounds.rows(NodeId(1)).len(), 1);
    }
}
