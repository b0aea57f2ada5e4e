//! Connections of the door: accepted one after the other. Who comes when all seats are taken is let in to be told so,
//! with a code, and is then let go; of those too there is a bounded number, and the rest find the door closed.
//!
//! Where the door speaks TLS, each handshake is a task of its own with a time limit, and holds its seat from the start:
//! who dallies holds up nobody, and there are no more handshakes than seats.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::tls::ServerTls;

/// Clients at a time that are being told that there is no seat.
const REFUSED_MAX: usize = 32;
/// How long one of them may stay.
const REFUSED_TIME: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Longest TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// The clients that a door takes at a time, counted by whoever shows it.
pub trait Seats: Send + Sync + 'static {
    fn max(&self) -> u64;
    /// False, and counted as a refusal, if all are taken.
    fn take(&self) -> bool;
    fn release(&self);
}

/// Whether the connection that a call came by has a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Seated,
    /// There are only so many.
    Refused {
        max: u64,
    },
}

/// A seat until it is dropped.
struct Seat(Arc<dyn Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.release();
    }
}

enum Place {
    Seat(Seat),
    Refused { max: u64, until: Pin<Box<Sleep>>, _permit: OwnedSemaphorePermit },
}

/// Whom a call comes from, as the connection itself tells.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub admission: Admission,
    pub address: SocketAddr,
    /// DER of the certificate that it has shown, checked against the door's authorities.
    pub certificate: Option<Bytes>,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client's connection, which gives its seat back when it is dropped.
pub(super) struct Connection {
    wire: Wire,
    address: SocketAddr,
    place: Place,
}

/// Connections as they come, once they have shaken hands. An accept that fails (the client has gone, descriptors are
/// short) is passed over, and so is a handshake that does.
pub(super) fn accept(
    listener: TcpListener,
    seats: Arc<dyn Seats>,
    tls: Option<Arc<ServerTls>>,
) -> impl Stream<Item = io::Result<Connection>> {
    let entrance =
        Entrance { listener, seats, refused: Arc::new(Semaphore::new(REFUSED_MAX)), tls, shaking: JoinSet::new() };
    futures::stream::unfold(entrance, |mut entrance| async move {
        let connection = entrance.next().await;
        Some((connection, entrance))
    })
}

struct Entrance {
    listener: TcpListener,
    seats: Arc<dyn Seats>,
    refused: Arc<Semaphore>,
    tls: Option<Arc<ServerTls>>,
    /// Handshakes under way. Each holds a place, of which there is a bounded number.
    shaking: JoinSet<Option<Connection>>,
}

impl Entrance {
    async fn next(&mut self) -> io::Result<Connection> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        let Some(place) = place(&self.seats, &self.refused) else { continue };
                        // Small answers must not wait for acknowledgements. A socket that refuses this still works.
                        let _ = stream.set_nodelay(true);
                        match self.tls.clone() {
                            Some(tls) => drop(self.shaking.spawn(shake_hands(tls, stream, address, place))),
                            None => return Ok(Connection { wire: Wire::Plain(stream), address, place }),
                        }
                    }
                    Err(error) => {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        return Err(error);
                    }
                },
                Some(shaken) = self.shaking.join_next() => {
                    if let Ok(Some(connection)) = shaken {
                        return Ok(connection);
                    }
                }
            }
        }
    }
}

/// `None` if it comes to nothing.
async fn shake_hands(tls: Arc<ServerTls>, stream: TcpStream, address: SocketAddr, place: Place) -> Option<Connection> {
    let shaken = timeout(HANDSHAKE_TIME, async { TlsAcceptor::from(tls.current().await).accept(stream).await }).await;
    match shaken {
        Ok(Ok(stream)) => Some(Connection { wire: Wire::Tls(Box::new(stream)), address, place }),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a client's TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a client's TLS handshake took too long");
            None
        }
    }
}

/// `None` if there is not even room for telling it.
fn place(seats: &Arc<dyn Seats>, refused: &Arc<Semaphore>) -> Option<Place> {
    if seats.take() {
        return Some(Place::Seat(Seat(seats.clone())));
    }
    let max = seats.max();
    let permit = refused.clone().try_acquire_owned().ok()?;
    Some(Place::Refused { max, until: Box::pin(sleep(REFUSED_TIME)), _permit: permit })
}

impl Connected for Connection {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        let admission = match &self.place {
            Place::Seat(Seat(_)) => Admission::Seated,
            Place::Refused { max, .. } => Admission::Refused { max: *max },
        };
        let certificate = match &self.wire {
            Wire::Tls(stream) => stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()),
            Wire::Plain(_) => None,
        };
        let certificate = certificate.map(|certificate| Bytes::copy_from_slice(certificate));
        Caller { admission, address: self.address, certificate }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Place::Refused { until, .. } = &mut self.place
            && until.as_mut().poll(cx).is_ready()
        {
            // As if the client had gone.
            return Poll::Ready(Ok(()));
        }
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
