//! Keeping a link to one peer: dial while there is none, with growing pauses.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result};
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::{Backoff, Switchboard, membership::Peer, refusal};
use crate::{identity::certificate::node_of, mesh::LinkState};

/// Pauses between two dials.
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
const REDIAL_PAUSE_MAX: Duration = Duration::from_millis(1000);
/// How long the node that does not dial by rule waits for the other to do so. It dials in the end, because the other
/// may know an address that has changed since.
const YIELD: Duration = Duration::from_millis(500);
/// A link that lasted less counts as a failure, so that being refused after every dial does not become a storm.
const STABLE: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(super) async fn keep_linked(board: Arc<Switchboard>, peer: Peer) {
    if !peer.can_be_dialled() {
        return;
    }
    let mut states = board.links.watch();
    let mut backoff = Backoff::new(REDIAL_PAUSE_MIN, REDIAL_PAUSE_MAX, board.seed ^ peer.id.0);
    let mut last_code = None;
    loop {
        let Ok(_) = states.wait_for(|states| states.get(&peer.id) != Some(&LinkState::Connected)).await else { return };
        let mut watched = states.clone();
        let comes_up = watched.wait_for(|states| states.get(&peer.id) == Some(&LinkState::Connected));
        tokio::pin!(comes_up);
        let yields = board.preferred_dialler(peer.id) != board.me;
        if yields && tokio::time::timeout(YIELD, &mut comes_up).await.is_ok() {
            continue;
        }
        let started = Instant::now();
        match dial(&board, &peer).await {
            Ok(connection) => {
                last_code = None;
                connection.closed().await;
            }
            Err(error) => {
                if last_code.replace(error.code) != Some(error.code) {
                    tracing::warn!(peer = %peer.id, address = %peer.address, %error, "a member cannot be reached");
                }
                board.links.failed(peer.id, error);
            }
        }
        if started.elapsed() >= STABLE + board.endpoint.dial_timeout() {
            backoff.reset();
        }
        // A link that the peer has dialled in the meantime ends the pause.
        let _ = tokio::time::timeout(backoff.pause(), &mut comes_up).await;
    }
}

/// One try at each address of a peer.
async fn dial(board: &Arc<Switchboard>, peer: &Peer) -> Result<Connection> {
    let mut last = refusal::unreachable_peer("the peer has no address");
    let addresses = board.endpoint.resolve(&peer.address).await?;
    board.links.dialled(peer.id, &addresses);
    for address in addresses {
        let connection = match board.endpoint.dial(address).await {
            Ok(connection) => connection,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let answered = match identified(&connection) {
            Ok(found) if found == peer.id => board.clone().attach(connection.clone(), peer.id, board.me).await,
            Ok(found) => {
                connection.close(refusal::CODE_BYE.into(), b"another node was meant");
                Err(refusal::unreachable_peer(&format!("{found} answers at its address")))
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok(()) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Which member is at the other end, by the certificate that TLS has verified. GL4003 without one.
pub(super) fn identified(connection: &Connection) -> Result<NodeId> {
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    match chain.as_deref().and_then(|chain| chain.first()) {
        Some(certificate) => node_of(certificate),
        None => Err(MeshError::new(ErrorCode::NoCertificate, "the mesh protocol needs a client certificate")),
    }
}
