//! From what nodes report to one word for each member, and a line that says why.
//!
//! INVARIANT: a member that somebody who can be asked has a link to, and that answers, is never called unreachable for
//! everybody; who says nothing at all is never called well.

use std::{collections::BTreeMap, fmt};

use greylag_protocol::{
    NodeId,
    messages::health::{HealthReport, PeerSight, Stall},
    state::{ControlState, MemberStatus},
};

use crate::seams::Probe;

/// A sign of a peer counts for so long: between two tries to make a link lie at most a time-out and two pauses.
pub(super) const HEARD_FRESH_MS: u64 = 6_000;
/// A stall is what ails a node for so long after it; later it is only told.
pub(super) const STALL_FRESH_MS: u64 = 10_000;
/// A stall is told for so long.
const STALL_TOLD_MS: u64 = 10 * 60 * 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    Ok,
    /// Nothing is heard of it, or two members do not reach each other.
    Unreachable,
    /// Its process stands still, or has just done so.
    Stalled,
    /// What it sends arrives and what is sent to it does not, or the other way round.
    OneWay,
    SlowDisk,
    DiskFull,
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Stalled => "stalled",
            Self::OneWay => "one-way",
            Self::SlowDisk => "slow-disk",
            Self::DiskFull => "disk-full",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub ailment: Ailment,
    pub detail: Option<String>,
}

impl Health {
    fn new(ailment: Ailment, detail: impl Into<String>) -> Self {
        Self { ailment, detail: Some(detail.into()) }
    }
}

/// What is known of the members, by whoever wants to know.
pub(super) struct Signs<'a> {
    pub state: &'a ControlState,
    /// Of everybody who could be asked, this node among them.
    pub reports: &'a BTreeMap<NodeId, HealthReport>,
    /// Of those who could not.
    pub probes: &'a BTreeMap<NodeId, Probe>,
}

pub(super) fn judge(signs: &Signs<'_>) -> BTreeMap<NodeId, Health> {
    let judged = |node: &NodeId| match signs.reports.get(node) {
        Some(report) => (*node, of_reporting(signs, report)),
        None => (*node, of_silent(signs, *node)),
    };
    signs.state.members.keys().map(judged).collect()
}

fn of_reporting(signs: &Signs<'_>, report: &HealthReport) -> Health {
    let node = report.node;
    let disk = &report.disk;
    if let Some(refused) = &disk.refused {
        return Health::new(Ailment::DiskFull, format!("the disk refuses writes: {refused}"));
    }
    if disk.full {
        let free = disk.free_bytes.map_or_else(|| "little".to_owned(), |free| format!("{free} bytes"));
        return Health::new(Ailment::DiskFull, format!("{free} are free"));
    }
    if let Some(stall) = fresh_stall(signs, node) {
        let detail = format!("stood still for {} ms, until {} ms ago", stall.lasted_ms, stall.ended_ago_ms);
        return Health::new(Ailment::Stalled, detail);
    }
    if let Some(detail) = one_way(signs, node) {
        return Health::new(Ailment::OneWay, detail);
    }
    if let Some(peer) = cut_off(signs, report) {
        return Health::new(Ailment::Unreachable, format!("{node} and {peer} do not reach each other"));
    }
    if disk.slow {
        let detail = format!("a durable write has taken {} ms", disk.slowest_ms);
        return Health::new(Ailment::SlowDisk, detail);
    }
    let told = report.stall.filter(|stall| stall.ended_ago_ms < STALL_TOLD_MS);
    let detail = told.map(|stall| format!("stood still for {} ms, {} ms ago", stall.lasted_ms, stall.ended_ago_ms));
    Health { ailment: Ailment::Ok, detail }
}

fn of_silent(signs: &Signs<'_>, node: NodeId) -> Health {
    if let Some(detail) = one_way(signs, node) {
        return Health::new(Ailment::OneWay, detail);
    }
    let linked = signs.reports.values().any(|report| report.peers.get(&node) == Some(&PeerSight::Linked));
    match signs.probes.get(&node).copied().unwrap_or(Probe::Unknown) {
        Probe::Stuck => Health::new(Ailment::Stalled, "its machine answers and its process does not"),
        Probe::Refused => Health::new(Ailment::Unreachable, "nothing listens at its address"),
        Probe::Answers => Health::new(Ailment::Unreachable, "its process answers and has no link"),
        // The idle time-out has not passed yet, and nothing was closed: a process that stands still or a network that does
        // not carry cannot be told apart where its machine does not answer either.
        Probe::Nothing | Probe::Unknown if linked => {
            Health::new(Ailment::Unreachable, "it has a link and does not answer")
        }
        Probe::Nothing | Probe::Unknown => Health::new(Ailment::Unreachable, "nothing is heard of it"),
    }
}

/// A pair of which one hears the other and is not heard.
fn one_way(signs: &Signs<'_>, node: NodeId) -> Option<String> {
    // Who has just stood still has not heard anybody for that reason.
    let awake = |node: &NodeId| fresh_stall(signs, *node).is_none();
    let others = signs.state.members.keys().filter(|other| **other != node && awake(other) && awake(&node));
    for other in others {
        for (hearer, heard) in [(node, *other), (*other, node)] {
            let linked = |at, peer| sight(signs, at, peer) == Some(PeerSight::Linked);
            // Who hears and is heard is about to be linked.
            let back = linked(heard, hearer) || hears(signs, heard, hearer);
            if hears(signs, hearer, heard) && !back {
                return Some(format!("{hearer} hears {heard}, and {heard} does not hear {hearer}"));
            }
        }
    }
    None
}

fn fresh_stall(signs: &Signs<'_>, node: NodeId) -> Option<Stall> {
    signs.reports.get(&node)?.stall.filter(|stall| stall.ended_ago_ms < STALL_FRESH_MS)
}

/// It has no link, and what the other sends arrives.
fn hears(signs: &Signs<'_>, hearer: NodeId, heard: NodeId) -> bool {
    matches!(sight(signs, hearer, heard), Some(PeerSight::Heard { ago_ms }) if ago_ms < HEARD_FRESH_MS)
}

fn sight(signs: &Signs<'_>, at: NodeId, peer: NodeId) -> Option<PeerSight> {
    signs.reports.get(&at)?.peers.get(&peer).copied()
}

/// A member that is well enough to report and has no link with this one.
fn cut_off(signs: &Signs<'_>, report: &HealthReport) -> Option<NodeId> {
    let up = |node: &NodeId| signs.state.member(*node).is_some_and(|member| member.status != MemberStatus::Down);
    let silent = report.peers.iter().filter(|(_, sight)| **sight == PeerSight::Silent).map(|(peer, _)| *peer);
    let mut both_say = silent.filter(|peer| {
        let back = signs.reports.get(peer).and_then(|other| other.peers.get(&report.node));
        back == Some(&PeerSight::Silent)
    });
    both_say.find(|peer| up(peer) || up(&report.node))
}
