//! Registers by table: what each operation comes to, that a request is applied once, and that they stay small.
#![allow(clippy::unwrap_used, clippy::panic)]

use greylag_protocol::{
    Epoch, ErrorCode,
    state::{Command, ControlState, Outcome, RegisterExpect, RegisterOp, RegisterRequest},
};
use uuid::Uuid;

use super::{
    REGISTER_CHANGES_REMEMBERED, REGISTER_NAME_BYTES_MAX, REGISTER_VALUE_BYTES_MAX, REGISTERS_MAX, apply,
    decode_snapshot, encode_snapshot, fixture::form,
};

struct World {
    state: ControlState,
    requests: u128,
}

impl World {
    fn new() -> Self {
        let mut state = ControlState::default();
        apply(&mut state, &form([1]));
        Self { state, requests: 0 }
    }

    fn request(&mut self) -> RegisterRequest {
        self.requests += 1;
        RegisterRequest { id: Uuid::from_u128(self.requests), after: self.state.registers.changes }
    }

    fn change(&mut self, name: &str, op: RegisterOp) -> Outcome {
        let request = self.request();
        self.repeat(name, op, request)
    }

    fn repeat(&mut self, name: &str, op: RegisterOp, request: RegisterRequest) -> Outcome {
        let outcome = apply(&mut self.state, &Command::Register { name: name.to_owned(), op, request });
        assert_eq!(self.state.epoch, Epoch(1), "a register leaves the epoch alone");
        outcome
    }

    fn refused(&mut self, name: &str, op: RegisterOp) -> ErrorCode {
        let before = self.state.clone();
        let outcome = self.change(name, op.clone());
        assert_eq!(self.state, before, "{op:?}");
        match outcome {
            Outcome::Refused(error) => error.code,
            other => panic!("{op:?} was not refused: {other:?}"),
        }
    }

    fn value(&self, name: &str) -> Option<(&str, u64)> {
        self.state.registers.values.get(name).map(|register| (register.value.as_str(), register.version))
    }
}

fn write(value: &str) -> RegisterOp {
    RegisterOp::Write { value: value.to_owned() }
}

fn set_at(version: u64, value: &str) -> RegisterOp {
    RegisterOp::CompareAndSet { expect: RegisterExpect::Version(version), value: value.to_owned() }
}

fn set_from(expect: &str, value: &str) -> RegisterOp {
    RegisterOp::CompareAndSet { expect: RegisterExpect::Value(expect.to_owned()), value: value.to_owned() }
}

fn add(delta: i64) -> RegisterOp {
    RegisterOp::Add { delta }
}

fn made(version: u64, value: &str) -> Outcome {
    Outcome::Register { version, value: Some(value.to_owned()) }
}

#[test]
fn operations_by_table() {
    let mut world = World::new();
    assert_eq!(world.change("r", write("a")), made(1, "a"));
    assert_eq!(world.change("r", write("a")), made(2, "a"), "a write is a change though the value is the same");
    assert_eq!(world.refused("r", set_at(1, "b")), ErrorCode::VersionConflict);
    assert_eq!(world.change("r", set_at(2, "b")), made(3, "b"));
    assert_eq!(world.refused("r", set_from("a", "c")), ErrorCode::VersionConflict);
    assert_eq!(world.change("r", set_from("b", "c")), made(4, "c"));
    assert_eq!(world.refused("r", set_at(0, "d")), ErrorCode::VersionConflict);
    assert_eq!(world.refused("new", set_from("", "d")), ErrorCode::VersionConflict);
    assert_eq!(world.change("new", set_at(0, "d")), made(5, "d"));
    assert_eq!(world.refused("r", add(1)), ErrorCode::ProposalRefused, "no number");
    assert_eq!(world.change("n", add(-2)), made(6, "-2"));
    assert_eq!(world.change("n", add(5)), made(7, "3"));
    assert_eq!(world.refused("n", add(i64::MAX)), ErrorCode::ProposalRefused, "it would overflow");
    assert_eq!(world.change("n", RegisterOp::Remove), Outcome::Register { version: 8, value: None });
    assert_eq!(world.value("n"), None);
    assert_eq!(world.change("n", RegisterOp::Remove), Outcome::Register { version: 0, value: None });
    // Versions go on where they were: whoever saw version 6 of the removed one cannot mistake the new one for it.
    assert_eq!(world.change("n", add(1)), made(9, "1"));
    assert_eq!((world.value("r"), world.value("new")), (Some(("c", 4)), Some(("d", 5))));
}

#[test]
fn a_request_is_applied_once_and_answered_alike() {
    let mut world = World::new();
    // Each is followed by two others, so `add` is at version 4.
    for op in [write("7"), add(1), set_at(4, "9"), RegisterOp::Remove] {
        let request = world.request();
        let first = world.repeat("r", op.clone(), request);
        assert!(!matches!(first, Outcome::Refused(_)), "{first:?}");
        world.change("other", write("x"));
        world.change("other", RegisterOp::Remove);
        let once = world.state.clone();
        assert_eq!(world.repeat("r", op, request), first);
        assert_eq!(world.state, once);
    }
}

#[test]
fn what_may_have_been_forgotten_is_refused_and_not_made_twice() {
    let mut world = World::new();
    let request = world.request();
    assert_eq!(world.repeat("n", add(1), request), made(1, "1"));
    for at in 1..REGISTER_CHANGES_REMEMBERED as u64 {
        world.change("other", add(1));
        if at % 100 == 0 {
            assert_eq!(world.repeat("n", add(1), request), made(1, "1"), "after {at} others");
        }
    }
    assert_eq!(world.repeat("n", add(1), request), made(1, "1"), "the oldest that is remembered");
    world.change("other", add(1));
    let Outcome::Refused(error) = world.repeat("n", add(1), request) else { panic!("made twice") };
    assert_eq!(error.code, ErrorCode::NoLeader);
    assert_eq!(world.value("n"), Some(("1", 1)));
    assert_eq!(world.state.registers.recent.len(), REGISTER_CHANGES_REMEMBERED);
    // A snapshot keeps what is remembered.
    let bytes = encode_snapshot(&world.state).unwrap();
    assert_eq!(decode_snapshot(&bytes).unwrap(), world.state);
}

#[test]
fn names_values_and_their_number_are_bounded() {
    let mut world = World::new();
    for name in ["", "a\nb", &"x".repeat(REGISTER_NAME_BYTES_MAX + 1)] {
        assert_eq!(world.refused(name, write("")), ErrorCode::InvalidResource, "{name:?}");
    }
    let longest = "x".repeat(REGISTER_NAME_BYTES_MAX);
    assert_eq!(world.refused(&longest, write(&"x".repeat(REGISTER_VALUE_BYTES_MAX + 1))), ErrorCode::InvalidResource);
    world.change(&longest, write(&"x".repeat(REGISTER_VALUE_BYTES_MAX)));
    for at in 1..REGISTERS_MAX {
        world.change(&format!("r{at}"), write(""));
    }
    assert_eq!(world.state.registers.values.len(), REGISTERS_MAX);
    assert_eq!(world.refused("more", write("")), ErrorCode::ProposalRefused);
    assert!(matches!(world.change("r1", write("again")), Outcome::Register { .. }));
    world.change("r1", RegisterOp::Remove);
    assert!(matches!(world.change("more", write("")), Outcome::Register { .. }));
}
