//! The policy role.
