//! What each policy says about one resource: the part of a decision that asks Cedar.
//!
//! The only place where Cedar's experimental partial evaluation is called. One policy is asked at a time, so that one
//! that does not fit the table (any more) is known by name; its word is then [`Outcome::Unusable`], which denies.

use std::collections::{BTreeMap, HashSet};

use cedar_policy::{
    Context, Effect, EntityUid, PartialEntities, PartialEntity, PartialEntityUid, PartialRequest, RestrictedExpression,
    Schema, pst::Clause,
};
use greylag_protocol::{MeshError, Result, principal::Principal};

use super::{
    catalog::TableFacts,
    circumstances::{self, principal_entities},
    condition::{Shared, constant},
    residual,
    stored::Policy,
    vocabulary::{self, DeclaredAttributes, Target, action_name},
};

/// What a policy says about a resource, for one principal and context.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Its scope does not admit the principal.
    OfOthers,
    /// Its condition is true, false, or an error: then the policy counts as if it were not there.
    Holds,
    Fails,
    Errs,
    /// It holds for the rows that pass; with Cedar's residual, for people.
    Depends {
        when: Shared,
        residual: String,
    },
    /// It cannot be decided, and why.
    Unusable(String),
}

#[derive(Debug, Clone)]
pub struct Finding {
    /// Index among the engine's policies.
    pub policy: usize,
    pub outcome: Outcome,
}

impl Outcome {
    /// When the policy holds.
    pub fn when(&self) -> Shared {
        match self {
            Outcome::Holds => constant(true),
            Outcome::Depends { when, .. } => when.clone(),
            _ => constant(false),
        }
    }

    /// Whether it holds for some row, as far as is known.
    pub fn may_hold(&self) -> bool {
        self.when().as_constant() != Some(false)
    }
}

/// Who asks, as Cedar knows them.
pub struct Asker<'a> {
    pub principal: &'a Principal,
    pub uid: EntityUid,
    pub parents: HashSet<EntityUid>,
    pub context: Context,
    pub declared: &'a DeclaredAttributes,
}

/// One resource about which policies are asked.
pub struct Resource<'a> {
    pub target: Target,
    pub table: &'a TableFacts,
    pub column: Option<&'a str>,
    pub schema: &'a Schema,
}

/// What the policies that reach the resource say. `candidates` are those about the table, with their indexes.
pub fn find<'p>(
    resource: &Resource<'_>,
    asker: &Asker<'_>,
    candidates: impl Iterator<Item = (usize, &'p Policy)>,
) -> Result<Vec<Finding>> {
    let uid = vocabulary::resource_uid(resource.target, &resource.table.name, resource.column)?;
    let ancestors = vocabulary::ancestors(resource.target, resource.table, resource.column)?;
    let mut asked: Option<(PartialRequest, PartialEntities)> = None;
    let mut findings = Vec::new();
    for (index, policy) in candidates {
        if !policy.may_be(resource.target) || !policy.reaches(&uid, &ancestors) {
            continue;
        }
        // Columns come with their rows: nothing is asked of who permits them.
        if resource.column.is_some() && policy.effect == Effect::Permit {
            continue;
        }
        let outcome = if !policy.concerns(&asker.uid, &asker.parents) {
            Outcome::OfOthers
        } else if policy.is_unconditional() {
            Outcome::Holds
        } else {
            let (request, entities) = match &mut asked {
                Some(asked) => asked,
                none => none.insert(request(resource, asker, &uid, &ancestors)?),
            };
            evaluate(policy, request, entities, resource.schema)
        };
        findings.push(Finding { policy: index, outcome });
    }
    Ok(findings)
}

fn request(
    resource: &Resource<'_>,
    asker: &Asker<'_>,
    uid: &EntityUid,
    ancestors: &[EntityUid],
) -> Result<(PartialRequest, PartialEntities)> {
    let Resource { target, schema, .. } = *resource;
    let mut entities = principal_entities(asker.principal, asker.declared, schema)?;
    entities.push(resource_entity(resource, uid, ancestors)?);
    let entities = PartialEntities::from_partial_entities(entities, schema)
        .map_err(|e| MeshError::internal(format!("entities do not fit their schema: {e}")))?;
    let request = PartialRequest::new(
        PartialEntityUid::from_concrete(asker.uid.clone()),
        vocabulary::uid("Action", action_name(target.action()))?,
        PartialEntityUid::from_concrete(uid.clone()),
        Some(asker.context.clone()),
        schema,
    )
    .map_err(|e| MeshError::internal(format!("a request does not fit its schema: {e}")))?;
    Ok((request, entities))
}

/// A row's attributes are unknown, of everything else they are known; what it is in is known of all.
fn resource_entity(resource: &Resource<'_>, uid: &EntityUid, ancestors: &[EntityUid]) -> Result<PartialEntity> {
    let table = &resource.table.name;
    let ancestors: HashSet<EntityUid> = ancestors.iter().cloned().collect();
    let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, RestrictedExpression> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), RestrictedExpression::new_string((*text).to_owned())))
            .collect()
    };
    let attributes = match resource.target {
        Target::SelectRow => {
            return PartialEntity::new(uid.clone(), None, Some(ancestors), None, resource.schema)
                .map_err(|e| MeshError::internal(format!("a row does not fit its schema: {e}")));
        }
        Target::SelectColumn | Target::DescribeColumn => {
            let name = resource.column.unwrap_or_default();
            let type_name = resource.table.column(name).map_or("", |c| c.type_name.as_str());
            texts(&[("name", name), ("table", &table.to_string()), ("type", type_name)])
        }
        Target::DescribeTable | Target::ExplainTable | Target::ManageTable => {
            texts(&[("name", &table.table), ("schema", &table.schema), ("source", &table.source)])
        }
        Target::ManageMesh => texts(&[]),
    };
    circumstances::entity(uid.clone(), attributes, ancestors, BTreeMap::new(), resource.schema)
}

fn evaluate(policy: &Policy, request: &PartialRequest, entities: &PartialEntities, schema: &Schema) -> Outcome {
    let response = match policy.alone().tpe(request, entities, schema) {
        Ok(response) => response,
        Err(error) => return Outcome::Unusable(format!("it does not fit the table: {error}")),
    };
    let mut known = [
        (response.true_permits().next().is_some() || response.true_forbids().next().is_some(), Outcome::Holds),
        (response.false_permits().next().is_some() || response.false_forbids().next().is_some(), Outcome::Fails),
        (response.error_permits().next().is_some() || response.error_forbids().next().is_some(), Outcome::Errs),
    ]
    .into_iter()
    .filter_map(|(is, outcome)| is.then_some(outcome));
    if let Some(outcome) = known.next() {
        return outcome;
    }
    let Some(residual) = response.residual_policies().next() else {
        return Outcome::Unusable("partial evaluation says nothing of it".into());
    };
    let clauses = match residual.to_pst() {
        Ok(pst) => pst.body().clauses().clone(),
        Err(error) => return Outcome::Unusable(format!("its residual cannot be read: {error}")),
    };
    match &clauses[..] {
        [Clause::When(condition)] => match residual::translate(condition) {
            Ok(truth) => Outcome::Depends { when: truth.is_true, residual: condition.to_string() },
            Err(untranslatable) => Outcome::Unusable(untranslatable.0),
        },
        _ => Outcome::Unusable("its residual has another shape than one `when`".into()),
    }
}

/// `permits`, `forbids`, `masks`: what the policy does where it holds.
pub fn deed(policy: &Policy) -> &'static str {
    match (policy.effect, &policy.mask) {
        (Effect::Permit, _) => "permits",
        (Effect::Forbid, None) => "forbids",
        (Effect::Forbid, Some(_)) => "masks",
    }
}
