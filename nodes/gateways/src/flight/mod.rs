//! The Flight SQL door: gRPC over TLS, plaintext on loopback only.
//!
//! `front` authenticates every call and hands it on with its session; `door` speaks Flight SQL; `metadata` answers
//! catalog questions by asking SQL, so that they pass policy like everything else; `results` streams. What a client
//! must bring back later (`ticket`) is sealed and whole in itself: the door keeps no state between calls.
//!
//! Not here: who a caller is (`identity`), TLS itself (`tls`), updates, ingest, transactions, Substrait.

mod actions;
pub mod address;
pub mod client;
mod connections;
mod door;
mod front;
pub mod handle;
mod info;
mod jobs;
mod keys;
mod metadata;
mod needs;
mod parameters;
mod results;
pub mod roaming;
mod running;
mod session;
pub mod session_proto;
mod setting;
pub mod status;
pub mod ticket;
mod types;

use std::{sync::Arc, time::Duration};

use arrow_flight::flight_service_server::FlightServiceServer;
use greylag_protocol::{ErrorCode, MeshError, Result, statement::StatementService};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use actions::{ADMIN_ACTION, CANCEL_ACTION};
pub use connections::Seats;
pub use door::Doors;
pub use jobs::POLL_WAIT_MAX;
pub use results::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_SPLIT};
pub use session::{COOKIE, RESUME_HEADER};

pub(crate) use door::now_unix_ms;

use crate::{identity::Authenticator, tls::ServerTls};
use front::Front;
use ticket::Sealer;

/// Response header of a running statement: its `QueryId`.
pub const QUERY_HEADER: &str = "greylag-query";
/// Largest message that a client may send: a statement, parameters, or a ticket on its way back.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Most calls that one connection may have open.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
/// A client that does not answer a ping within this time after this interval is gone, and its statements with it.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for open calls when the door closes. They end at once with GL5005; this is for clients that do not
/// read it.
const CLOSING_GRACE: Duration = Duration::from_secs(3);

/// What stands behind a door.
#[derive(Clone)]
pub struct DoorParts {
    pub service: Arc<dyn StatementService>,
    pub authenticator: Arc<Authenticator>,
    /// `None`: plaintext, which only a door on loopback may speak.
    pub tls: Option<Arc<ServerTls>>,
    /// Doors that share a sealer honour each other's tickets.
    pub sealer: Arc<dyn Sealer>,
    pub doors: Doors,
    /// `host:port` by which clients know this door among `doors`; the listener's address if there is none.
    pub advertised: Option<String>,
    /// Clients that it takes.
    pub seats: Arc<dyn Seats>,
}

/// Serves the door on this listener until `closing`. GL6001 if the listener is not on loopback and the door
/// speaks no TLS.
pub async fn serve(listener: TcpListener, parts: DoorParts, closing: CancellationToken) -> Result<()> {
    let address = listener.local_addr().map_err(|e| MeshError::internal(format!("a listener has no address: {e}")))?;
    if parts.tls.is_none() && !address.ip().is_loopback() {
        return Err(MeshError::new(
            ErrorCode::InvalidConfig,
            format!("`flight` = `{address}`: without TLS the door opens on loopback only"),
        ));
    }
    let connections = connections::accept(listener, parts.seats.clone(), parts.tls.clone());
    let own = parts.advertised.clone().unwrap_or_else(|| address.to_string());
    let front = FlightServiceServer::new(Front::new(parts, own, closing.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX + (64 << 10));
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(front)
        .serve_with_incoming_shutdown(connections, closing.clone().cancelled_owned());
    tokio::select! {
        served = server => served.map_err(|e| MeshError::internal(format!("the Flight SQL door failed: {e}"))),
        () = async { closing.cancelled().await; tokio::time::sleep(CLOSING_GRACE).await } => Ok(()),
    }
}
