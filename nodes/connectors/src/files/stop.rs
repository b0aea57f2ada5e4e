//! Ends a plan that nobody wants any more, also one that computes without ever coming up for air.
//!
//! A task of tokio can be stopped only where it waits, and a join of two large tables whose condition never holds does
//! not wait: it loops within one poll for as long as it takes. So every leaf and every join of a plan is asked through
//! [`StopExec`], which ends the plan with an error as soon as there is a wish to stop, and the nested-loop join, which
//! asks its input for a batch and then compares each row of it with all rows of the other side, gets few rows at a time.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    common::tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    error::{DataFusionError, Result},
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    },
};
use futures::{Stream, StreamExt};
use greylag_protocol::{ErrorCode, MeshError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Rows that a nested-loop join gets at a time. With some hundred thousand on its other side, a fraction of a second.
const NESTED_LOOP_ROWS: usize = 16;

/// When a sub-query is to stop.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) cancel: CancellationToken,
    pub(super) deadline: Instant,
}

impl Wish {
    /// The error to end with, if it is to stop.
    pub(super) fn over(&self) -> Option<MeshError> {
        if self.cancel.is_cancelled() {
            Some(MeshError::new(ErrorCode::Cancelled, "the sub-query was cancelled"))
        } else if Instant::now() >= self.deadline {
            Some(MeshError::new(ErrorCode::Deadline, "the sub-query ran out of time"))
        } else {
            None
        }
    }

    /// Resolves with that error once it is to stop.
    pub(super) async fn come(&self) -> MeshError {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep_until(self.deadline) => {}
        }
        // A timer never fires early; without it the wish was a cancellation.
        self.over().unwrap_or_else(|| MeshError::new(ErrorCode::Cancelled, "the sub-query was cancelled"))
    }
}

/// The plan, asking for the wish to stop wherever it takes in or multiplies rows.
pub(super) fn stoppable(plan: Arc<dyn ExecutionPlan>, wish: &Wish) -> Result<Arc<dyn ExecutionPlan>> {
    let stopped = |input, rows| Arc::new(StopExec { input, wish: wish.clone(), rows }) as Arc<dyn ExecutionPlan>;
    let transformed = plan.transform_up(|node| {
        let node = if node.name() == "NestedLoopJoinExec" {
            let mut children: Vec<_> = node.children().into_iter().cloned().collect();
            if let Some(probe) = children.pop() {
                children.push(stopped(probe, Some(NESTED_LOOP_ROWS)));
            }
            node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?
        } else {
            node
        };
        let asked = node.children().is_empty() || node.name().ends_with("JoinExec");
        Ok(if asked { Transformed::yes(stopped(node, None)) } else { Transformed::no(node) })
    })?;
    Ok(transformed.data)
}

/// Passes its input's batches on until there is a wish to stop.
#[derive(Debug)]
struct StopExec {
    input: Arc<dyn ExecutionPlan>,
    wish: Wish,
    /// Most rows of a batch.
    rows: Option<usize>,
}

impl DisplayAs for StopExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StopExec")
    }
}

impl ExecutionPlan for StopExec {
    fn name(&self) -> &str {
        "StopExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self { input, wish: self.wish.clone(), rows: self.rows })),
            _ => Err(DataFusionError::Internal("StopExec has one child".into())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        Ok(Box::pin(StopStream { input, wish: self.wish.clone(), rows: self.rows, rest: None, ended: false }))
    }
}

struct StopStream {
    input: SendableRecordBatchStream,
    wish: Wish,
    rows: Option<usize>,
    /// What is left of a batch with too many rows.
    rest: Option<RecordBatch>,
    ended: bool,
}

impl StopStream {
    /// The first rows of a batch, keeping the rest.
    fn cut(&mut self, batch: RecordBatch) -> RecordBatch {
        match self.rows {
            Some(rows) if batch.num_rows() > rows => {
                self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
                batch.slice(0, rows)
            }
            _ => batch,
        }
    }
}

impl Stream for StopStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(error) = self.wish.over() {
            self.ended = true;
            return Poll::Ready(Some(Err(DataFusionError::External(Box::new(error)))));
        }
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(self.cut(rest))));
        }
        let polled = self.input.poll_next_unpin(context);
        polled.map(|next| next.map(|batch| batch.map(|batch| self.cut(batch))))
    }
}

impl RecordBatchStream for StopStream {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
