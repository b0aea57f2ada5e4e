//! How role actors of different nodes ask each other: the port, and the one message that travels. Production speaks
//! ractor_cluster ([`ClusterPeers`]); a simulation, where several nodes share a process and ractor_cluster's registries
//! cannot, speaks one stream per call ([`StreamPeers`]). Small control calls only; rows never come this way.

mod cluster;
mod dial;
mod message;
#[cfg(test)]
mod process_test;
mod session;
mod sessions;
mod stream;
mod switchboard;
#[cfg(test)]
mod switchboard_test;

use std::time::Duration;

use async_trait::async_trait;
use greylag_protocol::{
    NodeId, Result,
    messages::control::{ControlReply, ControlRequest},
    state::Role,
};

pub use cluster::ClusterPeers;
pub use message::{RoleMessage, Wire, call_actor};
pub use stream::StreamPeers;

/// Calls of this node under way at once; more wait, within their time-outs. Bounds what queues up behind a slow peer.
const CALLS_MAX: usize = 512;

/// Calls to role actors, wherever they run. Every call ends within its time-out; none is repeated by the port.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Nodes that have been given this role and can be called as far as is known now, in order of id. One that has just
    /// been lost may still be listed: only a call tells.
    fn members(&self, role: &Role) -> Vec<NodeId>;

    /// Asks one actor. `ControlReply::Error` comes back as the error it holds. GL4013 when the node or its actor
    /// cannot be reached (at once, if that is known), GL5002 when it does not answer in time, GL5005 when the node is
    /// just shutting down, GL4012 for a message over its limit.
    async fn call(&self, to: NodeId, role: &Role, request: ControlRequest, timeout: Duration) -> Result<ControlReply>;
}
