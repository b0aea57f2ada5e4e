//! `chaos`: seven node processes in network namespaces of their own, PostgreSQL and MariaDB behind edges, clients that
//! know every answer, and a nemesis whose schedule is a function of the seed.
//!
//! Exit 0: every promise was kept. 1: one was not. 2: the run could not be set up. 77: not possible on this machine.

mod asking;
mod diagnosis;
mod heal;
mod linear;
#[cfg(test)]
mod linear_test;
mod nemesis;
mod net;
mod node;
mod registers;
mod report;
mod rolling;
mod schedule;
mod servers;
mod stage;
mod watch;
mod workload;

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use nix::sched::{CloneFlags, setns};
use serde::Serialize;

use nemesis::Nemesis;
use net::{Network, Place};
use registers::Recorder;
use report::{Counts, Ledger, say};
use schedule::{KINDS, NODES, Schedule};
use stage::Stage;
use workload::{Clients, Questions};

/// What test runners know as "skipped".
const SKIPPED: u8 = 77;
/// Exit code of a run that could not be set up.
const NOT_SET_UP: u8 = 2;
/// Programs without which nothing can be done.
const PROGRAMS: [&str; 8] = ["ip", "nft", "nsenter", "setpriv", "mount", "psql", "mariadb", "mariadb-install-db"];
/// Threads for clients, nemesis and watch.
const THREADS: usize = 4;

#[derive(Debug, Parser)]
#[command(about = "Seven nodes, two databases, and whatever can happen to them")]
struct Arguments {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the nemesis
    #[arg(long, default_value_t = 3)]
    minutes: u64,
    /// Faults of this kind alone
    #[arg(long, value_parser = KINDS)]
    only: Option<String>,
    /// Print the schedule and stop
    #[arg(long)]
    schedule: bool,
    /// Say whether a run can be made on this machine, and stop
    #[arg(long)]
    check: bool,
    /// Keep the run's folder, logs and all, also when all is well
    #[arg(long)]
    keep: bool,
    /// The `greylag` to run; that of this build if absent
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// The line at the end.
#[derive(Serialize)]
struct Outcome {
    seed: u64,
    minutes: u64,
    #[serde(flatten)]
    counts: Counts,
    /// From the end of the last fault until the mesh was whole at every door.
    healed_ms: Option<u64>,
    /// Whether reads and changes of registers behaved like those of a single copy.
    linearizable: bool,
    skipped: Vec<&'static str>,
    /// What must not have been, in words.
    #[serde(skip)]
    offences: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let schedule = Schedule::new(arguments.seed, arguments.minutes, arguments.only.as_deref());
    if arguments.schedule {
        schedule.events.iter().for_each(|event| println!("{event}"));
        return ExitCode::SUCCESS;
    }
    if let Some(why) = impossible() {
        eprintln!("chaos: skipped: {why}");
        return ExitCode::from(SKIPPED);
    }
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    match prepare_and_run(&arguments, &schedule) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(NOT_SET_UP)
        }
    }
}

/// Why a run cannot be made on this machine.
fn impossible() -> Option<String> {
    if std::fs::metadata("/proc/self").map_or(true, |own| own.uid() != 0) {
        return Some("network namespaces need root".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if let Some(missing) = PROGRAMS.into_iter().find(|program| !found(program)) {
        return Some(format!("`{missing}` is not installed"));
    }
    net::clean_up_after_the_dead();
    Network::try_one().err().map(|error| format!("no network namespaces: {error:#}"))
}

fn prepare_and_run(arguments: &Arguments, schedule: &Schedule) -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("greylag"),
    };
    anyhow::ensure!(binary.is_file(), "{} is not built", binary.display());
    let dir = std::env::temp_dir().join(format!("greylag-chaos.{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("schedule.json"), serde_json::to_string_pretty(schedule)?)?;
    for event in &schedule.events {
        say(&format!("plan: {event}"));
    }
    let network = Network::new()?;
    // Before any thread is started: all of them are among the clients.
    setns(File::open(network.file(Place::Clients))?, CloneFlags::CLONE_NEWNET).context("the clients' namespace")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let ran = runtime.block_on(async {
        tokio::select! {
            ran = run(arguments, schedule, network, &dir, &binary) => ran.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    // What is still under way ends with its runtime, and with the last of it the stage.
    runtime.shutdown_timeout(Duration::from_secs(30));
    let Some(outcome) = ran? else {
        eprintln!("chaos: stopped");
        std::fs::remove_dir_all(&dir)?;
        return Ok(ExitCode::from(130));
    };
    println!("{}", serde_json::to_string(&outcome)?);
    let held = outcome.counts.held() && outcome.healed_ms.is_some() && outcome.linearizable;
    if held && !arguments.keep {
        std::fs::remove_dir_all(&dir)?;
    } else {
        eprintln!("chaos: the logs of all nodes are kept in {}", dir.display());
    }
    outcome.offences.iter().for_each(|offence| eprintln!("chaos: {offence}"));
    if !held {
        let only = arguments.only.as_ref().map(|kind| format!(" --only {kind}")).unwrap_or_default();
        eprintln!(
            "chaos: FAILED; again with: tests/chaos/run --seed {} --minutes {}{only}",
            outcome.seed, outcome.minutes
        );
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(
    arguments: &Arguments,
    schedule: &Schedule,
    network: Network,
    dir: &Path,
    binary: &Path,
) -> anyhow::Result<Outcome> {
    let ledger = Arc::new(Ledger::default());
    let questions = Arc::new(Questions::prepare().await?);
    let stage = Arc::new(Stage::set(network, dir, binary).await?);
    heal::verify(&stage, &questions, &ledger).await;
    anyhow::ensure!(ledger.counts().held(), "answers are not right even before anything is done to the mesh");
    say(&format!("{} answers are right; the nemesis begins", ledger.counts().right));

    let clients = Clients::start(&questions, &ledger, &stage.token, arguments.seed);
    let recorder = Recorder::start(asking::Doors::new(&stage.token, ledger.clone()), arguments.seed);
    let watch = tokio::spawn(watch::watch(stage.clone(), ledger.clone()));
    let machine = tokio::spawn(watch::machine(ledger.clone()));
    let revive = tokio::spawn(nemesis::revive(stage.clone(), ledger.clone()));
    let progress = tokio::spawn(progress(ledger.clone()));
    Nemesis::new(stage.clone(), ledger.clone()).run(schedule).await;
    let ended = Instant::now();
    say("the nemesis has ended");
    let healed = heal::whole(&stage).await;
    let healed_ms = match &healed {
        Ok(_) => {
            say(&format!("healed after {} ms", ended.elapsed().as_millis()));
            Some(u64::try_from(ended.elapsed().as_millis())?)
        }
        Err(error) => {
            say(&format!("NOT HEALED: {error:#}"));
            None
        }
    };
    clients.stop().await;
    let checked = recorder.stop(NODES).await.check();
    say(&checked.to_string());
    checked.broken.iter().chain(&checked.undecided).for_each(|story| say(story));
    let linearizable = checked.broken.is_empty() && checked.undecided.is_empty() && checked.operations > 0;
    if healed_ms.is_some() {
        say("asking everything at every door");
        heal::verify(&stage, &questions, &ledger).await;
    }
    for task in [watch, machine, revive, progress] {
        task.abort();
        let _ = task.await;
    }
    let mut skipped = Vec::new();
    if !node::has_clock() {
        skipped.push("clock: libfaketime is not installed");
    }
    Ok(Outcome {
        seed: arguments.seed,
        minutes: arguments.minutes,
        counts: ledger.counts(),
        healed_ms,
        linearizable,
        skipped,
        offences: ledger.offences(),
    })
}

async fn progress(ledger: Arc<Ledger>) {
    loop {
        tokio::time::sleep(Duration::from_secs(15)).await;
        let counts = ledger.counts();
        let retryable: u64 = counts.retryable.values().sum();
        say(&format!(
            "{} statements: {} right, {retryable} retryable, {} out of time, {} wrong, {} hang",
            counts.statements, counts.right, counts.deadlines, counts.wrong, counts.hangs
        ));
    }
}
