//! One node's part of the quotas: what it holds on lease, what runs on it, and what it has to tell the log.
//!
//! No clock, no I/O: the moment comes in, and what must be proposed is asked for with [`QuotaNode::due`]. A lease is
//! asked for once and the ask repeated until it is answered; a report likewise. Whoever got `Asked` tries again when
//! an answer has come in.
//!
//! INVARIANT: of each lease, spent + reserved <= amount; once its closing has been reported nothing of it is spent.

use std::collections::BTreeMap;

use greylag_protocol::{
    ErrorCode, MeshError, NodeId,
    state::{LeaseId, QuotaCommand, QuotaKey, QuotaOutcome, utc_text},
};

use super::credits;

/// Life of a lease. What is not spent by then is given back.
pub const LEASE_MS: u64 = 60_000;
/// What the log has not answered is sent again after this long.
const RETRY_MS: u64 = 1_000;
/// A quota that is spent is not asked for again before this has passed.
const DRY_MS: u64 = 2_000;
/// What has been spent is reported this often, for `system.usage`.
const REPORT_MS: u64 = 10_000;
/// A lease that nothing has drawn on for this long goes back if others go short.
const IDLE_MS: u64 = 2_000;
/// Least and most that is asked for beyond need, micro-credits.
const CHUNK_MIN: u64 = 1_000_000;
const CHUNK_MAX: u64 = 1_000_000_000_000;

/// A statement that is being charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReservationId(u64);

/// Whether something could be spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spend<T> {
    Done(T),
    /// More has been asked for: try again when an answer has come in.
    Asked,
    Exceeded(Exceeded),
}

/// The quota that cannot bear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub key: QuotaKey,
    pub limit: u64,
    pub period_end_unix_ms: u64,
}

impl From<Exceeded> for MeshError {
    fn from(exceeded: Exceeded) -> Self {
        let Exceeded { key, limit, period_end_unix_ms } = exceeded;
        let (limit, next) = (credits(limit), utc_text(period_end_unix_ms));
        let message = format!("the quota of {limit} credits for `{key}` is spent; the next period begins at {next}");
        MeshError::new(ErrorCode::QuotaExceeded, message)
    }
}

/// Everything this node knows of quotas.
#[derive(Debug)]
pub struct QuotaNode {
    node: NodeId,
    incarnation: u64,
    sequence: u64,
    accounts: BTreeMap<QuotaKey, Account>,
    reservations: BTreeMap<ReservationId, Reservation>,
    reservations_made: u64,
    /// It stops: nothing is asked for any more.
    retired: bool,
}

#[derive(Debug, Default)]
struct Account {
    leases: BTreeMap<u64, Held>,
    ask: Option<Ask>,
    dry: Option<Dry>,
    unlimited_until_unix_ms: u64,
    chunk: u64,
    granted_unix_ms: u64,
    drawn_unix_ms: u64,
}

#[derive(Debug)]
struct Ask {
    sequence: u64,
    need: u64,
    want: u64,
    sent_unix_ms: Option<u64>,
}

#[derive(Debug)]
struct Dry {
    until_unix_ms: u64,
    left: u64,
    limit: u64,
    period_end_unix_ms: u64,
}

#[derive(Debug)]
struct Held {
    amount: u64,
    spent: u64,
    reserved: u64,
    ends_unix_ms: u64,
    /// Nothing new is drawn from it.
    closing: bool,
    reported: u64,
    report_sent_unix_ms: u64,
}

/// Amounts reserved, by lease, for each quota that the statement is charged to.
#[derive(Debug)]
struct Reservation {
    draws: BTreeMap<QuotaKey, BTreeMap<u64, u64>>,
}

impl Held {
    fn free(&self, now: u64) -> u64 {
        if self.closing || now >= self.ends_unix_ms { 0 } else { self.amount - self.spent - self.reserved }
    }
}

impl Account {
    fn free(&self, now: u64) -> u64 {
        self.leases.values().fold(0, |sum, held| sum.saturating_add(held.free(now)))
    }

    /// Takes from what is free, the lease that ends first first. The caller knows that there is enough.
    fn draw(&mut self, mut amount: u64, now: u64, mut take: impl FnMut(u64, &mut Held, u64)) {
        self.drawn_unix_ms = now;
        for (sequence, held) in &mut self.leases {
            let part = held.free(now).min(amount);
            if part > 0 {
                take(*sequence, held, part);
                amount -= part;
            }
        }
    }

    /// Whether asking makes sense for this much.
    fn refuses(&mut self, need: u64, now: u64) -> Option<(u64, u64)> {
        self.dry.take_if(|dry| now >= dry.until_unix_ms || now >= dry.period_end_unix_ms);
        let dry = self.dry.as_ref().filter(|dry| need > dry.left)?;
        Some((dry.limit, dry.period_end_unix_ms))
    }
}

impl QuotaNode {
    /// `incarnation` must be greater than that of every earlier process of this node.
    pub fn new(node: NodeId, incarnation: u64) -> Self {
        Self {
            node,
            incarnation,
            sequence: 0,
            accounts: BTreeMap::new(),
            reservations: BTreeMap::new(),
            reservations_made: 0,
            retired: false,
        }
    }

    /// Sets an estimate aside in each of these quotas (from `QuotaLedger::keys_of`), or in none.
    pub fn reserve(&mut self, keys: &[QuotaKey], estimate: u64, now_unix_ms: u64) -> Spend<ReservationId> {
        let needs = keys.iter().map(|key| (key.clone(), estimate)).collect();
        if let Some(not_now) = self.provide(&needs, now_unix_ms) {
            return not_now;
        }
        let mut draws: BTreeMap<QuotaKey, BTreeMap<u64, u64>> = BTreeMap::new();
        for (key, need) in needs {
            let Some(account) = self.limited(&key, now_unix_ms) else { continue };
            let of_key = draws.entry(key).or_default();
            account.draw(need, now_unix_ms, |sequence, held, part| {
                held.reserved += part;
                of_key.insert(sequence, part);
            });
        }
        for key in keys {
            draws.entry(key.clone()).or_default();
        }
        self.reservations_made += 1;
        let id = ReservationId(self.reservations_made);
        self.reservations.insert(id, Reservation { draws });
        self.ask_early(keys, now_unix_ms);
        Spend::Done(id)
    }

    /// Spends in each of the statement's quotas, or in none: first of what was set aside, then of what is free. To be
    /// called for work done, before its rows leave.
    pub fn charge(&mut self, id: ReservationId, amount: u64, now_unix_ms: u64) -> Spend<()> {
        let Some(reservation) = self.reservations.get(&id) else { return Spend::Done(()) };
        let lacking = reservation.draws.iter().map(|(key, draws)| {
            let reserved = draws.values().fold(0_u64, |sum, part| sum.saturating_add(*part));
            (key.clone(), amount.saturating_sub(reserved))
        });
        let lacking: BTreeMap<QuotaKey, u64> = lacking.collect();
        if let Some(not_now) = self.provide(&lacking, now_unix_ms) {
            return not_now;
        }
        let Some(reservation) = self.reservations.get_mut(&id) else { return Spend::Done(()) };
        for (key, draws) in &mut reservation.draws {
            let Some(account) = self.accounts.get_mut(key) else { continue };
            let mut left = amount;
            for (sequence, reserved) in draws.iter_mut() {
                let part = (*reserved).min(left);
                if let Some(held) = account.leases.get_mut(sequence) {
                    held.reserved -= part;
                    held.spent += part;
                }
                *reserved -= part;
                left -= part;
            }
            if left > 0 && now_unix_ms >= account.unlimited_until_unix_ms {
                account.draw(left, now_unix_ms, |_, held, part| held.spent += part);
            }
        }
        let keys: Vec<QuotaKey> = lacking.into_keys().collect();
        self.ask_early(&keys, now_unix_ms);
        Spend::Done(())
    }

    /// The statement has ended: what was set aside for it and not spent is free again.
    pub fn finish(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.remove(&id) else { return };
        for (key, draws) in reservation.draws {
            let Some(account) = self.accounts.get_mut(&key) else { continue };
            for (sequence, reserved) in draws {
                if let Some(held) = account.leases.get_mut(&sequence) {
                    held.reserved -= reserved;
                }
            }
        }
    }

    /// The account, unless no limit holds.
    fn limited(&mut self, key: &QuotaKey, now: u64) -> Option<&mut Account> {
        self.accounts.get_mut(key).filter(|account| now >= account.unlimited_until_unix_ms)
    }

    /// Asks for whatever is lacking. `None` if everything is there.
    fn provide<T>(&mut self, needs: &BTreeMap<QuotaKey, u64>, now: u64) -> Option<Spend<T>> {
        let mut asked = false;
        for (key, need) in needs {
            let account = self.accounts.entry(key.clone()).or_default();
            if now < account.unlimited_until_unix_ms {
                continue;
            }
            let short = need.saturating_sub(account.free(now));
            if short == 0 {
                continue;
            }
            if let Some((limit, period_end_unix_ms)) = account.refuses(short, now) {
                return Some(Spend::Exceeded(Exceeded { key: key.clone(), limit, period_end_unix_ms }));
            }
            asked = true;
            self.ask(key, short, now);
        }
        asked.then_some(Spend::Asked)
    }

    /// One ask at a time for each quota: whoever needs more asks again after the answer.
    fn ask(&mut self, key: &QuotaKey, need: u64, now: u64) {
        let may_ask = |account: &&mut Account| account.ask.is_none() && !self.retired;
        let Some(account) = self.accounts.get_mut(key).filter(may_ask) else { return };
        self.sequence += 1;
        let lasted = now.saturating_sub(account.granted_unix_ms);
        let chunk = if lasted < LEASE_MS / 4 {
            account.chunk.saturating_mul(2)
        } else if lasted > LEASE_MS {
            account.chunk / 2
        } else {
            account.chunk
        };
        account.chunk = chunk.clamp(CHUNK_MIN, CHUNK_MAX);
        let want = need.saturating_add(account.chunk);
        account.ask = Some(Ask { sequence: self.sequence, need, want, sent_unix_ms: None });
    }

    /// Asks for the next part while there still is something to spend.
    fn ask_early(&mut self, keys: &[QuotaKey], now: u64) {
        for key in keys {
            let Some(account) = self.limited(key, now) else { continue };
            if account.refuses(u64::MAX, now).is_none() && account.free(now) < account.chunk.max(CHUNK_MIN) / 2 {
                self.ask(key, 0, now);
            }
        }
    }

    /// The log's answer to an ask. One that comes twice, or to an ask that is over, changes nothing.
    pub fn answered(&mut self, key: &QuotaKey, lease: LeaseId, outcome: &QuotaOutcome, now_unix_ms: u64) {
        let is_ours = self.is_own(lease);
        let Some(account) = self.accounts.get_mut(key).filter(|_| is_ours) else { return };
        if account.ask.take_if(|ask| ask.sequence == lease.sequence).is_none() {
            return;
        }
        match *outcome {
            QuotaOutcome::Granted { amount, period_end_unix_ms } => {
                account.granted_unix_ms = now_unix_ms;
                account.dry = None;
                let held = Held {
                    amount,
                    spent: 0,
                    reserved: 0,
                    ends_unix_ms: now_unix_ms.saturating_add(LEASE_MS).min(period_end_unix_ms),
                    closing: false,
                    reported: 0,
                    report_sent_unix_ms: now_unix_ms,
                };
                account.leases.insert(lease.sequence, held);
            }
            QuotaOutcome::Exhausted { limit, left, period_end_unix_ms } => {
                let until_unix_ms = now_unix_ms.saturating_add(DRY_MS);
                account.dry = Some(Dry { until_unix_ms, left, limit, period_end_unix_ms });
            }
            QuotaOutcome::Unlimited => account.unlimited_until_unix_ms = now_unix_ms.saturating_add(DRY_MS),
            // Another process has this node's name and data: this one gets nothing more.
            QuotaOutcome::Stale => {
                account.dry = Some(Dry { until_unix_ms: u64::MAX, left: 0, limit: 0, period_end_unix_ms: u64::MAX });
            }
            QuotaOutcome::Repeated | QuotaOutcome::Done => {}
        }
    }

    /// The log has applied a closing report: the lease is no more.
    pub fn closed(&mut self, key: &QuotaKey, lease: LeaseId) {
        let is_ours = self.is_own(lease);
        let Some(account) = self.accounts.get_mut(key).filter(|_| is_ours) else { return };
        if account.leases.get(&lease.sequence).is_some_and(|held| held.closing && held.reserved == 0) {
            account.leases.remove(&lease.sequence);
        }
    }

    /// Closes what has had its life, and what others need more. `starved` says what the ledger says of a quota.
    pub fn tick(&mut self, now_unix_ms: u64, starved: impl Fn(&QuotaKey) -> bool) {
        let retired = self.retired;
        for (key, account) in &mut self.accounts {
            let idle = now_unix_ms.saturating_sub(account.drawn_unix_ms) >= IDLE_MS;
            let give_back = retired || (idle && starved(key));
            for held in account.leases.values_mut() {
                let used_up = held.spent == held.amount;
                held.closing |= used_up || give_back || now_unix_ms >= held.ends_unix_ms;
            }
        }
        let now = now_unix_ms;
        self.accounts.retain(|_, account| {
            let resting = account.leases.is_empty() && account.ask.is_none();
            !resting
                || now < account.drawn_unix_ms.saturating_add(LEASE_MS)
                || account.dry.as_ref().is_some_and(|d| now < d.until_unix_ms)
        });
    }

    /// The node stops: what it holds goes back, and what it has asked for does once the answer has come. What has been
    /// asked for is asked again at once, since nobody may be listening for the answer any more.
    pub fn retire(&mut self) {
        self.retired = true;
        for account in self.accounts.values_mut() {
            account.ask.take_if(|ask| ask.sent_unix_ms.is_none());
            if let Some(ask) = &mut account.ask {
                ask.sent_unix_ms = None;
            }
        }
    }

    /// Whether it is this incarnation's.
    pub fn is_own(&self, lease: LeaseId) -> bool {
        (lease.node, lease.incarnation) == (self.node, self.incarnation)
    }

    /// Nothing is on lease and nothing has been asked for.
    pub fn holds_nothing(&self) -> bool {
        self.accounts.values().all(|account| account.leases.is_empty() && account.ask.is_none())
    }

    /// There is nothing to do until somebody reserves or charges.
    pub fn is_idle(&self) -> bool {
        self.accounts.is_empty()
    }

    /// What is to be proposed to the log now.
    pub fn due(&mut self, now_unix_ms: u64) -> Vec<QuotaCommand> {
        let (node, incarnation) = (self.node, self.incarnation);
        let id = |sequence| LeaseId { node, incarnation, sequence };
        let is_old = |sent: u64, pause: u64| now_unix_ms.saturating_sub(sent) >= pause;
        let mut due = Vec::new();
        for (key, account) in &mut self.accounts {
            for (sequence, held) in &mut account.leases {
                let closed = held.closing && held.reserved == 0;
                let first = closed && held.reported != u64::MAX;
                let again = closed && is_old(held.report_sent_unix_ms, RETRY_MS);
                let news = !closed && held.spent > held.reported && is_old(held.report_sent_unix_ms, REPORT_MS);
                if first || again || news {
                    held.report_sent_unix_ms = now_unix_ms;
                    held.reported = if closed { u64::MAX } else { held.spent };
                    due.push(QuotaCommand::Report {
                        key: key.clone(),
                        lease: id(*sequence),
                        spent: held.spent,
                        closed,
                    });
                }
            }
            if let Some(ask) =
                account.ask.as_mut().filter(|ask| ask.sent_unix_ms.is_none_or(|sent| is_old(sent, RETRY_MS)))
            {
                ask.sent_unix_ms = Some(now_unix_ms);
                let (lease, need, want) = (id(ask.sequence), ask.need, ask.want);
                due.push(QuotaCommand::Lease { key: key.clone(), lease, need, want, now_unix_ms });
            }
        }
        due
    }

    /// Held, spent and reserved of one quota, micro-credits.
    pub fn holds(&self, key: &QuotaKey) -> (u64, u64, u64) {
        let leases = self.accounts.get(key).into_iter().flat_map(|account| account.leases.values());
        leases.fold((0, 0, 0), |(held, spent, reserved), lease| {
            (held + lease.amount, spent + lease.spent, reserved + lease.reserved)
        })
    }
}

#[cfg(test)]
#[path = "node_test.rs"]
mod tests;

#[cfg(test)]
#[path = "simulation_test.rs"]
mod simulation;
