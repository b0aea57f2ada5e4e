//! Step 1: a slot, at once or when it is this statement's turn. Who waits is seen in `system.queries` with its place.

use std::sync::Arc;

use greylag_protocol::{ErrorCode, MeshError, Result, principal::Principal, state::GovernanceSettings};

use crate::{
    coordinator::{ledger::QueryEntry, query::QueryMessage},
    turnstile::{Entry, Ticket, Turnstile},
};

/// Priority by the principal's word, turns by its organisation's weight.
pub fn ticket(principal: &Principal, settings: &GovernanceSettings) -> Ticket {
    let party = principal.organisation().unwrap_or_default().to_owned();
    let weight = settings.weights.get(&party).copied().unwrap_or(1);
    Ticket { priority: principal.priority(), party, weight }
}

pub async fn take(statements: Turnstile, ticket: Ticket, entry: Arc<QueryEntry>) -> Result<QueryMessage> {
    let slot = match statements.enter_as(ticket) {
        Entry::Inside(slot) => Some(slot),
        Entry::Queued(queued) => {
            entry.waits(queued.position());
            queued.wait().await
        }
        Entry::Refused => {
            let (running, waiting) = statements.load();
            let message = format!("{running} statements run and {waiting} wait already");
            return Err(MeshError::new(ErrorCode::QueueFull, message));
        }
    };
    slot.map(QueryMessage::Admitted)
        .ok_or_else(|| MeshError::new(ErrorCode::ShuttingDown, "the coordinator is shutting down"))
}
