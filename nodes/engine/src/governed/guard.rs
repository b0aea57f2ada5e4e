//! Keeps what could fail away from rows that may not be seen. An error says something about the row it is about, and
//! DataFusion moves a statement's conditions down to the scan, beside the row filter: over every row.
//!
//! Above each row filter stands a guard that no condition passes while the plan is optimised. Then, if nothing in the
//! whole plan could fail where it may be moved, the guards go, and sources are asked for everything they can do. Else
//! they stay, in the running plan too, and only conditions that cannot fail go below.
//!
//! INVARIANT: a condition that could fail is evaluated over rows that have passed the row filter, and no others.

use std::{cmp::Ordering, fmt, hash::Hash, sync::Arc};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{
        DFSchema, DFSchemaRef, Result, internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{
        Expr, ExprSchemable, Extension, Filter, LogicalPlan, Operator, Projection, UserDefinedLogicalNode,
        UserDefinedLogicalNodeCore,
        physical_planning_context::PhysicalPlanningContext,
        utils::{conjunction, split_conjunction_owned},
    },
    physical_expr::PhysicalExpr,
    physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties},
    physical_planner::{ExtensionPlanner, PhysicalPlanner},
};

use super::mask::is_ours;

/// Above a row filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GuardNode {
    input: LogicalPlan,
}

impl PartialOrd for GuardNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl GuardNode {
    pub(super) fn over(input: LogicalPlan) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input }) })
    }

    fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

impl UserDefinedLogicalNodeCore for GuardNode {
    fn name(&self) -> &str {
        "Guard"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    // The default of `prevent_predicate_push_down_columns` is all columns: nothing passes.

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { input }),
            _ => internal_err!("a guard has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// Takes the guards out of an optimised plan, or lets pass what cannot fail.
pub(crate) fn lower(plan: LogicalPlan) -> Result<LogicalPlan> {
    let (mut guarded, mut fallible) = (false, false);
    plan.apply_with_subqueries(|node| {
        guarded |= GuardNode::of(node).is_some();
        fallible |= has_fallible_condition(node);
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !guarded {
        return Ok(plan);
    }
    let lowered = plan.transform_up_with_subqueries(|node| {
        if !fallible {
            return Ok(match GuardNode::of(&node) {
                Some(guard) => Transformed::yes(guard.input.clone()),
                None => Transformed::no(node),
            });
        }
        match node {
            LogicalPlan::Filter(filter) => through(filter),
            other => Ok(Transformed::no(other)),
        }
    })?;
    Ok(lowered.data)
}

/// A filter right above a guard: what cannot fail goes below. A projection between the two that only leaves out columns
/// (the optimiser puts one there) goes above both.
fn through(filter: Filter) -> Result<Transformed<LogicalPlan>> {
    if let LogicalPlan::Projection(projection) = filter.input.as_ref()
        && GuardNode::of(&projection.input).is_some()
        && projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_)))
    {
        let moved = Filter::try_new(filter.predicate.clone(), Arc::clone(&projection.input))?;
        let moved = through(moved)?;
        let expr = projection.expr.clone();
        let projection = Projection::try_new_with_schema(expr, Arc::new(moved.data), Arc::clone(&projection.schema))?;
        return Ok(Transformed::yes(LogicalPlan::Projection(projection)));
    }
    let Some(guard) = GuardNode::of(&filter.input) else { return Ok(Transformed::no(LogicalPlan::Filter(filter))) };
    let parts = split_conjunction_owned(filter.predicate.clone());
    let (below, above): (Vec<Expr>, Vec<Expr>) =
        parts.into_iter().partition(|part| is_total(part, guard.input.schema()));
    let Some(below) = conjunction(below) else { return Ok(Transformed::no(LogicalPlan::Filter(filter))) };
    let inner = LogicalPlan::Filter(Filter::try_new(below, Arc::new(guard.input.clone()))?);
    let guarded = GuardNode::over(inner);
    Ok(Transformed::yes(match conjunction(above) {
        Some(above) => LogicalPlan::Filter(Filter::try_new(above, Arc::new(guarded))?),
        None => guarded,
    }))
}

/// Whether a node has a condition that could fail. Only conditions are ever evaluated over rows that others keep out:
/// what a projection or an aggregate computes, it computes of rows that have come to it.
fn has_fallible_condition(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(filter) => !is_total(&filter.predicate, filter.input.schema()),
        LogicalPlan::Join(join) => {
            let (left, right) = (join.left.schema(), join.right.schema());
            let keys_total = join.on.iter().all(|(l, r)| is_total(l, left) && is_total(r, right));
            let joined = left.join(right);
            let filter_total = |filter| joined.as_ref().is_ok_and(|schema| is_total(filter, schema));
            !keys_total || !join.filter.as_ref().is_none_or(filter_total)
        }
        LogicalPlan::TableScan(scan) => !scan.filters.is_empty(),
        _ => false,
    }
}

/// Whether an expression has a value for every row, here and in every source.
fn is_total(expr: &Expr, schema: &DFSchema) -> bool {
    let mut total = true;
    // Nothing below is an error of ours: the visitor returns none.
    let walked = expr.apply(|expr| {
        total &= match expr {
            Expr::Column(_)
            | Expr::Literal(..)
            | Expr::Alias(_)
            | Expr::Not(_)
            | Expr::InList(_)
            | Expr::Between(_) => true,
            Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsUnknown(_) => true,
            Expr::IsNotTrue(_) | Expr::IsNotFalse(_) | Expr::IsNotUnknown(_) | Expr::Case(_) => true,
            Expr::Like(like) => like.escape_char.is_none() && matches!(*like.pattern, Expr::Literal(..)),
            Expr::BinaryExpr(binary) => matches!(
                binary.op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
                    | Operator::And
                    | Operator::Or
                    | Operator::IsDistinctFrom
                    | Operator::IsNotDistinctFrom
            ),
            Expr::Cast(cast) => cast.expr.get_type(schema).is_ok_and(|from| widens(&from, cast.field.data_type())),
            Expr::ScalarFunction(call) => is_ours(&call.func),
            _ => false,
        };
        Ok(if total { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    total && walked.is_ok()
}

/// Whether every value of one type is one of the other.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Decimal128, Decimal256, Float32, Float64, Int8, Int16, Int32, Int64, LargeUtf8, UInt8, UInt16, UInt32, UInt64,
        Utf8, Utf8View,
    };
    let digits = |whole: u8, scale: i8| i16::from(whole) - i16::from(scale);
    match (from, to) {
        _ if from == to => true,
        (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64) => true,
        (UInt8, Int16 | Int32 | Int64 | UInt16 | UInt32 | UInt64) => true,
        (UInt16, Int32 | Int64 | UInt32 | UInt64) | (UInt32, Int64 | UInt64) => true,
        (Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 | Float32, Float64) => true,
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Decimal128(p, s) | Decimal256(p, s), Decimal128(to_p, to_s) | Decimal256(to_p, to_s)) => {
            to_s >= s && digits(*to_p, *to_s) >= digits(*p, *s)
        }
        _ => false,
    }
}

/// Plans guards that have stayed.
pub(crate) struct GuardPlanner;

#[async_trait]
impl ExtensionPlanner for GuardPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !node.as_any().is::<GuardNode>() {
            return Ok(None);
        }
        match inputs {
            [input] => Ok(Some(Arc::new(GuardExec { input: Arc::clone(input) }))),
            _ => internal_err!("a guard has one input"),
        }
    }
}

/// Hands rows on. It is here so that no condition is moved below it: the default is that none may be.
#[derive(Debug)]
struct GuardExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for GuardExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardExec")
    }
}

impl ExecutionPlan for GuardExec {
    fn name(&self) -> &str {
        "GuardExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self { input })),
            Err(_) => internal_err!("a guard has one input"),
        }
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
