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

use std::process::ExitCode;

use clap::Parser;

/// Runs the command line of this process to its end.
pub fn run() -> ExitCode {
    // First of all: with two providers in the graph rustls must not have to choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let command = cli::Cli::parse();
    telemetry::start(command.default_log());
    match command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("greylag: {}", cli::describe(&error));
            ExitCode::FAILURE
        }
    }
}
