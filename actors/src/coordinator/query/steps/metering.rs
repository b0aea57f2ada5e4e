//! Step 12: what a statement uses, as it uses it. Sub-queries count what passes their gates and how long their sources
//! worked; the outlet counts what leaves, and pays before it does.
//!
//! INVARIANT: rows that came are counted once, however many attempts it took; the time of sources is that of all attempts.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use greylag_governance::quota::Usage;
use greylag_protocol::{ErrorCode, MeshError, Result};

/// One statement's counters. Shared by everything that works for it.
#[derive(Debug, Default)]
pub struct Meter {
    rows_returned: AtomicU64,
    bytes_returned: AtomicU64,
    rows_scanned: AtomicU64,
    bytes_scanned: AtomicU64,
    source_us: AtomicU64,
    compute_us: AtomicU64,
    /// Most that may be scanned; [`u64::MAX`]: anything.
    rows_max: AtomicU64,
    bytes_max: AtomicU64,
}

impl Meter {
    pub fn limit(&self, rows_max: Option<u64>, bytes_max: Option<u64>) {
        self.rows_max.store(rows_max.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.bytes_max.store(bytes_max.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Rows have come from a source. GL2010 once they are more than the principal's budget.
    pub fn scanned(&self, rows: u64, bytes: u64) -> Result<()> {
        let rows = self.rows_scanned.fetch_add(rows, Ordering::Relaxed).saturating_add(rows);
        let bytes = self.bytes_scanned.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let over = |used: u64, max: &AtomicU64| {
            let max = max.load(Ordering::Relaxed);
            (max > 0 && used > max).then_some(max)
        };
        for (what, used, max) in
            [("rows", rows, over(rows, &self.rows_max)), ("bytes", bytes, over(bytes, &self.bytes_max))]
        {
            if let Some(max) = max {
                let message = format!("it has read {used} {what}, and the budget is {max}; narrow it");
                return Err(MeshError::new(ErrorCode::BudgetExceeded, message));
            }
        }
        Ok(())
    }

    /// The plan is run again, and reads all of it once more.
    pub fn read_again(&self) {
        self.rows_scanned.store(0, Ordering::Relaxed);
        self.bytes_scanned.store(0, Ordering::Relaxed);
    }

    pub fn source_worked(&self, time: Duration) {
        self.source_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn computed(&self, time: Duration) {
        self.compute_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn returned(&self, rows: u64, bytes: u64) {
        self.rows_returned.fetch_add(rows, Ordering::Relaxed);
        self.bytes_returned.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn bytes_returned(&self) -> u64 {
        self.bytes_returned.load(Ordering::Relaxed)
    }

    pub fn usage(&self) -> Usage {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            statements: 1,
            rows_returned: of(&self.rows_returned),
            bytes_returned: of(&self.bytes_returned),
            rows_scanned: of(&self.rows_scanned),
            bytes_scanned: of(&self.bytes_scanned),
            source_ms: of(&self.source_us) / 1_000,
            cpu_ms: of(&self.compute_us) / 1_000,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_read_over_the_budget_is_an_error_and_what_comes_again_counts_once() {
        let meter = Meter::default();
        meter.scanned(1_000, 1_000).unwrap();
        meter.limit(Some(1_010), None);
        meter.scanned(10, 1 << 40).unwrap();
        assert_eq!(meter.scanned(1, 1).unwrap_err().code, ErrorCode::BudgetExceeded);
        meter.read_again();
        meter.scanned(1_010, 5).unwrap();
        let usage = meter.usage();
        assert_eq!((usage.rows_scanned, usage.bytes_scanned, usage.statements), (1_010, 5, 1));
    }
}
