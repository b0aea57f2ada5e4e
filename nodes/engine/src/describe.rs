//! `SHOW TABLES` and `DESCRIBE`: answered from the statement's catalog, without running anything.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use greylag_actors::planner::port::SystemTables;
use greylag_protocol::{ErrorCode, MeshError, Result, obligation::TableObligation};

use crate::{
    catalog::{Resolved, SYSTEM_TABLES},
    plan::FixedPlan,
};

/// Name, type, whether it may be NULL, type in the source's words.
type Described = (String, String, bool, Option<String>);

/// Every table that the principal may know of: `source`, `schema`, `table`.
pub(crate) async fn tables(system: &dyn SystemTables) -> Result<FixedPlan> {
    let listed = system.rows(SYSTEM_TABLES).await?;
    let texts = |name: &str| {
        let column = listed.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        column.ok_or_else(|| MeshError::internal(format!("`system.{SYSTEM_TABLES}` has no text column `{name}`")))
    };
    let (sources, schemas, names) = (texts("source")?, texts("schema")?, texts("name")?);
    // A source that could not be read has a row of its own, without a table.
    let named = (0..listed.num_rows()).filter(|row| !names.value(*row).is_empty());
    let mut rows: Vec<[&str; 3]> =
        named.map(|row| [sources.value(row), schemas.value(row), names.value(row)]).collect();
    rows.sort_unstable();
    let text = |part: usize| -> (DataType, ArrayRef) {
        (DataType::Utf8, Arc::new(rows.iter().map(|row| Some(row[part])).collect::<StringArray>()))
    };
    answer(&["source", "schema", "table"], vec![text(0), text(1), text(2)])
}

/// Columns of one table, those that are left out because of their type among them, but none that is hidden.
pub(crate) fn columns(
    table: &Resolved,
    obligation: Option<&TableObligation>,
    system: &dyn SystemTables,
) -> Result<FixedPlan> {
    let hidden = |name: &str| obligation.is_some_and(|o| o.hidden.iter().any(|hidden| hidden.column == name));
    let mut rows: Vec<(String, String, bool, Option<String>)> = Vec::new();
    match table {
        Resolved::Source { source, index } => {
            let table = &source.tables[*index];
            for (at, field) in table.columns.0.fields().iter().enumerate() {
                let native = table.native.get(at).map(|native| native.type_name.clone());
                rows.push((field.name().clone(), field.data_type().to_string(), field.is_nullable(), native));
            }
            for (name, kind) in &table.unsupported {
                rows.push((name.clone(), "not supported".into(), true, Some(kind.clone())));
            }
        }
        Resolved::System(name) => {
            let known = system.schemas().into_iter().find(|(known, _)| known == name);
            let Some((_, schema)) = known else {
                let message = format!("table `{}` is not known", table.name());
                return Err(MeshError::new(ErrorCode::UnknownTable, message));
            };
            for field in schema.fields() {
                rows.push((field.name().clone(), field.data_type().to_string(), field.is_nullable(), None));
            }
        }
    }
    rows.retain(|(name, ..)| !hidden(name));
    let text = |part: fn(&Described) -> Option<&str>| -> (DataType, ArrayRef) {
        (DataType::Utf8, Arc::new(rows.iter().map(part).collect::<StringArray>()))
    };
    let nullable: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.2)).collect::<BooleanArray>());
    answer(
        &["column_name", "data_type", "is_nullable", "source_type"],
        vec![
            text(|row| Some(&row.0)),
            text(|row| Some(&row.1)),
            (DataType::Boolean, nullable),
            text(|row| row.3.as_deref()),
        ],
    )
}

fn answer(names: &[&str], columns: Vec<(DataType, ArrayRef)>) -> Result<FixedPlan> {
    let fields: Vec<Field> =
        names.iter().zip(&columns).map(|(name, (data_type, _))| Field::new(*name, data_type.clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let answer = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| MeshError::internal(format!("a description cannot be put together: {error}")))?;
    Ok(FixedPlan { answer, parameters: Arc::new(Schema::empty()) })
}
