//! `system.*` as tables: their content is asked for when the plan runs, once for each scan.

use std::{fmt, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        filter_pushdown::{ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation},
        stream::RecordBatchStreamAdapter,
    },
};
use greylag_actors::planner::port::SystemTables;

use crate::{error::external, exec::conform};

/// The system table that `SHOW TABLES` stands for.
pub(crate) const SYSTEM_TABLES: &str = "tables";

/// One system table.
pub(crate) struct SystemTable {
    name: &'static str,
    schema: SchemaRef,
    content: Arc<dyn SystemTables>,
}

impl SystemTable {
    /// The table of this name, if there is one.
    pub(crate) fn find(name: &str, content: &Arc<dyn SystemTables>) -> Option<Self> {
        let (name, schema) = content.schemas().into_iter().find(|(known, _)| *known == name)?;
        Some(Self { name, schema, content: Arc::clone(content) })
    }
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system.{}", self.name)
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        Ok(Arc::new(SystemScanExec {
            name: self.name,
            whole: Arc::clone(&self.schema),
            projection: projection.cloned(),
            content: Arc::clone(&self.content),
            properties: Arc::new(PlanProperties::new(
                EquivalenceProperties::new(schema),
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            )),
        }))
    }
}

/// Asks for the rows when it is first polled.
struct SystemScanExec {
    name: &'static str,
    whole: SchemaRef,
    projection: Option<Vec<usize>>,
    content: Arc<dyn SystemTables>,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for SystemScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SystemScanExec: {}", self.name)
    }
}

impl DisplayAs for SystemScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SystemScanExec: table={}", self.name)
    }
}

impl ExecutionPlan for SystemScanExec {
    fn name(&self) -> &str {
        "SystemScanExec"
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

    fn execute(&self, _partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (name, whole, projection) = (self.name, Arc::clone(&self.whole), self.projection.clone());
        let content = Arc::clone(&self.content);
        let rows = futures::stream::once(async move {
            let rows: RecordBatch = content.rows(name).await.map_err(external)?;
            let rows = conform(rows, &whole).map_err(external)?;
            Ok(match projection {
                Some(columns) => rows.project(&columns)?,
                None => rows,
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &datafusion::config::ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(result))
    }
}
