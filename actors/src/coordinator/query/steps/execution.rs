//! Step 9: pulls the plan's rows and pushes them to the outlet, as one run.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::{Stream, StreamExt};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    prefix::{Prefix, Replay},
    statement::BatchStream,
};
use ractor::ActorRef;
use tokio::{sync::oneshot, time::Instant};

use super::{metering::Meter, quota::Till};
use crate::{
    coordinator::{
        gate::{
            ReleaseGate,
            check::Verified,
            core::{Parcel, Refusal},
        },
        ledger::QueryEntry,
        query::message::{Opening, QueryMessage},
    },
    planner::port::{ExecutablePlan, SubqueryOpener, SubqueryPlan},
    recut::Recutter,
};

/// `Ok` once the outlet has the end. What was used is paid for whatever comes of it.
pub async fn pump(plan: Arc<dyn ExecutablePlan>, opener: Opener, outlet: Outlet) -> Result<()> {
    let (till, meter) = (outlet.till.clone(), outlet.meter.clone());
    let pumped = push_all(plan, opener, outlet).await;
    if pumped.is_err() {
        // The statement has its error already.
        let _ = till.pay(&meter.usage()).await;
    }
    pumped
}

async fn push_all(plan: Arc<dyn ExecutablePlan>, opener: Opener, mut outlet: Outlet) -> Result<()> {
    let mut recutter = Recutter::new(plan.schema(), outlet.batch_rows);
    let mut replay = Replay::new(outlet.resume);
    let mut batches = Timed { batches: plan.execute(Arc::new(opener))?, meter: outlet.meter.clone() };
    let mut rows = 0;
    loop {
        let came = batches.next().await.transpose()?;
        let ended = came.is_none();
        let mut ready = match came {
            Some(batch) => recutter.push(batch)?,
            None => None,
        };
        while let Some(batch) = ready.take().or_else(|| recutter.next()) {
            rows += outlet.release(&mut replay, batch).await?;
        }
        if ended {
            break;
        }
    }
    if let Some(last) = recutter.finish()? {
        rows += outlet.release(&mut replay, last).await?;
    }
    replay.finish()?;
    outlet.till.pay(&outlet.meter.usage()).await?;
    outlet.gate.complete(Verified::in_process(outlet.run, rows)).map_err(refused)
}

/// Where the rows of a run go.
pub struct Outlet {
    pub gate: ReleaseGate,
    pub entry: Arc<QueryEntry>,
    pub meter: Arc<Meter>,
    pub run: u32,
    /// Rows in every batch but the last, whatever the plan makes: so batches depend on the rows alone.
    pub batch_rows: usize,
    /// What the reader has already.
    pub resume: Prefix,
    /// Pays for what has been used.
    pub till: Till,
}

impl Outlet {
    /// Lets a batch out, unless the reader has it. Returns how many rows went.
    async fn release(&mut self, replay: &mut Replay, batch: RecordBatch) -> Result<u64> {
        let Some(batch) = replay.pass(batch)? else { return Ok(0) };
        let (count, parcel) = (batch.num_rows() as u64, Parcel::new(batch));
        self.meter.returned(count, parcel.bytes);
        self.till.pay(&self.meter.usage()).await?;
        let bytes = parcel.bytes;
        self.gate.push(self.run, parcel).await.map_err(refused)?;
        self.entry.rows(count, bytes);
        Ok(count)
    }
}

/// Counts the time that a plan computes: what passes while it is polled.
struct Timed {
    batches: BatchStream,
    meter: Arc<Meter>,
}

impl Stream for Timed {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let began = Instant::now();
        let polled = self.batches.poll_next_unpin(cx);
        self.meter.computed(began.elapsed());
        polled
    }
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
