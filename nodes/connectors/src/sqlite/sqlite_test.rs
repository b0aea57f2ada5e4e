//! Tests of the SQLite connector that no other source shares.
