//! Who asks, and when and where from, as Cedar sees it: the principal's entities and the request's context.

use std::collections::{BTreeMap, HashSet};

use cedar_policy::{Context, EntityUid, PartialEntity, RestrictedExpression, Schema};
use greylag_protocol::{
    MeshError, Result,
    messages::control::TableName,
    principal::{Principal, Priority, attribute},
    state::AttributeKind,
};

use super::vocabulary::{self, ACTS_FOR, DeclaredAttributes, PRINCIPAL, principal_uid, uid};

/// When and where from a statement comes. All of it is said by the mesh, none by the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// The door: `flight`, `http`, `postgres`, `mcp`, `graphql`, `cli`, `internal`.
    pub origin: String,
    /// The mesh's setting, such as `production`.
    pub environment: String,
    pub now_unix_ms: i64,
    /// For `hour`, `minute` and `weekday`: the mesh's local time.
    pub utc_offset_minutes: i32,
}

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

impl Circumstances {
    /// Local hour (0 to 23), minute, and day of the week (1 is Monday).
    pub fn local_time(&self) -> (i64, i64, i64) {
        let local = self.now_unix_ms.saturating_add(i64::from(self.utc_offset_minutes) * MINUTE_MS);
        let minutes = local.rem_euclid(DAY_MS) / MINUTE_MS;
        // 1970 began on a Thursday.
        (minutes / 60, minutes % 60, (local.div_euclid(DAY_MS) + 3).rem_euclid(7) + 1)
    }

    /// The request's context.
    pub fn context(&self, principal: &Principal, tables: &[TableName]) -> Result<Context> {
        let (hour, minute, weekday) = self.local_time();
        let tables = tables.iter().map(|t| RestrictedExpression::new_string(t.to_string()));
        let mut pairs = vec![
            ("origin".to_owned(), RestrictedExpression::new_string(self.origin.clone())),
            ("environment".into(), RestrictedExpression::new_string(self.environment.clone())),
            ("priority".into(), RestrictedExpression::new_long(priority(principal.priority()))),
            ("now".into(), instant(self.now_unix_ms)?),
            ("hour".into(), RestrictedExpression::new_long(hour)),
            ("minute".into(), RestrictedExpression::new_long(minute)),
            ("weekday".into(), RestrictedExpression::new_long(weekday)),
            ("tables".into(), RestrictedExpression::new_set(tables)),
        ];
        if let Some(framework) = principal.attribute(attribute::FRAMEWORK) {
            pairs.push(("framework".into(), RestrictedExpression::new_string(framework.to_owned())));
        }
        Context::from_pairs(pairs).map_err(|e| MeshError::internal(format!("a context cannot be made: {e}")))
    }
}

const fn priority(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Critical => 3,
    }
}

/// A Cedar datetime.
pub fn instant(unix_ms: i64) -> Result<RestrictedExpression> {
    format!("datetime(\"1970-01-01\").offset(duration(\"{unix_ms}ms\"))")
        .parse()
        .map_err(|e| MeshError::internal(format!("an instant cannot be written: {e}")))
}

/// What the principal is in: directly, for nothing is in anything further.
pub fn principal_parents(principal: &Principal) -> Result<HashSet<EntityUid>> {
    let roles = principal.roles.iter().map(|role| uid("Role", role));
    let groups = principal.groups().map(|group| uid("Group", group));
    let organisation = principal.organisation().map(|name| uid("Organisation", name));
    roles.chain(groups).chain(organisation).collect()
}

/// The principal, and the person for whom it acts.
pub fn principal_entities(
    principal: &Principal,
    declared: &DeclaredAttributes,
    schema: &Schema,
) -> Result<Vec<PartialEntity>> {
    let mut attributes = BTreeMap::new();
    let mut tags = BTreeMap::new();
    for (name, value) in &principal.attributes {
        if let Some(kind) = declared.get(name) {
            attributes.extend(declared_value(*kind, value).map(|v| (name.clone(), v)));
        } else if !attribute::is_reserved(name) && !PRINCIPAL.iter().any(|(built_in, _, _)| built_in == name) {
            tags.insert(name.clone(), RestrictedExpression::new_string(value.clone()));
        }
    }
    for (name, _, _) in PRINCIPAL {
        attributes.remove(name);
        let value = if name == "id" { Some(principal.id.as_str()) } else { principal.attribute(name) };
        attributes.extend(value.map(|v| (name.to_owned(), RestrictedExpression::new_string(v.to_owned()))));
    }
    let mut entities = Vec::new();
    attributes.remove(ACTS_FOR);
    if principal.attribute(attribute::ACTS_FOR).is_some()
        && let Some(person) = principal.person()
        && vocabulary::principal_type(principal.kind) != "User"
    {
        let person_uid = uid("User", person)?;
        attributes.insert(ACTS_FOR.into(), RestrictedExpression::new_entity_uid(person_uid.clone()));
        let id = [("id".to_owned(), RestrictedExpression::new_string(person.to_owned()))].into();
        entities.push(entity(person_uid, id, HashSet::new(), BTreeMap::new(), schema)?);
    }
    entities.push(entity(principal_uid(principal)?, attributes, principal_parents(principal)?, tags, schema)?);
    Ok(entities)
}

/// An entity of which everything is known.
pub fn entity(
    uid: EntityUid,
    attributes: BTreeMap<String, RestrictedExpression>,
    ancestors: HashSet<EntityUid>,
    tags: BTreeMap<String, RestrictedExpression>,
    schema: &Schema,
) -> Result<PartialEntity> {
    let attributes = attributes.into_iter().map(|(name, value)| (name.into(), value)).collect();
    let tags = tags.into_iter().map(|(name, value)| (name.into(), value)).collect();
    PartialEntity::new(uid, Some(attributes), Some(ancestors), Some(tags), schema)
        .map_err(|e| MeshError::internal(format!("an entity does not fit its schema: {e}")))
}

fn declared_value(kind: AttributeKind, value: &str) -> Option<RestrictedExpression> {
    match kind {
        AttributeKind::Text => Some(RestrictedExpression::new_string(value.to_owned())),
        AttributeKind::Integer => value.trim().parse().ok().map(RestrictedExpression::new_long),
        AttributeKind::Bool => value.trim().parse().ok().map(RestrictedExpression::new_bool),
        AttributeKind::Texts => {
            let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
            Some(RestrictedExpression::new_set(texts.map(|text| RestrictedExpression::new_string(text.to_owned()))))
        }
    }
}
