//! Time for leases: the wall clock, except that it never goes back. While the wall clock is behind what was said last,
//! after a correction, it runs at half speed until that has caught up, so that what waits for a moment still gets there.
//!
//! No clock itself: both come in.

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct SteadyTime {
    /// When it was asked last, and what it said, microseconds.
    last: Option<(Instant, u64)>,
}

impl SteadyTime {
    /// Unix milliseconds.
    pub fn now(&mut self, wall_unix_ms: u64, at: Instant) -> u64 {
        let wall = wall_unix_ms.saturating_mul(1_000);
        let now = match self.last {
            None => wall,
            Some((then, said)) => {
                let passed = at.saturating_duration_since(then).as_micros() as u64;
                wall.max(said.saturating_add(passed / 2))
            }
        };
        self.last = Some((at, now));
        now / 1_000
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_follows_the_wall_clock_and_never_goes_back() {
        let (mut time, start) = (SteadyTime::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        // (milliseconds since the start, the wall clock, what it says)
        let told = [
            (0, 10_000, 10_000),
            (500, 10_500, 10_500),
            // Set back by eight seconds.
            (1_500, 3_500, 11_000),
            (3_500, 5_500, 12_000),
            (10_500, 12_500, 15_500),
            // Caught up with.
            (16_500, 18_500, 18_500),
            (17_500, 19_500, 19_500),
            // Set forward.
            (17_600, 99_000, 99_000),
        ];
        for (ms, wall, says) in told {
            assert_eq!(time.now(wall, at(ms)), says, "after {ms} ms");
        }
    }
}
