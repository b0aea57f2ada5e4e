//! The leaf of a running plan: one sub-query, opened through the coordinator when the first row is wanted, not before.
//! It never talks to an edge itself and keeps no rows.
//!
//! INVARIANT: batches that leave it have exactly the plan's types, and no NULL where the plan counts on none.

use std::{fmt, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch, RecordBatchOptions},
    compute::{CastOptions, SortOptions, cast, cast_with_options},
    datatypes::{DataType, Int64Type, SchemaRef},
    util::display::FormatOptions,
};
use datafusion::{
    common::{Result, Statistics, internal_err, stats::Precision, tree_node::TreeNodeRecursion},
    config::ConfigOptions,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        filter_pushdown::{ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation},
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        statistics::StatisticsArgs,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, TryStreamExt};
use greylag_actors::planner::port::{SubqueryOpener, SubqueryPlan};
use greylag_protocol::{ErrorCode, MeshError};

use crate::{error::external, scan::EdgeScan};

/// What the leaves of one run need, carried by the task's session extensions.
pub(crate) struct Run {
    pub(crate) opener: Arc<dyn SubqueryOpener>,
    /// By ordinal.
    pub(crate) subqueries: Arc<Vec<SubqueryPlan>>,
}

/// One sub-query as a plan's leaf.
#[derive(Debug)]
pub(crate) struct EdgeScanExec {
    scan: Arc<EdgeScan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl EdgeScanExec {
    /// `schema` has the plan's names for the columns of the scan.
    pub(crate) fn new(scan: Arc<EdgeScan>, schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            ordered(&schema, scan.key),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { scan, schema, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    pub(crate) fn scan(&self) -> &Arc<EdgeScan> {
        &self.scan
    }

    fn statistics(&self) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.schema);
        if let Some(rows) = self.scan.rows {
            statistics.num_rows = Precision::Inexact(rows);
            statistics.total_byte_size = Precision::Inexact(rows.saturating_mul(self.scan.row_bytes));
            for (column, distinct) in statistics.column_statistics.iter_mut().zip(&self.scan.distinct) {
                if let Some(distinct) = distinct {
                    column.distinct_count = Precision::Inexact((*distinct).min(rows));
                }
            }
        }
        statistics
    }
}

impl DisplayAs for EdgeScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeScanExec: subquery={} source={} sql={}", self.scan.ordinal, self.scan.source, self.scan.sql)
    }
}

impl ExecutionPlan for EdgeScanExec {
    fn name(&self) -> &str {
        "EdgeScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.scan), Arc::clone(&self.schema))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(run) = context.session_config().get_extension::<Run>() else {
            return internal_err!("a plan with sub-queries was run without an opener");
        };
        let (scan, schema) = (Arc::clone(&self.scan), Arc::clone(&self.schema));
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let opened = futures::stream::once(async move {
            let Some(subquery) = usize::try_from(scan.ordinal).ok().and_then(|at| run.subqueries.get(at)) else {
                return Err(external(MeshError::internal("a plan asks for a sub-query that it does not have")));
            };
            let batches = run.opener.open(subquery).await.map_err(external)?;
            let mut ascent = scan.key.map(Ascent::of);
            Ok(batches.map(move |batch| {
                let batch = batch.and_then(|batch| conform(batch, &schema));
                let checked = batch.and_then(|batch| match &mut ascent {
                    Some(ascent) => ascent.check(&batch).map(|()| batch),
                    None => Ok(batch),
                });
                checked.map_err(external)
            }))
        });
        let batches = opened.try_flatten().inspect_ok(move |batch| metrics.record_output(batch.num_rows()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(self.statistics()))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(result))
    }
}

/// What the plan may count on: the order of the key, if there is one.
fn ordered(schema: &SchemaRef, key: Option<usize>) -> EquivalenceProperties {
    let column = key.and_then(|key| schema.fields().get(key).map(|field| Column::new(field.name(), key)));
    match column {
        Some(column) => {
            let ascending = PhysicalSortExpr::new(Arc::new(column), SortOptions::default().asc());
            EquivalenceProperties::new_with_orderings(Arc::clone(schema), [[ascending]])
        }
        None => EquivalenceProperties::new(Arc::clone(schema)),
    }
}

/// Sees to it that a key ascends, from each row to the next: the plan counts on it, and so does who goes on after one.
struct Ascent {
    column: usize,
    last: Option<i64>,
}

impl Ascent {
    fn of(column: usize) -> Self {
        Self { column, last: None }
    }

    /// GL3003 if a key is not above the one before it.
    fn check(&mut self, batch: &RecordBatch) -> greylag_protocol::Result<()> {
        let keys = cast(batch.column(self.column), &DataType::Int64)
            .map_err(|error| MeshError::internal(format!("a key is no integer: {error}")))?;
        for key in keys.as_primitive::<Int64Type>().values() {
            if self.last.is_some_and(|last| last >= *key) {
                let message = format!("key {key} came after {:?}: the source's index is not in order", self.last);
                return Err(MeshError::new(ErrorCode::SourceRefused, message));
            }
            self.last = Some(*key);
        }
        Ok(())
    }
}

/// The batch by position under the names and types of `schema`. GL3011 for a value that does not fit. With no columns
/// asked for, only the number of rows remains.
pub(crate) fn conform(batch: RecordBatch, schema: &SchemaRef) -> greylag_protocol::Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    if !schema.fields().is_empty() && batch.num_columns() != schema.fields().len() {
        return Err(MeshError::internal(format!(
            "a sub-query gave {} columns where {} were asked for",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let cast = CastOptions { safe: false, format_options: FormatOptions::default() };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let column = if column.data_type() == field.data_type() {
            Arc::clone(column)
        } else {
            cast_with_options(column, field.data_type(), &cast).map_err(|_| does_not_fit(field.name()))?
        };
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(does_not_fit(field.name()));
        }
        columns.push(column);
    }
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| MeshError::internal(format!("a sub-query's batch does not fit the plan: {error}")))
}

fn does_not_fit(column: &str) -> MeshError {
    MeshError::new(ErrorCode::ValueOutOfRange, format!("a value of column `{column}` does not fit its type"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{Field, Schema},
    };

    fn batch(values: &[Option<i64>]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
    }

    #[test]
    fn keys_ascend_from_each_row_to_the_next() {
        let keys = |keys: &[i64]| batch(&keys.iter().copied().map(Some).collect::<Vec<_>>());
        let mut ascent = Ascent::of(0);
        assert!(ascent.check(&keys(&[i64::MIN, -1, 7])).is_ok() && ascent.check(&keys(&[])).is_ok());
        assert_eq!(ascent.check(&keys(&[7])).unwrap_err().code, ErrorCode::SourceRefused);
        assert!(ascent.check(&keys(&[8, 9])).is_ok());
        assert!(ascent.check(&keys(&[10, 12, 11])).is_err());
    }

    #[test]
    fn batches_take_the_plans_names_and_types() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("y", DataType::Int32, true)]));
        let fit = conform(batch(&[Some(7), None]), &schema).unwrap();
        assert_eq!((fit.schema(), fit.num_rows()), (schema.clone(), 2));
        assert_eq!(conform(batch(&[Some(1 << 40)]), &schema).unwrap_err().code, ErrorCode::ValueOutOfRange);
        let never_null: SchemaRef = Arc::new(Schema::new(vec![Field::new("y", DataType::Int64, false)]));
        assert_eq!(conform(batch(&[None]), &never_null).unwrap_err().code, ErrorCode::ValueOutOfRange);
        let none = conform(batch(&[Some(1), Some(2)]), &Arc::new(Schema::empty())).unwrap();
        assert_eq!((none.num_columns(), none.num_rows()), (0, 2));
        let text = Schema::new(vec![Field::new("t", DataType::Utf8, true)]);
        let text = RecordBatch::try_new(Arc::new(text), vec![Arc::new(StringArray::from(vec!["x"]))]).unwrap();
        assert_eq!(conform(text, &schema).unwrap_err().code, ErrorCode::ValueOutOfRange);
    }
}
