//! What governance costs a small query. Three meshes of one node answer the same key look-ups in turn: one with the founding
//! policies and no audit, asked by its administrator; two with a row filter, a mask and a quota, asked by somebody whom all
//! of that is about, one of them with the audit as it is by default and one with a strict audit, which waits for the disk.
//! Beside the clients' latencies stands what the statements' own clocks say of the steps that are not planning or execution.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::{array::AsArray, datatypes::UInt64Type};
use clap::Args;
use greylag_config::AuditMode;
use greylag_protocol::{
    principal::{Principal, PrincipalKind, attribute},
    state::{Period, QuotaKey},
    statement::{AdminCall, AdminReply, SessionOptions},
};
use serde::Serialize;

use super::smoke::{Percentiles, generate, percentiles};
use crate::{
    cli::Connection,
    demo::{DemoMesh, NodeProcess, configurations},
};

#[derive(Debug, Args)]
pub struct GovernanceArgs {
    /// Look-ups measured at each node, after as many unmeasured ones
    #[arg(long, default_value_t = 1_000)]
    lookups: usize,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct Figures {
    lookups: usize,
    plain: Side,
    governed: Side,
    strict: Side,
    /// Median latency of the governed look-up less that of the plain one.
    governed_difference_p50: i128,
    strict_difference_p50: i128,
}

#[derive(Debug, Serialize)]
struct Side {
    latency: Percentiles,
    /// All steps but planning and execution, by the statements' own clocks.
    steps: Percentiles,
    /// Of those, the decision.
    decision: Percentiles,
}

/// Statements that a node remembers after they have ended: their times are read before that many more have come.
const REMEMBERED: usize = 90;
const SCALE: f64 = 0.01;
const STEPS: &str = "admission_us + tables_us + decision_us + cost_us + quota_us + row_filters_us + dialect_us + \
                     snapshot_us + healing_us + masks_us + metering_us + audit_us";
const POLICIES: [(&str, &str); 2] = [
    (
        "analysts-see-accounts",
        r#"@tables("shop.main.account") permit (principal in Role::"analyst", action == Action::"select", resource is Row) when { resource has c_custkey && resource.c_custkey < 1000000 };"#,
    ),
    (
        "names-are-masked",
        r#"@tables("shop.main.account") @mask("partial:4*2") forbid (principal in Role::"analyst", action == Action::"select", resource == Column::"shop.main.account.c_name");"#,
    ),
];

pub async fn run(args: GovernanceArgs) -> anyhow::Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    eprintln!("generating TPC-H at scale {SCALE}");
    let placed = generate(dir.path(), SCALE)?;
    eprintln!("starting three nodes, each for itself");
    let audits = [AuditMode::Off, AuditMode::Relaxed, AuditMode::Strict];
    let (mut meshes, mut clients, mut watchers) = (Vec::new(), Vec::new(), Vec::new());
    for audit in audits {
        let mut mesh = node(&dir.path().join(audit.as_str()), audit).await?;
        mesh.apply(&placed).await?;
        watchers.push(mesh.connection(0).await?);
        clients.push(if audit == AuditMode::Off { mesh.connection(0).await? } else { analyst(&mesh).await? });
        meshes.push(mesh);
    }
    let mut sides = audits.map(|_| Measured::default());
    for round in 0..args.lookups * 2 {
        if round % 100 == 0 {
            eprintln!("look-up {round} of {}", args.lookups * 2);
        }
        let sql = format!("SELECT c_name, c_acctbal FROM account WHERE c_custkey = {}", round % 1_000 + 1);
        // Each begins as often.
        for turn in 0..sides.len() {
            let at = (round + turn) % sides.len();
            let started = Instant::now();
            let got = clients[at].query(&sql).await?;
            let took = started.elapsed();
            anyhow::ensure!(got.iter().map(|b| b.num_rows()).sum::<usize>() == 1, "a look-up found no row");
            if round >= args.lookups {
                sides[at].latency.push(took);
            }
        }
        if round >= args.lookups && round % REMEMBERED == 0 {
            for (side, watcher) in sides.iter_mut().zip(&watchers) {
                side.read_steps(watcher).await?;
            }
        }
    }
    let [plain, governed, strict] = sides.map(Measured::side);
    let figures = Figures {
        lookups: args.lookups,
        governed_difference_p50: governed.1 as i128 - plain.1 as i128,
        strict_difference_p50: strict.1 as i128 - plain.1 as i128,
        plain: plain.0,
        governed: governed.0,
        strict: strict.0,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Measured {
    latency: Vec<Duration>,
    steps: Vec<Duration>,
    decision: Vec<Duration>,
}

impl Measured {
    /// Times of the statements that are remembered.
    async fn read_steps(&mut self, connection: &Connection) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT {STEPS} AS steps, decision_us FROM system.queries \
             WHERE state = 'done' AND rows = 1 AND sql LIKE 'SELECT c_name%' LIMIT {REMEMBERED}"
        );
        for batch in connection.query(&sql).await? {
            for (column, times) in [&mut self.steps, &mut self.decision].into_iter().enumerate() {
                let values =
                    batch.column(column).as_primitive_opt::<UInt64Type>().context("times are whole numbers")?;
                times.extend(values.values().iter().map(|us| Duration::from_micros(*us)));
            }
        }
        Ok(())
    }

    /// With the median latency in microseconds.
    fn side(mut self) -> (Side, u128) {
        self.latency.sort();
        let median = self.latency.get(self.latency.len() / 2).map_or(0, Duration::as_micros);
        let Self { latency, steps, decision } = self;
        let side = Side { latency: percentiles(latency), steps: percentiles(steps), decision: percentiles(decision) };
        (side, median)
    }
}

async fn node(dir: &Path, audit: AuditMode) -> anyhow::Result<DemoMesh> {
    let mut processes = Vec::new();
    for mut config in configurations(dir, 1, "gl1.-.bench.00000000000000000000000000000000")? {
        config.audit.mode = audit;
        processes.push(NodeProcess::prepare(config, &std::env::current_exe()?)?);
    }
    for process in &mut processes {
        process.start()?;
    }
    let mut mesh = DemoMesh { processes };
    mesh.wait_up(1).await?;
    Ok(mesh)
}

/// Somebody whom the policies and a quota are about.
async fn analyst(mesh: &DemoMesh) -> anyhow::Result<Connection> {
    let admin = mesh.connection(0).await?;
    for (id, text) in POLICIES {
        admin.admin(&AdminCall::PutPolicy { id: id.into(), text: text.into(), expect_version: None }).await?;
    }
    let key = QuotaKey { organisation: "bench".into(), agent: None, period: Period::Month };
    admin.admin(&AdminCall::SetQuota { key, limit: Some(u64::MAX / 4) }).await?;
    let principal = Principal {
        id: "ines".into(),
        kind: PrincipalKind::Person,
        roles: vec!["analyst".into()],
        attributes: [(attribute::ORGANISATION.to_owned(), "bench".to_owned())].into(),
    };
    let AdminReply::Token { token } = admin.admin(&AdminCall::IssueBearer { principal, ttl_secs: 3_600 }).await? else {
        anyhow::bail!("no token came back");
    };
    Ok(Connection::with_options(&mesh.door(0)?, &token, SessionOptions::default()).await?)
}
