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
mod pushed;
mod random;
mod statements;
mod tpch;
mod world;
