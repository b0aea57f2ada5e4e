//! Policies tried on cases, without a mesh: who asks what of which tables at what time, and what is to come of it. A file
//! of them is read and judged here and shown by `greylag policy test`.
//!
//! INVARIANT: policies are read, checked and asked by the same code as in a policy actor.

mod document;
mod judge;
mod setup;
mod value;

#[cfg(test)]
mod cases_test;

use std::path::Path;

use anyhow::Context;

pub use judge::Outcome;
pub use value::instant;

/// Judges all cases of a file.
pub fn run(file: &Path) -> anyhow::Result<Vec<Outcome>> {
    let setup = setup::load(file)?;
    let judged = setup.cases.iter().map(|case| {
        judge::judge(&setup, case).with_context(|| format!("case `{}` in `{}`", case.name, file.display()))
    });
    judged.collect()
}
