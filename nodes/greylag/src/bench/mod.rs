//! `greylag bench`: what this machine and this build do, measured side by side in one run, so that ratios mean
//! something on a noisy machine.

mod governance;
mod smoke;

use std::process::ExitCode;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Time to form, idle memory, a key look-up against the source itself, TPC-H on one node and on three
    Smoke(smoke::SmokeArgs),
    /// What the steps besides planning and execution cost a small query: with founding policies only, and with filters, masks,
    /// a quota and a strict audit
    Governance(governance::GovernanceArgs),
}

pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        BenchCommand::Smoke(args) => smoke::run(args).await,
        BenchCommand::Governance(args) => governance::run(args).await,
    }
}
