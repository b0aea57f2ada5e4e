//! Parts of a plan that one source may be able to run, told by their nodes alone, before anything is tried.

use std::collections::BTreeSet;

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::LogicalPlan,
};
use greylag_protocol::SourceName;

use crate::catalog::SourceTable;

/// What a plan is made of, if that is only nodes that one source may be able to run.
#[derive(Debug, Default)]
pub(super) struct Region {
    sources: BTreeSet<SourceName>,
    pub(super) joins: usize,
    pub(super) aggregates: usize,
}

impl Region {
    pub(super) fn of(plan: &LogicalPlan) -> Option<Self> {
        let mut region = Self::default();
        let visited = plan.apply(|node| {
            match node {
                LogicalPlan::TableScan(scan) => match SourceTable::of(scan.source.as_ref()) {
                    Some(table) => drop(region.sources.insert(table.source().source.clone())),
                    None => return Ok(TreeNodeRecursion::Stop),
                },
                LogicalPlan::Join(_) => region.joins += 1,
                LogicalPlan::Aggregate(_) => region.aggregates += 1,
                LogicalPlan::Filter(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {}
                _ => return Ok(TreeNodeRecursion::Stop),
            }
            Ok(TreeNodeRecursion::Continue)
        });
        let whole = visited.is_ok_and(|recursion| recursion != TreeNodeRecursion::Stop);
        (whole && region.sources.len() == 1).then_some(region)
    }
}
