//! Real UDP sockets on tokio.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};

use super::SocketFactory;

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
}
