//! What a supervisor is told: its children, how each is started and when it is restarted, and how much failing is
//! too much.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr};

/// Which ends of a child lead to a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every end.
    Permanent,
    /// A failure: a panic, an error, a kill. Not a stop.
    Transient,
    /// None. The child is forgotten when it ends.
    Temporary,
}

/// Who is restarted when a child has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The child alone.
    OneForOne,
    /// The child, and all that were added after it.
    RestForOne,
}

/// How much failing a supervisor bears, and how long it waits before each restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Restarts within `window` before the supervisor fails itself; `None` for a supervisor that never gives up.
    pub restarts_max: Option<u32>,
    pub window: Duration,
    /// Wait before a child's first restart; doubled at each failure in a row, and jittered down by up to a half.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

/// Starts a child linked to the supervisor given, and returns its cell once it runs.
pub type Start = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, ActorProcessingErr>> + Send + Sync>;

/// One child of a supervisor.
#[derive(Clone)]
pub struct ChildSpec {
    /// Name within the node, such as `edge/orders`. Unique among the supervisor's children.
    pub name: String,
    pub restart: Restart,
    pub start: Start,
    /// Time to end by itself when it is told to stop; then it is killed.
    pub shutdown: Duration,
}

/// Time that a child has to end by itself, unless its spec says otherwise.
pub const SHUTDOWN_DEFAULT: Duration = Duration::from_secs(5);

impl ChildSpec {
    /// A permanent child from an actor and the arguments of each of its starts. `ractor_name` is its full name
    /// (`NodeCtx::name`).
    pub fn of<A, F>(name: impl Into<String>, ractor_name: String, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let start: Start = Arc::new(move |supervisor| {
            let (make, ractor_name) = (make.clone(), ractor_name.clone());
            Box::pin(async move {
                let (actor, arguments) = make();
                let (child, _) = Actor::spawn_linked(Some(ractor_name), actor, arguments, supervisor).await?;
                Ok(child.get_cell())
            })
        });
        Self { name: name.into(), restart: Restart::Permanent, start, shutdown: SHUTDOWN_DEFAULT }
    }

    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    pub fn shutdown(mut self, shutdown: Duration) -> Self {
        self.shutdown = shutdown;
        self
    }
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .finish_non_exhaustive()
    }
}

impl Budget {
    /// Gives up after this many restarts within this time.
    pub const fn within(restarts_max: u32, window: Duration) -> Self {
        Self { restarts_max: Some(restarts_max), window, ..Self::endless() }
    }

    /// Never gives up, only slows down.
    pub const fn endless() -> Self {
        Self {
            restarts_max: None,
            window: Duration::from_secs(60),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(10),
        }
    }

    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff_min = min;
        self.backoff_max = max;
        self
    }
}
