//! The table of what may be asked of each dialect: which columns it compares like Arrow does, which functions and
//! aggregates it computes alike. What is not in here stays in DataFusion.
//!
//! Everything said here about a dialect is checked by differential tests: against DataFusion and SQLite in this crate,
//! against PostgreSQL and MariaDB in `connectors` and in the end-to-end tests.

use arrow::datatypes::{DataType, TimeUnit};
use greylag_protocol::schema::{Dialect, NativeColumn};

/// Families of types within which sources compare by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Boolean,
    Signed,
    Unsigned,
    Float,
    Decimal,
    Text,
    Binary,
    Date,
    Timestamp,
    Other,
}

/// How a source's own `=`, `<` and `ORDER BY` on a column agree with DataFusion's on the decoded values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// They agree.
    Native,
    /// Text under a collation. The source's `=` finds at least all equal values; `Bytewise` and `Bytes` of `ir` agree.
    Forced,
    /// Nothing is known: compare nothing.
    Unknown,
}

/// What is known about a value in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traits {
    pub(crate) kind: Kind,
    pub(crate) agreement: Agreement,
    /// Whether the source's NULL is Arrow's NULL, no more and no less.
    pub(crate) null_agrees: bool,
}

impl Traits {
    pub(crate) const NOTHING: Self = Self { kind: Kind::Other, agreement: Agreement::Unknown, null_agrees: false };

    pub(crate) fn native(kind: Kind) -> Self {
        Self { kind, agreement: Agreement::Native, null_agrees: true }
    }
}

/// Widest decimal that survives SQLite's binary floating point.
const SQLITE_DECIMAL_DIGITS_MAX: u8 = 15;

/// PostgreSQL's types whose values decode to text and whose `=` is that of text.
const POSTGRES_TEXT: [&str; 2] = ["text", "character varying"];
/// MySQL's and MariaDB's.
const MYSQL_TEXT: [&str; 6] = ["varchar", "char", "text", "tinytext", "mediumtext", "longtext"];

pub(crate) fn kind(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Boolean => Kind::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Signed,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Kind::Unsigned,
        DataType::Float32 | DataType::Float64 => Kind::Float,
        DataType::Decimal128(_, _) => Kind::Decimal,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Kind::Binary,
        DataType::Date32 => Kind::Date,
        DataType::Timestamp(_, _) => Kind::Timestamp,
        _ => Kind::Other,
    }
}

/// What is known about a column of a source.
pub(crate) fn column(dialect: Dialect, data_type: &DataType, native: Option<&NativeColumn>) -> Traits {
    let kind = kind(data_type);
    if dialect == Dialect::DataFusion {
        return Traits { kind, agreement: Agreement::Native, null_agrees: true };
    }
    let Some(native) = native else { return Traits::NOTHING };
    let trusted = native.order_is_binary && is_comparable(dialect, data_type);
    let agreement = match (kind, trusted) {
        (Kind::Other, _) => Agreement::Unknown,
        (_, true) => Agreement::Native,
        (Kind::Text, false) if collated_text(dialect, &native.type_name) => Agreement::Forced,
        _ => Agreement::Unknown,
    };
    Traits { kind, agreement, null_agrees: dialect == Dialect::Postgres || agreement != Agreement::Unknown }
}

/// Whether literals of the type exist in the dialect and compare with its columns by value.
fn is_comparable(dialect: Dialect, data_type: &DataType) -> bool {
    match (dialect, data_type) {
        (Dialect::DataFusion, _) => true,
        (Dialect::Sqlite, DataType::Decimal128(precision, _)) => *precision <= SQLITE_DECIMAL_DIGITS_MAX,
        // Stored as 0 and 1, as text, or as anything else.
        (Dialect::Sqlite | Dialect::MySql, DataType::Boolean) => false,
        (Dialect::Sqlite, DataType::Timestamp(_, _)) => false,
        (Dialect::Postgres | Dialect::MySql, DataType::Timestamp(unit, _)) => {
            matches!(unit, TimeUnit::Microsecond | TimeUnit::Millisecond | TimeUnit::Second)
        }
        _ => true,
    }
}

/// Whether a text column's own `=` holds for all texts of equal bytes, and its bytes can be had.
fn collated_text(dialect: Dialect, type_name: &str) -> bool {
    let base = type_name.split('(').next().unwrap_or_default().trim().to_ascii_lowercase();
    match dialect {
        Dialect::Postgres => POSTGRES_TEXT.contains(&base.as_str()),
        Dialect::MySql => {
            let base = base.split_whitespace().next().unwrap_or_default();
            MYSQL_TEXT.contains(&base)
        }
        // A declared collation, or an affinity that does not bind: nothing says which.
        Dialect::Sqlite | Dialect::DataFusion => false,
    }
}

/// Whether `ORDER BY` a value is DataFusion's order, NULLs apart.
pub(crate) fn sortable(dialect: Dialect, traits: Traits) -> bool {
    match (dialect, traits.kind) {
        (Dialect::DataFusion, Kind::Other) => false,
        (Dialect::DataFusion, _) => true,
        // NaN and negative zero.
        (_, Kind::Float | Kind::Other | Kind::Boolean) => false,
        // `max_sort_length` cuts what is compared.
        (Dialect::MySql, Kind::Text | Kind::Binary) => false,
        (Dialect::Postgres, Kind::Text) => traits.agreement != Agreement::Unknown,
        _ => traits.agreement == Agreement::Native,
    }
}

/// Whether a source can tell two snapshots of a table from each other (see `Connector::query_by_key`).
pub(crate) fn names_content(dialect: Dialect) -> bool {
    dialect == Dialect::Postgres
}

/// Whether `GROUP BY`, `DISTINCT` and join keys on a value put together what DataFusion puts together.
pub(crate) fn groupable(dialect: Dialect, traits: Traits) -> bool {
    match (dialect, traits.kind) {
        (Dialect::DataFusion, kind) => !matches!(kind, Kind::Other | Kind::Float),
        (_, Kind::Float | Kind::Other) => false,
        (Dialect::Postgres, Kind::Text) => traits.agreement != Agreement::Unknown,
        _ => traits.agreement == Agreement::Native,
    }
}

/// Whether values of the two may be compared with each other.
pub(crate) fn comparable(left: Traits, right: Traits) -> bool {
    left.kind == right.kind
        && left.kind != Kind::Other
        && left.agreement != Agreement::Unknown
        && right.agreement != Agreement::Unknown
}

/// Functions that an edge's DataFusion computes as this one does: same code, no state, no locale, no clock, and an
/// answer for every input.
const FUNCTIONS: [&str; 31] = [
    "abs",
    "ascii",
    "bit_length",
    "btrim",
    "ceil",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "date_part",
    "date_trunc",
    "ends_with",
    "floor",
    "initcap",
    "left",
    "lower",
    "lpad",
    "ltrim",
    "nullif",
    "octet_length",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "upper",
];

/// Whether a scalar function may be pushed.
pub(crate) fn function(dialect: Dialect, name: &str) -> bool {
    dialect == Dialect::DataFusion && FUNCTIONS.contains(&name)
}

/// Aggregates that may be pushed at all; what their arguments must be is in `aggregate`.
pub(crate) fn aggregate(dialect: Dialect, name: &str) -> bool {
    match dialect {
        Dialect::DataFusion => matches!(name, "count" | "sum" | "min" | "max" | "avg"),
        _ => matches!(name, "count" | "sum" | "min" | "max"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(type_name: &str, order_is_binary: bool) -> NativeColumn {
        NativeColumn { type_name: type_name.into(), order_is_binary, distinct: None }
    }

    fn agreement(dialect: Dialect, data_type: DataType, type_name: &str, binary: bool) -> Agreement {
        column(dialect, &data_type, Some(&native(type_name, binary))).agreement
    }

    #[test]
    fn columns_are_trusted_only_as_far_as_their_source_says() {
        use Agreement::{Forced, Native, Unknown};
        use Dialect::{DataFusion, MySql, Postgres, Sqlite};
        let cases = [
            (DataFusion, DataType::Utf8, "Utf8", false, Native),
            (Postgres, DataType::Utf8, "text", false, Forced),
            (Postgres, DataType::Utf8, "text", true, Native),
            (Postgres, DataType::Utf8, "character varying(25)", false, Forced),
            (Postgres, DataType::Utf8, "character(1)", false, Unknown),
            (Postgres, DataType::Utf8, "citext", false, Unknown),
            (Postgres, DataType::Utf8, "mood", false, Unknown),
            (Postgres, DataType::Int32, "integer", true, Native),
            (Postgres, DataType::Int32, "integer", false, Unknown),
            (MySql, DataType::Utf8, "varchar(10)", false, Forced),
            (MySql, DataType::Utf8, "enum('a','b')", false, Unknown),
            (MySql, DataType::Utf8, "json", false, Unknown),
            (MySql, DataType::Boolean, "tinyint(1)", true, Unknown),
            (Sqlite, DataType::Utf8, "TEXT", false, Unknown),
            (Sqlite, DataType::Utf8, "TEXT", true, Native),
            (Sqlite, DataType::Decimal128(15, 2), "DECIMAL(15,2)", true, Native),
            (Sqlite, DataType::Decimal128(16, 2), "DECIMAL(16,2)", true, Unknown),
            (Sqlite, DataType::Boolean, "BOOLEAN", true, Unknown),
        ];
        for (dialect, data_type, type_name, binary, expected) in cases {
            assert_eq!(agreement(dialect, data_type, type_name, binary), expected, "{dialect:?} {type_name} {binary}");
        }
        assert_eq!(column(Sqlite, &DataType::Int64, None), Traits::NOTHING);
    }
}
