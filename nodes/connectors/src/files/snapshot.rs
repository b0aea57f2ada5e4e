//! The files of a source as they were at one moment, and a DataFusion session that knows them as tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    catalog::{MemorySchemaProvider, SchemaProvider, TableProvider},
    prelude::SessionContext,
};
use greylag_engine::session::{FilesConfig, for_files};
use greylag_protocol::{
    MeshError, Result,
    schema::{NativeColumn, TableSchema, WireSchema},
};

use super::{
    Settings,
    describe::{Described, describe},
    fault::fault,
    layout::{Format, TableFiles, discover},
    provider::{ParquetTable, TextTable},
};

/// The one schema that a source of files has.
pub(super) const SCHEMA: &str = "main";
/// Memory of all sub-queries of one source together. What is read streams; this is for what a pushed-down sort or
/// aggregate holds.
const MEMORY_BYTES_MAX: usize = 512 << 20;
/// Most partitions of a plan: threads beyond these are for other sub-queries.
const PARTITIONS_MAX: usize = 8;
/// Rows of a batch where a sub-query does not say.
const BATCH_ROWS: usize = 8192;

pub(super) struct Snapshot {
    tables: BTreeMap<String, Arc<Table>>,
    pub(super) session: SessionContext,
}

struct Table {
    files: TableFiles,
    described: Described,
    provider: Arc<dyn TableProvider>,
}

impl Snapshot {
    /// Looks at everything. What `before` knows about files that have not changed is taken over. Blocks.
    pub(super) fn take(settings: &Settings, before: Option<&Snapshot>) -> Result<Self> {
        let session = for_files(&FilesConfig {
            target_partitions: std::thread::available_parallelism().map_or(1, usize::from).min(PARTITIONS_MAX),
            batch_rows: BATCH_ROWS,
            memory_bytes_max: MEMORY_BYTES_MAX,
        })?;
        let schema = Arc::new(MemorySchemaProvider::new());
        let mut tables = BTreeMap::new();
        for (name, files) in discover(settings)? {
            let known = before.and_then(|before| before.tables.get(&name)).filter(|table| table.files == files);
            let table = match known {
                Some(table) => table.clone(),
                None => Arc::new(Table::of(&name, files, settings)?),
            };
            schema.register_table(name.clone(), table.provider.clone()).map_err(fault)?;
            tables.insert(name, table);
        }
        let options = session.state_ref().read().config_options().catalog.default_catalog.clone();
        let catalog = session.catalog(&options).ok_or_else(|| MeshError::internal("a session without a catalog"))?;
        catalog.register_schema(SCHEMA, schema).map_err(fault)?;
        Ok(Self { tables, session })
    }

    /// Whether the files of these tables are still what they were: GL3002 if one is gone. Blocks.
    pub(super) fn is_current(&self, tables: &BTreeSet<String>) -> Result<bool> {
        for file in tables.iter().filter_map(|name| self.tables.get(name)).flat_map(|table| &table.files.files) {
            if !file.is_unchanged()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    pub(super) fn table_schemas(&self) -> Vec<TableSchema> {
        self.tables.iter().map(|(name, table)| table.schema(name)).collect()
    }
}

impl Table {
    fn of(name: &str, files: TableFiles, settings: &Settings) -> Result<Self> {
        let described = describe(name, &files, settings)?;
        let provider: Arc<dyn TableProvider> = match files.format {
            Format::Parquet => {
                let rows = described.file_rows.iter().map(|rows| rows.unwrap_or_default());
                Arc::new(ParquetTable {
                    schema: described.schema.clone(),
                    files: files.files.iter().cloned().zip(rows).collect(),
                })
            }
            format => Arc::new(TextTable {
                schema: described.schema.clone(),
                format,
                csv: settings.csv.clone(),
                files: files.files.clone(),
            }),
        };
        Ok(Self { files, described, provider })
    }

    fn schema(&self, name: &str) -> TableSchema {
        let native = |field: &arrow::datatypes::FieldRef| NativeColumn {
            type_name: field.data_type().to_string(),
            // The edge compares with DataFusion itself.
            order_is_binary: true,
            distinct: None,
        };
        TableSchema {
            schema: SCHEMA.to_owned(),
            name: name.to_owned(),
            columns: WireSchema(self.described.schema.clone()),
            native: self.described.schema.fields().iter().map(native).collect(),
            primary_key: Vec::new(),
            unique: Vec::new(),
            rows: Some(self.described.rows.value()),
            bytes: Some(self.files.files.iter().map(|file| file.bytes).sum()),
            unsupported: self.described.unsupported.clone(),
        }
    }
}
