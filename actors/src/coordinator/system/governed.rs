//! Rows about who may do what: policies, tags, attributes and keys, as this node's replicated state has them. Of a key
//! there is neither its secret nor that one's hash.

use std::sync::Arc;

use arrow::array::RecordBatch;
use greylag_governance::policy::Policy;
use greylag_protocol::{
    Result,
    principal::{PrincipalKind, attribute},
    state::{ApiKey, AttributeKind},
};

use super::columns::{Cell, batch};
use crate::coordinator::{Coordinator, rulebook::Rulebook};

/// `problem` says what is wrong with a policy that does not fit a table, for which it denies all that it is about.
pub async fn policies(coordinator: &Arc<Coordinator>) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    let mut problems = Rulebook::of(coordinator, state.governance.clone()).problems().await?;
    let rows = state.governance.policies.iter().map(|(id, stored)| {
        let policy = Policy::parse(id, &stored.text).ok();
        let of = |what: fn(&Policy) -> Option<String>| policy.as_ref().and_then(what);
        vec![
            id.clone().into(),
            stored.version.into(),
            of(|p| Some(p.effect.to_string())).into(),
            of(|p| Some(p.mode.as_str().to_owned())).into(),
            of(|p| p.mask.as_ref().map(ToString::to_string)).into(),
            of(Policy::tables).into(),
            stored.changed_by.clone().into(),
            Cell::Time(stored.changed_unix_ms),
            stored.text.clone().into(),
            problems.remove(id).map(|problem| problem.message).into(),
        ]
    });
    batch("policies", rows.collect::<Vec<_>>())
}

/// One row for each place.
pub fn tags(coordinator: &Coordinator) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    let places = state.governance.tags.iter().flat_map(|(tag, t)| t.value.iter().map(move |p| (tag, t.version, p)));
    let rows = places.map(|(tag, version, place)| {
        vec![tag.clone().into(), version.into(), place.tables.clone().into(), place.columns.clone().into()]
    });
    batch("tags", rows.collect::<Vec<_>>())
}

pub fn attributes(coordinator: &Coordinator) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    let name = |kind: &AttributeKind| match kind {
        AttributeKind::Text => "text",
        AttributeKind::Integer => "integer",
        AttributeKind::Bool => "bool",
        AttributeKind::Texts => "texts",
    };
    let rows =
        state.governance.attributes.iter().map(|(attribute, kind)| vec![attribute.clone().into(), name(kind).into()]);
    batch("attributes", rows.collect::<Vec<_>>())
}

pub fn keys(coordinator: &Coordinator) -> Result<RecordBatch> {
    let state = coordinator.ctx.mesh.state();
    batch("keys", state.governance.keys.values().map(key).collect::<Vec<_>>())
}

fn key(key: &ApiKey) -> Vec<Cell> {
    let kind = match key.principal.kind {
        PrincipalKind::Person => "person",
        PrincipalKind::Agent => "agent",
        PrincipalKind::Service => "service",
    };
    let others = key.principal.attributes.iter().filter(|(name, _)| *name != attribute::ORGANISATION);
    let time = |at: Option<u64>| at.map_or(Cell::Null, Cell::Time);
    vec![
        key.id.clone().into(),
        key.principal.id.clone().into(),
        kind.into(),
        key.principal.organisation().map(str::to_owned).into(),
        key.principal.roles.join(",").into(),
        others.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",").into(),
        key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",").into(),
        key.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").into(),
        Cell::Time(key.created_unix_ms),
        time(key.expires_unix_ms),
        time(key.revoked_unix_ms),
        time(key.last_used_unix_ms),
    ]
}
