//! `greylag policy test CASES`: what a file of cases is, is said in `cases::document`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::cases;

#[derive(Debug, Args)]
pub struct TestArgs {
    /// YAML file that names policies, tables, principals and cases
    file: PathBuf,
    /// Only cases whose name has this in it
    #[arg(long)]
    only: Option<String>,
}

pub fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let mut outcomes = cases::run(&args.file)?;
    if let Some(part) = &args.only {
        outcomes.retain(|outcome| outcome.name.contains(part.as_str()));
        anyhow::ensure!(!outcomes.is_empty(), "no case has `{part}` in its name");
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["case", "result", "decided by"]);
    let mut failed = 0;
    for outcome in &outcomes {
        let passed = outcome.differences.is_empty();
        failed += usize::from(!passed);
        let result = if passed { "passed" } else { "FAILED" };
        table.add_row([outcome.name.as_str(), result, &outcome.policies.join("\n")]);
    }
    println!("{table}");
    for outcome in outcomes.iter().filter(|outcome| !outcome.differences.is_empty()) {
        println!("\n{}", outcome.name);
        outcome.differences.iter().for_each(|line| println!("  {line}"));
    }
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
