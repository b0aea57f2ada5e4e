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
use greylag_actors::planner::port::{
    ColumnsRead, EdgeDirectory, Estimate, ExecutablePlan, Permit, PlanRequest, SubqueryOpener, SubqueryPlan,
};
use greylag_protocol::{
    MeshError, Result,
    obligation::NoticeMode,
    statement::{BatchStream, Delivery},
    step::Step,
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
    request: &PlanRequest,
    verbose: bool,
) -> Result<FixedPlan> {
    let (edges, delivery) = (request.edges.as_ref(), request.options.delivery);
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
    let subqueries = Executable(Arc::clone(plan)).subqueries();
    lines.extend(subquery_lines(&subqueries, edges, delivery));
    lines.extend(step_lines(request, &subqueries));
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

    fn reads(&self) -> Option<&[ColumnsRead]> {
        Some(self.plan.reads())
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

/// A line for each step of the statement's life, in the order of their numbers: what the coordinator says of its own, and
/// here what the decision asks of the plan. None where no coordinator stands behind it.
fn step_lines(request: &PlanRequest, subqueries: &[SubqueryPlan]) -> Vec<Line> {
    if request.steps.is_empty() {
        return Vec::new();
    }
    let mut told: Vec<(Step, String)> = request.steps.clone();
    told.push((Step::Decision, decision(&request.permit)));
    let obligations = request.permit.obligations();
    let filters = obligations.iter().filter_map(|o| Some(format!("{}: {}", o.table, o.filter.as_ref()?)));
    told.push((Step::RowFilters, listed(filters)));
    let masks = obligations.iter().flat_map(|o| o.masks.iter().map(move |mask| (&o.table, mask)));
    let masks = masks.map(|(table, mask)| {
        let rules = mask.rules.iter().map(|rule| match &rule.when {
            Some(when) => format!("{} where {when}", rule.mask),
            None => rule.mask.to_string(),
        });
        format!("{table}.{}: {}", mask.column, rules.collect::<Vec<_>>().join(", else "))
    });
    told.push((Step::Masks, listed(masks)));
    told.push((Step::Cost, cost(&request.permit, subqueries)));
    told.sort_by_key(|(step, _)| step.number());
    let line = |(step, text): (Step, String)| {
        let number = step.number().map(|n| format!("{n} ")).unwrap_or_default();
        Line::of_plan(&format!("step {number}{}", step.name()), text)
    };
    told.into_iter().map(line).collect()
}

fn listed(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}

fn decision(permit: &Permit) -> String {
    let grounds = permit.grounds();
    let by: Vec<String> = grounds.decided_by.iter().map(ToString::to_string).collect();
    let policies = if grounds.policies.is_empty() { "none".to_owned() } else { grounds.policies.join(", ") };
    let mut text = format!("permit at epoch {} by {}; policies: {policies}", permit.epoch(), by.join(", "));
    for notice in grounds.notices.iter().filter(|notice| notice.mode == NoticeMode::Warn) {
        text.push_str(&format!("; warning of {}: {}", notice.policies.join(", "), notice.change));
    }
    text
}

/// How much is in a table is for those to know who may see all of it.
fn cost(permit: &Permit, subqueries: &[SubqueryPlan]) -> String {
    if permit.obligations().iter().any(|o| o.filter.is_some()) {
        return "not told: rows are filtered by policy".to_owned();
    }
    let known: Vec<Estimate> = subqueries.iter().filter_map(|s| s.estimate).collect();
    let (rows, bytes) = known
        .iter()
        .fold((0u64, 0u64), |(rows, bytes), e| (rows.saturating_add(e.rows), bytes.saturating_add(e.bytes)));
    let unknown = subqueries.len() - known.len();
    let rest =
        if unknown > 0 { format!(", and {unknown} sub-queries of which nothing is known") } else { String::new() };
    format!("about {rows} rows, {bytes} bytes in {} sub-queries{rest}", known.len())
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
