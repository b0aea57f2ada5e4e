//! The decision engine: Cedar policies over the catalog's tables, to a verdict with row filters and masks.
//!
//! Pure: no clock, no async, no randomness; time and state come in as arguments. It asks nobody and applies nothing:
//! the policy role calls [`PolicyEngine::decide`], the planner applies what the ruling asks for.
//!
//! INVARIANT: what cannot be decided is denied, and a row comes back exactly when Cedar's own authorizer permits
//! `select` on it, with its columns as attributes (`tests/rows_as_cedar`).
//!
//! # What a policy means
//!
//! - **Default is no.** A permit must hold; a forbid that holds wins over every permit.
//! - **Rows.** `select` is asked of each row: a `Row` that is in its table, schema, source and the table's tags, and whose
//!   attributes are its columns. What depends on the columns becomes the row filter.
//! - **NULL is absent.** A column that is NULL is an attribute that the row has not: `resource has ward` is false, and
//!   looking at it is an error. Strict validation asks for the `has` before every nullable column.
//! - **Errors skip the policy**, as everywhere in Cedar: one whose condition is an error counts as not there, permit or
//!   forbid. Validated policies err only where arithmetic overflows, or where a source breaks its own NOT NULL.
//! - **Columns** come with their rows: nobody permits columns. A forbid that reaches a `Column` hides it: a statement that
//!   reads it is denied, and to others it does not exist. With `@mask` it is shown masked instead.
//! - **Masks.** A forbid with `@mask` on `resource is Column` masks those columns in all rows; on `resource is Row` with
//!   `@columns` it masks them in the rows for which it holds. The strongest mask that holds for a row applies:
//!   null > redact > full > hash > partial > date, see [`Mask::strength`](greylag_protocol::obligation::Mask::strength).
//!   A mask that does not fit a column's type becomes null.
//! - **Describe** asks of the table and hides columns; **explain** needs `explain` on the table and all that `select`
//!   needs; **manage** is for administrators always, else asked of the table or of `Mesh::"mesh"`.
//! - **No table**, no question: a statement that touches none is permitted.
//! - **Modes.** A policy in mode `warn` or `log` changes nothing; what it would have changed becomes a notice.
//!
//! # When a policy is refused
//!
//! When it is stored ([`Policy::parse`], then [`PolicyEngine::check`]): bad Cedar, bad annotations, a scope that
//! admits nothing (`select` on a `Table`), not valid in Cedar's strict mode for a table that it reaches, or a condition over columns that no row filter can say. Of columns a filter
//! can say: comparison with constants, with each other, `has`, `like`, `if`, `&&`, `||`, `!`, and whether a set of constants
//! or columns contains one. Not: arithmetic on columns, methods of dates, sets as columns. Later, when a table changes
//! under a policy: every question that the policy's scope admits, about that table, is denied until one of them is
//! mended; other tables and other principals are not touched by it.

mod cache;
mod catalog;
mod circumstances;
mod condition;
mod engine;
mod findings;
pub mod mask;
mod pattern;
pub mod reference;
mod residual;
mod ruling;
mod stored;
mod vocabulary;
mod why;

pub use cache::{RULING_BYTES_MAX, RULINGS_MAX, RulingCache, RulingKey};
pub use catalog::{Catalog, ColumnFacts, TableFacts, Tagging, ValueKind};
pub use circumstances::Circumstances;
pub use engine::{POLICIES_MAX, PolicyEngine, Question, Ruling, Touched};
pub use greylag_protocol::state::AttributeKind;
pub use pattern::{NamePattern, TablePattern};
pub use stored::{Mode, POLICY_BYTES_MAX, POLICY_DEPTH_MAX, Policy, parse_policies};
pub use vocabulary::{DeclaredAttributes, action_name, is_built_in};
