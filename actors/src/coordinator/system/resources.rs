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
    ids::RESERVED_NAMES,
    messages::control::{AskedTable, Discerned, TableName},
    schema::{TableSchema, WireSchema},
    state::{Allowed, MemberStatus, Role, RoleCount},
    statement::Session,
};

use super::columns::{Cell, TABLES, batch, schema};
use crate::{
    coordinator::{Coordinator, edges::nearest},
    edge::port::SECRET_OPTIONS,
    policy::port::discern,
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

/// Tables of all sources and the system's own, as far as the principal may know of them. Of a source whose schema could not
/// be had there is one row, with the reason. How much is in a table is for those to know who may see all of it.
pub async fn tables(coordinator: &Arc<Coordinator>, session: &Session) -> Result<RecordBatch> {
    let view = coordinator.catalog.view();
    let mut asked = Vec::new();
    let mut of: Vec<Option<&TableSchema>> = Vec::new();
    for (name, source) in &view.catalog.sources {
        for table in &source.tables {
            let full = TableName { source: name.to_string(), schema: table.schema.clone(), table: table.name.clone() };
            asked.push(AskedTable { table: full, columns: table.columns.clone() });
            of.push(Some(table));
        }
    }
    for (name, columns) in TABLES {
        asked.push(AskedTable { table: system_table(name), columns: WireSchema(schema(columns)) });
        of.push(None);
    }
    let known = discern(&coordinator.ctx, &session.principal, session.door, &asked).await?;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let seen = asked.iter().zip(of).zip(known).filter(|(_, known)| known.described);
    for ((AskedTable { table: name, columns }, table), known) in seen {
        let left_out = table.map(|table| left_out(table, &known)).unwrap_or_default();
        let (rows_known, bytes_known) = match table.filter(|_| known.whole) {
            Some(table) => (table.rows, table.bytes),
            None => (None, None),
        };
        let key =
            table.filter(|t| !t.primary_key.is_empty() && t.primary_key.iter().all(|c| !known.hidden.contains(c)));
        rows.push(vec![
            name.source.clone().into(),
            name.schema.clone().into(),
            name.table.clone().into(),
            if table.is_some() { "table" } else { "system" }.into(),
            rows_known.into(),
            bytes_known.into(),
            ((columns.0.fields().len() - known.hidden.len()) as u32).into(),
            key.map(|table| table.primary_key.join(",")).into(),
            left_out.into(),
        ]);
    }
    // What is wrong with a source is for administrators: it may name hosts and files.
    for (name, error) in view.catalog.unavailable.iter().filter(|_| session.principal.is_admin()) {
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
    batch("tables", rows)
}

/// Columns of types that are not supported, but none that is hidden.
fn left_out(table: &TableSchema, known: &Discerned) -> Option<String> {
    let shown = table.unsupported.iter().filter(|(column, _)| !known.hidden.contains(column));
    let left_out: Vec<String> = shown.map(|(column, of)| format!("column `{column}`: type `{of}`")).collect();
    (!left_out.is_empty()).then(|| format!("left out: {}", left_out.join(", ")))
}

fn system_table(name: &str) -> TableName {
    let [source, schema, _] = RESERVED_NAMES;
    TableName { source: source.to_owned(), schema: schema.to_owned(), table: name.to_owned() }
}

/// `edge:a,voter`.
fn names(allowed: &BTreeSet<Allowed>) -> String {
    allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `a=1,b=2`.
fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
