//! Who may join and who may not, with real processes: tokens used twice, expired, wrong; a removed member. Each is refused
//! promptly, with its code. (Foreign certificates, and none, are the business of `cluster/tests/it/refusal.rs`.)

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use greylag_config::NodeConfig;
use greylag_node::demo::{Databases, DemoMesh, NodeProcess, first_integer, free_port};
use greylag_tests::{Stage, binary, greylag, stderr_of_failure, stdout_of};

/// A refusal is prompt.
const PROMPT: Duration = Duration::from_secs(20);

pub async fn mesh(dir: &Path) -> anyhow::Result<DemoMesh> {
    Ok(DemoMesh::start_of(dir, 3, &Databases::default(), &binary()).await?.0)
}

/// Configuration of a fourth node.
pub fn joiner(mesh: &DemoMesh, dir: &Path, name: &str, token: &str) -> anyhow::Result<NodeConfig> {
    Ok(NodeConfig {
        name: name.into(),
        mesh: "demo".into(),
        data_dir: dir.join(name),
        listen: ([127, 0, 0, 1], free_port()?).into(),
        seeds: mesh.processes.iter().map(|p| p.config.listen.to_string()).collect(),
        join_token: Some(token.to_owned()),
        flight: Some(([127, 0, 0, 1], free_port()?).into()),
        ..NodeConfig::default()
    })
}

/// Runs a node that must be refused, and returns what it said.
pub fn refused(config: NodeConfig) -> String {
    let process = NodeProcess::prepare(config, &binary()).unwrap();
    let file = process.config.data_dir.with_extension("toml");
    let started = Instant::now();
    let mut child = Command::new(binary())
        .args(["node", "--config", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PROMPT {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("not refused within {PROMPT:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    stderr_of_failure(&child.wait_with_output().unwrap())
}

fn token(mesh: &DemoMesh, ttl: &str) -> String {
    token_with(mesh, &["--uses", "1", "--ttl", ttl])
}

/// What `token create` prints.
pub fn token_with(mesh: &DemoMesh, arguments: &[&str]) -> String {
    at(mesh, &[&["token", "create"], arguments].concat()).trim().to_owned()
}

/// What a command that must succeed prints, at the first node's door.
pub fn at(mesh: &DemoMesh, arguments: &[&str]) -> String {
    let (door, bearer) = (mesh.door(0).unwrap(), mesh.token().unwrap());
    stdout_of(&greylag(&[arguments, &["--server", &door, "--token", &bearer]].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_admit_once_and_only_while_they_live() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut mesh = mesh(dir.path()).await?;
    let good = token(&mesh, "3600");
    let mut fourth = NodeProcess::prepare(joiner(&mesh, dir.path(), "fourth", &good)?, &binary())?;
    fourth.start()?;
    let joined = "SELECT 1 FROM system.nodes WHERE name = 'fourth' AND status = 'up' AND NOT voter";
    mesh.wait_rows(joined).await?;

    let again = refused(joiner(&mesh, dir.path(), "fifth", &good)?);
    assert!(again.contains("GL4006"), "{again}");
    let expired = token(&mesh, "1");
    let made = Instant::now();
    while made.elapsed() < Duration::from_millis(1500) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let late = refused(joiner(&mesh, dir.path(), "sixth", &expired)?);
    assert!(late.contains("GL4005"), "{late}");
    let mut wrong = good.clone();
    wrong.replace_range(wrong.len() - 4.., "0000");
    let forged = refused(joiner(&mesh, dir.path(), "seventh", &wrong)?);
    assert!(forged.contains("GL4004"), "{forged}");
    let count = mesh.connection(0).await?.query("SELECT count(*) FROM system.nodes").await?;
    assert_eq!(first_integer(&count), Some(4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_out_for_good() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut mesh = mesh(dir.path()).await?;
    let mut fourth = NodeProcess::prepare(joiner(&mesh, dir.path(), "fourth", &token(&mesh, "3600"))?, &binary())?;
    fourth.start()?;
    let id = "SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name = 'fourth' AND status = 'up'";
    let id = greylag_node::demo::texts(&mesh.wait_rows(id).await?, 0)?.remove(0);
    let (door, bearer) = (mesh.door(0)?, mesh.token()?);
    stdout_of(&greylag(&["node", "remove", &id, "--server", &door, "--token", &bearer]));
    let gone = "SELECT 1 FROM (SELECT count(*) AS n FROM system.nodes WHERE name = 'fourth') t WHERE n = 0";
    mesh.wait_rows(gone).await?;
    // Started again with its certificate, it is told so and ends.
    fourth.kill()?;
    let said = refused(fourth.config.clone());
    assert!(said.contains("GL4001"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_holds_nothing_and_may_be_taken_back() -> anyhow::Result<()> {
    let mut stage = Stage::set(&Databases::default()).await?;
    let (door, bearer) = (stage.mesh.door(0)?, stage.mesh.token()?);
    let name = stage.mesh.processes[1].config.name.clone();
    let id = format!("SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name = '{name}'");
    let id = greylag_node::demo::texts(&stage.mesh.wait_rows(&id).await?, 0)?.remove(0);
    let target = ["--server", door.as_str(), "--token", bearer.as_str()];
    let said = stdout_of(&greylag(&[["node", "drain", id.as_str()].as_slice(), &target].concat()));
    assert_eq!(said.trim(), format!("drained {id}"));
    let held = format!("SELECT count(*) FROM system.roles WHERE node = '{id}' AND held");
    let held = stage.mesh.connection(0).await?.query(&held).await?;
    assert_eq!(first_integer(&held), Some(0));
    // It can be stopped without anybody noticing.
    stage.mesh.processes[1].kill()?;
    let rows =
        stage.mesh.connection(0).await?.query("SELECT count(*) FROM lineitem JOIN nation ON n_nationkey = 1").await?;
    assert!(first_integer(&rows) > Some(0));
    stage.mesh.processes[1].start()?;
    stdout_of(&greylag(&[["node", "undrain", id.as_str()].as_slice(), &target].concat()));
    let back = format!("SELECT 1 FROM system.roles WHERE node = '{id}' AND held AND role = 'coordinator'");
    stage.mesh.wait_rows(&back).await?;
    Ok(())
}
