//! MySQL's and MariaDB's types and the Arrow types that stand for them in a source's schema.
//!
//! What is not self-evident:
//! - `TINYINT(1)`, which some read as a boolean, holds -128 to 127 and is `Int8`.
//! - `DECIMAL(p,s)` is `Decimal128(p,s)`; with more than 38 digits `Decimal128(38,s)`, and a value that needs more is
//!   GL3011.
//! - `DATETIME` has no time zone, `TIMESTAMP` is UTC. Zero dates (`0000-00-00`, `2024-01-00`) are GL3011.
//! - `TIME` outside of 00:00:00 to 23:59:59.999999 is GL3011. `BIT(n)` is `UInt64`, `YEAR` is `Int16`.
//! - `ENUM`, `SET`, `JSON`, `UUID` and the network addresses are text.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, TimeUnit};
use mysql_async::{
    Column,
    consts::{ColumnFlags, ColumnType},
};

/// Character set of bytes that are no text.
const BINARY_CHARACTER_SET: u16 = 63;

/// What a result's column carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Any of the integers and `YEAR`.
    Integer,
    Float,
    Double,
    Decimal,
    Date,
    /// `DATETIME`: no time zone.
    Datetime,
    /// `TIMESTAMP`: UTC.
    Timestamp,
    Time,
    Bit,
    Text,
    Bytes,
    /// The literal NULL.
    Null,
}

impl Wire {
    /// `None` for types that cannot be delivered.
    pub(super) fn of(column: &Column) -> Option<Self> {
        use ColumnType as T;
        Some(match column.column_type() {
            T::MYSQL_TYPE_TINY
            | T::MYSQL_TYPE_SHORT
            | T::MYSQL_TYPE_INT24
            | T::MYSQL_TYPE_LONG
            | T::MYSQL_TYPE_LONGLONG
            | T::MYSQL_TYPE_YEAR => Self::Integer,
            T::MYSQL_TYPE_FLOAT => Self::Float,
            T::MYSQL_TYPE_DOUBLE => Self::Double,
            T::MYSQL_TYPE_DECIMAL | T::MYSQL_TYPE_NEWDECIMAL => Self::Decimal,
            T::MYSQL_TYPE_DATE | T::MYSQL_TYPE_NEWDATE => Self::Date,
            T::MYSQL_TYPE_DATETIME | T::MYSQL_TYPE_DATETIME2 => Self::Datetime,
            T::MYSQL_TYPE_TIMESTAMP | T::MYSQL_TYPE_TIMESTAMP2 => Self::Timestamp,
            T::MYSQL_TYPE_TIME | T::MYSQL_TYPE_TIME2 => Self::Time,
            T::MYSQL_TYPE_BIT => Self::Bit,
            T::MYSQL_TYPE_JSON | T::MYSQL_TYPE_ENUM | T::MYSQL_TYPE_SET => Self::Text,
            T::MYSQL_TYPE_STRING
            | T::MYSQL_TYPE_VAR_STRING
            | T::MYSQL_TYPE_VARCHAR
            | T::MYSQL_TYPE_TINY_BLOB
            | T::MYSQL_TYPE_MEDIUM_BLOB
            | T::MYSQL_TYPE_LONG_BLOB
            | T::MYSQL_TYPE_BLOB => {
                let is_text = column.character_set() != BINARY_CHARACTER_SET
                    || column.flags().intersects(ColumnFlags::ENUM_FLAG | ColumnFlags::SET_FLAG);
                if is_text { Self::Text } else { Self::Bytes }
            }
            T::MYSQL_TYPE_NULL => Self::Null,
            _ => return None,
        })
    }
}

/// A column as `information_schema.COLUMNS` describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// `DATA_TYPE`, in lower case.
    pub data_type: String,
    /// `COLUMN_TYPE`, in lower case.
    pub column_type: String,
    pub precision: Option<i64>,
    pub scale: Option<i64>,
    pub character_set: String,
    pub collation: String,
}

impl Declared {
    /// `None` for types that cannot be delivered.
    pub(super) fn arrow(&self) -> Option<DataType> {
        let unsigned = self.column_type.contains("unsigned") || self.column_type.contains("zerofill");
        Some(match (self.data_type.as_str(), unsigned) {
            ("tinyint", false) => DataType::Int8,
            ("tinyint", true) => DataType::UInt8,
            ("smallint", false) => DataType::Int16,
            ("smallint", true) => DataType::UInt16,
            ("mediumint" | "int" | "integer", false) => DataType::Int32,
            ("mediumint" | "int" | "integer", true) => DataType::UInt32,
            ("bigint", false) => DataType::Int64,
            ("bigint", true) => DataType::UInt64,
            ("float", _) => DataType::Float32,
            ("double", _) => DataType::Float64,
            ("decimal", _) => self.decimal()?,
            ("date", _) => DataType::Date32,
            ("datetime", _) => DataType::Timestamp(TimeUnit::Microsecond, None),
            ("timestamp", _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ("time", _) => DataType::Time64(TimeUnit::Microsecond),
            ("year", _) => DataType::Int16,
            ("bit", _) => DataType::UInt64,
            ("char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext", _) => DataType::Utf8,
            ("enum" | "set" | "json" | "uuid" | "inet4" | "inet6", _) => DataType::Utf8,
            ("binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob", _) => DataType::Binary,
            _ => return None,
        })
    }

    fn decimal(&self) -> Option<DataType> {
        let (precision, scale) = (self.precision?, i8::try_from(self.scale?).ok()?);
        let precision = u8::try_from(precision).ok()?.min(DECIMAL128_MAX_PRECISION);
        (scale <= precision.cast_signed()).then_some(DataType::Decimal128(precision, scale))
    }

    /// Whether `=`, `<` and `ORDER BY` agree with Arrow's on the delivered values.
    ///
    /// Text does only under a collation that compares code points and does not pad: the plain `_bin` ones take `'a'` and
    /// `'a '` for equal. Floats do not (0.0 and -0.0 are one value); `YEAR` reads two-digit numbers as years; a literal
    /// compared with `ENUM`, `SET`, `JSON`, `BIT`, `TIME` or an address is first converted to that type.
    pub(super) fn order_is_binary(&self) -> bool {
        match self.data_type.as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "decimal" => true,
            "date" | "datetime" | "timestamp" => true,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => true,
            "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                matches!(self.character_set.as_str(), "utf8mb4" | "utf8mb3" | "utf8" | "ascii")
                    && (self.collation.ends_with("_nopad_bin") || self.collation == "utf8mb4_0900_bin")
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn declared(data_type: &str, column_type: &str) -> Declared {
        Declared { data_type: data_type.into(), column_type: column_type.into(), ..Declared::default() }
    }

    #[test]
    fn integers_keep_their_sign_and_width() {
        assert_eq!(declared("tinyint", "tinyint(1)").arrow(), Some(DataType::Int8));
        assert_eq!(declared("int", "int(10) unsigned").arrow(), Some(DataType::UInt32));
        assert_eq!(declared("bigint", "bigint(20) unsigned zerofill").arrow(), Some(DataType::UInt64));
        assert_eq!(declared("geometry", "geometry").arrow(), None);
    }

    #[test]
    fn decimals_are_bounded_by_38_digits() {
        for (precision, scale, expected) in [(15, 2, Some((15, 2))), (65, 2, Some((38, 2))), (65, 38, Some((38, 38)))] {
            let column = Declared { precision: Some(precision), scale: Some(scale), ..declared("decimal", "") };
            assert_eq!(column.arrow(), expected.map(|(p, s)| DataType::Decimal128(p, s)));
        }
    }

    #[test]
    fn only_collations_without_padding_are_binary() {
        let varchar = |character_set: &str, collation: &str| Declared {
            character_set: character_set.into(),
            collation: collation.into(),
            ..declared("varchar", "varchar(9)")
        };
        assert!(varchar("utf8mb4", "utf8mb4_nopad_bin").order_is_binary());
        assert!(varchar("utf8mb4", "utf8mb4_0900_bin").order_is_binary());
        assert!(!varchar("utf8mb4", "utf8mb4_bin").order_is_binary());
        assert!(!varchar("utf8mb4", "utf8mb4_general_ci").order_is_binary());
        assert!(!varchar("latin1", "latin1_nopad_bin").order_is_binary());
    }
}
