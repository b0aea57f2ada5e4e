//! Real UDP sockets on tokio, and what can be told of a process from outside.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};

use super::{Probe, SocketFactory};

/// Longest that a probe waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);
/// A port that nothing listens on, so that a machine says so if it is there.
const CLOSED_PORT: u16 = 1;
/// Servers answer an unknown version in a datagram of at least this size (RFC 9000, 5.2.2).
const QUIC_INITIAL_BYTES: usize = 1200;

#[derive(Debug)]
pub(super) struct UdpSockets;

#[async_trait::async_trait]
impl SocketFactory for UdpSockets {
    async fn bind(&self, listen: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(UdpSocket::bind(listen)?)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(TokioRuntime)
    }

    async fn probe(&self, address: SocketAddr) -> Probe {
        // One that has much to do may be late once.
        match probe_once(address).await {
            Probe::Stuck => match probe_once(address).await {
                // A machine says only so often that nothing listens.
                Probe::Nothing => Probe::Stuck,
                other => other,
            },
            other => other,
        }
    }
}

async fn probe_once(address: SocketAddr) -> Probe {
    let machine = SocketAddr::new(address.ip(), CLOSED_PORT);
    match tokio::join!(answer(address), answer(machine)) {
        (Some(Ok(())), _) => Probe::Answers,
        (Some(Err(error)), _) if error.kind() == io::ErrorKind::ConnectionRefused => Probe::Refused,
        (None, Some(_)) => Probe::Stuck,
        _ => Probe::Nothing,
    }
}

/// What comes back from an address to a QUIC packet of a version that does not exist: a list of versions, the machine's
/// refusal, or nothing in time.
async fn answer(address: SocketAddr) -> Option<io::Result<()>> {
    let asking = async {
        let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = tokio::net::UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        // A connected socket is told when a datagram was refused.
        socket.connect(address).await?;
        socket.send(&unknown_version()).await?;
        socket.recv(&mut [0; QUIC_INITIAL_BYTES]).await.map(|_| ())
    };
    match tokio::time::timeout(PROBE_TIMEOUT, asking).await {
        // No way there is no answer of the machine.
        Ok(Err(error)) if error.kind() != io::ErrorKind::ConnectionRefused => None,
        answered => answered.ok(),
    }
}

/// A long header, a version that is reserved to be unknown, two connection ids of eight bytes, padding.
fn unknown_version() -> Vec<u8> {
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    packet.extend([7; 8]);
    packet.push(8);
    packet.extend([9; 8]);
    packet.resize(QUIC_INITIAL_BYTES, 0);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_reads_is_told_from_one_that_nobody_holds() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(UdpSockets.probe(address).await, Probe::Stuck);
        drop(held);
        assert_eq!(UdpSockets.probe(address).await, Probe::Refused);
    }
}
