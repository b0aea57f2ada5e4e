//! `greylag node`: runs a node until it is told to stop, or changes the membership of the mesh.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use greylag_protocol::{NodeId, statement::AdminCall};
use tokio::signal::unix::{SignalKind, signal};
use toml::Value;

use super::connect::Target;
use crate::assembly::Greylag;

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
    Remove {
        /// Such as `n3`
        node: String,
        #[command(flatten)]
        target: Target,
    },
}

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

pub async fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    if let Some(Change::Remove { node, target }) = &args.change {
        let id =
            node.trim_start_matches('n').parse().map(NodeId).with_context(|| format!("`{node}` is not a node id"))?;
        target.connect().await?.admin(&AdminCall::RemoveNode { node: id }).await?;
        println!("removed {id}");
        return Ok(ExitCode::SUCCESS);
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
    let (name, flight) = (config.name.clone(), config.flight);
    tracing::info!(name, listen = %config.listen, seeds = config.seeds.len(), "starting");
    let started = tokio::select! {
        started = Greylag::start(config) => started?,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    };
    println!("node {} of mesh {} is up", started.mesh.node(), started.mesh.id());
    if let Some(flight) = flight {
        println!("flight sql on {flight}: `greylag sql --server {flight}`");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    started.stop().await;
    Ok(ExitCode::SUCCESS)
}
