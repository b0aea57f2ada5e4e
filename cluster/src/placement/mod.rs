//! Which node holds which role: the leader compares roles wanted with roles held and commits the difference; each node
//! starts and stops its own. Here is only the decision, a pure function of the replicated state.

mod plan;

pub use plan::{DOMAIN_LABEL, NODE_LABEL, plan};

#[cfg(test)]
mod plan_test;
