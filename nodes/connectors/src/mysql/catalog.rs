//! What a MySQL or MariaDB server offers, read from `information_schema`: tables and views of the exposed databases that
//! the account may read, their columns, keys and estimates.
//!
//! INVARIANT: a column is called NOT NULL, and a set of columns a key, only where a storage engine that enforces both
//! keeps the table. Views and engines that fetch rows from elsewhere have neither.

use std::collections::BTreeMap;

use arrow::datatypes::{Field, Schema};
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    schema::{Dialect, NativeColumn, SourceSchema, TableSchema},
};
use mysql_async::Row;

use super::{
    session::{Session, text},
    types::Declared,
};

/// Storage engines that keep the rows themselves and check keys and NOT NULL.
const ENFORCING_ENGINES: [&str; 7] = ["innodb", "aria", "myisam", "memory", "rocksdb", "ndbcluster", "ndb"];
const PRIMARY: &str = "PRIMARY";

/// Reads everything. The first of `schemas` is what `source.table` means. `explicit` says that somebody asked for them,
/// so that each must exist.
pub(super) async fn read(
    session: &mut Session,
    source: &SourceName,
    schemas: &[String],
    explicit: bool,
) -> Result<SourceSchema> {
    let names = schemas.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
    if explicit {
        let sql = format!("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN ({names})");
        let found = session.rows(&sql).await?;
        if let Some(missing) = schemas.iter().find(|name| !found.iter().any(|row| text(row, 0) == name.as_str())) {
            let message = format!("option `schemas`: the server has no database `{missing}` that the account may use");
            return Err(MeshError::new(ErrorCode::InvalidResource, message));
        }
    }
    let version = session.rows("SELECT VERSION()").await?;
    let version = version.first().map(|row| text(row, 0).into_owned()).unwrap_or_default();
    let product = if session.is_mariadb { "MariaDB" } else { "MySQL" };
    let mut tables: BTreeMap<(String, String), Building> = BTreeMap::new();
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_ROWS, DATA_LENGTH FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA IN ({names}) AND TABLE_TYPE <> 'SEQUENCE'"
    );
    for row in session.rows(&sql).await? {
        tables.insert(key(&row), Building::new(&row));
    }
    // CARDINALITY of an index's first column is that column's number of distinct values.
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART, SEQ_IN_INDEX, CARDINALITY \
         FROM information_schema.STATISTICS WHERE TABLE_SCHEMA IN ({names}) \
         ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
    );
    for row in session.rows(&sql).await? {
        if let Some(table) = tables.get_mut(&key(&row)) {
            table.index_column(&row);
        }
    }
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, IS_NULLABLE, DATA_TYPE, COLUMN_TYPE, NUMERIC_PRECISION, \
            NUMERIC_SCALE, CHARACTER_SET_NAME, COLLATION_NAME \
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN ({names}) \
         ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
    );
    for row in session.rows(&sql).await? {
        if let Some(table) = tables.get_mut(&key(&row)) {
            table.column(&row);
        }
    }
    Ok(SourceSchema {
        source: source.clone(),
        kind: "mysql".into(),
        dialect: Dialect::MySql,
        version: format!("{product} {version}"),
        default_schema: schemas.first().cloned().unwrap_or_default(),
        tables: tables.into_iter().map(|((schema, name), table)| table.finish(schema, name)).collect(),
    })
}

fn key(row: &Row) -> (String, String) {
    (text(row, 0).into_owned(), text(row, 1).into_owned())
}

/// A table while its rows of the catalog come in.
#[derive(Default)]
struct Building {
    enforced: bool,
    rows: Option<u64>,
    bytes: Option<u64>,
    fields: Vec<Field>,
    native: Vec<NativeColumn>,
    unsupported: Vec<(String, String)>,
    /// Name of a unique index, and its columns.
    keys: Vec<(String, Vec<String>)>,
    /// Unique indexes over expressions or the beginning of a column.
    partial: Vec<String>,
    distinct: BTreeMap<String, u64>,
}

impl Building {
    fn new(row: &Row) -> Self {
        let engine = text(row, 3).to_ascii_lowercase();
        let is_view = text(row, 2).contains("VIEW");
        let number = |index: usize| text(row, index).parse().ok().filter(|_| !is_view);
        Self {
            enforced: !is_view && ENFORCING_ENGINES.contains(&engine.as_str()),
            rows: number(4),
            bytes: number(5),
            ..Self::default()
        }
    }

    fn index_column(&mut self, row: &Row) {
        let (index, column) = (text(row, 2).into_owned(), text(row, 4).into_owned());
        let is_first = text(row, 6) == "1";
        if let (true, Ok(distinct)) = (is_first, text(row, 7).parse::<u64>()) {
            let best = self.distinct.entry(column.clone()).or_default();
            *best = distinct.max(*best);
        }
        if text(row, 3) != "0" {
            return;
        }
        if column.is_empty() || !text(row, 5).is_empty() {
            self.partial.push(index.clone());
        }
        match self.keys.last_mut() {
            Some((last, columns)) if *last == index => columns.push(column),
            _ => self.keys.push((index, vec![column])),
        }
    }

    fn column(&mut self, row: &Row) {
        let name = text(row, 2).into_owned();
        let column_type = text(row, 5).into_owned();
        let declared = Declared {
            data_type: text(row, 4).to_ascii_lowercase(),
            column_type: column_type.to_ascii_lowercase(),
            precision: text(row, 6).parse().ok(),
            scale: text(row, 7).parse().ok(),
            character_set: text(row, 8).into_owned(),
            collation: text(row, 9).into_owned(),
        };
        let Some(data_type) = declared.arrow() else {
            self.unsupported.push((name, column_type));
            return;
        };
        let not_null = self.enforced && text(row, 3) == "NO";
        self.native.push(NativeColumn {
            type_name: column_type,
            order_is_binary: declared.order_is_binary(),
            distinct: self.distinct.get(&name).copied(),
        });
        self.fields.push(Field::new(name, data_type, !not_null));
    }

    fn finish(self, schema: String, name: String) -> TableSchema {
        let not_null = |column: &String| self.fields.iter().any(|field| field.name() == column && !field.is_nullable());
        let (mut primary_key, mut unique) = (Vec::new(), Vec::new());
        for (index, columns) in &self.keys {
            if !self.enforced || self.partial.contains(index) || !columns.iter().all(not_null) {
                continue;
            }
            if index == PRIMARY {
                primary_key = columns.clone();
            } else if !unique.contains(columns) {
                unique.push(columns.clone());
            }
        }
        TableSchema {
            schema,
            name,
            columns: Schema::new(self.fields).into(),
            native: self.native,
            primary_key,
            unique,
            rows: self.rows,
            bytes: self.bytes,
            unsupported: self.unsupported,
        }
    }
}

/// As a string literal. Names with a backslash would be read differently under different settings: they are spelled in
/// hexadecimal.
fn literal(text: &str) -> String {
    if text.contains('\\') {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        return format!("_utf8mb4 X'{hex}'");
    }
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_closed() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\"), "_utf8mb4 X'615c'");
    }
}
