//! Collects observations: this node's own directly and in full, the other live nodes' with one control call each.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    NodeId,
    messages::control::{
        ActorRow, AuditRow, BoundRow, CircuitRow, ControlReply, ControlRequest, QueryRow, SubqueryRow, UsageRow,
    },
    state::{MemberStatus, Role},
};

use tokio::time::Instant;

use super::recorded;
use crate::coordinator::Coordinator;

/// Longest wait for other nodes.
const OBSERVE_MAX: Duration = Duration::from_millis(1_000);

pub async fn queries(coordinator: &Arc<Coordinator>) -> Vec<QueryRow> {
    let mut all = coordinator.ledger.queries();
    for reply in from_others(coordinator, ControlRequest::ObserveQueries, |_| Some(Role::Coordinator)).await {
        if let ControlReply::Queries { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all
}

pub async fn subqueries(coordinator: &Arc<Coordinator>) -> Vec<SubqueryRow> {
    let mut all = coordinator.ledger.attempts();
    for reply in from_others(coordinator, ControlRequest::ObserveSubqueries, |_| Some(Role::Coordinator)).await {
        if let ControlReply::Subqueries { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all
}

/// Any role's actor can tell of its node; one that has none at all cannot be asked.
pub async fn actors(coordinator: &Arc<Coordinator>) -> Vec<ActorRow> {
    let mut all = coordinator.ctx.tree().snapshot();
    for reply in from_others(coordinator, ControlRequest::ObserveActors, some_role(coordinator)).await {
        if let ControlReply::Actors { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all
}

pub async fn bounds(coordinator: &Arc<Coordinator>) -> Vec<BoundRow> {
    let mut all = coordinator.ctx.bounds.rows(coordinator.ctx.node);
    for reply in from_others(coordinator, ControlRequest::ObserveBounds, some_role(coordinator)).await {
        if let ControlReply::Bounds { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all
}

pub async fn circuits(coordinator: &Arc<Coordinator>) -> Vec<CircuitRow> {
    let mut all = coordinator.circuits.rows(coordinator.ctx.node, Instant::now());
    for reply in from_others(coordinator, ControlRequest::ObserveCircuits, |_| Some(Role::Coordinator)).await {
        if let ControlReply::Circuits { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all
}

pub async fn usage(coordinator: &Arc<Coordinator>) -> Vec<UsageRow> {
    let mut all = coordinator.ctx.quota.usage();
    for reply in from_others(coordinator, ControlRequest::ObserveUsage, |_| Some(Role::Coordinator)).await {
        if let ControlReply::Usage { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all
}

pub async fn audit(coordinator: &Arc<Coordinator>) -> Vec<AuditRow> {
    let mut all = recorded(&coordinator.ctx);
    for reply in from_others(coordinator, ControlRequest::ObserveAudit, some_role(coordinator)).await {
        if let ControlReply::Audit { rows, .. } = reply {
            all.extend(rows);
        }
    }
    all.sort_by_key(|row| (std::cmp::Reverse(row.at_unix_ms), row.node, std::cmp::Reverse(row.sequence)));
    all
}

/// Any role that a node holds.
fn some_role(coordinator: &Coordinator) -> impl Fn(NodeId) -> Option<Role> {
    let state = coordinator.ctx.mesh.state();
    move |node| state.roles_of(node).into_iter().next()
}

/// Answers of the other live nodes that hold the role which `role_of` names, in order of node.
async fn from_others(
    coordinator: &Arc<Coordinator>,
    request: ControlRequest,
    role_of: impl Fn(NodeId) -> Option<Role>,
) -> Vec<ControlReply> {
    let ctx = &coordinator.ctx;
    let Ok(peers) = ctx.peers() else { return Vec::new() };
    let state = ctx.mesh.state();
    let live = state.members.values().filter(|m| m.id != ctx.node && m.status != MemberStatus::Down);
    let asked = live.filter_map(|member| {
        let role = role_of(member.id).filter(|role| state.holds(member.id, role))?;
        let (peers, request, node) = (peers.clone(), request.clone(), member.id);
        Some(async move { peers.call(node, &role, request, OBSERVE_MAX).await })
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}
