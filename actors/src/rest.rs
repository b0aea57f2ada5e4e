//! What runs on this node in each of its roles, and that a node which is to drain tells the mesh in which of them nothing
//! does any more, so that they are taken from it before its time is up. It takes no role from anybody: the leader does.
//!
//! INVARIANT: in a role that the mesh was told to rest nothing begins while another node holds it and stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{Command, ControlState, Role},
};
use tokio::{sync::watch, time::timeout};

use crate::context::NodeCtx;

/// Until what the mesh could not be told is told again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What runs, by role. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Work(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    roles: Mutex<Roles>,
    /// Told when nothing runs any more in some role.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Roles {
    busy: BTreeMap<Role, u64>,
    resting: BTreeSet<Role>,
}

/// Something that runs in a role, until it is dropped.
#[derive(Debug)]
pub struct Busy {
    work: Work,
    role: Role,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut roles = self.work.lock();
        let Some(count) = roles.busy.get_mut(&self.role) else { return };
        *count -= 1;
        if *count == 0 {
            roles.busy.remove(&self.role);
            drop(roles);
            self.work.0.ended.send_replace(());
        }
    }
}

impl Work {
    /// Something begins. GL5005 in a role that rests.
    pub fn begin(&self, role: Role) -> Result<Busy> {
        let mut roles = self.lock();
        if roles.resting.contains(&role) {
            return Err(MeshError::new(ErrorCode::ShuttingDown, "the node drains, and others have its roles"));
        }
        *roles.busy.entry(role.clone()).or_default() += 1;
        Ok(Busy { work: self.clone(), role })
    }

    /// Lets those of these roles rest in which nothing runs, and no others. Returns them.
    fn rest(&self, handed_over: BTreeSet<Role>) -> BTreeSet<Role> {
        let mut roles = self.lock();
        let is_idle = |role: &Role| match role {
            // It works for the coordinator beside it alone.
            Role::Planner => !roles.busy.contains_key(&Role::Coordinator) && handed_over.contains(&Role::Coordinator),
            Role::Coordinator | Role::Policy | Role::Edge(_) => !roles.busy.contains_key(role),
        };
        let resting: BTreeSet<Role> = handed_over.iter().filter(|role| is_idle(role)).cloned().collect();
        roles.resting = resting.clone();
        resting
    }

    fn lock(&self) -> MutexGuard<'_, Roles> {
        self.0.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Roles that a node is to leave and that others hold already.
fn handed_over(state: &ControlState, node: NodeId) -> BTreeSet<Role> {
    if !state.draining.contains(&node) {
        return BTreeSet::new();
    }
    state.roles_of(node).into_iter().filter(|role| state.others_stay(node, role)).collect()
}

/// Runs until the mesh has closed.
pub(crate) async fn watch(ctx: Arc<NodeCtx>) -> Result<()> {
    let mut states = ctx.mesh.watch();
    let mut ended = ctx.work.0.ended.subscribe();
    loop {
        let state = states.borrow_and_update().clone();
        ended.borrow_and_update();
        let resting = ctx.work.rest(handed_over(&state, ctx.node));
        let known = state.resting.get(&ctx.node).is_some_and(|known| *known == resting)
            || (resting.is_empty() && !state.resting.contains_key(&ctx.node));
        if !known && let Err(error) = ctx.mesh.propose(Command::Rest { node: ctx.node, roles: resting }).await {
            tracing::debug!(%error, "the mesh could not be told what rests here");
        }
        let changed = async {
            tokio::select! {
                biased;
                changed = states.changed() => changed,
                changed = ended.changed() => changed,
            }
        };
        let changed = match known {
            true => changed.await,
            // What it was told is not known here yet, or it was not told.
            false => timeout(RETRY_PAUSE, changed).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use greylag_protocol::{
        SourceName,
        state::{Member, MemberStatus},
    };

    use super::*;

    fn edge() -> Role {
        Role::Edge(SourceName::new("a").unwrap())
    }

    fn set(roles: &[Role]) -> BTreeSet<Role> {
        roles.iter().cloned().collect()
    }

    #[test]
    fn a_role_rests_when_the_last_thing_in_it_has_ended_and_then_begins_nothing() {
        use Role::{Coordinator, Planner, Policy};
        let work = Work::default();
        let ended = work.0.ended.subscribe();
        let all = || set(&[Coordinator, Planner, Policy, edge()]);
        let (one, other) = (work.begin(edge()).unwrap(), work.begin(edge()).unwrap());
        let statement = work.begin(Coordinator).unwrap();
        assert_eq!(work.rest(all()), set(&[Policy]));
        drop(one);
        assert!(!ended.has_changed().unwrap());
        drop(other);
        assert!(ended.has_changed().unwrap());
        assert_eq!(work.rest(all()), set(&[Policy, edge()]));
        assert_eq!(work.begin(edge()).unwrap_err().code, ErrorCode::ShuttingDown);
        drop(statement);
        assert_eq!(work.rest(all()), all());
        // What others do not hold any more, or is not to be left, goes on.
        assert_eq!(work.rest(set(&[Policy])), set(&[Policy]));
        drop((work.begin(edge()).unwrap(), work.begin(Coordinator).unwrap()));
    }

    #[test]
    fn only_what_another_holds_who_is_up_and_stays_is_handed_over() {
        let mut state = ControlState::default();
        let member = |id: u64, status| Member {
            id: NodeId(id),
            uuid: greylag_protocol::NodeUuid(uuid::Uuid::from_u128(id.into())),
            name: String::new(),
            address: String::new(),
            door: None,
            labels: BTreeMap::new(),
            outbound_only: false,
            voter: true,
            status,
            status_since_unix_ms: 0,
            public_key: Vec::new(),
            allowed: None,
            certified_by: Vec::new(),
        };
        use MemberStatus::{Down, Draining, Up};
        for (id, status) in [(1, Draining), (2, Draining), (3, Down), (4, Up)] {
            state.members.insert(NodeId(id), member(id, status));
        }
        state.draining = [1, 2].map(NodeId).into();
        let mut held = |holders: &[u64]| {
            state.held.insert(edge(), holders.iter().copied().map(NodeId).collect());
            handed_over(&state, NodeId(1)).contains(&edge())
        };
        assert_eq!([held(&[1]), held(&[1, 2]), held(&[1, 3]), held(&[4])], [false; 4]);
        assert!(held(&[1, 2, 3, 4]));
        state.draining.remove(&NodeId(1));
        assert_eq!(handed_over(&state, NodeId(1)), set(&[]));
    }
}
