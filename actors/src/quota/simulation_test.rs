//! Several nodes over one log, with lost, delayed and repeated messages, partitions, killed processes and clocks that are
//! set, by seed; in virtual time. What is really spent is counted beside the code under test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use greylag_governance::quota::{CREDIT, LEASE_MS, Period};
use greylag_protocol::ErrorCode;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Quotas, fixture::*};

const NODES: u64 = 4;
const LIMIT: u64 = 300 * CREDIT;
const AGENT_LIMIT: u64 = 120 * CREDIT;
const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// What was let through, by whose statements.
#[derive(Default)]
struct Spent {
    all: AtomicU64,
    agent: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
}

impl Spent {
    fn add(&self, agent: bool, amount: u64) {
        let all = self.all.fetch_add(amount, Ordering::Relaxed) + amount;
        assert!(all <= LIMIT, "{all} of {LIMIT}");
        if agent {
            let of_agent = self.agent.fetch_add(amount, Ordering::Relaxed) + amount;
            assert!(of_agent <= AGENT_LIMIT, "{of_agent} of {AGENT_LIMIT}");
        }
    }
}

/// One statement after the other, each in several parts, some of them dearer than they said.
async fn client(quotas: Arc<Quotas>, spent: Arc<Spent>, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    loop {
        sleep(Duration::from_millis(dice.random_range(50..3_000))).await;
        let agent = dice.random_range(0..100) < 40;
        let principal = principal("clinic", if agent { "a" } else { "" });
        let estimate = dice.random_range(1..3 * CREDIT);
        let deadline = Instant::now() + Duration::from_secs(dice.random_range(1..30));
        let mut charge = match quotas.reserve(&principal, &rows(estimate), deadline).await {
            Ok(charge) => charge,
            Err(error) => {
                spent.refuse(error.code);
                continue;
            }
        };
        let mut used = 0;
        for _ in 0..dice.random_range(1..6) {
            used += dice.random_range(0..estimate);
            let before = charge.microcredits();
            let patience = Duration::from_millis(dice.random_range(10..20_000));
            let outcome = timeout(patience, charge.charge(&rows(used))).await;
            spent.add(agent, charge.microcredits() - before);
            match outcome {
                Ok(Ok(())) => assert_eq!(charge.microcredits(), used, "nothing leaves that was not paid for"),
                Ok(Err(error)) => {
                    spent.refuse(error.code);
                    break;
                }
                Err(_) => break,
            }
            sleep(Duration::from_millis(dice.random_range(0..500))).await;
        }
    }
}

impl Spent {
    fn refuse(&self, code: ErrorCode) {
        match code {
            ErrorCode::QuotaExceeded => self.refused.fetch_add(1, Ordering::Relaxed),
            ErrorCode::NoLeader | ErrorCode::Deadline => self.unanswered.fetch_add(1, Ordering::Relaxed),
            other => panic!("{other}"),
        };
    }
}

struct Running {
    node: TestNode,
    clients: JoinSet<()>,
}

fn start(world: &Arc<World>, spent: &Arc<Spent>, id: u64, seed: u64) -> Running {
    let node = world.node(id);
    let mut clients = JoinSet::new();
    for n in 0..3 {
        clients.spawn(client(node.quotas.clone(), spent.clone(), seed ^ (id << 8) ^ n));
    }
    Running { node, clients }
}

/// Panics of clients are failures of the test.
async fn stop(mut clients: JoinSet<()>) {
    clients.abort_all();
    while let Some(ended) = clients.join_next().await {
        assert!(ended.is_err_and(|error| error.is_cancelled()), "a client has failed");
    }
}

async fn storm(seed: u64, kill: bool) {
    let (whole, agents) = (key(None, Period::Day), key(Some("a"), Period::Day));
    let world = World::new(seed, NODES, &[(whole.clone(), LIMIT), (agents.clone(), AGENT_LIMIT)]);
    let spent = Arc::new(Spent::default());
    let mut dice = StdRng::seed_from_u64(seed);
    world.lock().faults = Faults {
        lost: dice.random_range(0..40),
        repeated: dice.random_range(0..40),
        delay_ms_max: dice.random_range(0..2_500),
    };
    let mut running: Vec<Running> = (1..=NODES).map(|id| start(&world, &spent, id, seed)).collect();
    for turn in 0..60 {
        sleep(Duration::from_secs(5)).await;
        let at = dice.random_range(0..NODES);
        match dice.random_range(0..10) {
            0..3 => world.cut(at + 1),
            3..8 => world.heal(at + 1),
            8 => world.skew(at + 1, dice.random_range(-600_000..600_000)),
            _ if kill => {
                let Running { node, clients } =
                    std::mem::replace(&mut running[at as usize], start(&world, &spent, at + 1, seed ^ (turn << 16)));
                stop(clients).await;
                drop(node);
            }
            _ => {}
        }
    }
    // The faults end, the work too, and what is not spent comes back.
    world.lock().faults = Faults::default();
    (1..=NODES).for_each(|id| world.heal(id));
    let mut nodes = Vec::new();
    for Running { node, clients } in running {
        stop(clients).await;
        nodes.push(node);
    }
    // Twice the time: a clock that was set back runs at half speed.
    sleep(2 * LEASE + 3 * PROPOSE_MAX).await;
    let (all, of_agent) = (spent.all.load(Ordering::Relaxed), spent.agent.load(Ordering::Relaxed));
    assert!(all > 0, "seed {seed}: something ran");
    for (key, really) in [(&whole, all), (&agents, of_agent)] {
        let (settled, open, _) = world.known(key);
        if kill {
            assert!(settled >= really, "seed {seed}: the log knows of {settled}, {really} were spent");
        } else {
            assert_eq!((settled, open), (really, 0), "seed {seed}: {key} comes back whole");
        }
    }
    // Then any node can have all the rest, and not one more.
    let (settled, _, leased) = world.known(&whole);
    let rest = LIMIT - settled - leased;
    let more = nodes[0].quotas.reserve(&principal("clinic", ""), &rows(rest + 1), soon()).await;
    assert_eq!(more.unwrap_err().code, ErrorCode::QuotaExceeded, "seed {seed}");
    if rest > 0 {
        let mut charge = nodes[1].quotas.reserve(&principal("clinic", ""), &rows(rest), soon()).await.unwrap();
        charge.charge(&rows(rest)).await.unwrap();
        spent.add(false, rest);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_overspends_and_all_that_is_not_spent_comes_back() {
    for seed in 0..15 {
        storm(seed, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_overspends_when_processes_are_killed() {
    for seed in 100..115 {
        storm(seed, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_spends_its_lease_and_then_refuses_until_it_is_back() {
    let day = key(None, Period::Day);
    let world = World::new(3, 3, &[(day.clone(), 40 * CREDIT)]);
    let nodes: Vec<TestNode> = (1..=3).map(|id| world.node(id)).collect();
    let ask = |at: usize, amount| nodes[at].quotas.clone().reserve_of("clinic", amount);
    // Every node has a lease.
    for at in 0..3 {
        drop(ask(at, CREDIT / 10).await.unwrap());
    }
    let (_, _, leased) = world.known(&day);
    world.cut(3);
    let mut alone = 0;
    let refusal = loop {
        match ask(2, CREDIT / 4).await {
            Ok(mut charge) => match charge.charge(&rows(CREDIT / 4)).await {
                Ok(()) => alone += CREDIT / 4,
                Err(error) => break error,
            },
            Err(error) => break error,
        }
        assert!(alone <= leased, "more than all leases together");
    };
    assert_eq!(refusal.code, ErrorCode::NoLeader, "{refusal}");
    assert!(alone > 0, "it spends what it holds");
    // The others use up all that is left, and no more.
    let mut beside = 0;
    for turn in 0.. {
        let Ok(mut charge) = ask(turn % 2, CREDIT).await else { break };
        charge.charge(&rows(CREDIT)).await.unwrap();
        beside += CREDIT;
    }
    assert!(alone + beside <= 40 * CREDIT);
    assert!(beside >= 30 * CREDIT, "{beside}: they get what the third does not hold");
    world.heal(3);
    // What it had asked for when it was refused may still be granted, and has its life too.
    sleep(LEASE + PROPOSE_MAX + Duration::from_secs(3)).await;
    assert_eq!(world.known(&day), (alone + beside, 0, 0), "its lease is back");
    let rest = 40 * CREDIT - alone - beside;
    let mut charge = ask(2, rest).await.unwrap();
    charge.charge(&rows(rest)).await.unwrap();
    drop(charge);
    assert_eq!(ask(2, 1).await.unwrap_err().code, ErrorCode::QuotaExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_new_period_is_a_new_quota() {
    let hour = key(None, Period::Hour);
    let world = World::new(3, 2, &[(hour, 5 * CREDIT)]);
    let nodes: Vec<TestNode> = (1..=2).map(|id| world.node(id)).collect();
    for node in &nodes {
        for _ in 0..2 {
            let mut charge = node.quotas.clone().reserve_of("clinic", CREDIT).await.unwrap();
            charge.charge(&rows(CREDIT)).await.unwrap();
        }
    }
    let all = nodes[0].quotas.clone().reserve_of("clinic", 5 * CREDIT).await;
    assert_eq!(all.unwrap_err().code, ErrorCode::QuotaExceeded);
    sleep(Duration::from_secs(3600)).await;
    let mut charge = nodes[0].quotas.clone().reserve_of("clinic", 5 * CREDIT).await.unwrap();
    charge.charge(&rows(5 * CREDIT)).await.unwrap();
}
