//! Rulings already made, by everything that they depend on.
//!
//! The key holds the epoch, the catalog, the principal with all its attributes, the action, tables and columns, and of the
//! circumstances what the policies about these tables read: a policy that reads `context.hour` is asked again each
//! hour, one that reads `context.now` each time.
//!
//! INVARIANT: two questions with the same key have the same ruling.

use std::collections::BTreeMap;

use greylag_protocol::{
    Epoch,
    messages::control::{Action, CONTROL_BYTES_MAX, TableName},
    principal::Principal,
    wire,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::engine::{PolicyEngine, Question, Ruling};

/// Most rulings kept.
pub const RULINGS_MAX: usize = 10_000;

/// Most bytes of obligations and policy ids kept, as they are encoded.
pub const RULING_BYTES_MAX: usize = 32 << 20;

/// What the map itself takes for each ruling, roughly.
const ENTRY_BYTES: usize = 200;

/// SHA-256 over all that a ruling depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulingKey([u8; 32]);

#[derive(Serialize)]
struct Depends<'a> {
    epoch: Epoch,
    catalog: [u8; 32],
    principal: &'a Principal,
    action: Action,
    touched: Vec<(&'a TableName, Option<Vec<&'a str>>)>,
    origin: Option<&'a str>,
    environment: Option<&'a str>,
    hour: Option<i64>,
    minute: Option<i64>,
    weekday: Option<i64>,
}

impl PolicyEngine {
    /// The key of a question, or `None` when its ruling must not be kept.
    pub fn key(&self, question: &Question<'_>) -> Option<RulingKey> {
        let reads = self.context_reads(question.touched)?;
        if reads.contains("now") {
            return None;
        }
        let (hour, minute, weekday) = question.circumstances.local_time();
        let depends = Depends {
            epoch: self.epoch(),
            catalog: self.catalog_digest(),
            // With it go framework and priority, which are the principal's attributes.
            principal: question.principal,
            action: question.action,
            touched: question
                .touched
                .iter()
                .map(|t| (&t.table, t.columns.as_ref().map(|c| c.iter().map(String::as_str).collect())))
                .collect(),
            origin: reads.contains("origin").then_some(question.circumstances.origin.as_str()),
            environment: reads.contains("environment").then_some(question.circumstances.environment.as_str()),
            hour: reads.contains("hour").then_some(hour),
            minute: reads.contains("minute").then_some(minute),
            weekday: reads.contains("weekday").then_some(weekday),
        };
        let bytes = wire::encode(&depends, CONTROL_BYTES_MAX).ok()?;
        Some(RulingKey(Sha256::digest(bytes).into()))
    }
}

/// Least recently used go first.
#[derive(Debug, Default)]
pub struct RulingCache {
    rulings: BTreeMap<RulingKey, (u64, usize, Ruling)>,
    by_use: BTreeMap<u64, RulingKey>,
    uses: u64,
    bytes: usize,
    pub hits: u64,
    pub misses: u64,
}

impl RulingCache {
    /// The ruling on a question: kept, or made now.
    pub fn decide(&mut self, engine: &PolicyEngine, question: &Question<'_>) -> Ruling {
        let Some(key) = engine.key(question) else {
            self.misses += 1;
            return engine.decide(question);
        };
        if let Some(ruling) = self.get(key) {
            return ruling;
        }
        let ruling = engine.decide(question);
        self.put(key, ruling.clone());
        ruling
    }

    pub fn get(&mut self, key: RulingKey) -> Option<Ruling> {
        let Some((used, _, ruling)) = self.rulings.get_mut(&key) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        self.uses += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.uses, key);
        *used = self.uses;
        Some(ruling.clone())
    }

    pub fn put(&mut self, key: RulingKey, ruling: Ruling) {
        let encoded = (&ruling.obligations, &ruling.policies, &ruling.notices, &ruling.verdict);
        let Ok(encoded) = wire::encode(&encoded, CONTROL_BYTES_MAX) else { return };
        let bytes = encoded.len() + ENTRY_BYTES;
        self.remove(key);
        while self.rulings.len() >= RULINGS_MAX || self.bytes + bytes > RULING_BYTES_MAX {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            self.remove(*oldest);
        }
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, key);
        self.rulings.insert(key, (self.uses, bytes, ruling));
    }

    fn remove(&mut self, key: RulingKey) {
        if let Some((used, bytes, _)) = self.rulings.remove(&key) {
            self.by_use.remove(&used);
            self.bytes -= bytes;
        }
    }

    /// Forgets all: for an epoch that has gone. Keys of another epoch would never be found again, but take room.
    pub fn clear(&mut self) {
        (self.rulings, self.by_use, self.bytes) = (BTreeMap::new(), BTreeMap::new(), 0);
    }

    pub fn len(&self) -> usize {
        self.rulings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rulings.is_empty()
    }
}
