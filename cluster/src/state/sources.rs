//! Commands about sources. A source wants its own edge role; both come and go together.

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result, SourceName,
    state::{ControlState, Role, RoleCount, RoleWanted, Source, SourceSpec, Unreached},
};

use super::{
    SOURCE_BYTES_MAX, SOURCES_MAX,
    apply::{Change, labels_bytes, refused},
    members::known,
};

/// A spec that is there already changes nothing, whatever version was expected: what was asked for holds.
pub(super) fn apply_source(state: &mut ControlState, spec: &SourceSpec, expect_version: Option<u64>) -> Result<Change> {
    let known = state.sources.get(&spec.name);
    let version = known.map_or(0, |s| s.version);
    if known.is_some_and(|s| &s.spec == spec) {
        return Ok(Change::Source { version, changed: false });
    }
    if let Some(expected) = expect_version
        && expected != version
    {
        let message = format!("source `{}` is at version {version}, not {expected}", spec.name);
        return Err(MeshError::new(ErrorCode::VersionConflict, message).of_source(spec.name.clone()));
    }
    check_size(spec)?;
    if known.is_none() && state.sources.len() >= SOURCES_MAX {
        return Err(refused(format!("the mesh has {SOURCES_MAX} sources and takes no more")));
    }
    let version = version + 1;
    state.sources.insert(spec.name.clone(), Source { spec: spec.clone(), version });
    // Who could not reach what was declared before may reach this.
    state.unreached.remove(&spec.name);
    let wanted = RoleWanted { count: RoleCount::AtMost(spec.replicas), labels: spec.labels.clone() };
    state.wanted.insert(Role::Edge(spec.name.clone()), wanted);
    Ok(Change::Source { version, changed: true })
}

pub(super) fn drop_source(state: &mut ControlState, name: &SourceName) -> Result<Change> {
    if state.sources.remove(name).is_none() {
        return Err(unknown(name));
    }
    let role = Role::Edge(name.clone());
    state.wanted.remove(&role);
    state.held.remove(&role);
    state.unreached.remove(name);
    Ok(Change::Made)
}

/// Said again it changes nothing, so a proposer that lost the reply does not count a try twice.
pub(super) fn reach(
    state: &mut ControlState,
    node: NodeId,
    source: &SourceName,
    version: u64,
    reached: bool,
    now_unix_ms: u64,
) -> Result<Change> {
    known(state, node)?;
    if state.sources.get(source).is_none_or(|known| known.version != version) {
        return Ok(Change::None);
    }
    if reached {
        let Some(nodes) = state.unreached.get_mut(source) else { return Ok(Change::None) };
        let removed = nodes.remove(&node).is_some();
        if nodes.is_empty() {
            state.unreached.remove(source);
        }
        return Ok(Change::made_if(removed));
    }
    let nodes = state.unreached.entry(source.clone()).or_default();
    let tries = match nodes.get(&node) {
        Some(Unreached { barred: true, .. }) => return Ok(Change::None),
        before => before.map_or(0, |before| before.tries).saturating_add(1),
    };
    nodes.insert(node, Unreached { since_unix_ms: now_unix_ms, tries, barred: true });
    Ok(Change::Made)
}

pub(super) fn forgive(state: &mut ControlState, node: NodeId, source: &SourceName, tries: u32) -> Change {
    let entry = state.unreached.get_mut(source).and_then(|nodes| nodes.get_mut(&node));
    match entry.filter(|entry| entry.barred && entry.tries == tries) {
        Some(entry) => {
            entry.barred = false;
            Change::Made
        }
        None => Change::None,
    }
}

pub(super) fn unknown(name: &SourceName) -> MeshError {
    MeshError::new(ErrorCode::UnknownSource, format!("source `{name}` is not known")).of_source(name.clone())
}

fn check_size(spec: &SourceSpec) -> Result<()> {
    let bytes = spec.kind.len() + labels_bytes(&spec.options) + labels_bytes(&spec.labels);
    if bytes > SOURCE_BYTES_MAX {
        let message = format!("the spec of source `{}` is over {SOURCE_BYTES_MAX} bytes", spec.name);
        return Err(MeshError::new(ErrorCode::InvalidResource, message).of_source(spec.name.clone()));
    }
    Ok(())
}
