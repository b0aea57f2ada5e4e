//! `greylag demo`: three node processes form a mesh by themselves on generated TPC-H data spread over several kinds of
//! source, answer all 22 queries, lose an edge to SIGKILL in the middle of queries, and every answer is compared row by
//! row with single-process DataFusion over the same data.

mod audit_trail;
mod governance;
mod kill;
mod mesh;
mod postgres;
mod processes;
mod report;
mod split;
mod tour;

pub use mesh::{DemoMesh, first_integer, texts};
pub use processes::{NodeProcess, configurations, free_port};
pub use split::{Databases, Placed, generate, split};

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    cli::Format,
    tpch::{self, Reference},
};
use report::Report;

/// Nodes of the demo.
pub const NODES: usize = 3;

#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Do everything, print one JSON line and end; without it the mesh stays up with a prompt
    #[arg(long)]
    headless: bool,
    /// Scale of the data: 1.0 is 6 million line items; 0.01 without it, 0.05 for a tour
    #[arg(long)]
    scale: Option<f64>,
    /// Another programme than the standard one
    #[arg(long, value_enum, requires = "headless")]
    tour: Option<Tour>,
    /// Put tables into this PostgreSQL database too
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Put tables into this MySQL or MariaDB database too
    #[arg(long, value_name = "URL")]
    mysql: Option<String>,
    /// Keep the data and the nodes' files here; a temporary folder without it
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tour {
    /// Five nodes and a database are killed while clients read, each with a line of JSON
    Chaos,
    /// Three principals ask a clinic the same and get three right answers, each step with a line of JSON
    Governance,
}

/// Scale of the data, where none is asked for.
const SCALE: f64 = 0.01;
const SCALE_TOUR: f64 = 0.05;

/// What the demo proved, as its last line of output.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    pub nodes: usize,
    pub formed_ms: u64,
    pub queries: usize,
    pub equal: usize,
    pub killed: &'static str,
    pub recovered_ms: u64,
    pub lost: usize,
    pub doubled: usize,
}

impl Outcome {
    /// Whether everything held that the demo promises.
    pub fn held(&self) -> bool {
        self.nodes == NODES
            && self.queries == tpch::queries().len()
            && self.equal == self.queries
            && self.killed == "edge"
            && self.lost == 0
            && self.doubled == 0
    }
}

pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let scale = args.scale.unwrap_or(if args.tour.is_some() { SCALE_TOUR } else { SCALE });
    anyhow::ensure!(scale > 0.0 && scale <= 100.0, "`--scale {scale}` must be over 0 and at most 100");
    let mut report = Report::new();
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let databases = Databases { postgres: args.postgres.clone(), mysql: args.mysql.clone() };
    let interrupted = tokio::signal::ctrl_c();
    let played = tokio::select! {
        played = async {
            match args.tour {
                Some(Tour::Governance) => governance::run(&dir, &mut report).await.map(|code| (None, code)),
                Some(Tour::Chaos) => tour::run(&dir, scale, &mut report).await.map(|code| (None, code)),
                None => play(scale, &dir, &databases, &mut report).await.map(|(mesh, code)| (Some(mesh), code)),
            }
        } => played,
        _ = interrupted => {
            eprintln!("stopped");
            return Ok(ExitCode::from(130));
        }
    };
    let (mesh, code) = played?;
    // At the prompt Ctrl-C belongs to the statement.
    if let Some(mut mesh) = mesh.filter(|_| !args.headless) {
        stay(&mut mesh).await?;
    }
    Ok(code)
}

async fn play(
    scale: f64,
    dir: &std::path::Path,
    databases: &Databases,
    report: &mut Report,
) -> anyhow::Result<(DemoMesh, ExitCode)> {
    report.step("generating TPC-H");
    let placed = split(dir, databases)?;
    generate(dir, &placed, databases, scale, |source, table| report.detail(&format!("{source}: {table}"))).await?;
    let reference = Reference::new(scale)?;
    report.done();

    report.step("starting three nodes");
    let (mut mesh, formed) = DemoMesh::start(dir, databases).await?;
    report.detail(&format!("formed in {} ms", formed.as_millis()));
    mesh.apply(&placed).await?;
    report.done();

    let mut outcome =
        Outcome { nodes: mesh.up().await?, formed_ms: formed.as_millis().try_into()?, ..Outcome::default() };
    report.step("22 queries against single-process DataFusion");
    for query in tpch::queries() {
        let expected = reference.answer(query.sql).await?;
        let got = mesh.connection(0).await?.query(query.sql).await;
        outcome.queries += 1;
        match got {
            Ok(got) => {
                let found = tpch::difference(&expected, &got)?;
                outcome.equal += usize::from(found.is_none());
                outcome.lost += found.lost;
                outcome.doubled += found.doubled;
                let word = if found.is_none() { "equal" } else { "DIFFERS" };
                report.detail(&format!("q{:02} {word}, {} rows", query.number, rows(&got)));
            }
            Err(error) => report.detail(&format!("q{:02} FAILED: {error}", query.number)),
        }
    }
    report.done();

    report.step("killing an edge in the middle of queries");
    let killed = kill::run(&mut mesh, &reference, report).await?;
    outcome.killed = "edge";
    outcome.recovered_ms = killed.recovered.as_millis().try_into()?;
    outcome.lost += killed.difference.lost;
    outcome.doubled += killed.difference.doubled;
    report.done();

    println!("{}", serde_json::to_string(&outcome)?);
    let held = outcome.held() && killed.failed == 0;
    Ok((mesh, if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// Leaves the mesh up with a prompt on the first node's door.
async fn stay(mesh: &mut DemoMesh) -> anyhow::Result<()> {
    mesh.restart_killed().await?;
    println!("\nThree nodes are up. Flight SQL doors:");
    for (name, door) in mesh.doors() {
        println!("  {name}  {door}");
    }
    println!("A bearer token for other clients: {}", mesh.token_file().display());
    crate::cli::prompt(&mesh.roaming(0).await?, Format::Table).await
}

fn rows(batches: &[arrow::array::RecordBatch]) -> usize {
    batches.iter().map(arrow::array::RecordBatch::num_rows).sum()
}
