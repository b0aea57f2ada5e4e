//! SQLite's result codes as the mesh's errors.

use greylag_protocol::{ErrorCode, MeshError};
use rusqlite::{Error, ErrorCode as Sqlite, ffi};

/// What an error of SQLite means to whoever asked. Its own words go along: they name tables, columns and functions.
pub(super) fn fault(error: Error) -> MeshError {
    match error {
        Error::SqliteFailure(failure, message) => failed(failure, message.as_deref()),
        Error::SqlInputError { error, msg, .. } => failed(error, Some(&msg)),
        Error::MultipleStatement => {
            MeshError::new(ErrorCode::ReadOnly, "a sub-query must be one `SELECT`, and there are several statements")
        }
        other => MeshError::new(ErrorCode::SourceRefused, format!("SQLite: {other}")),
    }
}

fn failed(failure: ffi::Error, message: Option<&str>) -> MeshError {
    let code = match failure.code {
        // A file that is missing, locked away or on a failing disk may be there again, or be readable elsewhere.
        Sqlite::CannotOpen | Sqlite::SystemIoFailure | Sqlite::PermissionDenied | Sqlite::ReadOnly => {
            ErrorCode::SourceUnreachable
        }
        Sqlite::DatabaseBusy | Sqlite::DatabaseLocked | Sqlite::FileLockingProtocolFailed => ErrorCode::SourceBusy,
        Sqlite::OutOfMemory => ErrorCode::Memory,
        Sqlite::DiskFull => ErrorCode::DiskFull,
        Sqlite::AuthorizationForStatementDenied => ErrorCode::ReadOnly,
        Sqlite::OperationInterrupted => ErrorCode::Cancelled,
        _ => ErrorCode::SourceRefused,
    };
    let words = message.map_or_else(|| failure.to_string(), str::to_owned);
    MeshError::new(code, format!("SQLite: {words}"))
}
