//! Finished plans. A [`QueryPlan`] can be run any number of times, each time from the start and with operators of its own;
//! a [`FixedPlan`] has its answer already; an [`UnboundPlan`] only describes itself.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    common::Result as DataFusionResult,
    execution::{SendableRecordBatchStream, SessionState},
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, execute_stream},
};
use futures::{StreamExt, TryStreamExt, future, stream};
use greylag_actors::planner::port::{ColumnsRead, ExecutablePlan, SubqueryOpener, SubqueryPlan};
use greylag_protocol::{Result, statement::BatchStream, step::StepTimes};

use crate::{
    blocking::blocking,
    error::mesh_error,
    exec::{Run, conform},
    parameters::missing,
    pushdown::Cut,
    session::Sessions,
};

/// A cut plan, ready to run.
pub(crate) struct QueryPlan {
    sessions: Arc<Sessions>,
    state: SessionState,
    plan: LogicalPlan,
    subqueries: Arc<Vec<SubqueryPlan>>,
    schema: SchemaRef,
    parameters: SchemaRef,
    times: StepTimes,
    reads: Vec<ColumnsRead>,
    /// The operators that were planned first; the next run plans its own, since operators keep what they have read.
    first: Mutex<Option<Arc<dyn ExecutionPlan>>>,
}

impl QueryPlan {
    pub(crate) async fn new(
        sessions: Arc<Sessions>,
        state: SessionState,
        cut: Cut,
        parameters: SchemaRef,
        times: StepTimes,
        reads: Vec<ColumnsRead>,
    ) -> Result<Self> {
        let physical = operators(&state, &cut.plan).await.map_err(mesh_error)?;
        let blocking = blocking(&physical);
        let subqueries = cut.scans.iter().map(|scan| scan.subquery(blocking.contains(&scan.ordinal))).collect();
        Ok(Self {
            sessions,
            state,
            schema: plain(cut.plan.schema().as_arrow()),
            plan: cut.plan,
            subqueries: Arc::new(subqueries),
            parameters,
            times,
            reads,
            first: Mutex::new(Some(physical)),
        })
    }

    pub(crate) fn logical(&self) -> &LogicalPlan {
        &self.plan
    }

    pub(crate) fn reads(&self) -> &[ColumnsRead] {
        &self.reads
    }

    /// Operators that nobody has run.
    pub(crate) async fn physical(&self) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(physical) => Ok(physical),
            None => operators(&self.state, &self.plan).await,
        }
    }

    /// Starts operators, with memory of the run's own.
    pub(crate) fn start(
        &self,
        physical: &Arc<dyn ExecutionPlan>,
        opener: Arc<dyn SubqueryOpener>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let run = Run { opener, subqueries: Arc::clone(&self.subqueries) };
        execute_stream(Arc::clone(physical), self.sessions.task(&self.state, Arc::new(run)))
    }

    /// Batches of one run, as clients get them. Nothing happens before the first poll.
    fn batches(self: Arc<Self>, opener: Arc<dyn SubqueryOpener>) -> BatchStream {
        let schema = Arc::clone(&self.schema);
        let started = stream::once(async move {
            let physical = self.physical().await?;
            self.start(&physical, opener)
        });
        let batches = started
            .try_flatten()
            .try_filter(|batch| future::ready(batch.num_rows() > 0))
            .map(move |batch| batch.map_err(mesh_error).and_then(|batch| conform(batch, &schema)));
        Box::pin(batches)
    }
}

async fn operators(state: &SessionState, plan: &LogicalPlan) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(plan, state).await
}

/// A [`QueryPlan`] behind the planner's port.
pub(crate) struct Executable(pub(crate) Arc<QueryPlan>);

impl ExecutablePlan for Executable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn parameters(&self) -> SchemaRef {
        Arc::clone(&self.0.parameters)
    }

    fn subqueries(&self) -> Vec<SubqueryPlan> {
        self.0.subqueries.to_vec()
    }

    fn times(&self) -> StepTimes {
        self.0.times
    }

    fn reads(&self) -> Option<&[ColumnsRead]> {
        Some(self.0.reads())
    }

    fn execute(&self, opener: Arc<dyn SubqueryOpener>) -> Result<BatchStream> {
        Ok(Arc::clone(&self.0).batches(opener))
    }
}

/// An answer that needs no running.
pub(crate) struct FixedPlan {
    pub(crate) answer: RecordBatch,
    pub(crate) parameters: SchemaRef,
}

impl ExecutablePlan for FixedPlan {
    fn schema(&self) -> SchemaRef {
        self.answer.schema()
    }

    fn parameters(&self) -> SchemaRef {
        Arc::clone(&self.parameters)
    }

    fn subqueries(&self) -> Vec<SubqueryPlan> {
        Vec::new()
    }

    fn execute(&self, _: Arc<dyn SubqueryOpener>) -> Result<BatchStream> {
        let answer = self.answer.clone();
        Ok(Box::pin(stream::iter((answer.num_rows() > 0).then_some(Ok(answer)))))
    }
}

/// A statement whose placeholders have no values yet.
pub(crate) struct UnboundPlan {
    schema: SchemaRef,
    parameters: SchemaRef,
}

impl UnboundPlan {
    pub(crate) fn new(schema: &Schema, parameters: SchemaRef) -> Self {
        Self { schema: plain(schema), parameters }
    }
}

impl ExecutablePlan for UnboundPlan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn parameters(&self) -> SchemaRef {
        Arc::clone(&self.parameters)
    }

    fn subqueries(&self) -> Vec<SubqueryPlan> {
        Vec::new()
    }

    fn execute(&self, _: Arc<dyn SubqueryOpener>) -> Result<BatchStream> {
        Err(missing(self.parameters.fields().len()))
    }
}

/// The schema as clients get it: text and bytes in their plain layout, which every client reads and which is smaller on
/// the wire than views are.
fn plain(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
