//! The system's wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Clock;

#[derive(Debug)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}
