//! Streams that are not whole, each in its way.
#![allow(clippy::unwrap_used)]

use greylag_protocol::{
    AttemptId, ErrorCode, QueryId, SubqueryId, digest::StreamDigest, frame::FrameKind, messages::edge::Trailer,
};

use super::check::StreamCheck;

fn attempt(attempt: u32) -> AttemptId {
    let query = QueryId(uuid::Uuid::from_u128(1));
    AttemptId { subquery: SubqueryId { query, ordinal: 0 }, partition: 0, attempt }
}

/// What came: a schema, then batches of these rows.
fn came(rows: &[usize]) -> StreamCheck {
    let mut check = StreamCheck::new(attempt(1), 8);
    check.schema(b"schema");
    for (n, rows) in rows.iter().enumerate() {
        check.batch(format!("batch {n}").as_bytes(), *rows).unwrap();
    }
    check
}

/// The trailer of a stream of these batches.
fn trailer(rows: &[usize]) -> Trailer {
    let mut digest = StreamDigest::new();
    digest.update(FrameKind::Schema, b"schema");
    for n in 0..rows.len() {
        digest.update(FrameKind::Batch, format!("batch {n}").as_bytes());
    }
    let sum = rows.iter().sum::<usize>() as u64;
    Trailer { attempt: attempt(1), batches: rows.len() as u64, rows: sum, digest: digest.value(), reattached: false }
}

#[test]
fn a_whole_stream_is_verified() {
    for rows in [&[][..], &[3], &[8, 8], &[8, 8, 1]] {
        let verified = came(rows).verify(&trailer(rows)).unwrap();
        assert_eq!((verified.attempt(), verified.rows()), (1, rows.iter().sum::<usize>() as u64));
    }
}

#[test]
fn a_stream_that_is_not_whole_is_refused_by_its_code() {
    let cases = [
        (came(&[8]), trailer(&[8, 8]), ErrorCode::TruncatedStream),
        (came(&[8, 8]), trailer(&[8]), ErrorCode::TruncatedStream),
        (came(&[8, 7]), trailer(&[8, 8]), ErrorCode::TruncatedStream),
        (came(&[8]), Trailer { attempt: attempt(2), ..trailer(&[8]) }, ErrorCode::TruncatedStream),
        (came(&[8]), Trailer { digest: [7; 32], ..trailer(&[8]) }, ErrorCode::DigestMismatch),
    ];
    for (check, trailer, code) in cases {
        let error = check.verify(&trailer).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.is_retryable());
    }
    assert_eq!(came(&[8]).truncated().code, ErrorCode::TruncatedStream);
}

#[test]
fn batches_out_of_turn_are_refused() {
    for (before, next) in [(&[3][..], 1), (&[8, 7], 8), (&[], 9), (&[8], 0)] {
        let error = came(before).batch(b"next", next).unwrap_err();
        assert_eq!(error.code, ErrorCode::MalformedFrame, "{before:?} then {next}");
    }
}
