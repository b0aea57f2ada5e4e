//! DataFusion's errors as the mesh's. What may hold a value of a row is not repeated.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use greylag_protocol::{ErrorCode, MeshError};

/// Longest message that is passed on, characters.
const MESSAGE_CHARS_MAX: usize = 600;

pub(super) fn fault(error: DataFusionError) -> MeshError {
    let root = error.find_root();
    match root {
        DataFusionError::External(inner) => match inner.downcast_ref::<MeshError>() {
            Some(ours) => ours.clone(),
            None => other(root),
        },
        DataFusionError::ArrowError(arrow, _) => in_arrow(arrow),
        DataFusionError::IoError(error) => {
            MeshError::new(ErrorCode::SourceUnreachable, format!("a file cannot be read: {}", error.kind()))
        }
        DataFusionError::ObjectStore(error) => {
            MeshError::new(ErrorCode::SourceUnreachable, shortened(&format!("a file cannot be read: {error}")))
        }
        DataFusionError::ResourcesExhausted(message) => MeshError::new(ErrorCode::Memory, shortened(message)),
        DataFusionError::Execution(_) | DataFusionError::ExecutionJoin(_) => other(root),
        DataFusionError::Internal(message) => MeshError::internal(shortened(message)),
        // Names of tables, columns and functions, and the statement's own words.
        said => MeshError::new(ErrorCode::SourceRefused, shortened(&said.to_string())),
    }
}

fn in_arrow(error: &ArrowError) -> MeshError {
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<MeshError>() {
            Some(ours) => ours.clone(),
            None => MeshError::new(ErrorCode::Execution, "a value could not be computed"),
        },
        ArrowError::IoError(_, error) => {
            MeshError::new(ErrorCode::SourceUnreachable, format!("a file cannot be read: {}", error.kind()))
        }
        ArrowError::MemoryError(message) => MeshError::new(ErrorCode::Memory, shortened(message)),
        ArrowError::ParquetError(_) => MeshError::new(ErrorCode::SourceRefused, "a file cannot be read as Parquet"),
        error => {
            tracing::debug!(%error, "a sub-query over files failed");
            MeshError::new(ErrorCode::Execution, "a value could not be computed")
        }
    }
}

fn other(error: &DataFusionError) -> MeshError {
    tracing::debug!(%error, "a sub-query over files failed");
    match error {
        DataFusionError::ExecutionJoin(_) => MeshError::internal("a task that reads files died"),
        _ => MeshError::new(ErrorCode::Execution, "a value could not be computed"),
    }
}

fn shortened(message: &str) -> String {
    // A backtrace follows the first line, where there is one.
    message.lines().next().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect()
}
