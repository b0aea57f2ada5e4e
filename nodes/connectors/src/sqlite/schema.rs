//! What is in the file: tables, views, columns, keys and estimates, from SQLite's own catalog.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    schema::{NativeColumn, TableSchema},
};
use rusqlite::{Connection, OptionalExtension};

use super::{
    Settings,
    affinity::{Affinity, arrow_type},
    estimate,
    fault::fault,
    keys,
    session::{Read, Session},
};
use crate::exact::DOUBLE_DIGITS;

/// The one schema that a file has.
pub(super) const SCHEMA: &str = "main";

/// One table or view.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) view: bool,
    pub(super) without_rowid: bool,
    pub(super) strict: bool,
}

/// One column, as SQLite describes it and as it is read.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) affinity: Affinity,
    pub(super) not_null: bool,
    /// Position in the primary key, from 1; 0 outside.
    pub(super) key: u32,
    /// The row's own number: always an integer, never NULL.
    pub(super) rowid: bool,
    pub(super) data_type: Option<DataType>,
    /// The type is its owner's word (option `types`), not the file's.
    overridden: bool,
    /// Text is compared byte by byte as UTF-8.
    binary_text: bool,
}

/// All tables and views, sorted by name. Reads the catalog in one transaction, so that its parts agree.
pub(super) fn describe(session: &Session, settings: &Settings) -> Result<Vec<TableSchema>> {
    let connection = session.connection();
    // Rolled back when dropped.
    let _transaction = connection.unchecked_transaction().map_err(fault)?;
    let mut described = Vec::new();
    for (table, columns) in survey(connection, settings)? {
        described.push(describe_table(connection, &table, &columns, settings).map_err(fault)?);
    }
    Ok(described)
}

/// Columns whose `order_is_binary` holds only because their values get checked, with their types.
pub(super) fn promised(session: &Session, settings: &Settings) -> Result<BTreeMap<Read, DataType>> {
    let mut promised = BTreeMap::new();
    for (table, columns) in survey(session.connection(), settings)? {
        for column in columns {
            if let Some(data_type) = &column.data_type
                && order(&table, &column, data_type, settings.verifies(&table.name)) == Order::IfVerified
            {
                promised.insert((table.name.clone(), column.name), data_type.clone());
            }
        }
    }
    Ok(promised)
}

fn survey(connection: &Connection, settings: &Settings) -> Result<Vec<(Table, Vec<Column>)>> {
    let utf8 = text_is_utf8(connection).map_err(fault)?;
    let mut survey = Vec::new();
    for table in tables(connection).map_err(fault)? {
        match columns(connection, &table, settings, utf8).map_err(fault) {
            Ok(columns) => {
                check_declarations(&table, &columns, settings)?;
                survey.push((table, columns));
            }
            // Nobody can read such a view, in SQLite itself either.
            Err(error) if table.view && error.code == ErrorCode::SourceRefused => {
                tracing::warn!(view = table.name, %error, "a view is left out: it cannot be read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(survey)
}

fn describe_table(
    connection: &Connection,
    table: &Table,
    columns: &[Column],
    settings: &Settings,
) -> rusqlite::Result<TableSchema> {
    let indexes = if table.view { Vec::new() } else { keys::indexes(connection, table)? };
    let statistics = estimate::statistics(connection, table, &indexes)?;
    let mut fields = Vec::new();
    let mut native = Vec::new();
    let mut unsupported = Vec::new();
    for column in columns {
        let Some(data_type) = &column.data_type else {
            let type_name = if column.declared.is_empty() { "no type" } else { &column.declared };
            unsupported.push((column.name.clone(), type_name.to_owned()));
            continue;
        };
        fields.push(Field::new(&column.name, data_type.clone(), !column.not_null));
        native.push(NativeColumn {
            type_name: column.declared.clone(),
            order_is_binary: order(table, column, data_type, settings.verifies(&table.name)) != Order::Unknown,
            distinct: if column.rowid { statistics.rows } else { statistics.distinct.get(&column.name).copied() },
        });
    }
    Ok(TableSchema {
        schema: SCHEMA.to_owned(),
        name: table.name.clone(),
        columns: Schema::new(fields).into(),
        native,
        primary_key: keys::primary(columns),
        unique: keys::unique(columns, &indexes),
        rows: statistics.rows,
        bytes: None,
        unsupported,
    })
}

/// Why SQLite's comparisons of a column agree with Arrow's, if they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The file cannot hold a value that would betray it.
    Enforced,
    /// It does as long as every stored value is of the right class, which is checked before each use.
    IfVerified,
    Unknown,
}

fn order(table: &Table, column: &Column, data_type: &DataType, verified: bool) -> Order {
    if table.view {
        return Order::Unknown;
    }
    if column.rowid && *data_type == DataType::Int64 {
        return Order::Enforced;
    }
    let numeric = matches!(column.affinity, Affinity::Integer | Affinity::Real | Affinity::Numeric);
    // With another affinity, SQLite would turn a literal into text or a number before it compares.
    let agrees = match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => numeric,
        DataType::Boolean | DataType::Float64 => numeric,
        // Stored as doubles, which keep decimals apart up to so many digits.
        DataType::Decimal128(precision, _) => numeric && *precision <= DOUBLE_DIGITS,
        DataType::Utf8 => column.binary_text && matches!(column.affinity, Affinity::Text | Affinity::Blob),
        // A canonical date never looks like a number, so any affinity leaves it alone.
        DataType::Date32 => column.binary_text,
        DataType::Binary => true,
        // One instant can be written in several ways.
        _ => false,
    };
    match (agrees, table.strict && !column.overridden, verified) {
        (true, true, _) => Order::Enforced,
        (true, false, true) => Order::IfVerified,
        _ => Order::Unknown,
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = connection.prepare(
        "SELECT name, type = 'view', wr, strict FROM pragma_table_list \
         WHERE schema = 'main' AND type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Table { name: row.get(0)?, view: row.get(1)?, without_rowid: row.get(2)?, strict: row.get(3)? })
    })?;
    rows.collect()
}

fn columns(connection: &Connection, table: &Table, settings: &Settings, utf8: bool) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection
        .prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?1, 'main') WHERE hidden <> 1")?;
    let rows = statement.query_map([&table.name], |row| {
        let (name, declared): (String, String) = (row.get(0)?, row.get(1)?);
        let overridden = settings.types.get(&table.name, &name).cloned();
        Ok(Column {
            affinity: Affinity::of(&declared),
            not_null: row.get(2)?,
            key: row.get(3)?,
            rowid: false,
            overridden: overridden.is_some(),
            data_type: overridden.or_else(|| arrow_type(&declared)),
            binary_text: false,
            name,
            declared,
        })
    })?;
    let mut columns: Vec<Column> = rows.collect::<rusqlite::Result<_>>()?;
    if table.view {
        // NOT NULL and collations of what stands behind a view say nothing about its own columns.
        columns.iter_mut().for_each(|column| column.not_null = false);
        return Ok(columns);
    }
    for column in &mut columns {
        let (_, collation, ..) = connection.column_metadata(Some(SCHEMA), table.name.as_str(), column.name.as_str())?;
        column.binary_text = utf8 && collation.is_some_and(|name| name.to_bytes().eq_ignore_ascii_case(b"BINARY"));
    }
    if let Some(at) = rowid_alias(connection, table, &columns)? {
        columns[at].rowid = true;
        columns[at].not_null = true;
    }
    Ok(columns)
}

/// The column that is another name for the row's number: the only one of the key, declared exactly `INTEGER`, and
/// without an index of its own (`INTEGER PRIMARY KEY DESC` has one: <https://www.sqlite.org/lang_createtable.html#rowid>).
fn rowid_alias(connection: &Connection, table: &Table, columns: &[Column]) -> rusqlite::Result<Option<usize>> {
    let mut key = columns.iter().enumerate().filter(|(_, column)| column.key > 0);
    let (Some((at, column)), None, false) = (key.next(), key.next(), table.without_rowid) else { return Ok(None) };
    if !column.declared.eq_ignore_ascii_case("INTEGER") {
        return Ok(None);
    }
    let index: Option<i64> = connection
        .query_row("SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'", [&table.name], |row| row.get(0))
        .optional()?;
    Ok(index.is_none().then_some(at))
}

fn text_is_utf8(connection: &Connection) -> rusqlite::Result<bool> {
    let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    Ok(encoding == "UTF-8")
}

/// A declared type for a column that is not there is a mistake that would otherwise go unnoticed.
fn check_declarations(table: &Table, columns: &[Column], settings: &Settings) -> Result<()> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    match settings.types.stray(&table.name, &names) {
        None => Ok(()),
        Some(stray) => Err(MeshError::new(
            ErrorCode::InvalidResource,
            format!("option `types`: table `{}` has no column `{stray}`", table.name),
        )),
    }
}
