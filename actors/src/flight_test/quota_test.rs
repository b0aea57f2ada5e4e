//! What was spent and used, as statements on any node see it.

use arrow::datatypes::UInt64Type;
use greylag_governance::quota::{CREDIT, CostModel, Usage};
use greylag_protocol::state::{Command, Period, QuotaCommand, QuotaKey};

use super::*;

fn cells(batches: &[RecordBatch], text: &str, number: &str) -> Vec<(Option<String>, Option<u64>)> {
    let rows = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
    let cell = |(batch, row): (&RecordBatch, usize)| {
        let (texts, numbers) = (batch.column_by_name(text).unwrap(), batch.column_by_name(number).unwrap());
        let (texts, numbers) = (texts.as_string::<i32>(), numbers.as_primitive::<UInt64Type>());
        let text = texts.is_valid(row).then(|| texts.value(row).to_owned());
        (text, numbers.is_valid(row).then(|| numbers.value(row)))
    };
    rows.map(cell).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn use_on_all_nodes_and_what_is_left_of_the_quotas_is_shown() {
    let world = World::start(2, 10, Limits::default()).await;
    let key = QuotaKey { organisation: "clinic".into(), agent: None, period: Period::Month };
    let ctx = world.node(0).ctx();
    let now_unix_ms = ctx.seams.clock.unix_ms();
    let limit = QuotaCommand::SetLimit { key: key.clone(), limit: Some(100 * CREDIT), now_unix_ms };
    ctx.mesh.propose(Command::Quota(limit)).await.unwrap();
    let mut charges = Vec::new();
    for (which, agent, used) in [(0, "a", 2 * CREDIT), (1, "b", 3 * CREDIT), (1, "", CREDIT)] {
        let attributes = [("organisation", "clinic"), ("agent_id", agent)];
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let principal = Principal { id: "ada".into(), kind: PrincipalKind::Agent, roles: Vec::new(), attributes };
        let ctx = world.node(which).ctx();
        until("it knows of the quota", || !ctx.mesh.state().governance.quotas.quotas.is_empty()).await;
        let usage = Usage { statements: 1, rows_returned: used, ..Usage::default() };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut charge = ctx.quota.reserve(&principal, &usage, deadline).await.unwrap();
        charge.charge(&usage).await.unwrap();
        charges.push(charge);
    }
    let all = world.rows(&anybody(), "system usage").await.unwrap();
    let mut used = cells(&all, "agent", "rows_returned");
    used.retain(|(_, rows)| *rows > Some(0));
    used.sort();
    let of = |agent: &str| (!agent.is_empty()).then(|| agent.to_owned());
    assert_eq!(used, [("", CREDIT), ("a", 2 * CREDIT), ("b", 3 * CREDIT)].map(|(agent, n)| (of(agent), Some(n))));
    let coordinators: std::collections::BTreeSet<_> =
        cells(&all, "coordinator", "statements").into_iter().map(|c| c.0).collect();
    assert_eq!(coordinators.len(), 2, "{coordinators:?}");
    let quotas = world.rows(&anybody(), "system quotas").await.unwrap();
    assert_eq!(cells(&quotas, "organisation", "limit_microcredits"), [(Some("clinic".into()), Some(100 * CREDIT))]);
    let leased = cells(&quotas, "agent", "leased_microcredits")[0].1.unwrap();
    assert!((6 * CREDIT..=100 * CREDIT).contains(&leased), "{leased}");
    drop(charges);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_quota_cannot_pay_do_not_leave() {
    const ROWS: u64 = 100_000;
    let world = World::with_edges(1, ROWS, Limits::default()).await;
    let ctx = world.node(0).ctx();
    let key = QuotaKey { organisation: "clinic".into(), agent: None, period: Period::Month };
    let model = CostModel(ctx.mesh.state().governance.settings.value.prices);
    // Its estimate fits, and all of it does not.
    let all = model.cost(&Usage { statements: 1, rows_returned: ROWS, rows_scanned: ROWS, ..Usage::default() });
    let now_unix_ms = ctx.seams.clock.unix_ms();
    let limit = QuotaCommand::SetLimit { key, limit: Some(all / 2), now_unix_ms };
    ctx.mesh.propose(Command::Quota(limit)).await.unwrap();
    until("it knows of the quota", || !ctx.mesh.state().governance.quotas.quotas.is_empty()).await;
    let mut session = anybody();
    session.principal.attributes.insert("organisation".into(), "clinic".into());
    let mut running = world.run(&session, "stream a").await.unwrap();
    let mut left = 0;
    let error = loop {
        match tokio::time::timeout(PATIENCE, running.batches.next()).await.expect("the rows hang") {
            Some(Ok(batch)) => left += batch.num_rows() as u64,
            Some(Err(error)) => break error,
            None => panic!("{left} rows have left, and all of them cost {all}"),
        }
    };
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
    let paid = model.cost(&Usage { statements: 1, rows_returned: left, rows_scanned: left, ..Usage::default() });
    assert!(left > 0 && paid <= all / 2, "{left} rows have left");
    drop(running);
    world.stop().await;
}
