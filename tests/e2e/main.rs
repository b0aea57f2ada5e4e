//! End to end: real processes, real doors, real files and databases. One binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod cli;
mod databases;
mod doors;
mod governed;
mod kills;
mod lifetime;
mod membership;
mod ports;
