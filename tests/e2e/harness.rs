//! What the end-to-end tests stand on: the built binary, a mesh of real processes, commands run as a person would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use greylag_node::demo::{Databases, DemoMesh, Placed, generate, split};
use tempfile::TempDir;

/// Scale of the data in tests.
pub const SCALE: f64 = 0.01;

/// The `greylag` that this build made.
pub fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let binary = here.parent().and_then(Path::parent).unwrap().join("greylag");
    assert!(binary.is_file(), "{} is not built: cargo build --release -p greylag", binary.display());
    binary
}

/// A mesh with the demo's data, in a folder that goes when it goes.
pub struct Stage {
    pub mesh: DemoMesh,
    pub placed: Vec<Placed>,
    pub dir: TempDir,
}

impl Stage {
    pub async fn set(databases: &Databases) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let placed = split(dir.path(), databases)?;
        generate(dir.path(), &placed, databases, SCALE, |_, _| {}).await?;
        let (mut mesh, _) = DemoMesh::start_of(dir.path(), 3, databases, &binary()).await?;
        mesh.apply(&placed).await?;
        Ok(Self { mesh, placed, dir })
    }
}

/// Runs `greylag` with these arguments and returns what it printed, whatever its exit code.
pub fn greylag(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

/// Standard output of a command that must succeed.
pub fn stdout_of(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "exit {:?}\n{out}\n{err}", output.status.code());
    out.into_owned()
}

/// What a command that must fail said on standard error.
pub fn stderr_of_failure(output: &Output) -> String {
    assert!(!output.status.success(), "should have failed: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}
