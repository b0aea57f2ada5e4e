//! What a node measures of itself. Each measure turns bad and good again at different values, so that it does not
//! flicker.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::messages::health::{DiskReport, Stall};
use tokio::time::Instant;

/// Durable writes that are remembered.
const WRITES_REMEMBERED: usize = 8;
/// So many of them over the threshold make a disk slow; it is well again when none is over half of it.
const SLOW_WRITES: usize = 3;

/// Gaps between ticks of a task that does nothing else.
#[derive(Debug)]
pub(crate) struct Stalls {
    over: Duration,
    inner: Mutex<Ticks>,
}

#[derive(Debug, Default)]
struct Ticks {
    last: Option<Instant>,
    stall: Option<(Instant, Duration)>,
}

impl Stalls {
    /// `over`: a gap longer than this is a stall. Connections end at it too.
    pub(crate) fn new(over: Duration) -> Arc<Self> {
        Arc::new(Self { over, inner: Mutex::default() })
    }

    /// The next tick was due `due` after the last.
    pub(crate) fn tick(&self, now: Instant, due: Duration) {
        let mut ticks = lock(&self.inner);
        let gap = ticks.last.map_or(Duration::ZERO, |last| now.duration_since(last).saturating_sub(due));
        if gap > self.over {
            tracing::warn!(gap_ms = gap.as_millis() as u64, "this process has stood still");
            ticks.stall = Some((now, gap));
        }
        ticks.last = Some(now);
    }

    pub(crate) fn report(&self, now: Instant) -> Option<Stall> {
        lock(&self.inner).stall.map(|(ended, lasted)| Stall {
            lasted_ms: lasted.as_millis() as u64,
            ended_ago_ms: now.duration_since(ended).as_millis() as u64,
        })
    }
}

/// The disk that the log is on.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    slow_over: Duration,
    inner: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    took: VecDeque<Duration>,
    slow: bool,
    under_way: Option<Instant>,
    refused: Option<String>,
    low: bool,
    free_bytes: Option<u64>,
}

impl DiskWatch {
    pub(crate) fn new(slow_over: Duration) -> Arc<Self> {
        Arc::new(Self { slow_over, inner: Mutex::default() })
    }

    pub(crate) fn begins(&self, now: Instant) {
        lock(&self.inner).under_way.get_or_insert(now);
    }

    /// A write that must be durable has ended: the log's, or one made to try the disk.
    pub(crate) fn wrote(&self, took: Duration) {
        let mut writes = lock(&self.inner);
        writes.under_way = None;
        writes.refused = None;
        writes.took.push_back(took);
        if writes.took.len() > WRITES_REMEMBERED {
            writes.took.pop_front();
        }
        let over = |limit: Duration| writes.took.iter().filter(|took| **took > limit).count();
        writes.slow = if writes.slow { over(self.slow_over / 2) > 0 } else { over(self.slow_over) >= SLOW_WRITES };
    }

    /// The disk has no space for a write.
    pub(crate) fn refused(&self, why: String) {
        let mut writes = lock(&self.inner);
        writes.under_way = None;
        writes.refused = Some(why);
    }

    /// Below `min` the disk counts as full, until half as much again is free.
    pub(crate) fn has_free(&self, bytes: u64, min: u64) {
        let mut writes = lock(&self.inner);
        writes.low = bytes < if writes.low { min.saturating_add(min / 2) } else { min };
        writes.free_bytes = Some(bytes);
    }

    pub(crate) fn is_refusing(&self) -> bool {
        lock(&self.inner).refused.is_some()
    }

    pub(crate) fn report(&self, now: Instant) -> DiskReport {
        let writes = lock(&self.inner);
        let under_way = writes.under_way.map_or(Duration::ZERO, |since| now.duration_since(since));
        let slowest = writes.took.iter().copied().max().unwrap_or_default().max(under_way);
        DiskReport {
            slow: writes.slow || under_way > self.slow_over,
            slowest_ms: slowest.as_millis() as u64,
            full: writes.low || writes.refused.is_some(),
            free_bytes: writes.free_bytes,
            refused: writes.refused.clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn a_gap_between_ticks_is_a_stall_and_a_late_tick_is_none() {
        let stalls = Stalls::new(ms(1500));
        let start = Instant::now();
        for at in [0, 250, 500, 1900, 2150] {
            stalls.tick(start + ms(at), ms(250));
            assert_eq!(stalls.report(start + ms(at)), None, "{at}");
        }
        stalls.tick(start + ms(14_400), ms(250));
        stalls.tick(start + ms(14_650), ms(250));
        assert_eq!(stalls.report(start + ms(14_700)), Some(Stall { lasted_ms: 12_000, ended_ago_ms: 300 }));
    }

    #[tokio::test]
    async fn a_disk_is_slow_after_some_slow_writes_until_all_are_fast() {
        let (disk, now) = (DiskWatch::new(ms(100)), Instant::now());
        let slow = || disk.report(now).slow;
        [500, 5, 5, 5, 5, 5, 500].iter().for_each(|took| disk.wrote(ms(*took)));
        assert!(!slow(), "two are a hiccup");
        disk.wrote(ms(101));
        assert!(slow());
        for _ in 0..WRITES_REMEMBERED - 1 {
            disk.wrote(ms(60));
            assert!(slow(), "60 ms are not fast enough to call it well");
        }
        (0..WRITES_REMEMBERED - 1).for_each(|_| disk.wrote(ms(50)));
        assert!(slow());
        disk.wrote(ms(50));
        assert!(!slow());
        disk.begins(now);
        assert!(!slow());
        let later = disk.report(now + ms(101));
        assert!(later.slow && later.slowest_ms == 101, "one that does not end is slow as well: {later:?}");
    }

    #[tokio::test]
    async fn a_disk_is_full_by_what_is_free_or_by_a_refusal_and_not_at_the_edge_again_and_again() {
        let (disk, now) = (DiskWatch::new(ms(100)), Instant::now());
        let mut full = Vec::new();
        for free in [100, 50, 49, 60, 74, 75, 60, 50] {
            disk.has_free(free, 50);
            full.push(disk.report(now).full);
        }
        assert_eq!(full, [false, false, true, true, true, false, false, false]);
        disk.refused("no space".into());
        assert!(disk.is_refusing() && disk.report(now).full);
        disk.wrote(ms(1));
        assert!(!disk.is_refusing() && !disk.report(now).full);
    }
}
