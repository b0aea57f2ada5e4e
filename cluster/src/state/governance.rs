//! Commands about who may do what, and about quotas. Whether a policy means anything has been checked by who proposed it;
//! here is what keeps the state small and the nodes alike.
//!
//! INVARIANT: `decided_since` becomes the epoch of the change that raises it.

use greylag_protocol::{
    Epoch, ErrorCode, MeshError, Result,
    state::{
        ApiKey, AttributeKind, AuditHead, ControlState, FOUNDING_POLICIES, GovernCommand, Governance,
        GovernanceSettings, QuotaCommand, QuotaLedger, QuotaOutcome, StoredPolicy, TagPlace, Versioned,
    },
};

use super::{
    ATTRIBUTES_MAX, GOVERNANCE_NAME_BYTES_MAX, KEY_BYTES_MAX, KEYS_MAX, LEASES_MAX, POLICIES_BYTES_MAX, POLICIES_MAX,
    POLICY_BYTES_MAX, QUOTAS_MAX, SETTINGS_LISTED_MAX, TAG_PLACES_MAX, TAGS_MAX,
    apply::{Change, refused},
};

/// Keys that have been revoked for so long are forgotten where there is no room for new ones.
const REVOKED_KEPT_MS: u64 = 30 * 24 * 3_600_000;

pub(super) fn founding() -> Governance {
    let policies = FOUNDING_POLICIES.iter().map(|(id, text)| {
        let policy =
            StoredPolicy { text: (*text).to_owned(), version: 1, changed_by: "foundation".into(), changed_unix_ms: 0 };
        ((*id).to_owned(), policy)
    });
    Governance { policies: policies.collect(), ..Governance::default() }
}

pub(super) fn govern(state: &mut ControlState, command: &GovernCommand) -> Result<Change> {
    let next = Epoch(state.epoch.0 + 1);
    let governance = &mut state.governance;
    let (change, decides) = match command {
        GovernCommand::PutPolicy { id, text, by, now_unix_ms, expect_version } => {
            let stored =
                StoredPolicy { text: text.clone(), version: 0, changed_by: by.clone(), changed_unix_ms: *now_unix_ms };
            (put_policy(governance, id, stored, *expect_version)?, true)
        }
        GovernCommand::DropPolicy { id } => {
            if governance.policies.remove(id).is_none() {
                return Err(MeshError::new(ErrorCode::InvalidResource, format!("no policy is called `{id}`")));
            }
            (Change::Made, true)
        }
        GovernCommand::PutTag { tag, places, expect_version } => {
            (put_tag(governance, tag, places, *expect_version)?, true)
        }
        GovernCommand::DeclareAttribute { name, kind } => (declare(governance, name, *kind)?, true),
        GovernCommand::PutSettings { settings, expect_version } => {
            (put_settings(governance, settings, *expect_version)?, true)
        }
        GovernCommand::PutKey { key } => (put_key(governance, key)?, false),
        GovernCommand::RevokeKey { id, now_unix_ms } => (revoke_key(governance, id, *now_unix_ms)?, true),
        GovernCommand::KeysUsed { uses } => {
            keys_used(governance, uses);
            (Change::None, false)
        }
        GovernCommand::AuditHead { head } => {
            audit_head(governance, state.next_node, *head)?;
            (Change::None, false)
        }
    };
    let changed = matches!(change, Change::Made | Change::Source { changed: true, .. });
    if changed && decides {
        state.governance.decided_since = next;
    }
    Ok(change)
}

pub(super) fn quota(ledger: &mut QuotaLedger, command: &QuotaCommand) -> Result<QuotaOutcome> {
    match command {
        QuotaCommand::SetLimit { key, limit: Some(_), .. } => {
            // Principals without organisation are counted under the empty one.
            if !key.organisation.is_empty() {
                check_name(&key.organisation)?;
            }
            key.agent.as_deref().map(check_name).transpose()?;
            if ledger.quotas.len() >= QUOTAS_MAX && !ledger.quotas.contains_key(key) {
                return Err(refused(format!("the mesh has {QUOTAS_MAX} quotas and takes no more")));
            }
        }
        QuotaCommand::Lease { key, lease, .. } => {
            let open = ledger.quotas.get(key).map(|quota| &quota.current.open);
            if open.is_some_and(|open| open.len() >= LEASES_MAX && !open.contains_key(lease)) {
                return Err(refused(format!("the quota {key} has {LEASES_MAX} open leases and takes no more")));
            }
        }
        QuotaCommand::SetLimit { .. } | QuotaCommand::Report { .. } => {}
    }
    Ok(ledger.apply(command))
}

fn put_policy(
    governance: &mut Governance,
    id: &str,
    mut policy: StoredPolicy,
    expect_version: Option<u64>,
) -> Result<Change> {
    let known = governance.policies.get(id);
    let version = known.map_or(0, |p| p.version);
    if known.is_some_and(|p| p.text == policy.text) {
        return Ok(Change::Source { version, changed: false });
    }
    check_version(&format!("policy `{id}`"), version, expect_version)?;
    check_name(id)?;
    if policy.text.len() > POLICY_BYTES_MAX || policy.changed_by.len() > GOVERNANCE_NAME_BYTES_MAX {
        return Err(refused(format!("policy `{id}` is over {POLICY_BYTES_MAX} bytes")));
    }
    if known.is_none() && governance.policies.len() >= POLICIES_MAX {
        return Err(refused(format!("the mesh has {POLICIES_MAX} policies and takes no more")));
    }
    let others = governance.policies.iter().filter(|(other, _)| *other != id).map(|(_, p)| p.text.len());
    if others.sum::<usize>() + policy.text.len() > POLICIES_BYTES_MAX {
        return Err(refused(format!("the mesh's policies would be over {POLICIES_BYTES_MAX} bytes together")));
    }
    policy.version = version + 1;
    governance.policies.insert(id.to_owned(), policy);
    Ok(Change::Source { version: version + 1, changed: true })
}

fn put_tag(governance: &mut Governance, tag: &str, places: &[TagPlace], expect_version: Option<u64>) -> Result<Change> {
    let known = governance.tags.get(tag);
    let version = known.map_or(0, |t| t.version);
    if known.is_some_and(|t| t.value == places) || (known.is_none() && places.is_empty()) {
        return Ok(Change::Source { version, changed: false });
    }
    check_version(&format!("tag `{tag}`"), version, expect_version)?;
    if places.is_empty() {
        governance.tags.remove(tag);
        return Ok(Change::Source { version, changed: true });
    }
    check_name(tag)?;
    if places.len() > TAG_PLACES_MAX {
        return Err(refused(format!("tag `{tag}` is on more than {TAG_PLACES_MAX} places: use patterns")));
    }
    for place in places {
        check_name(&place.tables)?;
        place.columns.as_deref().map(check_name).transpose()?;
    }
    if known.is_none() && governance.tags.len() >= TAGS_MAX {
        return Err(refused(format!("the mesh has {TAGS_MAX} tags and takes no more")));
    }
    let version = version + 1;
    governance.tags.insert(tag.to_owned(), Versioned { version, value: places.to_vec() });
    Ok(Change::Source { version, changed: true })
}

fn declare(governance: &mut Governance, name: &str, kind: Option<AttributeKind>) -> Result<Change> {
    let Some(kind) = kind else {
        return Ok(Change::made_if(governance.attributes.remove(name).is_some()));
    };
    check_name(name)?;
    if governance.attributes.len() >= ATTRIBUTES_MAX && !governance.attributes.contains_key(name) {
        return Err(refused(format!("the mesh has {ATTRIBUTES_MAX} declared attributes and takes no more")));
    }
    Ok(Change::made_if(governance.attributes.insert(name.to_owned(), kind) != Some(kind)))
}

fn put_settings(
    governance: &mut Governance,
    settings: &GovernanceSettings,
    expect_version: Option<u64>,
) -> Result<Change> {
    let version = governance.settings.version;
    if governance.settings.value == *settings {
        return Ok(Change::Source { version, changed: false });
    }
    check_version("the governance settings", version, expect_version)?;
    check_name(&settings.environment)?;
    if settings.budgets.len() > SETTINGS_LISTED_MAX || settings.weights.len() > SETTINGS_LISTED_MAX {
        return Err(refused(format!("settings list at most {SETTINGS_LISTED_MAX} budgets and as many weights")));
    }
    let names = settings.budgets.iter().flat_map(|b| [&b.organisation, &b.role, &b.agent]).flatten();
    for name in names.chain(settings.weights.keys()) {
        check_name(name)?;
    }
    governance.settings = Versioned { version: version + 1, value: settings.clone() };
    Ok(Change::Source { version: version + 1, changed: true })
}

/// A key is put once: who asks again with the same one has lost the reply.
fn put_key(governance: &mut Governance, key: &ApiKey) -> Result<Change> {
    if let Some(known) = governance.keys.get(&key.id) {
        let same = known.secret_hash == key.secret_hash;
        return if same { Ok(Change::None) } else { Err(refused(format!("key `{}` is there already", key.id))) };
    }
    check_name(&key.id)?;
    let attributes: usize = key.principal.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let roles: usize = key.principal.roles.iter().map(String::len).sum();
    let networks = key.networks.len() * size_of::<greylag_protocol::state::Network>();
    if key.principal.id.len() + attributes + roles + networks > KEY_BYTES_MAX {
        return Err(refused(format!("key `{}` is over {KEY_BYTES_MAX} bytes", key.id)));
    }
    if governance.keys.len() >= KEYS_MAX {
        let now = key.created_unix_ms;
        let is_gone = |at: Option<u64>| at.is_some_and(|at| now.saturating_sub(at) > REVOKED_KEPT_MS);
        governance.keys.retain(|_, key| !is_gone(key.revoked_unix_ms) && !is_gone(key.expires_unix_ms));
    }
    if governance.keys.len() >= KEYS_MAX {
        return Err(refused(format!("the mesh has {KEYS_MAX} keys and takes no more")));
    }
    governance.keys.insert(key.id.clone(), key.clone());
    Ok(Change::Made)
}

fn revoke_key(governance: &mut Governance, id: &str, now_unix_ms: u64) -> Result<Change> {
    let Some(key) = governance.keys.get_mut(id) else {
        return Err(MeshError::new(ErrorCode::InvalidResource, format!("no key has the id `{id}`")));
    };
    if key.revoked_unix_ms.is_some() {
        return Ok(Change::None);
    }
    key.revoked_unix_ms = Some(now_unix_ms);
    Ok(Change::Made)
}

fn keys_used(governance: &mut Governance, uses: &[(String, u64)]) {
    for (id, at) in uses {
        if let Some(key) = governance.keys.get_mut(id) {
            key.last_used_unix_ms = key.last_used_unix_ms.max(Some(*at));
        }
    }
}

/// Of members that were removed too: their chains are still to be verified.
fn audit_head(governance: &mut Governance, next_node: u64, head: AuditHead) -> Result<()> {
    if head.node.0 == 0 || head.node.0 >= next_node {
        return Err(refused(format!("no node ever was {}", head.node)));
    }
    match governance.audit_heads.get(&head.node) {
        Some(known) if known.sequence > head.sequence => Ok(()),
        Some(known) if known.sequence == head.sequence && known.hash != head.hash => {
            Err(refused(format!("the audit chain of {} has another record {} already", head.node, head.sequence)))
        }
        _ => {
            governance.audit_heads.insert(head.node, head);
            Ok(())
        }
    }
}

fn check_version(what: &str, version: u64, expect_version: Option<u64>) -> Result<()> {
    match expect_version {
        Some(expected) if expected != version => {
            let message = format!("{what} is at version {version}, not {expected}");
            Err(MeshError::new(ErrorCode::VersionConflict, message))
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > GOVERNANCE_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let message = format!("a name is 1 to {GOVERNANCE_NAME_BYTES_MAX} bytes of text");
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::{
        NodeId,
        state::{Command, Outcome, Period, QuotaKey},
    };

    use super::*;
    use crate::state::{
        apply,
        fixture::{self, key},
    };

    fn formed() -> ControlState {
        let mut state = ControlState::default();
        apply(&mut state, &fixture::form([1, 2]));
        state
    }

    fn put(id: &str, text: &str, expect_version: Option<u64>) -> Command {
        let (id, text, by) = (id.to_owned(), text.to_owned(), "ada".to_owned());
        Command::Govern(GovernCommand::PutPolicy { id, text, by, now_unix_ms: 5, expect_version })
    }

    #[test]
    fn a_new_mesh_has_policies_for_its_administrators() {
        let state = formed();
        assert_eq!(state.governance.policies.len(), FOUNDING_POLICIES.len());
        assert_eq!(state.governance.policies["admins-read"].version, 1);
    }

    #[test]
    fn what_decisions_depend_on_raises_the_floor_and_nothing_else_does() {
        let mut state = formed();
        let mut step = |command: Command, floor_moves: bool, epoch_moves: bool| {
            let before = state.clone();
            assert!(!matches!(apply(&mut state, &command), Outcome::Refused(_)), "{command}");
            assert_eq!(state.epoch > before.epoch, epoch_moves, "{command}");
            let moved = state.governance.decided_since > before.governance.decided_since;
            assert_eq!(moved, floor_moves, "{command}");
            if moved {
                assert_eq!(state.governance.decided_since, state.epoch, "{command}");
            }
        };
        let govern = Command::Govern;
        step(put("a", "permit;", Some(0)), true, true);
        step(put("a", "permit;", Some(0)), false, false);
        step(put("a", "forbid;", Some(1)), true, true);
        step(govern(GovernCommand::DropPolicy { id: "a".into() }), true, true);
        let places = vec![TagPlace { tables: "a.*.*".into(), columns: Some("name".into()) }];
        let tag = |places| GovernCommand::PutTag { tag: "pii".into(), places, expect_version: None };
        step(govern(tag(places.clone())), true, true);
        step(govern(tag(places)), false, false);
        step(govern(tag(vec![])), true, true);
        let declare = |kind| GovernCommand::DeclareAttribute { name: "ward".into(), kind };
        step(govern(declare(Some(AttributeKind::Text))), true, true);
        step(govern(declare(None)), true, true);
        let settings = Box::new(GovernanceSettings { environment: "test".into(), ..Default::default() });
        step(govern(GovernCommand::PutSettings { settings, expect_version: Some(0) }), true, true);
        step(govern(GovernCommand::PutKey { key: Box::new(key("k", 1)) }), false, true);
        step(govern(GovernCommand::KeysUsed { uses: vec![("k".into(), 9), ("none".into(), 9)] }), false, false);
        step(govern(GovernCommand::RevokeKey { id: "k".into(), now_unix_ms: 7 }), true, true);
        step(govern(GovernCommand::RevokeKey { id: "k".into(), now_unix_ms: 8 }), false, false);
        let head = AuditHead { node: NodeId(1), sequence: 3, hash: [1; 32] };
        step(govern(GovernCommand::AuditHead { head }), false, false);
        let quota = QuotaKey { organisation: "clinic".into(), agent: None, period: Period::Hour };
        let nobodys = QuotaKey { organisation: String::new(), ..quota.clone() };
        for key in [quota, nobodys] {
            step(Command::Quota(QuotaCommand::SetLimit { key, limit: Some(5), now_unix_ms: 1 }), false, false);
        }
        assert_eq!(state.governance.quotas.keys_of("", Some("a")).len(), 1);
        assert_eq!(state.governance.keys["k"].last_used_unix_ms, Some(9));
        assert_eq!(state.governance.keys["k"].revoked_unix_ms, Some(7));
    }

    #[test]
    fn refusals_change_nothing() {
        let mut state = formed();
        apply(&mut state, &Command::Govern(GovernCommand::PutKey { key: Box::new(key("k", 1)) }));
        let head =
            |node, sequence, hash| GovernCommand::AuditHead { head: AuditHead { node, sequence, hash: [hash; 32] } };
        apply(&mut state, &Command::Govern(head(NodeId(1), 3, 1)));
        let before = state.clone();
        let long = "x".repeat(POLICY_BYTES_MAX + 1);
        for command in [
            put("a", "x", Some(1)),
            put("", "x", None),
            put("a", &long, None),
            Command::Govern(GovernCommand::DropPolicy { id: "none".into() }),
            Command::Govern(GovernCommand::PutKey { key: Box::new(key("k", 2)) }),
            Command::Govern(GovernCommand::RevokeKey { id: "none".into(), now_unix_ms: 1 }),
            Command::Govern(head(NodeId(77), 1, 1)),
            Command::Govern(head(NodeId(1), 3, 2)),
        ] {
            assert!(matches!(apply(&mut state, &command), Outcome::Refused(_)), "{command}");
            assert_eq!(state, before, "{command}");
        }
        apply(&mut state, &Command::Govern(head(NodeId(1), 2, 9)));
        assert_eq!(state, before, "an older head");
    }
}
