//! Expressions for edges that are DataFusion themselves: the same engine gives the same result, so what remains to be
//! decided is whether the expression can be spelled, whether it has no state, and, for conditions, whether it has an
//! answer for every row. (A condition that fails on a row must not be moved in front of one that would have removed it.)

use arrow::datatypes::DataType;
use datafusion::{
    common::DFSchema,
    logical_expr::{
        Expr, ExprSchemable, Operator, Volatility,
        expr::{Case, InList},
        utils::{split_binary, split_conjunction},
    },
};
use greylag_protocol::schema::Dialect;

use super::{DEPTH_MAX, PARTS_MAX, Pushable, Scope, operand::keeps_value};
use crate::pushdown::{
    capability::{self, Kind, kind},
    ir::{BinaryOp, IsTest, Scalar},
    write::{literal, text_of},
};

const SELECTIVITY: f64 = 0.33;

/// Functions with an answer for every input.
const TOTAL_FUNCTIONS: [&str; 20] = [
    "bit_length",
    "btrim",
    "character_length",
    "coalesce",
    "concat",
    "contains",
    "date_part",
    "ends_with",
    "initcap",
    "left",
    "lower",
    "ltrim",
    "nullif",
    "octet_length",
    "replace",
    "reverse",
    "right",
    "rtrim",
    "starts_with",
    "upper",
];

pub(super) fn condition(scope: Scope<'_>, expr: &Expr) -> Option<Pushable> {
    let schema = schema(scope)?;
    if !is_total(&schema, expr, 0) {
        return None;
    }
    scalar(scope, expr).map(|scalar| Pushable::exact(scalar, SELECTIVITY))
}

/// Any expression that can be spelled and depends on nothing but its row.
pub(crate) fn scalar(scope: Scope<'_>, expr: &Expr) -> Option<Scalar> {
    Spelling { scope }.scalar(expr, 0)
}

fn schema(scope: Scope<'_>) -> Option<DFSchema> {
    let fields = scope.columns.iter().map(|base| (base.column.relation.clone(), base.field.clone())).collect();
    DFSchema::new_with_metadata(fields, Default::default()).ok()
}

struct Spelling<'a> {
    scope: Scope<'a>,
}

impl Spelling<'_> {
    fn boxed(&self, expr: &Expr, depth: usize) -> Option<Box<Scalar>> {
        self.scalar(expr, depth).map(Box::new)
    }

    fn scalar(&self, expr: &Expr, depth: usize) -> Option<Scalar> {
        if depth > DEPTH_MAX {
            return None;
        }
        let next = depth + 1;
        let is = |inner: &Expr, test| Some(self.scalar(inner, next)?.is(test));
        Some(match expr {
            Expr::Alias(alias) => self.scalar(&alias.expr, next)?,
            Expr::Column(column) => self.scope.find(column)?.scalar.clone(),
            Expr::Literal(value, _) => {
                literal(Dialect::DataFusion, value)?;
                Scalar::Literal(value.clone())
            }
            Expr::BinaryExpr(binary) => match binary.op {
                Operator::And => Scalar::all(self.each(split_conjunction(expr), next)?)?,
                Operator::Or => Scalar::any(self.each(split_binary(expr, Operator::Or), next)?)?,
                op => {
                    Scalar::binary(binary_op(op)?, self.scalar(&binary.left, next)?, self.scalar(&binary.right, next)?)
                }
            },
            Expr::Not(inner) => Scalar::Not(self.boxed(inner, next)?),
            Expr::IsNull(inner) => is(inner, IsTest::Null)?,
            Expr::IsNotNull(inner) => is(inner, IsTest::NotNull)?,
            Expr::IsTrue(inner) => is(inner, IsTest::True)?,
            Expr::IsNotTrue(inner) => is(inner, IsTest::NotTrue)?,
            Expr::IsFalse(inner) => is(inner, IsTest::False)?,
            Expr::IsNotFalse(inner) => is(inner, IsTest::NotFalse)?,
            Expr::IsUnknown(inner) => is(inner, IsTest::Unknown)?,
            Expr::IsNotUnknown(inner) => is(inner, IsTest::NotUnknown)?,
            Expr::Negative(inner) => Scalar::Negative(self.boxed(inner, next)?),
            Expr::Between(between) => {
                let needle = self.scalar(&between.expr, next)?;
                let low = Scalar::binary(BinaryOp::GtEq, needle.clone(), self.scalar(&between.low, next)?);
                let high = Scalar::binary(BinaryOp::LtEq, needle, self.scalar(&between.high, next)?);
                let inside = Scalar::all(vec![low, high])?;
                if between.negated { Scalar::Not(Box::new(inside)) } else { inside }
            }
            Expr::InList(InList { expr, list, negated }) => Scalar::InList {
                needle: self.boxed(expr, next)?,
                list: self.each(list.iter().collect(), next)?,
                negated: *negated,
            },
            Expr::Like(like) => {
                let Expr::Literal(pattern, _) = like.pattern.as_ref() else { return None };
                let (text, pattern) = (self.boxed(&like.expr, next)?, text_of(pattern)?.to_owned());
                if like.escape_char.is_some() {
                    return None;
                } else if like.case_insensitive {
                    Scalar::ILike { text, pattern, negated: like.negated }
                } else {
                    Scalar::Like { text, pattern, negated: like.negated }
                }
            }
            Expr::Case(case) => self.case(case, next)?,
            Expr::Cast(cast) => self.cast(&cast.expr, cast.field.data_type(), false, next)?,
            Expr::TryCast(cast) => self.cast(&cast.expr, cast.field.data_type(), true, next)?,
            Expr::ScalarFunction(function) => {
                let name = function.func.name();
                let steady = function.func.signature().volatility == Volatility::Immutable;
                if !steady || !capability::function(Dialect::DataFusion, name) {
                    return None;
                }
                Scalar::Function { name: name.to_owned(), arguments: self.each(function.args.iter().collect(), next)? }
            }
            _ => return None,
        })
    }

    fn each(&self, exprs: Vec<&Expr>, depth: usize) -> Option<Vec<Scalar>> {
        if exprs.len() > PARTS_MAX {
            return None;
        }
        exprs.into_iter().map(|expr| self.scalar(expr, depth)).collect()
    }

    fn cast(&self, expr: &Expr, to: &DataType, trying: bool, depth: usize) -> Option<Scalar> {
        // A type that cannot be spelled has no NULL literal either.
        literal(Dialect::DataFusion, &datafusion::common::ScalarValue::try_from(to).ok()?)?;
        Some(Scalar::Cast { scalar: self.boxed(expr, depth)?, to: to.clone(), trying })
    }

    fn case(&self, case: &Case, depth: usize) -> Option<Scalar> {
        let operand = match &case.expr {
            Some(operand) => Some(self.boxed(operand, depth)?),
            None => None,
        };
        let branches: Option<Vec<(Scalar, Scalar)>> = case
            .when_then_expr
            .iter()
            .map(|(when, then)| Some((self.scalar(when, depth)?, self.scalar(then, depth)?)))
            .collect();
        let otherwise = match &case.else_expr {
            Some(otherwise) => Some(self.boxed(otherwise, depth)?),
            None => None,
        };
        Some(Scalar::Case { operand, branches: branches?, otherwise })
    }
}

fn binary_op(op: Operator) -> Option<BinaryOp> {
    Some(match op {
        Operator::Eq => BinaryOp::Eq,
        Operator::NotEq => BinaryOp::NotEq,
        Operator::Lt => BinaryOp::Lt,
        Operator::LtEq => BinaryOp::LtEq,
        Operator::Gt => BinaryOp::Gt,
        Operator::GtEq => BinaryOp::GtEq,
        Operator::Plus => BinaryOp::Plus,
        Operator::Minus => BinaryOp::Minus,
        Operator::Multiply => BinaryOp::Multiply,
        Operator::Divide => BinaryOp::Divide,
        Operator::Modulo => BinaryOp::Modulo,
        Operator::StringConcat => BinaryOp::Concat,
        Operator::IsDistinctFrom => BinaryOp::IsDistinct,
        Operator::IsNotDistinctFrom => BinaryOp::IsNotDistinct,
        _ => return None,
    })
}

/// Whether an expression has an answer for every row.
fn is_total(schema: &DFSchema, expr: &Expr, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    let total = |inner: &Expr| is_total(schema, inner, depth + 1);
    let plain_number = |inner: &Expr| {
        let kind = inner.get_type(schema).map_or(Kind::Other, |data_type| kind(&data_type));
        matches!(kind, Kind::Signed | Kind::Unsigned | Kind::Float)
    };
    match expr {
        Expr::Column(_) | Expr::Literal(_, _) => true,
        Expr::Alias(alias) => total(&alias.expr),
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::And => split_conjunction(expr).into_iter().all(total),
            Operator::Or => split_binary(expr, Operator::Or).into_iter().all(total),
            // Integers wrap around; decimals and dates do not.
            Operator::Plus | Operator::Minus | Operator::Multiply => {
                [&binary.left, &binary.right].into_iter().all(|side| total(side) && plain_number(side))
            }
            Operator::Divide | Operator::Modulo => false,
            op => binary_op(op).is_some() && total(&binary.left) && total(&binary.right),
        },
        Expr::Not(inner) | Expr::IsNull(inner) | Expr::IsNotNull(inner) => total(inner),
        Expr::IsTrue(inner) | Expr::IsNotTrue(inner) | Expr::IsFalse(inner) | Expr::IsNotFalse(inner) => total(inner),
        Expr::IsUnknown(inner) | Expr::IsNotUnknown(inner) => total(inner),
        Expr::Between(between) => total(&between.expr) && total(&between.low) && total(&between.high),
        Expr::InList(list) => total(&list.expr) && list.list.iter().all(total),
        Expr::Like(like) => total(&like.expr) && total(&like.pattern),
        Expr::Case(case) => {
            case.expr.iter().all(|e| total(e))
                && case.when_then_expr.iter().all(|(when, then)| total(when) && total(then))
                && case.else_expr.iter().all(|e| total(e))
        }
        Expr::Cast(cast) => {
            let from = cast.expr.get_type(schema);
            total(&cast.expr) && from.is_ok_and(|from| keeps_value(&from, cast.field.data_type()))
        }
        Expr::ScalarFunction(function) => match (function.func.name(), function.args.as_slice()) {
            ("substr", [text, from]) => total(text) && total(from),
            ("substr", [text, from, Expr::Literal(length, _)]) => {
                let long = datafusion::common::ScalarValue::Int64(Some(0));
                total(text) && total(from) && length.partial_cmp(&long).is_some_and(|order| order.is_ge())
            }
            (name, arguments) => TOTAL_FUNCTIONS.contains(&name) && arguments.iter().all(total),
        },
        _ => false,
    }
}
