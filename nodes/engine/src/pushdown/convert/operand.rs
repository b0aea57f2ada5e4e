//! What may stand on either side of a comparison at a foreign source: a column, perhaps under casts that change no value,
//! or a literal.

use arrow::datatypes::DataType;
use datafusion::{common::ScalarValue, logical_expr::Expr};

use super::{BaseColumn, Scope};
use crate::pushdown::capability::{Kind, kind};

#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    Column(&'a BaseColumn),
    /// Never NULL.
    Literal(&'a ScalarValue),
}

/// The expression as an operand, if it is one.
pub(crate) fn operand<'a>(scope: Scope<'a>, expr: &'a Expr) -> Option<Operand<'a>> {
    match expr {
        Expr::Alias(alias) => operand(scope, &alias.expr),
        Expr::Column(column) => scope.find(column).map(Operand::Column),
        Expr::Literal(value, _) if !value.is_null() => Some(Operand::Literal(value)),
        Expr::Cast(cast) => match operand(scope, &cast.expr)? {
            Operand::Column(base) if keeps_value(innermost(scope, &cast.expr)?, cast.field.data_type()) => {
                Some(Operand::Column(base))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Type of a column under casts.
fn innermost<'a>(scope: Scope<'a>, expr: &'a Expr) -> Option<&'a DataType> {
    match expr {
        Expr::Alias(alias) => innermost(scope, &alias.expr),
        Expr::Column(column) => scope.find(column).map(|base| base.field.data_type()),
        Expr::Cast(cast) => Some(cast.field.data_type()),
        _ => None,
    }
}

/// Whether a cast turns every value into the same value of the same family.
pub(crate) fn keeps_value(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        _ if from == to => true,
        (DataType::Decimal128(p, s), DataType::Decimal128(wider, finer)) => {
            finer >= s && i16::from(*wider) - i16::from(*finer) >= i16::from(*p) - i16::from(*s)
        }
        _ => match (kind(from), kind(to)) {
            (Kind::Text, Kind::Text) | (Kind::Binary, Kind::Binary) => true,
            (Kind::Signed, Kind::Signed) | (Kind::Unsigned, Kind::Unsigned) | (Kind::Float, Kind::Float) => {
                from.primitive_width() <= to.primitive_width()
            }
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_casts_that_keep_every_value_are_looked_through() {
        use DataType::{Date32, Decimal128, Float32, Float64, Int32, Int64, UInt32, Utf8, Utf8View};
        for (from, to, keeps) in [
            (Int32, Int64, true),
            (Int64, Int32, false),
            (UInt32, Int64, false),
            (Int64, Float64, false),
            (Float32, Float64, true),
            (Utf8, Utf8View, true),
            (Utf8, Date32, false),
            (Decimal128(15, 2), Decimal128(22, 2), true),
            (Decimal128(15, 2), Decimal128(15, 4), false),
            (Decimal128(15, 2), Decimal128(17, 4), true),
            (Decimal128(15, 2), Decimal128(20, 1), false),
        ] {
            assert_eq!(keeps_value(&from, &to), keeps, "{from} {to}");
        }
    }
}
