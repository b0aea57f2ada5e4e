//! Takes the data streams that other nodes open to this one. Each is served by a task of its own among the query work;
//! how many at once is bounded, and then peers wait.

use std::sync::Arc;

use greylag_cluster::Incoming;
use greylag_protocol::{MeshError, Result};
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::serve::serve;
use crate::NodeCtx;

/// Takes streams until the node stops.
pub async fn take(ctx: Arc<NodeCtx>, streams: Arc<Mutex<mpsc::Receiver<Incoming>>>) -> Result<()> {
    let max = ctx.limits.peer_streams_max.max(1);
    let (at_once, bound) =
        (Arc::new(Semaphore::new(max as usize)), ctx.bounds.open("limits.peer_streams_max", "", max.into()));
    let mut streams = streams.lock().await;
    loop {
        let permit = at_once.clone().acquire_owned().await;
        let permit = permit.map_err(|_| MeshError::internal("the edge door's semaphore was closed"))?;
        let Some(incoming) = streams.recv().await else { break };
        let (served, bound) = (ctx.clone(), bound.clone());
        bound.take(1);
        // It ends by itself: with its stream, its deadline or the node.
        let _ = ctx.seams.queries.spawn(Box::pin(async move {
            serve(served, incoming).await;
            bound.release(1);
            drop(permit);
        }));
    }
    // The mesh has closed; what is left to do is to be stopped.
    ctx.stopping.cancelled().await;
    Ok(())
}
