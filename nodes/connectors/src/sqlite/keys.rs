//! Primary keys and unique sets, as far as they hold for the values that are delivered.
//!
//! SQLite's uniqueness is of stored values, and it lets NULLs into most primary keys. A set is told only if its columns
//! cannot be NULL and two different stored values are never delivered as the same one.

use arrow::datatypes::DataType;
use rusqlite::Connection;

use super::{
    affinity::Affinity,
    schema::{Column, Table},
};

/// One index.
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    /// It backs the primary key.
    pub(super) primary: bool,
    /// It leaves rows out.
    pub(super) partial: bool,
    /// Key columns in order; none for an expression.
    pub(super) columns: Vec<Option<String>>,
}

pub(super) fn indexes(connection: &Connection, table: &Table) -> rusqlite::Result<Vec<Index>> {
    let mut list = connection
        .prepare("SELECT name, \"unique\", origin = 'pk', partial FROM pragma_index_list(?1, 'main') ORDER BY seq")?;
    let mut parts =
        connection.prepare("SELECT name FROM pragma_index_xinfo(?1, 'main') WHERE key = 1 ORDER BY seqno")?;
    let rows = list.query_map([&table.name], |row| {
        Ok(Index {
            name: row.get(0)?,
            unique: row.get(1)?,
            primary: row.get(2)?,
            partial: row.get(3)?,
            columns: Vec::new(),
        })
    })?;
    let mut indexes: Vec<Index> = rows.collect::<rusqlite::Result<_>>()?;
    for index in &mut indexes {
        let names = parts.query_map([&index.name], |row| row.get(0))?;
        index.columns = names.collect::<rusqlite::Result<_>>()?;
    }
    Ok(indexes)
}

/// The primary key, in key order.
pub(super) fn primary(columns: &[Column]) -> Vec<String> {
    let mut key: Vec<&Column> = columns.iter().filter(|column| column.key > 0).collect();
    key.sort_by_key(|column| column.key);
    if key.iter().all(|column| identifies(column)) {
        key.into_iter().map(|column| column.name.clone()).collect()
    } else {
        Vec::new()
    }
}

/// Further unique sets, sorted.
pub(super) fn unique(columns: &[Column], indexes: &[Index]) -> Vec<Vec<String>> {
    let holds = |name: &String| columns.iter().any(|column| column.name == *name && identifies(column));
    let mut sets: Vec<Vec<String>> = indexes
        .iter()
        .filter(|index| index.unique && !index.primary && !index.partial)
        .filter_map(|index| index.columns.iter().cloned().collect::<Option<Vec<String>>>())
        .filter(|names| !names.is_empty() && names.iter().all(holds))
        .collect();
    sets.sort();
    sets.dedup();
    sets
}

/// Never NULL, and different stored values stay different.
fn identifies(column: &Column) -> bool {
    let Some(data_type) = &column.data_type else { return false };
    column.not_null
        && match data_type {
            DataType::Timestamp(..) => false,
            DataType::Decimal128(..) => {
                matches!(column.affinity, Affinity::Integer | Affinity::Real | Affinity::Numeric)
            }
            _ => true,
        }
}
