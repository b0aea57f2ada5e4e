//! One run of a query's plan: the sub-queries it has opened, each an actor linked to the query's. A run that is stopped
//! takes them along.

use std::{collections::BTreeMap, sync::Arc};

use greylag_protocol::{ErrorCode, MeshError, statement::Delivery};
use ractor::{Actor, ActorId, ActorRef};

use super::message::{Opening, QueryMessage};
use crate::coordinator::{
    gate::core::Hold,
    subquery::{self, QueryFacts, SubqueryActor, SubqueryMessage},
};

/// Sub-queries that one run of a plan may open.
const SUBQUERIES_MAX: u32 = 1_024;

pub struct Run {
    facts: Arc<QueryFacts>,
    delivery: Delivery,
    subqueries: BTreeMap<ActorId, ActorRef<SubqueryMessage>>,
    /// How often each sub-query of the plan was opened.
    openings: BTreeMap<u32, u32>,
    opened: u32,
}

impl Run {
    pub fn new(facts: Arc<QueryFacts>, delivery: Delivery) -> Self {
        Self { facts, delivery, subqueries: BTreeMap::new(), openings: BTreeMap::new(), opened: 0 }
    }

    pub fn number(&self) -> u32 {
        self.facts.run
    }

    /// Starts a sub-query's actor, which answers with its rows; or answers why there is none.
    pub async fn open(&mut self, myself: &ActorRef<QueryMessage>, opening: Opening) {
        let Opening { plan, reply, .. } = opening;
        if self.opened >= SUBQUERIES_MAX {
            let message = format!("one run of a plan may open {SUBQUERIES_MAX} sub-queries");
            // A plan that has been dropped needs no answer.
            return drop(reply.send(Err(MeshError::new(ErrorCode::Unsupported, message))));
        }
        self.opened += 1;
        let times = self.openings.entry(plan.ordinal).or_default();
        let partition = *times;
        *times += 1;
        let hold = match self.delivery {
            Delivery::Spooled => Hold::Spool,
            Delivery::Streamed if plan.blocks_consumer => Hold::Build,
            Delivery::Streamed => Hold::Window { bytes: self.facts.ctx.limits.hold_back_bytes_max },
        };
        let (facts, plan, query) = (self.facts.clone(), Arc::new(plan), myself.clone());
        let arguments = subquery::Arguments { facts, plan, partition, hold, query, reply };
        match Actor::spawn_linked(None, SubqueryActor, arguments, myself.get_cell()).await {
            Ok((subquery, _)) => drop(self.subqueries.insert(subquery.get_id(), subquery)),
            // The plan learns it from the reply that was dropped, or from the gate.
            Err(error) => tracing::error!(%error, "a sub-query's actor did not start"),
        }
    }

    /// A sub-query's actor has gone. False if it was not one of this run.
    pub fn forget(&mut self, subquery: &ActorId) -> bool {
        self.subqueries.remove(subquery).is_some()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for subquery in std::mem::take(&mut self.subqueries).into_values() {
            subquery.stop(None);
        }
    }
}
