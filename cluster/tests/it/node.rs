//! A node under test.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Once,
    time::{Duration, Instant},
};

use greylag_cluster::{LinkState, Mesh, MeshStart, Seams, identity::token};
use greylag_config::NodeConfig;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{MemberStatus, SourceSpec},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};

/// Longest that anything is waited for. Far above what it should take: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory and a configuration, which outlive the node.
pub struct Site {
    pub dir: TempDir,
    pub config: NodeConfig,
}

/// A node that has been started, and perhaps has not got to its place yet.
pub struct Starting {
    runtime: Runtime,
    starting: JoinHandle<Result<Mesh>>,
    since: Instant,
}

pub struct Node {
    runtime: Runtime,
    pub mesh: Mesh,
    /// Time from start to place.
    pub took: Duration,
}

impl Site {
    pub fn new(name: &str, listen: SocketAddr) -> Self {
        let config = NodeConfig { name: name.to_owned(), listen, ..NodeConfig::default() };
        Self { dir: tempfile::tempdir().unwrap(), config }
    }

    pub fn start(&self) -> Starting {
        self.start_on(Seams::real(self.dir.path().to_owned()).unwrap())
    }

    pub fn start_on(&self, seams: Seams) -> Starting {
        init();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let starting = runtime.spawn(Mesh::start(MeshStart { config: self.config.clone(), seams }));
        Starting { runtime, starting, since: Instant::now() }
    }

    pub fn run(&self) -> Node {
        self.start().settled()
    }
}

impl Starting {
    pub fn settled(self) -> Node {
        self.outcome().unwrap_or_else(|error| panic!("a node did not start: {error}"))
    }

    pub fn refused(self) -> MeshError {
        match self.outcome() {
            Ok(node) => panic!("{} was let in", node.mesh.node()),
            Err(error) => error,
        }
    }

    pub fn outcome(mut self) -> Result<Node> {
        let started = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, &mut self.starting).await });
        let mesh = started.expect("a node did not get to its place in time").unwrap()?;
        Ok(Node { runtime: self.runtime, mesh, took: self.since.elapsed() })
    }

    pub fn is_finished(&self) -> bool {
        self.starting.is_finished()
    }

    pub fn kill(self) {
        self.runtime.shutdown_timeout(PATIENCE);
    }
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.mesh.node()
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await }).expect("it took too long")
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Ends it as `kill -9` ends a process: no task runs on, nothing is said to peers.
    pub fn kill(self) {
        let Self { runtime, mesh, .. } = self;
        runtime.shutdown_timeout(PATIENCE);
        drop(mesh);
    }

    pub fn shut_down(self) {
        self.block_on(self.mesh.shutdown());
        let Self { runtime, mesh, .. } = self;
        drop(mesh);
        runtime.shutdown_timeout(PATIENCE);
    }

    pub fn link(&self, to: NodeId) -> Option<LinkState> {
        self.mesh.links().borrow().get(&to).copied()
    }

    pub fn status(&self, of: NodeId) -> Option<MemberStatus> {
        self.mesh.state().member(of).map(|member| member.status)
    }

    pub fn token(&self, uses: u32, ttl: Duration) -> String {
        self.block_on(self.mesh.create_join_token(uses, ttl, None)).unwrap()
    }
}

/// Three sites with the same seeds and the same token, to found a mesh together.
pub fn founding_sites(count: usize) -> Vec<Site> {
    let addresses = free_addresses(count);
    let token = token::format(&token::mint_unpinned().unwrap());
    let seeds: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let site = |(ordinal, address): (usize, &SocketAddr)| {
        let mut site = Site::new(&format!("node-{ordinal}"), *address);
        site.config.seeds = seeds.clone();
        site.config.expect = count as u32;
        site.config.join_token = Some(token.clone());
        site
    };
    addresses.iter().enumerate().map(site).collect()
}

/// Starts all at once, and waits for all.
pub fn form(sites: &[Site]) -> Vec<Node> {
    let starting: Vec<Starting> = sites.iter().map(Site::start).collect();
    starting.into_iter().map(Starting::settled).collect()
}

/// A site that joins by a token, with these seeds.
pub fn joining_site(name: &str, seeds: &[&Node], token: &str) -> Site {
    let mut site = Site::new(name, free_addresses(1)[0]);
    let address = |node: &&Node| node.mesh.state().member(node.id()).unwrap().address.clone();
    site.config.seeds = seeds.iter().map(address).collect();
    site.config.join_token = Some(token.to_owned());
    site
}

pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap()).collect()
}

/// Waits until it holds, and says how long that took.
pub fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    since.elapsed()
}

pub fn source(name: &str) -> SourceSpec {
    SourceSpec {
        name: name.parse().unwrap(),
        kind: "sqlite".into(),
        options: Default::default(),
        labels: Default::default(),
        replicas: 1,
    }
}

pub fn assert_code(error: &MeshError, code: ErrorCode) {
    assert_eq!(error.code, code, "{error}");
}

/// `RUST_LOG=greylag_cluster=debug` shows what nodes do.
fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    });
}
