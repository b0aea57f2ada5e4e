//! Aggregates at a source: `count`, `min`, `max` and `sum` where the source's result is DataFusion's to the last digit,
//! over rows that the source alone decides. Averages and sums of floating point stay with DataFusion, except where the
//! source is DataFusion.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{Column, Result, TableReference},
    logical_expr::{Aggregate, Expr, ExprSchemable, expr::AggregateFunction},
};
use greylag_protocol::schema::Dialect;

use super::{
    capability::{self, Agreement, Kind, Traits, groupable, kind, sortable},
    convert::{BaseColumn, Operand, Scope, native_scalar, operand},
    cutter::is_movable,
    estimate::groups,
    ir::Scalar,
    remote::Remote,
};

/// Widest decimal that MySQL sums without a chance of silent clamping.
const MYSQL_SUM_DIGITS_MAX: u8 = 28;

/// A value of a group.
struct Computed {
    scalar: Scalar,
    traits: Traits,
    distinct: Option<u64>,
}

/// The aggregate as one part, if the source can run it.
pub(crate) fn absorb(remote: &Remote, aggregate: &Aggregate) -> Result<Option<Remote>> {
    if !remote.is_rows() || !remote.is_exact() {
        return Ok(None);
    }
    let mut values = Vec::with_capacity(aggregate.schema.fields().len());
    for key in &aggregate.group_expr {
        let key = remote.to_base(&key.clone().unalias_nested().data)?;
        match group_key(remote.scope(), &key, remote)? {
            Some(key) => values.push(key),
            None => return Ok(None),
        }
    }
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(function) = remote.to_base(&expr.clone().unalias_nested().data)? else {
            return Ok(None);
        };
        let at = values.len();
        let Some(field) = aggregate.schema.fields().get(at) else { return Ok(None) };
        match function_of(remote.scope(), &function, field.data_type())? {
            Some(value) => values.push(value),
            None => return Ok(None),
        }
    }
    if values.len() != aggregate.schema.fields().len() {
        return Ok(None);
    }
    Ok(Some(grouped(remote, aggregate, values)))
}

fn grouped(remote: &Remote, aggregate: &Aggregate, values: Vec<Computed>) -> Remote {
    let keys = aggregate.group_expr.len();
    let relation = TableReference::bare("g");
    let distinct: Vec<Option<u64>> = values[..keys].iter().map(|key| key.distinct).collect();
    let group: Vec<Scalar> = values[..keys].iter().map(|key| key.scalar.clone()).collect();
    let fields = aggregate.schema.fields();
    let base: Vec<BaseColumn> = values
        .into_iter()
        .enumerate()
        .map(|(at, value)| {
            let name = match &value.scalar {
                // A group's column keeps its name; two of one name are told apart when they are written.
                Scalar::Column { name, .. } => name.clone(),
                _ if at < keys => format!("k{}", at + 1),
                _ => format!("a{}", at - keys + 1),
            };
            let column = Column::new(Some(relation.clone()), name);
            BaseColumn {
                column,
                field: Arc::clone(&fields[at]),
                scalar: value.scalar,
                traits: value.traits,
                distinct: value.distinct,
            }
        })
        .collect();
    let base = apart(base);
    let mut grouped = remote.clone();
    grouped.rows = groups(remote.rows, &distinct);
    grouped.rows_whole = grouped.rows;
    grouped.output = base.iter().map(|base| Expr::Column(base.column.clone())).collect();
    grouped.base = base;
    grouped.group = Some(group);
    grouped.schema = Arc::clone(&aggregate.schema);
    grouped.unique = Vec::new();
    grouped
}

/// Names made unique, so that each is one column, and given to the fields as well.
fn apart(mut base: Vec<BaseColumn>) -> Vec<BaseColumn> {
    for at in 0..base.len() {
        while base[..at].iter().any(|earlier| earlier.column == base[at].column) {
            base[at].column.name.push('_');
        }
        let name = base[at].column.name.clone();
        base[at].field = Arc::new(base[at].field.as_ref().clone().with_name(name));
    }
    base
}

fn group_key(scope: Scope<'_>, key: &Expr, remote: &Remote) -> Result<Option<Computed>> {
    if matches!(key, Expr::Literal(..) | Expr::GroupingSet(_)) || !is_movable(key)? {
        return Ok(None);
    }
    if let Some(Operand::Column(column)) = operand(scope, key)
        && matches!(key, Expr::Column(_))
    {
        let forced = column.traits.agreement == Agreement::Forced;
        let scalar = column.scalar.clone();
        return Ok(groupable(scope.dialect, column.traits).then(|| Computed {
            scalar: if forced { scalar.bytewise() } else { scalar },
            // Conditions on a forced key stay local.
            traits: if forced { Traits { null_agrees: true, ..Traits::NOTHING } } else { column.traits },
            distinct: column.distinct,
        }));
    }
    if scope.dialect != Dialect::DataFusion {
        return Ok(None);
    }
    let traits = Traits::native(kind(&type_of(remote, key)?));
    let scalar = native_scalar(scope, key).filter(|scalar| !matches!(scalar, Scalar::Literal(_)));
    Ok(scalar.filter(|_| groupable(scope.dialect, traits)).map(|scalar| Computed { scalar, traits, distinct: None }))
}

fn type_of(remote: &Remote, expr: &Expr) -> Result<DataType> {
    let fields = remote.base.iter().map(|base| (base.column.relation.clone(), base.field.clone())).collect();
    let schema = datafusion::common::DFSchema::new_with_metadata(fields, Default::default())?;
    expr.get_type(&schema)
}

fn function_of(scope: Scope<'_>, function: &AggregateFunction, result: &DataType) -> Result<Option<Computed>> {
    let (name, params) = (function.func.name(), &function.params);
    if !capability::aggregate(scope.dialect, name) || !params.order_by.is_empty() || params.null_treatment.is_some() {
        return Ok(None);
    }
    for part in params.args.iter().chain(params.filter.as_deref()) {
        if !is_movable(part)? {
            return Ok(None);
        }
    }
    let [argument] = params.args.as_slice() else { return Ok(None) };
    Ok(match scope.dialect {
        Dialect::DataFusion => native(scope, name, function, argument, result),
        _ if params.filter.is_some() => None,
        _ => foreign(scope, name, params.distinct, argument, result),
    })
}

/// At a DataFusion edge: the same aggregate, as long as its arguments can be spelled.
fn native(
    scope: Scope<'_>,
    name: &str,
    function: &AggregateFunction,
    argument: &Expr,
    result: &DataType,
) -> Option<Computed> {
    let filter = match &function.params.filter {
        Some(filter) => Some(Box::new(native_scalar(scope, filter)?)),
        None => None,
    };
    let distinct = function.params.distinct;
    let argument = match argument {
        Expr::Literal(value, _) if name == "count" && !distinct && !value.is_null() => None,
        other => Some(Box::new(native_scalar(scope, other)?)),
    };
    let scalar = Scalar::Aggregate { function: name.to_owned(), distinct, argument, filter };
    Some(Computed { scalar, traits: Traits::native(kind(result)), distinct: None })
}

fn foreign(scope: Scope<'_>, name: &str, distinct: bool, argument: &Expr, result: &DataType) -> Option<Computed> {
    let aggregate = |argument: Option<Scalar>| Scalar::Aggregate {
        function: name.to_owned(),
        distinct,
        argument: argument.map(Box::new),
        filter: None,
    };
    let count = |scalar| Computed { scalar, traits: Traits::native(Kind::Signed), distinct: None };
    let column = match operand(scope, argument)? {
        Operand::Literal(_) => return (name == "count" && !distinct).then(|| count(aggregate(None))),
        Operand::Column(column) => column,
    };
    let forced = column.traits.agreement == Agreement::Forced;
    let scalar = || if forced { column.scalar.clone().bytewise() } else { column.scalar.clone() };
    match name {
        "count" if distinct => groupable(scope.dialect, column.traits).then(|| count(aggregate(Some(scalar())))),
        "count" => column.traits.null_agrees.then(|| count(aggregate(Some(column.scalar.clone())))),
        "min" | "max" => {
            let ordered = sortable(scope.dialect, column.traits) && column.traits.kind != Kind::Binary && !forced;
            let scalar = aggregate(Some(column.scalar.clone()));
            ordered.then_some(Computed { scalar, traits: column.traits, distinct: None })
        }
        "sum" if !distinct => {
            let summed = aggregate(Some(column.scalar.clone()));
            sum(scope.dialect, column, summed, result)
        }
        _ => None,
    }
}

/// Sums whose result is exact and, where it does not fit, an error. MySQL clamps instead, so its sums must fit.
fn sum(dialect: Dialect, column: &BaseColumn, summed: Scalar, result: &DataType) -> Option<Computed> {
    if column.traits.agreement != Agreement::Native {
        return None;
    }
    let data_type = column.field.data_type();
    let exact = match (dialect, data_type, result) {
        (Dialect::MySql, DataType::Int8 | DataType::Int16 | DataType::Int32, DataType::Int64) => true,
        (Dialect::MySql, DataType::Decimal128(digits, _), DataType::Decimal128(..)) => *digits <= MYSQL_SUM_DIGITS_MAX,
        (Dialect::Postgres, DataType::Decimal128(..), DataType::Decimal128(..)) => true,
        (Dialect::Postgres | Dialect::Sqlite, _, DataType::Int64) => column.traits.kind == Kind::Signed,
        _ => false,
    };
    exact.then(|| Computed {
        scalar: Scalar::Cast { scalar: Box::new(summed), to: result.clone(), trying: false },
        traits: Traits::native(kind(result)),
        distinct: None,
    })
}
