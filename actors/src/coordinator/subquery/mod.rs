//! One sub-query of a running plan: an actor that keeps an attempt alive at some edge until all rows have passed the
//! gate, and the attempts' actors below it. Local and linked: the death of a data stream at another node reaches the
//! supervision tree through them.

mod actor;
mod attempt;
pub mod core;
#[cfg(test)]
mod core_test;
mod receive;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use greylag_protocol::{Epoch, NodeId, QueryId, Result, TraceId, statement::BatchStream};
use ractor::ActorRef;
use tokio::{sync::oneshot, time::Instant};

use super::{
    circuits::Circuits,
    gate::{Room, core::Hold},
    ledger::Ledger,
    query::{QueryMessage, steps::metering::Meter},
};
use crate::{NodeCtx, planner::port::SubqueryPlan};

pub use actor::{SubqueryActor, SubqueryMessage};

/// Restarts left to a query, its sub-queries and itself together. Clones are one budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU32>);

impl Budget {
    pub fn new(restarts: u32) -> Self {
        Self(Arc::new(AtomicU32::new(restarts)))
    }

    /// Takes one. False if none is left.
    pub fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}

/// What all sub-queries of one run know of their query.
pub struct QueryFacts {
    pub ctx: Arc<NodeCtx>,
    pub ledger: Ledger,
    pub circuits: Arc<Circuits>,
    pub query: QueryId,
    pub trace: TraceId,
    /// Principal's id, for the source's log.
    pub principal: String,
    /// Epoch the statement was decided at.
    pub epoch: Epoch,
    pub deadline: Instant,
    pub batch_rows: u32,
    pub run: u32,
    pub shunned: Vec<NodeId>,
    pub room: Room,
    pub budget: Budget,
    pub meter: Arc<Meter>,
}

/// One opening of one sub-query.
pub struct Arguments {
    pub facts: Arc<QueryFacts>,
    pub plan: Arc<SubqueryPlan>,
    /// How often the run had opened this sub-query before.
    pub partition: u32,
    pub hold: Hold,
    pub query: ActorRef<QueryMessage>,
    /// Gets the rows' stream as soon as the actor runs.
    pub reply: oneshot::Sender<Result<BatchStream>>,
}
