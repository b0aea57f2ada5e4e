//! `SHOW TABLES` and `DESCRIBE`: answered from the statement's catalog, without running anything.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use greylag_actors::planner::port::{Catalog, SystemTables};
use greylag_protocol::{ErrorCode, MeshError, Result, obligation::TableObligation};

use crate::{
    catalog::{MESH_CATALOG, Resolved, SYSTEM_SCHEMA},
    plan::FixedPlan,
};

/// Name, type, whether it may be NULL, type in the source's words.
type Described = (String, String, bool, Option<String>);

/// Every table there is: `source`, `schema`, `table`.
pub(crate) fn tables(catalog: &Catalog, system: &dyn SystemTables) -> Result<FixedPlan> {
    let own = system.schemas().into_iter().map(|(name, _)| (MESH_CATALOG, SYSTEM_SCHEMA, name));
    let sources = catalog.sources.values().flat_map(|source| {
        source.tables.iter().map(|table| (source.source.as_str(), table.schema.as_str(), table.name.as_str()))
    });
    let mut rows: Vec<(&str, &str, &str)> = own.chain(sources).collect();
    rows.sort_unstable();
    let text = |part: fn(&(&str, &str, &str)) -> String| -> (DataType, ArrayRef) {
        (DataType::Utf8, Arc::new(rows.iter().map(|row| Some(part(row))).collect::<StringArray>()))
    };
    answer(&["source", "schema", "table"], vec![text(|r| r.0.into()), text(|r| r.1.into()), text(|r| r.2.into())])
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
