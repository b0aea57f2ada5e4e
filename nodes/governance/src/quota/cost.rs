//! What a statement costs: use times prices. The table is in the folder's head.

use greylag_protocol::state::Prices;
use serde::{Deserialize, Serialize};

/// Micro-credits of a credit.
pub const CREDIT: u64 = 1_000_000;
/// Micro-credits in credits: `2.5`.
pub fn credits(micro: u64) -> String {
    let (whole, part) = (micro / CREDIT, micro % CREDIT);
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:06}").trim_end_matches('0').to_owned() }
}

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

impl Usage {
    /// Takes on what is greater in `other`, and returns what was added. For a use that is told in all, again and again,
    /// and that may be told smaller where work was begun anew.
    pub fn raise(&mut self, other: &Usage) -> Usage {
        let mut added = Usage::default();
        let fields = [
            (&mut self.statements, other.statements, &mut added.statements),
            (&mut self.rows_returned, other.rows_returned, &mut added.rows_returned),
            (&mut self.bytes_returned, other.bytes_returned, &mut added.bytes_returned),
            (&mut self.rows_scanned, other.rows_scanned, &mut added.rows_scanned),
            (&mut self.bytes_scanned, other.bytes_scanned, &mut added.bytes_scanned),
            (&mut self.source_ms, other.source_ms, &mut added.source_ms),
            (&mut self.cpu_ms, other.cpu_ms, &mut added.cpu_ms),
        ];
        for (known, told, more) in fields {
            *more = told.saturating_sub(*known);
            *known = told.max(*known);
        }
        added
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
    fn credits_are_written_in_full() {
        for (micro, text) in [(0, "0"), (1, "0.000001"), (500_000, "0.5"), (CREDIT, "1"), (20_050_000, "20.05")] {
            assert_eq!(credits(micro), text);
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
    fn a_use_told_again_adds_what_is_new() {
        let mut known = Usage { rows_returned: 5, cpu_ms: 3, ..Usage::default() };
        let added = known.raise(&Usage { rows_returned: 7, cpu_ms: 1, bytes_scanned: 4, ..Usage::default() });
        assert_eq!(added, Usage { rows_returned: 2, bytes_scanned: 4, ..Usage::default() });
        assert_eq!(known, Usage { rows_returned: 7, cpu_ms: 3, bytes_scanned: 4, ..Usage::default() });
    }

    #[test]
    fn what_cannot_be_counted_is_the_most() {
        let all = u64::MAX;
        let usage = Usage { rows_returned: all, bytes_scanned: all, source_ms: all, ..Usage::default() };
        assert_eq!(CostModel(Prices { source_ms: all, ..Prices::default() }).cost(&usage), all);
    }
}
