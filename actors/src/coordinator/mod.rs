//! The coordinator role: runs statements for the doors of its node.
//!
//! Owns: admission, the actors of running statements (linked to it), the catalog of schemas, recent history.
//! Asks: policy actors, through `Peers`; the planner of its own node; edges, over data streams.
//! Is asked by: doors of its own node, as a `StatementService`; other coordinators, to cancel and to observe.
//! On restart it loses: running statements, whose readers get GL9001 or GL5005, and the history.
//! On restart it recovers from: the replicated state and the edges' schemas.

mod actor;
mod admin;
mod bearer;
mod book;
mod catalog;
mod circuits;
mod edges;
pub mod gate;
mod job;
mod jobs;
mod ledger;
pub mod port;
pub mod query;
mod rulebook;
mod service;
pub mod spill;
pub mod subquery;
pub mod system;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use greylag_protocol::{
    ErrorCode, MeshError, QueryId, Result,
    principal::{Principal, attribute},
    state::{Governance, Role},
    statement::StatementService,
};
use ractor::{ActorCell, ActorRef};
use tokio::time::{Instant, timeout, timeout_at};

#[cfg(test)]
pub(crate) use self::edges::get_schema;
use self::{
    catalog::CatalogHandle,
    circuits::Circuits,
    jobs::Jobs,
    ledger::Ledger,
    query::{QueryMessage, core::Event},
};
use crate::{ChildSpec, NodeCtx, turnstile::Turnstile};

/// Longest wait for a role of this node that is being restarted.
pub const HANDLE_WAIT_MAX: Duration = Duration::from_millis(1_000);
/// Longest time until a statement is stopped whose key has expired.
const REVOCATION_LOOK: Duration = Duration::from_millis(1_000);

/// The role's actor, for the supervisor of roles. One on a node.
pub fn child_spec(ctx: &Arc<NodeCtx>) -> ChildSpec {
    let name = Role::Coordinator.to_string();
    let (full, ctx) = (ctx.name(&name), ctx.clone());
    ChildSpec::of(name, full, move || (actor::CoordinatorActor, ctx.clone()))
}

/// The coordinator of this node as doors see it: it outlives the role's actor, and answers GL5005 while none runs.
pub fn statements(ctx: &Arc<NodeCtx>) -> Arc<dyn StatementService> {
    Arc::new(service::Statements::new(ctx.clone()))
}

/// What the role's actor, its statements and the doors share while the actor lives.
pub struct Coordinator {
    pub ctx: Arc<NodeCtx>,
    /// The role's actor, which supervises the statements.
    cell: ActorCell,
    statements: Turnstile,
    ledger: Ledger,
    circuits: Arc<Circuits>,
    jobs: Jobs,
    catalog: CatalogHandle,
    running: Mutex<BTreeMap<QueryId, Running>>,
}

struct Running {
    principal: String,
    /// What named the principal: whoever revokes it stops the statement.
    credential: Option<String>,
    actor: ActorRef<QueryMessage>,
}

impl Coordinator {
    fn new(ctx: Arc<NodeCtx>, cell: ActorCell, catalog: CatalogHandle) -> Self {
        let limits = &ctx.limits;
        let statements = Turnstile::new(
            ctx.bounds.open("limits.running_statements_max", "", limits.running_statements_max.max(1).into()),
            ctx.bounds.open("limits.queue_statements_max", "", limits.queue_statements_max.into()),
        );
        let (ledger, circuits, jobs) = (Ledger::default(), Arc::default(), Jobs::new(&ctx));
        Self { statements, cell, ledger, circuits, jobs, catalog, running: Mutex::default(), ctx }
    }

    /// Statements that run, and that wait to.
    pub fn load(&self) -> (usize, usize) {
        self.statements.load()
    }

    /// Makes a statement's actor findable for as long as what is returned is kept.
    fn register(self: &Arc<Self>, query: QueryId, principal: &Principal, actor: ActorRef<QueryMessage>) -> Registered {
        let credential = principal.attribute(attribute::CREDENTIAL).map(str::to_owned);
        let running = Running { principal: principal.id.clone(), credential, actor };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(query, running);
        Registered { coordinator: self.clone(), query }
    }

    /// Stops a statement. False if none of this id runs here; GL2003 if it is another's.
    fn cancel(&self, query: QueryId, principal: &Principal) -> Result<bool> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = running.get(&query) else { return Ok(false) };
        if found.principal != principal.id && !principal.is_admin() {
            return Err(MeshError::new(ErrorCode::Denied, "only an admin may cancel another principal's statement"));
        }
        let asked = Event::CancelAsked { by: principal.id.clone() };
        Ok(found.actor.cast(QueryMessage::Happened(asked)).is_ok())
    }
}

impl Coordinator {
    /// Stops what runs by credentials that are good for nothing any more.
    fn stop_revoked(&self, governance: &Governance, now_unix_ms: u64) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let by_key = running.values().filter_map(|r| Some((r, r.credential.as_deref()?.strip_prefix("key:")?)));
        for (running, id) in by_key {
            let good = governance.keys.get(id).is_some_and(|key| {
                key.revoked_unix_ms.is_none() && key.expires_unix_ms.is_none_or(|at| now_unix_ms < at)
            });
            if !good {
                // One that has ended needs no news.
                let _ = running.actor.cast(QueryMessage::Happened(Event::CredentialRevoked));
            }
        }
    }
}

/// Runs until the mesh has closed: looks whenever the log has changed, and now and then for keys that expire.
async fn watch_revocations(coordinator: std::sync::Weak<Coordinator>, ctx: Arc<NodeCtx>) {
    let mut states = ctx.mesh.watch();
    loop {
        let state = states.borrow_and_update().clone();
        let Some(coordinator) = coordinator.upgrade() else { return };
        coordinator.stop_revoked(&state.governance, ctx.seams.clock.unix_ms());
        drop(coordinator);
        if matches!(timeout(REVOCATION_LOOK, states.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

/// Keeps a statement findable.
pub struct Registered {
    coordinator: Arc<Coordinator>,
    query: QueryId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.coordinator.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.query);
    }
}

/// A handle that a role of this node offers, waiting a little for one that is being restarted.
async fn handle_within<T: ?Sized + Send + Sync + 'static>(
    ctx: &NodeCtx,
    role: &Role,
    within: Duration,
) -> Option<Arc<T>> {
    let mut changes = ctx.directory.watch();
    let until = Instant::now() + within;
    loop {
        changes.borrow_and_update();
        if let Some(handle) = ctx.directory.handle::<T>(role) {
            return Some(handle);
        }
        timeout_at(until, changes.changed()).await.ok()?.ok()?;
    }
}
