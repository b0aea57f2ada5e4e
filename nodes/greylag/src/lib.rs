//! Assembly of a node from its parts, the command line, the demo and the benchmarks. Everything that decides lives
//! below; here parts are put together and shown to people.
//!
//! It is a library so that `tests` can use the demo's data and processes; nothing else may depend on it.

pub mod assembly;
pub mod bench;
pub mod cases;
pub mod cli;
pub mod demo;
mod figures;
mod identity;
mod telemetry;
pub mod tpch;

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
};

use clap::Parser;
use greylag_protocol::MeshError;

/// Exit code of a command whose reader has gone: what a shell says of a process that SIGPIPE has ended.
const READER_GONE: u8 = 128 + 13;
/// What the standard library's `println!` panics with then.
const PRINTED_TO_NOBODY: &str = "failed printing to stdout: Broken pipe";
const BROKEN_PIPE: &str = "Broken pipe (os error 32)";

/// Runs the command line of this process to its end.
pub fn run() -> ExitCode {
    // First of all: with two providers in the graph rustls must not have to choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let command = cli::Cli::parse();
    telemetry::start(command.default_log());
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        if !is_printed_to_nobody(what.payload()) {
            tell(what);
        }
    }));
    // Whatever the command holds, processes of a demo among it, is given back on the way.
    match panic::catch_unwind(AssertUnwindSafe(|| command.run())) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) if is_reader_gone(&error) => ExitCode::from(READER_GONE),
        Ok(Err(error)) => {
            eprintln!("greylag: {}", cli::describe(&error));
            ExitCode::FAILURE
        }
        Err(payload) if is_printed_to_nobody(&*payload) => ExitCode::from(READER_GONE),
        Err(payload) => panic::resume_unwind(payload),
    }
}

fn is_printed_to_nobody(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<String>().is_some_and(|text| text.starts_with(PRINTED_TO_NOBODY))
}

/// Of our own output: what goes wrong with a peer's connection is a `MeshError`. Writers of formats keep only the words.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    !error.is::<MeshError>() && format!("{error:#}").contains(BROKEN_PIPE)
}
