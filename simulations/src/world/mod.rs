//! What a simulated node touches: time, entropy, network, disk, sources; and the trace of it all.

mod clock;
mod disk;
pub mod entropy;
mod hosts;
mod memory;
mod same;
mod socket;
pub mod trace;
mod work;

pub use disk::SimDisk;
pub use hosts::{Board, Hosts, PORT, Task, TaskResult};
pub use memory::{MemoryConnectors, MemoryTable};
pub use same::rerun_in_a_fixed_place;
