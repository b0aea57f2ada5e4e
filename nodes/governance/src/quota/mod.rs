//! What a statement costs and whether it is within its budget.
//!
//! Pure: balances and time come in as arguments.
