//! Takes the data streams that other nodes open to this one. Each is served by a task of its own among the query work;
//! how many at once is bounded, and then peers wait.

use std::sync::Arc;

use greylag_cluster::Incoming;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::serve::serve;
use crate::{
    NodeCtx,
    task::{TaskGuard, caught},
};

pub struct DoorActor;

#[derive(RactorMessage)]
pub enum DoorMessage {
    /// The task that takes streams has died.
    Ended,
}

pub struct State {
    _taking: TaskGuard,
}

type Streams = Arc<Mutex<mpsc::Receiver<Incoming>>>;

impl Actor for DoorActor {
    type Msg = DoorMessage;
    type State = State;
    type Arguments = (Arc<NodeCtx>, Streams);

    async fn pre_start(
        &self,
        myself: ActorRef<DoorMessage>,
        (ctx, streams): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let taking = TaskGuard::control(async move {
            let taking = async {
                take(ctx, streams).await;
                Ok(())
            };
            if caught("the edge door", taking).await.is_err() {
                let _ = myself.cast(DoorMessage::Ended);
            }
        });
        Ok(State { _taking: taking })
    }

    async fn handle(
        &self,
        _myself: ActorRef<DoorMessage>,
        message: DoorMessage,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DoorMessage::Ended => Err("the edge door has broken down".into()),
        }
    }
}

/// Ends with the node.
async fn take(ctx: Arc<NodeCtx>, streams: Streams) {
    let at_once = Arc::new(Semaphore::new(ctx.limits.peer_streams_max.max(1) as usize));
    let mut streams = streams.lock().await;
    loop {
        let Ok(permit) = at_once.clone().acquire_owned().await else { break };
        let Some(incoming) = streams.recv().await else { break };
        let served = ctx.clone();
        let _ = ctx.seams.queries.spawn(Box::pin(async move {
            serve(served, incoming).await;
            drop(permit);
        }));
    }
    // The mesh has closed; what is left to do is to be stopped.
    ctx.stopping.cancelled().await;
}
