//! How others start a supervisor and speak to it.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{ErrorCode, MeshError, Result};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, rpc::CallResult};

use super::{
    actor::{Arguments, Message, SupervisorActor},
    child::{START_MAX, stop_cell},
    spec::{Budget, ChildSpec, Restart, Start, Strategy},
};
use crate::context::ActorHome;

/// Time that a supervisor has to stop its children and itself.
pub const SUPERVISOR_SHUTDOWN: Duration = Duration::from_secs(30);
/// Longest wait for an answer of a supervisor: a start or stop that it has to see through, and another before that.
const ANSWER_MAX: Duration = Duration::from_secs(2 * START_MAX.as_secs());

/// Namespace of what starts a supervisor.
pub struct Supervisor;

/// A running supervisor.
#[derive(Debug, Clone)]
pub struct SupervisorRef {
    actor: ActorRef<Message>,
}

impl Supervisor {
    /// Starts a supervisor, and then its children one after the other. It does not wait for them; a child that cannot
    /// be started is treated like one that has failed. `name` is its name within the node.
    pub async fn spawn(
        home: &ActorHome,
        name: &str,
        strategy: Strategy,
        budget: Budget,
        children: Vec<ChildSpec>,
        parent: Option<ActorCell>,
    ) -> Result<SupervisorRef> {
        let arguments = Arguments {
            home: home.clone(),
            name: name.to_owned(),
            strategy,
            budget,
            children,
            parent: parent.as_ref().map(|parent| home.local_name(parent)).unwrap_or_default(),
        };
        let full_name = Some(home.name(name));
        let spawned = match parent {
            Some(parent) => Actor::spawn_linked(full_name, SupervisorActor, arguments, parent).await,
            None => Actor::spawn(full_name, SupervisorActor, arguments).await,
        };
        let refused = |error: SpawnErr| MeshError::internal(format!("supervisor `{name}` cannot be started: {error}"));
        let (actor, _) = spawned.map_err(refused)?;
        Ok(SupervisorRef { actor })
    }

    /// A supervisor as the permanent child of another. Its children are made anew at every start.
    pub fn child_spec(
        home: &ActorHome,
        name: &str,
        strategy: Strategy,
        budget: Budget,
        children: impl Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
    ) -> ChildSpec {
        let (home, own_name, children) = (home.clone(), name.to_owned(), Arc::new(children));
        let start: Start = Arc::new(move |parent| {
            let (home, name, children) = (home.clone(), own_name.clone(), children.clone());
            Box::pin(async move {
                let made = children();
                let started = Supervisor::spawn(&home, &name, strategy, budget, made, Some(parent)).await;
                started.map(|supervisor| supervisor.cell()).map_err(ActorProcessingErr::from)
            })
        });
        ChildSpec { name: name.to_owned(), restart: Restart::Permanent, start, shutdown: SUPERVISOR_SHUTDOWN }
    }
}

impl SupervisorRef {
    /// The supervisor of this name on this node, if it runs.
    pub fn find(home: &ActorHome, name: &str) -> Option<Self> {
        ActorRef::where_is(home.name(name)).map(|actor| Self { actor })
    }

    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    /// Starts a child and waits for it. If that fails, the error is returned and the child forgotten: nothing is
    /// retried. GL9001 if a child of this name exists, GL5001 if there are too many.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<ActorCell> {
        let started = self.ask(|reply| Message::Add { spec, trial: true, reply }).await??;
        started.ok_or_else(|| MeshError::internal("a child was started and has no cell"))
    }

    /// Adds a child and returns at once; a start that fails is retried as its `restart` and the budget say.
    pub async fn add_child(&self, spec: ChildSpec) -> Result<()> {
        self.ask(|reply| Message::Add { spec, trial: false, reply }).await??;
        Ok(())
    }

    /// Stops a child, waits until it is gone, and forgets it. False if there is none of this name.
    pub async fn stop_child(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.ask(|reply| Message::Remove { name, reply }).await
    }

    /// Names of the children, in the order they were added, whatever their state.
    pub async fn children(&self) -> Result<Vec<String>> {
        self.ask(|reply| Message::Children { reply }).await
    }

    /// Stops the children, then the supervisor. Returns when all are gone.
    pub async fn stop(&self) {
        stop_cell(&self.cell(), SUPERVISOR_SHUTDOWN).await;
    }

    async fn ask<T: Send + 'static>(&self, message: impl FnOnce(RpcReplyPort<T>) -> Message) -> Result<T> {
        match self.actor.call(message, Some(ANSWER_MAX)).await {
            Ok(CallResult::Success(answer)) => Ok(answer),
            Ok(CallResult::Timeout) => Err(MeshError::new(ErrorCode::Deadline, "a supervisor did not answer in time")),
            Ok(CallResult::SenderError) | Err(_) => {
                Err(MeshError::new(ErrorCode::ShuttingDown, "the supervisor has stopped"))
            }
        }
    }
}
