//! `greylag key`: API keys. A key is printed once, when it is made; the mesh keeps only the hash of its secret.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use greylag_protocol::{
    admin::KeyInfo,
    state::{Network, Scope},
    statement::{AdminCall, AdminReply},
};

use super::{
    connect::{Connection, Target},
    principal::{Named, Traits},
    token::unix_ms,
};

#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it, once
    Create {
        /// Whom it stands for: `user:ada`, `agent:planner`, `machine:backup`
        principal: Named,
        #[command(flatten)]
        traits: Traits,
        /// What it is good for: query, describe, manage, metrics; several times for several
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// Networks it may be used from, such as `10.0.0.0/8`; from anywhere if it is left out
        #[arg(long = "from")]
        networks: Vec<Network>,
        /// Seconds until it expires; never if it is left out
        #[arg(long)]
        ttl: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Show the keys that there are, without their secrets
    List {
        /// Those that have been revoked or have expired too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Make a key worthless, at once and for what runs by it
    Revoke {
        /// Its id: the second part of the key
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

pub async fn run(args: KeyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        KeyCommand::Create { principal, traits, scopes, networks, ttl, target } => {
            let principal = traits.principal(principal);
            let call = AdminCall::CreateKey { principal, scopes, networks, ttl_secs: ttl };
            match target.connect().await?.admin(&call).await? {
                AdminReply::Key { id, key } => {
                    println!("{key}");
                    eprintln!("key {id}: it is not shown again");
                }
                other => bail!("an unexpected answer: {other:?}"),
            }
        }
        KeyCommand::List { all, target } => list(&target.connect().await?, all).await?,
        KeyCommand::Revoke { id, target } => {
            target.connect().await?.admin(&AdminCall::RevokeKey { id }).await?;
            println!("revoked");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(connection: &Connection, all: bool) -> anyhow::Result<()> {
    let now = unix_ms();
    let is_good = |key: &KeyInfo| key.revoked_unix_ms.is_none() && key.expires_unix_ms.is_none_or(|at| at > now);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["id", "principal", "roles", "scopes", "from", "state", "last used"]);
    let mut after: Option<String> = None;
    loop {
        let AdminReply::Keys { keys, more } = connection.admin(&AdminCall::ListKeys { after: after.clone() }).await?
        else {
            bail!("an unexpected answer");
        };
        for key in keys.iter().filter(|key| all || is_good(key)) {
            table.add_row(row(key, now));
        }
        let last = keys.last().map(|key| key.id.clone());
        // A list that goes on has moved on.
        if !more || last.is_none() || last == after {
            break;
        }
        after = last;
    }
    println!("{table}");
    Ok(())
}

fn row(key: &KeyInfo, now: u64) -> [String; 7] {
    let state = match (key.revoked_unix_ms, key.expires_unix_ms) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(at)) if at <= now => "expired".to_owned(),
        (None, Some(at)) => format!("good for {} s", (at - now) / 1000),
        (None, None) => "good".to_owned(),
    };
    let scopes = key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
    let networks = key.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let used =
        key.last_used_unix_ms.map_or("never".to_owned(), |at| format!("{} s ago", now.saturating_sub(at) / 1000));
    let from = if networks.is_empty() { "anywhere".to_owned() } else { networks };
    [key.id.clone(), Named::show(&key.principal), key.principal.roles.join(", "), scopes, from, state, used]
}
