//! Where work goes in simulation: blocking work runs where it stands, query work on the host's own runtime. Threads
//! would finish in an order that no seed decides.

use std::pin::Pin;

use greylag_cluster::seams::{Blocking, QuerySpawner};

#[derive(Debug)]
pub struct Inline;

impl Blocking for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        work();
        Box::pin(std::future::ready(()))
    }
}

#[derive(Debug)]
pub struct HostTasks;

impl QuerySpawner for HostTasks {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> tokio::task::AbortHandle {
        tokio::spawn(work).abort_handle()
    }
}
