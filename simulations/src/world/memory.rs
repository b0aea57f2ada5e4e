//! Sources of a simulated edge: tables in memory, read by DataFusion as a file source would be, with a latency that the
//! seed decides, so that an edge is caught in the middle of its work.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::{catalog::MemorySchemaProvider, datasource::MemTable};
use futures::StreamExt;
use greylag_actors::edge::port::{Connector, ConnectorFactory, ConnectorQuery, Secrets};
use greylag_engine::session::{FilesConfig, for_files};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    schema::{Dialect, NativeColumn, SourceSchema, TableSchema, WireSchema},
    state::SourceSpec,
    statement::BatchStream,
};

/// The schema that all tables are in.
const SCHEMA: &str = "main";
/// The catalog of DataFusion's file session.
const CATALOG: &str = "datafusion";
/// Memory of one edge's reads, bytes.
const MEMORY_BYTES_MAX: usize = 256 << 20;
/// Time that a batch takes.
const BATCH_LATENCY: Duration = Duration::from_millis(3);

/// One table, known to every host alike.
#[derive(Debug, Clone)]
pub struct MemoryTable {
    pub name: String,
    pub batches: Vec<RecordBatch>,
}

/// Opens sources of the kind `memory`: the option `tables` names the tables, separated by commas.
#[derive(Debug, Clone)]
pub struct MemoryConnectors {
    pub tables: Arc<BTreeMap<String, MemoryTable>>,
}

#[async_trait]
impl ConnectorFactory for MemoryConnectors {
    fn kinds(&self) -> Vec<&'static str> {
        vec!["memory"]
    }

    fn validate(&self, spec: &SourceSpec) -> Result<()> {
        self.tables_of(spec).map(|_| ())
    }

    async fn open(&self, spec: &SourceSpec, _secrets: &dyn Secrets) -> Result<Arc<dyn Connector>> {
        Ok(Arc::new(MemorySource { spec: spec.clone(), tables: self.tables_of(spec)? }))
    }
}

impl MemoryConnectors {
    fn tables_of(&self, spec: &SourceSpec) -> Result<Vec<MemoryTable>> {
        let names = spec.options.get("tables").map(String::as_str).unwrap_or_default();
        let found: Option<Vec<MemoryTable>> = names.split(',').map(|n| self.tables.get(n.trim()).cloned()).collect();
        found.ok_or_else(|| MeshError::new(ErrorCode::InvalidResource, format!("`tables` = `{names}` names no table")))
    }
}

struct MemorySource {
    spec: SourceSpec,
    tables: Vec<MemoryTable>,
}

#[async_trait]
impl Connector for MemorySource {
    async fn schema(&self) -> Result<SourceSchema> {
        let tables = self.tables.iter().map(|table| {
            let columns = table.batches[0].schema();
            let native = columns.fields().iter().map(|f| NativeColumn {
                type_name: f.data_type().to_string(),
                order_is_binary: true,
                distinct: None,
            });
            TableSchema {
                schema: SCHEMA.into(),
                name: table.name.clone(),
                native: native.collect(),
                columns: WireSchema(columns),
                primary_key: Vec::new(),
                unique: Vec::new(),
                rows: Some(table.batches.iter().map(|b| b.num_rows() as u64).sum()),
                bytes: None,
                unsupported: Vec::new(),
            }
        });
        Ok(SourceSchema {
            source: self.spec.name.clone(),
            kind: self.spec.kind.clone(),
            dialect: Dialect::DataFusion,
            version: "simulated".into(),
            default_schema: SCHEMA.into(),
            tables: tables.collect(),
        })
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn query(&self, query: ConnectorQuery) -> Result<BatchStream> {
        let config =
            FilesConfig { target_partitions: 1, batch_rows: query.batch_rows, memory_bytes_max: MEMORY_BYTES_MAX };
        let session = for_files(&config)?;
        let catalog = session.catalog(CATALOG).ok_or_else(|| MeshError::internal("the session has no catalog"))?;
        catalog.register_schema(SCHEMA, Arc::new(MemorySchemaProvider::new())).map_err(refused)?;
        for table in &self.tables {
            let provider =
                MemTable::try_new(table.batches[0].schema(), vec![table.batches.clone()]).map_err(refused)?;
            session.register_table(format!("{SCHEMA}.{}", table.name), Arc::new(provider)).map_err(refused)?;
        }
        let stream = session.sql(&query.sql).await.map_err(refused)?.execute_stream().await.map_err(refused)?;
        Ok(stream
            .then(|batch| async {
                tokio::time::sleep(BATCH_LATENCY).await;
                batch.map_err(refused)
            })
            .boxed())
    }
}

fn refused(error: datafusion::error::DataFusionError) -> MeshError {
    MeshError::new(ErrorCode::SourceRefused, error.to_string())
}
