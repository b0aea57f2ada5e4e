//! Statements in the background: begun by a poll, polled until they are done, fetched at any door; and the session's
//! options as SQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use arrow::{array::AsArray, datatypes::Int64Type};
use futures::TryStreamExt;
use greylag_gateways::flight::client::{Answer, Client};
use greylag_protocol::{ErrorCode, JobId, Result};

use fixture::{open, soon};

async fn numbers(answer: Result<Answer>) -> Result<Vec<i64>> {
    let batches: Vec<_> = soon(answer?.batches.try_collect()).await?;
    Ok(batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
}

#[tokio::test]
async fn a_job_is_begun_polled_and_fetched() {
    let opened = open().await;
    let client = opened.client("ada").await;
    let begun = client.submit("numbers 3 4").await.unwrap();
    let info = begun.info.unwrap();
    assert_eq!(info.total_records, -1);
    assert_eq!(numbers(client.fetch(&info).await).await.unwrap(), (0..12).collect::<Vec<_>>(), "while it runs");
    let running = client.poll(begun.flight_descriptor.unwrap()).await.unwrap();
    let done = client.poll(running.flight_descriptor.unwrap()).await.unwrap();
    assert!(done.flight_descriptor.is_none() && done.progress == Some(1.0), "{done:?}");
    let info = done.info.unwrap();
    assert_eq!(info.total_records, 12);
    assert_eq!(numbers(client.fetch(&info).await).await.unwrap(), (0..12).collect::<Vec<_>>());
    assert_eq!(opened.fake.jobs.lock().unwrap().len(), 1);

    assert!(client.cancel_flight(info.clone()).await.unwrap());
    assert!(opened.fake.jobs.lock().unwrap().is_empty());
    assert!(!client.cancel_flight(info.clone()).await.unwrap(), "it is forgotten");
    assert_eq!(numbers(client.fetch(&info).await).await.unwrap().len(), 12, "its ticket begins it anew");
}

#[tokio::test]
async fn a_job_whose_coordinator_was_lost_begins_again_under_its_own_id() {
    let opened = open().await;
    let client = opened.client("ada").await;
    let begun = client.submit("numbers 3 4").await.unwrap();
    let lost: Vec<JobId> = std::mem::take(&mut *opened.fake.jobs.lock().unwrap()).into_keys().collect();
    let again = client.poll(begun.flight_descriptor.unwrap()).await.unwrap();
    assert!(again.flight_descriptor.is_some());
    let begun: Vec<JobId> = opened.fake.jobs.lock().unwrap().keys().copied().collect();
    assert_eq!(begun, lost);
}

#[tokio::test]
async fn a_job_is_its_own_principals_and_its_error_is_told() {
    let opened = open().await;
    let (ada, bob) = (opened.client("ada").await, opened.client("bob").await);
    let begun = ada.submit("late error").await.unwrap();
    let descriptor = begun.flight_descriptor.unwrap();
    assert_eq!(bob.poll(descriptor.clone()).await.unwrap_err().code, ErrorCode::Unauthenticated);
    assert_eq!(bob.cancel_flight(begun.info.unwrap()).await.unwrap_err().code, ErrorCode::Unauthenticated);
    ada.poll(descriptor.clone()).await.unwrap();
    let error = ada.poll(descriptor).await.unwrap_err();
    assert_eq!((error.code, error.node.map(|n| n.0)), (ErrorCode::SubqueryLost, Some(7)));
    assert_eq!(ada.submit("SELEC").await.unwrap_err().code, ErrorCode::Syntax, "what cannot be planned is not begun");
}

async fn text(client: &Client, sql: &str) -> String {
    let batches: Vec<_> = client.query(sql).await.unwrap().batches.try_collect().await.unwrap();
    batches[0].column(0).as_string::<i32>().value(0).to_owned()
}

#[tokio::test]
async fn options_set_by_sql_hold_for_the_session() {
    let opened = open().await;
    let client = opened.client("ada").await;
    assert!(text(&client, "whoami").await.contains("delivery: Streamed"));
    let answer = client.query("SET greylag.delivery = 'spooled'").await.unwrap();
    assert_eq!(answer.batches.try_collect::<Vec<_>>().await.unwrap(), vec![]);
    client.query("SET greylag.batch_rows TO 7").await.unwrap();
    let who = text(&client, "whoami").await;
    assert!(who.contains("delivery: Spooled") && who.contains("batch_rows: 7"), "{who}");
    assert!(!text(&opened.client("ada").await, "whoami").await.contains("Spooled"), "another session is another one");
    client.query("RESET greylag.delivery").await.unwrap();
    assert!(text(&client, "whoami").await.contains("delivery: Streamed"));
    let wrong = client.query("SET greylag.delivery = fast").await.err().unwrap();
    assert_eq!(wrong.code, ErrorCode::InvalidResource);
}
