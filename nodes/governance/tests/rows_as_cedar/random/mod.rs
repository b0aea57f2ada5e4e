//! Random policies as text, about given tables, for given kinds of principals; and the principals.
//!
//! Policies are mostly such as the validator and the row filters accept; where one is made wrong on purpose, the draft says
//! how ([`Draft::flaws`](policy::Draft::flaws)). Knows nothing of the engine that judges them: only words and types.

pub mod dice;
pub mod expression;
pub mod policy;
pub mod principal;
pub mod values;
mod writer;
