//! The one writer of a node's log file: a task that takes everything queued at once and makes it durable with one
//! fsync, away from the reactor through the `Blocking` seam (in simulation: right there, in order).
//!
//! INVARIANT: writes become durable in the order in which they were queued, each at once or not at all, and whoever
//! waits for one is told only after that. After the first failure nothing more is written, and everybody is told so.

use std::{io, sync::Arc};

use openraft::storage::IOFlushed;
use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::{
    database::{self, Change},
    types::TypeConfig,
};
use crate::seams::Blocking;

/// Writes queued; more wait.
const QUEUE_WRITES_MAX: usize = 1024;
/// Writes in one transaction.
const GROUP_WRITES_MAX: usize = 256;

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

/// Queues writes. Cloning is cheap; the file is closed with the last clone, or by [`Writer::close`].
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Order>,
}

impl Writer {
    pub fn start(database: Database, blocking: Arc<dyn Blocking>) -> Self {
        let (queue, orders) = mpsc::channel(QUEUE_WRITES_MAX);
        tokio::spawn(run(Arc::new(database), orders, blocking));
        Self { queue }
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

async fn run(database: Arc<Database>, mut orders: mpsc::Receiver<Order>, blocking: Arc<dyn Blocking>) {
    let mut group = Group::default();
    let mut failed: Option<String> = None;
    let mut taken = Vec::with_capacity(GROUP_WRITES_MAX);
    while group.close.is_none() && orders.recv_many(&mut taken, GROUP_WRITES_MAX).await > 0 {
        taken.drain(..).for_each(|order| group.add(order));
        if failed.is_none() && !group.changes.is_empty() {
            failed = write(&database, std::mem::take(&mut group.changes), &*blocking).await.err();
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
    blocking.run(Box::new(move || drop(database))).await;
    if let Some(done) = group.close {
        let _ = done.send(());
    }
}

async fn write(database: &Arc<Database>, changes: Vec<Change>, blocking: &dyn Blocking) -> Result<(), String> {
    let (done, result) = oneshot::channel();
    let database = database.clone();
    blocking
        .run(Box::new(move || {
            let _ = done.send(database::commit(&database, &changes).map_err(|e| e.to_string()));
        }))
        .await;
    result.await.unwrap_or_else(|_| Err("the write was abandoned".to_owned()))
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
