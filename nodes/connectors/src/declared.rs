//! The option `types`: what its owner says a column holds where the source itself cannot say it (dates and decimals in
//! CSV, columns without a type in SQLite).
//!
//! `types: orders.o_orderdate=date, orders.o_totalprice=decimal(15,2), "a table"."a.column"=text`
//!
//! A declaration never changes a value: one that does not fit is GL3011, as for any other column.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, TimeUnit};

use crate::options::did_you_mean;

/// Type names that can be declared, `decimal` apart.
const NAMES: [&str; 10] =
    ["boolean", "smallint", "integer", "bigint", "real", "double", "text", "binary", "date", "timestamp"];

/// Table, column and type, in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeclaredTypes(Vec<(String, String, DataType)>);

impl DeclaredTypes {
    /// The error is for people: it says what is wrong and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut types: Vec<(String, String, DataType)> = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (table, after) = name(rest)?;
            let after = expect(after, '.', &table)?;
            let (column, after) = name(after)?;
            let after = expect(after, '=', &column)?;
            let (data_type, after) = data_type(after)?;
            rest = after.trim_start();
            if let Some(next) = rest.strip_prefix([',', ';']) {
                rest = next.trim_start();
            } else if !rest.is_empty() {
                return Err(format!("a comma is missing after the type of `{table}.{column}`"));
            }
            if types.iter().any(|(t, c, _)| *t == table && *c == column) {
                return Err(format!("`{table}.{column}` is declared twice"));
            }
            types.push((table, column, data_type));
        }
        Ok(Self(types))
    }

    /// Exact names first, then without regard to ASCII case.
    pub(crate) fn get(&self, table: &str, column: &str) -> Option<&DataType> {
        let exact = self.0.iter().find(|(t, c, _)| t == table && c == column);
        let folded = || self.0.iter().find(|(t, c, _)| t.eq_ignore_ascii_case(table) && c.eq_ignore_ascii_case(column));
        exact.or_else(folded).map(|(_, _, data_type)| data_type)
    }

    /// The columns that are declared for `table`.
    pub(crate) fn of(&self, table: &str) -> impl Iterator<Item = (&str, &DataType)> {
        let table = table.to_owned();
        self.0
            .iter()
            .filter(move |(t, _, _)| t.eq_ignore_ascii_case(&table))
            .map(|(_, c, data_type)| (c.as_str(), data_type))
    }

    /// A column that is declared for `table` but is not among `columns`.
    pub(crate) fn stray(&self, table: &str, columns: &[&str]) -> Option<&str> {
        self.of(table).map(|(c, _)| c).find(|c| !columns.iter().any(|have| have.eq_ignore_ascii_case(c)))
    }
}

/// A name, bare or in double quotes (doubled inside), and what follows it.
fn name(text: &str) -> Result<(String, &str), String> {
    let text = text.trim_start();
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = quoted.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '"' {
                name.push(c);
            } else if chars.next_if(|(_, next)| *next == '"').is_some() {
                name.push('"');
            } else {
                return Ok((name, quoted[at + 1..].trim_start()));
            }
        }
        return Err("a double quote is not closed".into());
    }
    let end = text.find(['.', '=', ',', ';', '"']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match name.trim_end() {
        "" => Err("a name is missing: write `table.column=type`".into()),
        name => Ok((name.to_owned(), rest)),
    }
}

fn expect<'a>(text: &'a str, mark: char, after: &str) -> Result<&'a str, String> {
    text.strip_prefix(mark).ok_or_else(|| format!("`{mark}` is missing after `{after}`: write `table.column=type`"))
}

fn data_type(text: &str) -> Result<(DataType, &str), String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let data_type = match word.to_ascii_lowercase().as_str() {
        "boolean" | "bool" => DataType::Boolean,
        "smallint" => DataType::Int16,
        "integer" | "int" => DataType::Int32,
        "bigint" => DataType::Int64,
        "real" | "float" => DataType::Float32,
        "double" => DataType::Float64,
        "text" | "varchar" | "string" => DataType::Utf8,
        "binary" | "blob" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" | "datetime" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "decimal" | "numeric" => return decimal(rest),
        _ => return Err(format!("type `{word}` is not known{}", did_you_mean(word, &NAMES))),
    };
    Ok((data_type, rest))
}

fn decimal(text: &str) -> Result<(DataType, &str), String> {
    let wrong = || format!("write `decimal(p,s)` with 1 <= p <= {DECIMAL128_MAX_PRECISION} and 0 <= s <= p");
    let inner = text.trim_start().strip_prefix('(').ok_or_else(wrong)?;
    let (inner, rest) = inner.split_once(')').ok_or_else(wrong)?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let precision: u8 = precision.trim().parse().map_err(|_| wrong())?;
    let scale: u8 = scale.trim().parse().map_err(|_| wrong())?;
    if !(1..=DECIMAL128_MAX_PRECISION).contains(&precision) || scale > precision {
        return Err(wrong());
    }
    Ok((DataType::Decimal128(precision, scale.cast_signed()), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn declarations_are_read_with_their_parentheses_and_quotes() {
        let types = DeclaredTypes::parse(
            " orders.o_orderdate = date, orders.o_totalprice=DECIMAL(15, 2);\n\"a \"\"t\"\"\".\"x.y=z\"=text ,t.n=numeric(9),",
        )
        .unwrap();
        assert_eq!(types.get("orders", "o_orderdate"), Some(&DataType::Date32));
        assert_eq!(types.get("ORDERS", "O_TotalPrice"), Some(&DataType::Decimal128(15, 2)));
        assert_eq!(types.get("a \"t\"", "x.y=z"), Some(&DataType::Utf8));
        assert_eq!(types.get("t", "n"), Some(&DataType::Decimal128(9, 0)));
        assert_eq!(types.get("orders", "o_comment"), None);
        assert_eq!(types.stray("orders", &["O_ORDERDATE"]), Some("o_totalprice"));
        assert_eq!(types.stray("orders", &["o_orderdate", "o_totalprice"]), None);
        assert_eq!(DeclaredTypes::parse("  ").unwrap(), DeclaredTypes::default());
    }

    #[test]
    fn mistakes_are_said() {
        for (text, part) in [
            ("orders", "`.` is missing after `orders`"),
            ("orders.a", "`=` is missing after `a`"),
            ("orders.a=", "type `` is not known"),
            ("orders.a=dat", "did you mean `date`?"),
            ("orders.a=decimal", "write `decimal(p,s)`"),
            ("orders.a=decimal(39,2)", "write `decimal(p,s)`"),
            ("orders.a=decimal(5,6)", "write `decimal(p,s)`"),
            ("t.a=date t.b=date", "a comma is missing"),
            ("t.a=date, t.a=text", "declared twice"),
            ("\"t.a=date", "not closed"),
            (".a=date", "a name is missing"),
        ] {
            let error = DeclaredTypes::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
