//! What each organisation and agent has used at this node since it started, whether a quota holds for it or not. It
//! limits nothing, and is forgotten with the process.
//!
//! INVARIANT: everything used is counted exactly once. Whoever comes after [`METERED_MAX`] others is counted with all
//! the rest, so that names which callers make up fill no memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use greylag_governance::quota::Usage;
use greylag_protocol::{NodeId, messages::control::UsageRow};

use crate::measure;

/// Pairs of organisation and agent that are counted apart. With the rest their rows fit into one control message.
pub const METERED_MAX: usize = 199;
/// Bytes of both names together; whoever has longer ones is counted with the rest.
const NAMES_BYTES_MAX: usize = 160;

#[derive(Debug)]
pub(super) struct Meter {
    since_unix_ms: u64,
    accounts: Mutex<Accounts>,
    rest: Arc<Account>,
}

#[derive(Debug, Default)]
struct Accounts {
    by_organisation: BTreeMap<String, Organisation>,
    opened: usize,
}

#[derive(Debug, Default)]
struct Organisation {
    /// Of principals that are no agents.
    itself: Option<Arc<Account>>,
    agents: BTreeMap<String, Arc<Account>>,
}

/// Sums of one pair.
#[derive(Debug)]
pub(super) struct Account {
    sums: [AtomicU64; 7],
    refused: AtomicU64,
    microcredits: AtomicU64,
    exported: measure::Credits,
}

impl Account {
    fn new(exported: measure::Credits) -> Arc<Self> {
        let (sums, refused, microcredits) = Default::default();
        Arc::new(Self { sums, refused, microcredits, exported })
    }

    /// More was used, and costs this much.
    pub fn add(&self, more: &Usage, microcredits: u64) {
        let more = [
            more.statements,
            more.rows_returned,
            more.bytes_returned,
            more.rows_scanned,
            more.bytes_scanned,
            more.source_ms,
            more.cpu_ms,
        ];
        for (sum, more) in self.sums.iter().zip(more) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
        self.microcredits.fetch_add(microcredits, Ordering::Relaxed);
        self.exported.add(microcredits);
    }

    /// A quota has refused or stopped a statement.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        measure::quota_refused();
    }
}

impl Meter {
    pub fn new(since_unix_ms: u64) -> Self {
        Self { since_unix_ms, accounts: Mutex::default(), rest: Account::new(measure::Credits::of_the_rest()) }
    }

    /// Where the use of a principal is counted.
    pub fn account(&self, organisation: &str, agent: Option<&str>) -> Arc<Account> {
        if organisation.len() + agent.map_or(0, str::len) > NAMES_BYTES_MAX {
            return self.rest.clone();
        }
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = accounts.by_organisation.get(organisation).and_then(|known| match agent {
            None => known.itself.as_ref(),
            Some(agent) => known.agents.get(agent),
        });
        if let Some(known) = known {
            return known.clone();
        }
        if accounts.opened >= METERED_MAX {
            return self.rest.clone();
        }
        accounts.opened += 1;
        let account = Account::new(measure::Credits::of(organisation, agent));
        let of = accounts.by_organisation.entry(organisation.to_owned()).or_default();
        match agent {
            None => of.itself = Some(account.clone()),
            Some(agent) => drop(of.agents.insert(agent.to_owned(), account.clone())),
        }
        account
    }

    /// By name, the rest last if there is any.
    pub fn rows(&self, coordinator: NodeId) -> Vec<UsageRow> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Vec::new();
        for (organisation, of) in &accounts.by_organisation {
            let named = of.agents.iter().map(|(agent, account)| (Some(agent), account));
            for (agent, account) in of.itself.iter().map(|account| (None, account)).chain(named) {
                rows.push(self.row(coordinator, Some(organisation.clone()), agent.cloned(), account));
            }
        }
        let rest = self.row(coordinator, None, None, &self.rest);
        if rest.statements > 0 || rest.microcredits > 0 || rest.refused > 0 {
            rows.push(rest);
        }
        rows
    }

    fn row(
        &self,
        coordinator: NodeId,
        organisation: Option<String>,
        agent: Option<String>,
        account: &Account,
    ) -> UsageRow {
        let [statements, rows_returned, bytes_returned, rows_scanned, bytes_scanned, source_ms, cpu_ms] =
            std::array::from_fn(|n| account.sums[n].load(Ordering::Relaxed));
        UsageRow {
            coordinator,
            since_unix_ms: self.since_unix_ms,
            organisation,
            agent,
            statements,
            refused: account.refused.load(Ordering::Relaxed),
            rows_returned,
            bytes_returned,
            rows_scanned,
            bytes_scanned,
            source_ms,
            cpu_ms,
            microcredits: account.microcredits.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::fitting;

    fn used(rows_returned: u64) -> Usage {
        Usage { statements: 1, rows_returned, ..Usage::default() }
    }

    #[test]
    fn use_is_counted_by_organisation_and_agent() {
        let meter = Meter::new(7);
        meter.account("clinic", None).add(&used(3), 30);
        meter.account("clinic", Some("a")).add(&used(4), 40);
        meter.account("clinic", Some("a")).add(&used(5), 50);
        meter.account("", None).refused();
        let rows = meter.rows(NodeId(2));
        let seen: Vec<_> = rows
            .iter()
            .map(|r| {
                (
                    r.organisation.as_deref(),
                    r.agent.as_deref(),
                    r.statements,
                    r.rows_returned,
                    r.microcredits,
                    r.refused,
                )
            })
            .collect();
        let expected = [
            (Some(""), None, 0, 0, 0, 1),
            (Some("clinic"), None, 1, 3, 30, 0),
            (Some("clinic"), Some("a"), 2, 9, 90, 0),
        ];
        assert_eq!(seen, expected);
        assert!(rows.iter().all(|row| (row.coordinator, row.since_unix_ms) == (NodeId(2), 7)));
    }

    #[test]
    fn made_up_names_fill_nothing_and_no_use_is_lost() {
        let meter = Meter::new(7);
        let long = "x".repeat(NAMES_BYTES_MAX);
        meter.account(&long, Some("a")).add(&used(1), 1);
        for n in 0..3 * METERED_MAX {
            let agent = format!("{n:05}{}", "y".repeat(NAMES_BYTES_MAX - 11));
            meter.account("clinic", Some(&agent)).add(&used(1), 1);
        }
        let rows = meter.rows(NodeId(2));
        assert_eq!(rows.len(), METERED_MAX + 1);
        assert_eq!(rows.iter().map(|row| row.rows_returned).sum::<u64>(), 3 * METERED_MAX as u64 + 1);
        let rest = rows.last().map(|row| (row.organisation.clone(), row.agent.clone(), row.statements));
        assert_eq!(rest, Some((None, None, 2 * METERED_MAX as u64 + 1)));
        let (fit, truncated) = fitting(rows.clone());
        assert!(!truncated && fit == rows, "all of it fits into one message");
    }
}
