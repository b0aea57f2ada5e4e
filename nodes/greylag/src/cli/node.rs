//! `greylag node`: runs a node until it is told to stop, or changes the membership of the mesh.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use greylag_protocol::{NodeId, statement::AdminCall};
use tokio::signal::unix::{SignalKind, signal};
use toml::Value;

use super::connect::{Connection, Target};
use crate::{
    assembly::{ADMIN_TOKEN_FILE, Greylag},
    demo::texts,
};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeArgs {
    /// Configuration file (TOML); see config/greylag.toml for every key
    #[arg(long, env = "GREYLAG_CONFIG")]
    config: Option<PathBuf>,
    /// A mesh of one on loopback, with a door on 127.0.0.1:50051
    #[arg(long)]
    dev: bool,
    /// Where identity and log are kept
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Set any key: `--set limits.queue_statements_max=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print every key that is not at its default and where it comes from, and stop
    #[arg(long)]
    explain: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Take a node out of the membership; its certificate is worth nothing from then on
    Remove(Which),
    /// Have a node leave its roles to others, and return when it holds none: then it can be stopped
    Drain(Which),
    /// Let a node that drains take roles again
    Undrain(Which),
}

/// A node, and where to say so.
#[derive(Debug, Args)]
struct Which {
    /// Such as `n3`
    node: String,
    /// How long to wait for a drain, seconds
    #[arg(long, default_value_t = 300)]
    wait_secs: u64,
    #[command(flatten)]
    target: Target,
}

/// Pause between two looks at what a draining node still holds.
const LOOK: Duration = Duration::from_millis(100);

impl NodeArgs {
    pub fn runs_a_node(&self) -> bool {
        self.change.is_none() && !self.explain
    }

    fn load(&self) -> anyhow::Result<greylag_config::Loaded> {
        let mut flags = Vec::new();
        if self.dev {
            flags.push(("dev".to_owned(), Value::Boolean(true)));
            flags.push(("flight".to_owned(), Value::String("127.0.0.1:50051".into())));
        }
        if let Some(dir) = &self.data_dir {
            flags.push(("data_dir".to_owned(), Value::String(dir.to_string_lossy().into_owned())));
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').with_context(|| format!("`--set {pair}` is not KEY=VALUE"))?;
            let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
            flags.push((key.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned()))));
        }
        Ok(greylag_config::load(self.config.as_deref(), std::env::vars(), &flags)?)
    }
}

impl Change {
    async fn carry_out(&self) -> anyhow::Result<ExitCode> {
        let (Self::Remove(which) | Self::Drain(which) | Self::Undrain(which)) = self;
        let id = which.node.trim_start_matches('n').parse().map(NodeId);
        let id = id.with_context(|| format!("`{}` is not a node id", which.node))?;
        let connection = which.target.connect().await?;
        let (call, done) = match self {
            Self::Remove(_) => (AdminCall::RemoveNode { node: id }, "removed"),
            Self::Drain(_) => (AdminCall::DrainNode { node: id }, "drained"),
            Self::Undrain(_) => (AdminCall::UndrainNode { node: id }, "takes roles again:"),
        };
        connection.admin(&call).await?;
        if let Self::Drain(_) = self
            && !emptied(&connection, id, Duration::from_secs(which.wait_secs)).await?
        {
            eprintln!("{id} drains, and still holds roles that no other node can take or that queries are using");
            return Ok(ExitCode::FAILURE);
        }
        println!("{done} {id}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits until a node holds no role. Says what it still holds whenever that changes.
async fn emptied(connection: &Connection, node: NodeId, within: Duration) -> anyhow::Result<bool> {
    let sql = format!("SELECT role FROM system.roles WHERE node = '{node}' AND held ORDER BY role");
    let (started, mut said) = (Instant::now(), Vec::new());
    loop {
        let held = texts(&connection.query(&sql).await?, 0)?;
        if held.is_empty() {
            return Ok(true);
        }
        if held != said {
            eprintln!("  {node} still holds {}", held.join(", "));
            said = held;
        }
        if started.elapsed() >= within {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub async fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    if let Some(change) = &args.change {
        return change.carry_out().await;
    }
    let loaded = args.load()?;
    if args.explain {
        for (key, origin) in &loaded.origins {
            println!("{key}  {origin:?}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let config = loaded.config;
    let (name, flight, tls) = (config.name.clone(), config.flight, config.door.is_tls());
    let token_file = config.data_dir.join(ADMIN_TOKEN_FILE);
    tracing::info!(name, listen = %config.listen, seeds = config.seeds.len(), "starting");
    let started = tokio::select! {
        started = Greylag::start(config) => started?,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    };
    println!("node {} of mesh {} is up", started.mesh.node(), started.mesh.id());
    if let Some(token) = &started.bootstrap {
        println!("it has founded the mesh. The administrator's token, shown this once:\n{token}");
        println!("it is also kept in `{}`, where each start writes a new one", token_file.display());
    }
    if let Some(flight) = flight {
        let scheme = if tls { "grpc+tls://" } else { "" };
        println!("flight sql on {flight}: `greylag sql --server {scheme}{flight}`");
    }
    let ended = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        // Removed, or its disk has failed: it would answer nobody any more.
        error = started.mesh.stopped() => Some(error),
    };
    tracing::info!("stopping");
    started.stop().await;
    ended.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}
