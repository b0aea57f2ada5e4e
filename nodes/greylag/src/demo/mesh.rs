//! A mesh of node processes on this machine, and the doors to it. The demo, the benchmarks and the end-to-end tests
//! all stand on it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int64Type,
};
use greylag_protocol::statement::{AdminCall, AdminReply, SessionOptions};

use super::{
    NODES,
    processes::{NodeProcess, configurations},
    split::{Databases, Placed},
};
use crate::{assembly::ADMIN_TOKEN_FILE, cli::Connection};

/// Longest wait for anything that the mesh does by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of the formation token's secret.
const SECRET_BYTES: usize = 16;

pub struct DemoMesh {
    pub processes: Vec<NodeProcess>,
}

impl DemoMesh {
    /// Starts the processes and returns when all are up, with the time from the first start to then.
    pub async fn start(dir: &Path, databases: &Databases) -> anyhow::Result<(Self, Duration)> {
        Self::start_of(dir, NODES, databases, &std::env::current_exe()?).await
    }

    /// The same with any number of nodes, run from `binary`.
    pub async fn start_of(
        dir: &Path,
        count: usize,
        databases: &Databases,
        binary: &Path,
    ) -> anyhow::Result<(Self, Duration)> {
        // References are resolved on the edges, which inherit this environment.
        let references = [("DEMO_POSTGRES_URL", &databases.postgres), ("DEMO_MYSQL_URL", &databases.mysql)];
        let environment: Vec<(String, String)> =
            references.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.clone()?))).collect();
        let token = format!("gl1.-.formation.{}", random_hex()?);
        let mut processes = Vec::with_capacity(count);
        for config in configurations(dir, count, &token)? {
            processes.push(NodeProcess::prepare(config, binary)?.with_environment(environment.clone()));
        }
        let started = Instant::now();
        for process in &mut processes {
            process.start()?;
        }
        let mut mesh = Self { processes };
        mesh.wait_up(count).await?;
        Ok((mesh, started.elapsed()))
    }

    /// An authenticated connection to a node's own door, and to no other.
    pub async fn connection(&self, index: usize) -> anyhow::Result<Connection> {
        Ok(Connection::with_options(&self.door(index)?, &self.token()?, SessionOptions::default()).await?)
    }

    /// A connection that begins at a node's door and goes on at any other.
    pub async fn roaming(&self, index: usize) -> anyhow::Result<Connection> {
        Ok(Connection::open(&self.door(index)?, &self.token()?).await?)
    }

    pub fn door(&self, index: usize) -> anyhow::Result<String> {
        let flight = self.processes.get(index).and_then(|p| p.config.flight).context("the node has no door")?;
        Ok(flight.to_string())
    }

    pub fn doors(&self) -> Vec<(String, String)> {
        let doors = self.processes.iter().filter_map(|p| Some((p.config.name.clone(), p.config.flight?.to_string())));
        doors.collect()
    }

    pub fn token_file(&self) -> PathBuf {
        let dirs = self.processes.iter().map(|p| p.config.data_dir.join(ADMIN_TOKEN_FILE));
        dirs.into_iter().find(|f| f.exists()).unwrap_or_default()
    }

    pub fn token(&self) -> anyhow::Result<String> {
        let file = self.token_file();
        let token = std::fs::read_to_string(&file).context("no node has written its admin token yet")?;
        Ok(token.trim().to_owned())
    }

    /// Waits until the first answering node sees `count` nodes up and a coordinator everywhere.
    pub async fn wait_up(&mut self, count: usize) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT count(*) FROM system.nodes n JOIN system.roles r ON n.id = r.node \
             WHERE n.status = 'up' AND r.role = 'coordinator' AND r.held HAVING count(*) >= {count}"
        );
        self.wait_rows(&sql).await.with_context(|| format!("{count} nodes did not come up"))?;
        // Every door answers, not only the first.
        for index in 0..self.processes.len() {
            if self.processes[index].running() {
                self.wait_rows_at(index, "SELECT 1").await?;
            }
        }
        Ok(())
    }

    /// Nodes that are up, as the mesh sees it.
    pub async fn up(&self) -> anyhow::Result<usize> {
        let batches = self.connection(0).await?.query("SELECT count(*) FROM system.nodes WHERE status = 'up'").await?;
        Ok(usize::try_from(first_integer(&batches).unwrap_or_default())?)
    }

    /// Waits until a statement returns at least one row on the first running node.
    pub async fn wait_rows(&mut self, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
        let index = self.processes.iter().position(NodeProcess::running).context("no node runs")?;
        self.wait_rows_at(index, sql).await
    }

    pub async fn wait_rows_at(&mut self, index: usize, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
        let started = Instant::now();
        let mut last = String::new();
        while started.elapsed() < PATIENCE {
            for process in &mut self.processes {
                if let Some(why) = process.ended() {
                    anyhow::bail!(why);
                }
            }
            let answer = match self.connection(index).await {
                Ok(connection) => connection.query(sql).await.map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            match answer {
                Ok(batches) if batches.iter().any(|b| b.num_rows() > 0) => return Ok(batches),
                Ok(_) => last = "no rows".into(),
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(LOOK).await;
        }
        anyhow::bail!("nothing came of `{sql}` within {} s: {last}", PATIENCE.as_secs())
    }

    /// Declares the sources and waits until every table of them is in the catalog of every node.
    pub async fn apply(&mut self, placed: &[Placed]) -> anyhow::Result<()> {
        let connection = self.connection(0).await?;
        for source in placed {
            let call = AdminCall::ApplySource { spec: source.spec.clone(), expect_version: None };
            match connection.admin(&call).await? {
                AdminReply::Applied { .. } => {}
                other => anyhow::bail!("an unexpected answer: {other:?}"),
            }
        }
        let tables: usize = placed.iter().map(|p| p.tables.len()).sum();
        let edges: usize = placed.iter().map(|p| (p.spec.replicas as usize).min(self.processes.len())).sum();
        let seen = format!(
            "SELECT 1 FROM (SELECT count(*) AS n FROM system.tables WHERE error IS NULL) t, \
             (SELECT count(*) AS n FROM system.actors WHERE name LIKE 'edge/%' AND state = 'running') a \
             WHERE t.n >= {tables} AND a.n >= {edges}"
        );
        for index in 0..self.processes.len() {
            self.wait_rows_at(index, &seen).await.context("the sources were not served")?;
        }
        Ok(())
    }

    /// Starts again what was killed, with its data directory, and waits until it is back.
    pub async fn restart_killed(&mut self) -> anyhow::Result<()> {
        for process in self.processes.iter_mut().filter(|p| !p.running()) {
            process.start()?;
        }
        let count = self.processes.len();
        self.wait_up(count).await
    }
}

/// First value of the first column, if it is an integer.
pub fn first_integer(batches: &[RecordBatch]) -> Option<i64> {
    let column = batches.iter().find(|b| b.num_rows() > 0)?.columns().first()?.clone();
    let column = arrow::compute::cast(&column, &arrow::datatypes::DataType::Int64).ok()?;
    let values = column.as_primitive_opt::<Int64Type>()?;
    values.is_valid(0).then(|| values.value(0))
}

/// Values of one text column over all batches.
pub fn texts(batches: &[RecordBatch], column: usize) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for batch in batches {
        let plain = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8)?;
        found.extend(plain.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(found)
}

fn random_hex() -> anyhow::Result<String> {
    let bytes: [u8; SECRET_BYTES] = *uuid::Uuid::new_v4().as_bytes();
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
