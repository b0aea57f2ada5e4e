#![allow(clippy::unwrap_used)]

//! Many nodes, one ledger, and a network that loses, doubles, delays and cuts, by seed. What is really spent is counted
//! beside the code under test.

use std::collections::BTreeMap;

use greylag_protocol::state::{Period, QuotaLedger};
use proptest::prelude::*;

use super::*;

const T0: u64 = 1_700_000_000_000;
const STEP_MS: u64 = 250;

/// SplitMix64: the same dice on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(Clone)]
enum Message {
    ToLedger(usize, QuotaCommand),
    ToNode(usize, QuotaCommand, QuotaOutcome),
}

#[derive(Debug, Clone, Copy)]
struct Faults {
    lost: u64,
    doubled: u64,
    cut: u64,
    crashed: u64,
    delay_ms_max: u64,
    skew_ms_max: u64,
}

const NONE: Faults = Faults { lost: 0, doubled: 0, cut: 0, crashed: 0, delay_ms_max: 0, skew_ms_max: 0 };

struct World {
    dice: Dice,
    faults: Faults,
    now: u64,
    ledger: QuotaLedger,
    nodes: Vec<QuotaNode>,
    skew: Vec<u64>,
    cut_until: Vec<u64>,
    running: Vec<Vec<(ReservationId, u64)>>,
    wire: BTreeMap<(u64, u64), Message>,
    sent: u64,
    /// Spent from each lease, by quota.
    spent: BTreeMap<(QuotaKey, LeaseId), u64>,
    /// Period in which each lease was granted, with its amount.
    granted: BTreeMap<(QuotaKey, LeaseId), (u64, u64)>,
    refused: u64,
}

fn keys() -> [QuotaKey; 2] {
    let key =
        |agent: Option<&str>, period| QuotaKey { organisation: "o".into(), agent: agent.map(str::to_owned), period };
    [key(None, Period::Hour), key(Some("a"), Period::Hour)]
}

const LIMITS: [u64; 2] = [60_000_000, 25_000_000];

impl World {
    fn new(seed: u64, nodes: usize, faults: Faults) -> Self {
        let mut ledger = QuotaLedger::default();
        // Shortly before the hour, so that every run sees a period end.
        let now = T0 - T0 % 3_600_000 + 3_600_000 - 150_000;
        for (key, limit) in keys().into_iter().zip(LIMITS) {
            ledger.apply(&QuotaCommand::SetLimit { key, limit: Some(limit), now_unix_ms: now });
        }
        let mut dice = Dice(seed);
        Self {
            skew: (0..nodes).map(|_| dice.below(faults.skew_ms_max + 1)).collect(),
            dice,
            faults,
            now,
            ledger,
            nodes: (0..nodes).map(|n| QuotaNode::new(NodeId(n as u64 + 1), 1)).collect(),
            cut_until: vec![0; nodes],
            running: vec![Vec::new(); nodes],
            wire: BTreeMap::new(),
            sent: 0,
            spent: BTreeMap::new(),
            granted: BTreeMap::new(),
            refused: 0,
        }
    }

    fn clock(&self, node: usize) -> u64 {
        self.now + self.skew[node]
    }

    fn send(&mut self, message: Message) {
        if self.dice.percent(self.faults.lost) {
            return;
        }
        for _ in 0..=u64::from(self.dice.percent(self.faults.doubled)) {
            let late = if self.dice.percent(5) { 20 } else { 1 };
            let delay = self.dice.below(self.faults.delay_ms_max * late + 1);
            self.sent += 1;
            self.wire.insert((self.now + delay, self.sent), message.clone());
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
            match entry.remove() {
                Message::ToLedger(node, command) if self.now >= self.cut_until[node] => {
                    let outcome = self.ledger.apply(&command);
                    self.note_grant(&command, &outcome);
                    self.send(Message::ToNode(node, command, outcome));
                }
                Message::ToNode(node, command, outcome) if self.now >= self.cut_until[node] => {
                    let now = self.clock(node);
                    match command {
                        QuotaCommand::Lease { key, lease, .. } => self.nodes[node].answered(&key, lease, &outcome, now),
                        QuotaCommand::Report { key, lease, closed: true, .. } => self.nodes[node].closed(&key, lease),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    fn note_grant(&mut self, command: &QuotaCommand, outcome: &QuotaOutcome) {
        let (QuotaCommand::Lease { key, lease, .. }, QuotaOutcome::Granted { amount, .. }) = (command, outcome) else {
            return;
        };
        let period = self.ledger.quotas[key].current.start_unix_ms;
        let first = *self.granted.entry((key.clone(), *lease)).or_insert((period, *amount));
        assert_eq!(first, (period, *amount), "a lease is granted once");
    }

    fn work(&mut self, node: usize, load: u64) {
        let now = self.clock(node);
        for at in (0..self.running[node].len()).rev() {
            let (id, left) = self.running[node][at];
            let part = self.dice.below(left + left / 4 + 2);
            match self.nodes[node].charge(id, part, now) {
                Spend::Done(()) if part >= left || self.dice.percent(20) => {
                    self.nodes[node].finish(id);
                    self.running[node].swap_remove(at);
                }
                Spend::Done(()) => self.running[node][at].1 -= part,
                Spend::Asked => {}
                Spend::Exceeded(_) => {
                    self.nodes[node].finish(id);
                    self.running[node].swap_remove(at);
                }
            }
        }
        if self.dice.percent(load) {
            let estimate = 1 + self.dice.below(800_000);
            let of_agent = self.dice.percent(50);
            let wanted = if of_agent { &keys()[..] } else { &keys()[..1] };
            match self.nodes[node].reserve(wanted, estimate, now) {
                Spend::Done(id) => self.running[node].push((id, estimate)),
                Spend::Asked => {}
                Spend::Exceeded(_) => self.refused += 1,
            }
        }
        self.count(node);
    }

    /// What has really been spent, lease by lease; and the node's own invariant.
    fn count(&mut self, node: usize) {
        let QuotaNode { node, incarnation, accounts, .. } = &self.nodes[node];
        for (key, account) in accounts {
            for (sequence, held) in &account.leases {
                assert!(held.spent + held.reserved <= held.amount, "{key}: {held:?}");
                let id = (key.clone(), LeaseId { node: *node, incarnation: *incarnation, sequence: *sequence });
                let spent = self.spent.entry(id).or_default();
                assert!(*spent <= held.spent, "nothing is unspent");
                *spent = held.spent;
            }
        }
    }

    fn crash(&mut self, node: usize) {
        let QuotaNode { node: id, incarnation, .. } = self.nodes[node];
        self.nodes[node] = QuotaNode::new(id, incarnation + 1);
        self.running[node].clear();
    }

    fn step(&mut self, load: u64) {
        self.now += STEP_MS;
        for node in 0..self.nodes.len() {
            if self.dice.percent(self.faults.cut) {
                self.cut_until[node] = self.now + self.dice.below(90_000);
            }
            // Thousandths, or no process would live.
            if self.faults.crashed > 0 && self.dice.below(1000) < self.faults.crashed {
                self.crash(node);
            }
            self.work(node, load);
            let now = self.clock(node);
            let quotas = &self.ledger.quotas;
            self.nodes[node].tick(now, |key| quotas[key].current.starved);
            for command in self.nodes[node].due(now) {
                self.send(Message::ToLedger(node, command));
            }
        }
        self.deliver();
        self.check();
    }

    /// INVARIANT: no period's spending exceeds its limit, by what was really spent.
    fn check(&self) {
        let mut sums: BTreeMap<(&QuotaKey, u64), u64> = BTreeMap::new();
        for ((key, lease), spent) in &self.spent {
            let (period, amount) = self.granted[&(key.clone(), *lease)];
            assert!(*spent <= amount, "{key} {lease:?}: {spent} of {amount}");
            *sums.entry((key, period)).or_default() += spent;
        }
        for (key, limit) in keys().iter().zip(LIMITS) {
            let quota = &self.ledger.quotas[key];
            assert!(quota.current.committed() <= limit);
            for ((_, period), sum) in sums.iter().filter(|((k, _), _)| *k == key) {
                assert!(*sum <= limit, "{key} from {period}: {sum} of {limit}");
                if quota.current.start_unix_ms == *period {
                    assert!(quota.current.committed() >= *sum, "the log knows of less than was spent");
                }
            }
        }
    }

    fn spent_of(&self, key: &QuotaKey, period: u64) -> u64 {
        let of = self.spent.iter().filter(|((k, lease), _)| k == key && self.granted[&(k.clone(), *lease)].0 == period);
        of.map(|(_, spent)| spent).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nobody_overspends_whatever_the_network_does(
        seed: u64,
        nodes in 1_usize..7,
        lost in 0_u64..40,
        doubled in 0_u64..40,
        cut in 0_u64..2,
        crashed in 0_u64..4,
        delay_ms_max in 0_u64..3000,
        skew_ms_max in prop_oneof![Just(0_u64), Just(5_000), Just(400_000)],
    ) {
        let mut world = World::new(seed, nodes, Faults { lost, doubled, cut, crashed, delay_ms_max, skew_ms_max });
        for step in 0..1600 {
            world.step(if step % 400 < 300 { 60 } else { 5 });
        }
    }
}

#[test]
fn without_faults_all_of_it_can_be_spent_and_nothing_is_stranded() {
    for seed in 0..20 {
        let mut world = World::new(seed, 5, NONE);
        // The last period's leases and answers are out of the way once the hour has turned.
        for _ in 0..800 {
            world.step(3);
        }
        let [key, _] = keys();
        let period = world.ledger.quotas[&key].current.start_unix_ms;
        assert!(period > T0 - T0 % 3_600_000, "the hour has turned");
        world.running.iter().for_each(|running| assert!(running.len() < 50));
        for node in 0..5 {
            for (id, _) in std::mem::take(&mut world.running[node]) {
                world.nodes[node].finish(id);
            }
        }
        let idle = LEASE_MS / STEP_MS + 8;
        (0..idle).for_each(|_| world.step(0));
        let current = &world.ledger.quotas[&key].current;
        assert_eq!(current.committed(), world.spent_of(&key, period), "seed {seed}: an idle node holds nothing");
        assert!(current.open.is_empty());
        // Then one node alone can have all the rest.
        let rest = LIMITS[0] - current.committed();
        let mut got = None;
        for _ in 0..40 {
            let now = world.clock(0);
            if let Spend::Done(id) = world.nodes[0].reserve(std::slice::from_ref(&key), rest, now) {
                got = Some(id);
                break;
            }
            world.step(0);
        }
        assert_eq!(world.nodes[0].charge(got.unwrap(), rest, world.now), Spend::Done(()));
        world.count(0);
        world.check();
        assert_eq!(world.spent_of(&key, period), LIMITS[0]);
    }
}

#[test]
fn under_load_the_quota_is_used_up_before_anybody_is_refused_for_good() {
    let mut world = World::new(7, 4, NONE);
    let [key, _] = keys();
    let period = world.ledger.quotas[&key].current.start_unix_ms;
    (0..560).for_each(|_| world.step(90));
    assert!(world.refused > 0);
    let spent = world.spent_of(&key, period);
    assert!(spent * 100 >= LIMITS[0] * 95, "{spent} of {}", LIMITS[0]);
}
