//! `greylag-simulate first-flight --seed N`: flies one scenario from one seed and prints its trace's hash. A failure
//! prints the command that reproduces it.

use std::process::ExitCode;

use greylag_simulations::{
    scenarios::first_flight,
    world::{entropy::Guard, rerun_in_a_fixed_place, trace},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seed = arguments.iter().skip_while(|a| *a != "--seed").nth(1).and_then(|s| s.parse::<u64>().ok());
    let (Some("first-flight"), Some(seed)) = (arguments.first().map(String::as_str), seed) else {
        eprintln!("usage: greylag-simulate first-flight --seed N [--trace]");
        return ExitCode::from(2);
    };
    if let Err(error) = rerun_in_a_fixed_place() {
        eprintln!("this system does not let a process choose its place in memory: {error}");
        return ExitCode::FAILURE;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _entropy = Guard::new(seed);
    let outcome = first_flight(seed);
    if arguments.iter().any(|a| a == "--trace") || outcome.is_err() {
        for note in trace::notes() {
            eprintln!("{note}");
        }
    }
    let summary = trace::summary();
    match outcome {
        Ok(flight) => {
            println!("{flight:?}");
            println!(
                "seed {seed}: trace {:016x} over {} events, {} bytes",
                summary.hash, summary.events, summary.bytes
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("seed {seed} FAILED: {error:#}");
            eprintln!("reproduce: cargo run --release -p greylag-simulations -- first-flight --seed {seed} --trace");
            ExitCode::FAILURE
        }
    }
}
