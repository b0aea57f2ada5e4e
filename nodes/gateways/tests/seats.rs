//! A door takes so many clients; who comes on top is told so and let go, and holds up nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fixture::{Room, failure, open_with, rows, soon};
use greylag_protocol::ErrorCode;
use tokio::{io::AsyncReadExt, net::TcpStream};

#[tokio::test]
async fn who_finds_no_seat_is_told_so_and_a_free_seat_is_taken() {
    let room = Arc::new(Room::of(2));
    let door = open_with(room.clone()).await;
    let (first, second) = (door.client("ada").await, door.client("bob").await);
    for client in [&first, &second] {
        rows(client.query("one").await.unwrap()).await.unwrap();
    }
    let third = door.client("eve").await;
    let error = failure(third.query("one").await);
    assert_eq!((error.code, error.message.contains("2 clients")), (ErrorCode::DoorFull, true), "{error}");
    assert_eq!((room.taken.load(Ordering::SeqCst), room.refused.load(Ordering::SeqCst)), (2, 1));
    rows(first.query("one").await.unwrap()).await.unwrap();
    drop(second);
    let seated = async {
        // The server notices a moment later that the client has gone.
        while door.client("eve").await.query("one").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(seated).await;
}

#[tokio::test]
async fn of_those_who_find_no_seat_none_stays_for_long_and_most_are_not_let_in() {
    let door = open_with(Arc::new(Room::of(1))).await;
    let seated = door.client("ada").await;
    rows(seated.query("one").await.unwrap()).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(door.address).await.unwrap());
    }
    let ends = crowd.into_iter().map(|mut stream| async move {
        let mut greeting = Vec::new();
        // Closed or reset: what matters is that it ends.
        let _ = stream.read_to_end(&mut greeting).await;
    });
    soon(futures::future::join_all(ends)).await;
    rows(seated.query("one").await.unwrap()).await.unwrap();
}
