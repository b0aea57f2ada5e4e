//! The work of an attempt: asks an edge, over a data stream or on this very node, and pushes what comes to the gate
//! under the attempt's number. It ends with the rows, with an error, or as soon as the edge's node is lost.

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use futures::StreamExt;
use greylag_cluster::{
    LinkState,
    transport::{FrameReader, FrameWriter},
};
use greylag_protocol::{
    Epoch, ErrorCode, MeshError, NodeId, Result,
    frame::{FrameKind, REQUEST_BYTES_MAX, SMALL_BYTES_MAX, StreamTag},
    ipc::Decoder,
    messages::edge::{
        AfterKey, Compression, EDGE_CALL_VERSION, EdgeCall, EdgeReply, EdgeRequest, Keyset, SignedSubquery, Subquery,
        Trailer,
    },
    schema::WireSchema,
    state::MemberStatus,
    wire,
};
use tokio::time::{Duration, Instant};

use super::{attempt::AttemptArguments, core::Rule};
use crate::{
    NodeCtx,
    coordinator::{
        edges::local_edge,
        gate::{
            check::{StreamCheck, Verified},
            core::{Mark, Parcel, Refusal},
        },
        ledger::AttemptEntry,
    },
    edge::{core::stale, port::LocalSubquery},
    planner::port::SubqueryPlan,
};

/// How long after its deadline an edge may still accept a sub-query: room for clocks that differ.
const EXPIRY_SLACK_MS: u64 = 60_000;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All rows are through the gate, or wait in it.
    Ended,
    /// The edge, the source or the way between has failed.
    Failed(MeshError),
    /// The gate has failed and takes nothing more from anybody.
    GateFailed(MeshError),
    /// The gate is shut for this attempt.
    Unwanted,
}

impl From<MeshError> for Outcome {
    fn from(error: MeshError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(error) => Self::GateFailed(error),
            Refusal::Fenced | Refusal::Closed => Self::Unwanted,
        }
    }
}

/// Runs an attempt to its end.
pub async fn run(arguments: &AttemptArguments, entry: &AttemptEntry) -> Outcome {
    let AttemptArguments { facts, plan, edge, .. } = arguments;
    let began = Instant::now();
    let outcome = if arguments.edge == arguments.facts.ctx.node {
        local(arguments, entry).await
    } else {
        tokio::select! {
            biased;
            lost = node_lost(&arguments.facts.ctx, arguments.edge) => Err(lost.into()),
            outcome = remote(arguments, entry) => outcome,
        }
    };
    facts.meter.source_worked(began.elapsed());
    match outcome {
        Ok(()) => Outcome::Ended,
        Err(Outcome::Failed(error)) => {
            let error = error.of_source(plan.source.clone()).at_node(*edge);
            facts.circuits.failed(&plan.source, *edge, &error, Instant::now());
            Outcome::Failed(error)
        }
        Err(other) => other,
    }
}

async fn local(arguments: &AttemptArguments, entry: &AttemptEntry) -> Result<(), Outcome> {
    let AttemptArguments { facts, plan, id, gate, .. } = arguments;
    still_decided(&facts.ctx, facts.epoch)?;
    let edge = local_edge(&facts.ctx, &plan.source)?;
    let subquery = LocalSubquery {
        sql: plan.sql.clone(),
        schema: plan.schema.clone(),
        batch_rows: facts.batch_rows as usize,
        timeout: facts.deadline.saturating_duration_since(Instant::now()),
        label: format!("greylag {id} for {}", facts.principal),
        resume: arguments.terms.resume,
        keyset: keyset(arguments)?,
    };
    let answer = edge.query(subquery).await?;
    facts.circuits.answered(&plan.source, arguments.edge);
    began(arguments, entry, answer.snapshot, answer.after_key);
    let mut batches = answer.rows;
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        let parcel = Parcel::by_key(batch?, key_column(plan));
        let count = parcel.batch.num_rows() as u64;
        entry.received(count, parcel.bytes);
        rows += count;
        gate.push(id.attempt, parcel).await?;
    }
    gate.complete(Verified::in_process(id.attempt, rows))?;
    Ok(())
}

async fn remote(arguments: &AttemptArguments, entry: &AttemptEntry) -> Result<(), Outcome> {
    let ctx = &arguments.facts.ctx;
    let (send, recv) = ctx.mesh.open(arguments.edge, StreamTag::Data).await?;
    let mut writer = FrameWriter::new(send);
    let mut reader = FrameReader::new(recv);
    writer.send(FrameKind::Request, &call(arguments)?).await?;
    writer.finish()?;
    receive(arguments, entry, &mut reader).await
}

/// The signed request.
fn call(arguments: &AttemptArguments) -> Result<EdgeCall> {
    let AttemptArguments { facts, plan, id, edge, .. } = arguments;
    let ctx = &facts.ctx;
    let left_ms = facts.deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
    let subquery = Subquery {
        attempt: *id,
        edge: *edge,
        source: plan.source.clone(),
        sql: plan.sql.clone(),
        schema: WireSchema(plan.schema.clone()),
        principal: facts.principal.clone(),
        epoch: facts.epoch,
        expires_unix_ms: ctx.seams.clock.unix_ms() + left_ms + EXPIRY_SLACK_MS,
        batch_rows: facts.batch_rows,
        compression: compression(ctx, *edge),
        resume: arguments.terms.resume,
        reattach: arguments.terms.reattach.map(|(attempt, _)| attempt),
        keyset: keyset(arguments)?,
    };
    let payload = wire::encode(&subquery, REQUEST_BYTES_MAX)?;
    let signature = ctx.mesh.sign(&payload);
    let request = EdgeRequest::Query(SignedSubquery { payload, signer: ctx.node, signature });
    Ok(EdgeCall { version: EDGE_CALL_VERSION, trace: facts.trace, deadline_ms: left_ms, request })
}

fn key_column(plan: &SubqueryPlan) -> Option<usize> {
    plan.keyset.as_ref().map(|keyset| keyset.column)
}

/// What the edge has to know of the key that the rows are ordered by.
fn keyset(arguments: &AttemptArguments) -> Result<Option<Keyset>> {
    let Some(plan) = &arguments.plan.keyset else { return Ok(None) };
    let after = |mark: &Mark| -> Result<AfterKey> {
        Ok(AfterKey { sql: plan.rest.sql(mark.key)?, snapshot: mark.snapshot.clone() })
    };
    let after = arguments.terms.mark.as_ref().map(after).transpose()?;
    Ok(Some(Keyset { schema: plan.schema.clone(), table: plan.table.clone(), after }))
}

/// The edge has said what it reads.
fn began(arguments: &AttemptArguments, entry: &AttemptEntry, snapshot: Option<String>, after_key: bool) {
    arguments.gate.reads(arguments.id.attempt, snapshot);
    if arguments.terms.rule == Rule::R2 && !after_key {
        entry.rule(Rule::R3.name());
    }
}

/// None on loopback, where bytes are cheaper than compressing them.
fn compression(ctx: &NodeCtx, edge: NodeId) -> Compression {
    let state = ctx.mesh.state();
    let address = state.member(edge).and_then(|member| member.address.parse::<std::net::SocketAddr>().ok());
    match address {
        Some(address) if address.ip().is_loopback() => Compression::None,
        _ => Compression::Lz4,
    }
}

async fn receive(arguments: &AttemptArguments, entry: &AttemptEntry, reader: &mut FrameReader) -> Result<(), Outcome> {
    let AttemptArguments { facts, plan, id, edge, gate, .. } = arguments;
    let mut check = StreamCheck::new(*id, facts.batch_rows);
    let mut after_key = false;
    if plan.keyset.is_some() {
        let reply: EdgeReply = reader.recv(FrameKind::Reply).await?;
        let EdgeReply::Began { snapshot, after_key: after } = reply else {
            let message = "an edge began the answer to a sub-query with something else";
            return Err(MeshError::new(ErrorCode::MalformedFrame, message).into());
        };
        after_key = after;
        began(arguments, entry, snapshot, after);
    }
    let head = reader.expect(FrameKind::Schema).await?;
    facts.circuits.answered(&plan.source, *edge);
    check.schema(&head);
    let mut decoder = Decoder::new(&head)?;
    same_columns(&plan.schema, &decoder.schema())?;
    loop {
        match reader.read_frame().await? {
            Some((FrameKind::Batch, payload)) => {
                let batch = decoder.batch(payload.clone())?;
                check.batch(&payload, batch.num_rows())?;
                entry.received(batch.num_rows() as u64, payload.len() as u64);
                let parcel = Parcel::by_key(under(&plan.schema, batch)?, key_column(plan));
                gate.push(id.attempt, parcel).await?;
            }
            Some((FrameKind::Trailer, payload)) => {
                let trailer: Trailer = wire::decode(&payload, SMALL_BYTES_MAX)?;
                if let Some((_, instead)) = arguments.terms.reattach.filter(|_| !trailer.reattached) {
                    let changed = instead == Rule::R2 && !after_key;
                    entry.rule(if changed { Rule::R3 } else { instead }.name());
                }
                gate.complete(check.verify(&trailer)?)?;
                return Ok(());
            }
            Some((FrameKind::Error, payload)) => {
                let error: MeshError = wire::decode(&payload, SMALL_BYTES_MAX)?;
                return Err(error.into());
            }
            Some((kind, _)) => {
                let message = format!("a {kind:?} frame came among the batches of an edge");
                return Err(MeshError::new(ErrorCode::MalformedFrame, message).into());
            }
            None => return Err(check.truncated().into()),
        }
    }
}

/// On this very node nobody else looks: see the edge's own check.
fn still_decided(ctx: &NodeCtx, decided: Epoch) -> Result<()> {
    let since = ctx.mesh.state().governance.decided_since;
    if decided >= since { Ok(()) } else { Err(stale(decided, since).at_node(ctx.node)) }
}

/// The edge was told which columns are wanted; it must not answer with others.
fn same_columns(wanted: &SchemaRef, got: &SchemaRef) -> Result<()> {
    let columns = |schema: &SchemaRef| {
        schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>()
    };
    if columns(wanted) == columns(got) {
        return Ok(());
    }
    Err(MeshError::new(ErrorCode::MalformedFrame, "an edge answered with other columns than it was asked for"))
}

/// The batch under the plan's own schema, metadata included.
fn under(schema: &SchemaRef, batch: RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|error| MeshError::new(ErrorCode::MalformedFrame, format!("an edge's batch does not fit: {error}")))
}

/// Returns when the node has been lost: its link here, or its place among the members that are up. A stream may take
/// longer to die than either.
async fn node_lost(ctx: &NodeCtx, node: NodeId) -> MeshError {
    let mut links = ctx.mesh.links();
    let mut states = ctx.mesh.watch();
    loop {
        if links.borrow_and_update().get(&node) == Some(&LinkState::Lost) {
            return MeshError::new(ErrorCode::PeerUnreachable, format!("the link to {node} was lost"));
        }
        let up = states.borrow_and_update().member(node).is_some_and(|m| m.status != MemberStatus::Down);
        if !up {
            return MeshError::new(ErrorCode::PeerUnreachable, format!("{node} is down"));
        }
        let changed = tokio::select! {
            biased;
            changed = links.changed() => changed,
            changed = states.changed() => changed,
        };
        if changed.is_err() {
            // The mesh is closing; the stream itself will tell.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
