//! `greylag job`: statements in the background. What `submit` prints is all that is needed to ask for them again, at any
//! node and after the loss of the one that runs them.

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};
use greylag_gateways::flight::handle::JobHandle;

use super::{
    connect::Target,
    render::{self, Format},
};

#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Begin a statement and print its handle
    Submit {
        #[arg(short, long)]
        command: String,
        #[command(flatten)]
        target: Target,
    },
    /// Say whether a statement runs or is done
    Poll {
        handle: JobHandle,
        /// Ask until it is done
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Print a statement's rows, as they come
    Fetch {
        handle: JobHandle,
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
        #[command(flatten)]
        target: Target,
    },
    /// Stop a statement and forget its rows
    Cancel {
        handle: JobHandle,
        #[command(flatten)]
        target: Target,
    },
}

impl What {
    fn target(&self) -> &Target {
        match self {
            Self::Submit { target, .. }
            | Self::Poll { target, .. }
            | Self::Fetch { target, .. }
            | Self::Cancel { target, .. } => target,
        }
    }
}

pub async fn run(args: JobArgs) -> anyhow::Result<ExitCode> {
    let connection = args.what.target().connect().await?;
    let client = connection.client();
    match args.what {
        What::Submit { command, .. } => println!("{}", client.submit(&command).await?),
        What::Poll { handle, wait, .. } => {
            // The door lets each poll wait for the end.
            let rows = loop {
                match client.poll(&handle).await? {
                    None if wait => continue,
                    polled => break polled,
                }
            };
            match rows {
                Some(rows) => println!("done: {rows} rows"),
                None => println!("running"),
            }
        }
        What::Fetch { handle, format, .. } => {
            let answer = client.results(&handle).await?;
            let mut out = std::io::stdout();
            render::write(format, answer.schema, answer.batches, &mut out).await?;
            out.flush()?;
        }
        What::Cancel { handle, .. } => {
            if !client.cancel_job(&handle).await? {
                println!("no coordinator knows it");
                return Ok(ExitCode::FAILURE);
            }
            println!("cancelled");
        }
    }
    Ok(ExitCode::SUCCESS)
}
