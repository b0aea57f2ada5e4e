//! The work of each step, free of the actor: it runs as a task and its outcome comes back as a message.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;
use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result,
    messages::control::{Action, DecideRequest},
    prefix::{Prefix, Replay},
    state::Role,
    statement::{BatchStream, Session},
};
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::{
    core::Goal,
    message::{Opening, QueryMessage},
};
use crate::{
    NodeCtx,
    coordinator::{
        Coordinator, HANDLE_WAIT_MAX,
        edges::LiveEdges,
        gate::{
            ReleaseGate,
            check::Verified,
            core::{Parcel, Refusal},
        },
        handle_within,
        ledger::QueryEntry,
        system::Tables,
    },
    planner::port::{
        Catalog, ExecutablePlan, Permit, PlanRequest, Planner, SubqueryOpener, SubqueryPlan, SystemTables, Touched,
    },
    policy::port::ask,
    recut::Recutter,
    turnstile::{Entry, Turnstile},
};

/// Step 1: a slot, at once or when it is this statement's turn.
pub async fn admit(statements: Turnstile) -> Result<QueryMessage> {
    let slot = match statements.enter() {
        Entry::Inside(slot) => Some(slot),
        Entry::Queued(queued) => queued.wait().await,
        Entry::Refused => {
            let (running, waiting) = statements.load();
            let message = format!("{running} statements run and {waiting} wait already");
            return Err(MeshError::new(ErrorCode::QueueFull, message));
        }
    };
    slot.map(QueryMessage::Admitted)
        .ok_or_else(|| MeshError::new(ErrorCode::ShuttingDown, "the coordinator is shutting down"))
}

/// Step 2: the tables it touches.
pub async fn resolve(coordinator: Arc<Coordinator>, sql: String) -> Result<QueryMessage> {
    let (catalog, touched) = coordinator.catalog.touched(&sql).await?;
    Ok(QueryMessage::Resolved(catalog, touched))
}

/// Step 3: whether it may.
pub async fn decide(
    ctx: Arc<NodeCtx>,
    query: QueryId,
    session: Session,
    goal: Goal,
    touched: Touched,
) -> Result<QueryMessage> {
    let action = match goal {
        Goal::Describe => Action::Describe,
        Goal::Execute => touched.action,
    };
    let asked = DecideRequest { query, principal: session.principal, action, tables: touched.tables };
    Ok(QueryMessage::Decided(ask(&ctx, asked).await?))
}

/// What planning needs.
pub struct ToPlan {
    pub query: QueryId,
    pub permit: Permit,
    pub sql: String,
    pub parameters: Option<arrow::array::RecordBatch>,
    pub catalog: Arc<Catalog>,
    pub session: Session,
}

/// Step 4 to 8, as far as they are there: the plan, by the planner of this node.
pub async fn plan(coordinator: Arc<Coordinator>, to_plan: ToPlan) -> Result<QueryMessage> {
    let ctx = &coordinator.ctx;
    let planner = handle_within::<dyn Planner>(ctx, &Role::Planner, HANDLE_WAIT_MAX).await.ok_or_else(|| {
        MeshError::new(ErrorCode::PeerUnreachable, "no planner runs beside this coordinator").at_node(ctx.node)
    })?;
    let system: Arc<dyn SystemTables> = Arc::new(Tables::new(coordinator.clone()));
    let request = PlanRequest {
        permit: to_plan.permit,
        sql: to_plan.sql,
        parameters: to_plan.parameters,
        catalog: to_plan.catalog,
        options: to_plan.session.options,
        system,
        edges: Arc::new(LiveEdges(ctx.clone())),
    };
    Ok(QueryMessage::Planned(planner.plan(to_plan.query, request).await?))
}

/// Step 9: pulls the plan's rows and pushes them to the outlet, as one run. `Ok` once the outlet has the end.
pub async fn pump(plan: Arc<dyn ExecutablePlan>, opener: Opener, outlet: Outlet) -> Result<()> {
    let Outlet { gate, entry, batch_rows, resume } = outlet;
    let run = opener.run;
    let mut recutter = Recutter::new(plan.schema(), batch_rows);
    let mut replay = Replay::new(resume);
    let mut batches = plan.execute(Arc::new(opener))?;
    let mut rows = 0;
    loop {
        let came = batches.next().await.transpose()?;
        let ended = came.is_none();
        let mut ready = match came {
            Some(batch) => recutter.push(batch)?,
            None => None,
        };
        while let Some(batch) = ready.take().or_else(|| recutter.next()) {
            rows += release(&gate, &entry, run, &mut replay, batch).await?;
        }
        if ended {
            break;
        }
    }
    if let Some(last) = recutter.finish()? {
        rows += release(&gate, &entry, run, &mut replay, last).await?;
    }
    replay.finish()?;
    gate.complete(Verified::in_process(run, rows)).map_err(refused)
}

/// Where the rows of a run go.
pub struct Outlet {
    pub gate: ReleaseGate,
    pub entry: Arc<QueryEntry>,
    /// Rows in every batch but the last, whatever the plan makes: so batches depend on the rows alone.
    pub batch_rows: usize,
    /// What the reader has already.
    pub resume: Prefix,
}

/// Lets a batch out, unless the reader has it. Returns how many rows went.
async fn release(
    gate: &ReleaseGate,
    entry: &QueryEntry,
    run: u32,
    replay: &mut Replay,
    batch: RecordBatch,
) -> Result<u64> {
    let Some(batch) = replay.pass(batch)? else { return Ok(0) };
    let count = batch.num_rows() as u64;
    gate.push(run, Parcel::new(batch)).await.map_err(refused)?;
    entry.rows(count);
    Ok(count)
}

fn refused(refusal: Refusal) -> MeshError {
    match refusal {
        Refusal::Failed(error) => error,
        Refusal::Fenced | Refusal::Closed => MeshError::new(ErrorCode::Cancelled, "nobody reads this run any more"),
    }
}

/// Opens sub-queries for one run of a plan, through the query's actor.
pub struct Opener {
    pub query: ActorRef<QueryMessage>,
    pub run: u32,
}

#[async_trait]
impl SubqueryOpener for Opener {
    async fn open(&self, subquery: &SubqueryPlan) -> Result<BatchStream> {
        let gone = || MeshError::new(ErrorCode::Cancelled, "the statement has ended");
        let (reply, opened) = oneshot::channel();
        let opening = Opening { run: self.run, plan: subquery.clone(), reply };
        self.query.cast(QueryMessage::Open(opening)).map_err(|_| gone())?;
        opened.await.unwrap_or_else(|_| Err(gone()))
    }
}
