//! What the cutter leaves in a logical plan in place of what it pushed down, and how DataFusion's physical planner turns
//! it into the leaf that runs (`exec`).

use std::{cmp::Ordering, fmt, hash::Hash, hash::Hasher, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{DFSchemaRef, Result},
    execution::context::QueryPlanner,
    logical_expr::{
        Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
        physical_planning_context::PhysicalPlanningContext,
    },
    physical_plan::ExecutionPlan,
    physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner},
};
use greylag_actors::planner::port::{Estimate, KeysetPlan, SubqueryPlan};
use greylag_protocol::SourceName;

use crate::{exec::EdgeScanExec, governed::GuardPlanner};

/// One sub-query of a plan.
#[derive(Debug)]
pub(crate) struct EdgeScan {
    /// Position in plan order.
    pub(crate) ordinal: u32,
    pub(crate) source: SourceName,
    /// In the source's dialect.
    pub(crate) sql: String,
    /// Column of a key in whose ascending order the rows come.
    pub(crate) key: Option<usize>,
    /// If the source can go on after such a key.
    pub(crate) keyset: Option<KeysetPlan>,
    /// Names and types that the edge is asked for. Has a column of its own where the plan wants none.
    pub(crate) wire: SchemaRef,
    /// Estimated rows, where anything is known.
    pub(crate) rows: Option<usize>,
    /// Estimated bytes of a row.
    pub(crate) row_bytes: usize,
    /// Estimated distinct values of each column.
    pub(crate) distinct: Vec<Option<usize>>,
}

impl EdgeScan {
    pub(crate) fn subquery(&self, blocks_consumer: bool) -> SubqueryPlan {
        SubqueryPlan {
            ordinal: self.ordinal,
            source: self.source.clone(),
            sql: self.sql.clone(),
            schema: Arc::clone(&self.wire),
            blocks_consumer,
            keyset: self.keyset.clone(),
            estimate: self
                .rows
                .map(|rows| Estimate { rows: rows as u64, bytes: (rows as u64).saturating_mul(self.row_bytes as u64) }),
        }
    }
}

/// The sub-query as a logical plan's leaf, under the names that the plan around it uses.
#[derive(Debug, Clone)]
pub(crate) struct EdgeScanNode {
    pub(crate) scan: Arc<EdgeScan>,
    pub(crate) schema: DFSchemaRef,
}

impl EdgeScanNode {
    fn key(&self) -> (u32, &str, &str) {
        (self.scan.ordinal, self.scan.source.as_str(), &self.scan.sql)
    }
}

impl PartialEq for EdgeScanNode {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key() && self.schema == other.schema
    }
}

impl Eq for EdgeScanNode {}

impl PartialOrd for EdgeScanNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.key().partial_cmp(&other.key())
    }
}

impl Hash for EdgeScanNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.schema.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for EdgeScanNode {
    fn name(&self) -> &str {
        "EdgeScan"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeScan: subquery={} source={} sql={}", self.scan.ordinal, self.scan.source, self.scan.sql)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        Ok(self.clone())
    }
}

/// DataFusion's physical planner, which also knows our leaf.
#[derive(Debug)]
pub(crate) struct EdgePlanner;

#[async_trait]
impl QueryPlanner for EdgePlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner =
            DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(EdgeScanPlanner), Arc::new(GuardPlanner)]);
        planner.create_physical_plan(plan, session).await
    }
}

struct EdgeScanPlanner;

#[async_trait]
impl ExtensionPlanner for EdgeScanPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        _: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<EdgeScanNode>() else { return Ok(None) };
        let exec = EdgeScanExec::new(Arc::clone(&node.scan), Arc::clone(node.schema.inner()));
        Ok(Some(Arc::new(exec)))
    }
}
