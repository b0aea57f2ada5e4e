//! What Cedar leaves undecided about a row, as a condition over the row's columns.
//!
//! A Cedar expression over a row is true, false or an *error* (an attribute that is not there, arithmetic that
//! overflows), and a policy whose condition is an error is skipped. So each expression becomes three conditions: when it
//! is true, when it is false, and when it has a value at all ([`Truth`]). They follow Cedar's order of evaluation:
//! `false && error` is false, `error && false` is an error, both operands of a comparison are evaluated.
//!
//! A NULL is an attribute that is not there. A condition says so for each column that it reads (`IS NOT NULL`), except
//! where what stands before it has already said so (`has`, or an earlier comparison with the column).
//!
//! The same walk checks a policy when it is stored: there, whatever does not read the row is taken for a constant,
//! since partial evaluation will have made it one.

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Expr, Literal, PatternElem, UnaryOp, Var};
use greylag_protocol::filter::{Comparison, DECIMAL_SCALE, FilterValue, LikePart, Term};

use super::condition::{Shared, and, compare, constant, is_in, is_not_null, is_null, like, not, or};

/// What could not be translated, in Cedar's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untranslatable(pub String);

type Outcome<T> = Result<T, Untranslatable>;

/// When an expression is true, false, and either.
#[derive(Debug, Clone)]
pub struct Truth {
    pub is_true: Shared,
    pub is_false: Shared,
    pub has_value: Shared,
}

impl Truth {
    fn constant(value: bool) -> Self {
        Self { is_true: constant(value), is_false: constant(!value), has_value: constant(true) }
    }

    fn error() -> Self {
        Self { is_true: constant(false), is_false: constant(false), has_value: constant(false) }
    }

    fn opposite(self) -> Self {
        Self { is_true: self.is_false, is_false: self.is_true, has_value: self.has_value }
    }
}

/// Columns known not to be NULL where an expression is reached.
type Known = BTreeSet<String>;

/// A value that is compared.
enum Scalar<'e> {
    Column(&'e str),
    Value(FilterValue),
    Choice { test: &'e Expr, then: &'e Expr, otherwise: &'e Expr },
    Error,
}

/// The residual of a policy.
pub fn translate(residual: &Expr) -> Outcome<Truth> {
    Walk { stored: false }.truth(residual, &Known::new())
}

/// Whether a policy's condition will translate, once all but the row is known.
pub fn check(condition: &Expr) -> Outcome<()> {
    Walk { stored: true }.truth(condition, &Known::new()).map(|_| ())
}

fn refuse<T>(what: &Expr, why: &str) -> Outcome<T> {
    Err(Untranslatable(format!("`{what}`: {why}")))
}

/// Whether it is the row itself: `resource`, or what partial evaluation made of it.
fn is_row(expr: &Expr) -> bool {
    match expr {
        Expr::Var(Var::Resource) => true,
        Expr::Literal(Literal::EntityUID(uid)) => uid.ty.0.namespace.is_empty() && uid.ty.0.id.as_str() == "Row",
        _ => false,
    }
}

fn reads_row(expr: &Expr) -> bool {
    expr.reduce(
        &|e| match e {
            Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } if is_row(expr) => Some(true),
            _ => None,
        },
        &|a, b| a || b,
        false,
    )
}

struct Walk {
    /// The expression is a stored policy's, not a residual.
    stored: bool,
}

impl Walk {
    fn will_be_constant(&self, expr: &Expr) -> bool {
        self.stored && !reads_row(expr)
    }

    fn truth(&self, expr: &Expr, known: &Known) -> Outcome<Truth> {
        if self.will_be_constant(expr) {
            // Either value: what stands beside it must be translatable anyway.
            return Ok(Truth { is_true: is_null(""), is_false: is_not_null(""), has_value: constant(true) });
        }
        match expr {
            Expr::Literal(Literal::Bool(value)) => Ok(Truth::constant(*value)),
            Expr::ResidualError => Ok(Truth::error()),
            Expr::UnaryOp { op: UnaryOp::Not, expr } => Ok(self.truth(expr, known)?.opposite()),
            Expr::BinaryOp { op, left, right } => self.binary(expr, *op, left, right, known),
            Expr::GetAttr { expr: of, attr } if is_row(of) => {
                let column = Term::Column(attr.to_string());
                Ok(leaf(&[attr], known, |is| compare(Comparison::Equal, column, Term::Value(FilterValue::Bool(is)))))
            }
            Expr::HasAttr { expr: of, attrs } if is_row(of) && attrs.tail.is_empty() => {
                let column = attrs.head.as_str();
                match known.contains(column) {
                    true => Ok(Truth::constant(true)),
                    false => {
                        let has_value = constant(true);
                        Ok(Truth { is_true: is_not_null(column), is_false: is_null(column), has_value })
                    }
                }
            }
            Expr::Like { expr: of, pattern } => self.like(expr, of, pattern, known),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                let (then_known, else_known) = (known_if(cond, true, known), known_if(cond, false, known));
                Ok(chosen(
                    self.truth(cond, known)?,
                    self.truth(then_expr, &then_known)?,
                    self.truth(else_expr, &else_known)?,
                ))
            }
            other => refuse(other, "a row filter cannot say this"),
        }
    }

    fn binary(&self, whole: &Expr, op: BinaryOp, left: &Expr, right: &Expr, known: &Known) -> Outcome<Truth> {
        let comparison = |op| self.comparison(whole, op, left, right, known);
        let swapped = |op| self.comparison(whole, op, right, left, known);
        match op {
            BinaryOp::And => {
                let (a, b) = (self.truth(left, known)?, self.truth(right, &known_if(left, true, known))?);
                Ok(both(a, b))
            }
            BinaryOp::Or => {
                let (a, b) = (self.truth(left, known)?, self.truth(right, &known_if(left, false, known))?);
                Ok(both(a.opposite(), b.opposite()).opposite())
            }
            BinaryOp::Eq if self.is_truth(left) || self.is_truth(right) => {
                Ok(same(self.truth(left, known)?, self.truth(right, known)?))
            }
            BinaryOp::NotEq if self.is_truth(left) || self.is_truth(right) => {
                Ok(same(self.truth(left, known)?, self.truth(right, known)?).opposite())
            }
            BinaryOp::Eq => comparison(Comparison::Equal),
            BinaryOp::NotEq => comparison(Comparison::NotEqual),
            BinaryOp::Less | BinaryOp::DecimalLessThan => comparison(Comparison::Less),
            BinaryOp::LessEq | BinaryOp::DecimalLessEq => comparison(Comparison::LessOrEqual),
            BinaryOp::Greater | BinaryOp::DecimalGreater => swapped(Comparison::Less),
            BinaryOp::GreaterEq | BinaryOp::DecimalGreaterEq => swapped(Comparison::LessOrEqual),
            BinaryOp::Contains => match left {
                Expr::Set(elements) => self.contains(whole, elements, right, known),
                fixed if self.will_be_constant(fixed) => {
                    let placeholder = BTreeSet::from([FilterValue::Bool(true)]);
                    self.scalar_truth(right, known, &|scalar| match scalar {
                        Scalar::Column(column) => Ok(leaf(&[column], known, |_| is_in(column, placeholder.clone()))),
                        _ => Ok(Truth::constant(true)),
                    })
                }
                _ => refuse(whole, "only a set written out, or known beforehand, can contain a column"),
            },
            _ => refuse(whole, "a row filter cannot say this"),
        }
    }

    /// Whether it is an expression that is true or false, other than a column or constant.
    fn is_truth(&self, expr: &Expr) -> bool {
        match expr {
            Expr::UnaryOp { op: UnaryOp::Not, .. } | Expr::HasAttr { .. } | Expr::Like { .. } | Expr::Is { .. } => true,
            Expr::BinaryOp { op, .. } => {
                use BinaryOp as B;
                matches!(
                    op,
                    B::And | B::Or | B::Eq | B::NotEq | B::Less | B::LessEq | B::Greater | B::GreaterEq | B::In
                ) || matches!(op, B::Contains | B::ContainsAll | B::ContainsAny | B::HasTag)
                    || matches!(op, B::DecimalLessThan | B::DecimalLessEq | B::DecimalGreater | B::DecimalGreaterEq)
            }
            Expr::IfThenElse { then_expr, else_expr, .. } => self.is_truth(then_expr) || self.is_truth(else_expr),
            _ => false,
        }
    }

    fn scalar<'e>(&self, expr: &'e Expr) -> Outcome<Scalar<'e>> {
        if self.will_be_constant(expr) {
            return Ok(Scalar::Value(FilterValue::Bool(true)));
        }
        match expr {
            Expr::GetAttr { expr: of, attr } if is_row(of) => Ok(Scalar::Column(attr)),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                Ok(Scalar::Choice { test: cond, then: then_expr, otherwise: else_expr })
            }
            Expr::ResidualError => Ok(Scalar::Error),
            other => match value(other) {
                Some(value) => Ok(Scalar::Value(value)),
                None => refuse(other, "a row filter compares columns and constants only"),
            },
        }
    }

    /// The truth of something said about a scalar, with choices decided first.
    fn scalar_truth(&self, expr: &Expr, known: &Known, said: &dyn Fn(Scalar<'_>) -> Outcome<Truth>) -> Outcome<Truth> {
        match self.scalar(expr)? {
            Scalar::Choice { test, then, otherwise } => Ok(chosen(
                self.truth(test, known)?,
                self.scalar_truth(then, known, said)?,
                self.scalar_truth(otherwise, known, said)?,
            )),
            Scalar::Error => Ok(Truth::error()),
            scalar => said(scalar),
        }
    }

    fn comparison(&self, whole: &Expr, op: Comparison, left: &Expr, right: &Expr, known: &Known) -> Outcome<Truth> {
        self.scalar_truth(left, known, &|a| {
            self.scalar_truth(right, known, &|b| match (&a, b) {
                (Scalar::Value(a), Scalar::Value(b)) if self.stored => Ok(Truth::constant(*a == b)),
                (Scalar::Value(a), Scalar::Value(b)) => match decided(op, a, &b) {
                    Some(value) => Ok(Truth::constant(value)),
                    None => refuse(whole, "constants of different types are compared"),
                },
                (a, b) => {
                    let columns: Vec<&str> = [a, &b].into_iter().filter_map(column_of).collect();
                    let (left, right) = (term(a), term(&b));
                    Ok(leaf(&columns, known, |is| match is {
                        true => compare(op, left, right),
                        false => opposite(op, left, right),
                    }))
                }
            })
        })
    }

    fn contains(
        &self,
        whole: &Expr,
        elements: &[std::sync::Arc<Expr>],
        sought: &Expr,
        known: &Known,
    ) -> Outcome<Truth> {
        let mut values = BTreeSet::new();
        let mut others = Vec::new();
        for element in elements {
            match self.scalar(element)? {
                Scalar::Value(value) => {
                    values.insert(value);
                }
                _ => others.push(element),
            }
        }
        let kinds: BTreeSet<_> = values.iter().map(kind_name).collect();
        if kinds.len() > 1 && !self.stored {
            return refuse(whole, "a set of different types");
        }
        let mut whole_truth = self.scalar_truth(sought, known, &|sought| match sought {
            Scalar::Column(column) => Ok(leaf(&[column], known, |is| match is {
                true => is_in(column, values.clone()),
                false => not(is_in(column, values.clone())),
            })),
            Scalar::Value(value) => Ok(Truth::constant(values.contains(&value))),
            Scalar::Choice { .. } | Scalar::Error => Ok(Truth::error()),
        })?;
        // Every element is evaluated before the set is looked into.
        for element in others {
            let found = self.comparison(whole, Comparison::Equal, element, sought, known)?;
            let has_value = and([whole_truth.has_value, found.has_value]);
            whole_truth = Truth {
                is_true: and([has_value.clone(), or([whole_truth.is_true, found.is_true])]),
                is_false: and([whole_truth.is_false, found.is_false]),
                has_value,
            };
        }
        Ok(whole_truth)
    }

    fn like(&self, whole: &Expr, of: &Expr, pattern: &[PatternElem], known: &Known) -> Outcome<Truth> {
        let mut parts: Vec<LikePart> = Vec::new();
        for element in pattern {
            match (element, parts.last_mut()) {
                (PatternElem::Wildcard, Some(LikePart::Any)) => {}
                (PatternElem::Wildcard, _) => parts.push(LikePart::Any),
                (PatternElem::Char(c), Some(LikePart::Text(text))) => text.push(*c),
                (PatternElem::Char(c), _) => parts.push(LikePart::Text(c.to_string())),
            }
        }
        self.scalar_truth(of, known, &|scalar| match scalar {
            Scalar::Column(column) => Ok(leaf(&[column], known, |is| match is {
                true => like(column, parts.clone()),
                false => not(like(column, parts.clone())),
            })),
            Scalar::Value(FilterValue::Text(text)) => {
                Ok(Truth::constant(greylag_protocol::filter::is_like(&text, &parts)))
            }
            _ if self.stored => Ok(Truth::constant(true)),
            _ => refuse(whole, "`like` of what is no text"),
        })
    }
}

/// Something about columns: it has a value where none of them is NULL.
fn leaf(columns: &[&str], known: &Known, said: impl FnOnce(bool) -> Shared + Clone) -> Truth {
    let there = || columns.iter().filter(|c| !known.contains(**c)).map(|c| is_not_null(c));
    Truth {
        is_true: and(there().chain([said.clone()(true)])),
        is_false: and(there().chain([said(false)])),
        has_value: and(there()),
    }
}

/// `a && b`.
fn both(a: Truth, b: Truth) -> Truth {
    Truth {
        is_true: and([a.is_true, b.is_true]),
        is_false: and([a.has_value.clone(), or([a.is_false.clone(), b.is_false])]),
        has_value: match b.has_value.as_constant() {
            Some(true) => a.has_value,
            _ => and([a.has_value, or([a.is_false, b.has_value])]),
        },
    }
}

/// `a == b`, of two that are true or false: both are evaluated.
fn same(a: Truth, b: Truth) -> Truth {
    Truth {
        is_true: or([and([a.is_true.clone(), b.is_true.clone()]), and([a.is_false.clone(), b.is_false.clone()])]),
        is_false: or([and([a.is_true, b.is_false]), and([a.is_false, b.is_true])]),
        has_value: and([a.has_value, b.has_value]),
    }
}

/// `if test then a else b`.
fn chosen(test: Truth, a: Truth, b: Truth) -> Truth {
    let choose = |a: Shared, b: Shared| or([and([test.is_true.clone(), a]), and([test.is_false.clone(), b])]);
    let has_value = match (a.has_value.as_constant(), b.has_value.as_constant()) {
        (Some(true), Some(true)) => test.has_value.clone(),
        _ => choose(a.has_value, b.has_value),
    };
    Truth { is_true: choose(a.is_true, b.is_true), is_false: choose(a.is_false, b.is_false), has_value }
}

/// What is known not to be NULL when the expression is true (or false).
fn known_if(expr: &Expr, value: bool, known: &Known) -> Known {
    let mut all = known.clone();
    all.extend(not_null_if(expr, value));
    all
}

fn not_null_if(expr: &Expr, value: bool) -> Known {
    let columns = |exprs: &[&Expr]| -> Known {
        let of = |e: &&Expr| match e {
            Expr::GetAttr { expr, attr } if is_row(expr) => Some(attr.to_string()),
            _ => None,
        };
        exprs.iter().filter_map(of).collect()
    };
    match expr {
        Expr::UnaryOp { op: UnaryOp::Not, expr } => not_null_if(expr, !value),
        Expr::HasAttr { expr, attrs } if is_row(expr) && value && attrs.tail.is_empty() => {
            Known::from([attrs.head.to_string()])
        }
        Expr::GetAttr { .. } => columns(&[expr]),
        Expr::Like { expr, .. } => columns(&[expr]),
        Expr::BinaryOp { op: op @ (BinaryOp::And | BinaryOp::Or), left, right } => {
            let (a, b) = (not_null_if(left, value), not_null_if(right, value));
            match (op, value) {
                (BinaryOp::And, true) | (BinaryOp::Or, false) => a.union(&b).cloned().collect(),
                _ => a.intersection(&b).cloned().collect(),
            }
        }
        Expr::BinaryOp { left, right, .. } => columns(&[left, right]),
        _ => Known::new(),
    }
}

fn column_of<'a>(scalar: &'a Scalar<'_>) -> Option<&'a str> {
    match scalar {
        Scalar::Column(column) => Some(column),
        _ => None,
    }
}

fn term(scalar: &Scalar<'_>) -> Term {
    match scalar {
        Scalar::Column(column) => Term::Column((*column).to_owned()),
        Scalar::Value(value) => Term::Value(value.clone()),
        // Decided before, by `scalar_truth`.
        Scalar::Choice { .. } | Scalar::Error => Term::Value(FilterValue::Bool(false)),
    }
}

fn opposite(op: Comparison, left: Term, right: Term) -> Shared {
    match op {
        Comparison::Equal => compare(Comparison::NotEqual, left, right),
        Comparison::NotEqual => compare(Comparison::Equal, left, right),
        Comparison::Less => compare(Comparison::LessOrEqual, right, left),
        Comparison::LessOrEqual => compare(Comparison::Less, right, left),
    }
}

fn decided(op: Comparison, a: &FilterValue, b: &FilterValue) -> Option<bool> {
    (kind_name(a) == kind_name(b)).then(|| match op {
        Comparison::Equal => a == b,
        Comparison::NotEqual => a != b,
        Comparison::Less => a < b,
        Comparison::LessOrEqual => a <= b,
    })
}

fn kind_name(value: &FilterValue) -> &'static str {
    match value {
        FilterValue::Bool(_) => "bool",
        FilterValue::Integer(_) => "integer",
        FilterValue::Text(_) => "text",
        FilterValue::Decimal(_) => "decimal",
        FilterValue::Instant(_) => "instant",
    }
}

/// A constant, also as partial evaluation writes instants and decimals.
fn value(expr: &Expr) -> Option<FilterValue> {
    let text = |expr: &Expr| match expr {
        Expr::Literal(Literal::String(text)) => Some(text.to_string()),
        _ => None,
    };
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(FilterValue::Bool(*value)),
        Expr::Literal(Literal::Long(value)) => Some(FilterValue::Integer(*value)),
        Expr::Literal(Literal::String(value)) => Some(FilterValue::Text(value.to_string())),
        Expr::UnaryOp { op: UnaryOp::Decimal, expr } => decimal(&text(expr)?).map(FilterValue::Decimal),
        Expr::BinaryOp { op: BinaryOp::Offset, left, right } => match (&**left, &**right) {
            (
                Expr::UnaryOp { op: UnaryOp::Datetime, expr: epoch },
                Expr::UnaryOp { op: UnaryOp::Duration, expr: duration },
            ) if text(epoch)? == "1970-01-01" => {
                text(duration)?.strip_suffix("ms")?.parse().ok().map(FilterValue::Instant)
            }
            _ => None,
        },
        _ => None,
    }
}

/// `-1.25` in units of 10^-4.
fn decimal(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = DECIMAL_SCALE as usize;
    if fraction.is_empty() || fraction.len() > digits || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{fraction:0<digits$}").parse().ok()
}
