//! A QUIC bi-stream as the transport of one ractor_cluster session. The peer's node id is the one that its certificate
//! proved, and the only thing about it that is believed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use greylag_protocol::NodeId;
use quinn::{RecvStream, SendStream};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(super) struct SessionStream {
    pub peer: NodeId,
    pub send: SendStream,
    pub recv: RecvStream,
}

impl ClusterBidiStream for SessionStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (Box::new(self.recv), Box::new(self.send))
    }

    /// The label is how the peer's id passes through ractor_cluster's own types: see [`labelled`].
    fn peer_label(&self) -> Option<String> {
        Some(self.peer.to_string())
    }
}

/// The node of a label.
pub(super) fn labelled(label: &str) -> Option<NodeId> {
    label.strip_prefix('n')?.parse().ok().map(NodeId)
}

/// A half of a stream that breaks when its session ends: ractor_cluster leaves the task that writes waiting for a
/// peer that takes nothing, even after it has killed everything else.
pub(super) struct Severable<S> {
    inner: S,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Severable<S> {
    pub(super) fn new(inner: S, token: &CancellationToken) -> Self {
        Self { inner, severed: Box::pin(token.clone().cancelled_owned()) }
    }

    fn poll_severed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.severed.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "the session has ended"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_severed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_severed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn labels_are_node_ids_and_nothing_else() {
        assert_eq!(labelled(&NodeId(12).to_string()), Some(NodeId(12)));
        for label in ["", "n", "12", "n-1", "n1x", "external"] {
            assert_eq!(labelled(label), None, "{label}");
        }
    }

    #[tokio::test]
    async fn a_severed_stream_frees_whoever_waits_for_it() {
        let token = CancellationToken::new();
        let (near, far) = tokio::io::duplex(8);
        let (mut near, mut other) = (Severable::new(near, &token), Severable::new(far, &token));
        near.write_all(b"12345678").await.unwrap();
        let stuck = tokio::spawn(async move { near.write_all(b"9").await });
        let mut taken = [0; 4];
        other.read_exact(&mut taken).await.unwrap();
        stuck.await.unwrap().unwrap();
        let (near, _far) = tokio::io::duplex(1);
        let mut near = Severable::new(near, &token);
        let stuck = tokio::spawn(async move { near.write_all(b"12").await });
        tokio::task::yield_now().await;
        token.cancel();
        assert_eq!(stuck.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
