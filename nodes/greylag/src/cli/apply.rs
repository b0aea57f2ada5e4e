//! `greylag apply -f FILE`: declares sources. Applying the same file twice changes nothing the second time.

use std::{io::Read, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use greylag_config::{Resource, parse_resources};
use greylag_protocol::statement::{AdminCall, AdminReply};

use super::connect::Target;

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// YAML file, or `-` for standard input
    #[arg(short, long)]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: ApplyArgs) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&args.file).with_context(|| format!("`{}`", args.file.display()))?;
    }
    let resources = parse_resources(&text)?;
    let connection = args.target.connect().await?;
    for Resource::Source(spec) in resources {
        let name = spec.name.clone();
        match connection.admin(&AdminCall::ApplySource { spec, expect_version: None }).await? {
            AdminReply::Applied { version, changed: true } => println!("source {name}: applied, version {version}"),
            AdminReply::Applied { version, .. } => println!("source {name}: unchanged, version {version}"),
            other => anyhow::bail!("an unexpected answer: {other:?}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}
