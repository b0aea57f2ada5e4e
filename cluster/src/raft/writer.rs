//! The one writer of a node's log file: a task that takes everything queued at once and makes it durable with one
//! fsync, away from the reactor through the `Blocking` seam (in simulation: right there, in order).
//!
//! A disk without space is waited for: the file is opened anew, which brings back the last durable transaction, and the
//! same group is written again. Meanwhile nothing is acknowledged, so the node promises nothing, and stays a member.
//!
//! INVARIANT: writes become durable in the order in which they were queued, each at once or not at all, and whoever
//! waits for one is told only after that. After any other failure nothing more is written, and everybody is told so.

use std::{io, sync::Arc, time::Duration};

use openraft::storage::IOFlushed;
use redb::Database;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    database::{self, Change},
    types::TypeConfig,
};
use crate::{
    health::{DiskWatch, is_full},
    seams::{Blocking, Disk},
};

/// Writes queued; more wait.
const QUEUE_WRITES_MAX: usize = 1024;
/// Writes in one transaction.
const GROUP_WRITES_MAX: usize = 256;
/// Between two tries of a disk that has no space.
const SPACE_PAUSE: Duration = Duration::from_millis(500);

/// Who is told that a write is durable.
pub(super) enum Done {
    Nobody,
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

enum Order {
    Write(Change, Done),
    Close(oneshot::Sender<()>),
}

/// Where the file is, and who does and watches the work.
pub(super) struct Place {
    pub disk: Arc<dyn Disk>,
    pub name: &'static str,
    pub blocking: Arc<dyn Blocking>,
    pub watch: Arc<DiskWatch>,
}

/// Queues writes. Cloning is cheap; the file is closed with the last clone, or by [`Writer::close`].
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Order>,
    /// A disk without space is not waited for any more.
    closing: CancellationToken,
}

impl Writer {
    pub fn start(database: Database, place: Place) -> Self {
        let (queue, orders) = mpsc::channel(QUEUE_WRITES_MAX);
        let closing = CancellationToken::new();
        tokio::spawn(run(Some(database), orders, place, closing.clone()));
        Self { queue, closing }
    }

    /// Queues a write and returns before it is durable.
    pub async fn queue(&self, change: Change, done: Done) -> io::Result<()> {
        self.queue.send(Order::Write(change, done)).await.map_err(|_| closed())
    }

    /// Queues a write and returns once it is durable.
    pub async fn write(&self, change: Change) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.queue(change, Done::Caller(done)).await?;
        durable.await.map_err(|_| closed())?
    }

    /// Writes what is queued and closes the file. Later writes fail.
    pub async fn close(&self) {
        self.closing.cancel();
        let (done, closed) = oneshot::channel();
        if self.queue.send(Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

/// What `committed` alone would write need not be durable: it waits here for the next write that must be.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    waiting: Vec<Done>,
    committed: Option<Vec<u8>>,
    close: Option<oneshot::Sender<()>>,
}

impl Group {
    fn add(&mut self, order: Order) {
        match order {
            Order::Write(Change::Committed(committed), _) => self.committed = Some(committed),
            Order::Write(change, done) => {
                // What was committed when this write was queued lies before it in the log, or within it.
                self.changes.extend(self.committed.take().map(Change::Committed));
                self.changes.push(change);
                self.waiting.push(done);
            }
            Order::Close(done) => {
                self.changes.extend(self.committed.take().map(Change::Committed));
                self.close = Some(done);
            }
        }
    }
}

async fn run(
    mut database: Option<Database>,
    mut orders: mpsc::Receiver<Order>,
    place: Place,
    closing: CancellationToken,
) {
    let mut group = Group::default();
    let mut failed: Option<String> = None;
    let mut taken = Vec::with_capacity(GROUP_WRITES_MAX);
    while group.close.is_none() && orders.recv_many(&mut taken, GROUP_WRITES_MAX).await > 0 {
        taken.drain(..).for_each(|order| group.add(order));
        if failed.is_none() && !group.changes.is_empty() {
            let given_up = || closing.is_cancelled() || orders.is_closed();
            failed = place.write(&mut database, Arc::new(std::mem::take(&mut group.changes)), given_up).await.err();
            if let Some(reason) = &failed {
                tracing::error!(reason, "the log could not be written: this node takes no further part");
            }
        }
        group.changes.clear();
        for done in group.waiting.drain(..) {
            tell(done, failed.as_deref());
        }
    }
    orders.close();
    // Closing a database writes and syncs.
    place.blocking.run(Box::new(move || drop(database))).await;
    if let Some(done) = group.close {
        let _ = done.send(());
    }
}

impl Place {
    /// Writes a group, however long a disk without space has to be waited for. Writing it twice is as writing it once.
    async fn write(
        &self,
        database: &mut Option<Database>,
        changes: Arc<Vec<Change>>,
        given_up: impl Fn() -> bool,
    ) -> Result<(), String> {
        loop {
            let started = Instant::now();
            self.watch.begins(started);
            let (result, back) = self.try_once(database.take(), changes.clone()).await?;
            *database = back;
            match result {
                Ok(()) => {
                    if self.watch.is_refusing() {
                        tracing::info!("the disk has space again: the log goes on");
                    }
                    self.watch.wrote(started.elapsed());
                    return Ok(());
                }
                Err(Failure { no_space: true, reason }) if !given_up() => {
                    if !self.watch.is_refusing() {
                        tracing::error!(reason, "the disk has no space for the log: waiting for some");
                    }
                    self.watch.refused(reason);
                    tokio::time::sleep(SPACE_PAUSE).await;
                }
                Err(failure) => return Err(failure.reason),
            }
        }
    }

    /// One try, away from the reactor. The database comes back unless it has to be opened anew.
    async fn try_once(
        &self,
        database: Option<Database>,
        changes: Arc<Vec<Change>>,
    ) -> Result<(Result<(), Failure>, Option<Database>), String> {
        let (done, result) = oneshot::channel();
        let (disk, name) = (self.disk.clone(), self.name);
        let work = move || {
            let opened = match database {
                Some(database) => Ok(database),
                None => database::reopen(disk.as_ref(), name),
            };
            let tried = match opened {
                Err(error) => (Err(Failure::of(&error)), None),
                Ok(database) => match database::commit(&database, &changes) {
                    Ok(()) => (Ok(()), Some(database)),
                    // After a failed write redb refuses every further one until the file is opened anew.
                    Err(error) => (Err(Failure::of(&error)), None),
                },
            };
            let _ = done.send(tried);
        };
        self.blocking.run(Box::new(work)).await;
        result.await.map_err(|_| "the write was abandoned".to_owned())
    }
}

/// Why a group was not written.
struct Failure {
    no_space: bool,
    reason: String,
}

impl Failure {
    fn of(error: &redb::Error) -> Self {
        let no_space = matches!(error, redb::Error::Io(io) if is_full(io));
        Self { no_space, reason: error.to_string() }
    }
}

fn tell(done: Done, failed: Option<&str>) {
    let result = match failed {
        None => Ok(()),
        Some(reason) => Err(io::Error::other(reason.to_owned())),
    };
    match done {
        Done::Nobody => {}
        Done::Raft(flushed) => flushed.io_completed(result),
        Done::Caller(waiting) => {
            let _ = waiting.send(result);
        }
    }
}
