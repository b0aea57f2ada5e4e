//! `greylag demo --tour chaos`: on five nodes and a PostgreSQL, clients read large results while what they read from is
//! killed: an edge, the leader, the coordinator itself, the database. Each result is compared row by row with what
//! single-process DataFusion gives, and each kill is one line of JSON on standard output.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::array::RecordBatch;
use futures::StreamExt;
use greylag_protocol::statement::BatchStream;
use serde::Serialize;

use super::{
    mesh::{DemoMesh, PATIENCE, first_integer, texts},
    postgres::PrivatePostgres,
    report::Report,
    split::{Databases, generate, split},
};
use crate::{
    cli::Connection,
    tpch::{Reference, difference},
};

/// Nodes of the tour.
const NODES: usize = 5;
/// The largest table, which is in the lake and in the database: too much for whatever is buffered on the way.
const TABLE: &str = "lineitem";
/// Batches that a client has read when the blow falls.
const READ_BEFORE: usize = 3;
/// Pause between two looks at the mesh.
const LOOK: Duration = Duration::from_millis(10);

/// What came of one kill.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    event: &'static str,
    /// From the kill until the mesh has agreed on it; for the database, until a sub-query was seen to fail.
    noticed_ms: u64,
    /// From the kill until the client had the last row of the result that it was reading.
    recovered_ms: u64,
    rows_before: usize,
    rows_expected: usize,
    rows_got: usize,
    equal: bool,
    client_errors: usize,
}

/// What a kill is noticed by: a statement that has a row from then on, and the node to ask.
struct Notice {
    door: usize,
    sql: String,
}

struct Tour {
    mesh: DemoMesh,
    database: PrivatePostgres,
    reference: Reference,
}

/// Runs all of it. Success only if every result was right and no client saw an error.
pub async fn run(dir: &Path, scale: f64, report: &mut Report) -> anyhow::Result<ExitCode> {
    report.step("generating TPC-H, with a PostgreSQL of the demo's own");
    let database = PrivatePostgres::start().await?;
    let databases = Databases { postgres: Some(database.url()), mysql: None };
    let mut placed = split(dir, &databases)?;
    placed.iter_mut().filter(|p| p.spec.name.as_str() == "pg").for_each(|p| p.tables.push(TABLE));
    generate(dir, &placed, &databases, scale, |source, table| report.detail(&format!("{source}: {table}"))).await?;
    let reference = Reference::new(scale)?;
    report.done();

    report.step("starting five nodes");
    let (mut mesh, formed) = DemoMesh::start_of(dir, NODES, &databases, &std::env::current_exe()?).await?;
    report.detail(&format!("formed in {} ms", formed.as_millis()));
    mesh.apply(&placed).await?;
    report.done();

    let mut tour = Tour { mesh, database, reference };
    let mut held = true;
    for name in ["kill-edge", "kill-leader", "kill-coordinator", "kill-database"] {
        report.step(name);
        let event = tour.play(name).await.with_context(|| format!("{name} could not be played"))?;
        held &= event.equal && event.client_errors == 0;
        println!("{}", serde_json::to_string(&event)?);
        tour.mesh.restart_killed().await?;
        report.done();
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Tour {
    async fn play(&mut self, event: &'static str) -> anyhow::Result<Event> {
        let expected = self.reference.answer(&format!("SELECT * FROM {TABLE}")).await?;
        // A door without an edge, so that rows come over the network.
        let (source, schema) = if event == "kill-database" { ("pg", "public") } else { ("lake", "main") };
        let edges = format!(
            "SELECT n.name FROM system.roles r JOIN system.nodes n ON r.node = n.id \
             WHERE r.role = 'edge/{source}' AND r.held"
        );
        let edges = self.names(&edges).await?;
        let leader = self.names("SELECT name FROM system.nodes WHERE leader").await?;
        let free = |name: &String| !edges.contains(name) && !leader.contains(name);
        let door = self.mesh.processes.iter().position(|p| free(&p.config.name)).context("no node is free to ask")?;

        let client = self.mesh.roaming(door).await?;
        let (_, mut batches) = client.stream(&format!("SELECT * FROM {source}.{schema}.{TABLE}")).await?;
        let mut got = Vec::new();
        for _ in 0..READ_BEFORE {
            got.push(batches.next().await.context("the result is too small to be interrupted")??);
        }
        let rows_before = rows(&got);
        let (victim, notice) = self.aim(event, door, source, &leader).await?;
        match victim {
            Some(victim) => self.mesh.processes[victim].kill()?,
            None => self.database.kill()?,
        }
        let killed_at = Instant::now();
        let watcher = tokio::spawn(watch(self.mesh.connection(notice.door).await?, notice.sql, killed_at));
        let restarted = async { if victim.is_none() { self.database.run().await } else { Ok(()) } };
        let (restarted, error) = tokio::join!(restarted, read(&mut batches, &mut got));
        let recovered = killed_at.elapsed();
        restarted?;
        if let Some(error) = &error {
            eprintln!("  the client saw an error: {error}");
        }
        let noticed = watcher.await??;
        Ok(Event {
            event,
            noticed_ms: noticed.as_millis().try_into()?,
            recovered_ms: recovered.as_millis().try_into()?,
            rows_before,
            rows_expected: rows(&expected),
            rows_got: rows(&got),
            equal: difference(&expected, &got)?.is_none(),
            client_errors: usize::from(error.is_some()),
        })
    }

    /// Whom to kill (nobody: the database), and how it is noticed.
    async fn aim(
        &self,
        event: &str,
        door: usize,
        source: &str,
        leader: &[String],
    ) -> anyhow::Result<(Option<usize>, Notice)> {
        let index = |name: &str| self.mesh.processes.iter().position(|p| p.config.name == name);
        let victim = match event {
            "kill-edge" => {
                let sql = format!(
                    "SELECT n.name FROM system.subqueries s JOIN system.nodes n ON s.edge = n.id \
                     WHERE s.state = 'running' AND s.source = '{source}'"
                );
                let rows = self.mesh.connection(door).await?.query(&sql).await?;
                let running = texts(&rows, 0)?;
                index(running.first().context("no sub-query is running")?)
            }
            "kill-leader" => index(leader.first().context("there is no leader")?),
            "kill-coordinator" => Some(door),
            _ => None,
        };
        let Some(victim) = victim else {
            let sql =
                format!("SELECT 1 FROM system.subqueries WHERE source = '{source}' AND error IS NOT NULL LIMIT 1");
            return Ok((None, Notice { door, sql }));
        };
        let other = (0..NODES).find(|node| *node != victim && *node != door).context("nobody is left to ask")?;
        let name = &self.mesh.processes[victim].config.name;
        let sql = format!("SELECT 1 FROM system.nodes WHERE name = '{name}' AND status = 'down'");
        Ok((Some(victim), Notice { door: other, sql }))
    }

    async fn names(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        texts(&self.mesh.connection(0).await?.query(sql).await?, 0)
    }
}

/// Reads to the end, or to the first error.
async fn read(batches: &mut BatchStream, got: &mut Vec<RecordBatch>) -> Option<greylag_protocol::MeshError> {
    while let Some(batch) = batches.next().await {
        match batch {
            Ok(batch) => got.push(batch),
            Err(error) => return Some(error),
        }
    }
    None
}

/// How long after the kill the statement has a row.
async fn watch(connection: Connection, sql: String, killed_at: Instant) -> anyhow::Result<Duration> {
    loop {
        // While the mesh has no leader there may be no answer.
        if let Ok(rows) = connection.query(&sql).await
            && first_integer(&rows).is_some()
        {
            return Ok(killed_at.elapsed());
        }
        anyhow::ensure!(killed_at.elapsed() < PATIENCE, "the kill was never noticed");
        tokio::time::sleep(LOOK).await;
    }
}

fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}
