//! Registers: small named values that the log keeps for whoever needs one agreed word: a lock, a counter, a generation.
//! They are not a store: names, values and their number are bounded. How they change is in `cluster::state`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// All registers, and what is remembered of their last changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// Changes ever made to any register. It is the version of the register that was changed last, so no version is
    /// ever used twice, not even by a register that is removed and made again.
    pub changes: u64,
    pub values: BTreeMap<String, Register>,
    /// The last changes, by the version that each has made.
    pub recent: BTreeMap<u64, RecentChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// A counter's value is its decimal digits.
    pub value: String,
    /// From 1; another one after each change.
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentChange {
    pub request: Uuid,
    /// What a counter came to. The other operations say themselves what they come to.
    pub sum: Option<i64>,
}

/// Names one change, so that it is made once however often it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    pub id: Uuid,
    /// [`Registers::changes`] as known when the change was asked for first. Once so many changes have followed that it
    /// may have been made and forgotten, it is refused instead of being made twice.
    pub after: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterOp {
    Write {
        value: String,
    },
    /// Writes only if the register is as expected; GL4008 if not.
    CompareAndSet {
        expect: RegisterExpect,
        value: String,
    },
    /// Adds to a counter. One that is not there counts from 0.
    Add {
        delta: i64,
    },
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterExpect {
    /// 0 for "must not exist".
    Version(u64),
    Value(String),
}

impl fmt::Display for RegisterOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegisterOp::Write { .. } => "write",
            RegisterOp::CompareAndSet { .. } => "compare and set",
            RegisterOp::Add { .. } => "add to",
            RegisterOp::Remove => "remove",
        })
    }
}
