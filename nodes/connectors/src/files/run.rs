//! Plans one sub-query over a snapshot and streams its rows.
//!
//! Partitions are read at the same time and handed over in turn, a batch from each, so the order of rows depends on the
//! files and the plan alone, and not on which thread was faster.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, RecordBatchOptions},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, SchemaRef},
};
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    execution::context::SQLOptions,
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, ExecutionPlanProperties},
};
use futures::StreamExt;
use greylag_actors::edge::port::ConnectorQuery;
use greylag_protocol::{ErrorCode, MeshError, Result, statement::BatchStream};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::DropGuard;

use super::{
    Source,
    fault::fault,
    layout::refused,
    snapshot::Snapshot,
    stop::{Wish, stoppable},
};

/// Batches of one partition between its task and the reader.
const CHANNEL_BATCHES: usize = 2;

/// Starts it.
pub(super) async fn run(source: Arc<Source>, query: ConnectorQuery) -> Result<BatchStream> {
    let wish = Wish { cancel: query.cancel.child_token(), deadline: Instant::now() + query.timeout };
    tokio::select! {
        biased;
        over = wish.come() => Err(over),
        started = start(source, query, wish.clone()) => started,
    }
}

async fn start(source: Arc<Source>, query: ConnectorQuery, wish: Wish) -> Result<BatchStream> {
    let (snapshot, tables, plan) = planned(&source, &query.sql).await?;
    let mut state = snapshot.session.state();
    *state.config_mut() = state.config().clone().with_batch_size(query.batch_rows.max(1));
    let plan = state.create_physical_plan(&plan).await.map_err(fault)?;
    let casts = casts(&plan, &query.schema)?;
    let plan = stoppable(plan, &wish).map_err(fault)?;
    let context = Arc::new(datafusion::execution::TaskContext::from(&state));
    let mut tasks = JoinSet::new();
    let mut partitions = Vec::new();
    for at in 0..plan.output_partitioning().partition_count() {
        let (plan, context, wish) = (plan.clone(), context.clone(), wish.clone());
        let (batches, receiver) = mpsc::channel(CHANNEL_BATCHES);
        partitions.push(receiver);
        let running = Running::new(&source);
        tasks.spawn(async move {
            let _running = running;
            tokio::select! {
                biased;
                _ = wish.come() => false,
                () = read(plan, at, context, batches) => true,
            }
        });
    }
    let reader = Reader {
        source,
        snapshot,
        tables,
        schema: query.schema,
        casts,
        batch_rows: query.batch_rows.max(1),
        partitions,
        turn: 0,
        rest: None,
        tasks,
        _unwanted: wish.cancel.clone().drop_guard(),
        wish,
    };
    Ok(Box::pin(futures::stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(batch)) => Some((Ok(batch), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })))
}

/// The logical plan over a snapshot that is current for the tables in it.
async fn planned(source: &Arc<Source>, sql: &str) -> Result<(Arc<Snapshot>, BTreeSet<String>, LogicalPlan)> {
    let mut snapshot = source.snapshot().await?;
    // Files may change again and again; one fresh look is what a sub-query gets.
    for last in [false, true] {
        let plan = snapshot.session.state().create_logical_plan(sql).await.map_err(fault)?;
        only_reads(&plan)?;
        let tables = tables(&plan, &snapshot)?;
        if source.is_current(&snapshot, &tables).await? {
            return Ok((snapshot, tables, plan));
        }
        if !last {
            snapshot = source.fresh_snapshot().await?;
        }
    }
    Err(changed())
}

fn only_reads(plan: &LogicalPlan) -> Result<()> {
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let told = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_));
    if told || read_only.verify_plan(plan).is_err() {
        return Err(MeshError::new(ErrorCode::ReadOnly, "a sub-query must be one `SELECT`"));
    }
    Ok(())
}

/// The tables that a plan reads, also in its own sub-queries.
fn tables(plan: &LogicalPlan, snapshot: &Snapshot) -> Result<BTreeSet<String>> {
    let mut tables = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.insert(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(fault)?;
    match tables.iter().find(|name| !snapshot.has(name)) {
        Some(stranger) => Err(refused(format!("`{stranger}` is not a table of files"))),
        None => Ok(tables),
    }
}

async fn read(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<datafusion::execution::TaskContext>,
    to: mpsc::Sender<Result<RecordBatch>>,
) {
    let mut stream = match plan.execute(partition, context) {
        Ok(stream) => stream,
        Err(error) => {
            let _ = to.send(Err(fault(error))).await;
            return;
        }
    };
    while let Some(batch) = stream.next().await {
        let failed = batch.is_err();
        if to.send(batch.map_err(fault)).await.is_err() || failed {
            return;
        }
    }
}

/// What becomes of each column. GL3003 for another number of columns, GL3006 for one whose type has no exact way.
fn casts(plan: &Arc<dyn ExecutionPlan>, wanted: &SchemaRef) -> Result<Vec<bool>> {
    let given = plan.schema();
    if given.fields().len() != wanted.fields().len() {
        let (have, want) = (given.fields().len(), wanted.fields().len());
        return Err(refused(format!("the sub-query gives {have} columns where {want} are expected")));
    }
    let pairs = given.fields().iter().zip(wanted.fields());
    pairs
        .map(|(given, wanted)| match (given.data_type(), wanted.data_type()) {
            (from, to) if from == to => Ok(false),
            (from, to) if is_exact(from, to) => Ok(true),
            (from, to) => {
                let message = format!("column `{}` is `{from}` and cannot be had as `{to}`", wanted.name());
                Err(MeshError::new(ErrorCode::UnsupportedType, message))
            }
        })
        .collect()
}

/// Whether Arrow's own conversion either keeps the value or says that it cannot.
fn is_exact(from: &DataType, to: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match (from, to) {
        (DataType::Dictionary(_, value), to) => value.as_ref() == to || is_exact(value, to),
        (DataType::Null, _) => !to.is_nested(),
        _ => (from.is_integer() && to.is_integer()) || (text(from) && text(to)) || (bytes(from) && bytes(to)),
    }
}

/// The rows on their way out.
struct Reader {
    source: Arc<Source>,
    snapshot: Arc<Snapshot>,
    tables: BTreeSet<String>,
    schema: SchemaRef,
    casts: Vec<bool>,
    batch_rows: usize,
    /// Those that have not ended, in order.
    partitions: Vec<mpsc::Receiver<Result<RecordBatch>>>,
    turn: usize,
    /// What is left of a batch with too many rows.
    rest: Option<RecordBatch>,
    /// Each tells whether it came to its end.
    tasks: JoinSet<bool>,
    wish: Wish,
    /// Whoever drops the stream wants no more.
    _unwanted: DropGuard,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.receive().await? {
                Some(batch) => self.delivered(batch)?,
                None => return self.end().await,
            },
        };
        if batch.num_rows() <= self.batch_rows {
            return Ok(Some(batch));
        }
        self.rest = Some(batch.slice(self.batch_rows, batch.num_rows() - self.batch_rows));
        Ok(Some(batch.slice(0, self.batch_rows)))
    }

    /// The next batch with a row in it, by turns.
    async fn receive(&mut self) -> Result<Option<RecordBatch>> {
        while !self.partitions.is_empty() {
            self.turn %= self.partitions.len();
            let received = tokio::select! {
                biased;
                over = self.wish.come() => return Err(over),
                received = self.partitions[self.turn].recv() => received,
            };
            match received {
                Some(batch) => {
                    let batch = match batch {
                        Ok(batch) => batch,
                        Err(error) => return Err(self.cause(error).await),
                    };
                    self.turn += 1;
                    if batch.num_rows() > 0 {
                        return Ok(Some(batch));
                    }
                }
                None => drop(self.partitions.remove(self.turn)),
            }
        }
        Ok(None)
    }

    /// What an error really means: files that change halfway look damaged.
    async fn cause(&self, error: MeshError) -> MeshError {
        if matches!(error.code, ErrorCode::Cancelled | ErrorCode::Deadline) {
            return error;
        }
        match self.source.is_current(&self.snapshot, &self.tables).await {
            Ok(true) => error,
            Ok(false) => changed(),
            Err(gone) => gone,
        }
    }

    fn delivered(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for ((column, cast), field) in batch.columns().iter().zip(&self.casts).zip(self.schema.fields()) {
            let column = if *cast { exactly(column, field)? } else { column.clone() };
            if !field.is_nullable() && column.logical_null_count() > 0 {
                let message = format!("column `{}` holds a NULL that it may not hold", field.name());
                return Err(MeshError::new(ErrorCode::ValueOutOfRange, message));
            }
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| MeshError::internal(format!("a batch of a sub-query over files does not hold: {error}")))
    }

    /// All rows have come. They count only if every task ended well and the files are still what they were.
    async fn end(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(ended) = self.tasks.join_next().await {
            if !ended.map_err(|_| MeshError::internal("a task that reads files died"))? {
                return Err(self.wish.come().await);
            }
        }
        match self.source.is_current(&self.snapshot, &self.tables).await? {
            true => Ok(None),
            false => Err(changed()),
        }
    }
}

fn exactly(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, field.data_type(), &options).map_err(|_| {
        let message =
            format!("column `{}` holds a value that does not fit its type `{}`", field.name(), field.data_type());
        MeshError::new(ErrorCode::ValueOutOfRange, message)
    })
}

fn changed() -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, "files changed while they were being read")
}

/// Counts a task of a source, for as long as it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(source: &Source) -> Self {
        source.running.fetch_add(1, Ordering::Relaxed);
        Self(source.running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
