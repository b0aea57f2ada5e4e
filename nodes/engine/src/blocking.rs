//! Which sub-queries a plan needs whole before it can use any of their rows: those that fill the build side of a join, or
//! the value of a scalar sub-query, with nothing between that consumes rows as they come. Holding such a sub-query back
//! until its trailer has arrived costs nothing, and makes it restartable.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::physical_plan::ExecutionPlan;

use crate::exec::EdgeScanExec;

/// Operators that pass rows on one by one.
const PASSING: [&str; 8] = [
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "FilterExec",
    "ProjectionExec",
    "RepartitionExec",
    "BufferExec",
    "AsyncFuncExec",
];
/// Joins that read their first input whole before they look at the second.
const BUILDING: [&str; 3] = ["CrossJoinExec", "HashJoinExec", "NestedLoopJoinExec"];
/// Runs its first input after all others have given their one value.
const SCALAR: &str = "ScalarSubqueryExec";

/// Ordinals of the sub-queries that block.
pub(crate) fn blocking(plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open = vec![(plan, false)];
    while let Some((node, blocks)) = open.pop() {
        if let Some(scan) = node.downcast_ref::<EdgeScanExec>() {
            if blocks {
                found.insert(scan.scan().ordinal);
            }
            continue;
        }
        let name = node.name();
        for (at, child) in node.children().into_iter().enumerate() {
            let child_blocks = if BUILDING.contains(&name) {
                at == 0
            } else if name == SCALAR {
                at > 0 || blocks
            } else {
                blocks && PASSING.contains(&name)
            };
            open.push((child, child_blocks));
        }
    }
    found
}
