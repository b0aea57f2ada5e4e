//! What of a statement is in the audit, and when.

use greylag_governance::audit::{AuditRecord, Ills, Outcome};

use super::*;

async fn one_node(audit: AuditMode) -> World {
    let world = World::start_with(1, 1_000, Setup { audit, ..Setup::default() }).await;
    world.apply("a", 1).await;
    world
}

/// What was recorded of statements, in the order of the chain.
fn recorded(world: &World) -> Vec<AuditRecord> {
    let recent = world.node(0).ctx().audit.recent();
    recent.iter().map(|recorded| (*recorded.record).clone()).filter(|record| record.facts().is_some()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_no_row_leaves_before_a_record_of_it_is_durable() {
    let world = one_node(AuditMode::Strict).await;
    let mut running = world.run(&anybody(), "stream a").await.unwrap();
    let first = running.batches.next().await.unwrap().unwrap();
    assert!(first.num_rows() > 0);
    let began = recorded(&world);
    assert!(matches!(&began[..], [AuditRecord::Began(_)]), "{began:?}");
    read(running).await.unwrap();
    until("its end is recorded", || recorded(&world).len() == 2).await;
    let [AuditRecord::Began(began), AuditRecord::Statement(ended)] = &recorded(&world)[..] else {
        panic!("other records")
    };
    assert_eq!(began.facts, ended.facts);
    assert_eq!((ended.outcome, ended.rows), (Outcome::Done, 1_000));
    assert_eq!(ended.facts.client.as_deref(), Some("192.0.2.7"));

    // Nothing is durable any more, and so nothing leaves.
    world.disks[0].set_ills(Ills { sync_fails: true, ..Ills::default() });
    for _ in 0..3 {
        let error = world.rows(&anybody(), "stream a").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::AuditUnavailable, "{error}");
    }
    world.disks[0].set_ills(Ills::default());
    until("statements are recorded again", || world.node(0).ctx().audit.admit().is_ok()).await;
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()).len(), 1_000);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_a_statement_has_one_record_whatever_becomes_of_it() {
    let world = one_node(AuditMode::Relaxed).await;
    world.rows(&anybody(), "stream a").await.unwrap();
    world.source.tell(0, source::Act::HangAfter(200));
    let mut running = world.run(&anybody(), "stream a").await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(1), running.batches.next()).await;
    drop(running);
    assert!(world.rows(&anybody(), "stream nowhere").await.is_err());
    until("all three are recorded", || recorded(&world).len() == 3).await;
    let mut ends: Vec<Outcome> = recorded(&world)
        .into_iter()
        .map(|record| match record {
            AuditRecord::Statement(ended) => ended.outcome,
            other => panic!("{other:?}"),
        })
        .collect();
    ends.sort_by_key(|outcome| outcome.name());
    assert_eq!(ends, [Outcome::Cancelled, Outcome::Done, Outcome::Failed]);
    world.stop().await;
}
