//! The laws of the house, as tests over the source tree: who may import whom, where DataFusion may appear, what a
//! pure core may not touch, how long files and functions may be, what must be documented. It reads text, compiles
//! nothing else, and runs in a second.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(test)]
mod documents;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod purity;
#[cfg(test)]
mod shape;
#[cfg(test)]
mod tree;
