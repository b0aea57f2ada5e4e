//! Policies over the tables that this coordinator knows: whether they fit, and what they say, for people. It decides
//! nothing: that is the policy role's.
//!
//! INVARIANT: every table of the catalog and of the system counts, and of each the columns as the catalog has them now.

use std::{collections::BTreeMap, sync::Arc};

use greylag_governance::policy::{
    Catalog, Circumstances, Policy, PolicyEngine, Question, Ruling, TableFacts, Tagging, Touched,
};
use greylag_protocol::{
    Epoch, ErrorCode, MeshError, Result,
    admin::{Explanation, TableExplanation},
    messages::control::{Action, TableName, Verdict},
    principal::Principal,
    state::Governance,
};
use tokio::sync::oneshot;

use super::{Coordinator, system};
use crate::{NodeCtx, planner::port};

/// Policies, tags and attributes, over tables.
pub struct Rulebook {
    ctx: Arc<NodeCtx>,
    sources: Arc<port::Catalog>,
    governance: Governance,
}

impl Rulebook {
    pub fn of(coordinator: &Coordinator, governance: Governance) -> Self {
        Self::over(&coordinator.ctx, coordinator.catalog.view().catalog.clone(), governance)
    }

    /// Over the tables as one statement sees them.
    pub fn over(ctx: &Arc<NodeCtx>, sources: Arc<port::Catalog>, governance: Governance) -> Self {
        Self { ctx: ctx.clone(), sources, governance }
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

    /// What would come of a statement that touches these tables, and what each policy says of them.
    pub async fn explain(self, epoch: Epoch, asked: Asked) -> Result<Explanation> {
        let ctx = self.ctx.clone();
        away(&ctx, move || {
            let (engine, unreadable) = self.engine();
            let touched: Vec<_> = asked.tables.into_iter().map(|table| Touched { table, columns: None }).collect();
            let settings = &self.governance.settings.value;
            let circumstances = Circumstances {
                origin: asked.origin,
                environment: settings.environment.clone(),
                now_unix_ms: i64::try_from(asked.at_unix_ms).unwrap_or(i64::MAX),
                utc_offset_minutes: settings.utc_offset_minutes,
            };
            let (principal, action) = (&asked.principal, asked.action);
            let question = Question { principal, action, touched: &touched, circumstances: &circumstances };
            let Ruling { mut verdict, obligations, policies, notices } = engine.decide(&question);
            // Nobody knows what it forbids, so a policy actor denies everything.
            if let Some(error) = unreadable.into_values().next() {
                verdict = Verdict::Deny { reason: error.message };
            }
            let mut tables = Vec::new();
            if !touched.is_empty() {
                for (table, words) in engine.words(&question)? {
                    let of = obligations.iter().find(|obligation| obligation.table == table).cloned();
                    let (filter, masks, hidden) = of.map(|o| (o.filter, o.masks, o.hidden)).unwrap_or_default();
                    tables.push(TableExplanation { table, filter, masks, hidden, words });
                }
            }
            Ok(Explanation { action, verdict, epoch, at_unix_ms: asked.at_unix_ms, policies, tables, notices })
        })
        .await?
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
        let tags: Vec<Tagging> = self.governance.tags.iter().flat_map(|(tag, t)| Tagging::of(tag, &t.value)).collect();
        let mut catalog = Catalog::default();
        for (source, schema) in &self.sources.sources {
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

/// A question for an explanation.
pub struct Asked {
    pub principal: Principal,
    pub action: Action,
    pub tables: Vec<TableName>,
    pub origin: String,
    pub at_unix_ms: u64,
}

/// Runs what computes for long away from the reactor.
async fn away<T: Send + 'static>(ctx: &NodeCtx, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (send, receive) = oneshot::channel();
    // Nobody waits any more: then the result is not needed.
    ctx.seams.blocking.run(Box::new(move || drop(send.send(work())))).await;
    receive.await.map_err(|_| MeshError::internal("a check of policies did not come to its end"))
}
