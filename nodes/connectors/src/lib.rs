//! Connectors: one module for each kind of source, behind the port `greylag_actors::edge::port::Connector`.
//!
//! A connector opens its source read-only, tells what is in it, runs one `SELECT` at a time in the source's own
//! dialect and streams Arrow batches with bounded memory. It decides nothing about who may see what, and keeps no rows.
//! Every one of them must pass the suite in `conformance`.
//!
//! INVARIANT: a stored value that does not fit its column's type is an error that names the column, never a NULL, a
//! zero or another value.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod declared;
mod exact;
mod factory;
mod files;
mod mysql;
mod options;
mod postgres;
mod secrets;
mod server;
mod sqlite;

#[cfg(test)]
mod conformance;

pub use factory::Connectors;
pub use secrets::NodeSecrets;
