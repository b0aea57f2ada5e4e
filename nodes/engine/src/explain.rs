//! `EXPLAIN`: the plan, the operators, and for each sub-query the source, the nodes that would serve it, the exact SQL and
//! what happens if an edge is lost in the middle of it. With `ANALYZE` the statement is run, its rows are dropped, and the
//! operators carry what they measured.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::physical_plan::{ExecutionPlan, display::DisplayableExecutionPlan, displayable};
use futures::{StreamExt, stream};
use greylag_actors::planner::port::{EdgeDirectory, ExecutablePlan, SubqueryOpener, SubqueryPlan};
use greylag_protocol::{
    MeshError, Result,
    statement::{BatchStream, Delivery},
};

use crate::{
    error::mesh_error,
    plan::{Executable, FixedPlan, QueryPlan},
};

/// What happens to a sub-query whose rows are all held back until they have come.
const RULE_HELD: &str = "R0, R1, R4";
/// What happens to one whose rows are used as they come, once they are more than the gate's window.
const RULE_USED: &str = "R0, R3, R4, R5";

/// The same, in the order of a key that the source can go on after.
const RULE_KEYED: &str = "R0, R2, R3, R4, R5";

/// One line of the answer.
struct Line {
    plan_type: String,
    plan: String,
    source: Option<String>,
    node: Option<String>,
    restart_rule: Option<&'static str>,
}

impl Line {
    fn of_plan(plan_type: &str, plan: String) -> Self {
        Self { plan_type: plan_type.into(), plan, source: None, node: None, restart_rule: None }
    }
}

/// The answer's columns.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("plan_type", DataType::Utf8, false),
        Field::new("plan", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, true),
        Field::new("node", DataType::Utf8, true),
        Field::new("restart_rule", DataType::Utf8, true),
    ]))
}

/// Everything about a plan that has not been run.
pub(crate) async fn explain(
    plan: &Arc<QueryPlan>,
    parameters: SchemaRef,
    edges: &dyn EdgeDirectory,
    delivery: Delivery,
    verbose: bool,
) -> Result<FixedPlan> {
    let physical = plan.physical().await.map_err(mesh_error)?;
    let logical = if verbose {
        plan.logical().display_indent_schema().to_string()
    } else {
        plan.logical().display_indent().to_string()
    };
    let mut lines = vec![
        Line::of_plan("logical_plan", logical),
        Line::of_plan("physical_plan", displayable(physical.as_ref()).indent(verbose).to_string()),
    ];
    lines.extend(subquery_lines(&Executable(Arc::clone(plan)).subqueries(), edges, delivery));
    Ok(FixedPlan { answer: table(&lines)?, parameters })
}

/// Runs a plan and tells what its operators measured.
pub(crate) struct AnalyzePlan {
    plan: Arc<QueryPlan>,
    /// Texts of the lines about sub-queries, made when the statement was planned.
    subqueries: RecordBatch,
    verbose: bool,
}

impl AnalyzePlan {
    pub(crate) fn new(
        plan: Arc<QueryPlan>,
        edges: &dyn EdgeDirectory,
        delivery: Delivery,
        verbose: bool,
    ) -> Result<Self> {
        let lines = subquery_lines(&Executable(Arc::clone(&plan)).subqueries(), edges, delivery);
        Ok(Self { plan, subqueries: table(&lines)?, verbose })
    }
}

impl ExecutablePlan for AnalyzePlan {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn parameters(&self) -> SchemaRef {
        Executable(Arc::clone(&self.plan)).parameters()
    }

    fn subqueries(&self) -> Vec<SubqueryPlan> {
        Executable(Arc::clone(&self.plan)).subqueries()
    }

    fn execute(&self, opener: Arc<dyn SubqueryOpener>) -> Result<BatchStream> {
        let (plan, subqueries, verbose) = (Arc::clone(&self.plan), self.subqueries.clone(), self.verbose);
        let measured = stream::once(async move {
            let physical = plan.physical().await.map_err(mesh_error)?;
            let rows = drain(&physical, &plan, opener).await?;
            let operators = DisplayableExecutionPlan::with_metrics(physical.as_ref()).indent(verbose).to_string();
            table(&[Line::of_plan("plan_with_metrics", operators), Line::of_plan("output_rows", rows.to_string())])
        });
        let rest = (subqueries.num_rows() > 0).then_some(Ok(subqueries));
        Ok(Box::pin(measured.chain(stream::iter(rest))))
    }
}

async fn drain(
    physical: &Arc<dyn ExecutionPlan>,
    plan: &Arc<QueryPlan>,
    opener: Arc<dyn SubqueryOpener>,
) -> Result<usize> {
    let mut batches = plan.start(physical, opener).map_err(mesh_error)?;
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        rows += batch.map_err(mesh_error)?.num_rows();
    }
    Ok(rows)
}

fn subquery_lines(subqueries: &[SubqueryPlan], edges: &dyn EdgeDirectory, delivery: Delivery) -> Vec<Line> {
    let lines = subqueries.iter().map(|subquery| {
        let nodes: Vec<String> = edges.edges(&subquery.source).iter().map(ToString::to_string).collect();
        let held = subquery.blocks_consumer || delivery == Delivery::Spooled;
        Line {
            plan_type: format!("subquery {}", subquery.ordinal),
            plan: subquery.sql.clone(),
            source: Some(subquery.source.to_string()),
            node: (!nodes.is_empty()).then(|| nodes.join(", ")),
            restart_rule: Some(match (held, &subquery.keyset) {
                (true, _) => RULE_HELD,
                (false, Some(_)) => RULE_KEYED,
                (false, None) => RULE_USED,
            }),
        }
    });
    lines.collect()
}

fn table(lines: &[Line]) -> Result<RecordBatch> {
    let needed = |text: fn(&Line) -> &str| -> ArrayRef {
        Arc::new(lines.iter().map(|l| Some(text(l))).collect::<StringArray>())
    };
    let optional =
        |text: fn(&Line) -> Option<&str>| -> ArrayRef { Arc::new(lines.iter().map(text).collect::<StringArray>()) };
    let columns = vec![
        needed(|line| &line.plan_type),
        needed(|line| &line.plan),
        optional(|line| line.source.as_deref()),
        optional(|line| line.node.as_deref()),
        optional(|line| line.restart_rule),
    ];
    RecordBatch::try_new(schema(), columns)
        .map_err(|error| MeshError::internal(format!("an explanation cannot be put together: {error}")))
}
