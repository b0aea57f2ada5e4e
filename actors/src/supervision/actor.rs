//! skeleton
use greylag_protocol::Result;
use ractor::ActorCell;

use super::{Budget, ChildSpec, Strategy};
use crate::ActorHome;

/// Namespace of what starts a supervisor.
pub struct Supervisor;

/// A running supervisor.
#[derive(Debug, Clone)]
pub struct SupervisorRef {
    cell: ActorCell,
}

impl Supervisor {
    /// Starts a supervisor, and then its children one after the other. It does not wait for them; a child that cannot
    /// be started is treated like one that has failed. `name` is its name within the node.
    pub async fn spawn(
        _home: &ActorHome,
        _name: &str,
        _strategy: Strategy,
        _budget: Budget,
        _children: Vec<ChildSpec>,
        _parent: Option<ActorCell>,
    ) -> Result<SupervisorRef> {
        todo!()
    }

    /// A supervisor as the child of another. Its children are made anew at every start.
    pub fn child_spec(
        _home: &ActorHome,
        _name: &str,
        _strategy: Strategy,
        _budget: Budget,
        _children: impl Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
    ) -> ChildSpec {
        todo!()
    }
}

impl SupervisorRef {
    pub fn cell(&self) -> ActorCell {
        self.cell.clone()
    }

    /// Starts a child and waits for it. If that fails, the error is returned and the child forgotten: nothing is
    /// retried. GL9001 if a child of this name exists.
    pub async fn start_child(&self, _spec: ChildSpec) -> Result<ActorCell> {
        todo!()
    }

    /// Adds a child and returns at once; a start that fails is retried as its `restart` and the budget say.
    pub async fn add_child(&self, _spec: ChildSpec) -> Result<()> {
        todo!()
    }

    /// Stops a child, waits until it is gone, and forgets it. False if there is none of this name.
    pub async fn stop_child(&self, _name: &str) -> Result<bool> {
        todo!()
    }

    /// Stops the children, last first, then the supervisor.
    pub async fn stop(&self) {
        todo!()
    }
}
