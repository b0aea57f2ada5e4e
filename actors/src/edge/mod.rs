//! The edge role, one for each source: opens the only connection to it and answers exactly three calls, Query,
//! GetSchema and Ping.
//!
//! Owns: the opened source, and how many sub-queries it runs at once.
//! Asks: the connector; the replicated state for the source's declaration.
//! Is asked by: coordinators, over data streams (which the door of this node takes) or directly on their own node.
//! On restart it loses: sub-queries under way. Their coordinators start other attempts.
//! On restart it recovers from: the replicated state. It keeps nothing.

mod actor;
pub mod core;
mod desk;
mod door;
pub mod parking;
pub mod port;
mod serve;
mod stream;
mod tail;

use std::sync::Arc;

use greylag_cluster::Incoming;
use greylag_protocol::{SourceName, state::Role};
use tokio::sync::{Mutex, mpsc};

use crate::{ChildSpec, NodeCtx};

/// The role's actor for one source, for the supervisor of roles.
pub fn child_spec(ctx: &Arc<NodeCtx>, source: SourceName) -> ChildSpec {
    let name = Role::Edge(source.clone()).to_string();
    let (full, ctx) = (ctx.name(&name), ctx.clone());
    ChildSpec::of(name, full, move || (actor::EdgeActor, (ctx.clone(), source.clone())))
}

/// What takes the edge calls of other nodes and hands each to the edge it is for; one on every node, whatever its
/// roles. `streams` is `Mesh::serve(StreamTag::Data)`: it can be had only once, so it outlives the actor.
pub fn door_spec(ctx: &Arc<NodeCtx>, streams: Arc<Mutex<mpsc::Receiver<Incoming>>>) -> ChildSpec {
    let home = ctx.home.clone();
    let ctx = ctx.clone();
    ChildSpec::task(&home, "edge-door", move || door::take(ctx.clone(), streams.clone()))
}
