//! Policies, and what they are about: tags and declared attributes. Nothing is proposed that would make a policy unfit
//! for a table which this coordinator knows: what an unfit policy is about is denied.

use std::sync::Arc;

use greylag_governance::policy::{NamePattern, TablePattern, is_built_in};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    admin::CheckBeside,
    principal::attribute,
    state::{AttributeKind, Command, GovernCommand, Governance, Outcome, TagPlace},
    statement::{AdminReply, Session},
};

use super::propose;
use crate::coordinator::{Coordinator, rulebook::Rulebook};

pub(super) async fn put(
    coordinator: &Arc<Coordinator>,
    session: &Session,
    id: String,
    text: String,
    expect_version: Option<u64>,
) -> Result<AdminReply> {
    let governance = coordinator.ctx.mesh.state().governance.clone();
    Rulebook::of(coordinator, governance).fits(&id, &text).await?;
    let (by, now_unix_ms) = (session.principal.id.clone(), coordinator.ctx.seams.clock.unix_ms());
    propose(&coordinator.ctx, GovernCommand::PutPolicy { id, text, by, now_unix_ms, expect_version }).await
}

pub(super) async fn check(
    coordinator: &Arc<Coordinator>,
    id: String,
    text: String,
    beside: CheckBeside,
) -> Result<AdminReply> {
    for (tag, places) in &beside.tags {
        check_places(tag, places)?;
    }
    beside.attributes.keys().try_for_each(|name| check_attribute(name))?;
    let mut governance = coordinator.ctx.mesh.state().governance.clone();
    governance.attributes.extend(beside.attributes);
    for (tag, places) in beside.tags {
        governance.tags.entry(tag).or_default().value = places;
    }
    let tables = Rulebook::of(coordinator, governance).fits(&id, &text).await?;
    Ok(AdminReply::Fits { tables })
}

pub(super) async fn put_tag(
    coordinator: &Arc<Coordinator>,
    tag: String,
    places: Vec<TagPlace>,
    expect_version: Option<u64>,
) -> Result<AdminReply> {
    check_places(&tag, &places)?;
    let change = |governance: &mut Governance| {
        if places.is_empty() {
            governance.tags.remove(&tag);
        } else {
            governance.tags.entry(tag.clone()).or_default().value = places.clone();
        }
    };
    check_harmless(coordinator, change).await?;
    propose(&coordinator.ctx, GovernCommand::PutTag { tag, places, expect_version }).await
}

/// `changed` tells whether it was declared otherwise before.
pub(super) async fn declare(
    coordinator: &Arc<Coordinator>,
    name: String,
    kind: Option<AttributeKind>,
) -> Result<AdminReply> {
    check_attribute(&name)?;
    let before = coordinator.ctx.mesh.state().governance.attributes.get(&name).copied();
    let change = |governance: &mut Governance| match kind {
        Some(kind) => {
            governance.attributes.insert(name.clone(), kind);
        }
        None => {
            governance.attributes.remove(&name);
        }
    };
    check_harmless(coordinator, change).await?;
    let command = Command::Govern(GovernCommand::DeclareAttribute { name, kind });
    match coordinator.ctx.mesh.propose(command).await? {
        Outcome::Refused(error) => Err(error),
        _ => Ok(AdminReply::Applied { version: 0, changed: before != kind }),
    }
}

/// GL6003 with the first policy that fits now and would not after the change.
async fn check_harmless(coordinator: &Arc<Coordinator>, change: impl FnOnce(&mut Governance)) -> Result<()> {
    let state = coordinator.ctx.mesh.state();
    let mut changed = state.governance.clone();
    change(&mut changed);
    if changed == state.governance {
        return Ok(());
    }
    let after = Rulebook::of(coordinator, changed).problems().await?;
    if after.is_empty() {
        return Ok(());
    }
    let before = Rulebook::of(coordinator, state.governance.clone()).problems().await?;
    match after.into_iter().find(|(id, _)| !before.contains_key(id)) {
        Some((_, problem)) => Err(problem),
        None => Ok(()),
    }
}

fn check_places(tag: &str, places: &[TagPlace]) -> Result<()> {
    let wrong = |why: String| Err(MeshError::new(ErrorCode::InvalidResource, format!("tag `{tag}`: {why}")));
    if tag.trim().is_empty() {
        return wrong("it needs a name".into());
    }
    for place in places {
        if TablePattern::parse(&place.tables).is_none() {
            return wrong(format!("`{}` is not a table pattern such as `source.schema.*`", place.tables));
        }
        if place.columns.as_deref().is_some_and(|columns| NamePattern::new(columns.trim()).as_str().is_empty()) {
            return wrong("an empty pattern for columns".into());
        }
    }
    Ok(())
}

fn check_attribute(name: &str) -> Result<()> {
    let wrong = |why: &str| Err(MeshError::new(ErrorCode::InvalidResource, format!("attribute `{name}` {why}")));
    if name.trim().is_empty() {
        return wrong("needs a name");
    }
    if is_built_in(name) || attribute::is_reserved(name) {
        return wrong("has a meaning of its own and needs no declaration");
    }
    Ok(())
}
