//! Bytes from a hostile peer: refused with a code, without a panic, and without allocating what they state.
//!
//! The allocator of this test program counts, for each thread, the largest single allocation and the most bytes held
//! at once. Every case here is bounded by a small multiple of the bytes received.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod generate;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Debug,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use arrow_ipc as fb;
use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};
use generate::{Dice, batch, cases, nested_types, plain_types};
use greylag_protocol::{
    ErrorCode, Result,
    frame::{FrameHead, FrameKind, FrameReader},
    ipc::{BATCH_BYTES_MAX, Decoder, Encoder, decode_schema},
    messages::edge::Compression,
    wire,
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

fn gave(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(bytes)));
}

// SAFETY: everything is passed on to the system's allocator; counting touches only thread-locals without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave(layout.size());
        unsafe { System.realloc(ptr, layout, size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        gave(layout.size());
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `f` gives, the largest allocation it made, and the most that it held.
fn measured<T>(f: impl FnOnce() -> T) -> (T, usize, usize) {
    LARGEST.set(0);
    let before = HELD.get();
    PEAK.set(before);
    let value = f();
    (value, LARGEST.get(), PEAK.get().saturating_sub(before))
}

/// Bytes that decoding may hold beyond what it was given, whatever it was given.
const SLACK: usize = 16 << 10;

fn modest<T>(received: usize, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let (result, _, held) = measured(f);
    let allowed = 12 * received + SLACK;
    assert!(held <= allowed, "{held} bytes held for {received} received");
    if let Err(error) = &result {
        let expected = [ErrorCode::MalformedFrame, ErrorCode::FrameTooLarge, ErrorCode::UnsupportedType];
        assert!(expected.contains(&error.code), "{error}");
    }
    result
}

#[test]
fn the_allocator_counts() {
    let (_, largest, held) = measured(|| (vec![1u8; 1000], vec![1u8; 5000]));
    assert!(largest == 5000 && held >= 6000, "{largest} {held}");
}

/// Every copy of `bytes` with one thing wrong: cut, longer, a byte changed, a length replaced.
fn spoilt(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    for end in 0..bytes.len() {
        check(&bytes[..end]);
    }
    check(&[bytes, &[0]].concat());
    check(&[bytes, &[0; 64]].concat());
    let mut copy = bytes.to_vec();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            copy[at] ^= flip;
            check(&copy);
            copy[at] = bytes[at];
        }
    }
    for at in (0..bytes.len().saturating_sub(8)).step_by(4) {
        for length in [0, -1, 1 << 24, i64::from(i32::MAX), 1 << 40, i64::MAX, i64::MIN] {
            copy[at..at + 8].copy_from_slice(&length.to_le_bytes());
            check(&copy);
            copy[at..at + 4].copy_from_slice(&(length as i32).to_le_bytes());
            copy[at + 4..at + 8].copy_from_slice(&bytes[at + 4..at + 8]);
            check(&copy);
            copy[at..at + 8].copy_from_slice(&bytes[at..at + 8]);
        }
    }
}

fn small_batches() -> impl Iterator<Item = RecordBatch> {
    let nested = nested_types(DataType::Utf8).into_iter().chain(nested_types(DataType::Int16));
    plain_types().into_iter().chain(nested).enumerate().map(|(seed, data_type)| {
        let schema = Arc::new(Schema::new(vec![Field::new("c", data_type, true)]));
        batch(&schema, 5, seed as u64 + 7)
    })
}

#[test]
fn spoilt_schemas_are_refused() {
    for batch in small_batches() {
        let bytes = Encoder::new(batch.schema(), Compression::None).unwrap().schema().unwrap();
        modest(bytes.len(), || decode_schema(&bytes)).unwrap();
        spoilt(&bytes, |bytes| drop(modest(bytes.len(), || decode_schema(bytes))));
    }
}

#[test]
fn spoilt_batches_are_refused() {
    for batch in small_batches() {
        let mut encoder = Encoder::new(batch.schema(), Compression::None).unwrap();
        let mut decoder = Decoder::new(&encoder.schema().unwrap()).unwrap();
        let payload = encoder.batch(&batch).unwrap();
        assert_eq!(modest(payload.len(), || decoder.batch(payload.clone().into())), Ok(batch));
        spoilt(&payload, |bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            drop(modest(bytes.len(), || decoder.batch(bytes)));
        });
    }
}

/// Scratch of the LZ4 decoder at the largest block size that a frame may state: a block in, two blocks out, window.
const LZ4_SCRATCH: usize = 3 * (4 << 20) + (64 << 10) + (1 << 20);

#[test]
fn spoilt_compressed_batches_are_refused() {
    let numbers = Arc::new(Int64Array::from_iter_values((0..400).map(|n| n / 50))) as ArrayRef;
    let words = batch(&Arc::new(Schema::new(vec![Field::new("w", DataType::Utf8, true)])), 40, 3);
    let numbers = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    for (compression, ratio) in [(Compression::Lz4, 255), (Compression::Zstd, 32 << 10)] {
        for batch in [&numbers, &words] {
            let mut encoder = Encoder::new(batch.schema(), compression).unwrap();
            let mut decoder = Decoder::new(&encoder.schema().unwrap()).unwrap();
            let payload = encoder.batch(batch).unwrap();
            assert_eq!(&decoder.batch(payload.clone().into()).unwrap(), batch);
            spoilt(&payload, |bytes| {
                let bytes = Bytes::copy_from_slice(bytes);
                let allowed = (ratio * bytes.len()).min(BATCH_BYTES_MAX) + LZ4_SCRATCH;
                let (result, largest, held) = measured(|| decoder.batch(bytes));
                assert!(held <= allowed && largest <= BATCH_BYTES_MAX, "{held} held, {largest} at once");
                if let Err(error) = result {
                    assert!(matches!(error.code, ErrorCode::MalformedFrame | ErrorCode::FrameTooLarge), "{error}");
                }
            });
        }
    }
}

/// A schema message around one list of fields.
fn schema_message(
    build: impl FnOnce(&mut FlatBufferBuilder<'static>) -> Vec<WIPOffset<fb::Field<'static>>>,
) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    let fields = build(&mut fbb);
    let fields = Some(fbb.create_vector(&fields));
    let schema = fb::Schema::create(&mut fbb, &fb::SchemaArgs { fields, ..Default::default() });
    let mut message = fb::MessageBuilder::new(&mut fbb);
    message.add_version(fb::MetadataVersion::V5);
    message.add_header_type(fb::MessageHeader::Schema);
    message.add_header(schema.as_union_value());
    let root = message.finish();
    fbb.finish(root, None);
    let metadata = fbb.finished_data();
    [&[0xff; 4][..], &(metadata.len() as u32).to_le_bytes(), metadata].concat()
}

/// Tables may be shared in a flatbuffer, so a small one can unfold into a schema of any size.
#[test]
fn shared_tables_and_strings_do_not_unfold() {
    let honest = schema_message(|fbb| {
        let type_ = Some(fb::Bool::create(fbb, &fb::BoolArgs {}).as_union_value());
        vec![fb::Field::create(fbb, &fb::FieldArgs { type_type: fb::Type::Bool, type_, ..Default::default() })]
    });
    assert_eq!(modest(honest.len(), || decode_schema(&honest)).map(|s| s.fields().len()), Ok(1));

    for (depth, width) in [(1, 40_000), (2, 300), (6, 60)] {
        let bomb = schema_message(|fbb| {
            let type_ = Some(fb::Bool::create(fbb, &fb::BoolArgs {}).as_union_value());
            let leaf = fb::FieldArgs { type_type: fb::Type::Bool, type_, ..Default::default() };
            let mut fields = vec![fb::Field::create(fbb, &leaf); width];
            for _ in 1..depth {
                let children = Some(fbb.create_vector(&fields));
                let type_ = Some(fb::Struct_::create(fbb, &fb::Struct_Args {}).as_union_value());
                let parent = fb::FieldArgs { type_type: fb::Type::Struct_, type_, children, ..Default::default() };
                fields = vec![fb::Field::create(fbb, &parent); width];
            }
            fields
        });
        assert!(modest(bomb.len(), || decode_schema(&bomb)).is_err(), "{width} fields {depth} times");
    }
    let names = schema_message(|fbb| {
        let name = Some(fbb.create_string(&"n".repeat(50_000)));
        let field = |fbb: &mut FlatBufferBuilder<'static>| {
            let type_ = Some(fb::Bool::create(fbb, &fb::BoolArgs {}).as_union_value());
            fb::Field::create(fbb, &fb::FieldArgs { name, type_type: fb::Type::Bool, type_, ..Default::default() })
        };
        (0..2000).map(|_| field(fbb)).collect()
    });
    assert!(modest(names.len(), || decode_schema(&names)).is_err());
}

/// Position of the only compressed buffer's claim in a payload: a batch of one column without NULLs.
fn claim_at(payload: &[u8], inflated: usize) -> usize {
    let claim = (inflated as i64).to_le_bytes();
    payload.windows(8).rposition(|w| w == claim).unwrap()
}

#[test]
fn claims_beyond_what_a_codec_can_do_allocate_nothing() {
    let column = Arc::new(Int64Array::from_iter_values(0..4096)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    for compression in [Compression::Lz4, Compression::Zstd] {
        let mut encoder = Encoder::new(batch.schema(), compression).unwrap();
        let mut decoder = Decoder::new(&encoder.schema().unwrap()).unwrap();
        let payload = encoder.batch(&batch).unwrap();
        let at = claim_at(&payload, 4096 * 8);
        for claim in [BATCH_BYTES_MAX as i64 + 1, 1 << 32, 1 << 50, i64::MAX, -2, i64::MIN] {
            let mut bytes = payload.clone();
            bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            let (result, largest, _) = measured(|| decoder.batch(bytes.into()));
            assert!(matches!(result.unwrap_err().code, ErrorCode::MalformedFrame | ErrorCode::FrameTooLarge));
            assert!(largest < 4096, "{largest} bytes for a claim of {claim}");
        }
        for claim in [0i64, 1, 4096 * 8 - 1, 4096 * 8 + 1] {
            let mut bytes = payload.clone();
            bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            assert_eq!(decoder.batch(bytes.into()).unwrap_err().code, ErrorCode::MalformedFrame, "{claim}");
        }
    }
}

/// A frame that inflates to far more than it states must stop at what it states.
#[test]
fn an_lz4_bomb_stops_at_its_claim() {
    let column = |rows| Arc::new(Int64Array::from(vec![0; rows])) as ArrayRef;
    let bomb = RecordBatch::try_from_iter([("n", column(6 << 20))]).unwrap();
    let mut encoder = Encoder::new(bomb.schema(), Compression::Lz4).unwrap();
    let mut decoder = Decoder::new(&encoder.schema().unwrap()).unwrap();
    let mut payload = encoder.batch(&bomb).unwrap();
    let at = claim_at(&payload, (6 << 20) * 8);
    payload[at..at + 8].copy_from_slice(&64i64.to_le_bytes());
    let allowed = payload.len() + LZ4_SCRATCH;
    let (result, _, held) = measured(|| decoder.batch(payload.into()));
    assert_eq!(result.unwrap_err().code, ErrorCode::MalformedFrame);
    assert!(held <= allowed, "{held} bytes held");
}

/// A length in the head is checked, and what has not arrived is not reserved.
#[test]
fn stated_frame_lengths_are_not_reserved() {
    let mut reader = FrameReader::new();
    let head = FrameHead { kind: FrameKind::Batch, len: BATCH_BYTES_MAX }.encode();
    let (frame, largest, _) = measured(|| {
        reader.push(&head);
        reader.push(&[0; 100]);
        reader.next_frame()
    });
    assert_eq!(frame, Ok(None));
    assert!(largest < 4096, "{largest}");
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: FrameKind, message: &T) {
    let bytes = wire::encode(message, kind.limit()).unwrap();
    spoilt(&bytes, |bytes| {
        let (result, _, held) = measured(|| wire::decode::<T>(bytes, kind.limit()));
        // serde itself reserves at most 1 MiB for each list whose stated length it has not seen yet.
        assert!(held <= 12 * bytes.len() + SLACK + (3 << 20), "{held} bytes held for {}", bytes.len());
        if let Err(error) = result {
            assert_eq!(error.code, ErrorCode::MalformedFrame);
        }
    });
}

#[test]
fn a_string_of_hostile_length_is_not_allocated() {
    for length in [1u64 << 20, 1 << 32, 1 << 60, u64::MAX] {
        let bytes = [&length.to_le_bytes()[..], b"abc"].concat();
        let (result, largest, _) = measured(|| wire::decode::<String>(&bytes, 1 << 20));
        assert_eq!(result.unwrap_err().code, ErrorCode::MalformedFrame);
        assert!(largest <= 2048, "{largest} bytes for a string of {length}");
    }
}

proptest! {
    #![proptest_config(cases(3))]

    #[test]
    fn spoilt_messages_are_refused(seed: u64) {
        for_each_message!(&mut Dice::new(seed), survives);
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let schema = Encoder::new(Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8View, true)])), Compression::None);
        let mut decoder = Decoder::new(&schema.unwrap().schema().unwrap()).unwrap();
        prop_assert!(modest(bytes.len(), || decode_schema(&bytes)).is_err());
        let prefixed = [&[0xff; 4][..], &(bytes.len() as u32 / 2).to_le_bytes(), &bytes].concat();
        prop_assert!(modest(prefixed.len(), || decode_schema(&prefixed)).is_err());
        prop_assert!(modest(prefixed.len(), || decoder.batch(prefixed.into())).is_err());
        prop_assert!(modest(bytes.len(), || decoder.batch(bytes.clone().into())).is_err());
        let mut reader = FrameReader::new();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next_frame() {}
    }
}
