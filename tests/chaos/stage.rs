//! Everything that a run stands on: network, databases with TPC-H in them, seven nodes that form a mesh by themselves,
//! doors. Ends with the run, whatever happens.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::array::RecordBatch;
use greylag_config::{Limits, NodeConfig, Timing};
use greylag_node::{
    cli::Connection,
    demo::{Databases, Placed, generate, split},
};
use greylag_protocol::statement::{AdminCall, SessionOptions};
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    net::{Network, Place},
    node::NodeProcess,
    report::say,
    schedule::{NODES, Source},
    servers::Server,
};

/// Of all tables.
pub const SCALE: f64 = 0.02;
/// Longest wait for the mesh to form, and for what is declared to be served.
const FORMATION_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// Longest time of a statement of the harness itself.
const ASKING_MAX: Duration = Duration::from_secs(10);
/// Time for queries to end on a node that drains: less than large results are read in here, so that some are cut off and
/// must go on elsewhere, and seven restarts do not take most of a run.
const DRAIN_GRACE_MS: u64 = 3_000;
/// Rows that are held back at the gate: less than large results have, so that attempts die whose rows are used already.
const HOLD_BACK_BYTES: u64 = 64 << 10;
const DOOR_PORT: u16 = 50051;
const MESH_PORT: u16 = 7400;

pub struct Stage {
    // Dropped in this order: who uses the network goes before it.
    nodes: Vec<Mutex<NodeProcess>>,
    servers: [Mutex<Server>; 2],
    pub network: Network,
    pub token: String,
}

impl Stage {
    /// Sets everything up. The calling process is in the clients' namespace already.
    pub async fn set(network: Network, dir: &Path, binary: &Path) -> anyhow::Result<Self> {
        say("making the databases");
        let servers = {
            let (postgres, mariadb) = std::thread::scope(|scope| {
                let one = scope.spawn(|| Server::make(Source::Postgres, dir, &network));
                let other = scope.spawn(|| Server::make(Source::Mariadb, dir, &network));
                (one.join(), other.join())
            });
            let gone = |_| anyhow::anyhow!("a thread panicked");
            [Mutex::new(postgres.map_err(gone)??), Mutex::new(mariadb.map_err(gone)??)]
        };
        let databases = Databases { postgres: Some(lock(&servers[0]).url()), mysql: Some(lock(&servers[1]).url()) };
        let data = dir.join("data");
        std::fs::create_dir_all(&data)?;
        let mut placed = split(&data, &databases)?;
        for source in placed.iter_mut().filter(|p| p.spec.kind == "mysql") {
            source.spec.options.insert("tls".into(), "disable".into());
        }
        say("generating TPC-H");
        generate(&data, &placed, &databases, SCALE, |_, _| {}).await?;
        let environment = [("DEMO_POSTGRES_URL", databases.postgres), ("DEMO_MYSQL_URL", databases.mysql)];
        let environment: Vec<(String, String)> =
            environment.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect();
        let mut nodes = Vec::new();
        for (index, config) in configurations(dir)?.into_iter().enumerate() {
            let mut node = NodeProcess::prepare(config, index, binary, environment.clone())?;
            open_door(&network, index)?;
            node.start(&network)?;
            nodes.push(Mutex::new(node));
        }
        say("seven nodes are started");
        let mut stage = Self { nodes, servers, network, token: String::new() };
        let formed = stage.form().await?;
        say(&format!("the mesh has formed in {} ms", formed.as_millis()));
        stage.declare(&placed).await?;
        Ok(stage)
    }

    pub fn node(&self, index: usize) -> MutexGuard<'_, NodeProcess> {
        lock(&self.nodes[index])
    }

    pub fn server(&self, source: Source) -> MutexGuard<'_, Server> {
        lock(&self.servers[usize::from(source == Source::Mariadb)])
    }

    pub fn name(index: usize) -> String {
        format!("node{}", index + 1)
    }

    /// Asks one node, and no other.
    pub async fn ask(&self, index: usize, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
        let options = SessionOptions { timeout: Some(ASKING_MAX), ..SessionOptions::default() };
        let asked = async {
            let connection = Connection::with_options(&door(index).to_string(), &self.token, options).await?;
            connection.query(sql).await
        };
        Ok(tokio::time::timeout(ASKING_MAX, asked).await.context("no answer in time")??)
    }

    /// Asks a node until the statement has a row.
    pub async fn wait_rows(&self, index: usize, sql: &str, within: Duration) -> anyhow::Result<Vec<RecordBatch>> {
        let started = Instant::now();
        loop {
            let answer = self.ask(index, sql).await;
            if let Ok(rows) = &answer
                && rows.iter().any(|batch| batch.num_rows() > 0)
            {
                return answer;
            }
            if started.elapsed() >= within {
                let why = answer.err().map_or_else(|| "no rows".to_owned(), |error| format!("{error:#}"));
                anyhow::bail!("nothing came of `{sql}` at node{} within {} s: {why}", index + 1, within.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A connection to whichever door answers, beginning at this one.
    pub async fn roaming(&self, first: usize) -> anyhow::Result<Connection> {
        let doors: Vec<String> = (0..NODES).map(|i| door((first + i) % NODES).to_string()).collect();
        let options = SessionOptions { timeout: Some(ASKING_MAX), resumable: true, ..SessionOptions::default() };
        Ok(Connection::with_options(&doors.join(","), &self.token, options).await?)
    }

    async fn form(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        while self.token.is_empty() {
            let files = (0..NODES).map(|i| self.node(i).config.data_dir.join(greylag_node::assembly::ADMIN_TOKEN_FILE));
            let tokens: Vec<String> = files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
            self.token = tokens.first().map(|token| token.trim().to_owned()).unwrap_or_default();
            anyhow::ensure!(started.elapsed() < FORMATION_MAX, "no node has become a member");
            tokio::time::sleep(LOOK).await;
        }
        for index in 0..NODES {
            self.wait_rows(index, &everybody(), FORMATION_MAX).await?;
        }
        Ok(started.elapsed())
    }

    /// Declares the sources and waits until each node knows every table.
    async fn declare(&self, placed: &[Placed]) -> anyhow::Result<()> {
        let connection = self.roaming(0).await?;
        for source in placed {
            connection.admin(&AdminCall::ApplySource { spec: source.spec.clone(), expect_version: None }).await?;
        }
        let tables: usize = placed.iter().map(|p| p.tables.len()).sum();
        let sql = format!(
            "SELECT 1 FROM (SELECT count(*) AS n FROM system.tables \
             WHERE error IS NULL AND kind <> 'system') t WHERE n = {tables}"
        );
        for index in 0..NODES {
            for sql in [&sql, &placed_roles()] {
                if let Err(error) = self.wait_rows(index, sql, FORMATION_MAX).await {
                    for table in ["sources", "tables", "roles"] {
                        let rows = self.ask(index, &format!("SELECT * FROM system.{table}")).await?;
                        eprintln!("{}", arrow::util::pretty::pretty_format_batches(&rows)?);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Has a row if all nodes are up.
pub fn everybody() -> String {
    format!("SELECT 1 FROM (SELECT count(*) AS n FROM system.nodes WHERE status = 'up') t WHERE n = {NODES}")
}

/// Has a row if all roles that are wanted are held by who lives, and a coordinator is everywhere.
pub fn placed_roles() -> String {
    format!(
        "SELECT 1 FROM (SELECT count(*) AS n FROM system.roles WHERE NOT held OR NOT live) missing, \
         (SELECT count(*) AS n FROM system.roles WHERE role = 'coordinator' AND held) c \
         WHERE missing.n = 0 AND c.n = {NODES}"
    )
}

pub fn door(index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11 + index as u8), DOOR_PORT))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn configurations(dir: &Path) -> anyhow::Result<Vec<NodeConfig>> {
    let address = |index: usize| SocketAddr::from((Place::Node(index).address(), MESH_PORT));
    let secret: String = uuid::Uuid::new_v4().simple().to_string();
    let config = |index: usize| {
        Ok(NodeConfig {
            name: Stage::name(index),
            mesh: "chaos".into(),
            data_dir: dir.join(Stage::name(index)),
            listen: address(index),
            seeds: (0..NODES).map(|i| address(i).to_string()).collect(),
            expect: u32::try_from(NODES)?,
            join_token: Some(format!("gl1.-.formation.{secret}")),
            flight: Some(door(index)),
            limits: Limits { hold_back_bytes_max: HOLD_BACK_BYTES, ..Limits::default() },
            timing: Timing { drain_grace_ms: DRAIN_GRACE_MS, ..Timing::default() },
            ..NodeConfig::default()
        })
    };
    (0..NODES).map(config).collect()
}

/// Lets clients reach a node's door. Doors listen on the loopback of their own machine alone, so a thread stands with one
/// foot in each namespace: the socket that it accepts at was made here, those that it opens are made there.
fn open_door(network: &Network, index: usize) -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind(door(index))?;
    listener.set_nonblocking(true)?;
    let namespace = File::open(network.file(Place::Node(index)))?;
    let serve = move || -> anyhow::Result<()> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (client, _) = listener.accept().await?;
                tokio::spawn(pass_on(client, door(index)));
            }
        })
    };
    std::thread::Builder::new().name(format!("door{}", index + 1)).spawn(move || {
        if let Err(error) = serve() {
            say(&format!("the way to the door of node{} is closed: {error:#}", index + 1));
        }
    })?;
    Ok(())
}

async fn pass_on(mut client: TcpStream, door: SocketAddr) {
    // Who is refused there is refused here: the connection ends.
    if let Ok(mut served) = TcpStream::connect(door).await {
        let _ = (client.set_nodelay(true), served.set_nodelay(true));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut served).await;
    }
}
