//! What a node is told and what is declared to a mesh: a typed node configuration (TOML, environment, flags, with
//! provenance) and declared resources (YAML). Nothing here opens, dials or stores anything.
//!
//! INVARIANT: an unknown key, a wrong type or an impossible combination is an error that names the key and, where one
//! is near, the key that was probably meant. Nothing is guessed and nothing is dropped.

mod audit;
pub mod identity;
mod load;
mod nearest;
mod node;
mod resource;

pub use audit::{Audit, AuditMode};
pub use load::{Loaded, Origin, load};
pub use nearest::{nearest, with_suggestion};
pub use node::{Limits, NodeConfig, Timing};
pub use resource::{Resource, parse_resources, parse_utc_offset};
