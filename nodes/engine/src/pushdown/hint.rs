//! Sorting and limits as hints: the source sorts and limits, and the same node stays above. Only where the source's rows
//! are exactly DataFusion's, so that no row that a later check would have kept is left out.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    common::Result,
    logical_expr::{Expr, Limit, LogicalPlan, Projection, Sort},
};

use arrow::datatypes::DataType;
use greylag_protocol::schema::Dialect;

use super::{
    capability::{self, Agreement},
    convert::{Operand, operand},
    ir::{OrderKey, Scalar},
    remote::Remote,
};

/// The first `rows` in the order of a sort.
pub(super) fn top(remote: &Remote, sort: &Sort, rows: u64) -> Result<Option<Remote>> {
    if !remote.is_exact() || remote.limit.is_some() {
        return Ok(None);
    }
    let mut order = Vec::with_capacity(sort.expr.len());
    for key in &sort.expr {
        let expr = remote.to_base(&key.expr)?;
        let Some(Operand::Column(column)) = operand(remote.scope(), &expr) else { return Ok(None) };
        if !capability::sortable(remote.source.dialect, column.traits) {
            return Ok(None);
        }
        let scalar = column.scalar.clone();
        let forced = column.traits.agreement == Agreement::Forced;
        let scalar = if forced { scalar.bytes() } else { scalar };
        order.push(OrderKey { scalar, descending: !key.asc, nulls_first: key.nulls_first });
    }
    let mut remote = remote.clone();
    remote.order = order;
    remote.limit = Some(rows);
    Ok(Some(remote))
}

/// All rows, if what the sort asks for is the order of a key of the one table they come from: an integer, unique and
/// never NULL. The source has an index for it, nothing has to be sorted here, and a sub-query that is cut off can go on
/// after the last key.
pub(super) fn by_key(remote: &Remote, sort: &Sort) -> Result<Option<Remote>> {
    let [key] = &sort.expr[..] else { return Ok(None) };
    let one_table = remote.is_rows() && remote.joins.is_empty() && remote.semi.is_empty();
    if !key.asc || !one_table || !remote.is_exact() {
        return Ok(None);
    }
    let expr = remote.to_base(&key.expr)?;
    let Some(Operand::Column(column)) = operand(remote.scope(), &expr) else { return Ok(None) };
    let integer = matches!(column.field.data_type(), DataType::Int16 | DataType::Int32 | DataType::Int64);
    let Scalar::Column { table, name } = &column.scalar else { return Ok(None) };
    let unique = remote.unique.contains(&BTreeSet::from([(*table, name.clone())]));
    let dialect = remote.source.dialect;
    if !integer || column.field.is_nullable() || !unique || !capability::sortable(dialect, column.traits) {
        return Ok(None);
    }
    // There is none; said so that the dialect has nothing to add.
    let nulls_first = dialect != Dialect::Postgres;
    let order = OrderKey { scalar: column.scalar.clone(), descending: false, nulls_first };
    let key = column.column.clone();
    let mut remote = remote.clone();
    remote.order = vec![order];
    remote.key = Some(key);
    Ok(Some(remote))
}

/// Any `rows`.
pub(super) fn first(remote: &Remote, rows: u64) -> Option<Remote> {
    let mut remote = remote.clone();
    (remote.is_exact() && remote.limit.is_none()).then(|| {
        remote.limit = Some(rows);
        remote
    })
}

/// The input of a projection, without columns that neither the projection nor the sorts and limits right below it use.
/// DataFusion leaves there what only a filter needed, and sorts and limits end what a source runs.
pub(super) fn narrowed(plan: LogicalPlan, exprs: &[Expr]) -> Result<LogicalPlan> {
    if !matches!(plan, LogicalPlan::Sort(_) | LogicalPlan::Limit(_)) {
        return Ok(plan);
    }
    let mut used = BTreeSet::new();
    note_columns(&plan, exprs.iter(), &mut used)?;
    let mut below = &plan;
    loop {
        below = match below {
            LogicalPlan::Sort(sort) => {
                note_columns(&plan, sort.expr.iter().map(|key| &key.expr), &mut used)?;
                &sort.input
            }
            LogicalPlan::Limit(limit) => &limit.input,
            _ => break,
        };
    }
    if used.len() == plan.schema().fields().len() { Ok(plan) } else { with_columns(plan, &used) }
}

fn note_columns<'a>(
    plan: &LogicalPlan,
    exprs: impl Iterator<Item = &'a Expr>,
    used: &mut BTreeSet<usize>,
) -> Result<()> {
    for column in exprs.flat_map(Expr::column_refs) {
        used.insert(plan.schema().index_of_column(column)?);
    }
    Ok(())
}

/// Sorts and limits over these columns of what is below them.
fn with_columns(plan: LogicalPlan, used: &BTreeSet<usize>) -> Result<LogicalPlan> {
    let below = |input: Arc<LogicalPlan>| with_columns(Arc::unwrap_or_clone(input), used).map(Arc::new);
    Ok(match plan {
        LogicalPlan::Sort(sort) => LogicalPlan::Sort(Sort { input: below(sort.input)?, ..sort }),
        LogicalPlan::Limit(limit) => LogicalPlan::Limit(Limit { input: below(limit.input)?, ..limit }),
        other => {
            let columns = used.iter().map(|at| Expr::from(other.schema().qualified_field(*at))).collect();
            LogicalPlan::Projection(Projection::try_new(columns, Arc::new(other))?)
        }
    })
}
