//! The doors: client protocols in, statements out. A door authenticates its caller, turns bytes into calls of
//! `StatementService` and results into bytes. It decides nothing, plans nothing and keeps no rows; there is no
//! query engine in this crate.

pub mod bearer;
pub mod flight;
pub mod identity;
pub mod metrics;
pub mod tls;
