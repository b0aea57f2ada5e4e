//! Who lives, who restarts whom, who asks whom: the supervisor, the role actors and their pure cores, and the ports
//! through which the engine and the connectors are plugged in. No DataFusion here.

pub mod audit;
pub mod bounds;
pub mod context;
pub mod coordinator;
pub mod directory;
pub mod edge;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod flight_test;
pub mod measure;
pub mod node;
#[cfg(test)]
mod node_test;
pub mod observation;
pub mod peers;
pub mod placement;
pub mod planner;
pub mod policy;
pub mod quota;
mod reach;
mod recut;
pub mod rest;
pub mod supervision;
pub mod task;
pub mod tree;
pub mod turnstile;

pub use context::{ActorHome, NodeCtx};
pub use directory::RoleDirectory;
pub use node::{Node, NodeParts, PeersKind};
pub use peers::{Peers, RoleMessage, Wire};
pub use supervision::{Budget, ChildSpec, Restart, Strategy, Supervisor, SupervisorRef};
pub use tree::ActorTree;
