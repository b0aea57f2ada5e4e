//! The engine from outside: real statements, planned with a permit, whose sub-queries really run in DataFusion or SQLite,
//! compared with plain DataFusion over the same rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod compare;
mod data;
mod explain;
mod governed;
mod lifecycle;
mod lite;
mod live;
mod names;
mod nulls;
mod policies;
mod pushed;
mod random;
#[allow(dead_code, reason = "the other half is used in the crate that it belongs to")]
#[path = "../../../governance/tests/rows_as_cedar/random/mod.rs"]
mod random_policies;
mod statements;
mod tpch;
mod world;
