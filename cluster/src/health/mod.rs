//! Why a member is not well: stalled, cut off in one direction, with a slow or a full disk. It names what the one failure
//! detector (the connections' idle time-out, on which the leader commits `Down`) has found, and what nodes measure of
//! themselves; it decides nothing, and nothing of it is in the log.
//!
//! | file | what |
//! |---|---|
//! | `core` | from reports and probes to one word for each member; pure |
//! | `vitals` | what this node measures of itself: gaps between ticks, durable writes, free space |
//! | `watch` | ticking, and trying the disk |
//! | `gather` | asking the members when somebody wants to know |

mod core;
#[cfg(test)]
mod core_test;
mod gather;
mod vitals;
mod watch;

pub use core::{Ailment, Health};
pub(crate) use gather::Gatherer;
pub(crate) use vitals::{DiskWatch, Stalls};
pub(crate) use watch::{is_full, watch};
