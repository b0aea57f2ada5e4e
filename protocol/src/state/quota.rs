//! Quotas as the log keeps them: how much each organisation and agent may spend in a period, and which nodes hold how
//! much of it on lease. A node spends from its leases only, so no partition can overspend. What things cost and how a
//! node spends is in `governance::quota`.
//!
//! INVARIANT: settled use and open leases together never exceed the limit at the moment of a grant, whatever clocks
//! say and however often or late a command is applied. (governance::quota, simulation)
//!
//! Nothing here frees an open lease: only its holder knows what it has spent. What a node held when it died counts as
//! spent until the period ends.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::Period;
use crate::ids::NodeId;

/// Smallest part of what is left that a lease gets, as a divisor: a quarter, so that other nodes find something too.
const SHARE: u64 = 4;
/// A lease is not made smaller than this for the sake of others, micro-credits.
const LEASE_FLOOR: u64 = 1_000_000;
/// Periods that are kept after their end, so that late reports still count for `system.usage`.
const PAST_PERIODS_MAX: usize = 2;

/// Whose use is counted. An organisation without agent counts all of its use; with one, that agent's within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QuotaKey {
    pub organisation: String,
    pub agent: Option<String>,
    pub period: Period,
}

impl fmt::Display for QuotaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.organisation)?;
        if let Some(agent) = &self.agent {
            write!(f, "/{agent}")?;
        }
        write!(f, " per {}", self.period)
    }
}

/// Names one lease for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId {
    pub node: NodeId,
    /// Of the process: another, greater one after each start.
    pub incarnation: u64,
    /// Raised by the node for each lease that it asks for.
    pub sequence: u64,
}

/// A part of a quota that one node may spend. Amounts are micro-credits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub amount: u64,
    /// As reported last.
    pub spent: u64,
    pub granted_unix_ms: u64,
}

/// Use within one period.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeriodUse {
    pub start_unix_ms: u64,
    pub end_unix_ms: u64,
    /// Spent from leases that are closed.
    pub settled: u64,
    pub open: BTreeMap<LeaseId, Lease>,
    /// Somebody was refused. Holders give back what they do not need.
    pub starved: bool,
}

impl PeriodUse {
    fn at(period: Period, unix_ms: u64) -> Self {
        let (start_unix_ms, end_unix_ms) = period.span(unix_ms);
        Self { start_unix_ms, end_unix_ms, ..Self::default() }
    }

    /// What cannot be granted any more.
    pub fn committed(&self) -> u64 {
        self.open.values().fold(self.settled, |sum, lease| sum.saturating_add(lease.amount))
    }

    /// What is known to be spent.
    pub fn spent(&self) -> u64 {
        self.open.values().fold(self.settled, |sum, lease| sum.saturating_add(lease.spent))
    }

    /// `None` if no such lease is open.
    fn report(&mut self, id: LeaseId, spent: u64, closed: bool) -> Option<()> {
        let lease = self.open.get_mut(&id)?;
        lease.spent = lease.spent.max(spent).min(lease.amount);
        if closed {
            self.settled = self.settled.saturating_add(lease.spent);
            self.starved &= lease.spent == lease.amount;
            self.open.remove(&id);
        }
        Some(())
    }

    /// The process that held them is gone, and nobody knows what it had spent: all of it, then.
    fn forfeit_older(&mut self, node: NodeId, incarnation: u64) {
        let gone = |id: &LeaseId| id.node == node && id.incarnation < incarnation;
        let forfeited: u64 = self.open.iter().filter(|(id, _)| gone(id)).map(|(_, lease)| lease.amount).sum();
        self.settled = self.settled.saturating_add(forfeited);
        self.open.retain(|id, _| !gone(id));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Micro-credits in each period. `None`: no limit any more; kept until the period is over, so that a limit that is
    /// taken away and given back does not forget what was spent.
    pub limit: Option<u64>,
    pub current: PeriodUse,
    /// The newest first.
    pub past: Vec<PeriodUse>,
    /// The last ask of each node: one that is applied twice grants once.
    pub asked: BTreeMap<NodeId, LeaseId>,
}

/// All quotas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLedger {
    pub quotas: BTreeMap<QuotaKey, Quota>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaCommand {
    /// `None`: no limit.
    SetLimit { key: QuotaKey, limit: Option<u64>, now_unix_ms: u64 },
    /// Asks for a part: at least `need`, for which something waits, or nothing; rather `want`. A node asks for one
    /// part of a quota at a time and repeats the ask as it was until it is answered.
    Lease { key: QuotaKey, lease: LeaseId, need: u64, want: u64, now_unix_ms: u64 },
    /// What has been spent from a lease, in all. Once it is closed its holder spends nothing more from it.
    Report { key: QuotaKey, lease: LeaseId, spent: u64, closed: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaOutcome {
    /// It may be spent until the period ends.
    Granted {
        amount: u64,
        period_end_unix_ms: u64,
    },
    /// Less than needed is left, or nothing. `period_end_unix_ms` is when there will be more.
    Exhausted {
        limit: u64,
        left: u64,
        period_end_unix_ms: u64,
    },
    /// No limit holds.
    Unlimited,
    Done,
    /// The ask has been answered before, and what was granted has been given back or its period is over: ask anew.
    Repeated,
    /// An older process of a node that has started again since.
    Stale,
}

impl QuotaLedger {
    /// Applies one command. The same on every node: it takes no time, order or chance from anywhere else.
    pub fn apply(&mut self, command: &QuotaCommand) -> QuotaOutcome {
        match command {
            QuotaCommand::SetLimit { key, limit, now_unix_ms } => self.set_limit(key, *limit, *now_unix_ms),
            QuotaCommand::Lease { key, lease, need, want, now_unix_ms } => match self.quotas.get_mut(key) {
                Some(quota) => quota.lease(key.period, *lease, *need, *want, *now_unix_ms),
                None => QuotaOutcome::Unlimited,
            },
            QuotaCommand::Report { key, lease, spent, closed } => {
                if let Some(quota) = self.quotas.get_mut(key) {
                    let mut periods = std::iter::once(&mut quota.current).chain(&mut quota.past);
                    // A lease that is not open has been closed by an earlier copy of this report, or its period is forgotten.
                    periods.find_map(|period| period.report(*lease, *spent, *closed));
                }
                QuotaOutcome::Done
            }
        }
    }

    fn set_limit(&mut self, key: &QuotaKey, limit: Option<u64>, now_unix_ms: u64) -> QuotaOutcome {
        match self.quotas.get_mut(key) {
            Some(quota) => quota.limit = limit,
            None if limit.is_some() => {
                let current = PeriodUse::at(key.period, now_unix_ms);
                let quota = Quota { limit, current, past: Vec::new(), asked: BTreeMap::new() };
                self.quotas.insert(key.clone(), quota);
            }
            None => {}
        }
        self.quotas.retain(|_, quota| quota.limit.is_some() || now_unix_ms < quota.current.end_unix_ms);
        QuotaOutcome::Done
    }

    /// Whether a statement of this organisation and agent is counted, and under which keys.
    pub fn keys_of(&self, organisation: &str, agent: Option<&str>) -> Vec<QuotaKey> {
        let agents = [Some(None), agent.map(|a| Some(a.to_owned()))];
        let of_agent = agents.into_iter().flatten();
        let keys = of_agent.flat_map(|agent| {
            [Period::Hour, Period::Day, Period::Month].map(|period| QuotaKey {
                organisation: organisation.to_owned(),
                agent: agent.clone(),
                period,
            })
        });
        keys.filter(|key| self.quotas.get(key).is_some_and(|quota| quota.limit.is_some())).collect()
    }
}

impl Quota {
    fn lease(&mut self, period: Period, id: LeaseId, need: u64, want: u64, now_unix_ms: u64) -> QuotaOutcome {
        if self.asked.get(&id.node).is_some_and(|last| last.incarnation > id.incarnation) {
            return QuotaOutcome::Stale;
        }
        // A clock that is behind asks for a period that is over: it gets its lease from the one that runs.
        if now_unix_ms >= self.current.end_unix_ms {
            let over = std::mem::replace(&mut self.current, PeriodUse::at(period, now_unix_ms));
            self.past.insert(0, over);
            self.past.truncate(PAST_PERIODS_MAX);
        }
        let periods = std::iter::once(&mut self.current).chain(&mut self.past);
        periods.for_each(|period| period.forfeit_older(id.node, id.incarnation));
        let Some(limit) = self.limit else { return QuotaOutcome::Unlimited };
        let period_end_unix_ms = self.current.end_unix_ms;
        if let Some(lease) = self.current.open.get(&id) {
            return QuotaOutcome::Granted { amount: lease.amount, period_end_unix_ms };
        }
        let left = limit.saturating_sub(self.current.committed());
        let repeated = self
            .asked
            .get(&id.node)
            .is_some_and(|last| last.sequence >= id.sequence && last.incarnation == id.incarnation);
        if repeated {
            return QuotaOutcome::Repeated;
        }
        let amount = left.min(need.max(want.min((left / SHARE).max(LEASE_FLOOR))));
        if left < need || amount == 0 {
            self.current.starved |= need > 0;
            self.remember(id);
            return QuotaOutcome::Exhausted { limit, left, period_end_unix_ms };
        }
        self.remember(id);
        self.current.open.insert(id, Lease { amount, spent: 0, granted_unix_ms: now_unix_ms });
        QuotaOutcome::Granted { amount, period_end_unix_ms }
    }

    fn remember(&mut self, id: LeaseId) {
        let last = self.asked.entry(id.node).or_insert(id);
        *last = (*last).max(id);
    }
}
