//! Each ailment by what the nodes say of themselves and of each other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use greylag_protocol::{
    NodeId,
    messages::health::{DiskReport, HealthReport, PeerSight, Stall},
    state::{ControlState, MemberStatus},
};

use super::core::{Ailment, HEARD_FRESH_MS, STALL_FRESH_MS, Signs, judge};
use crate::{seams::Probe, state::fixture::member};

use Ailment::{DiskFull, Ok, OneWay, SlowDisk, Stalled, Unreachable};
use PeerSight::{Heard, Linked, Silent};

/// Three members, who all see each other unless a test says otherwise.
struct World {
    state: ControlState,
    reports: BTreeMap<NodeId, HealthReport>,
    probes: BTreeMap<NodeId, Probe>,
}

impl World {
    fn new() -> Self {
        let members = (1..=3).map(|id| (NodeId(id), member(id))).collect();
        let report = |id: u64| HealthReport {
            node: NodeId(id),
            peers: (1..=3).filter(|peer| *peer != id).map(|peer| (NodeId(peer), Linked)).collect(),
            stall: None,
            disk: DiskReport::default(),
        };
        Self {
            state: ControlState { members, ..ControlState::default() },
            reports: (1..=3).map(|id| (NodeId(id), report(id))).collect(),
            probes: BTreeMap::new(),
        }
    }

    fn report(&mut self, node: u64) -> &mut HealthReport {
        self.reports.get_mut(&NodeId(node)).unwrap()
    }

    fn sees(&mut self, node: u64, peer: u64, sight: PeerSight) {
        self.report(node).peers.insert(NodeId(peer), sight);
    }

    fn lost(&mut self, node: u64) {
        self.reports.remove(&NodeId(node));
        for peer in (1..=3).filter(|peer| *peer != node) {
            self.sees(peer, node, Silent);
        }
        self.state.members.get_mut(&NodeId(node)).unwrap().status = MemberStatus::Down;
    }

    fn judged(&self) -> [Ailment; 3] {
        let judged = judge(&Signs { state: &self.state, reports: &self.reports, probes: &self.probes });
        [1, 2, 3].map(|id| judged[&NodeId(id)].ailment)
    }

    fn detail(&self, node: u64) -> String {
        let judged = judge(&Signs { state: &self.state, reports: &self.reports, probes: &self.probes });
        judged[&NodeId(node)].detail.clone().unwrap_or_default()
    }
}

#[test]
fn who_says_nothing_is_stalled_or_unreachable_by_what_its_machine_does() {
    let mut world = World::new();
    assert_eq!(world.judged(), [Ok, Ok, Ok]);
    world.lost(3);
    for (probe, expected) in [
        (None, Unreachable),
        (Some(Probe::Unknown), Unreachable),
        (Some(Probe::Nothing), Unreachable),
        (Some(Probe::Refused), Unreachable),
        (Some(Probe::Answers), Unreachable),
        (Some(Probe::Stuck), Stalled),
    ] {
        world.probes = probe.map(|probe| (NodeId(3), probe)).into_iter().collect();
        assert_eq!(world.judged(), [Ok, Ok, expected], "{probe:?}");
    }
    // Before its connections have timed out it still has links.
    world.probes.clear();
    world.sees(1, 3, Linked);
    for (probe, expected) in [
        (None, Unreachable),
        (Some(Probe::Unknown), Unreachable),
        (Some(Probe::Nothing), Unreachable),
        (Some(Probe::Stuck), Stalled),
    ] {
        world.probes = probe.map(|probe| (NodeId(3), probe)).into_iter().collect();
        assert_eq!(world.judged(), [Ok, Ok, expected], "{probe:?}");
        assert_ne!(world.detail(3), "nothing is heard of it", "{probe:?}");
    }
}

#[test]
fn a_node_that_has_stood_still_says_so_itself_when_it_is_back() {
    let mut world = World::new();
    world.report(2).stall = Some(Stall { lasted_ms: 7_000, ended_ago_ms: 10 });
    assert_eq!(world.judged(), [Ok, Stalled, Ok]);
    assert!(world.detail(2).contains("7000 ms"), "{}", world.detail(2));
    world.report(2).stall = Some(Stall { lasted_ms: 7_000, ended_ago_ms: STALL_FRESH_MS });
    assert_eq!(world.judged(), [Ok, Ok, Ok]);
    assert!(world.detail(2).contains("7000 ms"), "{}", world.detail(2));
}

#[test]
fn a_partition_in_one_direction_is_told_from_one_in_both() {
    let mut world = World::new();
    // What n3 sends to n1 arrives, and nothing that n1 sends to n3. n2 has links to both.
    world.sees(1, 3, Heard { ago_ms: 100 });
    world.sees(3, 1, Silent);
    assert_eq!(world.judged(), [OneWay, Ok, OneWay]);
    assert_eq!(world.detail(1), "n1 hears n3, and n3 does not hear n1");
    assert_eq!(world.detail(3), world.detail(1));
    // n3 cannot be asked at all: it reaches nobody's ears but n1's, and nobody reaches it.
    world.lost(3);
    world.sees(1, 3, Heard { ago_ms: 100 });
    assert_eq!(world.judged(), [OneWay, Ok, OneWay]);
    world.sees(1, 3, Heard { ago_ms: HEARD_FRESH_MS });
    assert_eq!(world.judged(), [Ok, Ok, Unreachable], "that was long ago");

    let mut world = World::new();
    world.sees(1, 3, Silent);
    world.sees(3, 1, Silent);
    assert_eq!(world.judged(), [Unreachable, Ok, Unreachable]);
    assert_eq!(world.detail(3), "n3 and n1 do not reach each other");
    // Both hear each other: a link is about to come.
    world.sees(1, 3, Heard { ago_ms: 5 });
    world.sees(3, 1, Heard { ago_ms: 5 });
    assert_eq!(world.judged(), [Ok, Ok, Ok]);
}

#[test]
fn a_disk_is_the_node_s_own_word_and_a_full_one_comes_first() {
    let mut world = World::new();
    world.report(1).disk = DiskReport { slow: true, slowest_ms: 900, ..DiskReport::default() };
    world.report(2).disk = DiskReport { slow: true, full: true, free_bytes: Some(5), ..DiskReport::default() };
    world.report(3).disk = DiskReport { full: true, refused: Some("no space".into()), ..DiskReport::default() };
    assert_eq!(world.judged(), [SlowDisk, DiskFull, DiskFull]);
    assert!(world.detail(1).contains("900 ms"));
    assert!(world.detail(2).contains("5 bytes"));
    assert!(world.detail(3).contains("no space"));
    // It is a member all the same, and what else ails it comes after.
    world.sees(1, 3, Heard { ago_ms: 1 });
    world.sees(3, 1, Silent);
    assert_eq!(world.judged(), [OneWay, DiskFull, DiskFull]);
}
