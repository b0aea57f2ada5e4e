//! Tables of files for DataFusion, over exactly the files that the snapshot names. (DataFusion's own listing tables look
//! the files up at each scan, and take one that is gone for an empty folder.)

use std::{fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Statistics, stats::Precision},
    datasource::{
        file_format::{FileFormat, parquet::ParquetFormat},
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder},
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext, object_store::ObjectStoreUrl},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::{
        ExecutionPlan,
        empty::EmptyExec,
        stream::RecordBatchReceiverStream,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use object_store::{ObjectMeta, path::Path as ObjectPath};

use super::{
    csv::{CsvOptions, CsvRows},
    layout::{FileFacts, Format},
    ndjson::JsonRows,
    rows::{Batches, Rows},
};

/// Batches between the thread that reads a text file and whoever wants them.
const CHANNEL_BATCHES: usize = 2;

/// A table of Parquet files.
#[derive(Debug)]
pub(super) struct ParquetTable {
    pub(super) schema: SchemaRef,
    /// Each with its number of rows.
    pub(super) files: Vec<(FileFacts, usize)>,
}

impl ParquetTable {
    fn partitioned(&self) -> Result<Vec<PartitionedFile>> {
        let partitioned = |(file, rows): &(FileFacts, usize)| -> Result<PartitionedFile> {
            let location = ObjectPath::from_absolute_path(&file.path)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            let meta = ObjectMeta {
                location,
                last_modified: file.modified.into(),
                size: file.bytes,
                e_tag: None,
                version: None,
            };
            let statistics = counted(&self.schema, *rows, file.bytes);
            Ok(PartitionedFile::from(meta).with_statistics(Arc::new(statistics)))
        };
        self.files.iter().map(partitioned).collect()
    }
}

fn counted(schema: &SchemaRef, rows: usize, bytes: u64) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = Precision::Exact(rows);
    statistics.total_byte_size = Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
    statistics
}

#[async_trait]
impl TableProvider for ParquetTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Row groups and pages are skipped by them; the rows that remain are filtered above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let format = ParquetFormat::default().with_force_view_types(false);
        let source = format.file_source(TableSchema::from(self.schema.clone()));
        let rows = self.files.iter().map(|(_, rows)| rows).sum();
        let bytes = self.files.iter().map(|(file, _)| file.bytes).sum();
        let groups = FileGroup::new(self.partitioned()?).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .with_statistics(counted(&self.schema, rows, bytes))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        format.create_physical_plan(state, config).await
    }
}

/// A table of files whose rows are written as text.
#[derive(Debug)]
pub(super) struct TextTable {
    pub(super) schema: SchemaRef,
    pub(super) format: Format,
    pub(super) csv: CsvOptions,
    pub(super) files: Vec<FileFacts>,
}

#[async_trait]
impl TableProvider for TextTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&wanted)?);
        if self.files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let names = Arc::new(self.schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>());
        let each = self.files.len().div_ceil(state.config().target_partitions());
        let partitions = self.files.chunks(each).map(|files| -> Arc<dyn PartitionStream> {
            Arc::new(TextPartition {
                schema: schema.clone(),
                format: self.format,
                csv: self.csv.clone(),
                files: files.to_vec(),
                names: names.clone(),
                wanted: wanted.clone(),
            })
        });
        let scan = StreamingTableExec::try_new(schema.clone(), partitions.collect(), None, [], false, limit)?;
        Ok(Arc::new(scan))
    }
}

/// Some of a table's files, one after the other.
#[derive(Clone)]
struct TextPartition {
    /// Of the wanted columns.
    schema: SchemaRef,
    format: Format,
    csv: CsvOptions,
    files: Vec<FileFacts>,
    /// All columns of the table.
    names: Arc<Vec<String>>,
    /// Positions of the wanted ones.
    wanted: Vec<usize>,
}

impl fmt::Debug for TextPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextPartition").field("format", &self.format).field("files", &self.files.len()).finish()
    }
}

impl PartitionStream for TextPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStream::builder(self.schema.clone(), CHANNEL_BATCHES);
        let batches = builder.tx();
        let batch_rows = context.session_config().batch_size();
        let work = self.clone();
        builder.spawn_blocking(move || {
            for file in &work.files {
                let sent = match work.format {
                    Format::Ndjson => work.ndjson(file).and_then(|rows| work.send(rows, batch_rows, &batches)),
                    _ => work.csv(file).and_then(|rows| work.send(rows, batch_rows, &batches)),
                };
                match sent {
                    Ok(true) => {}
                    // Nobody wants more.
                    Ok(false) => return Ok(()),
                    Err(error) => return Err(DataFusionError::External(Box::new(error))),
                }
            }
            Ok(())
        });
        builder.build()
    }
}

/// Where batches go.
type Sender = tokio::sync::mpsc::Sender<Result<arrow::array::RecordBatch>>;

impl TextPartition {
    fn csv(&self, file: &FileFacts) -> greylag_protocol::Result<CsvRows> {
        CsvRows::open(file, &self.csv, &self.names, self.wanted.clone())
    }

    fn ndjson(&self, file: &FileFacts) -> greylag_protocol::Result<JsonRows> {
        // Without a wanted column any will do to count rows by.
        let wanted = if self.wanted.is_empty() { &[0][..] } else { &self.wanted[..] };
        let names: Vec<String> = wanted.iter().map(|at| self.names[*at].clone()).collect();
        JsonRows::open(file, &names)
    }

    /// False if nobody listens any more.
    fn send(&self, rows: impl Rows, batch_rows: usize, to: &Sender) -> greylag_protocol::Result<bool> {
        let mut batches = Batches::new(rows, self.schema.clone(), batch_rows)?;
        while let Some(batch) = batches.next()? {
            if to.blocking_send(Ok(batch)).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
