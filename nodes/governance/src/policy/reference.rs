//! What policies mean, by asking Cedar's own authorizer about one row, column or table after the other: the definition
//! that rulings must match, as [`mask::apply`](super::mask::apply) is of masks.
//!
//! Slow, and of no use to a planner: it needs the rows. It knows neither residuals nor row filters, and makes its
//! entities itself. Of our own code it trusts what [`Policy`] says of its annotations, and the local time.
//!
//! INVARIANT: nothing here is used to make a ruling, so that the two can differ.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet,
    Request, RestrictedExpression,
};
use greylag_protocol::{
    MeshError, Result,
    filter::FilterValue,
    messages::control::{Action, TableName},
    obligation::Mask,
    principal::{Principal, PrincipalKind, Priority, attribute},
    state::AttributeKind,
};

use super::{
    catalog::{TableFacts, ValueKind},
    circumstances::Circumstances,
    mask,
    stored::{Mode, Policy},
    vocabulary::DeclaredAttributes,
};

/// A row: its columns that are not NULL.
pub type Row = BTreeMap<String, FilterValue>;

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    Row(&'a TableFacts, &'a Row),
    Column(&'a TableFacts, &'a str),
    Table(&'a TableFacts),
    Mesh,
}

/// One principal's questions, in one statement.
pub struct Reference<'a> {
    policies: Vec<(&'a Policy, cedar_policy::Policy)>,
    principal: EntityUid,
    /// The principal, the person behind it, and the actions.
    entities: Vec<Entity>,
    context: Context,
    authorizer: Authorizer,
}

impl<'a> Reference<'a> {
    /// `tables` are all those of the statement.
    pub fn new(
        policies: &'a [Policy],
        principal: &Principal,
        circumstances: &Circumstances,
        tables: &[TableName],
        declared: &DeclaredAttributes,
    ) -> Result<Self> {
        let parse = |policy: &'a Policy| {
            let parsed = cedar_policy::Policy::parse(Some(PolicyId::new(&policy.id)), &policy.text).map_err(failed)?;
            Ok((policy, parsed))
        };
        let mut entities = principal_entities(principal, declared)?;
        let read = entity_uid("Action", "read")?;
        entities.push(entity(read.clone(), [], vec![])?);
        for name in ["select", "describe", "explain"] {
            entities.push(entity(entity_uid("Action", name)?, [], vec![read.clone()])?);
        }
        entities.push(entity(entity_uid("Action", "manage")?, [], vec![])?);
        Ok(Self {
            policies: policies.iter().map(parse).collect::<Result<_>>()?,
            principal: entity_uid(type_of(principal.kind), &principal.id)?,
            entities,
            context: context(principal, circumstances, tables)?,
            authorizer: Authorizer::new(),
        })
    }

    /// Whether Cedar allows the action, by the policies up to a mode that hide and show whole things, not masks.
    pub fn permits(&self, action: Action, subject: Subject<'_>, upto: Mode) -> Result<bool> {
        let policies = self.about(subject, upto).filter(|(policy, _)| policy.mask.is_none());
        self.ask(action, subject, policies.map(|(_, cedar)| cedar.clone()))
    }

    /// Whether one policy holds: Cedar alone decides what that means. `None` if there is no such policy about it.
    pub fn holds(&self, id: &str, action: Action, subject: Subject<'_>) -> Result<Option<bool>> {
        let found = self.about(subject, Mode::Log).find(|(policy, _)| policy.id == id);
        found.map(|(_, cedar)| self.decides(cedar, action, subject)).transpose()
    }

    /// Whether a forbid, other than one with a mask, reaches a column.
    pub fn hides(&self, action: Action, table: &TableFacts, column: &str, upto: Mode) -> Result<bool> {
        let subject = Subject::Column(table, column);
        let forbids = self.about(subject, upto).filter(|(p, _)| p.effect == Effect::Forbid && p.mask.is_none());
        for (_, cedar) in forbids {
            if self.decides(cedar, action, subject)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The strongest of the masks that hold for a column in one row.
    pub fn mask(&self, table: &TableFacts, column: &str, row: &Row, upto: Mode) -> Result<Option<Mask>> {
        let Some(facts) = table.column(column) else { return Ok(None) };
        let mut strongest: Option<Mask> = None;
        for subject in [Subject::Row(table, row), Subject::Column(table, column)] {
            for (policy, cedar) in self.about(subject, upto) {
                let Some(asked) = &policy.mask else { continue };
                if matches!(subject, Subject::Row(..)) && !policy.names_column(column) {
                    continue;
                }
                if self.decides(cedar, Action::Select, subject)? {
                    let asked = mask::fitting(asked, facts);
                    if strongest.as_ref().is_none_or(|s| s.strength() < asked.strength()) {
                        strongest = Some(asked);
                    }
                }
            }
        }
        Ok(strongest)
    }

    fn about(
        &self,
        subject: Subject<'_>,
        upto: Mode,
    ) -> impl Iterator<Item = &(&'a Policy, cedar_policy::Policy)> + use<'_, 'a> {
        let table = match subject {
            Subject::Row(table, _) | Subject::Column(table, _) | Subject::Table(table) => Some(table.name.clone()),
            Subject::Mesh => None,
        };
        self.policies
            .iter()
            .filter(move |(p, _)| p.mode <= upto && table.as_ref().is_none_or(|table| p.is_about(table)))
    }

    /// A permit holds where it alone permits; a forbid, where it turns a permit for everything into a refusal.
    fn decides(&self, cedar: &cedar_policy::Policy, action: Action, subject: Subject<'_>) -> Result<bool> {
        if cedar.effect() == Effect::Permit {
            return self.ask(action, subject, [cedar.clone()]);
        }
        let all = cedar_policy::Policy::parse(Some(PolicyId::new("\u{0}all")), "permit(principal, action, resource);");
        Ok(!self.ask(action, subject, [cedar.clone(), all.map_err(failed)?])?)
    }

    fn ask(
        &self,
        action: Action,
        subject: Subject<'_>,
        policies: impl IntoIterator<Item = cedar_policy::Policy>,
    ) -> Result<bool> {
        let resource = resource(subject)?;
        let name = match action {
            Action::Select => "select",
            Action::Describe => "describe",
            Action::Explain => "explain",
            Action::Manage => "manage",
        };
        let action = entity_uid("Action", name)?;
        let (principal, context) = (self.principal.clone(), self.context.clone());
        let request = Request::new(principal, action, resource.uid(), context, None).map_err(failed)?;
        let all = self.entities.iter().cloned().chain([resource]);
        let entities = Entities::from_entities(all, None).map_err(failed)?;
        let policies = PolicySet::from_policies(policies).map_err(failed)?;
        Ok(self.authorizer.is_authorized(&request, &policies, &entities).decision() == Decision::Allow)
    }
}

fn failed(error: impl std::fmt::Display) -> MeshError {
    MeshError::internal(format!("Cedar cannot be asked: {error}"))
}

fn entity_uid(type_name: &str, id: &str) -> Result<EntityUid> {
    let type_name: EntityTypeName = type_name.parse().map_err(failed)?;
    Ok(EntityUid::from_type_name_and_id(type_name, EntityId::new(id)))
}

fn entity(
    uid: EntityUid,
    attributes: impl IntoIterator<Item = (String, RestrictedExpression)>,
    parents: Vec<EntityUid>,
) -> Result<Entity> {
    Entity::new_with_tags(uid, attributes, parents, []).map_err(failed)
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

const fn type_of(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::Person => "User",
        PrincipalKind::Agent => "Agent",
        PrincipalKind::Service => "Machine",
    }
}

fn principal_entities(principal: &Principal, declared: &DeclaredAttributes) -> Result<Vec<Entity>> {
    const OF_TOKENS: [&str; 4] =
        [attribute::ORGANISATION, attribute::AGENT_ID, attribute::FRAMEWORK, attribute::REQUEST_ID];
    let mut attributes = BTreeMap::from([("id".to_owned(), text(&principal.id))]);
    for name in OF_TOKENS {
        attributes.extend(principal.attribute(name).map(|value| (name.to_owned(), text(value))));
    }
    let mut tags = Vec::new();
    let mut parents: BTreeSet<(&str, &str)> = principal.roles.iter().map(|role| ("Role", role.as_str())).collect();
    parents.extend(principal.attribute(attribute::ORGANISATION).map(|name| ("Organisation", name)));
    for (name, value) in &principal.attributes {
        let built_in = name == "id" || OF_TOKENS.contains(&name.as_str());
        match (name.strip_prefix(attribute::GROUP_PREFIX), declared.get(name)) {
            (Some(group), _) => {
                parents.insert(("Group", group));
            }
            _ if built_in || [attribute::ACTS_FOR, attribute::SCOPES, attribute::CREDENTIAL].contains(&&**name) => {}
            (None, Some(kind)) => attributes.extend(of_kind(*kind, value).map(|value| (name.clone(), value))),
            (None, None) => tags.push((name.clone(), text(value))),
        }
    }
    let mut entities = Vec::new();
    if let (PrincipalKind::Agent | PrincipalKind::Service, Some(person)) =
        (principal.kind, principal.attribute(attribute::ACTS_FOR))
    {
        let uid = entity_uid("User", person)?;
        attributes.insert("acts_for".into(), RestrictedExpression::new_entity_uid(uid.clone()));
        entities.push(entity(uid, [("id".to_owned(), text(person))], vec![])?);
    }
    let parents = parents.into_iter().map(|(kind, id)| entity_uid(kind, id)).collect::<Result<Vec<_>>>()?;
    let uid = entity_uid(type_of(principal.kind), &principal.id)?;
    entities.push(Entity::new_with_tags(uid, attributes, parents, tags).map_err(failed)?);
    Ok(entities)
}

fn of_kind(kind: AttributeKind, value: &str) -> Option<RestrictedExpression> {
    Some(match kind {
        AttributeKind::Text => text(value),
        AttributeKind::Integer => RestrictedExpression::new_long(value.trim().parse().ok()?),
        AttributeKind::Bool => RestrictedExpression::new_bool(value.trim().parse().ok()?),
        AttributeKind::Texts => {
            RestrictedExpression::new_set(value.split(',').map(str::trim).filter(|t| !t.is_empty()).map(text))
        }
    })
}

fn context(principal: &Principal, circumstances: &Circumstances, tables: &[TableName]) -> Result<Context> {
    let (hour, minute, weekday) = circumstances.local_time();
    let priority = match principal.priority() {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Critical => 3,
    };
    let mut pairs = vec![
        ("origin", text(&circumstances.origin)),
        ("environment", text(&circumstances.environment)),
        ("priority", RestrictedExpression::new_long(priority)),
        ("now", instant(circumstances.now_unix_ms)?),
        ("hour", RestrictedExpression::new_long(hour)),
        ("minute", RestrictedExpression::new_long(minute)),
        ("weekday", RestrictedExpression::new_long(weekday)),
        ("tables", RestrictedExpression::new_set(tables.iter().map(|table| text(&table.to_string())))),
    ];
    pairs.extend(principal.attribute(attribute::FRAMEWORK).map(|name| ("framework", text(name))));
    Context::from_pairs(pairs.into_iter().map(|(name, value)| (name.to_owned(), value))).map_err(failed)
}

fn resource(subject: Subject<'_>) -> Result<Entity> {
    let (table, of_column) = match subject {
        Subject::Mesh => return entity(entity_uid("Mesh", "mesh")?, [], vec![]),
        Subject::Row(table, _) | Subject::Table(table) => (table, None),
        Subject::Column(table, column) => (table, table.column(column)),
    };
    let TableName { source, schema, table: name } = &table.name;
    let full = format!("{source}.{schema}.{name}");
    let mut parents = vec![entity_uid("Source", source)?, entity_uid("Schema", &format!("{source}.{schema}"))?];
    for tag in table.tags.iter().chain(of_column.iter().flat_map(|column| &column.tags)) {
        parents.push(entity_uid("Tag", tag)?);
    }
    let texts = |pairs: [(&str, &str); 3]| pairs.map(|(name, value)| (name.to_owned(), text(value)));
    match subject {
        Subject::Table(_) => entity(
            entity_uid("Table", &full)?,
            texts([("name", name), ("schema", schema), ("source", source)]),
            parents,
        ),
        Subject::Column(_, column) => {
            parents.push(entity_uid("Table", &full)?);
            let type_name = of_column.map_or("", |column| &column.type_name);
            let attributes = texts([("name", column), ("table", &full), ("type", type_name)]);
            entity(entity_uid("Column", &format!("{full}.{column}"))?, attributes, parents)
        }
        Subject::Row(_, row) => {
            parents.push(entity_uid("Table", &full)?);
            let mut attributes = Vec::new();
            for column in &table.columns {
                if let Some(value) = row.get(&column.name).filter(|value| Some(kind_of(value)) == column.kind) {
                    attributes.push((column.name.clone(), attribute_of(value)?));
                }
            }
            entity(entity_uid("Row", "\u{0}one")?, attributes, parents)
        }
        Subject::Mesh => Err(MeshError::internal("the mesh is in nothing")),
    }
}

const fn kind_of(value: &FilterValue) -> ValueKind {
    match value {
        FilterValue::Bool(_) => ValueKind::Bool,
        FilterValue::Integer(_) => ValueKind::Integer,
        FilterValue::Text(_) => ValueKind::Text,
        FilterValue::Decimal(_) => ValueKind::Decimal,
        FilterValue::Instant(_) => ValueKind::Instant,
    }
}

fn attribute_of(value: &FilterValue) -> Result<RestrictedExpression> {
    Ok(match value {
        FilterValue::Bool(value) => RestrictedExpression::new_bool(*value),
        FilterValue::Integer(value) => RestrictedExpression::new_long(*value),
        FilterValue::Text(value) => text(value),
        FilterValue::Decimal(units) => {
            let sign = if *units < 0 { "-" } else { "" };
            let (whole, fraction) = (units.unsigned_abs() / 10_000, units.unsigned_abs() % 10_000);
            RestrictedExpression::new_decimal(format!("{sign}{whole}.{fraction:04}"))
        }
        FilterValue::Instant(ms) => instant(*ms)?,
    })
}

/// Written as people would, within the years that Cedar can read.
fn instant(unix_ms: i64) -> Result<RestrictedExpression> {
    const YEAR_0: i64 = -62_167_219_200_000;
    const YEAR_10000: i64 = 253_402_300_800_000;
    if !(YEAR_0..YEAR_10000).contains(&unix_ms) {
        let far = format!("datetime(\"1970-01-01\").offset(duration(\"{unix_ms}ms\"))");
        return far.parse().map_err(failed);
    }
    let (mut year, mut day) = (1970, unix_ms.div_euclid(86_400_000));
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days = |year: i64| if leap(year) { 366 } else { 365 };
    // Whole cycles of 400 years first, then year by year: at most 400 steps.
    (year, day) = (year + 400 * day.div_euclid(146_097), day.rem_euclid(146_097));
    while day >= days(year) {
        (year, day) = (year + 1, day - days(year));
    }
    let mut month = 0;
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while let Some(length) = lengths.get(month).filter(|length| day >= **length) {
        (month, day) = (month + 1, day - length);
    }
    let ms = unix_ms.rem_euclid(86_400_000);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    Ok(RestrictedExpression::new_datetime(format!(
        "{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        month + 1,
        day + 1,
        ms % 1_000
    )))
}
