//! Declared resources as the replicated state has them.

use greylag_protocol::{
    admin::{ResourceContent, ResourceId},
    state::ControlState,
};

pub(super) fn show(state: &ControlState, of: &ResourceId) -> Option<ResourceContent> {
    let governance = &state.governance;
    match of {
        ResourceId::Source(name) => state.sources.get(name).map(|s| ResourceContent::Source(s.spec.clone())),
        ResourceId::Policy(id) => governance.policies.get(id).map(|p| ResourceContent::Policy(p.text.clone())),
        ResourceId::Tag(tag) => governance.tags.get(tag).map(|t| ResourceContent::Tag(t.value.clone())),
        ResourceId::Attribute(name) => governance.attributes.get(name).copied().map(ResourceContent::Attribute),
        ResourceId::Governance => Some(ResourceContent::Governance(Box::new(governance.settings.value.clone()))),
        ResourceId::Quota(key) => governance.quotas.quotas.get(key)?.limit.map(ResourceContent::Quota),
    }
}
