//! What will be done to the mesh, and when: made before anything starts, from a seed and a length alone.
//!
//! Not here: how it is done (`nemesis`). Who leads, and so who is cut off alone, is found out when it happens.
//!
//! INVARIANT: the same seed and length give the same schedule, byte by byte. Faults that take nodes away never take more
//! than `AWAY_MAX` at a time, a minority of the voters; what takes more, or must be seen alone, has the mesh to itself.

use std::fmt;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Nodes of the mesh.
pub const NODES: usize = 7;
/// Nodes that may be away at a time: a minority of five voters.
const AWAY_MAX: usize = 2;
/// Faults of different kinds at a time.
const LANES: usize = 2;
/// Before the first fault, milliseconds: every client has had answers by then.
const CALM_MS: u64 = 5_000;
/// Between two faults of a lane.
const GAP_MS: std::ops::RangeInclusive<u64> = 1_000..=4_000;
/// Before and after what has the mesh to itself.
const APART_MS: u64 = 4_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Postgres,
    Mariadb,
}

/// What is done. Nodes are numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Fault {
    /// SIGKILL; started again at the end.
    Kill { node: usize },
    /// SIGSTOP; SIGCONT at the end.
    Stop { node: usize },
    /// No packet between these nodes and the others, either way.
    Halves { side: Vec<usize> },
    /// No packet from this node reaches the others (or, `deaf`, none of theirs reaches it).
    OneWay { node: usize, deaf: bool },
    /// The leader of that moment is cut off from everybody, databases included.
    LeaderAlone,
    /// These nodes lose this share of the packets that reach them.
    Loss { nodes: Vec<usize>, percent: u32 },
    /// These nodes send no more than this; what is over is dropped.
    Bandwidth { nodes: Vec<usize>, kib_per_s: u32 },
    /// The database stops at once, without a goodbye; started again at the end.
    SourceRestart { source: Source },
    /// Not a byte is free where the node keeps its log.
    DiskFull { node: usize },
    /// The node's wall clock jumps by this, and back at the end.
    Clock { node: usize, seconds: i64 },
    /// Each node in turn: drained, SIGTERM, started, taken back.
    RollingRestart,
    /// SIGKILL to every node; all are started again at the end.
    AllAtOnce,
}

/// Every kind, as it is named in reports.
pub const KINDS: [&str; 12] = [
    "kill",
    "stop",
    "halves",
    "one-way",
    "leader-alone",
    "loss",
    "bandwidth",
    "source-restart",
    "disk-full",
    "clock",
    "rolling-restart",
    "all-at-once",
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    pub number: usize,
    /// From the beginning, milliseconds; later if what has the mesh to itself takes its time.
    pub at_ms: u64,
    /// How long it lasts; for a rolling restart, how long it is expected to.
    pub for_ms: u64,
    #[serde(flatten)]
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    pub seed: u64,
    pub minutes: u64,
    pub events: Vec<Event>,
}

impl Fault {
    pub fn kind(&self) -> &'static str {
        let index = match self {
            Self::Kill { .. } => 0,
            Self::Stop { .. } => 1,
            Self::Halves { .. } => 2,
            Self::OneWay { .. } => 3,
            Self::LeaderAlone => 4,
            Self::Loss { .. } => 5,
            Self::Bandwidth { .. } => 6,
            Self::SourceRestart { .. } => 7,
            Self::DiskFull { .. } => 8,
            Self::Clock { .. } => 9,
            Self::RollingRestart => 10,
            Self::AllAtOnce => 11,
        };
        KINDS[index]
    }

    /// Whether nothing else may happen meanwhile.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::RollingRestart | Self::AllAtOnce)
    }

    /// How many nodes the others have to do without.
    fn away(&self) -> usize {
        match self {
            Self::Halves { .. } => AWAY_MAX,
            Self::Kill { .. } | Self::Stop { .. } | Self::OneWay { .. } | Self::LeaderAlone | Self::DiskFull { .. } => {
                1
            }
            _ => 0,
        }
    }

    /// The one node that it happens to, if that is known.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Kill { node } | Self::Stop { node } | Self::OneWay { node, .. } | Self::DiskFull { node } => {
                Some(*node)
            }
            Self::Clock { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Whether both can happen at once: they are different, they are not done to the same node, and they leave a majority.
    fn goes_with(&self, other: &Self) -> bool {
        let same_node = self.node().is_some() && self.node() == other.node();
        self.kind() != other.kind() && !same_node && self.away() + other.away() <= AWAY_MAX
    }
}

impl Schedule {
    /// A schedule of all kinds, or of one.
    pub fn new(seed: u64, minutes: u64, only: Option<&str>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let end = minutes * 60_000;
        let mut events: Vec<Event> = Vec::new();
        let mut free = [CALM_MS; LANES];
        let (mut bag, mut late): (Vec<&str>, usize) = (Vec::new(), 0);
        // What does not fit any more is left out; shorter things may.
        while late < KINDS.len() {
            if bag.is_empty() {
                bag = KINDS.into_iter().filter(|kind| only.is_none_or(|o| o == *kind)).collect();
                bag.shuffle(&mut rng);
            }
            let Some(kind) = bag.pop() else { break };
            let (fault, for_ms) = draw(kind, &mut rng);
            let lane = if free[0] <= free[1] || only.is_some() { 0 } else { 1 };
            let mut at_ms = free[lane] + rng.random_range(GAP_MS);
            if fault.is_alone() {
                at_ms = free[0].max(free[1]) + APART_MS;
            }
            // Later, until it goes with all that happens then.
            while let Some(until) = events
                .iter()
                .filter(|e| e.at_ms < at_ms + for_ms && at_ms < e.at_ms + e.for_ms && !e.fault.goes_with(&fault))
                .map(|e| e.at_ms + e.for_ms)
                .max()
            {
                at_ms = until + 1;
            }
            if at_ms + for_ms > end {
                late += 1;
                continue;
            }
            match fault.is_alone() {
                true => free = [at_ms + for_ms + APART_MS; LANES],
                false => free[lane] = at_ms + for_ms,
            }
            events.push(Event { number: 0, at_ms, for_ms, fault });
        }
        events.sort_by_key(|event| event.at_ms);
        (1..).zip(&mut events).for_each(|(number, event)| event.number = number);
        Self { seed, minutes, events }
    }
}

/// A fault of this kind and how long it lasts.
fn draw(kind: &str, rng: &mut ChaCha8Rng) -> (Fault, u64) {
    let node = rng.random_range(0..NODES);
    let mut order: Vec<usize> = (0..NODES).collect();
    order.shuffle(rng);
    let some = |rng: &mut ChaCha8Rng, order: &[usize], most: usize| {
        let mut nodes = order[..rng.random_range(1..=most)].to_vec();
        nodes.sort_unstable();
        nodes
    };
    let (fault, seconds) = match kind {
        "kill" => (Fault::Kill { node }, 1..=10),
        "stop" => (Fault::Stop { node }, 2..=22),
        "halves" => {
            let mut side = order[..NODES / 2].to_vec();
            side.sort_unstable();
            (Fault::Halves { side }, 4..=14)
        }
        "one-way" => (Fault::OneWay { node, deaf: rng.random() }, 4..=14),
        "leader-alone" => (Fault::LeaderAlone, 4..=12),
        "loss" => {
            let nodes = some(rng, &order, NODES);
            (Fault::Loss { nodes, percent: rng.random_range(2..=20) }, 6..=16)
        }
        "bandwidth" => {
            let nodes = some(rng, &order, 3);
            (Fault::Bandwidth { nodes, kib_per_s: rng.random_range(256..=2048) }, 6..=16)
        }
        "source-restart" => {
            let source = if rng.random() { Source::Postgres } else { Source::Mariadb };
            (Fault::SourceRestart { source }, 1..=8)
        }
        "disk-full" => (Fault::DiskFull { node }, 4..=12),
        "clock" => {
            let size = rng.random_range(5..=240);
            (Fault::Clock { node, seconds: if rng.random() { size } else { -size } }, 6..=16)
        }
        "rolling-restart" => (Fault::RollingRestart, 32..=32),
        _ => (Fault::AllAtOnce, 1..=5),
    };
    (fault, rng.random_range(seconds) * 1000)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[usize]| nodes.iter().map(|n| format!("node{}", n + 1)).collect::<Vec<_>>().join(" ");
        write!(f, "{}", self.kind())?;
        match self {
            Self::Kill { node } | Self::Stop { node } | Self::DiskFull { node } => write!(f, " node{}", node + 1),
            Self::Halves { side } => write!(f, " {} | the others", list(side)),
            Self::OneWay { node, deaf: false } => write!(f, " node{} is not heard", node + 1),
            Self::OneWay { node, deaf: true } => write!(f, " node{} does not hear", node + 1),
            Self::Loss { nodes, percent } => write!(f, " {percent} % at {}", list(nodes)),
            Self::Bandwidth { nodes, kib_per_s } => write!(f, " {kib_per_s} KiB/s from {}", list(nodes)),
            Self::SourceRestart { source } => write!(f, " {source:?}"),
            Self::Clock { node, seconds } => write!(f, " {seconds:+} s at node{}", node + 1),
            Self::LeaderAlone | Self::RollingRestart | Self::AllAtOnce => Ok(()),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{}", ms / 1000, ms % 1000 / 100);
        write!(f, "#{} at {} s for {} s: {}", self.number, seconds(self.at_ms), seconds(self.for_ms), self.fault)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    fn text(seed: u64, minutes: u64) -> String {
        serde_json::to_string(&Schedule::new(seed, minutes, None)).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_another() {
        for seed in 0..50 {
            assert_eq!(text(seed, 3), text(seed, 3));
            assert_ne!(text(seed, 3), text(seed + 1, 3));
        }
        // Not only within one process: this is what seed 1 has always been.
        let first: Vec<String> = Schedule::new(1, 3, None).events.iter().take(3).map(Event::to_string).collect();
        assert_eq!(first, SEED_1);
    }

    const SEED_1: [&str; 3] = [
        "#1 at 9.0 s for 32.0 s: rolling-restart",
        "#2 at 46.4 s for 11.0 s: bandwidth 1530 KiB/s from node1 node4 node5",
        "#3 at 47.4 s for 16.0 s: stop node1",
    ];

    #[test]
    fn a_longer_schedule_begins_like_the_shorter_one() {
        let (short, long) = (Schedule::new(7, 3, None), Schedule::new(7, 9, None));
        assert_eq!(long.events[..5], short.events[..5]);
    }

    #[test]
    fn every_kind_comes_before_any_comes_a_third_time() {
        for seed in 0..200 {
            let events = Schedule::new(seed, 10, None).events;
            for kind in KINDS {
                assert!(events.iter().any(|e| e.fault.kind() == kind), "seed {seed} has no {kind}");
            }
        }
    }

    #[test]
    fn what_happens_at_once_is_bearable_and_some_things_do() {
        let mut together = 0;
        for seed in 0..500 {
            let schedule = Schedule::new(seed, 10, None);
            for (index, a) in schedule.events.iter().enumerate() {
                assert!(a.at_ms + a.for_ms <= 600_000);
                for b in &schedule.events[index + 1..] {
                    if b.at_ms < a.at_ms + a.for_ms {
                        together += 1;
                        assert!(!a.fault.is_alone() && !b.fault.is_alone(), "seed {seed}: {a}, {b}");
                        assert!(a.fault.goes_with(&b.fault), "seed {seed}: {a}, {b}");
                    }
                }
            }
        }
        assert!(together > 500, "{together}");
    }
}
