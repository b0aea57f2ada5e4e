//! A restart of every node in turn, as an operator does it: drain, stop, start, take back, next.

use std::time::{Duration, Instant};

use anyhow::Context;
use greylag_node::demo::texts;
use greylag_protocol::{
    NodeId,
    statement::{AdminCall, AdminReply},
};

use crate::{
    node::until,
    report::say,
    schedule::NODES,
    stage::{Stage, everybody, placed_roles},
};

/// Longest wait for one step with one node.
const STEP_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

pub async fn restart_each(stage: &Stage) -> anyhow::Result<()> {
    for index in 0..NODES {
        let began = Instant::now();
        let name = Stage::name(index);
        let other = (index + 1) % NODES;
        let sql = format!("SELECT CAST(id AS VARCHAR) FROM system.nodes WHERE name = '{name}'");
        let id = texts(&stage.wait_rows(other, &sql, STEP_MAX).await?, 0)?.remove(0);
        let node = NodeId(id.trim_start_matches('n').parse().context("no node id")?);
        admin(stage, other, &AdminCall::DrainNode { node }).await?;
        let held = format!(
            "SELECT 1 FROM (SELECT count(*) AS n FROM system.roles WHERE node = '{id}' AND held) t WHERE n = 0"
        );
        stage.wait_rows(other, &held, STEP_MAX).await.with_context(|| format!("{name} does not drain"))?;
        let drained = began.elapsed();
        stage.node(index).terminate()?;
        let gone = until(STEP_MAX, || stage.node(index).gone()).await?;
        anyhow::ensure!(gone, "{name} does not end after SIGTERM");
        let ended = began.elapsed() - drained;
        stage.node(index).start(&stage.network)?;
        let up = format!("SELECT 1 FROM system.nodes WHERE name = '{name}' AND status IN ('up', 'draining')");
        // Who drains answers no statements: another is asked.
        stage.wait_rows(other, &up, STEP_MAX).await.with_context(|| format!("{name} is not back"))?;
        admin(stage, other, &AdminCall::UndrainNode { node }).await?;
        for place in [index, other] {
            stage.wait_rows(place, &everybody(), STEP_MAX).await?;
            stage.wait_rows(place, &placed_roles(), STEP_MAX).await?;
        }
        say(&format!(
            "  {name}: drained in {} ms, ended in {} ms, back after {} ms in all",
            drained.as_millis(),
            ended.as_millis(),
            began.elapsed().as_millis()
        ));
    }
    Ok(())
}

/// A change of the mesh, which may have to wait for a leader.
async fn admin(stage: &Stage, door: usize, call: &AdminCall) -> anyhow::Result<AdminReply> {
    let began = Instant::now();
    loop {
        let said = match stage.roaming(door).await {
            Ok(connection) => connection.admin(call).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match said {
            Ok(reply) => return Ok(reply),
            Err(error) if began.elapsed() > STEP_MAX => return Err(error).with_context(|| format!("{call:?}")),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
