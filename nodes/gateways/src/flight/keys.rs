//! Keys of tables. Primary keys are known to the mesh; foreign keys are not, and their answers are empty.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use arrow_flight::sql::CommandGetPrimaryKeys;
use greylag_protocol::{
    MeshError, Result,
    statement::{Session, StatementService},
};

use super::metadata::{columns_of, list};

/// Separates the columns of a key in `system.tables`.
const SEPARATOR: char = ',';

/// One row for each column of the table's primary key, in key order.
pub(super) async fn primary_keys(
    service: &dyn StatementService,
    session: &Session,
    command: &CommandGetPrimaryKeys,
) -> Result<RecordBatch> {
    let mut sql = format!(
        "SELECT source, schema, name, primary_key FROM greylag.system.tables \
         WHERE error IS NULL AND primary_key IS NOT NULL AND name = {}",
        literal(&command.table)
    );
    for (column, wanted) in [("source", &command.catalog), ("schema", &command.db_schema)] {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" AND {column} = {}", literal(wanted)));
        }
    }
    sql.push_str(" ORDER BY source, schema");
    let mut rows: [Vec<String>; 4] = Default::default();
    let mut sequence = Vec::new();
    for [source, schema, name, key] in list(service, session, &sql).await? {
        let columns = columns_of(service, session, [&source, &schema, &name]).await?;
        // The key is a list in one text: a column whose own name has a separator would be read as two.
        let is_known = |part: &str| columns.as_ref().is_some_and(|c| c.field_with_name(part).is_ok());
        if !key.split(SEPARATOR).all(is_known) {
            continue;
        }
        for (at, column) in (1..).zip(key.split(SEPARATOR)) {
            for (texts, text) in rows.iter_mut().zip([&source, &schema, &name, column]) {
                texts.push(text.to_owned());
            }
            sequence.push(at);
        }
    }
    let mut columns: Vec<ArrayRef> =
        rows.iter().map(|texts| Arc::new(StringArray::from_iter_values(texts)) as ArrayRef).collect();
    columns.push(new_null_array(&DataType::Utf8, sequence.len()));
    columns.push(Arc::new(Int32Array::from(sequence)));
    RecordBatch::try_new(primary_key_schema(), columns)
        .map_err(|e| MeshError::internal(format!("an answer about keys could not be built: {e}")))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

/// As Flight SQL defines the answer to `CommandGetPrimaryKeys`.
pub(super) fn primary_key_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// As Flight SQL defines the answers about exported and imported keys and cross references.
pub(super) fn foreign_key_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}
