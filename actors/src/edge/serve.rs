//! One edge call of another node, from its request frame to its last. Whoever asked may stop reading at any moment:
//! then everything that was begun here is dropped at once, the source's statement included.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use greylag_cluster::{
    Incoming,
    transport::{FrameReader, FrameWriter},
};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result, SourceName,
    digest::StreamDigest,
    frame::{FrameKind, REQUEST_BYTES_MAX},
    ipc::{BATCH_ROWS_MAX, Encoder},
    messages::edge::{EDGE_CALL_VERSION, EdgeCall, EdgeReply, EdgeRequest, SignedSubquery, Subquery, Trailer},
    state::Role,
    wire,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    core::{Check, EPOCH_WAIT_MS_MAX, Facts, check},
    parking::Serving,
    port::{LocalEdge, LocalSubquery},
    tail::Tail,
};
use crate::{NodeCtx, task::caught};

/// Longest time between a stream's tag and the end of its request.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Longest time for telling a peer that its call has failed.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// Longest time an edge gives to one call, whatever the caller says.
const CALL_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How a call ends that does not end well.
enum Failure {
    /// The writer stands between two frames: the error can be told.
    Told(MeshError),
    /// It does not, or nobody listens.
    Cut(ErrorCode),
    /// The connection is gone, or another stream goes on with the answer.
    Lost,
}

/// What of a call outlives its connection.
type UnderWay = Option<(Tail, Serving)>;

impl From<MeshError> for Failure {
    fn from(error: MeshError) -> Self {
        Self::Told(error)
    }
}

/// Serves one stream to its end.
pub async fn serve(ctx: Arc<NodeCtx>, incoming: Incoming) {
    let peer = incoming.peer;
    let stopped = incoming.send.stopped();
    let mut writer = FrameWriter::new(incoming.send);
    let mut reader = FrameReader::new(incoming.recv);
    let mut under_way = None;
    let answering = async {
        // A panic of the connector is an error of this call.
        caught("an edge call", async { Ok(answer(&ctx, peer, &mut reader, &mut writer, &mut under_way).await) }).await
    };
    let outcome = tokio::select! {
        biased;
        stopped = stopped => Err(match stopped {
            Err(quinn::StoppedError::ConnectionLost(_)) => Failure::Lost,
            _ => Failure::Cut(ErrorCode::Cancelled),
        }),
        () = ctx.stopping.cancelled() => Err(Failure::Cut(ErrorCode::ShuttingDown)),
        answered = answering => answered.unwrap_or_else(|panic| Err(Failure::Told(panic))),
    };
    match outcome {
        Ok(()) => {}
        Err(Failure::Lost | Failure::Cut(ErrorCode::PeerUnreachable)) => {
            writer.reset(ErrorCode::PeerUnreachable);
            if let Some((tail, serving)) = under_way {
                serving.park(tail, &ctx.mesh);
            }
        }
        Err(Failure::Cut(code)) => writer.reset(code),
        Err(Failure::Told(error)) => {
            let error = error.at_node(ctx.node);
            tracing::debug!(%peer, code = %error.code, "an edge call failed");
            let told = timeout(FAREWELL_MAX, writer.send_error(&error)).await;
            match told {
                Ok(Ok(())) => drop(writer.finish()),
                _ => writer.reset(error.code),
            }
        }
    }
}

async fn answer(
    ctx: &Arc<NodeCtx>,
    peer: NodeId,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    under_way: &mut UnderWay,
) -> Result<(), Failure> {
    let late = || MeshError::new(ErrorCode::Deadline, "an edge call's request did not come in time");
    let call: EdgeCall = timeout(REQUEST_MAX, reader.recv(FrameKind::Request)).await.unwrap_or_else(|_| Err(late()))?;
    if call.version != EDGE_CALL_VERSION {
        let message = format!("an edge call of version {} came to one of {EDGE_CALL_VERSION}", call.version);
        return Err(MeshError::new(ErrorCode::ProtocolVersion, message).into());
    }
    let time = Duration::from_millis(call.deadline_ms).min(CALL_MAX);
    let deadline = Instant::now() + time;
    match call.request {
        EdgeRequest::Query(signed) => query(ctx, peer, signed, deadline, writer, under_way).await?,
        EdgeRequest::GetSchema { source } => {
            let schema = edge(ctx, &source)?.schema(time).await?;
            send(writer, FrameKind::Reply, &EdgeReply::Schema(schema), deadline).await?;
        }
        EdgeRequest::Ping { source } => {
            let took = edge(ctx, &source)?.ping(time).await?;
            let pong = EdgeReply::Pong { source_ms: took.as_millis() as u64 };
            send(writer, FrameKind::Reply, &pong, deadline).await?;
        }
    }
    writer.finish().map_err(Failure::Told)
}

/// The edge role for a source on this node. It may be on its way here or away, so its absence is no final answer.
fn edge(ctx: &NodeCtx, source: &SourceName) -> Result<Arc<dyn LocalEdge>> {
    let none = || MeshError::new(ErrorCode::NoEdge, format!("no edge for `{source}` runs here"));
    ctx.directory
        .handle::<dyn LocalEdge>(&Role::Edge(source.clone()))
        .ok_or_else(|| none().of_source(source.clone()).at_node(ctx.node))
}

async fn query(
    ctx: &Arc<NodeCtx>,
    peer: NodeId,
    signed: SignedSubquery,
    deadline: Instant,
    writer: &mut FrameWriter,
    under_way: &mut UnderWay,
) -> Result<(), Failure> {
    let subquery: Subquery = wire::decode(&signed.payload, REQUEST_BYTES_MAX)?;
    vouch(ctx, &signed, &subquery).await?;
    let kept = ctx.parking.take(peer, &subquery).await;
    let serving = ctx.parking.serving(peer, &subquery);
    let (tail, reattached) = match kept {
        Some(tail) => (tail, true),
        None => (begin(ctx, &subquery, deadline).await?, false),
    };
    let (tail, serving) = under_way.insert((tail, serving));
    let sending = send_rows(&subquery, tail, reattached, writer, deadline);
    tokio::select! {
        biased;
        () = serving.wanted_elsewhere() => Err(Failure::Lost),
        sent = sending => sent,
    }
}

/// Asks the source.
async fn begin(ctx: &NodeCtx, subquery: &Subquery, deadline: Instant) -> Result<Tail> {
    let answer = edge(ctx, &subquery.source)?
        .query(LocalSubquery {
            sql: subquery.sql.clone(),
            schema: subquery.schema.0.clone(),
            batch_rows: (subquery.batch_rows as usize).min(BATCH_ROWS_MAX),
            timeout: deadline.saturating_duration_since(Instant::now()),
            label: format!("greylag {} for {}", subquery.attempt, subquery.principal),
            resume: subquery.resume,
            keyset: subquery.keyset.clone(),
        })
        .await?;
    Ok(Tail::new(answer, subquery.resume.batches, ctx.parking.room.clone()))
}

async fn send_rows(
    subquery: &Subquery,
    tail: &mut Tail,
    reattached: bool,
    writer: &mut FrameWriter,
    deadline: Instant,
) -> Result<(), Failure> {
    if subquery.keyset.is_some() {
        send(writer, FrameKind::Reply, &tail.began(), deadline).await?;
    }
    let mut encoder = Encoder::new(subquery.schema.0.clone(), subquery.compression)?;
    let mut digest = StreamDigest::new();
    let mut trailer = Trailer { attempt: subquery.attempt, batches: 0, rows: 0, digest: [0; 32], reattached };
    let head = encoder.schema()?;
    digest.update(FrameKind::Schema, &head);
    write(writer, FrameKind::Schema, head.into(), deadline).await?;
    while let Some(batch) = tail.next().await {
        let batch = batch?;
        let payload = encoder.batch(&batch)?;
        digest.update(FrameKind::Batch, &payload);
        trailer.batches += 1;
        trailer.rows += batch.num_rows() as u64;
        write(writer, FrameKind::Batch, payload.into(), deadline).await?;
    }
    trailer.digest = digest.value();
    send(writer, FrameKind::Trailer, &trailer, deadline).await
}

/// Checks who stands behind a sub-query, waiting a little if this node's state lags behind.
async fn vouch(ctx: &NodeCtx, signed: &SignedSubquery, subquery: &Subquery) -> Result<()> {
    let give_up = Instant::now() + Duration::from_millis(EPOCH_WAIT_MS_MAX);
    let mut states = ctx.mesh.watch();
    let mut waited = false;
    loop {
        let state = states.borrow_and_update().clone();
        let facts = Facts {
            node: ctx.node,
            source: subquery.source.clone(),
            epoch: state.epoch,
            decided_since: state.governance.decided_since,
            now_unix_ms: ctx.seams.clock.unix_ms(),
            signer_coordinates: state.holds(signed.signer, &Role::Coordinator),
            signature_holds: ctx.mesh.verify(signed.signer, &signed.payload, &signed.signature).is_ok(),
            waited,
        };
        match check(subquery, signed.signer, &facts) {
            Check::Run => return Ok(()),
            Check::Refuse(error) => return Err(error.of_source(subquery.source.clone())),
            Check::WaitForEpoch(_) => waited = !matches!(timeout_at(give_up, states.changed()).await, Ok(Ok(()))),
        }
    }
}

async fn send<T: serde::Serialize>(
    writer: &mut FrameWriter,
    kind: FrameKind,
    message: &T,
    deadline: Instant,
) -> Result<(), Failure> {
    let payload = wire::encode(message, kind.limit())?;
    write(writer, kind, payload.into(), deadline).await
}

/// Writes a frame. If that takes until the deadline the stream can only be cut: it stands in the middle of the frame.
async fn write(writer: &mut FrameWriter, kind: FrameKind, payload: Bytes, deadline: Instant) -> Result<(), Failure> {
    match timeout_at(deadline, writer.write_frame(kind, payload)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.code == ErrorCode::FrameTooLarge => Err(Failure::Told(error)),
        Ok(Err(error)) => Err(Failure::Cut(error.code)),
        Err(_) => Err(Failure::Cut(ErrorCode::Deadline)),
    }
}
