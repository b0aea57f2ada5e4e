//! Connections of the door: accepted one after the other. Who comes when all seats are taken is let in to be told so,
//! with a code, and is then let go; of those too there is a bounded number, and the rest find the door closed.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

/// Clients at a time that are being told that there is no seat.
const REFUSED_MAX: usize = 32;
/// How long one of them may stay.
const REFUSED_TIME: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

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

/// A client's connection, which gives its seat back when it is dropped.
pub(super) struct Connection {
    stream: TcpStream,
    place: Place,
}

/// Connections as they come. An accept that fails (the client has gone, descriptors are short) is passed over.
pub(super) fn accept(listener: TcpListener, seats: Arc<dyn Seats>) -> impl Stream<Item = io::Result<Connection>> {
    let refused = Arc::new(Semaphore::new(REFUSED_MAX));
    futures::stream::unfold((listener, seats, refused), |(listener, seats, refused)| async move {
        let connection = loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Some(place) = place(&seats, &refused) else { continue };
                    // Small answers must not wait for acknowledgements. A socket that refuses this still works.
                    let _ = stream.set_nodelay(true);
                    break Ok(Connection { stream, place });
                }
                Err(error) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    break Err(error);
                }
            }
        };
        Some((connection, (listener, seats, refused)))
    })
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
    type ConnectInfo = Admission;
    fn connect_info(&self) -> Admission {
        match &self.place {
            Place::Seat(Seat(_)) => Admission::Seated,
            Place::Refused { max, .. } => Admission::Refused { max: *max },
        }
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
