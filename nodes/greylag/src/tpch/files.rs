//! Tables as files: Parquet and CSV, one file a table, complete or not there.

use std::{fs::File, path::Path};

use arrow::{array::RecordBatch, csv::WriterBuilder};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

/// Writes `DIR/NAME.parquet`.
pub fn write_parquet(dir: &Path, name: &str, batches: &[RecordBatch]) -> anyhow::Result<()> {
    let Some(first) = batches.first() else { anyhow::bail!("table `{name}` has no batches") };
    let (partial, whole) = (dir.join(format!("{name}.parquet.partial")), dir.join(format!("{name}.parquet")));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(File::create(&partial)?, first.schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    std::fs::rename(partial, whole)?;
    Ok(())
}

/// Writes `DIR/NAME.csv` with a header.
pub fn write_csv(dir: &Path, name: &str, batches: &[RecordBatch]) -> anyhow::Result<()> {
    let (partial, whole) = (dir.join(format!("{name}.csv.partial")), dir.join(format!("{name}.csv")));
    let mut writer = WriterBuilder::new().with_header(true).build(File::create(&partial)?);
    for batch in batches {
        writer.write(batch)?;
    }
    drop(writer);
    std::fs::rename(partial, whole)?;
    Ok(())
}
