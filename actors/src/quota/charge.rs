//! A statement's account while it runs: what was set aside for it, what it has been charged, and what the meter was told.
//!
//! INVARIANT: dropped at any moment, also by a panic, it gives back what was set aside and not spent.

use std::sync::Arc;

use greylag_governance::quota::{CostModel, QuotaKey, QuotaNode, ReservationId, Spend, Usage};
use greylag_protocol::{ErrorCode, MeshError, Result};
use tokio::time::Instant;

use super::{Quotas, meter::Account};

/// See [`Quotas::reserve`].
#[must_use = "what was set aside is given back when it is dropped"]
pub struct Charge {
    quotas: Arc<Quotas>,
    keys: Vec<QuotaKey>,
    model: CostModel,
    account: Arc<Account>,
    deadline: Instant,
    held: Option<Held>,
    /// What the meter was told, and its price.
    metered: Usage,
    priced: u64,
    /// What was spent in the quotas, micro-credits.
    charged: u64,
}

/// In the node's state of one generation.
#[derive(Clone, Copy)]
struct Held {
    generation: u64,
    id: ReservationId,
    /// Set aside and not charged yet, micro-credits.
    left: u64,
}

impl Charge {
    pub(super) fn new(
        quotas: Arc<Quotas>,
        keys: Vec<QuotaKey>,
        model: CostModel,
        account: Arc<Account>,
        deadline: Instant,
    ) -> Self {
        let (metered, priced, charged) = (Usage::default(), 0, 0);
        Self { quotas, keys, model, account, deadline, held: None, metered, priced, charged }
    }

    pub(super) async fn set_aside(&mut self, estimate: &Usage) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let (cost, quotas, keys) = (self.model.cost(estimate), self.quotas.clone(), self.keys.clone());
        let held = &mut self.held;
        let reserved = quotas
            .insist(&keys, cost, self.deadline, |node, generation, now| {
                reserve(held, &keys, cost, (node, generation, now))
            })
            .await;
        self.noted(reserved)
    }

    /// Charges what `usage_so_far`, the statement's whole use until now, costs more than what was charged before. To be
    /// called before rows leave. After an error the statement must stop: GL5007 if a quota cannot bear it, GL4007 if more
    /// is needed and the log cannot be asked. What was set aside for it is spent then.
    ///
    /// May be dropped and called again.
    pub async fn charge(&mut self, usage_so_far: &Usage) -> Result<()> {
        let more = self.metered.raise(usage_so_far);
        let cost = self.model.cost(&self.metered);
        self.account.add(&more, cost.saturating_sub(self.priced));
        self.priced = self.priced.max(cost);
        let amount = cost.saturating_sub(self.charged);
        if self.keys.is_empty() || amount == 0 {
            return Ok(());
        }
        let (quotas, keys) = (self.quotas.clone(), self.keys.clone());
        let (held, charged) = (&mut self.held, &mut self.charged);
        let lacking = amount.saturating_sub(held.map_or(0, |held| held.left));
        let spent = quotas
            .insist(&keys, lacking, self.deadline, |node, generation, now| {
                // Another state of the node has taken the place of the one in which it was set aside.
                if held.is_none_or(|held| held.generation != generation) {
                    match reserve(held, &keys, amount, (&mut *node, generation, now)) {
                        Spend::Done(()) => {}
                        not_yet => return not_yet,
                    }
                }
                let Some(held) = held.as_mut() else { return Spend::Asked };
                let spent = node.charge(held.id, amount, now);
                if spent == Spend::Done(()) {
                    held.left = held.left.saturating_sub(amount);
                    *charged += amount;
                }
                spent
            })
            .await;
        if spent.is_err() {
            self.forfeit(amount);
        }
        self.noted(spent)
    }

    /// What this statement has been charged, micro-credits; the price of its use where no quota holds.
    pub fn microcredits(&self) -> u64 {
        if self.keys.is_empty() { self.priced } else { self.charged }
    }

    /// The work was done, though its rows do not leave: as much of it as was set aside is spent, or a statement that is
    /// too dear could be tried again and again for nothing.
    fn forfeit(&mut self, amount: u64) {
        let mut desk = self.quotas.desk();
        let now = desk.time.now(self.quotas.log.unix_ms(), Instant::now());
        let generation = desk.generation;
        let held = self.held.as_mut().filter(|held| held.generation == generation);
        if let (Some(held), Some(node)) = (held, &mut desk.node) {
            let part = held.left.min(amount);
            if part > 0 && node.charge(held.id, part, now) == Spend::Done(()) {
                held.left -= part;
                self.charged += part;
            }
        }
    }

    fn noted(&self, outcome: Result<()>) -> Result<()> {
        if outcome.as_ref().is_err_and(|error: &MeshError| error.code == ErrorCode::QuotaExceeded) {
            self.account.refused();
        }
        outcome
    }
}

fn reserve(
    held: &mut Option<Held>,
    keys: &[QuotaKey],
    amount: u64,
    (node, generation, now): (&mut QuotaNode, u64, u64),
) -> Spend<()> {
    match node.reserve(keys, amount, now) {
        Spend::Done(id) => {
            *held = Some(Held { generation, id, left: amount });
            Spend::Done(())
        }
        Spend::Asked => Spend::Asked,
        Spend::Exceeded(exceeded) => Spend::Exceeded(exceeded),
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some(held) = self.held else { return };
        let mut desk = self.quotas.desk();
        let is_same = desk.generation == held.generation;
        if let Some(node) = desk.node.as_mut().filter(|_| is_same) {
            node.finish(held.id);
        }
    }
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Charge").field("charged", &self.charged).field("metered", &self.metered).finish_non_exhaustive()
    }
}
