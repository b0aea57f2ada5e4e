//! How commands change the replicated state.

mod apply;

pub use apply::apply;
