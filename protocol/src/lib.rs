//! What is said between the parts of a mesh: identifiers, errors, frames, Arrow IPC on streams, messages and
//! the replicated state with its commands.
//!
//! It is pure data and pure functions: no sockets, no clock, no tokio, no actors, no query engine. Everything
//! that crosses a process boundary is defined here, with its limits, and nowhere else.

pub mod admin;
pub mod digest;
pub mod error;
pub mod filter;
pub mod frame;
pub mod ids;
pub mod ipc;
pub mod messages;
pub mod obligation;
pub mod prefix;
pub mod principal;
pub mod schema;
pub mod state;
pub mod statement;
pub mod step;
pub mod wire;

pub use error::{ErrorClass, ErrorCode, MeshError, Result};
pub use ids::{AttemptId, Epoch, JobId, MeshId, NodeId, NodeUuid, QueryId, SourceName, SubqueryId, TraceId};
