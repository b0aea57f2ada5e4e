//! What happens in a world, and what must hold then. One file each.

mod first_flight;

pub use first_flight::{Flight, first_flight};
