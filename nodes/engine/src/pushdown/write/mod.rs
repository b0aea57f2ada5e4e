//! SQL out of the small tree of `ir`, in a source's own dialect. It writes exactly what it is given: what may be given
//! is decided in `capability` and `convert`, with [`literal`] telling which values a dialect can spell.

mod datafusion;
#[cfg(test)]
mod literal_test;
mod mysql;
mod postgres;
mod select;
mod sqlite;
mod values;

use ::datafusion::common::ScalarValue;
use arrow::datatypes::DataType;
use greylag_protocol::{MeshError, Result, schema::Dialect};

use super::ir::{OrderKey, Select};

/// Name of the column that stands for rows without columns.
pub(crate) const ROW_MARK: &str = "one";

/// The `SELECT` as text.
pub(crate) fn sql(dialect: Dialect, select: &Select) -> Result<String> {
    select::write(grammar(dialect), select)
        .ok_or_else(|| MeshError::internal(format!("a pushed-down part cannot be written for {dialect:?}")))
}

/// A value as a literal that compares by value with columns of its kind, or nothing if the dialect has none.
pub(crate) fn literal(dialect: Dialect, value: &ScalarValue) -> Option<String> {
    grammar(dialect).literal(value)
}

/// Whether a text is spelled in plain quotes everywhere: printable ASCII without a backslash.
pub(crate) fn is_plain_text(value: &ScalarValue) -> bool {
    values::text(value).is_some_and(mysql::is_plain)
}

/// The text of a text value of any width.
pub(crate) fn text_of(value: &ScalarValue) -> Option<&str> {
    values::text(value)
}

fn grammar(dialect: Dialect) -> &'static dyn Grammar {
    match dialect {
        Dialect::DataFusion => &datafusion::DataFusion,
        Dialect::Sqlite => &sqlite::Sqlite,
        Dialect::Postgres => &postgres::Postgres,
        Dialect::MySql => &mysql::MySql,
    }
}

/// Where dialects differ. `None` is "this dialect has no such thing": a mistake of whoever built the tree, except for
/// literals.
trait Grammar: Sync {
    fn quote(&self, name: &str) -> String {
        values::quoted(name, '"')
    }

    fn literal(&self, value: &ScalarValue) -> Option<String>;

    /// The row mark's value, as a 64-bit integer.
    fn one(&self) -> &'static str {
        "1"
    }

    fn cast(&self, scalar: &str, to: &DataType) -> Option<String>;

    /// `TRY_CAST`.
    fn try_cast(&self, _scalar: &str, _to: &DataType) -> Option<String> {
        None
    }

    /// A text that is equal by bytes only, and a literal to compare with it.
    fn bytewise(&self, _text: &str) -> Option<String> {
        None
    }

    fn bytewise_literal(&self, value: &ScalarValue) -> Option<String> {
        self.literal(value)
    }

    /// The UTF-8 bytes of a text, and a literal to compare with them.
    fn bytes(&self, _text: &str) -> Option<String> {
        None
    }

    fn bytes_literal(&self, _value: &ScalarValue) -> Option<String> {
        None
    }

    /// The left side of a LIKE in which case and every character count.
    fn like_text(&self, text: &str) -> Option<String>;

    fn contains(&self, _text: &str, _needle: &str) -> Option<String> {
        None
    }

    /// One key of ORDER BY; `scalar` is written already.
    fn order(&self, scalar: &str, key: &OrderKey) -> String {
        let direction = if key.descending { "DESC" } else { "ASC" };
        let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
        format!("{scalar} {direction} NULLS {nulls}")
    }

    /// Whether expressions beyond comparisons may be written.
    fn is_datafusion(&self) -> bool {
        false
    }
}
