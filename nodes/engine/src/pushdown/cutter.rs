//! The walk over an optimised plan: bottom up, each part that one source can run grows as long as the node above can be
//! said in its SQL; then it becomes a leaf.
//!
//! Sorting and limits are hints only: the source sorts and limits, and the same node stays above, so the order in which
//! rows travel never matters.

use std::sync::Arc;

use datafusion::{
    common::{
        Result,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Aggregate, Expr, FetchType, Filter, Join, Limit, LogicalPlan, Projection, SkipType, Sort, SubqueryAlias,
        TableScan, utils::split_conjunction_owned,
    },
};
use greylag_protocol::{ErrorCode, MeshError};

use super::{aggregate, hint, join, region::Region, remote::Remote};
use crate::{catalog::SourceTable, error::external, scan::EdgeScan};

/// Deepest plan that is cut.
const PLAN_DEPTH_MAX: usize = 200;
/// Largest computed output that is carried along, expression nodes.
const OUTPUT_NODES_MAX: usize = 2_000;

/// A plan whose every scan of a source is a leaf of its own.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) plan: LogicalPlan,
    /// By ordinal.
    pub(crate) scans: Vec<Arc<EdgeScan>>,
}

/// Cuts an optimised plan.
pub(crate) fn cut(plan: LogicalPlan) -> Result<Cut> {
    let mut cutter = Cutter { scans: Vec::new(), tables: 0, depth: 0, joins: JoinMode::IfItPays };
    let plan = cutter.local(plan)?;
    Ok(Cut { plan, scans: cutter.scans })
}

/// When joins inside a source go to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinMode {
    /// When that sends fewer bytes.
    IfItPays,
    /// Always: an aggregate or a limit above makes the result small.
    Always,
}

enum Piece {
    Remote(Box<Remote>),
    Local(LogicalPlan),
}

struct Cutter {
    scans: Vec<Arc<EdgeScan>>,
    tables: u32,
    depth: usize,
    joins: JoinMode,
}

impl Cutter {
    /// The plan with all its remote parts as leaves.
    fn local(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let piece = self.piece(plan)?;
        self.finish(piece)
    }

    fn finish(&mut self, piece: Piece) -> Result<LogicalPlan> {
        match piece {
            Piece::Local(plan) => Ok(plan),
            Piece::Remote(remote) => {
                let ordinal = u32::try_from(self.scans.len()).unwrap_or(u32::MAX);
                let (plan, scan) = remote.into_plan(ordinal)?;
                self.scans.push(scan);
                Ok(plan)
            }
        }
    }

    fn piece(&mut self, plan: LogicalPlan) -> Result<Piece> {
        self.depth += 1;
        if self.depth > PLAN_DEPTH_MAX {
            let message = format!("a statement with more than {PLAN_DEPTH_MAX} nested steps is not supported");
            return Err(external(MeshError::new(ErrorCode::Unsupported, message)));
        }
        // Sub-queries in expressions are plans of their own.
        let plan = plan.map_subqueries(|subquery| self.local(subquery).map(Transformed::yes))?.data;
        let piece = match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::SubqueryAlias(alias) => self.alias(alias),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            other => self.inputs(other),
        };
        self.depth -= 1;
        piece
    }

    /// A node that stays: only what is below it is cut.
    fn inputs(&mut self, plan: LogicalPlan) -> Result<Piece> {
        let plan = plan.map_children(|child| self.local(child).map(Transformed::yes))?.data;
        Ok(Piece::Local(plan))
    }

    fn scan(&mut self, scan: TableScan) -> Result<Piece> {
        let Some(table) = SourceTable::of(scan.source.as_ref()) else {
            return Ok(Piece::Local(LogicalPlan::TableScan(scan)));
        };
        let id = self.tables;
        self.tables += 1;
        let mut remote = Remote::of_scan(&scan, table, id);
        for condition in &scan.filters {
            let condition = remote.to_base(condition)?;
            remote.add_condition(condition);
        }
        Ok(Piece::Remote(Box::new(remote)))
    }

    fn filter(&mut self, filter: Filter) -> Result<Piece> {
        let input = self.piece(Arc::unwrap_or_clone(filter.input))?;
        let Piece::Remote(mut remote) = input else {
            let input = Arc::new(self.finish(input)?);
            return Ok(Piece::Local(LogicalPlan::Filter(Filter::try_new(filter.predicate, input)?)));
        };
        for condition in split_conjunction_owned(filter.predicate) {
            let condition = remote.to_base(&condition)?;
            if is_movable(&condition)? { remote.add_condition(condition) } else { remote.residual.push(condition) }
        }
        Ok(Piece::Remote(remote))
    }

    fn projection(&mut self, projection: Projection) -> Result<Piece> {
        let input = hint::narrowed(Arc::unwrap_or_clone(projection.input), &projection.expr)?;
        let input = self.piece(input)?;
        if let Piece::Remote(remote) = &input
            && let Some(output) = carried(remote, &projection.expr)?
        {
            let mut remote = remote.clone();
            remote.output = output;
            remote.schema = projection.schema;
            return Ok(Piece::Remote(remote));
        }
        let input = Arc::new(self.finish(input)?);
        let projection = Projection::try_new_with_schema(projection.expr, input, projection.schema)?;
        Ok(Piece::Local(LogicalPlan::Projection(projection)))
    }

    fn alias(&mut self, alias: SubqueryAlias) -> Result<Piece> {
        match self.piece(Arc::unwrap_or_clone(alias.input))? {
            Piece::Remote(mut remote) => {
                remote.schema = alias.schema;
                Ok(Piece::Remote(remote))
            }
            Piece::Local(input) => {
                Ok(Piece::Local(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias)?)))
            }
        }
    }

    fn aggregate(&mut self, mut aggregate: Aggregate) -> Result<Piece> {
        if let Some(remote) = self.whole_region(&aggregate.input)?
            && let Some(remote) = aggregate::absorb(&remote, &aggregate)?
        {
            return Ok(Piece::Remote(Box::new(remote)));
        }
        let input = self.piece(Arc::unwrap_or_clone(std::mem::take(&mut aggregate.input)))?;
        if let Piece::Remote(remote) = &input
            && let Some(remote) = aggregate::absorb(remote, &aggregate)?
        {
            return Ok(Piece::Remote(Box::new(remote)));
        }
        aggregate.input = Arc::new(self.finish(input)?);
        Ok(Piece::Local(LogicalPlan::Aggregate(aggregate)))
    }

    fn join(&mut self, mut join: Join) -> Result<Piece> {
        let left = self.piece(Arc::unwrap_or_clone(std::mem::take(&mut join.left)))?;
        let right = self.piece(Arc::unwrap_or_clone(std::mem::take(&mut join.right)))?;
        if let (Piece::Remote(left), Piece::Remote(right)) = (&left, &right)
            && let Some(remote) = join::absorb(&join, left, right, self.joins)?
        {
            return Ok(Piece::Remote(Box::new(remote)));
        }
        join.left = Arc::new(self.finish(left)?);
        join.right = Arc::new(self.finish(right)?);
        Ok(Piece::Local(LogicalPlan::Join(join)))
    }

    fn sort(&mut self, mut sort: Sort) -> Result<Piece> {
        let input = Arc::unwrap_or_clone(std::mem::take(&mut sort.input));
        let hinted = match sort.fetch.and_then(|fetch| u64::try_from(fetch).ok()) {
            Some(fetch) => self.hinted(&input, |remote| hint::top(remote, &sort, fetch))?,
            None => self.hinted(&input, |remote| hint::by_key(remote, &sort))?,
        };
        sort.input = Arc::new(match hinted {
            Some(plan) => plan,
            None => self.local(input)?,
        });
        Ok(Piece::Local(LogicalPlan::Sort(sort)))
    }

    fn limit(&mut self, mut limit: Limit) -> Result<Piece> {
        let rows = match (limit.get_skip_type()?, limit.get_fetch_type()?) {
            (SkipType::Literal(skip), FetchType::Literal(Some(fetch))) => {
                skip.checked_add(fetch).and_then(|rows| u64::try_from(rows).ok())
            }
            _ => None,
        };
        let input = Arc::unwrap_or_clone(std::mem::take(&mut limit.input));
        let hinted = match rows {
            Some(rows) => self.hinted(&input, |remote| Ok(hint::first(remote, rows)))?,
            None => None,
        };
        limit.input = Arc::new(match hinted {
            Some(plan) => plan,
            None => self.local(input)?,
        });
        Ok(Piece::Local(LogicalPlan::Limit(limit)))
    }

    /// The leaf for a plan whose remote form `hint` can limit; nothing if it is not remote or cannot be.
    fn hinted(
        &mut self,
        plan: &LogicalPlan,
        hint: impl Fn(&Remote) -> Result<Option<Remote>>,
    ) -> Result<Option<LogicalPlan>> {
        // Anything else cannot become one part; trying would only cost, and doubly so where limits are nested.
        if Region::of(plan).is_none() {
            return Ok(None);
        }
        let remote = match self.whole_region(plan)? {
            Some(remote) => Some(remote),
            None => self.attempt(plan, self.joins)?,
        };
        match remote.map(|remote| hint(&remote)).transpose()?.flatten() {
            Some(remote) => self.finish(Piece::Remote(Box::new(remote))).map(Some),
            None => Ok(None),
        }
    }

    /// A region of joins within one source, wholly remote if it can be.
    fn whole_region(&mut self, plan: &LogicalPlan) -> Result<Option<Remote>> {
        match Region::of(plan) {
            Some(Region { joins: 1.., aggregates: 0, .. }) if self.joins == JoinMode::IfItPays => {
                self.attempt(plan, JoinMode::Always)
            }
            _ => Ok(None),
        }
    }

    /// The remote form of a plan, leaving no trace if there is none or it is not used.
    fn attempt(&mut self, plan: &LogicalPlan, mode: JoinMode) -> Result<Option<Remote>> {
        let (scans, depth, joins) = (self.scans.len(), self.depth, self.joins);
        self.joins = mode;
        let piece = self.piece(plan.clone());
        self.joins = joins;
        self.depth = depth;
        // Scans of sub-queries in its expressions would have lost their places.
        let whole = self.scans.len() == scans;
        self.scans.truncate(scans);
        Ok(match piece? {
            Piece::Remote(remote) if whole => Some(*remote),
            _ => None,
        })
    }
}

/// The projection's expressions over base columns, if they may be computed later without being computed more often.
fn carried(remote: &Remote, exprs: &[Expr]) -> Result<Option<Vec<Expr>>> {
    let mut used = vec![0_usize; remote.output.len()];
    let mut output = Vec::with_capacity(exprs.len());
    let mut nodes = 0;
    for expr in exprs {
        if !is_movable(expr)? {
            return Ok(None);
        }
        for (column, count) in expr.column_refs_counts() {
            used[remote.schema.index_of_column(column)?] += count;
        }
        let expr = remote.to_base(&expr.clone().unalias_nested().data)?;
        expr.apply(|_| {
            nodes += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        output.push(expr);
    }
    let computed_twice = remote
        .output
        .iter()
        .zip(used)
        .any(|(expr, used)| used > 1 && !matches!(expr, Expr::Column(_) | Expr::Literal(..)));
    Ok((!computed_twice && nodes <= OUTPUT_NODES_MAX).then_some(output))
}

/// Whether an expression may be evaluated elsewhere in the plan: no sub-query in it, nothing that changes by itself.
pub(crate) fn is_movable(expr: &Expr) -> Result<bool> {
    if expr.is_volatile() {
        return Ok(false);
    }
    let bound = expr.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
                | Expr::Unnest(_)
        ))
    })?;
    Ok(!bound)
}
