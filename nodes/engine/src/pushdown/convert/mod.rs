//! From DataFusion's expressions to the small tree of `ir`, as far as the source is known to agree. Everything here
//! answers `None` for "stays local", and never guesses.
//!
//! A condition has two forms. The *exact* one is true, false or unknown for the same rows as DataFusion's. The *loose*
//! one is true at least for every row for which DataFusion's is; it is cheaper where exactness has a price at the
//! source, and good wherever DataFusion checks the condition again.

mod condition;
mod like;
mod native;
mod operand;

use arrow::datatypes::FieldRef;
use datafusion::{common::Column, logical_expr::Expr};
use greylag_protocol::schema::Dialect;

use super::{capability::Traits, ir::Scalar};

pub(crate) use condition::columns as compare_columns;
pub(crate) use native::scalar as native_scalar;
pub(crate) use operand::{Operand, operand};

/// Deepest expression that is looked into: parsers of the sources' SQL have limits too, DataFusion's one of 50.
pub(crate) const DEPTH_MAX: usize = 16;
/// Most values of an IN list, parts of a condition and conditions of a `SELECT` that are sent.
pub(crate) const PARTS_MAX: usize = 500;

/// A column that a `SELECT` under construction can use.
#[derive(Debug, Clone)]
pub(crate) struct BaseColumn {
    /// How expressions name it while the `SELECT` is built.
    pub(crate) column: Column,
    pub(crate) field: FieldRef,
    pub(crate) scalar: Scalar,
    pub(crate) traits: Traits,
    pub(crate) distinct: Option<u64>,
}

/// Everything that an expression can refer to.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) columns: &'a [BaseColumn],
}

impl<'a> Scope<'a> {
    pub(crate) fn find(&self, column: &Column) -> Option<&'a BaseColumn> {
        self.columns.iter().find(|base| base.column == *column)
    }
}

/// A condition that the source can check.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pushable {
    pub(crate) loose: Scalar,
    pub(crate) exact: Option<Scalar>,
    /// Guess at the part of rows that pass.
    pub(crate) selectivity: f64,
}

impl Pushable {
    fn exact(scalar: Scalar, selectivity: f64) -> Self {
        Self { loose: scalar.clone(), exact: Some(scalar), selectivity }
    }

    /// Whether DataFusion need not check it again even in its loose form.
    pub(crate) fn loose_is_exact(&self) -> bool {
        self.exact.as_ref() == Some(&self.loose)
    }
}

/// The condition, if the source can check it.
pub(crate) fn condition(scope: Scope<'_>, expr: &Expr) -> Option<Pushable> {
    match scope.dialect {
        Dialect::DataFusion => native::condition(scope, expr),
        _ => condition::condition(scope, expr, 0),
    }
}
