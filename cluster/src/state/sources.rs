//! Commands about sources. A source wants its own edge role; both come and go together.

use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    state::{ControlState, Role, RoleCount, RoleWanted, Source, SourceSpec},
};

use super::{
    SOURCE_BYTES_MAX, SOURCES_MAX,
    apply::{Change, labels_bytes, refused},
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
    Ok(Change::Made)
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
