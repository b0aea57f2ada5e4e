//! `greylag token`: join tokens for nodes, bearer tokens for people and programs. A token is printed once and kept
//! nowhere.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use greylag_protocol::statement::{AdminCall, AdminReply};

use super::connect::Target;

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// A token with which nodes join the mesh
    Create {
        /// Nodes that may join with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Seconds until it expires
        #[arg(long, default_value_t = 3600)]
        ttl: u64,
        #[command(flatten)]
        target: Target,
    },
    /// Make a join token worthless
    Revoke {
        /// Its id: the third part of the token
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// A token with which somebody runs statements
    Bearer {
        /// Name that policy and logs know them by
        subject: String,
        /// Roles, such as `admin`
        #[arg(long = "role")]
        roles: Vec<String>,
        /// Seconds until it expires
        #[arg(long, default_value_t = 24 * 3600)]
        ttl: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub async fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let (target, call) = match args.command {
        TokenCommand::Create { uses, ttl, target } => (target, AdminCall::CreateJoinToken { uses, ttl_secs: ttl }),
        TokenCommand::Revoke { id, target } => (target, AdminCall::RevokeJoinToken { id }),
        TokenCommand::Bearer { subject, roles, ttl, target } => {
            (target, AdminCall::IssueBearer { subject, roles, ttl_secs: ttl })
        }
    };
    match target.connect().await?.admin(&call).await? {
        AdminReply::Token { token } => println!("{token}"),
        _ => println!("done"),
    }
    Ok(ExitCode::SUCCESS)
}
