//! TPC-H, for the demo, the benchmarks and the tests: the eight tables as Arrow batches, written to the kinds of
//! source that a mesh reads, and the 22 queries. Data is generated, never downloaded, and the same at every run.

mod databases;
mod files;
mod queries;
mod reference;
mod tables;

pub use databases::{load_mysql, load_postgres, write_sqlite};
pub use files::{write_csv, write_parquet};
pub use queries::{Query, queries};
pub use reference::{Difference, Reference, ReferenceFiles, difference};
pub use tables::{TABLES, Table, table};
