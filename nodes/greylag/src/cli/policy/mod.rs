//! `greylag policy`: see policies, try them on cases without a mesh, and ask a mesh why somebody may or may not.

mod test;
mod why;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use greylag_protocol::{
    admin::{ResourceContent, ResourceId},
    statement::{AdminCall, AdminReply},
};

use super::{
    connect::Target,
    render::{self, Format},
};

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Show which policies there are
    List {
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
        #[command(flatten)]
        target: Target,
    },
    /// Print a policy's text
    Show {
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Take a policy away
    Drop {
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Try policies on the cases of a file; exit code 1 if one fails. Needs no mesh
    Test(test::TestArgs),
    /// Say what would come of somebody's statement, and which policies say so. Nothing is run
    Why(Box<why::WhyArgs>),
}

/// What a list shows: the text has lines of its own and is left to `show`.
const LISTED: &str =
    "SELECT id, version, effect, mode, mask, tables, changed_by, changed, problem FROM system.policies ORDER BY id";

pub async fn run(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        PolicyCommand::List { format, target } => {
            let connection = target.connect().await?;
            let (schema, batches) = connection.stream(LISTED).await?;
            render::write(format, schema, batches, &mut std::io::stdout()).await?;
        }
        PolicyCommand::Show { id, target } => {
            let of = ResourceId::Policy(id.clone());
            match target.connect().await?.admin(&AdminCall::ShowResource { of }).await? {
                AdminReply::Resource(Some(ResourceContent::Policy(text))) => println!("{text}"),
                AdminReply::Resource(None) => bail!("no policy is called `{id}`"),
                other => bail!("an unexpected answer: {other:?}"),
            }
        }
        PolicyCommand::Drop { id, target } => {
            target.connect().await?.admin(&AdminCall::DropPolicy { id }).await?;
            println!("dropped");
        }
        PolicyCommand::Test(args) => return test::run(&args),
        PolicyCommand::Why(args) => why::run(*args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
