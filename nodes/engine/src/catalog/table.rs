//! A table of a source as DataFusion's planner sees it: columns and nothing else. It takes no filter and offers no scan,
//! so every filter stays a node above it and nothing but the cutter can turn it into something that runs.

use std::{any::Any, fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::TableSource;
use greylag_protocol::schema::{SourceSchema, TableSchema};

/// The table at one place of a source's schema.
pub(crate) struct SourceTable {
    source: Arc<SourceSchema>,
    index: usize,
}

impl SourceTable {
    pub(crate) fn new(source: Arc<SourceSchema>, index: usize) -> Self {
        Self { source, index }
    }

    pub(crate) fn source(&self) -> &Arc<SourceSchema> {
        &self.source
    }

    pub(crate) fn table(&self) -> &TableSchema {
        &self.source.tables[self.index]
    }

    /// The one of ours behind DataFusion's trait object, if it is one.
    pub(crate) fn of(source: &dyn TableSource) -> Option<&Self> {
        (source as &dyn Any).downcast_ref()
    }
}

impl fmt::Debug for SourceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.source.source, self.table().schema, self.table().name)
    }
}

impl TableSource for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table().columns.0)
    }
}
