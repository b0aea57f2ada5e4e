//! Wall clock of a simulated node: turmoil's epoch plus virtual time.

use greylag_cluster::seams::Clock;

#[derive(Debug)]
pub struct SimClock;

impl Clock for SimClock {
    fn unix_ms(&self) -> u64 {
        u64::try_from(turmoil::since_epoch().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }
}
