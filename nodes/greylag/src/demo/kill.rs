//! An edge dies in the middle of queries: clients run a query in a loop, one of the edge processes that serve it right
//! now gets SIGKILL, and every answer, before, during and after, must have exactly the right rows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::array::RecordBatch;
use greylag_protocol::MeshError;
use tokio::task::JoinSet;

use super::{
    mesh::{DemoMesh, PATIENCE, first_integer, texts},
    report::Report,
};
use crate::{
    cli::Connection,
    tpch::{Difference, Reference, difference},
};

/// Reads all of the largest table over the wire and needs every row of it.
const QUERY: &str = "SELECT l_returnflag, l_linestatus, count(*) AS n, sum(l_quantity) AS quantity, \
    sum(l_extendedprice) AS price, count(DISTINCT l_comment) AS comments, count(DISTINCT l_orderkey) AS orders, \
    max(l_shipinstruct) AS instruct, min(l_receiptdate) AS received FROM lineitem GROUP BY l_returnflag, l_linestatus";

/// Clients that ask all the time.
const CLIENTS: usize = 4;
/// Answers that each client still gets after the kill.
const ANSWERS_AFTER: usize = 2;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Killed {
    /// From the kill to the last answer to a query that was running then.
    pub recovered: Duration,
    pub difference: Difference,
    /// Queries that ended in an error.
    pub failed: usize,
}

/// One answer of a client.
struct Answer {
    started: Instant,
    ended: Instant,
    rows: Result<Vec<RecordBatch>, MeshError>,
}

/// The largest table's source: its edges are what may be killed.
const EDGES: &str = "SELECT n.name FROM system.roles r JOIN system.nodes n ON r.node = n.id \
    WHERE r.role = 'edge/lake' AND r.held";

pub async fn run(mesh: &mut DemoMesh, reference: &Reference, report: &Report) -> anyhow::Result<Killed> {
    let expected = reference.answer(QUERY).await?;
    // Clients talk to a node without such an edge, so that every sub-query crosses the network, and that node lives.
    let edges = texts(&mesh.connection(0).await?.query(EDGES).await?, 0)?;
    let door =
        mesh.processes.iter().position(|p| !edges.contains(&p.config.name)).context("every node has the edge")?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(mesh.connection(door).await?, stop.clone()));
    }
    let watcher = mesh.connection(door).await?;
    let victim = running_edge(&watcher, mesh, door).await?;
    mesh.processes[victim].kill()?;
    let killed_at = Instant::now();
    report.detail(&format!("SIGKILL to `{}` while it served", mesh.processes[victim].config.name));
    stop.store(true, Ordering::SeqCst);

    let mut outcome = Killed::default();
    let (mut answers, mut in_flight) = (0, 0);
    while let Some(joined) = clients.join_next().await {
        for answer in joined?? {
            answers += 1;
            match answer.rows {
                Ok(rows) => {
                    let found = difference(&expected, &rows)?;
                    outcome.difference.lost += found.lost;
                    outcome.difference.doubled += found.doubled;
                }
                Err(error) => {
                    outcome.failed += 1;
                    report.detail(&format!("a query FAILED: {error}"));
                }
            }
            if answer.started < killed_at && answer.ended > killed_at {
                in_flight += 1;
                outcome.recovered = outcome.recovered.max(answer.ended - killed_at);
            }
        }
    }
    let restarted = watcher.query("SELECT count(*) FROM system.subqueries WHERE attempt > 1 OR rule = 'R5'").await?;
    let restarted = first_integer(&restarted).unwrap_or_default();
    report.detail(&format!(
        "{answers} answers, {in_flight} of them in flight at the kill, {restarted} attempts restarted"
    ));
    anyhow::ensure!(in_flight > 0, "no query was running when the edge was killed");
    anyhow::ensure!(restarted > 0, "no attempt had to be restarted: the kill hit nothing");
    report.detail(&format!("recovered in {} ms", outcome.recovered.as_millis()));
    Ok(outcome)
}

async fn client(connection: Connection, stop: Arc<AtomicBool>) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut after = 0;
    while after < ANSWERS_AFTER {
        // One more round after the one that was running at the kill.
        after += usize::from(stop.load(Ordering::SeqCst));
        let started = Instant::now();
        let rows = tokio::time::timeout(PATIENCE, connection.query(QUERY)).await.context("a query hung")?;
        answers.push(Answer { started, ended: Instant::now(), rows });
    }
    Ok(answers)
}

/// Waits until an attempt runs on an edge of another node, and says which process that is.
async fn running_edge(watcher: &Connection, mesh: &DemoMesh, door: usize) -> anyhow::Result<usize> {
    let sql = "SELECT n.name FROM system.subqueries s JOIN system.nodes n ON s.edge = n.id WHERE s.state = 'running'";
    let door = &mesh.processes[door].config.name;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        for name in texts(&watcher.query(sql).await?, 0)? {
            let index = mesh.processes.iter().position(|p| p.config.name == name && p.config.name != *door);
            if let Some(index) = index {
                return Ok(index);
            }
        }
        tokio::task::yield_now().await;
    }
    anyhow::bail!("no attempt was seen running on another node")
}
