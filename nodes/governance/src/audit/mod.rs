//! The audit chain: one record per statement, hashed to the one before it.
//!
//! A chain proves order and completeness, not truth: what is written is what the node said.
