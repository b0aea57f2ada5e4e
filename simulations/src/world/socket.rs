//! quinn on turmoil's UDP: one datagram at a time, every one of them in the trace.

use std::{
    fmt, io,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use greylag_cluster::seams::SocketFactory;
use quinn::{
    AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::trace;

/// Largest datagram that the simulated path carries: an Ethernet frame less IPv4 and UDP heads.
const DATAGRAM_BYTES_MAX: usize = 1500 - 28;

/// Sockets of one host. Names resolve to the other hosts of the simulation.
#[derive(Debug)]
pub struct SimSockets {
    pub ip: IpAddr,
}

#[async_trait::async_trait]
impl SocketFactory for SimSockets {
    async fn bind(&self, listen: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = turmoil::net::UdpSocket::bind(("0.0.0.0", listen.port())).await?;
        let local = SocketAddr::new(self.ip, socket.local_addr()?.port());
        Ok(Arc::new(SimUdp { socket: Arc::new(socket), local, readable: Mutex::new(None) }))
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime)
    }

    async fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host_port.parse() {
            return Ok(vec![address]);
        }
        let (host, port) = host_port.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let port: u16 = port.parse().map_err(io::Error::other)?;
        Ok(vec![SocketAddr::new(turmoil::lookup(host), port)])
    }
}

#[derive(Debug)]
struct SimRuntime;

impl Runtime for SimRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(SimTimer(Box::pin(tokio::time::sleep_until(at.into()))))
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(task);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there are no real sockets in a simulation"))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[derive(Debug)]
struct SimTimer(Pin<Box<tokio::time::Sleep>>);

impl AsyncTimer for SimTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.as_mut().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<()> {
        // Spelled out: quinn implements its own `poll` for tokio's `Sleep`.
        Future::poll(self.0.as_mut(), context)
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct SimUdp {
    socket: Arc<turmoil::net::UdpSocket>,
    local: SocketAddr,
    /// The pending wait for a datagram. It holds the socket's own lock, so it must end before one is taken.
    readable: Mutex<Option<Readable>>,
}

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimUdp({})", self.local)
    }
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        if transmit.contents.len() > DATAGRAM_BYTES_MAX {
            return Ok(());
        }
        trace::datagram("tx", self.local, transmit.destination, transmit.contents);
        match self.socket.try_send_to(transmit.contents, transmit.destination) {
            Ok(_) => Ok(()),
            // To a host that is not there: lost, as on a real network. An error would end the endpoint.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut readable = self.readable.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(waiting) = readable.as_mut() {
                match waiting.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(done) => {
                        *readable = None;
                        done?;
                    }
                }
            }
            let mut received = 0;
            while received < buffers.len().min(meta.len()) {
                match self.socket.try_recv_from(&mut buffers[received]) {
                    Ok((len, addr)) => {
                        trace::datagram("rx", addr, self.local, &buffers[received][..len]);
                        meta[received] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                        received += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if received > 0 {
                return Poll::Ready(Ok(received));
            }
            let socket = self.socket.clone();
            *readable = Some(Box::pin(async move { socket.readable().await }));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
