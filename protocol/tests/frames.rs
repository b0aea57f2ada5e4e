//! Frames and control messages: every kind and every message comes back as it was, however the bytes arrive.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod generate;

use std::fmt::Debug;

use generate::{Dice, cases};
use greylag_protocol::{
    ErrorCode,
    frame::{Frame, FrameHead, FrameKind, FrameReader, HEAD_BYTES, StreamTag},
    wire,
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

const KINDS: [FrameKind; 10] = [
    FrameKind::Request,
    FrameKind::Reply,
    FrameKind::Schema,
    FrameKind::Batch,
    FrameKind::Trailer,
    FrameKind::Error,
    FrameKind::Join,
    FrameKind::Control,
    FrameKind::Forward,
    FrameKind::Authority,
];

#[test]
fn every_kind_has_a_head_and_a_limit() {
    for kind in KINDS {
        for len in [0, 1, 255, 256, kind.limit()] {
            let head = FrameHead { kind, len };
            assert_eq!(FrameHead::decode(head.encode()), Ok(head));
        }
        for len in [kind.limit() + 1, u32::MAX as usize] {
            let error = FrameHead::decode(FrameHead { kind, len }.encode()).unwrap_err();
            assert_eq!(error.code, ErrorCode::FrameTooLarge, "{kind:?} of {len}");
        }
        assert_eq!(FrameHead::of(kind, &vec![0; kind.limit() + 1]).unwrap_err().code, ErrorCode::FrameTooLarge);
    }
}

#[test]
fn every_byte_is_a_known_kind_or_refused() {
    let known: Vec<u8> = KINDS.iter().map(|k| *k as u8).collect();
    for byte in 0..=u8::MAX {
        match FrameKind::try_from(byte) {
            Ok(kind) => assert_eq!(kind as u8, byte),
            Err(error) => assert!(!known.contains(&byte) && error.code == ErrorCode::MalformedFrame),
        }
        match StreamTag::try_from(byte) {
            Ok(tag) => assert_eq!(tag as u8, byte),
            Err(error) => assert!(!(1..=7).contains(&byte) && error.code == ErrorCode::MalformedFrame),
        }
    }
}

/// Alone, framed, under the wrong kind, short of bytes, with a byte too many.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: FrameKind, message: &T) {
    let bytes = wire::encode(message, kind.limit()).unwrap();
    assert_eq!(&wire::decode::<T>(&bytes, kind.limit()).unwrap(), message);

    let mut reader = FrameReader::new();
    reader.push(&Frame::encode(kind, message).unwrap());
    let frame = reader.next_frame().unwrap().unwrap();
    assert_eq!(&frame.decode::<T>(kind).unwrap(), message);
    reader.finish().unwrap();
    let other = if kind == FrameKind::Error { FrameKind::Reply } else { FrameKind::Error };
    assert_eq!(frame.decode::<T>(other).unwrap_err().code, ErrorCode::MalformedFrame);

    for end in 0..bytes.len() {
        let error = wire::decode::<T>(&bytes[..end], kind.limit()).unwrap_err();
        assert_eq!(error.code, ErrorCode::MalformedFrame, "cut to {end} of {}", bytes.len());
    }
    let longer = [bytes.clone(), vec![0]].concat();
    assert_eq!(wire::decode::<T>(&longer, kind.limit()).unwrap_err().code, ErrorCode::MalformedFrame);
    if !bytes.is_empty() {
        assert_eq!(wire::encode(message, bytes.len() - 1).unwrap_err().code, ErrorCode::FrameTooLarge);
        assert_eq!(wire::decode::<T>(&bytes, bytes.len() - 1).unwrap_err().code, ErrorCode::FrameTooLarge);
    }
}

#[test]
fn answers_carried_as_results_come_back() {
    use generate::messages::Roll;
    use greylag_protocol::{MeshError, messages::control::ControlReply};
    let mut dice = Dice::new(5);
    comes_back(FrameKind::Control, &Ok::<_, MeshError>(ControlReply::roll(&mut dice)));
    comes_back(FrameKind::Control, &Err::<ControlReply, _>(MeshError::roll(&mut dice)));
}

/// Doors carry them as JSON.
#[test]
fn admin_calls_and_replies_come_back_from_json() {
    use generate::messages::Each;
    use greylag_protocol::statement::{AdminCall, AdminReply};
    fn comes_back<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) {
        let text = serde_json::to_string(message).unwrap();
        let read: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }
    for seed in 0..50 {
        AdminCall::each(&mut Dice::new(seed)).iter().for_each(comes_back);
        AdminReply::each(&mut Dice::new(seed)).iter().for_each(comes_back);
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn every_message_comes_back(seed: u64) {
        for_each_message!(&mut Dice::new(seed), comes_back);
    }

    #[test]
    fn frames_are_found_however_bytes_arrive(
        payloads in prop::collection::vec((0usize..9, prop::collection::vec(any::<u8>(), 0..200)), 1..6),
        cuts in prop::collection::vec(1usize..90, 1..40),
    ) {
        let mut bytes = Vec::new();
        for (kind, payload) in &payloads {
            bytes.extend(FrameHead::of(KINDS[*kind], payload).unwrap().encode());
            bytes.extend(payload);
        }
        let (mut reader, mut rest, mut found) = (FrameReader::new(), bytes.as_slice(), Vec::new());
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            reader.push(now);
            while let Some(frame) = reader.next_frame().unwrap() {
                found.push((frame.kind, frame.payload.to_vec()));
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(reader.finish().is_ok());
        let sent: Vec<_> = payloads.into_iter().map(|(kind, payload)| (KINDS[kind], payload)).collect();
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn a_stream_cut_within_a_frame_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..60), end: prop::sample::Index) {
        let bytes = [&FrameHead::of(FrameKind::Join, &payload).unwrap().encode()[..], &payload].concat();
        let end = 1 + end.index(bytes.len() - 1);
        prop_assume!(end < bytes.len());
        let mut reader = FrameReader::new();
        reader.push(&bytes[..end]);
        prop_assert_eq!(reader.next_frame(), Ok(None));
        prop_assert_eq!(reader.finish().unwrap_err().code, ErrorCode::MalformedFrame);
    }

    #[test]
    fn any_head_is_read_or_refused(head: [u8; HEAD_BYTES]) {
        match FrameHead::decode(head) {
            Ok(read) => prop_assert_eq!(read.encode(), head),
            Err(error) => prop_assert!(matches!(error.code, ErrorCode::MalformedFrame | ErrorCode::FrameTooLarge)),
        }
    }
}
