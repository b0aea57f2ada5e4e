//! Push-down: after DataFusion has optimised a plan, the cutter replaces every part that one source can run by one leaf
//! with the SQL for it. What a source can run is decided by its dialect's capabilities and by what the source itself
//! says about its columns; everything else stays above and is computed by DataFusion.
//!
//! `cutter` walks the plan, `remote` is the part that grows, `join` and `aggregate` say when those can grow into it,
//! `convert` turns expressions, `ir` is what a `SELECT` can say and `write` says it.

mod aggregate;
mod capability;
mod convert;
mod cutter;
mod estimate;
mod hint;
mod ir;
mod join;
mod region;
mod remote;
mod write;

pub(crate) use cutter::{Cut, cut};
