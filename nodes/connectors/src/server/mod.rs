//! What connectors to database servers share: the options that say where a server is and how to reach it, TLS, the
//! bounded pool of connections, the time limits of a statement, columns being filled, and the task that carries batches. It speaks no
//! database's protocol.

pub(crate) mod columns;
mod guard;
mod limits;
mod options;
mod pool;
mod pump;
pub(crate) mod tls;

pub(crate) use guard::check_is_query;
pub(crate) use limits::{Expiry, label_comment, server_timeout_ms};
pub(crate) use options::{Place, ServerOptions, TlsMode};
pub(crate) use pool::{Lease, Pool};
pub(crate) use pump::{Producer, pump};
