//! How bytes get to other nodes: one QUIC endpoint, one connection for each pair of nodes, tagged streams on it.
//!
//! | file | what |
//! |---|---|
//! | `endpoint`, `tls` | the port and its certificates |
//! | `accept`, `dial` | how connections come about, and who is refused with which code |
//! | `links`, `membership` | which connections there are, and who may have one |
//! | `streams`, `calls` | streams that peers open, and streams that we open |
//! | `framed`, `refusal` | frames on streams, codes on both |
//!
//! INVARIANT: no stream is served to a node that is not a current member by this node's own state.

mod accept;
mod backoff;
mod calls;
mod dial;
pub(crate) mod endpoint;
mod framed;
mod links;
mod membership;
pub mod refusal;
mod streams;
mod switchboard;
mod tls;

pub(crate) use accept::{Joins, accept_all};
pub(crate) use backoff::{Backoff, Jitter};
pub(crate) use calls::{ForwardError, forward};
pub(crate) use endpoint::Endpoint;
pub use framed::{FrameReader, FrameWriter};
pub(crate) use links::Links;
pub(crate) use membership::{Membership, Standing};
pub(crate) use switchboard::{Switchboard, Wiring};
pub(crate) use tls::Credentials;

/// Said to a node whose connections end because it was taken out of the membership.
pub(crate) const REMOVED: &str = "the node was removed from the mesh";
