//! Step 5: credits set aside in the quotas that the statement is charged to, with its estimate; and the till at which it
//! pays for what it has used (step 12).

use std::sync::Arc;

use greylag_governance::quota::Usage;
use greylag_protocol::{Result, principal::Principal};
use tokio::{sync::Mutex, time::Instant};

use super::cost::Costed;
use crate::{
    NodeCtx,
    coordinator::{ledger::QueryEntry, query::QueryMessage},
    quota::Charge,
};

/// Where one statement pays, over all its runs. What was set aside is given back with the last clone.
#[derive(Debug, Clone)]
pub struct Till {
    charge: Arc<Mutex<Charge>>,
    entry: Arc<QueryEntry>,
}

impl Till {
    /// Charges what has been used since the last time. An error stops the statement.
    pub async fn pay(&self, usage_so_far: &Usage) -> Result<()> {
        let mut charge = self.charge.lock().await;
        let paid = charge.charge(usage_so_far).await;
        self.entry.charged(charge.microcredits());
        paid
    }
}

pub async fn take(
    ctx: Arc<NodeCtx>,
    principal: Principal,
    costed: Costed,
    deadline: Instant,
    entry: Arc<QueryEntry>,
) -> Result<QueryMessage> {
    let estimate = Usage { statements: 1, rows_scanned: costed.rows, bytes_scanned: costed.bytes, ..Usage::default() };
    let charge = ctx.quota.reserve(&principal, &estimate, deadline).await?;
    Ok(QueryMessage::Reserved(Till { charge: Arc::new(Mutex::new(charge)), entry }))
}
