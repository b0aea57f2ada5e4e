//! The edge role.

pub mod port;
