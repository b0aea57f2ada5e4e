//! Conditions for sources that are not DataFusion: comparisons of columns with literals and with each other, IN lists,
//! LIKE, NULL tests, and AND, OR, NOT over them. No arithmetic, no functions, no casts but those that change nothing.

use datafusion::{
    common::ScalarValue,
    logical_expr::{
        Between, BinaryExpr, Expr, Operator,
        utils::{split_binary, split_conjunction},
    },
};
use greylag_protocol::schema::Dialect;

use super::{BaseColumn, DEPTH_MAX, Operand, PARTS_MAX, Pushable, Scope, like, operand};
use crate::pushdown::{
    capability::{Agreement, Kind, comparable, kind},
    ir::{BinaryOp, IsTest, Scalar},
    write::{is_plain_text, literal},
};

/// Guesses at the part of rows that pass, where nothing is known.
const RANGE_SELECTIVITY: f64 = 0.33;
const EQUAL_SELECTIVITY: f64 = 0.1;

pub(super) fn condition(scope: Scope<'_>, expr: &Expr, depth: usize) -> Option<Pushable> {
    if depth > DEPTH_MAX {
        return None;
    }
    match expr {
        Expr::Alias(alias) => condition(scope, &alias.expr, depth + 1),
        Expr::BinaryExpr(BinaryExpr { op: Operator::And, .. }) => conjunction(scope, expr, depth),
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => disjunction(scope, expr, depth),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => comparison(scope, left, comparison_op(*op)?, right),
        Expr::Not(inner) => {
            let inner = condition(scope, inner, depth + 1)?;
            Some(Pushable::exact(Scalar::Not(Box::new(inner.exact?)), 1.0 - inner.selectivity))
        }
        Expr::IsNull(inner) => null_test(scope, inner, IsTest::Null, EQUAL_SELECTIVITY),
        Expr::IsNotNull(inner) => null_test(scope, inner, IsTest::NotNull, 1.0),
        Expr::Between(between) => self::between(scope, between),
        Expr::InList(list) => {
            let Operand::Column(column) = operand(scope, &list.expr)? else { return None };
            in_list(scope, column, &list.list, list.negated)
        }
        Expr::Like(like) => like::like(scope, like),
        Expr::Column(_) => {
            let Operand::Column(column) = operand(scope, expr)? else { return None };
            let traits = column.traits;
            (traits.kind == Kind::Boolean && traits.agreement == Agreement::Native)
                .then(|| Pushable::exact(column.scalar.clone(), 0.5))
        }
        _ => None,
    }
}

fn conjunction(scope: Scope<'_>, expr: &Expr, depth: usize) -> Option<Pushable> {
    let parts = split_conjunction(expr);
    if parts.len() > PARTS_MAX {
        return None;
    }
    let pushed: Vec<Pushable> = parts.iter().filter_map(|part| condition(scope, part, depth + 1)).collect();
    let exact: Option<Vec<Scalar>> = pushed.iter().map(|part| part.exact.clone()).collect();
    let exact = exact.filter(|exact| exact.len() == parts.len()).and_then(Scalar::all);
    let selectivity = pushed.iter().map(|part| part.selectivity).product();
    let loose = Scalar::all(pushed.into_iter().map(|part| part.loose).collect())?;
    Some(Pushable { loose, exact, selectivity })
}

fn disjunction(scope: Scope<'_>, expr: &Expr, depth: usize) -> Option<Pushable> {
    let parts = split_binary(expr, Operator::Or);
    if parts.len() > PARTS_MAX {
        return None;
    }
    let pushed: Option<Vec<Pushable>> = parts.into_iter().map(|part| condition(scope, part, depth + 1)).collect();
    let pushed = pushed?;
    let exact: Option<Vec<Scalar>> = pushed.iter().map(|part| part.exact.clone()).collect();
    let selectivity = pushed.iter().map(|part| part.selectivity).sum::<f64>().min(1.0);
    let loose = Scalar::any(pushed.into_iter().map(|part| part.loose).collect())?;
    Some(Pushable { loose, exact: exact.and_then(Scalar::any), selectivity })
}

fn comparison_op(op: Operator) -> Option<BinaryOp> {
    Some(match op {
        Operator::Eq => BinaryOp::Eq,
        Operator::NotEq => BinaryOp::NotEq,
        Operator::Lt => BinaryOp::Lt,
        Operator::LtEq => BinaryOp::LtEq,
        Operator::Gt => BinaryOp::Gt,
        Operator::GtEq => BinaryOp::GtEq,
        _ => return None,
    })
}

fn comparison(scope: Scope<'_>, left: &Expr, op: BinaryOp, right: &Expr) -> Option<Pushable> {
    match (operand(scope, left)?, operand(scope, right)?) {
        (Operand::Column(column), Operand::Literal(value)) => compare(scope.dialect, column, op, value),
        (Operand::Literal(value), Operand::Column(column)) => compare(scope.dialect, column, op.mirrored(), value),
        (Operand::Column(left), Operand::Column(right)) => columns(left, op, right),
        (Operand::Literal(_), Operand::Literal(_)) => None,
    }
}

/// Two columns of one source.
pub(crate) fn columns(left: &BaseColumn, op: BinaryOp, right: &BaseColumn) -> Option<Pushable> {
    let same_unit = left.traits.kind != Kind::Timestamp || left.field.data_type() == right.field.data_type();
    if !comparable(left.traits, right.traits) || !same_unit || left.traits.kind == Kind::Float {
        return None;
    }
    let native = left.traits.agreement == Agreement::Native && right.traits.agreement == Agreement::Native;
    let (left, right) = (left.scalar.clone(), right.scalar.clone());
    let scalar = match op {
        _ if native => Scalar::binary(op, left, right),
        BinaryOp::Eq | BinaryOp::NotEq => Scalar::binary(op, left.bytewise(), right.bytewise()),
        _ => Scalar::binary(op, left.bytes(), right.bytes()),
    };
    Some(Pushable::exact(scalar, if op == BinaryOp::Eq { EQUAL_SELECTIVITY } else { RANGE_SELECTIVITY }))
}

/// A column with a value.
pub(super) fn compare(dialect: Dialect, column: &BaseColumn, op: BinaryOp, value: &ScalarValue) -> Option<Pushable> {
    let traits = column.traits;
    if traits.kind != kind(&value.data_type()) || traits.agreement == Agreement::Unknown || !is_ordinary(value) {
        return None;
    }
    literal(dialect, value)?;
    let selectivity = match op {
        BinaryOp::Eq => equal_selectivity(column),
        BinaryOp::NotEq => 1.0 - equal_selectivity(column),
        _ => RANGE_SELECTIVITY,
    };
    let native = Scalar::binary(op, column.scalar.clone(), Scalar::Literal(value.clone()));
    match (traits.kind, traits.agreement) {
        (Kind::Timestamp, _) if column.field.data_type() != &value.data_type() => None,
        (_, Agreement::Native) => Some(Pushable::exact(native, selectivity)),
        (Kind::Text, Agreement::Forced) => {
            let (text, value_text) = (column.scalar.clone(), Scalar::Literal(value.clone()));
            let bytes = match op {
                BinaryOp::Eq | BinaryOp::NotEq => Scalar::binary(op, text.bytewise(), value_text.bytewise()),
                _ => Scalar::binary(op, text.bytes(), value_text.bytes()),
            };
            if op == BinaryOp::Eq && own_equality_holds(dialect, value) {
                // The first half alone finds every equal value, and finds it by an index.
                let exact = Scalar::all(vec![native.clone(), bytes]);
                Some(Pushable { loose: native, exact, selectivity })
            } else {
                Some(Pushable::exact(bytes, selectivity))
            }
        }
        _ => None,
    }
}

/// Whether a collated column's own `=` holds for every value of the literal's bytes. Not so in MySQL for characters that
/// the column's character set may not have.
fn own_equality_holds(dialect: Dialect, value: &ScalarValue) -> bool {
    match dialect {
        Dialect::Postgres => true,
        Dialect::MySql => is_plain_text(value),
        Dialect::Sqlite | Dialect::DataFusion => false,
    }
}

/// No NaN, no infinity.
fn is_ordinary(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Float64(Some(v)) => v.is_finite(),
        ScalarValue::Float32(Some(v)) => v.is_finite(),
        _ => true,
    }
}

fn between(scope: Scope<'_>, between: &Between) -> Option<Pushable> {
    let low = comparison(scope, &between.expr, BinaryOp::GtEq, &between.low)?;
    let high = comparison(scope, &between.expr, BinaryOp::LtEq, &between.high)?;
    let exact = low.exact.zip(high.exact).and_then(|(low, high)| Scalar::all(vec![low, high]));
    if between.negated {
        return Some(Pushable::exact(Scalar::Not(Box::new(exact?)), 1.0 - RANGE_SELECTIVITY));
    }
    Some(Pushable { loose: Scalar::all(vec![low.loose, high.loose])?, exact, selectivity: RANGE_SELECTIVITY })
}

fn in_list(scope: Scope<'_>, column: &BaseColumn, list: &[Expr], negated: bool) -> Option<Pushable> {
    let traits = column.traits;
    if list.is_empty() || list.len() > PARTS_MAX || traits.kind == Kind::Float {
        return None;
    }
    let mut values = Vec::with_capacity(list.len());
    for item in list {
        let Operand::Literal(value) = operand(scope, item)? else { return None };
        // As a comparison with each one would be.
        compare(scope.dialect, column, BinaryOp::Eq, value)?;
        values.push(value);
    }
    #[allow(clippy::cast_precision_loss, reason = "a guess, of at most PARTS_MAX")]
    let selectivity = (equal_selectivity(column) * values.len() as f64).min(1.0);
    let selectivity = if negated { 1.0 - selectivity } else { selectivity };
    let membership = |bytewise: bool, negated: bool| {
        let form = |scalar: Scalar| if bytewise { scalar.bytewise() } else { scalar };
        Scalar::InList {
            needle: Box::new(form(column.scalar.clone())),
            list: values.iter().map(|value| form(Scalar::Literal((*value).clone()))).collect(),
            negated,
        }
    };
    if traits.agreement == Agreement::Native {
        return Some(Pushable::exact(membership(false, negated), selectivity));
    }
    let bytes = membership(true, negated);
    if negated || !values.iter().all(|value| own_equality_holds(scope.dialect, value)) {
        return Some(Pushable::exact(bytes, selectivity));
    }
    let native = membership(false, false);
    Some(Pushable { exact: Scalar::all(vec![native.clone(), bytes]), loose: native, selectivity })
}

fn null_test(scope: Scope<'_>, inner: &Expr, test: IsTest, selectivity: f64) -> Option<Pushable> {
    match operand(scope, inner)? {
        Operand::Column(column) if column.traits.null_agrees => {
            Some(Pushable::exact(column.scalar.clone().is(test), selectivity))
        }
        _ => None,
    }
}

fn equal_selectivity(column: &BaseColumn) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a guess")]
    let distinct = column.distinct.map(|distinct| distinct.max(1) as f64);
    distinct.map_or(EQUAL_SELECTIVITY, |distinct| 1.0 / distinct)
}
