//! `greylag ca`: the mesh's certificate authority.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use greylag_protocol::statement::AdminCall;

use super::connect::Target;

#[derive(Debug, Args)]
pub struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Have a new authority take over. Every member renews its certificate by itself while queries go on; after the
    /// overlap the former one is trusted no more, and a node that was away for all of it has to join anew, as have
    /// those with a join token of before
    Rotate {
        /// Seconds for which both are trusted, at least
        #[arg(long, default_value_t = 72 * 3600)]
        overlap_secs: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub async fn run(args: CaArgs) -> anyhow::Result<ExitCode> {
    let CaCommand::Rotate { overlap_secs, target } = args.command;
    target.connect().await?.admin(&AdminCall::RotateAuthority { overlap_secs }).await?;
    println!("a new authority takes over; the former is trusted for at least {overlap_secs} s more");
    Ok(ExitCode::SUCCESS)
}
