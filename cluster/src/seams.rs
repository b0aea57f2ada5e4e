//! Everything through which a node touches the world, so that a simulation can stand in for it: sockets, clock,
//! disk, and where blocking work goes. Production code is given [`Seams::real`]; nothing below asks for the real
//! thing behind their back.

use std::{any::Any, fmt::Debug, io, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc};

use quinn::AsyncUdpSocket;
use tokio::sync::mpsc;

mod clock;
mod disk;
mod neighbours;
mod scratch;
mod sockets;
mod work;

use clock::SystemClock;
use disk::DataDir;
use neighbours::MulticastDns;
pub use scratch::MemoryScratch;
use scratch::ScratchDir;
use sockets::UdpSockets;
use work::{BlockingThreads, QueryThreads};

/// Wall clock. (Monotonic time is tokio's, which simulation pauses.)
pub trait Clock: Debug + Send + Sync + 'static {
    fn unix_ms(&self) -> u64;
}

/// Makes the node's one UDP socket, and the runtime that quinn runs on.
#[async_trait::async_trait]
pub trait SocketFactory: Debug + Send + Sync + 'static {
    async fn bind(&self, listen: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;
    fn runtime(&self) -> Arc<dyn quinn::Runtime>;
    /// Addresses behind `host:port`, at least one. The default asks the system, unless it is an address already.
    async fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host_port.parse() {
            return Ok(vec![address]);
        }
        let found: Vec<SocketAddr> = tokio::net::lookup_host(host_port).await?.collect();
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }
    /// What can be told from outside of a node's process at an address with which there is no connection. The default
    /// does not try.
    async fn probe(&self, _address: SocketAddr) -> Probe {
        Probe::Unknown
    }
}

/// Those on the local network, where this node may announce itself and hear others do so. Anybody there may say
/// anything. The default is a place without neighbours.
pub trait Neighbourhood: Debug + Send + Sync + 'static {
    /// Announces and listens until what is returned is dropped. Called within a runtime.
    fn enter(&self, _beacon: Option<Beacon>) -> io::Result<Neighbours> {
        let (nobody, heard) = mpsc::channel(1);
        Ok(Neighbours { heard, presence: Box::new(nobody) })
    }
}

/// Nobody else is there.
#[derive(Debug)]
pub struct Alone;

impl Neighbourhood for Alone {}

/// What a node announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// One of its own for each node.
    pub instance: String,
    pub address: SocketAddr,
    pub properties: Vec<(String, String)>,
}

/// Keys and values of an announcement, as somebody has sent them.
pub type Properties = Vec<(String, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Somebody is there, or says something else than before.
    Here {
        instance: String,
        properties: Properties,
    },
    Gone {
        instance: String,
    },
}

/// What is heard, and this node's own presence, which ends with it.
pub struct Neighbours {
    pub heard: mpsc::Receiver<Notice>,
    pub presence: Box<dyn Any + Send + Sync>,
}

/// What a look from outside says of the process at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Not tried.
    Unknown,
    /// Neither the process nor its machine answers.
    Nothing,
    /// The machine says that nothing listens there.
    Refused,
    /// The machine answers, something holds the port, and says nothing: the process stands still.
    Stuck,
    /// It speaks QUIC.
    Answers,
}

/// The node's durable storage: one redb file for the log and a handful of small files.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Backend of the database called `name` (such as `raft.redb`), created if missing.
    fn database(&self, name: &str) -> io::Result<Box<dyn redb::StorageBackend>>;
    /// Whole content of a small file, `None` if there is none.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a small file: all of it or nothing, durable on return. `secret` files are for the owner alone.
    fn write(&self, name: &str, content: &[u8], secret: bool) -> io::Result<()>;
    /// Tries the disk with one small durable write, and says how much is free after it, if that can be known. The
    /// default tries nothing.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// Makes files for rows that wait for their reader: gone with their handle, durable in no way.
pub trait Scratch: Debug + Send + Sync + 'static {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>>;
}

/// One file of [`Scratch`]. Calls block.
pub trait ScratchFile: Debug + Send + Sync + 'static {
    /// Writes all of it at `offset`. After an error what was there is lost.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills `into` from `offset`; an error if there is less.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Runs work that blocks (an fsync) away from the reactor; inline in simulation.
pub trait Blocking: Debug + Send + Sync + 'static {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Spawns query work (planning, execution, reading sources) where it cannot starve heartbeats: a runtime of its own
/// in production, the host's in simulation.
pub trait QuerySpawner: Debug + Send + Sync + 'static {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> tokio::task::AbortHandle;
}

#[derive(Debug, Clone)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub sockets: Arc<dyn SocketFactory>,
    pub neighbourhood: Arc<dyn Neighbourhood>,
    pub disk: Arc<dyn Disk>,
    pub scratch: Arc<dyn Scratch>,
    pub blocking: Arc<dyn Blocking>,
    pub queries: Arc<dyn QuerySpawner>,
    /// Seed for choices that need not be secret (jitter, spreading). Random in production.
    pub seed: u64,
}

impl Seams {
    /// The real world, with the node's files in `data_dir` (created, mode 0700, locked against a second process).
    pub fn real(data_dir: PathBuf) -> io::Result<Self> {
        Ok(Self {
            clock: Arc::new(SystemClock),
            sockets: Arc::new(UdpSockets),
            neighbourhood: Arc::new(MulticastDns),
            scratch: Arc::new(ScratchDir(data_dir.join(scratch::FOLDER))),
            disk: Arc::new(DataDir::open(data_dir)?),
            blocking: Arc::new(BlockingThreads),
            queries: Arc::new(QueryThreads::start()?),
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
        })
    }
}
