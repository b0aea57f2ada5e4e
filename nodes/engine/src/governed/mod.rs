//! What a decision asks for, as part of the plan: a table that is governed is planned as a view over itself, with the row
//! filter right above the scan, the masks above that, and the columns that are hidden left out.
//!
//! Decides nothing and knows no policy: it is told (`protocol::obligation`). `condition` says a row filter in the plan's
//! terms, `mask` a mask, and `guard` keeps whatever could fail away from rows that may not be seen.
//!
//! INVARIANT: nothing of the statement's own is evaluated over a row that does not pass, or sees a value that is masked.

mod condition;
mod guard;
mod mask;

use std::{borrow::Cow, fmt, sync::Arc, time::Instant};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{Column, DFSchema, Result, TableReference},
    logical_expr::{
        Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableSource, conditional_expressions::CaseBuilder,
        expr_fn::when,
    },
    scalar::ScalarValue,
};
use greylag_protocol::{
    ErrorCode, MeshError,
    messages::control::TableName,
    obligation::{ColumnMask, Mask, TableObligation},
    step::{Step, StepTimes},
};

pub(crate) use guard::{GuardPlanner, lower};

use self::{condition::Row, guard::GuardNode, mask::MaskFunction};
use crate::error::external;

/// A table as a statement may see it.
pub(crate) struct GovernedTable {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl GovernedTable {
    /// GL2005 if the obligation is about columns that the table does not have: then it was decided about another table.
    pub(crate) fn new(
        name: &TableName,
        table: Arc<dyn TableSource>,
        obligation: &TableObligation,
        salt: &Arc<[u8]>,
        times: &mut StepTimes,
    ) -> Result<Self> {
        let began = Instant::now();
        let schema = table.schema();
        let reference = TableReference::full(&*name.source, &*name.schema, &*name.table);
        let row = Row::of(&reference, &schema);
        let mut builder = LogicalPlanBuilder::scan(reference.clone(), table, None)?;
        if let Some(filter) = &obligation.filter {
            builder = builder.filter(condition::expr(filter, &row).map_err(external)?)?;
            builder = LogicalPlanBuilder::from(GuardNode::over(builder.build()?));
        }
        times.add(Step::RowFilters, began.elapsed().as_micros() as u64);
        let began = Instant::now();
        let known = |column: &str| schema.field_with_name(column).map(drop);
        let named = obligation.masks.iter().map(|mask| &mask.column);
        for column in named.chain(obligation.hidden.iter().map(|hidden| &hidden.column)) {
            known(column).map_err(|_| external(decided_otherwise(column)))?;
        }
        let hidden = |column: &str| obligation.hidden.iter().any(|hidden| hidden.column == column);
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields().iter().filter(|field| !hidden(field.name())) {
            let column = row.column(field.name()).map_err(external)?;
            let mask = obligation.masks.iter().find(|mask| mask.column == *field.name());
            columns.push(match mask {
                Some(mask) => masked(column, mask, &row, builder.schema(), salt)?.alias(field.name()),
                None => Expr::Column(column),
            });
        }
        let plan = builder.project(columns)?.build()?;
        times.add(Step::Masks, began.elapsed().as_micros() as u64);
        Ok(Self { schema: Arc::new(plan.schema().as_arrow().clone()), plan })
    }
}

impl fmt::Debug for GovernedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernedTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl TableSource for GovernedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

/// The first rule that holds for a row, else the value itself.
fn masked(column: Column, mask: &ColumnMask, row: &Row<'_>, schema: &DFSchema, salt: &Arc<[u8]>) -> Result<Expr> {
    let value = Expr::Column(column);
    let data_type = value.get_type(schema)?;
    let shown = |mask: &Mask| -> Result<Expr> {
        match mask {
            Mask::Null => Ok(Expr::Literal(ScalarValue::try_from(&data_type)?, None)),
            other => Ok(MaskFunction::call(other.clone(), salt, &data_type, value.clone())),
        }
    };
    let mut case: Option<CaseBuilder> = None;
    for rule in &mask.rules {
        let shown = shown(&rule.mask)?;
        let Some(filter) = &rule.when else {
            return match case {
                Some(mut case) => case.otherwise(shown),
                None => Ok(shown),
            };
        };
        let holds = condition::expr(filter, row).map_err(external)?;
        case = Some(match case {
            Some(mut case) => case.when(holds, shown),
            None => when(holds, shown),
        });
    }
    match case {
        Some(mut case) => case.otherwise(value),
        None => Ok(value),
    }
}

fn decided_otherwise(column: &str) -> MeshError {
    let message = format!("the decision is about a column `{column}` that the table does not have any more");
    MeshError::new(ErrorCode::NoDecision, message)
}
