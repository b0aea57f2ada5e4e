//! `greylag demo --tour governance`: three nodes serve the clinic of `config/clinic`. Three principals run one query and get
//! three different right answers, a fourth is denied and told why; a policy is changed and holds on every node; the audit
//! shows the change with both epochs, and a byte that is flipped in it is found. Each step is one line of JSON on standard
//! output.
//!
//! What is expected is worked out here from the CSV file, row by row, without policies, filters or masks of the mesh.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use greylag_config::parse_resources;
use greylag_governance::policy::parse_policies;
use greylag_protocol::{
    MeshError, SourceName,
    admin::WhyRequest,
    principal::{Principal, PrincipalKind, attribute},
    state::SourceSpec,
    statement::{AdminCall, AdminReply, SessionOptions},
};
use serde::Serialize;

use super::{
    NODES, audit_trail,
    mesh::{DemoMesh, PATIENCE},
    report::Report,
    split::Databases,
};
use crate::cli::Connection;

const PATIENTS: &str = include_str!("../../../../config/clinic/data/patients.csv");
const VISITS: &str = include_str!("../../../../config/clinic/data/visits.csv");
const STAFF: &str = include_str!("../../../../config/clinic/data/staff.csv");
const POLICIES: &str = include_str!("../../../../config/clinic/policies.cedar");
const RESOURCES: &str = include_str!("../../../../config/clinic/governance.yaml");

/// The query that all of them run.
const QUERY: &str = "SELECT id, name, born, phone FROM clinic.main.patients ORDER BY id";
/// What CSV cannot say itself.
const TYPES: &str = "patients.id=bigint, patients.born=date, visits.id=bigint, visits.patient=bigint, visits.day=date";
/// A policy change must hold everywhere within this.
const CHANGE_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks at a node.
const LOOK: Duration = Duration::from_millis(5);
/// Life of the principals' tokens, seconds.
const TOKEN_SECS: u64 = 3_600;
/// The clinic's clock, minutes east of UTC: as in `governance.yaml`.
const CLINIC_OFFSET_MINUTES: u64 = 60;
const CHANGED: &str = "doctors-see-their-ward";

type Rows = Vec<Vec<String>>;

/// What came of one step.
#[derive(Debug, Default, Serialize)]
struct Step {
    step: &'static str,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_expected: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_got: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    everywhere_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
}

/// Runs all of it. Success only if everything held.
pub async fn run(dir: &Path, report: &mut Report) -> anyhow::Result<ExitCode> {
    report.step("starting three nodes");
    let none = Databases { postgres: None, mysql: None };
    let (mut mesh, formed) = DemoMesh::start(dir, &none).await?;
    report.detail(&format!("formed in {} ms", formed.as_millis()));
    declare(dir, &mut mesh).await?;
    report.done();

    let mut held = true;
    let mut tell = |step: &Step| -> anyhow::Result<()> {
        held &= step.held;
        println!("{}", serde_json::to_string(step)?);
        Ok(())
    };
    report.step("one query, three answers");
    for principal in [doctor(), analyst(), agent()] {
        tell(&answers(&mesh, &principal).await?)?;
    }
    report.done();
    report.step("a fourth is denied");
    tell(&denied(&mesh, &contractor()).await?)?;
    report.done();
    report.step("a policy is changed");
    let change = changed(&mesh).await?;
    tell(&change)?;
    report.done();
    report.step("the audit");
    let (before, after) = (change.epoch_before.unwrap_or_default(), change.epoch_after.unwrap_or_default());
    let folders = folders(&mesh);
    let shown = audit_trail::shows_change(&folders, CHANGED, (before, after), &doctor().id, PATIENCE).await;
    tell(&Step {
        step: "audit-shows-change",
        held: shown.is_ok(),
        reason: shown.as_ref().err().map(|error| format!("{error:#}")),
        policy: Some(CHANGED.into()),
        epoch_before: Some(before),
        epoch_after: Some(after),
        ..Step::default()
    })?;
    for process in &mut mesh.processes {
        process.kill()?;
    }
    let found = audit_trail::finds_tampering(&dir.join("audit-copies"), &folders);
    tell(&Step {
        step: "audit-verify",
        held: found.is_ok(),
        reason: found.as_ref().err().map(|error| format!("{error:#}")),
        found: found.ok(),
        ..Step::default()
    })?;
    report.done();
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn folders(mesh: &DemoMesh) -> Vec<PathBuf> {
    mesh.processes.iter().map(|process| process.config.data_dir.join("audit")).collect()
}

/// Writes the data, declares everything, and waits until each node knows the tables.
async fn declare(dir: &Path, mesh: &mut DemoMesh) -> anyhow::Result<()> {
    let data = dir.join("clinic");
    std::fs::create_dir_all(&data)?;
    for (name, text) in [("patients.csv", PATIENTS), ("visits.csv", VISITS), ("staff.csv", STAFF)] {
        std::fs::write(data.join(name), text)?;
    }
    let options = [("path", data.to_string_lossy().into_owned()), ("types", TYPES.to_owned())];
    let spec = SourceSpec {
        name: SourceName::new("clinic")?,
        kind: "files".into(),
        options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        labels: Default::default(),
        replicas: u32::try_from(NODES)?,
    };
    let connection = mesh.connection(0).await?;
    connection.admin(&AdminCall::ApplySource { spec, expect_version: None }).await?;
    let known = "SELECT 1 FROM system.tables WHERE source = 'clinic' AND name = 'patients' AND error IS NULL";
    for index in 0..NODES {
        mesh.wait_rows_at(index, known).await.context("the clinic's tables were not served")?;
    }
    let mut resources = parse_resources(RESOURCES, &|file| Err(MeshError::internal(format!("no file `{file}`"))))?;
    resources.sort_by_key(greylag_config::Resource::turn);
    for resource in resources {
        connection.admin(&crate::cli::declaring(resource)?).await?;
    }
    for policy in parse_policies(POLICIES)? {
        put(&connection, &policy.id, &policy.text).await?;
    }
    Ok(())
}

async fn put(connection: &Connection, id: &str, text: &str) -> anyhow::Result<()> {
    let call = AdminCall::PutPolicy { id: id.into(), text: text.into(), expect_version: None };
    match connection.admin(&call).await? {
        AdminReply::Applied { .. } => Ok(()),
        other => bail!("an unexpected answer: {other:?}"),
    }
}

fn principal(id: &str, kind: PrincipalKind, role: &str, attributes: &[(&str, &str)]) -> Principal {
    let attributes = attributes.iter().chain(&[(attribute::ORGANISATION, "clinic")]);
    Principal {
        id: id.into(),
        kind,
        roles: vec![role.into()],
        attributes: attributes.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

fn doctor() -> Principal {
    principal("berta", PrincipalKind::Person, "doctor", &[("ward", "north")])
}

fn analyst() -> Principal {
    principal("ines", PrincipalKind::Person, "analyst", &[])
}

fn agent() -> Principal {
    principal("scribe", PrincipalKind::Agent, "assistant", &[(attribute::ACTS_FOR, "berta")])
}

fn contractor() -> Principal {
    let mut principal = principal("rhea", PrincipalKind::Person, "doctor", &[("ward", "north")]);
    principal.join_group("contractor");
    principal
}

/// Connects to one node as somebody.
async fn as_somebody(mesh: &DemoMesh, index: usize, principal: &Principal) -> anyhow::Result<Connection> {
    let call = AdminCall::IssueBearer { principal: principal.clone(), ttl_secs: TOKEN_SECS };
    match mesh.connection(0).await?.admin(&call).await? {
        AdminReply::Token { token } => {
            Ok(Connection::with_options(&mesh.door(index)?, &token, SessionOptions::default()).await?)
        }
        other => bail!("an unexpected answer: {other:?}"),
    }
}

/// The rows that the principal is to see, from the file alone.
fn expected(principal: &Principal) -> Rows {
    let after_hours = after_hours();
    let mut rows = Rows::new();
    for line in PATIENTS.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [id, name, born, ward, doctor, phone, _] = cells[..] else { continue };
        let stars = |text: &str, shown: usize| {
            let hidden = text.chars().count() - shown;
            "*".repeat(hidden) + &text.chars().skip(hidden).collect::<String>()
        };
        let seen = match principal.id.as_str() {
            "berta" if ward == "north" => [id.into(), name.into(), born.into(), phone.into()],
            "ines" => [id.into(), stars(name, 0), format!("{}-01-01", &born[..4]), stars(phone, 2)],
            "scribe" if doctor == "berta" && after_hours => {
                [id.into(), "[after hours]".into(), born.into(), phone.into()]
            }
            "scribe" if doctor == "berta" => [id.into(), name.into(), born.into(), phone.into()],
            _ => continue,
        };
        rows.push(seen.to_vec());
    }
    rows
}

/// From 18 to 7, and at weekends, by the clinic's clock.
fn after_hours() -> bool {
    let minutes = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60);
    let local = minutes + CLINIC_OFFSET_MINUTES;
    // 1970 began on a Thursday; days from Monday.
    let (hour, weekday) = (local / 60 % 24, (local / (24 * 60) + 3) % 7);
    !(7..18).contains(&hour) || weekday >= 5
}

fn texts(batches: &[RecordBatch]) -> anyhow::Result<Rows> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Rows::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row).to_string()).collect()));
    }
    Ok(rows)
}

/// The query as somebody, on every node.
async fn answers(mesh: &DemoMesh, principal: &Principal) -> anyhow::Result<Step> {
    let mut step = Step { step: "answer", held: true, principal: Some(principal.id.clone()), ..Step::default() };
    for index in 0..NODES {
        let connection = as_somebody(mesh, index, principal).await?;
        loop {
            let before = expected(principal);
            let got = texts(&connection.query(QUERY).await?)?;
            // The hour has struck meanwhile: ask again.
            if before != expected(principal) {
                continue;
            }
            step.held &= got == before;
            step.rows_expected = Some(before.len());
            step.rows_got = Some(got.len());
            break;
        }
    }
    Ok(step)
}

/// The code, the reason and the policy's id.
async fn denied(mesh: &DemoMesh, principal: &Principal) -> anyhow::Result<Step> {
    let mut step = Step { step: "denied", principal: Some(principal.id.clone()), ..Step::default() };
    let policy = "contractors-see-no-patients";
    match as_somebody(mesh, 1, principal).await?.query(QUERY).await {
        Ok(batches) => step.rows_got = Some(texts(&batches)?.len()),
        Err(error) => {
            step.held = error.code == greylag_protocol::ErrorCode::Denied && error.message.contains(policy);
            step.code = Some(error.code.to_string());
            step.policy = error.message.contains(policy).then(|| policy.to_owned());
            step.reason = Some(error.message);
        }
    }
    Ok(step)
}

/// Doctors see only patients that were born before 1980 from now on: every node must say so within a second, and no node
/// anything else but the former or the new answer.
async fn changed(mesh: &DemoMesh) -> anyhow::Result<Step> {
    let principal = doctor();
    let before_rows = expected(&principal);
    let after_rows: Rows = before_rows.iter().filter(|row| row[2].as_str() < "1980").cloned().collect();
    let policy = parse_policies(POLICIES)?.into_iter().find(|policy| policy.id == CHANGED).context("no such policy")?;
    let narrower = policy.text.replace(
        "resource.ward == principal.ward",
        "resource.ward == principal.ward && resource has born && resource.born < datetime(\"1980-01-01\")",
    );
    anyhow::ensure!(narrower != policy.text, "the policy `{CHANGED}` reads otherwise than this tour expects");
    let mut connections = Vec::new();
    for index in 0..NODES {
        connections.push(as_somebody(mesh, index, &principal).await?);
    }
    let admin = mesh.connection(0).await?;
    let epoch_before = epoch(&admin, &principal).await?;
    put(&admin, CHANGED, &narrower).await?;
    let changed_at = Instant::now();
    let looks = connections.iter().map(|connection| until(connection, &before_rows, &after_rows, changed_at));
    let mut slowest = Duration::ZERO;
    for look in futures::future::join_all(looks).await {
        slowest = slowest.max(look?);
    }
    let epoch_after = epoch(&admin, &principal).await?;
    Ok(Step {
        step: "policy-change",
        held: slowest <= CHANGE_MAX && epoch_after > epoch_before && after_rows.len() < before_rows.len(),
        policy: Some(CHANGED.into()),
        rows_expected: Some(after_rows.len()),
        epoch_before: Some(epoch_before),
        epoch_after: Some(epoch_after),
        everywhere_ms: Some(slowest.as_millis().try_into()?),
        ..Step::default()
    })
}

/// How long after the change a node gave the new answer.
async fn until(connection: &Connection, before: &Rows, after: &Rows, changed_at: Instant) -> anyhow::Result<Duration> {
    loop {
        let got = texts(&connection.query(QUERY).await?)?;
        if got == *after {
            return Ok(changed_at.elapsed());
        }
        anyhow::ensure!(got == *before, "a node gave neither the former nor the new answer: {got:?}");
        anyhow::ensure!(changed_at.elapsed() < PATIENCE, "a node never took the change");
        tokio::time::sleep(LOOK).await;
    }
}

/// At which the mesh would decide the query now.
async fn epoch(admin: &Connection, principal: &Principal) -> anyhow::Result<u64> {
    let request =
        WhyRequest { principal: principal.clone(), sql: QUERY.into(), origin: "flight".into(), at_unix_ms: None };
    match admin.admin(&AdminCall::Why(Box::new(request))).await? {
        AdminReply::Why(explanation) => Ok(explanation.epoch.0),
        other => bail!("an unexpected answer: {other:?}"),
    }
}
