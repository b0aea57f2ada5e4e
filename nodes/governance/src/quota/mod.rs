//! What statements cost, and that nobody spends more than was granted.
//!
//! # Credits
//! A statement costs the sum of what it used, by [`CostModel`]; as it stands without configuration:
//!
//! | what | unit | micro-credits | why it is counted |
//! |---|---|---|---|
//! | statement | one | 1,000 | admission, planning and audit cost something even without rows |
//! | rows returned | row | 1 | what leaves the mesh |
//! | bytes returned | KiB | 20 | likewise, for wide rows |
//! | rows scanned | row | 0.1 | work at the source and at the edge |
//! | bytes scanned | KiB | 4 | likewise, for wide rows |
//! | source time | ms | 50 | load put on other people's databases, all attempts together |
//! | CPU time | ms | 100 | load put on the mesh itself |
//!
//! A million micro-credits are one credit. All is counted in whole micro-credits, rounded up once per statement, so
//! that the same use costs the same on every node. A sub-query that is restarted costs its source time again and its
//! rows once: the work was done twice and the rows came once. A refused statement costs nothing.
//!
//! # Quotas
//! A quota holds for an organisation, or one of its agents, in each hour, day or month (UTC). A statement is charged to
//! every quota that fits it and runs only if all of them can bear it. The replicated [`QuotaLedger`] grants parts of a
//! quota to nodes on lease; a [`QuotaNode`] spends what it holds and nothing else, so a partition can overspend nothing:
//! nodes that are cut off from the log spend their leases out and then refuse. A lease that is not used up is given back
//! when its life is over, or earlier if somebody else goes short.
//!
//! A statement is reserved with its estimate before it runs and charged as it goes, before rows leave; one that turns
//! out dearer than its quota is stopped with GL5007 (QUOTA_EXCEEDED).
//!
//! It does not limit rates, and does not bill: `system.usage` shows what the ledger knows.
//!
//! INVARIANT: what all nodes together spend from one period's leases never exceeds the limit. (simulation_test.rs)

mod cost;
mod node;

pub use cost::{CREDIT, CostModel, Usage, credits};
pub use greylag_protocol::state::{LeaseId, Period, QuotaCommand, QuotaKey, QuotaLedger, QuotaOutcome};
pub use node::{Exceeded, LEASE_MS, QuotaNode, ReservationId, Spend};
