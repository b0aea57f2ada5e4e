//! The Flight SQL door: gRPC, bearer tokens, plaintext on loopback only.
//!
//! `front` authenticates every call and hands it on with its session; `door` speaks Flight SQL; `metadata` answers
//! catalog questions by asking SQL, so that they pass policy like everything else; `results` streams. What a client
//! must bring back later (`ticket`) is sealed and whole in itself: the door keeps no state between calls.
//!
//! Not here: TLS (so nothing listens off loopback), updates, ingest, transactions, Substrait.

mod actions;
pub mod client;
mod connections;
mod door;
mod front;
mod info;
mod keys;
mod metadata;
mod parameters;
mod results;
mod running;
mod session;
pub mod session_proto;
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
pub use connections::CONNECTIONS_MAX;
pub use results::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_SPLIT};
pub use session::COOKIE;

use crate::bearer::Verifier;
use front::Front;
use ticket::{ProcessSealer, Sealer};

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

/// Serves the door on this listener until `closing`. GL6001 if the listener is not on loopback.
///
/// Tickets are sealed with a key of this process, so each must be redeemed where it was made.
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn StatementService>,
    verifier: Verifier,
    closing: CancellationToken,
) -> Result<()> {
    let sealer = Arc::new(ProcessSealer::new()?);
    serve_sealed(listener, service, verifier, sealer, closing).await
}

/// As [`serve`], with tickets sealed by `sealer`: doors that share a sealer honour each other's tickets.
pub async fn serve_sealed(
    listener: TcpListener,
    service: Arc<dyn StatementService>,
    verifier: Verifier,
    sealer: Arc<dyn Sealer>,
    closing: CancellationToken,
) -> Result<()> {
    let address = listener.local_addr().map_err(|e| MeshError::internal(format!("a listener has no address: {e}")))?;
    if !address.ip().is_loopback() {
        return Err(MeshError::new(
            ErrorCode::InvalidConfig,
            format!("`flight` = `{address}`: without TLS the door opens on loopback only"),
        ));
    }
    let front = FlightServiceServer::new(Front::new(service, verifier, sealer, closing.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX + (64 << 10));
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(front)
        .serve_with_incoming_shutdown(connections::accept(listener), closing.clone().cancelled_owned());
    tokio::select! {
        served = server => served.map_err(|e| MeshError::internal(format!("the Flight SQL door failed: {e}"))),
        () = async { closing.cancelled().await; tokio::time::sleep(CLOSING_GRACE).await } => Ok(()),
    }
}
