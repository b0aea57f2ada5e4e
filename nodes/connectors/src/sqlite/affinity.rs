//! From a column's declared type to the Arrow type that its values are read as.
//!
//! SQLite derives from the declared type only an *affinity*, a preference in which values are stored; any value can be
//! stored in any column (<https://www.sqlite.org/datatype3.html>). The Arrow type follows the words of the declaration,
//! and a stored value that does not fit it is refused when it is read. What a declaration does not say is not guessed:
//! such a column is unsupported until its owner declares a type in the option `types`.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, TimeUnit};

/// SQLite's five affinities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// SQLite's own rules, in its own order (datatype3.html, 3.1).
    pub(super) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.trim().is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// The Arrow type of a column declared so; none where the declaration does not say it.
pub(super) fn arrow_type(declared: &str) -> Option<DataType> {
    let (words, arguments) = split(declared);
    match Affinity::of(declared) {
        // `POINT`, `INTERVAL` and `FLOATING POINT` have integer affinity by accident of their letters.
        Affinity::Integer => words.split_whitespace().any(is_integer_word).then_some(DataType::Int64),
        Affinity::Text => Some(DataType::Utf8),
        Affinity::Blob if declared.trim().is_empty() => None,
        Affinity::Blob => Some(DataType::Binary),
        Affinity::Real => Some(DataType::Float64),
        Affinity::Numeric => match words.as_str() {
            "BOOL" | "BOOLEAN" => Some(DataType::Boolean),
            "DATE" => Some(DataType::Date32),
            "DATETIME" | "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" => {
                Some(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            "BINARY" | "VARBINARY" => Some(DataType::Binary),
            "DECIMAL" | "NUMERIC" | "DEC" | "NUMBER" => match arguments {
                // Without digits there is no scale to hold to, and what SQLite stores is an integer or a double.
                None => Some(DataType::Float64),
                Some(arguments) => decimal(arguments),
            },
            _ => None,
        },
    }
}

/// Upper-case words before the parenthesis, and what is inside it.
fn split(declared: &str) -> (String, Option<&str>) {
    let (words, arguments) = match declared.split_once('(') {
        Some((words, rest)) => (words, Some(rest.split_once(')').map_or(rest, |(inside, _)| inside))),
        None => (declared, None),
    };
    (words.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase(), arguments)
}

fn is_integer_word(word: &str) -> bool {
    matches!(
        word,
        "INT"
            | "INTEGER"
            | "TINYINT"
            | "SMALLINT"
            | "MEDIUMINT"
            | "BIGINT"
            | "INT2"
            | "INT4"
            | "INT8"
            | "INT16"
            | "INT32"
            | "INT64"
    )
}

fn decimal(arguments: &str) -> Option<DataType> {
    let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
    let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    ((1..=DECIMAL128_MAX_PRECISION).contains(&precision) && scale <= precision)
        .then_some(DataType::Decimal128(precision, scale.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_become_the_types_they_say() {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (declared, expected) in [
            ("INTEGER", Some(DataType::Int64)),
            ("unsigned big int", Some(DataType::Int64)),
            ("UNSIGNED BIG INT", Some(DataType::Int64)),
            ("bigint(20)", Some(DataType::Int64)),
            ("VARCHAR(25)", Some(DataType::Utf8)),
            ("NATIVE CHARACTER(70)", Some(DataType::Utf8)),
            ("text", Some(DataType::Utf8)),
            ("CLOB", Some(DataType::Utf8)),
            ("BLOB", Some(DataType::Binary)),
            ("VARBINARY(16)", Some(DataType::Binary)),
            ("DOUBLE PRECISION", Some(DataType::Float64)),
            ("float", Some(DataType::Float64)),
            ("REAL", Some(DataType::Float64)),
            ("DECIMAL(15,2)", Some(DataType::Decimal128(15, 2))),
            ("numeric( 10 , 5 )", Some(DataType::Decimal128(10, 5))),
            ("DECIMAL(9)", Some(DataType::Decimal128(9, 0))),
            ("NUMERIC", Some(DataType::Float64)),
            ("DECIMAL(60,2)", None),
            ("DECIMAL(5,6)", None),
            ("DATE", Some(DataType::Date32)),
            ("datetime", Some(timestamp.clone())),
            ("TIMESTAMP", Some(timestamp)),
            ("BOOLEAN", Some(DataType::Boolean)),
            ("POINT", None),
            ("FLOATING POINT", None),
            ("STRING", None),
            ("JSON", None),
            ("TIME", None),
            ("ANY", None),
            ("", None),
        ] {
            assert_eq!(arrow_type(declared), expected, "{declared}");
        }
    }

    #[test]
    fn affinities_follow_the_documented_table() {
        for (declared, affinity) in [
            ("CHARINT", Affinity::Integer),
            ("FLOATING POINT", Affinity::Integer),
            ("VARCHAR(255)", Affinity::Text),
            ("BLOB", Affinity::Blob),
            ("", Affinity::Blob),
            ("DOUBLE", Affinity::Real),
            ("DECIMAL(10,5)", Affinity::Numeric),
            ("STRING", Affinity::Numeric),
            ("DATE", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared), affinity, "{declared}");
        }
    }
}
