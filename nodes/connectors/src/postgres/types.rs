//! PostgreSQL's types and the Arrow types that stand for them in a source's schema.
//!
//! What is not self-evident:
//! - `numeric(p,s)` is `Decimal128(p,s)`; with more than 38 digits, `Decimal128(38,s)`. `numeric` without precision is
//!   `Decimal128(38,10)`. In each case a value that needs more digits, NaN and the infinities are GL3011 when read.
//! - `character(n)` and enum labels, `uuid`, `json` and `jsonb` are text; what their own order and equality are is
//!   said by [`PgType::order_is_binary`].
//! - `interval` keeps months, days and microseconds apart, as PostgreSQL stores it.
//! - a domain is its base type; an array of a basic type is a list.

use std::fmt;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, IntervalUnit, TimeUnit};

/// Scale of a `numeric` without one.
const FREE_NUMERIC_SCALE: i8 = 10;
/// The modifier of a type that has none.
pub(super) const NO_MODIFIER: i32 = -1;

/// A type that the connector can deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PgType {
    Scalar(Scalar),
    Array(Scalar),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// `text` and `character varying`.
    Text,
    /// `character(n)`.
    Bpchar,
    /// The internal type `"char"`.
    Char,
    Name,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    /// Any enum type.
    Enum,
}

/// Oid of a type, oid of its array type, name. From `pg_type.dat`; these never change.
const BASIC: [(u32, u32, Scalar, &str); 21] = [
    (16, 1000, Scalar::Bool, "boolean"),
    (17, 1001, Scalar::Bytea, "bytea"),
    (18, 1002, Scalar::Char, "\"char\""),
    (19, 1003, Scalar::Name, "name"),
    (20, 1016, Scalar::Int8, "bigint"),
    (21, 1005, Scalar::Int2, "smallint"),
    (23, 1007, Scalar::Int4, "integer"),
    (25, 1009, Scalar::Text, "text"),
    (114, 199, Scalar::Json, "json"),
    (700, 1021, Scalar::Float4, "real"),
    (701, 1022, Scalar::Float8, "double precision"),
    (1042, 1014, Scalar::Bpchar, "character"),
    (1043, 1015, Scalar::Text, "character varying"),
    (1082, 1182, Scalar::Date, "date"),
    (1083, 1183, Scalar::Time, "time"),
    (1114, 1115, Scalar::Timestamp, "timestamp"),
    (1184, 1185, Scalar::Timestamptz, "timestamp with time zone"),
    (1186, 1187, Scalar::Interval, "interval"),
    (1700, 1231, Scalar::Numeric, "numeric"),
    (2950, 2951, Scalar::Uuid, "uuid"),
    (3802, 3807, Scalar::Jsonb, "jsonb"),
];

impl Scalar {
    pub(super) fn of_oid(oid: u32) -> Option<Self> {
        BASIC.iter().find(|(scalar, ..)| *scalar == oid).map(|(_, _, scalar, _)| *scalar)
    }

    fn arrow(self, modifier: i32) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Numeric => decimal(modifier),
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Self::Text
            | Self::Bpchar
            | Self::Char
            | Self::Name
            | Self::Uuid
            | Self::Json
            | Self::Jsonb
            | Self::Enum => DataType::Utf8,
        }
    }
}

impl PgType {
    /// A built-in type by its oid. Enums have oids of their own in every database.
    pub(super) fn of_oid(oid: u32) -> Option<Self> {
        BASIC.iter().find_map(|(scalar_oid, array_oid, scalar, _)| match oid {
            _ if oid == *scalar_oid => Some(Self::Scalar(*scalar)),
            _ if oid == *array_oid => Some(Self::Array(*scalar)),
            _ => None,
        })
    }

    /// The Arrow type of a column. `modifier` is PostgreSQL's `atttypmod`.
    pub(super) fn arrow(self, modifier: i32) -> DataType {
        match self {
            Self::Scalar(scalar) => scalar.arrow(modifier),
            Self::Array(scalar) => DataType::new_list(scalar.arrow(modifier), true),
        }
    }

    /// Whether PostgreSQL's `=`, `<` and `ORDER BY` agree with Arrow's on the delivered values, given whether the
    /// column's collation compares bytes.
    ///
    /// `numeric`, `date` and the timestamps agree on every value that can be delivered at all. Floats do not: 0.0 and
    /// -0.0 are one value in PostgreSQL. `character(n)` ignores trailing blanks, intervals compare 30 days as a month,
    /// and a literal compared with `uuid`, `json`, `"char"` or an enum is first converted to that type.
    pub(super) fn order_is_binary(self, collation_is_binary: bool) -> bool {
        match self {
            Self::Scalar(scalar) => match scalar {
                Scalar::Bool | Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Numeric => true,
                Scalar::Date | Scalar::Time | Scalar::Timestamp | Scalar::Timestamptz | Scalar::Bytea => true,
                Scalar::Text | Scalar::Name => collation_is_binary,
                Scalar::Float4 | Scalar::Float8 | Scalar::Bpchar | Scalar::Char | Scalar::Interval => false,
                Scalar::Uuid | Scalar::Json | Scalar::Jsonb | Scalar::Enum => false,
            },
            Self::Array(_) => false,
        }
    }
}

impl fmt::Display for PgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Scalar(scalar) | Self::Array(scalar)) = self;
        let name = BASIC.iter().find(|(_, _, basic, _)| basic == scalar).map_or("enum", |(.., name)| name);
        match self {
            Self::Scalar(_) => f.write_str(name),
            Self::Array(_) => write!(f, "{name}[]"),
        }
    }
}

/// `numeric`'s modifier holds precision and, in 11 bits with sign, scale.
fn decimal(modifier: i32) -> DataType {
    let widest = DECIMAL128_MAX_PRECISION;
    if modifier < 4 {
        return DataType::Decimal128(widest, FREE_NUMERIC_SCALE);
    }
    let (precision, scale) = (((modifier - 4) >> 16) & 0xffff, (((modifier - 4) & 0x7ff) ^ 1024) - 1024);
    // A negative scale means trailing zeros before the point; a scale above the precision, zeros after it.
    let (precision, scale) = if scale < 0 { (precision - scale, 0) } else { (precision.max(scale), scale) };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=DECIMAL128_MAX_PRECISION), Ok(scale)) => DataType::Decimal128(precision, scale),
        (_, Ok(scale)) if scale <= widest.cast_signed() => DataType::Decimal128(widest, scale),
        _ => DataType::Decimal128(widest, widest.cast_signed()),
    }
}

/// A field of a table's schema.
pub(super) fn field(name: &str, pg_type: PgType, modifier: i32, nullable: bool) -> Field {
    Field::new(name, pg_type.arrow(modifier), nullable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `numerictypmodin` makes it.
    fn modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn numeric_modifiers() {
        for (precision, scale, expected) in [
            (15, 2, (15, 2)),
            (38, 0, (38, 0)),
            (1000, 4, (38, 4)),
            (40, 2, (38, 2)),
            (3, 5, (5, 5)),
            (2, -3, (5, 0)),
            (500, 500, (38, 38)),
        ] {
            let (p, s) = expected;
            assert_eq!(decimal(modifier(precision, scale)), DataType::Decimal128(p, s), "numeric({precision},{scale})");
        }
        assert_eq!(decimal(NO_MODIFIER), DataType::Decimal128(38, 10));
    }

    #[test]
    fn oids_are_known_both_ways() {
        assert_eq!(PgType::of_oid(1043), Some(PgType::Scalar(Scalar::Text)));
        assert_eq!(PgType::of_oid(1016), Some(PgType::Array(Scalar::Int8)));
        assert_eq!(PgType::of_oid(790), None, "money");
        assert_eq!(PgType::Array(Scalar::Int8).to_string(), "bigint[]");
        assert_eq!(PgType::Scalar(Scalar::Enum).to_string(), "enum");
    }
}
