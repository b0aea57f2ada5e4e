//! One or two nodes and a log that answers as it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures::FutureExt;
use greylag_governance::quota::{CREDIT, LEASE_MS, Period, Usage};
use greylag_protocol::{ErrorCode, state::MemberStatus};
use tokio::time::{Instant, sleep, timeout};

use super::{RECALL_MAX, fixture::*};

const LEASE: Duration = Duration::from_millis(LEASE_MS);

#[tokio::test(start_paused = true)]
async fn where_no_quota_fits_nobody_waits_and_the_log_is_not_asked() {
    let world = World::new(1, 1, &[(key(None, Period::Day), CREDIT)]);
    let node = world.node(1);
    for (organisation, agent) in [("other", "a"), ("", "")] {
        let principal = principal(organisation, agent);
        let mut charge = node.quotas.reserve(&principal, &rows(9 * CREDIT), soon()).now_or_never().unwrap().unwrap();
        charge.charge(&rows(20 * CREDIT)).now_or_never().unwrap().unwrap();
        charge.charge(&rows(30 * CREDIT)).now_or_never().unwrap().unwrap();
        assert_eq!(charge.microcredits(), 30 * CREDIT);
    }
    sleep(LEASE).await;
    assert_eq!(world.lock().proposals, 0);
    let usage = node.quotas.usage();
    let seen: Vec<_> = usage.iter().map(|row| (row.organisation.as_deref(), row.microcredits)).collect();
    assert_eq!(seen, [(Some(""), 30 * CREDIT), (Some("other"), 30 * CREDIT)]);
}

#[tokio::test(start_paused = true)]
async fn principals_without_organisation_have_a_quota_if_one_is_set_for_them() {
    let mut nobody = key(None, Period::Day);
    nobody.organisation = String::new();
    let node = World::new(1, 1, &[(nobody, CREDIT)]).node(1);
    let error = node.quotas.reserve(&principal("", ""), &rows(2 * CREDIT), soon()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
    let _charge = node.quotas.reserve(&principal("", ""), &rows(CREDIT), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_statement_is_charged_as_it_goes_and_stopped_when_its_quota_is_spent() {
    let (whole, agents) = (key(None, Period::Day), key(Some("a"), Period::Hour));
    let world = World::new(1, 1, &[(whole.clone(), 100 * CREDIT), (agents.clone(), 10 * CREDIT)]);
    let node = world.node(1);
    let mut charge = node.quotas.reserve(&principal("clinic", "a"), &rows(2 * CREDIT), soon()).await.unwrap();
    charge.charge(&rows(CREDIT)).await.unwrap();
    charge.charge(&rows(9 * CREDIT)).await.unwrap();
    charge.charge(&rows(8 * CREDIT)).await.unwrap();
    assert_eq!(
        charge.microcredits(),
        9 * CREDIT,
        "a smaller use than was told before costs nothing and gives nothing back"
    );
    let error = charge.charge(&rows(12 * CREDIT)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
    let expected =
        "the quota of 10 credits for `clinic/a per hour` is spent; the next period begins at 2023-11-15T13:00:00Z";
    assert_eq!(error.message, expected);
    drop(charge);
    let others = node.quotas.reserve(&principal("clinic", "b"), &rows(5 * CREDIT), soon()).await;
    drop(others.expect("the organisation has enough, and so have its other agents"));
    sleep(LEASE + Duration::from_secs(2)).await;
    assert_eq!(world.known(&agents), (9 * CREDIT, 0, 0));
    assert_eq!(world.known(&whole), (9 * CREDIT, 0, 0));
    let row = &node.quotas.usage()[0];
    assert_eq!(
        (row.agent.as_deref(), row.refused, row.microcredits),
        (Some("a"), 1, 12 * CREDIT),
        "what was used is metered"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_is_too_dear_pays_at_least_what_was_set_aside() {
    let day = key(None, Period::Day);
    let world = World::new(1, 1, &[(day.clone(), 10 * CREDIT)]);
    let node = world.node(1);
    // Each reads far more than it said it would.
    for tries in 1..=5 {
        let mut charge = node.quotas.reserve(&principal("clinic", ""), &rows(2 * CREDIT), soon()).await.unwrap();
        assert_eq!(charge.charge(&rows(50 * CREDIT)).await.unwrap_err().code, ErrorCode::QuotaExceeded, "{tries}");
        assert_eq!(charge.microcredits(), 2 * CREDIT);
    }
    let error = node.quotas.reserve(&principal("clinic", ""), &rows(2 * CREDIT), soon()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
}

#[tokio::test(start_paused = true)]
async fn what_was_set_aside_is_free_again_however_the_statement_ends() {
    let world = World::new(1, 1, &[(key(None, Period::Day), 10 * CREDIT)]);
    let node = world.node(1);
    let all = || node.quotas.clone().reserve_of("clinic", 9 * CREDIT);
    drop(all().await.unwrap());
    let charge = all().await.unwrap();
    let panicked = tokio::spawn(async move {
        let _charge = charge;
        panic!("told to");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    let held = all().await.unwrap();
    let error = all().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::QuotaExceeded, "as long as the first one runs");
    drop(held);
    sleep(Duration::from_secs(2)).await;
    let _charge = all().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_reached_is_an_error_in_time_and_never_a_free_ride() {
    let world = World::new(1, 1, &[(key(None, Period::Day), 100 * CREDIT)]);
    let node = world.node(1);
    world.cut(1);
    let began = Instant::now();
    let error = node.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap_err();
    assert_eq!((error.code, error.is_retryable()), (ErrorCode::NoLeader, true), "{error}");
    assert!(error.message.contains("`clinic per day`"), "{error}");
    assert!(began.elapsed() <= PROPOSE_MAX + Duration::from_secs(1), "{:?}", began.elapsed());
    let within = Instant::now() + Duration::from_secs(1);
    let error = node.quotas.reserve(&principal("clinic", ""), &rows(1), within).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Deadline, "{error}");
    world.heal(1);
    let began = Instant::now();
    let _charge = node.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap();
    assert!(began.elapsed() <= PROPOSE_MAX, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_charge_that_was_dropped_while_it_waited_can_be_made_again() {
    let day = key(None, Period::Day);
    let world = World::new(1, 1, &[(day.clone(), 100 * CREDIT)]);
    let node = world.node(1);
    let mut charge = node.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap();
    world.cut(1);
    timeout(Duration::from_secs(1), charge.charge(&rows(40 * CREDIT))).await.expect_err("it waits for the log");
    world.heal(1);
    charge.charge(&rows(40 * CREDIT)).await.unwrap();
    assert_eq!((charge.microcredits(), node.quotas.usage()[0].microcredits), (40 * CREDIT, 40 * CREDIT));
}

#[tokio::test(start_paused = true)]
async fn what_another_node_holds_and_does_not_need_is_waited_for() {
    let day = key(None, Period::Day);
    let world = World::new(1, 2, &[(day.clone(), 4 * CREDIT)]);
    let (idle, busy) = (world.node(1), world.node(2));
    drop(idle.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap());
    assert!(world.known(&day).2 > 0, "it holds a lease");
    let all = rows(4 * CREDIT);
    let began = Instant::now();
    drop(busy.quotas.reserve(&principal("clinic", ""), &all, soon()).await.unwrap());
    assert!(began.elapsed() <= RECALL_MAX, "{:?}", began.elapsed());
    // From one that is down nothing can come back: the answer is prompt.
    sleep(2 * LEASE).await;
    drop(idle.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap());
    world.cut(1);
    world.set_status(1, MemberStatus::Down);
    let began = Instant::now();
    let error = busy.quotas.reserve(&principal("clinic", ""), &all, soon()).await.unwrap_err();
    assert_eq!((error.code, began.elapsed() < Duration::from_secs(1)), (ErrorCode::QuotaExceeded, true));
    // One that is thought to be up and does not answer is waited for once.
    world.set_status(1, MemberStatus::Up);
    for longest in [RECALL_MAX + Duration::from_secs(1), Duration::from_secs(1)] {
        let began = Instant::now();
        let error = busy.quotas.reserve(&principal("clinic", ""), &all, soon()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::QuotaExceeded);
        assert!(began.elapsed() <= longest, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_gives_back_what_it_holds_and_refuses_the_rest() {
    let day = key(None, Period::Day);
    let world = World::new(1, 1, &[(day.clone(), 100 * CREDIT)]);
    let node = world.node(1);
    let mut charge = node.quotas.reserve(&principal("clinic", ""), &rows(2 * CREDIT), soon()).await.unwrap();
    charge.charge(&rows(CREDIT)).await.unwrap();
    drop(charge);
    assert!(world.known(&day).2 > CREDIT);
    let (quotas, began) = (node.quotas.clone(), Instant::now());
    node.shutdown().await;
    assert_eq!(world.known(&day), (CREDIT, 0, 0));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let error = quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_without_a_log_does_not_wait_for_ever() {
    let day = key(None, Period::Day);
    let world = World::new(1, 1, &[(day.clone(), 100 * CREDIT)]);
    let node = world.node(1);
    drop(node.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap());
    world.cut(1);
    let began = Instant::now();
    node.shutdown().await;
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(world.known(&day).1, 1, "it counts as spent");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_takes_itself_for_an_older_one_becomes_a_newer_one() {
    let day = key(None, Period::Day);
    let world = World::new(1, 1, &[(day.clone(), 100 * CREDIT)]);
    let first = world.node(1);
    drop(first.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap());
    drop(first);
    let second = world.node(1);
    let mut running = second.quotas.reserve(&principal("clinic", ""), &rows(CREDIT), soon()).await.unwrap();
    running.charge(&rows(CREDIT / 2)).await.unwrap();
    let held_by_first = world.known(&day).0;
    assert!(held_by_first > 0, "what the first held counts as spent");
    // A third with the number of the first, while the second one still runs.
    world.forget_incarnation(1);
    let third = world.node(1);
    drop(third.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap());
    drop(third.quotas.reserve(&principal("clinic", ""), &rows(CREDIT), soon()).await.unwrap());
    // The second finds out, and goes on under a greater number; nothing of what it spent is spent again.
    running.charge(&rows(30 * CREDIT)).await.unwrap();
    assert_eq!(running.microcredits(), 30 * CREDIT);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_keeps_nobody_waiting() {
    let world = World::new(1, 1, &[(key(None, Period::Day), 100 * CREDIT)]);
    let node = world.node(1);
    drop(node.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap());
    world.skew(1, -3_600_000);
    world.cut(1);
    let asking = node.quotas.clone().reserve_of("clinic", 50 * CREDIT);
    let healing = async {
        sleep(Duration::from_secs(1)).await;
        world.heal(1);
    };
    let began = Instant::now();
    let (charge, ()) = tokio::join!(asking, healing);
    let error = charge.map(drop);
    assert!(error.is_ok() || error.as_ref().is_err_and(|e| e.code == ErrorCode::NoLeader), "{error:?}");
    drop(node.quotas.reserve(&principal("clinic", ""), &rows(50 * CREDIT), soon()).await.unwrap());
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_set_while_nodes_run_holds_from_the_next_statement_on() {
    let day = key(None, Period::Day);
    let world = World::new(1, 1, &[]);
    let node = world.node(1);
    let mut before = node.quotas.reserve(&principal("clinic", ""), &rows(1), soon()).await.unwrap();
    world.set_limit(&day, Some(CREDIT));
    before.charge(&rows(5 * CREDIT)).await.unwrap();
    let error = node.quotas.reserve(&principal("clinic", ""), &rows(2 * CREDIT), soon()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
    world.set_limit(&day, None);
    let free = Usage { statements: 1, ..rows(9 * CREDIT) };
    let _charge = node.quotas.reserve(&principal("clinic", ""), &free, soon()).await.unwrap();
}
