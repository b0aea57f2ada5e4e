//! The eight tables: names, keys, rows as Arrow batches.

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use std::sync::Arc;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// One table of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    pub name: &'static str,
    /// Columns of the primary key.
    pub key: &'static [&'static str],
}

pub const TABLES: [Table; 8] = [
    Table { name: "region", key: &["r_regionkey"] },
    Table { name: "nation", key: &["n_nationkey"] },
    Table { name: "supplier", key: &["s_suppkey"] },
    Table { name: "customer", key: &["c_custkey"] },
    Table { name: "part", key: &["p_partkey"] },
    Table { name: "partsupp", key: &["ps_partkey", "ps_suppkey"] },
    Table { name: "orders", key: &["o_orderkey"] },
    Table { name: "lineitem", key: &["l_orderkey", "l_linenumber"] },
];

/// Rows of a generated batch.
const BATCH_ROWS: usize = 8192;

/// The table of this name.
pub fn table(name: &str) -> Option<Table> {
    TABLES.into_iter().find(|t| t.name == name)
}

impl Table {
    /// All rows at this scale (1.0 = 6 million line items), text as `Utf8`.
    pub fn batches(self, scale: f64) -> anyhow::Result<Vec<RecordBatch>> {
        fn all<E: Into<anyhow::Error>>(
            rows: impl Iterator<Item = Result<RecordBatch, E>>,
        ) -> anyhow::Result<Vec<RecordBatch>> {
            rows.map(|b| plain_text(&b.map_err(Into::into)?)).collect()
        }
        match self.name {
            "region" => all(RegionArrow::new(RegionGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "nation" => all(NationArrow::new(NationGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "supplier" => all(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "customer" => all(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "part" => all(PartArrow::new(PartGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "partsupp" => all(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "orders" => all(OrderArrow::new(OrderGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            "lineitem" => all(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            other => anyhow::bail!("`{other}` is not a table of TPC-H"),
        }
    }

    /// `name type not null, …, primary key (…)` with the types that this function gives to Arrow's.
    pub fn columns_sql(self, schema: &Schema, quote: char, native: impl Fn(&DataType) -> String) -> String {
        let mut parts: Vec<String> = schema
            .fields()
            .iter()
            .map(|f| format!("{quote}{}{quote} {} not null", f.name(), native(f.data_type())))
            .collect();
        let key: Vec<String> = self.key.iter().map(|k| format!("{quote}{k}{quote}")).collect();
        parts.push(format!("primary key ({})", key.join(", ")));
        parts.join(", ")
    }
}

/// The batch with string views cast to plain strings, as every source of the demo stores them.
fn plain_text(batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let is_view = field.data_type() == &DataType::Utf8View;
        let data_type = if is_view { DataType::Utf8 } else { field.data_type().clone() };
        columns.push(if is_view { cast(column, &DataType::Utf8)? } else { column.clone() });
        fields.push(Field::new(field.name(), data_type, field.is_nullable()));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new(schema, columns)?)
}
