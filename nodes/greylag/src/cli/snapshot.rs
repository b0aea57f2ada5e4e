//! `greylag snapshot`: the whole control state in a file, and a lost mesh made anew from it.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use greylag_cluster::state::Archive;
use greylag_protocol::statement::{AdminCall, AdminReply};

use super::connect::{Connection, Target};

/// Tries to get all pieces of one snapshot while the state changes.
const TRIES_MAX: u32 = 10;

#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Save sources, roles wanted, tokens, registers and membership. The file holds the mesh's private keys and the
    /// secrets of join tokens: it is made for its owner alone (mode 0600), and whoever reads it owns the mesh. Data of
    /// sources is not in it
    Save {
        /// Must not exist yet
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Make a whole lost mesh anew from a saved file: prepares an empty data directory, on which a node is started then.
    /// It begins as a mesh of one under the same name and keys; the nodes of before have to join again
    Restore {
        file: PathBuf,
        /// Must be empty, or not exist yet
        #[arg(long)]
        data_dir: PathBuf,
    },
}

pub async fn run(args: SnapshotArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        SnapshotCommand::Save { file, target } => save(&file, &target.connect().await?).await?,
        SnapshotCommand::Restore { file, data_dir } => {
            let bytes = std::fs::read(&file).with_context(|| format!("`{}`", file.display()))?;
            let restored = greylag_cluster::restore(&data_dir, &Archive::unpack(&bytes)?).await?;
            println!(
                "mesh `{}` with {} sources is ready to begin as {}",
                restored.mesh, restored.sources, restored.node
            );
            println!("start its node: `greylag node --config FILE --data-dir {}`", data_dir.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn save(file: &Path, connection: &Connection) -> anyhow::Result<()> {
    // Before anything secret is fetched.
    let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(file);
    let out = out.as_mut().map_err(|error| anyhow::anyhow!("`{}`: {error}", file.display()))?;
    let bytes = match fetch(connection).await {
        Ok(bytes) => bytes,
        Err(error) => {
            // An empty file would look like a snapshot.
            let _ = std::fs::remove_file(file);
            return Err(error);
        }
    };
    let archive = Archive::unpack(&bytes)?;
    out.write_all(&bytes)?;
    out.sync_all()?;
    let state = &archive.state;
    println!("saved epoch {}: {} sources, {} members", state.epoch, state.sources.len(), state.members.len());
    Ok(())
}

/// All pieces of one snapshot; from the beginning again if the state has changed in between.
async fn fetch(connection: &Connection) -> anyhow::Result<Vec<u8>> {
    for _ in 0..TRIES_MAX {
        let (mut all, mut known) = (Vec::new(), None);
        loop {
            let reply = connection.admin(&AdminCall::SaveSnapshot { from: all.len() as u64 }).await?;
            let AdminReply::Snapshot { hex, bytes, digest } = reply else { bail!("an unexpected answer") };
            if known.get_or_insert_with(|| digest.clone()) != &digest {
                break;
            }
            let piece = unhex(&hex).context("a piece of the snapshot cannot be read")?;
            let ends = piece.is_empty();
            all.extend(piece);
            if all.len() as u64 >= bytes {
                return Ok(all);
            }
            if ends {
                bail!("the snapshot has ended early");
            }
        }
    }
    bail!("the state changes faster than it can be read: try again")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(pair).collect() } else { None }
}
