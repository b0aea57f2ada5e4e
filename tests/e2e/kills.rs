//! `kill -9` of each node in turn. The mesh answers again without anybody's help once the node is restarted with its
//! data directory; while it is away, what the others can serve they serve.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use greylag_node::{
    demo::{Databases, first_integer, texts},
    tpch::{Reference, difference, queries},
};
use greylag_tests::{SCALE, Stage};

/// One statement that touches every source.
const ALL_SOURCES: &str = "SELECT n_name, count(*) AS n FROM lineitem JOIN orders ON l_orderkey = o_orderkey \
    JOIN customer ON o_custkey = c_custkey JOIN nation ON c_nationkey = n_nationkey GROUP BY n_name";

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks a node until the answer is right; a retryable error is no answer, a wrong row is the end of the test.
async fn answers_again(
    stage: &Stage,
    index: usize,
    expected: &[arrow::array::RecordBatch],
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let answer = match stage.mesh.connection(index).await {
            Ok(connection) => connection.query(ALL_SOURCES).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match answer {
            Ok(rows) => {
                anyhow::ensure!(difference(expected, &rows)?.is_none(), "wrong rows after a kill");
                return Ok(started.elapsed());
            }
            Err(error) => {
                anyhow::ensure!(started.elapsed() < PATIENCE, "no answer again: {error:#}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn leader(stage: &Stage) -> anyhow::Result<String> {
    let rows = stage.mesh.connection(0).await?.query("SELECT name FROM system.nodes WHERE leader").await?;
    texts(&rows, 0)?.into_iter().next().context("no leader")
}

async fn holder(stage: &Stage, role: &str) -> anyhow::Result<String> {
    let sql = format!(
        "SELECT n.name FROM system.roles r JOIN system.nodes n ON r.node = n.id WHERE r.role = '{role}' AND r.held ORDER BY 1"
    );
    let rows = stage.mesh.connection(0).await?.query(&sql).await?;
    texts(&rows, 0)?.into_iter().next().context("nobody holds it")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_may_be_killed_and_comes_back() -> anyhow::Result<()> {
    let mut stage = Stage::set(&Databases::default()).await?;
    let expected = Reference::new(SCALE)?.answer(ALL_SOURCES).await?;
    let names: Vec<String> = stage.mesh.processes.iter().map(|p| p.config.name.clone()).collect();
    let first = leader(&stage).await?;
    let follower = names.iter().rfind(|n| **n != first).context("no follower")?.clone();
    let victims = [
        ("follower", follower),
        ("leader", first),
        ("edge", holder(&stage, "edge/lake").await?),
        ("coordinator", names[0].clone()),
    ];
    for (part, name) in victims {
        let victim = names.iter().position(|n| *n == name).context("no such node")?;
        let other = (victim + 1) % names.len();
        stage.mesh.processes[victim].kill()?;
        let killed = Instant::now();
        let down = format!("SELECT 1 FROM system.nodes WHERE name = '{name}' AND status = 'down'");
        stage.mesh.wait_rows_at(other, &down).await?;
        let noticed = killed.elapsed();
        let served = answers_again(&stage, other, &expected).await?;
        let restarted = Instant::now();
        stage.mesh.restart_killed().await?;
        let back = restarted.elapsed();
        answers_again(&stage, victim, &expected).await?;
        println!(
            "kill -9 of {part} ({name}): noticed {} ms, others answer after {} ms more, back {} ms after its restart",
            noticed.as_millis(),
            served.as_millis(),
            back.as_millis()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_come_back_by_themselves() -> anyhow::Result<()> {
    let mut stage = Stage::set(&Databases::default()).await?;
    let reference = Reference::new(SCALE)?;
    for process in &mut stage.mesh.processes {
        process.kill()?;
    }
    stage.mesh.restart_killed().await?;
    for index in 0..3 {
        answers_again(&stage, index, &reference.answer(ALL_SOURCES).await?).await?;
    }
    let sql = queries()[4].sql;
    let got = stage.mesh.connection(1).await?.query(sql).await?;
    assert!(difference(&reference.answer(sql).await?, &got)?.is_none());
    let sources = stage.mesh.connection(2).await?.query("SELECT count(*) FROM system.sources").await?;
    assert_eq!(first_integer(&sources), Some(3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_its_coordinator() -> anyhow::Result<()> {
    const SQL: &str = "SELECT l_orderkey, l_linenumber, l_comment FROM lineitem ORDER BY l_orderkey, l_linenumber";
    let mut stage = Stage::set(&Databases::default()).await?;
    let expected = Reference::new(SCALE)?.answer(SQL).await?;
    // The token is read before its node may go.
    let connection = stage.mesh.roaming(1).await?;
    let client = connection.client();
    let job = client.submit(SQL).await?;
    let mut reading = client.results(&job).await?.batches;
    let mut got = vec![reading.next().await.context("no rows")??];
    stage.mesh.processes[1].kill()?;
    while let Some(batch) = reading.next().await {
        got.push(batch?);
    }
    assert!(difference(&expected, &got)?.is_none(), "what was read across the loss of the coordinator");
    let rows = loop {
        if let Some(rows) = client.poll(&job).await? {
            break rows;
        }
    };
    let count: usize = expected.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, count as u64, "it has run again at another");
    let again: Vec<_> = client.results(&job).await?.batches.try_collect().await?;
    assert!(difference(&expected, &again)?.is_none());
    assert!(client.cancel_job(&job).await?);
    assert!(!client.cancel_job(&job).await?);
    Ok(())
}
