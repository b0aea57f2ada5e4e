//! A node's quotas while it runs: the state of `governance::quota` between the statements that spend and the log that
//! grants, and what each principal has used here whether a quota holds or not.
//!
//! Statements reserve and charge by [`Quotas::reserve`] and [`Charge`]; a supervised task takes to the log what has to be
//! said there ([`drive`]). Where no quota fits, nobody waits and nothing is locked. It decides nothing about amounts:
//! that is the node's state and the ledger's. It sets no prices: they are in the replicated settings. A quota that is set
//! while a statement runs holds from the next one on, and a node spends freely under a quota that its log has not told it
//! of yet.
//!
//! INVARIANT: nothing is spent that the log has not granted. A log that does not answer is an error, never a free ride.
//! (simulation_test.rs)

mod charge;
mod driver;
mod log;
mod meter;
mod steady;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_governance::quota::{CostModel, Exceeded, QuotaKey, QuotaNode, Spend, Usage};
use greylag_protocol::{
    ErrorClass, ErrorCode, MeshError, Result,
    messages::control::UsageRow,
    principal::Principal,
    state::{ControlState, MemberStatus, PeriodUse},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

pub use self::{charge::Charge, meter::METERED_MAX};
pub(crate) use self::{driver::drive, log::MeshLog, log::QuotaLog};
use self::{meter::Meter, steady::SteadyTime};

/// Longest wait for what other nodes hold and do not need: they notice within a few seconds that somebody goes short.
const RECALL_MAX: Duration = Duration::from_secs(6);
/// While waiting for it, the log is asked again this often.
const RECALL_PAUSE: Duration = Duration::from_millis(250);
/// Where that wait was in vain nobody waits again before this has passed.
const RECALL_REST: Duration = Duration::from_secs(60);

/// One for each node.
pub struct Quotas {
    log: Arc<dyn QuotaLog>,
    /// Longest wait for a log that does not answer.
    patience: Duration,
    desk: Mutex<Desk>,
    /// Told whenever the log has answered, or could not be asked.
    news: watch::Sender<()>,
    /// Wakes the driver.
    wake: Notify,
    meter: Meter,
}

/// What is changed together.
#[derive(Default)]
struct Desk {
    /// `None` until somebody needs it, and while another takes its place.
    node: Option<QuotaNode>,
    /// Of `node`: reservations made in an earlier one are not known in it.
    generation: u64,
    wanted: bool,
    /// The driver waits to be woken and for nothing else.
    asleep: bool,
    /// The node stops.
    closed: bool,
    time: SteadyTime,
    /// Why the log has not answered about a quota. Cleared by its answer.
    failures: BTreeMap<QuotaKey, MeshError>,
    /// Why there is no `node` yet.
    trouble: Option<MeshError>,
    /// Quotas of which others were waited for in vain, and until when nobody waits again.
    vain: BTreeMap<QuotaKey, Instant>,
}

/// What came of one try.
enum Tried<T> {
    Done(T),
    Wait(Option<MeshError>),
    Exceeded { exceeded: Exceeded, free: u64 },
    Failed(MeshError),
}

impl Quotas {
    pub(crate) fn new(log: Arc<dyn QuotaLog>, patience: Duration) -> Self {
        let meter = Meter::new(log.unix_ms());
        let (desk, news, wake) = (Mutex::default(), watch::Sender::default(), Notify::new());
        Self { log, patience, desk, news, wake, meter }
    }

    /// Sets an estimate aside in every quota that the principal is charged to, and opens the statement's account in the
    /// meter. Waits for leases, until the deadline at most. GL5007 if a quota cannot bear it; GL4007 if the log cannot be
    /// asked and not enough is held here; GL5005 while the node stops; GL5002 at the deadline.
    pub async fn reserve(
        self: &Arc<Self>,
        principal: &Principal,
        estimate: &Usage,
        deadline: Instant,
    ) -> Result<Charge> {
        let (organisation, agent) = (principal.organisation().unwrap_or_default(), principal.agent_id());
        let (keys, model) = {
            let state = self.log.state();
            let ledger = &state.governance.quotas;
            let keys = if ledger.quotas.is_empty() { Vec::new() } else { ledger.keys_of(organisation, agent) };
            (keys, CostModel(state.governance.settings.value.prices))
        };
        let account = self.meter.account(organisation, agent);
        let mut charge = Charge::new(self.clone(), keys, model, account, deadline);
        charge.set_aside(estimate).await?;
        Ok(charge)
    }

    /// What was used here since the node started, for `system.usage`.
    pub fn usage(&self) -> Vec<UsageRow> {
        self.meter.rows(self.log.node())
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries until it is done or refused, each time that the log has said something. `need` is what is lacking at most.
    async fn insist<T>(
        &self,
        keys: &[QuotaKey],
        need: u64,
        deadline: Instant,
        mut attempt: impl FnMut(&mut QuotaNode, u64, u64) -> Spend<T>,
    ) -> Result<T> {
        let mut news = self.news.subscribe();
        let mut stalled: Option<Instant> = None;
        let mut recalling: Option<Instant> = None;
        loop {
            news.borrow_and_update();
            let (tried, now) = (self.attempt(keys, &mut attempt), Instant::now());
            let until = match tried {
                Tried::Done(done) => return Ok(done),
                Tried::Failed(error) => return Err(error),
                Tried::Wait(why) => {
                    let until = *stalled.get_or_insert(now) + self.patience;
                    if now >= until && until <= deadline {
                        return Err(self.unanswered(keys, why));
                    }
                    until
                }
                Tried::Exceeded { exceeded, free } => {
                    stalled = None;
                    let until = *recalling.get_or_insert(now) + RECALL_MAX;
                    if now >= until || !self.may_come_back(&exceeded.key, need.saturating_sub(free), now) {
                        if recalling.is_some_and(|began| began < now) {
                            self.desk().vain.insert(exceeded.key.clone(), now + RECALL_REST);
                        }
                        return Err(exceeded.into());
                    }
                    until.min(now + RECALL_PAUSE)
                }
            };
            if now >= deadline {
                return Err(MeshError::new(ErrorCode::Deadline, "the deadline passed while a quota was asked for"));
            }
            // Whether something was said or time has passed: what there is now decides.
            let _ = timeout_at(until.min(deadline), news.changed()).await;
        }
    }

    fn attempt<T>(
        &self,
        keys: &[QuotaKey],
        attempt: &mut impl FnMut(&mut QuotaNode, u64, u64) -> Spend<T>,
    ) -> Tried<T> {
        let mut desk = self.desk();
        if desk.closed {
            return Tried::Failed(MeshError::new(ErrorCode::ShuttingDown, "the node stops and gives its quotas back"));
        }
        let now = desk.time.now(self.log.unix_ms(), Instant::now());
        let generation = desk.generation;
        let tried = match &mut desk.node {
            Some(node) => match attempt(node, generation, now) {
                Spend::Done(done) => Tried::Done(done),
                Spend::Exceeded(exceeded) => {
                    let (held, spent, reserved) = node.holds(&exceeded.key);
                    let free = held.saturating_sub(spent).saturating_sub(reserved);
                    Tried::Exceeded { exceeded, free }
                }
                Spend::Asked => match keys.iter().find_map(|key| desk.failures.get(key)) {
                    Some(error) if error.class() == ErrorClass::Permanent => Tried::Failed(error.clone()),
                    failure => Tried::Wait(failure.cloned()),
                },
            },
            None => {
                desk.wanted = true;
                Tried::Wait(desk.trouble.clone())
            }
        };
        if matches!(tried, Tried::Wait(_)) || std::mem::take(&mut desk.asleep) {
            self.wake.notify_one();
        }
        tried
    }

    /// Whether live nodes hold enough of it that they have not spent, as far as the log knows.
    fn may_come_back(&self, key: &QuotaKey, lacking: u64, now: Instant) -> bool {
        if self.desk().vain.get(key).is_some_and(|until| now < *until) {
            return false;
        }
        let (state, me) = (self.log.state(), self.log.node());
        let Some(quota) = state.governance.quotas.quotas.get(key) else { return true };
        let is_live = |node| state.member(node).is_some_and(|member| member.status != MemberStatus::Down);
        let others = quota.current.open.iter().filter(|(id, _)| id.node != me && is_live(id.node));
        let idle =
            others.fold(0_u64, |sum, (_, lease)| sum.saturating_add(lease.amount - lease.spent.min(lease.amount)));
        let left = quota.limit.unwrap_or(u64::MAX).saturating_sub(quota.current.committed());
        idle > 0 && left.saturating_add(idle) >= lacking
    }

    /// Nothing is held, and nobody answers.
    fn unanswered(&self, keys: &[QuotaKey], why: Option<MeshError>) -> MeshError {
        let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        let why = why.map_or_else(|| "no answer".to_owned(), |error| error.message);
        let message = format!(
            "nothing of the quota {} is left on this node, and the log has granted nothing within {} ms: {why}",
            keys.join(", "),
            self.patience.as_millis()
        );
        MeshError::new(ErrorCode::NoLeader, message).at_node(self.log.node())
    }
}

impl std::fmt::Debug for Quotas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quotas").field("node", &self.log.node()).finish_non_exhaustive()
    }
}

/// Open leases of a period, together.
pub fn leased(period: &PeriodUse) -> u64 {
    period.committed().saturating_sub(period.settled)
}

/// Greatest incarnation of a node that a ledger knows.
fn incarnation_in(state: &ControlState, node: greylag_protocol::NodeId) -> u64 {
    let quotas = state.governance.quotas.quotas.values();
    let of_quota = quotas.flat_map(|quota| {
        let periods = std::iter::once(&quota.current).chain(&quota.past);
        let open = periods.flat_map(|period| period.open.keys());
        open.chain(quota.asked.values()).filter(|id| id.node == node).map(|id| id.incarnation)
    });
    of_quota.max().unwrap_or_default()
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod quota_test;
#[cfg(test)]
mod simulation_test;
