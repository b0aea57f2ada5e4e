//! Whether policies fit the tables that this coordinator knows. It decides nothing: that is the policy role's.
//!
//! INVARIANT: every table of the catalog and of the system counts, and of each the columns as the catalog has them now.

use std::{collections::BTreeMap, sync::Arc};

use greylag_governance::policy::{Catalog, NamePattern, Policy, PolicyEngine, TableFacts, TablePattern, Tagging};
use greylag_protocol::{
    Epoch, ErrorCode, MeshError, Result,
    messages::control::TableName,
    state::{Governance, TagPlace},
};
use tokio::sync::oneshot;

use super::{Coordinator, catalog::core::CatalogView, system};
use crate::NodeCtx;

/// Policies, tags and attributes, over tables.
pub struct Grounds {
    ctx: Arc<NodeCtx>,
    view: Arc<CatalogView>,
    governance: Governance,
}

impl Grounds {
    pub fn of(coordinator: &Coordinator, governance: Governance) -> Self {
        Self { ctx: coordinator.ctx.clone(), view: coordinator.catalog.view(), governance }
    }

    /// How many tables a policy reaches, if it fits all of them. GL6003 if not.
    pub async fn fits(self, id: &str, text: &str) -> Result<u64> {
        let policy = Policy::parse(id, text)?;
        if let Some(named) = policy.named().filter(|named| *named != id) {
            let message = format!("policy `{id}`: its `@id` is `{named}`");
            return Err(MeshError::new(ErrorCode::InvalidPolicy, message));
        }
        let ctx = self.ctx.clone();
        away(&ctx, move || self.engine().0.check(&policy).map(|reached| reached as u64)).await?
    }

    /// Policies that do not fit some table, with why.
    pub async fn problems(self) -> Result<BTreeMap<String, MeshError>> {
        let ctx = self.ctx.clone();
        away(&ctx, move || {
            let (engine, mut problems) = self.engine();
            for policy in engine.policies() {
                if let Err(problem) = engine.check(policy) {
                    problems.insert(policy.id.clone(), problem);
                }
            }
            problems
        })
        .await
    }

    /// With the policies that cannot even be read, which an older release may have taken.
    fn engine(&self) -> (PolicyEngine, BTreeMap<String, MeshError>) {
        let mut unreadable = BTreeMap::new();
        let mut policies = Vec::new();
        for (id, stored) in &self.governance.policies {
            match Policy::parse(id, &stored.text) {
                Ok(policy) => policies.push(policy),
                Err(error) => {
                    unreadable.insert(id.clone(), error);
                }
            }
        }
        let catalog = self.catalog();
        (PolicyEngine::new(Epoch(0), policies, &catalog, self.governance.attributes.clone()), unreadable)
    }

    fn catalog(&self) -> Catalog {
        let tags = taggings(&self.governance.tags.iter().map(|(tag, t)| (tag.as_str(), t.value.as_slice())).collect());
        let mut catalog = Catalog::default();
        for (source, schema) in &self.view.catalog.sources {
            for table in &schema.tables {
                let (schema, table_name) = (table.schema.clone(), table.name.clone());
                let name = TableName { source: source.to_string(), schema, table: table_name };
                catalog.insert(TableFacts::new(name, table.columns.0.fields().iter().map(AsRef::as_ref), &tags));
            }
        }
        for (table, columns) in system::schemas() {
            let name = TableName { source: "greylag".into(), schema: "system".into(), table: table.into() };
            catalog.insert(TableFacts::new(name, columns.fields().iter().map(AsRef::as_ref), &tags));
        }
        catalog
    }
}

/// Places whose pattern cannot be read, which an older release may have taken, are left out.
fn taggings(tags: &BTreeMap<&str, &[TagPlace]>) -> Vec<Tagging> {
    let places = tags.iter().flat_map(|(tag, places)| places.iter().map(move |place| (*tag, place)));
    let tagging = |(tag, place): (&str, &TagPlace)| {
        let columns = place.columns.as_deref().map(NamePattern::new);
        Some(Tagging { tag: tag.to_owned(), tables: TablePattern::parse(&place.tables)?, columns })
    };
    places.filter_map(tagging).collect()
}

/// Runs what computes for long away from the reactor.
async fn away<T: Send + 'static>(ctx: &NodeCtx, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (send, receive) = oneshot::channel();
    // Nobody waits any more: then the result is not needed.
    ctx.seams.blocking.run(Box::new(move || drop(send.send(work())))).await;
    receive.await.map_err(|_| MeshError::internal("a check of policies did not come to its end"))
}
