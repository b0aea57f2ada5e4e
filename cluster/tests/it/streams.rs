//! Streams between members, with frames on them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use greylag_cluster::{
    Incoming, LinkState,
    transport::{FrameReader, FrameWriter, refusal},
};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId,
    frame::{FrameKind, HEAD_BYTES, StreamTag},
    state::Command,
};

use crate::node::{Node, assert_code, form, founding_sites, source, until};

/// Two members with a link, the second of which answers data streams with `serve`.
fn pair<F: Future<Output = ()> + Send + 'static>(serve: fn(Incoming) -> F) -> (Node, Node) {
    let mut nodes = form(&founding_sites(2));
    let (second, first) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    until("a link", || first.link(second.id()) == Some(LinkState::Connected));
    let mut streams = second.mesh.serve(StreamTag::Data).unwrap();
    assert!(second.mesh.serve(StreamTag::Data).is_err(), "one serves a tag");
    second.spawn(async move {
        while let Some(stream) = streams.recv().await {
            tokio::spawn(serve(stream));
        }
    });
    (first, second)
}

async fn echo(stream: Incoming) {
    let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
    loop {
        match reader.read_frame().await {
            Ok(Some((kind, payload))) => writer.write_frame(kind, payload).await.unwrap(),
            Ok(None) => return writer.finish().unwrap(),
            Err(error) => {
                let _ = writer.send_error(&error).await;
                return writer.finish().unwrap();
            }
        }
    }
}

async fn opened(node: &Node, to: NodeId) -> (FrameReader, FrameWriter) {
    let (send, recv) = node.mesh.open(to, StreamTag::Data).await.unwrap();
    (FrameReader::new(recv), FrameWriter::new(send))
}

#[test]
fn frames_come_as_they_were_sent_whatever_their_size() {
    let (first, second) = pair(echo);
    let sizes = [0, 1, HEAD_BYTES, 1200, 64 << 10, (1 << 20) + 7, 8 << 20];
    first.block_on(async {
        for to in [second.id()] {
            let (mut reader, mut writer) = opened(&first, to).await;
            for (ordinal, size) in sizes.into_iter().enumerate() {
                let payload: Bytes = (0..size).map(|at| (at * 31 + ordinal) as u8).collect::<Vec<u8>>().into();
                writer.write_frame(FrameKind::Batch, payload.clone()).await.unwrap();
                assert_eq!(reader.expect(FrameKind::Batch).await.unwrap(), payload);
            }
            writer.send(FrameKind::Control, &(7u64, "seven".to_owned())).await.unwrap();
            assert_eq!(reader.recv::<(u64, String)>(FrameKind::Control).await.unwrap(), (7, "seven".to_owned()));
            writer.finish().unwrap();
            reader.expect_end().await.unwrap();
            writer.delivered().await.unwrap();
        }
    });
    let bulk = std::time::Instant::now();
    let bytes = first.block_on(async {
        let (mut reader, mut writer) = opened(&first, second.id()).await;
        let payload = Bytes::from(vec![7u8; 4 << 20]);
        let sending = async {
            for _ in 0..16 {
                writer.write_frame(FrameKind::Batch, payload.clone()).await.unwrap();
            }
            writer.finish().unwrap();
        };
        let receiving = async {
            let mut bytes = 0;
            while let Some((_, payload)) = reader.read_frame().await.unwrap() {
                bytes += payload.len();
            }
            bytes
        };
        tokio::join!(sending, receiving).1
    });
    assert_eq!(bytes, 64 << 20);
    println!("echo_mb_per_s={:.0}", 64.0 / bulk.elapsed().as_secs_f64());
}

#[test]
fn a_node_opens_streams_to_itself_as_to_others() {
    let (first, second) = pair(echo);
    second.block_on(async {
        for _ in 0..3 {
            let (mut reader, mut writer) = opened(&second, second.id()).await;
            writer.write_frame(FrameKind::Request, Bytes::from_static(b"me")).await.unwrap();
            writer.finish().unwrap();
            assert_eq!(reader.expect(FrameKind::Request).await.unwrap(), "me");
        }
    });
    assert!(second.link(second.id()).is_none(), "that is no link to a peer");
    let error = first.block_on(first.mesh.open(NodeId(9), StreamTag::Data)).unwrap_err();
    assert_code(&error, ErrorCode::PeerUnreachable);
}

#[test]
fn what_is_too_large_unknown_or_cut_off_is_refused() {
    let (first, second) = pair(echo);
    let head = |kind: u8, len: u32| [&[kind][..], &len.to_le_bytes()].concat();
    let batch = FrameKind::Batch as u8;
    for (name, bytes, code) in [
        ("too large", head(batch, u32::MAX), ErrorCode::FrameTooLarge),
        ("too large by one", head(FrameKind::Error as u8, (64 << 10) + 1), ErrorCode::FrameTooLarge),
        ("unknown kind", head(200, 1), ErrorCode::MalformedFrame),
        ("half a head", head(batch, 7)[..3].to_vec(), ErrorCode::TruncatedStream),
        ("no payload", head(batch, 7), ErrorCode::TruncatedStream),
        ("half a payload", [head(batch, 7), b"abc".to_vec()].concat(), ErrorCode::TruncatedStream),
    ] {
        let error = first.block_on(async {
            let (mut send, recv) = first.mesh.open(second.id(), StreamTag::Data).await.unwrap();
            // The peer may have stopped the stream before all is written.
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            FrameReader::new(recv).expect(FrameKind::Batch).await.unwrap_err()
        });
        assert_eq!(error.code, code, "{name}: {error}");
    }
    let error = first.block_on(async {
        let (_, mut writer) = opened(&first, second.id()).await;
        writer.write_frame(FrameKind::Trailer, vec![0; (64 << 10) + 1].into()).await.unwrap_err()
    });
    assert_code(&error, ErrorCode::FrameTooLarge);
}

/// Answers one frame, and then does what the request says.
async fn moody(stream: Incoming) {
    let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
    let request = reader.expect(FrameKind::Request).await.unwrap();
    writer.write_frame(FrameKind::Batch, Bytes::from_static(b"rows")).await.unwrap();
    match &request[..] {
        b"drop" => drop(writer),
        b"panic" => panic!("on purpose"),
        b"reset" => writer.reset(ErrorCode::SourceBusy),
        b"error" => {
            let error = MeshError::new(ErrorCode::NoEdge, "nobody").at_node(NodeId(5));
            writer.send_error(&error).await.unwrap();
            writer.finish().unwrap();
        }
        b"end" => writer.finish().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn work_that_dies_half_done_never_looks_like_an_end() {
    let (first, second) = pair(moody);
    for (request, code) in [
        ("drop", ErrorCode::TruncatedStream),
        ("panic", ErrorCode::TruncatedStream),
        ("reset", ErrorCode::SourceBusy),
        ("error", ErrorCode::NoEdge),
        ("end", ErrorCode::TruncatedStream),
    ] {
        let error = first.block_on(async {
            let (mut reader, mut writer) = opened(&first, second.id()).await;
            writer.write_frame(FrameKind::Request, Bytes::copy_from_slice(request.as_bytes())).await.unwrap();
            writer.finish().unwrap();
            let mut answer = reader.expect(FrameKind::Batch).await;
            if answer.is_ok() {
                answer = reader.expect(FrameKind::Trailer).await;
            }
            answer.unwrap_err()
        });
        assert_eq!(error.code, code, "{request}: {error}");
    }
}

/// Streams whose peers have given up, with the code that says so.
static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

/// Never answers.
async fn patient(stream: Incoming) {
    if stream.send.stopped().await.is_ok_and(|code| code == Some(refusal::code(ErrorCode::Cancelled))) {
        GIVEN_UP.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn more_streams_than_the_peer_allows_wait_and_then_fail_by_name() {
    let sites: Vec<_> = founding_sites(2)
        .into_iter()
        .map(|mut site| {
            site.config.limits.peer_streams_max = 8;
            site
        })
        .collect();
    let mut nodes = form(&sites);
    let (second, first) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    until("a link", || first.link(second.id()) == Some(LinkState::Connected));
    let mut streams = second.mesh.serve(StreamTag::Control).unwrap();
    second.spawn(async move {
        while let Some(stream) = streams.recv().await {
            tokio::spawn(patient(stream));
        }
    });
    first.block_on(async {
        let mut held = Vec::new();
        let error = loop {
            match first.mesh.open(second.id(), StreamTag::Control).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() <= 8);
        };
        assert_code(&error, ErrorCode::PeerUnreachable);
        assert!(held.len() >= 4, "Raft and others use some: {}", held.len());
        let count = held.len();
        for (send, recv) in held {
            drop(send);
            FrameReader::new(recv).stop(ErrorCode::Cancelled);
        }
        until("the peer hears of it", || GIVEN_UP.load(Ordering::SeqCst) == count);
        // Freed streams can be used again, once the peer has noticed.
        let again = async {
            while first.mesh.open(second.id(), StreamTag::Control).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    });
}

/// Reads nothing, until its peer goes away.
async fn deaf(stream: Incoming) {
    let Incoming { send, recv, .. } = stream;
    let _ = send.stopped().await;
    drop(recv);
}

#[test]
fn streams_that_nobody_reads_hold_up_nothing_else() {
    let (first, second) = pair(deaf);
    let filled = std::sync::Arc::new(AtomicUsize::new(0));
    first.block_on(async {
        for _ in 0..64 {
            let (_reader, mut writer) = opened(&first, second.id()).await;
            let filled = filled.clone();
            first.spawn(async move {
                let _reader = _reader;
                loop {
                    let payload = Bytes::from(vec![1; 256 << 10]);
                    let writing = writer.write_frame(FrameKind::Batch, payload);
                    match tokio::time::timeout(Duration::from_secs(1), writing).await {
                        Ok(sent) => sent.unwrap(),
                        Err(_) => break,
                    }
                }
                filled.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            });
        }
    });
    until("every stream is full", || filled.load(Ordering::SeqCst) == 64);
    for node in [&first, &second] {
        let since = std::time::Instant::now();
        for ordinal in 0..10 {
            let command = Command::ApplySource { spec: source(&format!("s_{ordinal}")), expect_version: None };
            node.block_on(node.mesh.propose(command)).unwrap();
        }
        println!("write_beside_full_streams_ms={}", since.elapsed().as_millis() / 10);
        let other = if node.id() == first.id() { second.id() } else { first.id() };
        assert_eq!(node.link(other), Some(LinkState::Connected));
    }
}
