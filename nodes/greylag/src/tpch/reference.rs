//! The answer that a mesh must give: single-process DataFusion over the same rows, and the comparison row by row.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{datasource::MemTable, prelude::SessionContext};

use super::TABLES;

/// Single-process DataFusion over all tables in memory.
pub struct Reference {
    session: SessionContext,
}

/// Single-process DataFusion over Parquet files, the yardstick of the benchmark.
pub struct ReferenceFiles {
    session: SessionContext,
}

impl Reference {
    pub fn new(scale: f64) -> anyhow::Result<Self> {
        let session = greylag_engine::session::reference();
        for table in TABLES {
            let batches = table.batches(scale)?;
            let Some(first) = batches.first() else { continue };
            session.register_table(table.name, Arc::new(MemTable::try_new(first.schema(), vec![batches])?))?;
        }
        Ok(Self { session })
    }

    pub async fn answer(&self, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
        Ok(self.session.sql(sql).await?.collect().await?)
    }
}

impl ReferenceFiles {
    /// Reads `DIR/NAME.parquet` for each table.
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        let session = greylag_engine::session::reference();
        for table in TABLES {
            let file = dir.join(format!("{}.parquet", table.name));
            session.register_parquet(table.name, file.to_string_lossy(), Default::default()).await?;
        }
        Ok(Self { session })
    }

    pub async fn answer(&self, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
        Ok(self.session.sql(sql).await?.collect().await?)
    }
}

/// How an answer differs from the one that was expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows expected and not there.
    pub lost: usize,
    /// Rows there and not expected (a doubled row is one).
    pub doubled: usize,
}

impl Difference {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Compares two answers as multisets of rows: SQL gives ties no order. Every value counts, to the last digit.
pub fn difference(expected: &[RecordBatch], got: &[RecordBatch]) -> anyhow::Result<Difference> {
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    for (batches, weight) in [(expected, 1), (got, -1)] {
        for batch in batches {
            rows(batch, |row| *balance.entry(row).or_default() += weight)?;
        }
    }
    let lost = balance.values().filter(|n| **n > 0).sum::<i64>();
    let doubled = -balance.values().filter(|n| **n < 0).sum::<i64>();
    Ok(Difference { lost: lost.try_into()?, doubled: doubled.try_into()? })
}

fn rows(batch: &RecordBatch, mut each: impl FnMut(String)) -> anyhow::Result<()> {
    let options = FormatOptions::default().with_null("\u{0}null");
    let columns: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<_, _>>()?;
    for index in 0..batch.num_rows() {
        let values: Vec<String> = columns.iter().map(|c| c.value(index).to_string()).collect();
        each(values.join("\u{1f}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::Int64Array;

    fn batch(values: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(values.to_vec())) as _)]).unwrap()
    }

    #[test]
    fn counts_what_is_lost_and_what_is_doubled() {
        let expected = batch(&[1, 2, 2]);
        let found = difference(std::slice::from_ref(&expected), &[batch(&[2, 1, 1, 3])]).unwrap();
        assert_eq!(found, Difference { lost: 1, doubled: 2 });
        assert!(difference(&[expected], &[batch(&[2, 1]), batch(&[2])]).unwrap().is_none());
    }
}
