//! Growing, jittered, bounded pauses between attempts.

use std::time::Duration;

/// SplitMix64: spreads attempts of different nodes, for no secret. Seeded, so that a simulation repeats itself.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between half of `pause` and all of it.
    pub(crate) fn spread(&mut self, pause: Duration) -> Duration {
        let half = pause.as_micros() as u64 / 2;
        Duration::from_micros(half + self.next() % (half + 1))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    jitter: Jitter,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, next: min, jitter: Jitter::new(seed) }
    }

    /// How long to pause before the next attempt; doubles from call to call.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.jitter.spread(self.next);
        self.next = (self.next * 2).min(self.max);
        pause
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_stay_within_bounds_and_repeat_from_a_seed() {
        let (min, max) = (Duration::from_millis(50), Duration::from_millis(1000));
        let pauses = |seed| {
            let mut backoff = Backoff::new(min, max, seed);
            (0..20).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
        let got = pauses(3);
        assert!(got.iter().all(|pause| *pause >= min / 2 && *pause <= max));
        assert!(got[10..].iter().all(|pause| *pause >= max / 2));
    }
}
