//! Takes to the log what the node's state has to say there, and its answers back: asks for leases, reports of what was
//! spent, and all that is given back when the node stops.
//!
//! INVARIANT: of one ask, one report or one closing no two proposals are under way at a time. (One that was lost with its
//! driver may still be applied: the ledger takes each of them twice without harm.)

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use greylag_governance::quota::{LeaseId, QuotaCommand, QuotaKey, QuotaNode, QuotaOutcome};
use greylag_protocol::Result;
use tokio::time::{Instant, sleep, timeout};

use super::Quotas;

/// Between two looks at what is due, while anything is held.
const TICK: Duration = Duration::from_millis(250);
/// Proposals under way at a time; more wait.
const PROPOSALS_MAX: usize = 16;
/// Until what failed with the disk is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest that giving back may take when the node stops.
const GIVE_BACK_MAX: Duration = Duration::from_secs(2);

/// Runs for as long as the node does.
pub(crate) async fn drive(quotas: Arc<Quotas>) -> Result<()> {
    let mut driver = Driver::new(quotas.clone());
    loop {
        match quotas.situation() {
            Situation::Nobody => quotas.wake.notified().await,
            Situation::Wanted => quotas.renew().await,
            Situation::Idle if driver.under_way.is_empty() => quotas.wake.notified().await,
            Situation::Idle | Situation::Busy => driver.round().await,
        }
    }
}

enum Situation {
    /// Nothing was ever reserved.
    Nobody,
    /// There has to be a state of a new incarnation.
    Wanted,
    Idle,
    Busy,
}

impl Quotas {
    fn situation(&self) -> Situation {
        let mut desk = self.desk();
        let situation = match &desk.node {
            None if desk.wanted => Situation::Wanted,
            None => Situation::Nobody,
            Some(node) if node.is_idle() => Situation::Idle,
            Some(_) => Situation::Busy,
        };
        desk.asleep = matches!(situation, Situation::Nobody | Situation::Idle);
        situation
    }

    /// A state of a new incarnation. What an older one held is forfeited when this one asks for the first time.
    async fn renew(&self) {
        match self.log.incarnation().await {
            Ok(incarnation) => {
                let mut desk = self.desk();
                desk.node = Some(QuotaNode::new(self.log.node(), incarnation));
                desk.generation += 1;
                (desk.wanted, desk.trouble) = (false, None);
                drop(desk);
                self.news.send_replace(());
            }
            Err(error) => {
                tracing::warn!(%error, "no quota can be asked for");
                self.desk().trouble = Some(error);
                self.news.send_replace(());
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// The node stops and nothing runs on it any more: what it holds goes back to the log, as far as that can be reached
    /// in a moment. Its driver must have ended.
    pub(crate) async fn give_back(self: &Arc<Self>) {
        {
            let mut desk = self.desk();
            desk.closed = true;
            let Some(node) = &mut desk.node else { return };
            node.retire();
        }
        self.news.send_replace(());
        let mut driver = Driver::new(self.clone());
        let given = async {
            while !driver.holds_nothing() {
                driver.round().await;
            }
        };
        if timeout(GIVE_BACK_MAX, given).await.is_err() {
            tracing::warn!("the log could not be told what is left of this node's quotas: it counts as spent");
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ask,
    Report,
    Closing,
}

type Flight = (Kind, QuotaKey, LeaseId);

struct Driver {
    quotas: Arc<Quotas>,
    /// Under way or waiting to be. Bounded by what the node's state has accounts and leases for.
    flights: BTreeSet<Flight>,
    waiting: VecDeque<(Flight, QuotaCommand)>,
    under_way: FuturesUnordered<BoxFuture<'static, (Flight, Result<QuotaOutcome>)>>,
}

impl Driver {
    fn new(quotas: Arc<Quotas>) -> Self {
        Self { quotas, flights: BTreeSet::new(), waiting: VecDeque::new(), under_way: FuturesUnordered::new() }
    }

    /// Proposes what is due, and waits until something has happened or time has passed.
    async fn round(&mut self) {
        self.collect();
        while self.under_way.len() < PROPOSALS_MAX
            && let Some((flight, command)) = self.waiting.pop_front()
        {
            let log = self.quotas.log.clone();
            self.under_way.push(Box::pin(async move { (flight, log.propose(command).await) }));
        }
        tokio::select! {
            biased;
            Some((flight, outcome)) = self.under_way.next() => self.landed(flight, outcome),
            () = self.quotas.wake.notified() => {}
            () = sleep(TICK) => {}
        }
    }

    fn collect(&mut self) {
        let state = self.quotas.log.state();
        let ledger = &state.governance.quotas.quotas;
        let mut desk = self.quotas.desk();
        let now = desk.time.now(self.quotas.log.unix_ms(), Instant::now());
        desk.failures.retain(|key, _| ledger.contains_key(key));
        desk.vain.retain(|_, until| Instant::now() < *until);
        let Some(node) = &mut desk.node else { return };
        node.tick(now, |key| ledger.get(key).is_some_and(|quota| quota.current.starved));
        for command in node.due(now) {
            let flight = match &command {
                QuotaCommand::Lease { key, lease, .. } => (Kind::Ask, key.clone(), *lease),
                QuotaCommand::Report { key, lease, closed: false, .. } => (Kind::Report, key.clone(), *lease),
                QuotaCommand::Report { key, lease, closed: true, .. } => (Kind::Closing, key.clone(), *lease),
                // A node sets no limits.
                QuotaCommand::SetLimit { .. } => continue,
            };
            if self.flights.insert(flight.clone()) {
                self.waiting.push_back((flight, command));
            }
        }
    }

    fn landed(&mut self, flight: Flight, outcome: Result<QuotaOutcome>) {
        self.flights.remove(&flight);
        let (kind, key, lease) = flight;
        let mut desk = self.quotas.desk();
        let now = desk.time.now(self.quotas.log.unix_ms(), Instant::now());
        match outcome {
            Ok(outcome) => {
                desk.failures.remove(&key);
                let Some(node) = &mut desk.node else { return };
                match (kind, &outcome) {
                    // The log knows of a later incarnation than this one: what is set aside in it is set aside anew. No
                    // other process is robbed by that, since all that an older one holds counts as spent.
                    (Kind::Ask, QuotaOutcome::Stale) if node.is_own(lease) => {
                        tracing::warn!(quota = %key, "the log knows a later incarnation of this node");
                        (desk.node, desk.wanted) = (None, true);
                    }
                    (Kind::Ask, outcome) => node.answered(&key, lease, outcome, now),
                    (Kind::Closing, _) => node.closed(&key, lease),
                    (Kind::Report, _) => {}
                }
            }
            Err(error) => {
                tracing::debug!(quota = %key, %error, "the log has not answered about a quota");
                if kind == Kind::Ask {
                    desk.failures.insert(key, error);
                }
            }
        }
        drop(desk);
        self.quotas.news.send_replace(());
    }

    fn holds_nothing(&self) -> bool {
        self.quotas.desk().node.as_ref().is_none_or(QuotaNode::holds_nothing)
    }
}
