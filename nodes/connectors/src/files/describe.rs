//! What a table of files looks like: columns, types, rows. Read from the files themselves, never guessed beyond them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use greylag_protocol::{ErrorCode, MeshError, Result};
use parquet::{arrow::arrow_reader::ParquetRecordBatchReaderBuilder, errors::ParquetError};

use super::{
    Settings, csv,
    layout::{FileFacts, Format, TableFiles, refused},
    ndjson,
    rows::open,
};

/// One table, described.
pub(super) struct Described {
    pub(super) schema: SchemaRef,
    /// Columns that cannot be had, with the name of their type.
    pub(super) unsupported: Vec<(String, String)>,
    pub(super) rows: RowCount,
    /// Rows of each file, where they are known.
    pub(super) file_rows: Vec<Option<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowCount {
    Exact(u64),
    Estimated(u64),
}

impl RowCount {
    pub(super) fn value(self) -> u64 {
        match self {
            Self::Exact(rows) | Self::Estimated(rows) => rows,
        }
    }
}

/// Reads footers, headers and samples. Blocks.
pub(super) fn describe(name: &str, table: &TableFiles, settings: &Settings) -> Result<Described> {
    let described = match table.format {
        Format::Parquet => parquet_files(name, &table.files, settings)?,
        Format::Csv => csv_files(name, &table.files, settings)?,
        Format::Ndjson => ndjson_files(name, &table.files, settings)?,
    };
    if described.schema.fields().is_empty() && described.unsupported.is_empty() {
        return Err(refused(format!("table `{name}` has no columns; declare them in option `types`")));
    }
    Ok(described)
}

fn parquet_files(name: &str, files: &[FileFacts], settings: &Settings) -> Result<Described> {
    let mut merged: Option<Vec<FieldRef>> = None;
    let mut file_rows = Vec::new();
    for file in files {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(open(&file.path)?).map_err(|error| damaged(file, error))?;
        let rows = usize::try_from(reader.metadata().file_metadata().num_rows())
            .map_err(|_| refused(format!("`{}` tells a negative number of rows", file.name())))?;
        file_rows.push(Some(rows));
        let fields = reader.schema().fields().iter().map(|field| Arc::new(plain(field))).collect();
        merged = Some(match merged {
            None => fields,
            Some(known) => merge(known, fields, file)?,
        });
    }
    if let Some(stray) = settings.types.of(name).map(|(column, _)| column).next() {
        let message = format!("option `types`: `{name}.{stray}` is in Parquet files, which say their types themselves");
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    let rows = file_rows.iter().flatten().map(|rows| *rows as u64).sum();
    let schema = Arc::new(Schema::new(merged.unwrap_or_default()));
    Ok(Described { schema, unsupported: Vec::new(), rows: RowCount::Exact(rows), file_rows })
}

pub(super) fn damaged(file: &FileFacts, error: ParquetError) -> MeshError {
    match error {
        ParquetError::External(inner) if inner.is::<std::io::Error>() => {
            MeshError::new(ErrorCode::SourceUnreachable, format!("`{}`: {inner}", file.name()))
        }
        error => refused(format!("`{}` cannot be read as Parquet: {error}", file.name())),
    }
}

/// The field as it is delivered: views and dictionaries are ways to lay values out, not types of their own.
fn plain(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), field.is_nullable())
}

fn plain_type(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| Arc::new(plain(field));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::List(item) | DataType::ListView(item) => DataType::List(inner(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        other => other.clone(),
    }
}

/// Columns of all files by name. One that a file lacks is NULL there.
fn merge(known: Vec<FieldRef>, more: Vec<FieldRef>, file: &FileFacts) -> Result<Vec<FieldRef>> {
    let mut merged = Vec::with_capacity(known.len());
    for field in &known {
        match more.iter().find(|other| other.name() == field.name()) {
            Some(other) if other.data_type() == field.data_type() => {
                let nullable = field.is_nullable() || other.is_nullable();
                merged.push(Arc::new(field.as_ref().clone().with_nullable(nullable)));
            }
            Some(other) => {
                return Err(refused(format!(
                    "column `{}` is `{}` in `{}` and `{}` in the files before it",
                    field.name(),
                    other.data_type(),
                    file.name(),
                    field.data_type()
                )));
            }
            None => merged.push(Arc::new(field.as_ref().clone().with_nullable(true))),
        }
    }
    for field in more {
        if known.iter().all(|other| other.name() != field.name()) {
            merged.push(Arc::new(field.as_ref().clone().with_nullable(true)));
        }
    }
    Ok(merged)
}

fn csv_files(name: &str, files: &[FileFacts], settings: &Settings) -> Result<Described> {
    let mut columns: Vec<(String, Vec<DataType>)> = Vec::new();
    let mut rows = 0;
    for (at, file) in files.iter().enumerate() {
        let sample = csv::sample(file, settings)?;
        rows += sample.rows;
        if at == 0 {
            columns = sample.columns.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        } else if !columns.iter().map(|(name, _)| name).eq(sample.columns.iter().map(|(name, _)| name)) {
            return Err(refused(format!("the columns of `{}` are not those of `{}`", file.name(), files[0].name())));
        }
        for ((_, types), (_, sampled)) in columns.iter_mut().zip(&sample.columns) {
            types.extend(sampled.data_type());
        }
    }
    check_declared(name, columns.iter().map(|(name, _)| name.as_str()), settings)?;
    let fields: Vec<Field> = columns
        .into_iter()
        .map(|(column, types)| {
            let declared = settings.types.get(name, &column).cloned();
            let data_type = declared.unwrap_or_else(|| types.into_iter().reduce(widest).unwrap_or(DataType::Utf8));
            Field::new(column, data_type, true)
        })
        .collect();
    let file_rows = vec![None; files.len()];
    let schema = Arc::new(Schema::new(fields));
    Ok(Described { schema, unsupported: Vec::new(), rows: RowCount::Estimated(rows), file_rows })
}

/// A type that holds what both hold, as it is written.
fn widest(one: DataType, two: DataType) -> DataType {
    match (&one, &two) {
        _ if one == two => one,
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

fn ndjson_files(name: &str, files: &[FileFacts], settings: &Settings) -> Result<Described> {
    let mut columns: Vec<(String, Option<DataType>)> = Vec::new();
    let mut nested: Vec<String> = Vec::new();
    let mut rows = 0;
    for file in files {
        let sample = ndjson::sample(file, settings)?;
        rows += sample.rows;
        for (key, data_type) in sample.columns {
            match columns.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = [known.take(), data_type].into_iter().flatten().reduce(widest),
                None => columns.push((key, data_type)),
            }
        }
        nested.extend(sample.nested);
    }
    columns.retain(|(key, _)| !nested.contains(key));
    // Keys that the sample did not show can be declared.
    for (key, data_type) in settings.types.of(name) {
        match columns.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = Some(data_type.clone()),
            None if !nested.iter().any(|known| known == key) => columns.push((key.to_owned(), Some(data_type.clone()))),
            None => {
                let message = format!("option `types`: `{name}.{key}` holds objects or lists");
                return Err(MeshError::new(ErrorCode::InvalidResource, message));
            }
        }
    }
    nested.sort();
    nested.dedup();
    let unsupported = nested.into_iter().map(|key| (key, "object or list".to_owned())).collect();
    let field =
        |(key, data_type): (String, Option<DataType>)| Field::new(key, data_type.unwrap_or(DataType::Utf8), true);
    let fields: Vec<Field> = columns.into_iter().map(field).collect();
    let file_rows = vec![None; files.len()];
    Ok(Described { schema: Arc::new(Schema::new(fields)), unsupported, rows: RowCount::Estimated(rows), file_rows })
}

/// A declared type for a column that is not there is a mistake that would otherwise go unnoticed.
fn check_declared<'a>(name: &str, columns: impl Iterator<Item = &'a str>, settings: &Settings) -> Result<()> {
    match settings.types.stray(name, &columns.collect::<Vec<_>>()) {
        None => Ok(()),
        Some(stray) => {
            let message = format!("option `types`: table `{name}` has no column `{stray}`");
            Err(MeshError::new(ErrorCode::InvalidResource, message))
        }
    }
}
