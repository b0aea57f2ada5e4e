//! Does to the mesh what the schedule says. Faults that may overlap run as tasks of their own; what has the mesh to itself
//! waits until they have ended and the mesh has settled.
//!
//! INVARIANT: when `run` returns, nothing is done to the mesh any more: every process runs, every rule is gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::{
    diagnosis,
    heal::settle,
    net::{Place, Suffering},
    report::{Ledger, say},
    rolling,
    schedule::{Event, Fault, NODES, Schedule},
    stage::Stage,
};

/// A full disk stays full: what the node frees is taken again after so long.
const REFILL: Duration = Duration::from_millis(500);
/// Pause between two looks for nodes that have ended by themselves.
const WATCH: Duration = Duration::from_millis(500);

pub struct Nemesis {
    stage: Arc<Stage>,
    ledger: Arc<Ledger>,
    /// What each event makes nodes suffer, by event and node.
    suffering: Mutex<BTreeMap<usize, BTreeMap<usize, Suffering>>>,
}

impl Nemesis {
    pub fn new(stage: Arc<Stage>, ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { stage, ledger, suffering: Mutex::default() })
    }

    pub async fn run(self: &Arc<Self>, schedule: &Schedule) {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for event in &schedule.events {
            let due = Duration::from_millis(event.at_ms).saturating_sub(began.elapsed());
            tokio::time::sleep(due).await;
            if event.fault.is_alone() {
                while running.join_next().await.is_some() {}
                settle(&self.stage, &self.ledger).await;
                self.clone().play(event.clone()).await;
                settle(&self.stage, &self.ledger).await;
            } else {
                running.spawn(self.clone().play(event.clone()));
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn play(self: Arc<Self>, event: Event) {
        say(&format!("begins: {event}"));
        let fault = self.ledger.fault_began(event.fault.kind());
        let lasts = Duration::from_millis(event.for_ms);
        let (done, ()) =
            tokio::join!(self.carry_out(&event), diagnosis::look(&self.stage, &self.ledger, &event.fault, lasts));
        if let Err(error) = done {
            self.ledger.offence("stuck", &format!("{event}: {error:#}"), |counts| counts.stuck += 1);
        }
        self.ledger.fault_ended(fault);
        say(&format!("ended: {event}"));
    }

    async fn carry_out(&self, event: &Event) -> anyhow::Result<()> {
        let (stage, lasts) = (&self.stage, Duration::from_millis(event.for_ms));
        match &event.fault {
            Fault::Kill { node } => {
                stage.node(*node).kill();
                tokio::time::sleep(lasts).await;
                stage.node(*node).start(&stage.network)?;
            }
            Fault::Stop { node } => {
                stage.node(*node).signal(Signal::SIGSTOP)?;
                tokio::time::sleep(lasts).await;
                stage.node(*node).signal(Signal::SIGCONT)?;
            }
            Fault::DiskFull { node } => {
                let until = Instant::now() + lasts;
                while Instant::now() < until {
                    stage.node(*node).fill_disk()?;
                    tokio::time::sleep(REFILL).await;
                }
                stage.node(*node).free_disk()?;
            }
            Fault::Clock { node, seconds } => {
                stage.node(*node).set_clock(*seconds)?;
                tokio::time::sleep(lasts).await;
                stage.node(*node).set_clock(0)?;
            }
            Fault::SourceRestart { source } => {
                stage.server(*source).stop()?;
                tokio::time::sleep(lasts).await;
                let (stage, source) = (stage.clone(), *source);
                tokio::task::spawn_blocking(move || stage.server(source).start(&stage.network)).await??;
            }
            Fault::AllAtOnce => {
                (0..NODES).for_each(|node| stage.node(node).kill());
                tokio::time::sleep(lasts).await;
                for node in 0..NODES {
                    stage.node(node).start(&stage.network)?;
                }
            }
            Fault::RollingRestart => {
                self.ledger.rolling_began();
                let done = rolling::restart_each(stage).await;
                self.ledger.rolling_ended();
                done?;
            }
            Fault::Halves { .. }
            | Fault::OneWay { .. }
            | Fault::LeaderAlone
            | Fault::Loss { .. }
            | Fault::Bandwidth { .. } => {
                let suffering = self.of_network(&event.fault).await?;
                self.impose(event.number, Some(suffering))?;
                tokio::time::sleep(lasts).await;
                self.impose(event.number, None)?;
            }
        }
        Ok(())
    }

    /// What a fault of the network makes each node suffer.
    async fn of_network(&self, fault: &Fault) -> anyhow::Result<BTreeMap<usize, Suffering>> {
        let mut each: BTreeMap<usize, Suffering> = BTreeMap::new();
        let mut deafen = |node: usize, to: Place| {
            each.entry(node).or_default().deaf_to.insert(to.address());
        };
        match fault {
            Fault::Halves { side } => {
                for (a, b) in (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))) {
                    if side.contains(&a) != side.contains(&b) {
                        deafen(a, Place::Node(b));
                    }
                }
            }
            Fault::OneWay { node, deaf } => {
                for other in (0..NODES).filter(|other| other != node) {
                    if *deaf { deafen(*node, Place::Node(other)) } else { deafen(other, Place::Node(*node)) }
                }
            }
            Fault::LeaderAlone => {
                let leader = leader(&self.stage).await?;
                say(&format!("  the leader is node{}", leader + 1));
                for other in (0..NODES).filter(|other| *other != leader) {
                    deafen(leader, Place::Node(other));
                    deafen(other, Place::Node(leader));
                }
                deafen(leader, Place::Postgres);
                deafen(leader, Place::Mariadb);
            }
            Fault::Loss { nodes, percent } => {
                for node in nodes {
                    each.entry(*node).or_default().loss_percent = *percent;
                }
            }
            Fault::Bandwidth { nodes, kib_per_s } => {
                for node in nodes {
                    each.entry(*node).or_default().kib_per_s = *kib_per_s;
                }
            }
            _ => {}
        }
        Ok(each)
    }

    /// Adds what an event makes nodes suffer, or takes it away again.
    fn impose(&self, event: usize, each: Option<BTreeMap<usize, Suffering>>) -> anyhow::Result<()> {
        let mut all = self.suffering.lock().unwrap_or_else(PoisonError::into_inner);
        let touched: Vec<usize> = match each {
            Some(each) => {
                let nodes = each.keys().copied().collect();
                all.insert(event, each);
                nodes
            }
            None => all.remove(&event).unwrap_or_default().into_keys().collect(),
        };
        for node in touched {
            let mut whole = Suffering::default();
            for one in all.values().filter_map(|each| each.get(&node)) {
                whole.deaf_to.extend(&one.deaf_to);
                whole.loss_percent = whole.loss_percent.max(one.loss_percent);
                whole.kib_per_s = whole.kib_per_s.max(one.kib_per_s);
            }
            self.stage.network.set(node, &whole)?;
        }
        Ok(())
    }
}

/// Who leads, as the first node says that knows.
async fn leader(stage: &Stage) -> anyhow::Result<usize> {
    for index in (0..NODES).cycle().take(NODES * 5) {
        let rows = stage.ask(index, "SELECT name FROM system.nodes WHERE leader").await.unwrap_or_default();
        let names = greylag_node::demo::texts(&rows, 0)?;
        if let Some(leader) = (0..NODES).find(|i| names.contains(&Stage::name(*i))) {
            return Ok(leader);
        }
        tokio::time::sleep(WATCH).await;
    }
    anyhow::bail!("nobody knows a leader")
}

/// Starts nodes again that end by themselves, as whatever runs them would, and says so. For ever.
pub async fn revive(stage: Arc<Stage>, ledger: Arc<Ledger>) {
    loop {
        tokio::time::sleep(WATCH).await;
        for index in 0..NODES {
            let mut node = stage.node(index);
            if !node.wanted {
                continue;
            }
            if let Some(how) = node.died() {
                ledger.offence("died", &how, |counts| counts.died += 1);
            }
            if !node.runs()
                && let Err(error) = node.start(&stage.network)
            {
                say(&format!("node{} could not be started again: {error:#}", index + 1));
            }
        }
    }
}
