//! Row filters as DataFusion expressions. The definition is `RowFilter::passes`; a property test compares the two.
//!
//! INVARIANT: the expression cannot fail, whatever a row holds, and is true exactly for rows that pass.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::{
    common::{Column, TableReference},
    logical_expr::{BinaryExpr, Expr, Like, Operator, cast, expr::InList, lit},
    scalar::ScalarValue,
};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    filter::{Comparison, DECIMAL_SCALE, FilterNode, FilterValue, LikePart, RowFilter, Term},
};

use super::mask::InstantFunction;

const DAY_MS: i64 = 86_400_000;
/// Digits of the decimals that columns are compared as: all that 64 bits hold.
const DECIMAL_DIGITS: u8 = 19;

/// The row that a filter is about.
pub(super) struct Row<'a> {
    relation: &'a TableReference,
    schema: &'a Schema,
}

impl<'a> Row<'a> {
    pub(super) fn of(relation: &'a TableReference, schema: &'a Schema) -> Self {
        Self { relation, schema }
    }

    /// GL2005 for a column that is not there.
    pub(super) fn column(&self, name: &str) -> Result<Column> {
        match self.schema.field_with_name(name) {
            Ok(_) => Ok(Column::new(Some(self.relation.clone()), name)),
            Err(_) => Err(super::decided_otherwise(name)),
        }
    }

    fn data_type(&self, name: &str) -> Result<&DataType> {
        match self.schema.field_with_name(name).map(|field| field.data_type()) {
            Ok(DataType::Dictionary(_, values)) => Ok(values),
            Ok(data_type) => Ok(data_type),
            Err(_) => Err(super::decided_otherwise(name)),
        }
    }
}

pub(super) fn expr(filter: &RowFilter, row: &Row<'_>) -> Result<Expr> {
    let mut said: Vec<Expr> = Vec::with_capacity(filter.nodes().len());
    for node in filter.nodes() {
        let operand = |at: &u32| said.get(*at as usize).cloned().ok_or_else(malformed);
        let all = |operands: &[u32]| operands.iter().map(operand).collect::<Result<Vec<Expr>>>();
        let next = match node {
            FilterNode::Constant(constant) => lit(*constant),
            FilterNode::IsNull(column) => Expr::Column(row.column(column)?).is_null(),
            FilterNode::IsNotNull(column) => Expr::Column(row.column(column)?).is_not_null(),
            FilterNode::Compare { op, left, right } => compare(*op, left, right, row)?,
            FilterNode::In { column, values } => among(column, values, row)?,
            FilterNode::Like { column, pattern } => like(column, pattern, row)?,
            FilterNode::Not(at) => Expr::Not(Box::new(operand(at)?)),
            FilterNode::And(operands) => all(operands)?.into_iter().reduce(Expr::and).unwrap_or_else(|| lit(true)),
            FilterNode::Or(operands) => all(operands)?.into_iter().reduce(Expr::or).unwrap_or_else(|| lit(false)),
        };
        said.push(next);
    }
    said.pop().ok_or_else(malformed)
}

fn malformed() -> MeshError {
    MeshError::new(ErrorCode::MalformedFrame, "a row filter refers to a node that it does not have")
}

fn unknown() -> Expr {
    Expr::Literal(ScalarValue::Boolean(None), None)
}

/// A comparison as seen from its other side has a strictness and a direction.
#[derive(Clone, Copy)]
enum Order {
    Below,
    AtMost,
    Above,
    AtLeast,
}

fn compare(op: Comparison, left: &Term, right: &Term, row: &Row<'_>) -> Result<Expr> {
    match (left, right) {
        (Term::Value(left), Term::Value(right)) => Ok(constants(op, left, right)),
        (Term::Column(column), Term::Value(value)) => match op {
            Comparison::Equal => equal(column, value, row),
            Comparison::NotEqual => equal(column, value, row).map(|equal| Expr::Not(Box::new(equal))),
            Comparison::Less => ordered(column, Order::Below, value, row),
            Comparison::LessOrEqual => ordered(column, Order::AtMost, value, row),
        },
        (Term::Value(value), Term::Column(column)) => match op {
            Comparison::Equal => equal(column, value, row),
            Comparison::NotEqual => equal(column, value, row).map(|equal| Expr::Not(Box::new(equal))),
            Comparison::Less => ordered(column, Order::Above, value, row),
            Comparison::LessOrEqual => ordered(column, Order::AtLeast, value, row),
        },
        (Term::Column(left), Term::Column(right)) => {
            let (Some((left, one)), Some((right, other))) = (plain(left, row)?, plain(right, row)?) else {
                return Ok(unknown());
            };
            Ok(if one == other { binary(left, operator(op), right) } else { unknown() })
        }
    }
}

fn constants(op: Comparison, left: &FilterValue, right: &FilterValue) -> Expr {
    if std::mem::discriminant(left) != std::mem::discriminant(right) {
        return unknown();
    }
    lit(match op {
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
        Comparison::Less => left < right,
        Comparison::LessOrEqual => left <= right,
    })
}

fn operator(op: Comparison) -> Operator {
    match op {
        Comparison::Equal => Operator::Eq,
        Comparison::NotEqual => Operator::NotEq,
        Comparison::Less => Operator::Lt,
        Comparison::LessOrEqual => Operator::LtEq,
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Integer,
    Text,
    Decimal,
    Instant,
}

fn kind(data_type: &DataType) -> Option<Kind> {
    Some(match data_type {
        DataType::Boolean => Kind::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Integer,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => Kind::Integer,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Decimal128(..) | DataType::Decimal256(..) => Kind::Decimal,
        DataType::Date32 | DataType::Timestamp(..) => Kind::Instant,
        _ => return None,
    })
}

fn kind_of(value: &FilterValue) -> Kind {
    match value {
        FilterValue::Bool(_) => Kind::Bool,
        FilterValue::Integer(_) => Kind::Integer,
        FilterValue::Text(_) => Kind::Text,
        FilterValue::Decimal(_) => Kind::Decimal,
        FilterValue::Instant(_) => Kind::Instant,
    }
}

/// A column in the one type that all columns of its kind are compared in.
fn plain(name: &str, row: &Row<'_>) -> Result<Option<(Expr, Kind)>> {
    let column = Expr::Column(row.column(name)?);
    let data_type = row.data_type(name)?;
    let Some(kind) = kind(data_type) else { return Ok(None) };
    let expr = match kind {
        Kind::Bool => column,
        Kind::Text => column,
        Kind::Integer if *data_type == DataType::Int64 => column,
        Kind::Integer => cast(column, DataType::Int64),
        Kind::Decimal => cast(column, DataType::Decimal128(DECIMAL_DIGITS, DECIMAL_SCALE as i8)),
        Kind::Instant => InstantFunction::call(column),
    };
    Ok(Some((expr, kind)))
}

/// As a literal of the type that [`plain`] gives a column; instants are not among them.
fn literal(value: &FilterValue) -> Expr {
    match value {
        FilterValue::Bool(value) => lit(*value),
        FilterValue::Integer(value) | FilterValue::Instant(value) => lit(*value),
        FilterValue::Text(value) => lit(value.as_str()),
        FilterValue::Decimal(value) => {
            let value = ScalarValue::Decimal128(Some((*value).into()), DECIMAL_DIGITS, DECIMAL_SCALE as i8);
            Expr::Literal(value, None)
        }
    }
}

fn equal(column: &str, value: &FilterValue, row: &Row<'_>) -> Result<Expr> {
    let Some((plain, kind)) = plain(column, row)?.filter(|(_, kind)| *kind == kind_of(value)) else {
        return Ok(unknown());
    };
    match value {
        FilterValue::Instant(ms) => {
            let at_least = instant(column, Order::AtLeast, *ms, row)?;
            Ok(at_least.and(instant(column, Order::AtMost, *ms, row)?))
        }
        _ => {
            debug_assert_ne!(kind, Kind::Instant);
            Ok(binary(plain, Operator::Eq, literal(value)))
        }
    }
}

fn ordered(column: &str, order: Order, value: &FilterValue, row: &Row<'_>) -> Result<Expr> {
    let Some((plain, _)) = plain(column, row)?.filter(|(_, kind)| *kind == kind_of(value)) else {
        return Ok(unknown());
    };
    let op = match order {
        Order::Below => Operator::Lt,
        Order::AtMost => Operator::LtEq,
        Order::Above => Operator::Gt,
        Order::AtLeast => Operator::GtEq,
    };
    match value {
        FilterValue::Instant(ms) => instant(column, order, *ms, row),
        _ => Ok(binary(plain, op, literal(value))),
    }
}

/// A column of dates or timestamps against an instant, in the column's own unit: so sources can do it too.
fn instant(name: &str, order: Order, ms: i64, row: &Row<'_>) -> Result<Expr> {
    let column = Expr::Column(row.column(name)?);
    let data_type = row.data_type(name)?;
    // The bound, strictly above which the column's value has to be, or not: `value < bound` or `value >= bound`.
    let below = matches!(order, Order::Below | Order::AtMost);
    let next_ms = matches!(order, Order::AtMost | Order::Above);
    let first_ms = i128::from(ms) + i128::from(next_ms);
    let bound = match data_type {
        DataType::Date32 => ceiling(first_ms, DAY_MS.into()),
        DataType::Timestamp(TimeUnit::Second, _) => ceiling(first_ms, 1_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => first_ms,
        DataType::Timestamp(TimeUnit::Microsecond, _) => first_ms * 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => first_ms * 1_000_000,
        _ => return Ok(unknown()),
    };
    let always = |holds: bool| if holds { column.clone().is_not_null().or(unknown()) } else { never(&column) };
    let bound = match data_type {
        DataType::Date32 => i32::try_from(bound).map(|days| ScalarValue::Date32(Some(days))).ok(),
        DataType::Timestamp(unit, zone) => i64::try_from(bound).ok().map(|ticks| match unit {
            TimeUnit::Second => ScalarValue::TimestampSecond(Some(ticks), zone.clone()),
            TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(ticks), zone.clone()),
            TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(ticks), zone.clone()),
            TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(ticks), zone.clone()),
        }),
        _ => None,
    };
    Ok(match bound {
        Some(bound) => binary(column, if below { Operator::Lt } else { Operator::GtEq }, Expr::Literal(bound, None)),
        // Out of the type's range: every value is on one side of it.
        None => always(below == (first_ms > 0)),
    })
}

/// False for a value, unknown for NULL.
fn never(column: &Expr) -> Expr {
    column.clone().is_null().and(unknown())
}

fn ceiling(value: i128, by: i128) -> i128 {
    -(-value).div_euclid(by)
}

fn among(name: &str, values: &[FilterValue], row: &Row<'_>) -> Result<Expr> {
    let column = Expr::Column(row.column(name)?);
    let Some((plain, kind)) = plain(name, row)? else { return Ok(never(&column)) };
    // One of another type is no value of the column.
    let fitting: Vec<&FilterValue> = values.iter().filter(|value| kind_of(value) == kind).collect();
    if fitting.is_empty() {
        return Ok(never(&column));
    }
    if kind == Kind::Instant {
        let equals = fitting.into_iter().map(|value| equal(name, value, row)).collect::<Result<Vec<_>>>()?;
        return Ok(equals.into_iter().reduce(Expr::or).unwrap_or_else(|| never(&column)));
    }
    let list = fitting.into_iter().map(literal).collect();
    Ok(Expr::InList(InList { expr: Box::new(plain), list, negated: false }))
}

fn like(name: &str, pattern: &[LikePart], row: &Row<'_>) -> Result<Expr> {
    let Some((plain, Kind::Text)) = plain(name, row)? else { return Ok(unknown()) };
    let mut text = String::new();
    for part in pattern {
        match part {
            LikePart::Any => text.push('%'),
            LikePart::Text(piece) => piece.chars().for_each(|c| {
                if matches!(c, '%' | '_' | '\\') {
                    text.push('\\');
                }
                text.push(c);
            }),
        }
    }
    Ok(Expr::Like(Like::new(false, Box::new(plain), Box::new(lit(text)), None, false)))
}
