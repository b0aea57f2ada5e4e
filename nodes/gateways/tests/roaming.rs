//! A client that loses its door goes on at another, and gets each row once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use futures::{StreamExt, TryStreamExt};
use greylag_gateways::{
    bearer::{Issuer, Verifier},
    flight::{DoorParts, client::Answer, roaming::RoamingClient, serve, ticket::ProcessSealer},
};
use greylag_protocol::{ErrorCode, MeshId, Result, statement::SessionOptions};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use fixture::{Fake, key, now, principal, soon};

/// Doors of one mesh, each on a runtime of its own that can be taken away.
struct Doors {
    addresses: Vec<String>,
    fakes: Vec<Arc<Fake>>,
    closing: Vec<CancellationToken>,
    runtimes: Vec<Option<Runtime>>,
    token: String,
}

impl Doors {
    async fn open(count: usize) -> Self {
        let (key, public_key) = key();
        let mesh = MeshId(Uuid::new_v4());
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap());
        }
        let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let sealer = Arc::new(ProcessSealer::new().unwrap());
        let issuer = Issuer::new(&key, mesh).unwrap();
        let token = issuer.issue(&principal("ada"), Duration::from_secs(60), now()).unwrap();
        let mut doors = Self { addresses, fakes: vec![], closing: vec![], runtimes: vec![], token };
        for listener in listeners {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (fake, closing) = (Arc::new(Fake::default()), CancellationToken::new());
            let (facts, known) = ((mesh, public_key.clone()), doors.addresses.clone());
            let parts = DoorParts {
                sealer: sealer.clone(),
                doors: Arc::new(move || known.clone()),
                ..fixture::parts(fake.clone(), Verifier::new(move || Some(facts.clone())))
            };
            let stop = closing.clone();
            runtime.spawn(async move { serve(TcpListener::from_std(listener).unwrap(), parts, stop).await });
            doors.fakes.push(fake);
            doors.closing.push(closing);
            doors.runtimes.push(Some(runtime));
        }
        doors
    }

    /// A client that was told of the first door only.
    async fn client(&self, resumable: bool) -> RoamingClient {
        let options = SessionOptions { resumable, ..SessionOptions::default() };
        RoamingClient::connect(vec![self.addresses[0].clone()], &self.token, options).await.unwrap()
    }

    /// A client that knows all doors, behind one that takes connections and says nothing, as a stopped process does.
    async fn client_past(&self, silent: &TcpListener, timeout: Duration) -> RoamingClient {
        let options = SessionOptions { resumable: true, timeout: Some(timeout), ..SessionOptions::default() };
        let doors = [vec![silent.local_addr().unwrap().to_string()], self.addresses.clone()].concat();
        RoamingClient::connect(doors, &self.token, options).await.unwrap()
    }

    /// As if its process were killed. Returns once nothing of it is left.
    async fn kill(&mut self, door: usize) {
        let runtime = self.runtimes[door].take().unwrap();
        soon(tokio::task::spawn_blocking(|| runtime.shutdown_timeout(fixture::PATIENCE))).await.unwrap();
    }

    fn started(&self) -> Vec<usize> {
        self.fakes.iter().map(|fake| fake.counts.now().started).collect()
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.runtimes.drain(..).flatten().for_each(Runtime::shutdown_background);
    }
}

async fn some(answer: &mut Answer, batches: usize) -> Vec<RecordBatch> {
    let mut read = Vec::new();
    for _ in 0..batches {
        read.push(soon(answer.batches.next()).await.unwrap().unwrap());
    }
    read
}

fn integers(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

async fn rest(answer: Answer) -> Result<Vec<RecordBatch>> {
    soon(answer.batches.try_collect()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_goes_on_at_another_door_after_what_has_been_read() {
    let mut doors = Doors::open(3).await;
    let mut answer = doors.client(true).await.query("numbers 600 8192").await.unwrap();
    let mut read = some(&mut answer, 5).await;
    doors.kill(0).await;
    read.extend(some(&mut answer, 400).await);
    let second = if doors.started()[1] == 1 { 1 } else { 2 };
    doors.closing[second].cancel();
    read.extend(rest(answer).await.unwrap());
    assert_eq!(integers(&read), (0..600 * 8192).collect::<Vec<_>>());
    assert_eq!(doors.started(), [1, 1, 1], "each door has had its part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_travel_in_parts_come_whole_or_not_at_all() {
    let mut doors = Doors::open(2).await;
    let mut answer = doors.client(true).await.query("texts 12 100 60000").await.unwrap();
    let mut read = some(&mut answer, 1).await;
    doors.kill(0).await;
    read.extend(rest(answer).await.unwrap());
    let rows: Vec<usize> = read
        .iter()
        .flat_map(|b| {
            b.column(0).as_string::<i32>().iter().flatten().map(|t| t.trim().parse().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(rows, (0..1200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_rows_are_told_and_never_mixed() {
    let mut doors = Doors::open(2).await;
    doors.fakes[1].odd.store(true, Ordering::SeqCst);
    let mut answer = doors.client(true).await.query("numbers 600 8192").await.unwrap();
    some(&mut answer, 5).await;
    doors.kill(0).await;
    let error = rest(answer).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ReplayDiffers, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_resumable_ends_with_its_door() {
    let mut doors = Doors::open(2).await;
    let client = doors.client(false).await;
    let mut answer = client.query("numbers 600 8192").await.unwrap();
    some(&mut answer, 5).await;
    doors.kill(0).await;
    let error = rest(answer).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PeerUnreachable, "{error}");
    assert_eq!(fixture::failure(client.query("one").await).code, ErrorCode::PeerUnreachable);
    assert_eq!(doors.fakes[1].calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_door_left_there_is_an_error_and_a_refusal_is_not_taken_elsewhere() {
    let mut doors = Doors::open(2).await;
    let client = doors.client(true).await;
    assert_eq!(fixture::failure(client.query("no such statement").await).code, ErrorCode::Syntax);
    assert_eq!(fixture::failure(client.query("early error").await).code, ErrorCode::SubqueryLost);
    assert_eq!(doors.fakes[1].calls.load(Ordering::SeqCst), 0);
    let unknown = RoamingClient::connect(vec!["127.0.0.1:1".into()], &doors.token, SessionOptions::default());
    assert_eq!(fixture::failure(unknown.await).code, ErrorCode::PeerUnreachable);
    let lonely = RoamingClient::connect(vec![doors.addresses[0].clone()], &doors.token, SessionOptions::default());
    let lonely = lonely.await.unwrap();
    doors.kill(0).await;
    assert_eq!(fixture::failure(soon(lonely.query("one")).await).code, ErrorCode::PeerUnreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_that_says_nothing_is_left_for_another() {
    let doors = Doors::open(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = doors.client_past(&silent, Duration::from_secs(60)).await;
    let answer = soon(client.query("numbers 2 100")).await.unwrap();
    assert_eq!(integers(&rest(answer).await.unwrap()), (0..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_holds_whatever_doors_do() {
    let doors = Doors::open(0).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = doors.client_past(&silent, Duration::from_millis(200)).await;
    let error = soon(client.query("numbers 2 100")).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::Deadline, "{error}");
}
