//! Rows and distinct values, at a bounded cost: from `ANALYZE` where it has been run, else by counting a little.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::{keys::Index, schema::Table};

/// Rows counted one by one before an estimate is taken instead. Some milliseconds.
const COUNTED_ROWS_MAX: u64 = 100_000;

#[derive(Default)]
pub(super) struct Statistics {
    pub(super) rows: Option<u64>,
    /// By column.
    pub(super) distinct: BTreeMap<String, u64>,
}

pub(super) fn statistics(connection: &Connection, table: &Table, indexes: &[Index]) -> rusqlite::Result<Statistics> {
    let mut statistics = Statistics::default();
    // Counting a view runs it, at any cost.
    if table.view {
        return Ok(statistics);
    }
    for (index, figures) in analysed(connection, table)? {
        statistics.rows = statistics.rows.max(figures.first().copied());
        let (Some(index), [rows, equal, ..]) = (indexes.iter().find(|i| Some(&i.name) == index.as_ref()), &figures[..])
        else {
            continue;
        };
        if let (Some(Some(column)), false) = (index.columns.first(), index.partial) {
            statistics.distinct.insert(column.clone(), rows.div_ceil((*equal).max(1)));
        }
    }
    if statistics.rows.is_none() {
        statistics.rows = Some(counted(connection, table)?);
    }
    for index in indexes.iter().filter(|index| index.unique && !index.partial) {
        if let ([Some(column)], Some(rows)) = (&index.columns[..], statistics.rows) {
            statistics.distinct.entry(column.clone()).or_insert(rows);
        }
    }
    Ok(statistics)
}

/// What `ANALYZE` left: by index (none for the table itself), the number of rows, then the mean number of rows that
/// agree on the first column, on the first two, and so on (<https://www.sqlite.org/fileformat2.html#stat1tab>).
fn analysed(connection: &Connection, table: &Table) -> rusqlite::Result<Vec<(Option<String>, Vec<u64>)>> {
    let there: Option<i64> = connection
        .query_row("SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_stat1'", [], |row| row.get(0))
        .optional()?;
    if there.is_none() {
        return Ok(Vec::new());
    }
    let mut statement = connection
        .prepare("SELECT idx, stat FROM main.sqlite_stat1 WHERE tbl = ?1 AND typeof(stat) = 'text' ORDER BY idx")?;
    let rows = statement.query_map([&table.name], |row| {
        let figures: String = row.get(1)?;
        Ok((row.get(0)?, figures.split(' ').map_while(|figure| figure.parse().ok()).collect()))
    })?;
    rows.collect()
}

/// Exact up to [`COUNTED_ROWS_MAX`]; beyond it the span of row numbers, which deleted rows make too large, or for want
/// of row numbers the bound itself.
fn counted(connection: &Connection, table: &Table) -> rusqlite::Result<u64> {
    let name = quoted(&table.name);
    let one = |sql: String| connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0));
    let rows = one(format!("SELECT count(*) FROM (SELECT 1 FROM main.{name} LIMIT {COUNTED_ROWS_MAX})"))?;
    let rows = rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or_default();
    if rows < COUNTED_ROWS_MAX || table.without_rowid {
        return Ok(rows);
    }
    // Fails where a column has taken the name `rowid`.
    let (first, last) =
        (one(format!("SELECT min(rowid) FROM main.{name}")), one(format!("SELECT max(rowid) FROM main.{name}")));
    match (first, last) {
        (Ok(Some(first)), Ok(Some(last))) => Ok(last.abs_diff(first).saturating_add(1).max(rows)),
        _ => Ok(rows),
    }
}

/// An identifier as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
