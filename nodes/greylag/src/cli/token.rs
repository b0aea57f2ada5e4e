//! `greylag token`: join tokens for nodes, bearer tokens for people and programs. A token is printed once and kept
//! nowhere.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use greylag_protocol::{
    state::{Allowed, AllowedRoles},
    statement::{AdminCall, AdminReply, JoinTokenInfo},
};

use super::{
    connect::Target,
    principal::{Named, Traits},
};

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
        /// What those nodes may be asked to do, several times for several: `coordinator`, `policy`, `edge`,
        /// `edge:SOURCE`, `voter`; everything if it is left out
        #[arg(long = "role")]
        roles: Vec<Allowed>,
        #[command(flatten)]
        target: Target,
    },
    /// Show the join tokens that there are, without their secrets
    List {
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
        /// Whom it names: `user:ada` or `ada`, `agent:planner`, `machine:backup`
        subject: Named,
        #[command(flatten)]
        traits: Traits,
        /// Seconds until it expires
        #[arg(long, default_value_t = 24 * 3600)]
        ttl: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub async fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let (target, call) = match args.command {
        TokenCommand::Create { uses, ttl, roles, target } => {
            let allowed = (!roles.is_empty()).then(|| roles.into_iter().collect());
            (target, AdminCall::CreateJoinToken { uses, ttl_secs: ttl, allowed })
        }
        TokenCommand::List { target } => (target, AdminCall::ListJoinTokens),
        TokenCommand::Revoke { id, target } => (target, AdminCall::RevokeJoinToken { id }),
        TokenCommand::Bearer { subject, traits, ttl, target } => {
            (target, AdminCall::IssueBearer { principal: traits.principal(subject), ttl_secs: ttl })
        }
    };
    match target.connect().await?.admin(&call).await? {
        AdminReply::Token { token } => println!("{token}"),
        AdminReply::Tokens(tokens) => list(&tokens),
        _ => println!("done"),
    }
    Ok(ExitCode::SUCCESS)
}

/// This machine's clock.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn list(tokens: &[JoinTokenInfo]) {
    let now = unix_ms();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["id", "uses left", "expires in", "roles"]);
    for token in tokens {
        let expires = match token.expires_unix_ms {
            u64::MAX => "never".to_owned(),
            at if at <= now => "expired".to_owned(),
            at => format!("{} s", (at - now) / 1000),
        };
        table.add_row([token.id.clone(), token.uses_left.to_string(), expires, names(&token.allowed)]);
    }
    println!("{table}");
}

fn names(allowed: &AllowedRoles) -> String {
    match allowed {
        None => "all".to_owned(),
        Some(roles) => roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
