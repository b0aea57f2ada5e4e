//! Where work goes that must not hold up the reactor: blocking calls to tokio's blocking threads, query work to a
//! runtime of its own.

use std::{io, pin::Pin};

use tokio::{
    runtime::{Builder, Runtime},
    task::AbortHandle,
};

use super::{Blocking, QuerySpawner};

#[derive(Debug)]
pub(super) struct BlockingThreads;

impl Blocking for BlockingThreads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // An error means that the work panicked or the runtime is ending; who waits for its result sees that.
            let _ = tokio::task::spawn_blocking(work).await;
        })
    }
}

/// One thread for each core. The operating system shares the cores between these and the node's main runtime, so a
/// plan that computes for seconds delays heartbeats by a time slice, not by its whole run.
#[derive(Debug)]
pub(super) struct QueryThreads {
    /// `None` only while being dropped.
    runtime: Option<Runtime>,
}

impl QueryThreads {
    pub(super) fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime =
            Builder::new_multi_thread().worker_threads(cores).thread_name("greylag-query").enable_all().build()?;
        Ok(Self { runtime: Some(runtime) })
    }
}

impl QuerySpawner for QueryThreads {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> AbortHandle {
        match &self.runtime {
            Some(runtime) => runtime.spawn(work).abort_handle(),
            None => tokio::spawn(work).abort_handle(),
        }
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        // The last handle may go inside an async task, where waiting for threads is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocking_work_is_finished_when_the_future_is() {
        let (send, receive) = std::sync::mpsc::channel();
        BlockingThreads.run(Box::new(move || send.send(7).unwrap())).await;
        assert_eq!(receive.try_recv(), Ok(7));
    }

    #[tokio::test]
    async fn query_work_runs_elsewhere_and_the_threads_may_be_dropped_here() {
        let threads = QueryThreads::start().unwrap();
        let (send, receive) = tokio::sync::oneshot::channel();
        threads.spawn(Box::pin(async move {
            send.send(std::thread::current().name().map(str::to_owned)).unwrap();
        }));
        assert_eq!(receive.await.unwrap().as_deref(), Some("greylag-query"));
        drop(threads);
    }
}
