//! The node's one UDP endpoint: both protocols, both directions.
//!
//! It knows nothing of members: who may stay is decided where connections are accepted and dialled.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};

use greylag_config::{Limits, Timing};
use greylag_protocol::{ErrorCode, MeshError, Result, messages::join::JOIN_BYTES_MAX};
use quinn::{
    ClientConfig, Connection, EndpointConfig, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::{refusal, tls};
use crate::{
    identity::{NodeKey, certificate::COMMON_NAME},
    seams::Seams,
};

/// Round trip assumed before one has been measured. quinn's 333 ms makes a lost first packet cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Bytes that a peer may send on one stream before we have read them: a few batches.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes that somebody who has not shown who it is may send: two join requests.
const STRANGER_WINDOW_BYTES: u32 = 2 * JOIN_BYTES_MAX as u32;
/// Streams that a stranger may open.
const STRANGER_STREAMS_MAX: u32 = 1;
/// Bytes of ours that one connection holds until they are acknowledged.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Handshakes waiting to be taken up.
const INCOMING_MAX: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    quinn: quinn::Endpoint,
    /// Towards members that have shown their certificate.
    member: Arc<TransportConfig>,
    /// Towards everybody else.
    stranger: Arc<TransportConfig>,
    peer_streams_max: u32,
    seams: Seams,
    /// Set once the node is a member.
    dialler: Arc<RwLock<Option<ClientConfig>>>,
    /// Longest a dial may take.
    dial_timeout: Duration,
}

impl Endpoint {
    /// Binds the port. Nothing is answered yet.
    pub(crate) async fn bind(
        listen: SocketAddr,
        key: &NodeKey,
        seams: &Seams,
        limits: &Limits,
        timing: &Timing,
    ) -> Result<Self> {
        let socket = seams.sockets.bind(listen).await.map_err(|error| {
            MeshError::new(ErrorCode::InvalidConfig, format!("`listen`: UDP {listen} cannot be bound: {error}"))
        })?;
        let config = EndpointConfig::new(Arc::new(key.reset_key()));
        let quinn = quinn::Endpoint::new_with_abstract_socket(config, None, socket, seams.sockets.runtime())
            .map_err(|error| MeshError::internal(format!("the QUIC endpoint could not be started: {error}")))?;
        let peer_streams_max = limits.peer_streams_max;
        let mut member = transport(timing)?;
        member.max_concurrent_bidi_streams(peer_streams_max.into()).receive_window(connection_window(peer_streams_max));
        let mut stranger = transport(timing)?;
        stranger.max_concurrent_bidi_streams(STRANGER_STREAMS_MAX.into()).receive_window(STRANGER_WINDOW_BYTES.into());
        Ok(Self {
            quinn,
            member: Arc::new(member),
            stranger: Arc::new(stranger),
            peer_streams_max,
            seams: seams.clone(),
            dialler: Arc::default(),
            dial_timeout: Duration::from_millis(timing.idle_timeout_ms.max(1000)),
        })
    }

    /// Answers joiners alone, as a node without a mesh.
    pub(crate) fn serve_fresh(&self) -> Result<()> {
        self.serve(tls::fresh_server(self.seams.clock.clone())?)
    }

    /// Answers members and joiners, and can dial members.
    pub(crate) fn serve_member(&self, credentials: &tls::Credentials) -> Result<()> {
        let client = tls::member_client(credentials, self.seams.clock.clone())?;
        *self.dialler.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(client_of(client, &self.member)?);
        self.serve(tls::member_server(credentials, self.seams.clock.clone())?)
    }

    /// How seeds are dialled with a token that pins this authority, or none.
    pub(crate) fn join_dialler(&self, pin: Option<[u8; 32]>) -> Result<ClientConfig> {
        client_of(tls::join_client(pin, self.seams.clock.clone())?, &self.stranger)
    }

    /// Dials a member. The caller must check which one answered, and that it answers at all: TLS 1.3 lets a client
    /// believe in a connection that its server has refused.
    pub(crate) async fn dial(&self, address: SocketAddr) -> Result<Connection> {
        let config = self.dialler.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let config = config.ok_or_else(|| MeshError::internal("a node without a certificate cannot dial members"))?;
        self.dial_with(config, address).await
    }

    pub(crate) async fn dial_with(&self, config: ClientConfig, address: SocketAddr) -> Result<Connection> {
        let dialling = self.quinn.connect_with(config, address, COMMON_NAME);
        let dialling = dialling.map_err(|error| refusal::of_connect(&error))?;
        match tokio::time::timeout(self.dial_timeout, dialling).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(refusal::of_connection(&error)),
            Err(_) => Err(refusal::unreachable_peer("the peer does not answer")),
        }
    }

    /// Gives a member that has dialled us what members may use. Until then it has no more than a stranger.
    pub(super) fn trust(&self, connection: &Connection) {
        connection.set_max_concurrent_bi_streams(self.peer_streams_max.into());
        connection.set_receive_window(connection_window(self.peer_streams_max));
    }

    /// Addresses behind `host:port`. GL4013 if there is none.
    pub(crate) async fn resolve(&self, host_port: &str) -> Result<Vec<SocketAddr>> {
        let found = tokio::time::timeout(self.dial_timeout, self.seams.sockets.resolve(host_port)).await;
        match found {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(refusal::unreachable_peer(&format!("`{host_port}` cannot be resolved: {error}"))),
            Err(_) => Err(refusal::unreachable_peer(&format!("`{host_port}` cannot be resolved in time"))),
        }
    }

    /// The next connection that somebody opens; `None` once the endpoint is closed.
    pub(crate) async fn accept(&self) -> Option<quinn::Incoming> {
        self.quinn.accept().await
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr> {
        self.quinn.local_addr().map_err(|error| MeshError::internal(format!("the endpoint has no address: {error}")))
    }

    /// Address under which this node reaches itself.
    pub(crate) fn own_address(&self) -> Result<SocketAddr> {
        let mut address = self.local_address()?;
        if address.ip().is_unspecified() {
            let loopback: IpAddr =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        Ok(address)
    }

    /// Longest that a dial may take.
    pub(super) fn dial_timeout(&self) -> Duration {
        self.dial_timeout
    }

    /// Closes every connection, without waiting for anything.
    pub(crate) fn close_now(&self) {
        self.quinn.close(VarInt::from_u32(refusal::CODE_BYE), b"the node goes away");
    }

    /// Closes every connection, and waits at most `limit` for the peers to be told.
    pub(crate) async fn close(&self, limit: Duration) {
        self.quinn.close(VarInt::from_u32(refusal::CODE_BYE), b"the node shuts down");
        // Past the limit the peers notice by themselves.
        let _ = tokio::time::timeout(limit, self.quinn.wait_idle()).await;
    }

    fn serve(&self, tls: rustls::ServerConfig) -> Result<()> {
        let crypto = QuicServerConfig::try_from(tls)
            .map_err(|error| MeshError::internal(format!("QUIC could not be set up: {error}")))?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(self.stranger.clone());
        config.max_incoming(INCOMING_MAX);
        self.quinn.set_server_config(Some(config));
        Ok(())
    }
}

fn client_of(tls: rustls::ClientConfig, transport: &Arc<TransportConfig>) -> Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|error| MeshError::internal(format!("QUIC could not be set up: {error}")))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport.clone());
    Ok(config)
}

/// Room for every stream's window: were it less, a few streams that nobody reads would hold up Raft's as well.
fn connection_window(streams: u32) -> VarInt {
    VarInt::from_u64(u64::from(STREAM_WINDOW_BYTES) * (u64::from(streams) + 1)).unwrap_or(VarInt::MAX)
}

/// What both kinds of connection have in common.
fn transport(timing: &Timing) -> Result<TransportConfig> {
    let idle = Duration::from_millis(timing.idle_timeout_ms)
        .try_into()
        .map_err(|_| MeshError::new(ErrorCode::InvalidConfig, "`timing.idle_timeout_ms` is too large for QUIC"))?;
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(Duration::from_millis(timing.keep_alive_ms)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .initial_rtt(INITIAL_RTT);
    Ok(transport)
}
