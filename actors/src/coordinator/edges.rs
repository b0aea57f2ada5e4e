//! Which edges would serve a source now, as far as this node can tell, and the two edge calls that are not queries.

use std::{sync::Arc, time::Duration};

use greylag_cluster::{
    LinkState,
    transport::{FrameReader, FrameWriter},
};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result, SourceName, TraceId,
    frame::{FrameKind, StreamTag},
    messages::edge::{EDGE_CALL_VERSION, EdgeCall, EdgeReply, EdgeRequest},
    schema::SourceSchema,
    state::Role,
};
use tokio::time::{Instant, timeout_at};

use super::{circuits::Circuits, subquery::core::Candidate};
use crate::{NodeCtx, edge::port::LocalEdge, planner::port::EdgeDirectory};

/// Live holders of a source's edge role, whether there is a link to each, and how the source behind it has done lately.
/// Those that drain only while there are no others.
pub fn candidates(ctx: &NodeCtx, circuits: &Circuits, source: &SourceName) -> Vec<Candidate> {
    let now = Instant::now();
    let condition = |node| circuits.condition(source, node, now);
    let candidate = |(node, linked)| Candidate { node, linked, condition: condition(node) };
    reachable(ctx, source).into_iter().map(candidate).collect()
}

/// Live holders, and whether there is a link to each.
fn reachable(ctx: &NodeCtx, source: &SourceName) -> Vec<(NodeId, bool)> {
    let state = ctx.mesh.state();
    let holders = state.live_holders(&Role::Edge(source.clone()));
    let staying: Vec<NodeId> = holders.iter().copied().filter(|node| !state.draining.contains(node)).collect();
    let holders = if staying.is_empty() { holders } else { staying };
    let links = ctx.mesh.links();
    let links = links.borrow();
    let linked = |node: &NodeId| *node == ctx.node || links.get(node) == Some(&LinkState::Connected);
    holders.into_iter().map(|node| (node, linked(&node))).collect()
}

/// Returns as soon as an edge of the source can be reached.
pub async fn some_edge(ctx: &NodeCtx, source: &SourceName) {
    let mut states = ctx.mesh.watch();
    let mut links = ctx.mesh.links();
    while !reachable(ctx, source).iter().any(|(_, linked)| *linked) {
        let changed = tokio::select! {
            biased;
            changed = states.changed() => changed,
            changed = links.changed() => changed,
        };
        if changed.is_err() {
            // The mesh is closing: there will be none.
            return std::future::pending().await;
        }
    }
}

/// Live holders, the nearest first.
pub fn nearest(ctx: &NodeCtx, source: &SourceName) -> Vec<NodeId> {
    let mut edges = reachable(ctx, source);
    edges.sort_by_key(|(node, linked)| (!linked, *node != ctx.node, *node));
    edges.into_iter().map(|(node, _)| node).collect()
}

/// Names edges for `EXPLAIN`.
pub struct LiveEdges(pub Arc<NodeCtx>);

impl EdgeDirectory for LiveEdges {
    fn edges(&self, source: &SourceName) -> Vec<NodeId> {
        nearest(&self.0, source)
    }
}

/// The edge role of this node, by the directory.
pub fn local_edge(ctx: &NodeCtx, source: &SourceName) -> Result<Arc<dyn LocalEdge>> {
    let none = || MeshError::new(ErrorCode::NoEdge, format!("no edge for `{source}` runs here"));
    ctx.directory
        .handle::<dyn LocalEdge>(&Role::Edge(source.clone()))
        .ok_or_else(|| none().of_source(source.clone()).at_node(ctx.node))
}

/// Asks one edge for its source's schema.
pub async fn get_schema(ctx: &NodeCtx, source: &SourceName, edge: NodeId, within: Duration) -> Result<SourceSchema> {
    if edge == ctx.node {
        return local_edge(ctx, source)?.schema(within).await;
    }
    let call = async {
        let (send, recv) = ctx.mesh.open(edge, StreamTag::Data).await?;
        let mut writer = FrameWriter::new(send);
        let mut reader = FrameReader::new(recv);
        let call = EdgeCall {
            version: EDGE_CALL_VERSION,
            trace: TraceId(uuid::Uuid::new_v4().as_u128()),
            deadline_ms: within.as_millis() as u64,
            request: EdgeRequest::GetSchema { source: source.clone() },
        };
        writer.send(FrameKind::Request, &call).await?;
        writer.finish()?;
        match reader.recv(FrameKind::Reply).await? {
            EdgeReply::Schema(schema) => Ok(schema),
            EdgeReply::Pong { .. } | EdgeReply::Began { .. } => {
                Err(MeshError::new(ErrorCode::MalformedFrame, "an edge answered `GetSchema` with something else"))
            }
        }
    };
    let late = || {
        let message = format!("the edge did not tell its schema within {} ms", within.as_millis());
        MeshError::new(ErrorCode::SourceUnreachable, message)
    };
    let outcome = timeout_at(Instant::now() + within, call).await.unwrap_or_else(|_| Err(late()));
    outcome.map_err(|error: MeshError| error.of_source(source.clone()).at_node(edge))
}
