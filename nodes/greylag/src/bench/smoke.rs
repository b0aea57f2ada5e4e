//! The smoke benchmark: one line of JSON, progress on standard error. All contestants run in turn within the same
//! minutes, on the same files.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use greylag_protocol::{SourceName, state::SourceSpec};
use serde::Serialize;

use crate::{
    cli::Connection,
    demo::{Databases, DemoMesh, Placed},
    tpch::{self, ReferenceFiles, TABLES, Table},
};

#[derive(Debug, Args)]
pub struct SmokeArgs {
    /// Scale of the data
    #[arg(long, default_value_t = 0.1)]
    scale: f64,
    /// Key look-ups measured after as many unmeasured ones
    #[arg(long, default_value_t = 300)]
    lookups: usize,
    /// Runs of the 22 queries for each contestant; the best total counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Debug, Serialize)]
struct Figures {
    scale: f64,
    formed_ms: u128,
    idle_mib_per_node: Vec<u64>,
    lookup_mesh_us: Percentiles,
    lookup_source_us: Percentiles,
    tpch_ms: Totals,
}

#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    p50: u128,
    p99: u128,
}

/// Best total of the 22 queries.
#[derive(Debug, Serialize)]
struct Totals {
    one_node: u128,
    three_nodes: u128,
    datafusion: u128,
}

/// The customers again, where look-ups go.
pub(super) const ACCOUNT: Table = Table { name: "account", key: &["c_custkey"] };
/// Nodes idle this long before their memory is read.
const IDLE: Duration = Duration::from_secs(2);

pub async fn run(args: SmokeArgs) -> anyhow::Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    eprintln!("generating TPC-H at scale {}", args.scale);
    let placed = generate(dir.path(), args.scale)?;
    eprintln!("forming a mesh of three and one of one");
    let (mut three, formed) = DemoMesh::start(&dir.path().join("three"), &Databases::default()).await?;
    tokio::time::sleep(IDLE).await;
    let idle_mib_per_node = three.processes.iter().filter_map(|p| p.resident_bytes()).map(|b| b >> 20).collect();
    three.apply(&placed).await?;
    let (mut one, _) =
        DemoMesh::start_of(&dir.path().join("one"), 1, &Databases::default(), &std::env::current_exe()?).await?;
    one.apply(&placed).await?;
    let files = ReferenceFiles::open(&dir.path().join("lake")).await?;

    eprintln!("key look-ups");
    let (lookup_mesh_us, lookup_source_us) = lookups(&three.connection(0).await?, dir.path(), args.lookups).await?;
    let tpch_ms = totals(&one.connection(0).await?, &three.connection(0).await?, &files, args.rounds).await?;
    let figures = Figures {
        scale: args.scale,
        formed_ms: formed.as_millis(),
        idle_mib_per_node,
        lookup_mesh_us,
        lookup_source_us,
        tpch_ms,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(ExitCode::SUCCESS)
}

/// All tables as Parquet for everybody, and customers in SQLite, under a name of their own, for the look-ups.
pub(super) fn generate(dir: &Path, scale: f64) -> anyhow::Result<Vec<Placed>> {
    let lake = dir.join("lake");
    std::fs::create_dir_all(&lake)?;
    for table in TABLES {
        tpch::write_parquet(&lake, table.name, &table.batches(scale)?)?;
    }
    let customer = tpch::table("customer").ok_or_else(|| anyhow::anyhow!("no customer"))?;
    tpch::write_sqlite(&dir.join("shop.sqlite"), &[(ACCOUNT, customer.batches(scale)?)])?;
    let source = |name: &str, kind: &str, path: &Path, tables: Vec<&'static str>| -> anyhow::Result<Placed> {
        let spec = SourceSpec {
            name: SourceName::new(name)?,
            kind: kind.to_owned(),
            options: [("path".to_owned(), path.to_string_lossy().into_owned())].into(),
            labels: Default::default(),
            replicas: 3,
        };
        Ok(Placed { spec, tables })
    };
    Ok(vec![
        source("lake", "files", &lake, TABLES.iter().map(|t| t.name).collect())?,
        source("shop", "sqlite", &dir.join("shop.sqlite"), vec![ACCOUNT.name])?,
    ])
}

async fn lookups(mesh: &Connection, dir: &Path, count: usize) -> anyhow::Result<(Percentiles, Percentiles)> {
    let direct = rusqlite::Connection::open(dir.join("shop.sqlite"))?;
    let (mut through_mesh, mut at_source) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for round in 0..count * 2 {
        let key = round % 1000 + 1;
        let started = Instant::now();
        let sql = format!("SELECT c_name, c_acctbal FROM account WHERE c_custkey = {key}");
        let got = mesh.query(&sql).await?;
        let mesh_took = started.elapsed();
        anyhow::ensure!(got.iter().map(|b| b.num_rows()).sum::<usize>() == 1, "look-up of {key} found no row");
        let started = Instant::now();
        let _name: String =
            direct.query_row(&format!("SELECT c_name, c_acctbal FROM account WHERE c_custkey = {key}"), [], |row| {
                row.get(0)
            })?;
        if round >= count {
            through_mesh.push(mesh_took);
            at_source.push(started.elapsed());
        }
    }
    Ok((percentiles(through_mesh), percentiles(at_source)))
}

pub(super) fn percentiles(mut times: Vec<Duration>) -> Percentiles {
    times.sort();
    let at =
        |p: usize| times.get((times.len() * p / 100).min(times.len().saturating_sub(1))).map_or(0, Duration::as_micros);
    Percentiles { p50: at(50), p99: at(99) }
}

async fn totals(one: &Connection, three: &Connection, files: &ReferenceFiles, rounds: usize) -> anyhow::Result<Totals> {
    let mut totals = Totals { one_node: u128::MAX, three_nodes: u128::MAX, datafusion: u128::MAX };
    for round in 1..=rounds {
        eprintln!("22 queries, round {round} of {rounds}");
        let (mut by_one, mut by_three, mut by_datafusion) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for query in tpch::queries() {
            for (connection, total) in [(one, &mut by_one), (three, &mut by_three)] {
                let started = Instant::now();
                connection.query(query.sql).await?;
                *total += started.elapsed();
            }
            let started = Instant::now();
            files.answer(query.sql).await?;
            by_datafusion += started.elapsed();
        }
        totals.one_node = totals.one_node.min(by_one.as_millis());
        totals.three_nodes = totals.three_nodes.min(by_three.as_millis());
        totals.datafusion = totals.datafusion.min(by_datafusion.as_millis());
    }
    Ok(totals)
}
