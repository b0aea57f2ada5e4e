//! The command line. Each command is a file; all of them but `node`, `audit`, `demo` and `bench` are thin clients
//! of a door.

mod apply;
mod audit;
mod ca;
mod connect;
mod drop;
mod job;
mod key;
mod node;
mod policy;
mod principal;
mod register;
mod render;
mod snapshot;
mod sql;
mod status;
mod token;

pub(crate) use apply::declaring;
pub use connect::{Connection, Target};
pub use render::Format;
pub use sql::prompt;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use greylag_protocol::MeshError;

/// A federated query mesh: one binary, many nodes.
#[derive(Debug, Parser)]
#[command(name = "greylag", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node, or change the membership
    Node(node::NodeArgs),
    /// Run SQL, or open a prompt
    Sql(sql::SqlArgs),
    /// Run SQL in the background: submit, poll, fetch, cancel
    Job(job::JobArgs),
    /// Show nodes, roles and sources
    Status(status::StatusArgs),
    /// Declare sources, policies, tags, attributes, settings and quotas from files
    Apply(apply::ApplyArgs),
    /// Take away what was declared
    Drop(drop::DropArgs),
    /// See policies, try them on cases, and ask why somebody may or may not
    Policy(policy::PolicyArgs),
    /// Make, list and revoke API keys
    Key(key::KeyArgs),
    /// Prove, show and export audit folders; needs no mesh
    Audit(audit::AuditArgs),
    /// Read and change small values that the whole mesh agrees on
    Register(register::RegisterArgs),
    /// Save the control state to a file, or make a lost mesh anew from one
    Snapshot(snapshot::SnapshotArgs),
    /// Change the mesh's certificate authority
    Ca(ca::CaArgs),
    /// Make join tokens and bearer tokens
    Token(token::TokenArgs),
    /// Form a three-node mesh on generated data and prove that its answers are right
    Demo(crate::demo::DemoArgs),
    /// Measure this machine
    Bench(crate::bench::BenchArgs),
}

impl Cli {
    /// Log filter where the environment sets none: a node tells what it does, clients are quiet.
    pub fn default_log(&self) -> &'static str {
        match &self.command {
            Command::Node(args) if args.runs_a_node() => "info",
            _ => "error",
        }
    }

    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("greylag").build()?;
        let code = match self.command {
            Command::Node(args) => runtime.block_on(node::run(args)),
            Command::Sql(args) => runtime.block_on(sql::run(args)),
            Command::Job(args) => runtime.block_on(job::run(args)),
            Command::Status(args) => runtime.block_on(status::run(args)),
            Command::Apply(args) => runtime.block_on(apply::run(args)),
            Command::Drop(args) => runtime.block_on(drop::run(args)),
            Command::Policy(args) => runtime.block_on(policy::run(args)),
            Command::Key(args) => runtime.block_on(key::run(args)),
            Command::Audit(args) => audit::run(args),
            Command::Register(args) => runtime.block_on(register::run(args)),
            Command::Snapshot(args) => runtime.block_on(snapshot::run(args)),
            Command::Ca(args) => runtime.block_on(ca::run(args)),
            Command::Token(args) => runtime.block_on(token::run(args)),
            Command::Demo(args) => runtime.block_on(crate::demo::run(args)),
            Command::Bench(args) => runtime.block_on(crate::bench::run(args)),
        };
        // Blocking threads (a prompt waiting for input) must not keep the process.
        runtime.shutdown_background();
        code
    }
}

/// An error for people: code, message and, for ours, the hint.
pub fn describe(error: &anyhow::Error) -> String {
    match error.downcast_ref::<MeshError>() {
        Some(ours) => format!("{ours}\n  hint: {}", ours.code.hint()),
        None => format!("{error:#}"),
    }
}
