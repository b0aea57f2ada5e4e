//! `greylag register`: small named values that the whole mesh agrees on. Prints the value and its version; a register
//! that is not there has version 0.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use greylag_protocol::{
    state::{RegisterExpect, RegisterOp},
    statement::{AdminCall, AdminReply},
};

use super::connect::Target;

#[derive(Debug, Args)]
pub struct RegisterArgs {
    #[command(subcommand)]
    command: RegisterCommand,
}

#[derive(Debug, Subcommand)]
enum RegisterCommand {
    /// Print a register; exit code 1 if there is none
    Get {
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Write a register, whatever it holds
    Set {
        name: String,
        value: String,
        #[command(flatten)]
        target: Target,
    },
    /// Write a register only if it still is as expected
    Cas {
        name: String,
        value: String,
        /// Version that it must have; 0 if it must not be there
        #[arg(long, conflicts_with = "value_is", required_unless_present = "value_is")]
        version: Option<u64>,
        /// Value that it must hold
        #[arg(long)]
        value_is: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Add to a counter; one that is not there counts from 0
    Add {
        name: String,
        #[arg(allow_negative_numbers = true, default_value_t = 1)]
        delta: i64,
        #[command(flatten)]
        target: Target,
    },
    /// Remove a register
    Remove {
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

pub async fn run(args: RegisterArgs) -> anyhow::Result<ExitCode> {
    let change = |name, op| AdminCall::ChangeRegister { name, op, request: None };
    let (target, call) = match args.command {
        RegisterCommand::Get { name, target } => (target, AdminCall::ReadRegister { name }),
        RegisterCommand::Set { name, value, target } => (target, change(name, RegisterOp::Write { value })),
        RegisterCommand::Cas { name, value, version, value_is, target } => {
            let expect = match (version, value_is) {
                (Some(version), _) => RegisterExpect::Version(version),
                (None, Some(value)) => RegisterExpect::Value(value),
                (None, None) => bail!("`--version` or `--value-is` is needed"),
            };
            (target, change(name, RegisterOp::CompareAndSet { expect, value }))
        }
        RegisterCommand::Add { name, delta, target } => (target, change(name, RegisterOp::Add { delta })),
        RegisterCommand::Remove { name, target } => (target, change(name, RegisterOp::Remove)),
    };
    let reads = matches!(call, AdminCall::ReadRegister { .. });
    match target.connect().await?.admin(&call).await? {
        AdminReply::Register { version, value: Some(value) } => println!("{value}\t{version}"),
        AdminReply::Register { .. } if reads => return Ok(ExitCode::FAILURE),
        AdminReply::Register { .. } => println!("removed"),
        other => bail!("an unexpected answer: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}
