//! What a statement costs: use times prices. The table is in the folder's head.

use greylag_protocol::state::Prices;
use serde::{Deserialize, Serialize};

/// Micro-credits of a credit.
pub const CREDIT: u64 = 1_000_000;
/// Prices are nano-credits, so that a row may cost less than a micro-credit.
const NANO: u128 = 1000;
const KIB: u128 = 1024;

/// What a statement has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub statements: u64,
    pub rows_returned: u64,
    pub bytes_returned: u64,
    pub rows_scanned: u64,
    pub bytes_scanned: u64,
    /// Time that sources worked, all attempts together.
    pub source_ms: u64,
    pub cpu_ms: u64,
}

impl Usage {
    pub fn add(&mut self, more: &Usage) {
        let sums = [
            (&mut self.statements, more.statements),
            (&mut self.rows_returned, more.rows_returned),
            (&mut self.bytes_returned, more.bytes_returned),
            (&mut self.rows_scanned, more.rows_scanned),
            (&mut self.bytes_scanned, more.bytes_scanned),
            (&mut self.source_ms, more.source_ms),
            (&mut self.cpu_ms, more.cpu_ms),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Prices, with the arithmetic over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CostModel(pub Prices);

impl CostModel {
    /// Micro-credits, rounded up; more than can be counted is the most that can.
    pub fn cost(&self, usage: &Usage) -> u64 {
        let whole = [
            (usage.statements, self.0.statement),
            (usage.rows_returned, self.0.row_returned),
            (usage.rows_scanned, self.0.row_scanned),
            (usage.source_ms, self.0.source_ms),
            (usage.cpu_ms, self.0.cpu_ms),
        ];
        let by_kib = [(usage.bytes_returned, self.0.kib_returned), (usage.bytes_scanned, self.0.kib_scanned)];
        let product = |(n, price): (u64, u64)| u128::from(n) * u128::from(price);
        // Everything over 1024, so that bytes are not rounded one by one. Each product is below 2^128 / 2^10 or so.
        let whole = whole.into_iter().fold(0_u128, |sum, part| sum.saturating_add(product(part).saturating_mul(KIB)));
        let sum = by_kib.into_iter().fold(whole, |sum, part| sum.saturating_add(product(part)));
        u64::try_from(sum.div_ceil(NANO * KIB)).unwrap_or(u64::MAX)
    }

    /// What more the whole use costs than the part of it that has been charged.
    pub fn rest(&self, usage: &Usage, charged: u64) -> u64 {
        self.cost(usage).saturating_sub(charged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_priced_by_the_table() {
        let model = CostModel::default();
        let cases = [
            (Usage::default(), 0),
            (Usage { statements: 1, ..Usage::default() }, 1000),
            (Usage { rows_returned: 7, ..Usage::default() }, 7),
            (Usage { bytes_returned: 10 * 1024, ..Usage::default() }, 200),
            (Usage { bytes_returned: 1, ..Usage::default() }, 1),
            (Usage { rows_scanned: 1, ..Usage::default() }, 1),
            (Usage { rows_scanned: 25, ..Usage::default() }, 3),
            (Usage { bytes_scanned: 512, ..Usage::default() }, 2),
            (Usage { source_ms: 3, cpu_ms: 2, ..Usage::default() }, 350),
        ];
        for (usage, cost) in cases {
            assert_eq!(model.cost(&usage), cost, "{usage:?}");
        }
    }

    #[test]
    fn parts_charged_one_by_one_come_to_the_whole() {
        let model = CostModel::default();
        let (mut usage, mut charged) = (Usage::default(), 0);
        for step in 0..1000_u64 {
            usage.add(&Usage { rows_scanned: 1, bytes_returned: step, ..Usage::default() });
            charged += model.rest(&usage, charged);
        }
        assert_eq!(charged, model.cost(&usage));
    }

    #[test]
    fn what_cannot_be_counted_is_the_most() {
        let all = u64::MAX;
        let usage = Usage { rows_returned: all, bytes_scanned: all, source_ms: all, ..Usage::default() };
        assert_eq!(CostModel(Prices { source_ms: all, ..Prices::default() }).cost(&usage), all);
    }
}
