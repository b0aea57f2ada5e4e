//! Seeded worlds for the real node code: quinn with mutual TLS, openraft on redb, role actors and DataFusion run
//! unchanged on a simulated network, disk, clock and source of entropy. The same seed gives the same run, byte for byte.
//!
//! It is not a model: nothing of a node is rewritten here, only what it touches (`cluster::Seams`) and its sources.

pub mod scenarios;
pub mod world;
