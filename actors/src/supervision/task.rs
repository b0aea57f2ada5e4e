//! A plain future under supervision: an actor that runs it, fails when it fails or panics, and takes it down when it
//! is stopped. For loops over streams and watches, which are no state machines of messages.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use greylag_protocol::{MeshError, Result};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use tokio::task::JoinHandle;

use super::spec::{ChildSpec, Restart, SHUTDOWN_DEFAULT, Start};
use crate::context::ActorHome;

impl ChildSpec {
    /// A permanent child that runs a future, made anew at each start. When it returns `Ok` the child stops, and is
    /// started again after a back-off like any permanent child. When the child is stopped the future is dropped.
    pub fn task<F, W>(home: &ActorHome, name: impl Into<String>, work: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let name = name.into();
        let full_name = home.name(&name);
        let work: Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync> = Arc::new(move || Box::pin(work()));
        let start: Start = Arc::new(move |supervisor| {
            let (full_name, work) = (full_name.clone(), work.clone());
            Box::pin(async move {
                let (child, _) = Actor::spawn_linked(Some(full_name), TaskActor, work(), supervisor).await?;
                Ok(child.get_cell())
            })
        });
        Self { name, restart: Restart::Permanent, start, shutdown: SHUTDOWN_DEFAULT }
    }
}

struct TaskActor;

#[derive(RactorMessage)]
struct Ended(Result<()>);

struct State {
    task: JoinHandle<()>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Actor for TaskActor {
    type Msg = Ended;
    type State = State;
    type Arguments = BoxFuture<'static, Result<()>>;

    async fn pre_start(&self, me: ActorRef<Ended>, work: Self::Arguments) -> Result<State, ActorProcessingErr> {
        let task = tokio::spawn(async move {
            let panicked = |_| Err(MeshError::internal("the task panicked"));
            let ended = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
            let _ = me.cast(Ended(ended));
        });
        Ok(State { task })
    }

    async fn handle(&self, me: ActorRef<Ended>, ended: Ended, _: &mut State) -> Result<(), ActorProcessingErr> {
        ended.0?;
        me.stop(None);
        Ok(())
    }

    /// Whoever waits for the actor to be gone may count on the future being gone too.
    async fn post_stop(&self, _: ActorRef<Ended>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.task.abort();
        let _ = (&mut state.task).await;
        Ok(())
    }
}
