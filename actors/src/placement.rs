//! Makes the roles that run on this node those that the replicated state gives it: starts and stops role actors under
//! the supervisor of roles, and starts an edge anew when its source has been declared anew. It does not decide who
//! holds what (the leader does, in `cluster::placement`), and restarts nothing that fails (the supervisor does).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{ControlState, Role},
};

use crate::{
    context::NodeCtx,
    supervision::{ChildSpec, SupervisorRef},
};

/// Name of the supervisor of roles.
pub(crate) const ROLES: &str = "roles";

/// How each role is started.
pub(crate) type RoleSpecs = Arc<dyn Fn(&Arc<NodeCtx>, &Role) -> ChildSpec + Send + Sync>;

/// What a node is to run: for each role the version of what it was made from (a source's, else 0).
type Wanted = BTreeMap<Role, u64>;

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stop(Role),
    Start(Role, u64),
}

/// Roles of a node. An edge without its source is not started: the source has been dropped, and the leader will take
/// the role away.
fn wanted(state: &ControlState, node: NodeId) -> Wanted {
    let version = |role: &Role| match role {
        Role::Edge(source) => state.sources.get(source).map(|source| source.version),
        Role::Coordinator | Role::Planner | Role::Policy => Some(0),
    };
    state.roles_of(node).into_iter().filter_map(|role| version(&role).map(|version| (role, version))).collect()
}

/// Stops come first: an edge may hold what its successor needs.
fn steps(wanted: &Wanted, running: &Wanted) -> Vec<Step> {
    let stale = |(role, version): &(&Role, &u64)| wanted.get(*role) != Some(*version);
    let fresh = |(role, version): &(&Role, &u64)| running.get(*role) != Some(*version);
    let stops = running.iter().filter(stale).map(|(role, _)| Step::Stop(role.clone()));
    let starts = wanted.iter().filter(fresh).map(|(role, version)| Step::Start(role.clone(), *version));
    stops.chain(starts).collect()
}

/// The reconciler. What it has started outlives it, so it is kept outside its loop.
#[derive(Clone)]
pub(crate) struct Reconciler {
    ctx: Arc<NodeCtx>,
    specs: RoleSpecs,
    started: Arc<Mutex<Wanted>>,
}

impl Reconciler {
    pub(crate) fn new(ctx: Arc<NodeCtx>, specs: RoleSpecs) -> Self {
        Self { ctx, specs, started: Arc::default() }
    }

    /// Runs until the mesh has closed. Fails when the supervisor of roles is gone, and is then started again after it.
    pub(crate) async fn run(self) -> Result<()> {
        let mut state = self.ctx.mesh.watch();
        loop {
            let wanted = wanted(&state.borrow_and_update(), self.ctx.node);
            self.reconcile(&wanted).await?;
            if state.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn reconcile(&self, wanted: &Wanted) -> Result<()> {
        let gone = || MeshError::new(ErrorCode::ShuttingDown, "the supervisor of roles does not run");
        let roles = SupervisorRef::find(&self.ctx.home, ROLES).ok_or_else(gone)?;
        // A supervisor that was itself restarted has none of what was started under its predecessor.
        let children = roles.children().await?;
        self.started().retain(|role, _| children.contains(&role.to_string()));
        let running = self.started().clone();
        for step in steps(wanted, &running) {
            match step {
                Step::Stop(role) => {
                    tracing::info!(node = %self.ctx.node, %role, "role stops");
                    roles.stop_child(&role.to_string()).await?;
                    self.started().remove(&role);
                }
                Step::Start(role, version) => {
                    tracing::info!(node = %self.ctx.node, %role, version, "role starts");
                    let mut spec = (self.specs)(&self.ctx, &role);
                    spec.name = role.to_string();
                    roles.add_child(spec).await?;
                    self.started().insert(role, version);
                }
            }
        }
        Ok(())
    }

    fn started(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use greylag_protocol::{
        SourceName,
        state::{Source, SourceSpec},
    };

    use super::*;

    fn edge(name: &str) -> Role {
        Role::Edge(SourceName::new(name).unwrap())
    }

    fn set(roles: &[(Role, u64)]) -> Wanted {
        roles.iter().cloned().collect()
    }

    #[test]
    fn what_runs_becomes_what_is_wanted() {
        use Role::{Coordinator, Policy};
        use Step::{Start, Stop};
        let cases = [
            (set(&[]), set(&[]), vec![]),
            (set(&[(Policy, 0)]), set(&[]), vec![Start(Policy, 0)]),
            (set(&[]), set(&[(Policy, 0)]), vec![Stop(Policy)]),
            (set(&[(Policy, 0)]), set(&[(Policy, 0)]), vec![]),
            (set(&[(edge("a"), 2)]), set(&[(edge("a"), 1)]), vec![Stop(edge("a")), Start(edge("a"), 2)]),
            (
                set(&[(Coordinator, 0), (edge("a"), 1), (edge("b"), 3)]),
                set(&[(Policy, 0), (edge("a"), 1), (edge("b"), 2)]),
                vec![Stop(Policy), Stop(edge("b")), Start(Coordinator, 0), Start(edge("b"), 3)],
            ),
        ];
        for (wanted, running, expected) in cases {
            assert_eq!(steps(&wanted, &running), expected, "{wanted:?} from {running:?}");
        }
    }

    #[test]
    fn a_node_wants_what_it_holds_and_no_edge_without_its_source() {
        let mut state = ControlState::default();
        for (role, nodes) in [
            (Role::Coordinator, vec![1, 2]),
            (Role::Policy, vec![2]),
            (edge("here"), vec![1]),
            (edge("dropped"), vec![1]),
        ] {
            state.held.insert(role, nodes.into_iter().map(NodeId).collect());
        }
        let spec = SourceSpec {
            name: SourceName::new("here").unwrap(),
            kind: "files".into(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            replicas: 1,
        };
        state.sources.insert(spec.name.clone(), Source { spec, version: 4 });
        assert_eq!(wanted(&state, NodeId(1)), set(&[(Role::Coordinator, 0), (edge("here"), 4)]));
        assert_eq!(wanted(&state, NodeId(3)), set(&[]));
    }
}
