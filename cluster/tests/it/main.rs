//! Whole nodes without doors, in one process, over real UDP on loopback and real disks. Each node has a runtime of its
//! own, so that it can be killed as a process is: without a word to anybody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crash;
mod formation;
mod health;
mod joining;
mod loss;
mod neighbours;
mod node;
mod refusal;
mod registers;
mod renewal;
mod restore;
mod rotation;
mod streams;
mod succession;
