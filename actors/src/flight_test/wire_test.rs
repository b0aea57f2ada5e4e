//! The data stream's two ends against one that does not keep the rules: an edge that sends less, more or something else
//! than it says, and a coordinator that is none.

use bytes::Bytes;
use greylag_cluster::{
    Incoming,
    transport::{FrameReader, FrameWriter},
};
use greylag_protocol::{
    AttemptId, Epoch, NodeId, QueryId, SubqueryId, TraceId,
    digest::StreamDigest,
    frame::{FrameKind, REQUEST_BYTES_MAX},
    ipc::Encoder,
    messages::edge::{
        Compression, EDGE_CALL_VERSION, EdgeCall, EdgeReply, EdgeRequest, SignedSubquery, Subquery, Trailer,
    },
    prefix::Prefix,
    schema::WireSchema,
    state::{Command, RoleCount, RoleWanted},
    wire,
};
use tokio::sync::mpsc;

use super::{source::schema, *};

const ROWS: u64 = 250;

/// What an impostor does after two batches that are as they should be but for their values.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Ends the stream.
    NoTrailer,
    /// Resets the stream.
    Reset,
    /// Ends the stream in the middle of a frame.
    CutFrame,
    OtherDigest,
    MoreRows,
    OtherAttempt,
    /// Goes on after a batch that is not full.
    ShortBatch,
    /// Sends bytes that are no batch.
    Garbage,
}

const LIES: [Lie; 8] = [
    Lie::NoTrailer,
    Lie::Reset,
    Lie::CutFrame,
    Lie::OtherDigest,
    Lie::MoreRows,
    Lie::OtherAttempt,
    Lie::ShortBatch,
    Lie::Garbage,
];

/// Answers one data stream with a lie.
async fn lie(incoming: Incoming, lie: Lie) -> Result<()> {
    let (mut reader, mut writer) = (FrameReader::new(incoming.recv), FrameWriter::new(incoming.send));
    let call: EdgeCall = reader.recv(FrameKind::Request).await?;
    let EdgeRequest::Query(signed) = call.request else {
        let error = MeshError::new(ErrorCode::SourceUnreachable, "an impostor knows no schema");
        writer.send_error(&error).await?;
        return writer.finish();
    };
    let subquery: Subquery = wire::decode(&signed.payload, REQUEST_BYTES_MAX)?;
    let mut encoder = Encoder::new(schema(), Compression::None)?;
    let mut digest = StreamDigest::new();
    let head = encoder.schema()?;
    digest.update(FrameKind::Schema, &head);
    writer.write_frame(FrameKind::Schema, head.into()).await?;
    let mut trailer = Trailer { attempt: subquery.attempt, batches: 0, rows: 0, digest: [0; 32], reattached: false };
    for rows in [u64::from(BATCH_ROWS), if matches!(lie, Lie::ShortBatch) { 7 } else { u64::from(BATCH_ROWS) }] {
        let payload = encoder.batch(&source::batch(2, 1_000_000, 500_000, rows))?;
        digest.update(FrameKind::Batch, &payload);
        writer.write_frame(FrameKind::Batch, payload.into()).await?;
        (trailer.batches, trailer.rows) = (trailer.batches + 1, trailer.rows + rows);
    }
    trailer.digest = digest.value();
    match lie {
        Lie::NoTrailer => return writer.finish(),
        Lie::Reset => {
            writer.reset(ErrorCode::Internal);
            return Ok(());
        }
        Lie::CutFrame => {
            let mut stream = writer.into_inner().unwrap();
            stream.write_all(&[FrameKind::Batch as u8, 200, 0, 0, 0, 1, 2, 3]).await.unwrap();
            stream.finish().unwrap();
            return Ok(());
        }
        Lie::OtherDigest => trailer.digest[0] ^= 1,
        Lie::MoreRows => trailer.rows += 1,
        Lie::OtherAttempt => trailer.attempt.attempt += 1,
        Lie::ShortBatch => {
            let payload = encoder.batch(&source::batch(2, 1_000_000, 500_000, 1))?;
            writer.write_frame(FrameKind::Batch, payload.into()).await?;
        }
        Lie::Garbage => writer.write_frame(FrameKind::Batch, Bytes::from_static(b"no batch at all")).await?,
    }
    writer.send(FrameKind::Trailer, &trailer).await?;
    writer.finish()
}

/// A world in which one of the source's two edges lies; what it is to do next is sent to it.
async fn with_impostor() -> (World, mpsc::UnboundedSender<Lie>) {
    let (give, mut given) = mpsc::unbounded_channel::<mpsc::Receiver<Incoming>>();
    let (tell, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut streams = given.recv().await.unwrap();
        let mut next = Lie::NoTrailer;
        while let Some(incoming) = streams.recv().await {
            while let Ok(lie) = told.try_recv() {
                next = lie;
            }
            lie(incoming, next).await.unwrap_or_else(|error| assert!(error.code != ErrorCode::Internal, "{error}"));
        }
    });
    let world = World::start_with(3, ROWS, Setup { impostor: Some((1, give)), ..Setup::default() }).await;
    world.apply("a", 2).await;
    (world, tell)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_of_an_edge_that_lies_gets_through() {
    let (world, tell) = with_impostor().await;
    let lies_told = || async { world.attempts().await.iter().filter(|(_, state)| state == "failed").count() };
    for lie in LIES {
        tell.send(lie).unwrap();
        let before = lies_told().await;
        let mut lied_to = false;
        // The first edge is chosen by the statement's id, so it may take a few statements until it is the impostor.
        for _ in 0..64 {
            let outcome = world.rows(&anybody(), "stream a").await;
            match (&outcome, lie) {
                (Ok(batches), _) => assert_eq!(multiset(batches), whole(ROWS, 1), "{lie:?}"),
                // What cannot be read at all is not tried again: the peer is faulty or hostile.
                (Err(error), Lie::ShortBatch | Lie::Garbage) => {
                    assert_eq!((error.code, error.node), (ErrorCode::MalformedFrame, Some(world.id(1))), "{lie:?}");
                }
                (Err(error), _) => panic!("{lie:?}: {error}"),
            }
            lied_to = lies_told().await > before;
            if lied_to {
                break;
            }
        }
        assert!(lied_to, "the impostor was never asked");
    }
    world.stop().await;
}

/// A call for the rows of `a` at an edge, signed by whoever makes it; `change` makes it wrong.
fn call(world: &World, from: usize, edge: usize, change: impl FnOnce(&mut Subquery)) -> EdgeCall {
    let ctx = world.node(from).ctx();
    let subquery = SubqueryId { query: QueryId(uuid::Uuid::new_v4()), ordinal: 0 };
    let mut subquery = Subquery {
        attempt: AttemptId { subquery, partition: 0, attempt: 1 },
        edge: world.id(edge),
        source: SourceName::new("a").unwrap(),
        sql: "SELECT k, v FROM t".into(),
        schema: WireSchema(schema()),
        principal: "ada".into(),
        epoch: ctx.mesh.state().epoch,
        expires_unix_ms: ctx.seams.clock.unix_ms() + 10_000,
        batch_rows: BATCH_ROWS,
        compression: Compression::Zstd,
        resume: Prefix::default(),
        reattach: None,
        keyset: None,
    };
    change(&mut subquery);
    let payload = wire::encode(&subquery, REQUEST_BYTES_MAX).unwrap();
    let signature = ctx.mesh.sign(&payload);
    let request = EdgeRequest::Query(SignedSubquery { payload, signer: ctx.node, signature });
    EdgeCall { version: EDGE_CALL_VERSION, trace: TraceId(1), deadline_ms: 5_000, request }
}

/// Makes an edge call; the trailer of its answer, or the error.
async fn ask(world: &World, from: usize, edge: usize, call: &EdgeCall) -> Result<Trailer> {
    let (send, recv) = world.node(from).ctx().mesh.open(world.id(edge), StreamTag::Data).await?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
    writer.send(FrameKind::Request, call).await?;
    writer.finish()?;
    reader.expect(FrameKind::Schema).await?;
    loop {
        match reader.read_frame().await? {
            Some((FrameKind::Batch, _)) => {}
            Some((FrameKind::Trailer, payload)) => return wire::decode(&payload, FrameKind::Trailer.limit()),
            Some((FrameKind::Error, payload)) => return Err(wire::decode(&payload, FrameKind::Error.limit())?),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_runs_only_what_a_coordinator_has_signed() {
    let world = World::with_edges(1, ROWS, Limits::default()).await;
    let good = call(&world, 0, 1, |_| {});
    assert_eq!(ask(&world, 0, 1, &good).await.unwrap().rows, ROWS);
    let asked = world.source.asked().len();

    let resigned = |change: &dyn Fn(&mut SignedSubquery)| {
        let mut call = call(&world, 0, 1, |_| {});
        let EdgeRequest::Query(signed) = &mut call.request else { unreachable!() };
        change(signed);
        call
    };
    let other = SourceName::new("b").unwrap();
    let refused = [
        (resigned(&|signed| signed.signature[5] ^= 1), ErrorCode::BadSignature),
        (resigned(&|signed| signed.signer = NodeId(77)), ErrorCode::BadSignature),
        (resigned(&|signed| signed.signer = world.id(1)), ErrorCode::BadSignature),
        (resigned(&|signed| signed.payload[10] ^= 1), ErrorCode::BadSignature),
        (resigned(&|signed| signed.payload.push(0)), ErrorCode::MalformedFrame),
        (call(&world, 0, 1, |s| s.expires_unix_ms = 1), ErrorCode::ClockSkew),
        (call(&world, 0, 1, |s| s.edge = NodeId(77)), ErrorCode::BadSignature),
        (call(&world, 0, 1, |s| s.batch_rows = 0), ErrorCode::MalformedFrame),
        (call(&world, 0, 1, |s| s.source = other.clone()), ErrorCode::NoEdge),
        (call(&world, 0, 1, |s| s.epoch = Epoch(u64::MAX)), ErrorCode::NoLeader),
        (EdgeCall { version: EDGE_CALL_VERSION + 1, ..call(&world, 0, 1, |_| {}) }, ErrorCode::ProtocolVersion),
    ];
    for (call, code) in &refused {
        let error = ask(&world, 0, 1, call).await.unwrap_err();
        assert_eq!(error.code, *code, "{call:?}: {error}");
    }
    // A member that holds no coordinator role signs nothing that is run.
    let nobody = RoleWanted { count: RoleCount::All, labels: BTreeMap::from([("edge".into(), "no".into())]) };
    let command = Command::Want { role: Role::Coordinator, wanted: Some(nobody) };
    world.node(0).ctx().mesh.propose(command).await.unwrap();
    let edge = world.node(1).ctx();
    until("only node 0 coordinates", || edge.mesh.state().live_holders(&Role::Coordinator) == [world.id(0)]).await;
    let unable = call(&world, 1, 1, |_| {});
    let relayed = ask(&world, 0, 1, &unable).await.unwrap_err();
    assert_eq!(relayed.code, ErrorCode::BadSignature, "{relayed}");
    assert_eq!(world.source.asked().len(), asked, "none of these has reached the source");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_two_calls() {
    let world = World::with_edges(1, ROWS, Limits::default()).await;
    let name = SourceName::new("a").unwrap();
    let ask = |request: EdgeRequest| {
        let world = &world;
        async move {
            let (send, recv) = world.node(0).ctx().mesh.open(world.id(1), StreamTag::Data).await?;
            let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
            let call = EdgeCall { version: EDGE_CALL_VERSION, trace: TraceId(1), deadline_ms: 5_000, request };
            writer.send(FrameKind::Request, &call).await?;
            writer.finish()?;
            let reply: EdgeReply = reader.recv(FrameKind::Reply).await?;
            reader.expect_end().await?;
            Ok::<_, MeshError>(reply)
        }
    };
    assert!(matches!(ask(EdgeRequest::Ping { source: name.clone() }).await, Ok(EdgeReply::Pong { .. })));
    let Ok(EdgeReply::Schema(schema)) = ask(EdgeRequest::GetSchema { source: name }).await else { panic!("no schema") };
    assert_eq!((schema.source.as_str(), schema.tables.len()), ("a", 1));
    let nowhere = SourceName::new("nowhere").unwrap();
    let error = ask(EdgeRequest::Ping { source: nowhere }).await.unwrap_err();
    assert_eq!((error.code, error.node), (ErrorCode::NoEdge, Some(world.id(1))));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_none_is_told_so_or_cut() {
    let world = World::with_edges(1, ROWS, Limits::default()).await;
    let requests: [(&[u8], ErrorCode); 4] = [
        (&[FrameKind::Request as u8, 3, 0, 0, 0, 9, 9, 9], ErrorCode::MalformedFrame),
        (&[FrameKind::Request as u8, 255, 255, 255, 255], ErrorCode::FrameTooLarge),
        (&[99, 0, 0, 0, 0], ErrorCode::MalformedFrame),
        (&[], ErrorCode::TruncatedStream),
    ];
    for (bytes, code) in requests {
        let (mut send, recv) = world.node(0).ctx().mesh.open(world.id(1), StreamTag::Data).await.unwrap();
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        let answer = tokio::time::timeout(PATIENCE, FrameReader::new(recv).expect(FrameKind::Reply)).await;
        assert_eq!(answer.expect("no answer").unwrap_err().code, code, "{bytes:?}");
    }
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(ROWS, 1));
    world.stop().await;
}
