//! Which table lives in which source of the demo, and the sources as resources.

use std::{collections::BTreeMap, path::Path};

use greylag_protocol::{SourceName, state::SourceSpec};

use crate::tpch::{self, Table};

/// Where the demo may put tables besides its own files.
#[derive(Debug, Clone, Default)]
pub struct Databases {
    pub postgres: Option<String>,
    pub mysql: Option<String>,
}

/// A source of the demo and its tables.
pub struct Placed {
    pub spec: SourceSpec,
    pub tables: Vec<&'static str>,
}

/// Types that CSV files cannot say themselves.
const CSV_TYPES: &str = "nation.n_nationkey=bigint, nation.n_regionkey=bigint, region.r_regionkey=bigint, \
    supplier.s_suppkey=bigint, supplier.s_nationkey=bigint, supplier.s_acctbal=decimal(15,2), \
    supplier.s_phone=text, part.p_partkey=bigint, part.p_size=integer, part.p_retailprice=decimal(15,2)";

/// Replicas of each source: an edge may die and another serves.
const REPLICAS: u32 = 2;

/// Spreads the eight tables: SQLite, Parquet and CSV, and the databases if there are any.
pub fn split(dir: &Path, databases: &Databases) -> anyhow::Result<Vec<Placed>> {
    let mut placed = vec![
        source("shop", "sqlite", [("path", file(dir, "shop.sqlite"))], vec!["customer", "orders"])?,
        source("lake", "files", [("path", file(dir, "lake"))], vec!["lineitem", "part", "partsupp"])?,
        source(
            "office",
            "files",
            [("path", file(dir, "office")), ("types", csv_types(&["nation", "region", "supplier"]))],
            vec!["nation", "region", "supplier"],
        )?,
    ];
    if databases.postgres.is_some() {
        take(&mut placed, &["orders"]);
        placed.push(source("pg", "postgres", [("url", "env:DEMO_POSTGRES_URL".to_owned())], vec!["orders"])?);
    }
    if databases.mysql.is_some() {
        take(&mut placed, &["partsupp", "supplier"]);
        let tables = vec!["partsupp", "supplier"];
        placed.push(source("my", "mysql", [("url", "env:DEMO_MYSQL_URL".to_owned())], tables)?);
    }
    Ok(placed)
}

fn file(dir: &Path, name: &str) -> String {
    dir.join(name).to_string_lossy().into_owned()
}

/// The part of [`CSV_TYPES`] about these tables.
fn csv_types(tables: &[&str]) -> String {
    // Commas inside parentheses belong to a type.
    let mut parts: Vec<String> = Vec::new();
    for part in CSV_TYPES.split(", ") {
        parts.push(part.trim().to_owned());
    }
    parts.retain(|p| tables.iter().any(|t| p.starts_with(&format!("{t}."))));
    parts.join(", ")
}

fn take(placed: &mut [Placed], tables: &[&str]) {
    for source in placed.iter_mut() {
        source.tables.retain(|t| !tables.contains(t));
        if let Some(types) = source.spec.options.get_mut("types") {
            *types = csv_types(&source.tables);
        }
    }
}

fn source<const N: usize>(
    name: &str,
    kind: &str,
    options: [(&str, String); N],
    tables: Vec<&'static str>,
) -> anyhow::Result<Placed> {
    let options: BTreeMap<String, String> = options.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let spec = SourceSpec {
        name: SourceName::new(name)?,
        kind: kind.to_owned(),
        options,
        labels: BTreeMap::new(),
        replicas: REPLICAS,
    };
    Ok(Placed { spec, tables })
}

/// Generates every table and writes it where its source will look. Calls `progress` before each table.
pub async fn generate(
    dir: &Path,
    placed: &[Placed],
    databases: &Databases,
    scale: f64,
    mut progress: impl FnMut(&str, &str),
) -> anyhow::Result<()> {
    for source in placed {
        let name = source.spec.name.as_str();
        match source.spec.kind.as_str() {
            "postgres" => {
                progress(name, &source.tables.join(", "));
                let url = databases.postgres.as_deref().unwrap_or_default();
                tpch::load_postgres(url, &source.tables, scale).await?;
            }
            "mysql" => {
                progress(name, &source.tables.join(", "));
                let url = databases.mysql.as_deref().unwrap_or_default();
                tpch::load_mysql(url, &source.tables, scale).await?;
            }
            "sqlite" => {
                progress(name, &source.tables.join(", "));
                let tables = generated(&source.tables, scale)?;
                tpch::write_sqlite(&dir.join(format!("{name}.sqlite")), &tables)?;
            }
            _ => {
                std::fs::create_dir_all(dir.join(name))?;
                for (table, batches) in generated(&source.tables, scale)? {
                    progress(name, table.name);
                    match name {
                        "office" => tpch::write_csv(&dir.join(name), table.name, &batches)?,
                        _ => tpch::write_parquet(&dir.join(name), table.name, &batches)?,
                    }
                }
            }
        }
    }
    Ok(())
}

fn generated(names: &[&'static str], scale: f64) -> anyhow::Result<Vec<(Table, Vec<arrow::array::RecordBatch>)>> {
    names
        .iter()
        .map(|name| {
            let table = tpch::table(name).ok_or_else(|| anyhow::anyhow!("no table `{name}`"))?;
            Ok((table, table.batches(scale)?))
        })
        .collect()
}
