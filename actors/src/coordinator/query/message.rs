//! What a query actor is told. Batches are not among it: they go from gate to gate.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use greylag_protocol::{
    MeshError, QueryId, Result,
    messages::control::Decision,
    statement::{BatchStream, Session},
};
use ractor_cluster::RactorMessage;
use tokio::{sync::oneshot, time::Instant};

use super::{
    core::{Event, Goal},
    steps::quota::Till,
};
use crate::{
    audit::Admission,
    coordinator::{Coordinator, gate::Released},
    planner::port::{Catalog, ExecutablePlan, Permit, Pin, SubqueryPlan, Touched},
    rest::Busy,
    turnstile::Slot,
};

/// One statement, as it is handed to its actor.
pub struct Job {
    pub query: QueryId,
    pub goal: Goal,
    pub session: Session,
    pub sql: String,
    pub parameters: Option<RecordBatch>,
    pub deadline: Instant,
    /// Told once: that the plan is ready, or why there is none.
    pub announce: oneshot::Sender<Result<Announced>>,
    pub busy: Busy,
    /// Room for the record of a statement that is run.
    pub admission: Option<Admission>,
}

/// A statement whose plan is ready, and is running if it was to be executed.
pub struct Announced {
    pub schema: SchemaRef,
    pub parameters: SchemaRef,
    pub rows: Released,
}

pub type Arguments = (Arc<Coordinator>, Job);

#[derive(RactorMessage)]
pub enum QueryMessage {
    Admitted(Slot),
    Translated(String),
    Resolved(Arc<Catalog>, Touched),
    Decided(Permit),
    Denied(Box<Decision>, MeshError),
    Pinned(Vec<Pin>),
    Planned(Arc<dyn ExecutablePlan>),
    Reserved(Till),
    Recorded,
    Healed(Option<String>),
    Happened(Event),
    /// The running plan wants a sub-query.
    Open(Opening),
}

/// One call of a plan for a sub-query. The rows' stream goes back to the plan by `reply`, past every mailbox.
pub struct Opening {
    pub run: u32,
    pub plan: SubqueryPlan,
    pub reply: oneshot::Sender<Result<BatchStream>>,
}
