//! Rows of the replicated state and of the catalog, as this node has them. Options that may hold credentials are never
//! shown, not even as the references they must be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::array::RecordBatch;
use greylag_cluster::{LinkState, health::Health};
use greylag_protocol::{
    NodeId, Result,
    state::{Allowed, MemberStatus, Role, RoleCount},
};

use super::columns::{Cell, TABLES, batch};
use crate::{
    coordinator::{Coordinator, edges::nearest},
    edge::port::SECRET_OPTIONS,
    quota::leased,
};

pub fn nodes(coordinator: &Coordinator, mut health: BTreeMap<NodeId, Health>) -> Result<RecordBatch> {
    let mesh = &coordinator.ctx.mesh;
    let state = mesh.state();
    let links = mesh.links();
    let links = links.borrow();
    let (leader, _) = mesh.leader();
    let link = |node| match links.get(&node) {
        _ if node == coordinator.ctx.node => "self",
        Some(LinkState::Connected) => "connected",
        Some(LinkState::Lost) | None => "lost",
    };
    let mut row = |member: &greylag_protocol::state::Member| -> Vec<Cell> {
        let (ailment, detail) = match health.remove(&member.id) {
            Some(health) => (health.ailment.to_string(), health.detail),
            // Admitted while the others were asked.
            None => ("ok".to_owned(), None),
        };
        let status = match member.status {
            MemberStatus::Up => "up",
            MemberStatus::Down => "down",
            MemberStatus::Draining => "draining",
        };
        vec![
            member.id.to_string().into(),
            member.uuid.to_string().into(),
            member.name.clone().into(),
            member.address.clone().into(),
            member.door.clone().into(),
            status.into(),
            Cell::Time(member.status_since_unix_ms),
            member.voter.into(),
            (leader == Some(member.id)).into(),
            member.outbound_only.into(),
            pairs(&member.labels).into(),
            member.allowed.as_ref().map(names).into(),
            link(member.id).into(),
            ailment.into(),
            detail.into(),
        ]
    };
    batch("nodes", state.members.values().map(&mut row).collect::<Vec<_>>())
}

/// One row for each holder; one without a node for a role that is wanted and that nobody holds.
pub fn roles(coordinator: &Coordinator) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    let edges = state.sources.keys().cloned().map(Role::Edge);
    let all: BTreeSet<Role> = state.wanted.keys().chain(state.held.keys()).cloned().chain(edges).collect();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for role in all {
        let wanted = match (state.wanted.get(&role).map(|w| w.count), &role) {
            (Some(RoleCount::All), _) => Some("all".to_owned()),
            (Some(RoleCount::AtMost(count)), _) => Some(count.to_string()),
            (None, Role::Edge(source)) => state.sources.get(source).map(|s| s.spec.replicas.to_string()),
            (None, _) => None,
        };
        let name = role.to_string();
        let holders = state.held.get(&role).filter(|nodes| !nodes.is_empty());
        let Some(holders) = holders else {
            rows.push(vec![name.into(), Cell::Null, wanted.into(), false.into(), false.into()]);
            continue;
        };
        for node in holders {
            let live = state.member(*node).is_some_and(|m| m.status != MemberStatus::Down);
            let wanted = wanted.clone();
            rows.push(vec![name.clone().into(), node.to_string().into(), wanted.into(), true.into(), live.into()]);
        }
    }
    batch("roles", rows)
}

pub fn sources(coordinator: &Coordinator) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    let view = coordinator.catalog.view();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (name, source) in &state.sources {
        let known = view.catalog.sources.get(name);
        let failure = view.failures.get(name);
        let status = match (known, failure) {
            (Some(_), None) => "ready",
            (Some(_), Some(_)) => "stale",
            (None, Some(_)) => "unavailable",
            (None, None) => "pending",
        };
        let edges: Vec<String> = nearest(&coordinator.ctx, name).iter().map(ToString::to_string).collect();
        let shown: BTreeMap<String, String> = source
            .spec
            .options
            .iter()
            .filter(|(option, _)| !SECRET_OPTIONS.contains(&option.as_str()))
            .map(|(option, value)| (option.clone(), value.clone()))
            .collect();
        rows.push(vec![
            name.to_string().into(),
            source.spec.kind.clone().into(),
            source.version.into(),
            source.spec.replicas.into(),
            edges.join(",").into(),
            status.into(),
            known.map(|schema| schema.tables.len() as u32).into(),
            pairs(&shown).into(),
            pairs(&source.spec.labels).into(),
            failure.map(ToString::to_string).into(),
        ]);
    }
    batch("sources", rows)
}

/// What the log knows of the quotas: the period that it grants from, and those before it that it still keeps. One that is
/// over by the clock stays the first until somebody asks for a part of the next.
pub fn quotas(coordinator: &Coordinator) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (key, quota) in &state.governance.quotas.quotas {
        for period in std::iter::once(&quota.current).chain(&quota.past) {
            rows.push(vec![
                key.organisation.clone().into(),
                key.agent.clone().into(),
                key.period.to_string().into(),
                Cell::Time(period.start_unix_ms),
                Cell::Time(period.end_unix_ms),
                quota.limit.into(),
                period.settled.into(),
                leased(period).into(),
                period.spent().into(),
                (period.open.len() as u32).into(),
            ]);
        }
    }
    batch("quotas", rows)
}

/// Tables of all sources and the system's own. Of a source whose schema could not be had there is one row, with the
/// reason.
pub fn tables(coordinator: &Arc<Coordinator>) -> Result<RecordBatch> {
    let view = coordinator.catalog.view();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (name, source) in &view.catalog.sources {
        for table in &source.tables {
            let key = (!table.primary_key.is_empty()).then(|| table.primary_key.join(","));
            let left_out: Vec<String> =
                table.unsupported.iter().map(|(column, of)| format!("column `{column}`: type `{of}`")).collect();
            let error = (!left_out.is_empty()).then(|| format!("left out: {}", left_out.join(", ")));
            rows.push(vec![
                name.to_string().into(),
                table.schema.clone().into(),
                table.name.clone().into(),
                "table".into(),
                table.rows.into(),
                table.bytes.into(),
                (table.columns.0.fields().len() as u32).into(),
                key.into(),
                error.into(),
            ]);
        }
    }
    for (name, error) in &view.catalog.unavailable {
        let empty = || Cell::from("");
        rows.push(vec![
            name.to_string().into(),
            empty(),
            empty(),
            "source".into(),
            Cell::Null,
            Cell::Null,
            0u32.into(),
            Cell::Null,
            error.to_string().into(),
        ]);
    }
    for (name, columns) in TABLES {
        rows.push(vec![
            "greylag".into(),
            "system".into(),
            name.into(),
            "system".into(),
            Cell::Null,
            Cell::Null,
            (columns.len() as u32).into(),
            Cell::Null,
            Cell::Null,
        ]);
    }
    batch("tables", rows)
}

/// `edge:a,voter`.
fn names(allowed: &BTreeSet<Allowed>) -> String {
    allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `a=1,b=2`.
fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
