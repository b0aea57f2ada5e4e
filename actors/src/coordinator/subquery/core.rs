//! How one sub-query is kept alive: which edge gets the next attempt, when an attempt may be repeated, and when the
//! query has to be told that its rows cannot be made whole. Pure: events in, effects out.
//!
//! Rules (DESIGN 8): R0, nothing had come: another attempt on any edge. R1, what had come was held back at the gate:
//! thrown away, then as R0. R2, the plan has used rows in the order of a key: another attempt that begins after the last
//! key, if the source's content is what it was, else R3. R3, the plan has used rows: another attempt that proves to begin with them. R4, only the
//! connection died: the same edge is asked for the rest of the answer it was giving. R5, none of these: the query's own
//! supervisor decides.
//!
//! INVARIANT: the effect of a failure always begins with the fence of the next attempt's number, so that nothing an
//! older attempt still sends is let in, whatever happens afterwards.

use std::collections::BTreeMap;

use greylag_protocol::{ErrorClass, ErrorCode, MeshError, NodeId, SourceName, prefix::Prefix};

use crate::coordinator::{circuits::Condition, gate::core::Fenced};

/// Pause before the first repeated attempt, milliseconds; doubled with each further one.
pub const BACKOFF_MS_MIN: u64 = 50;
/// Longest pause, milliseconds: with it a restart still begins within a second.
pub const BACKOFF_MS_MAX: u64 = 800;

/// Pause while no edge can be reached, milliseconds, and most of them on end. They add up to what the leader needs to
/// notice a lost node and give its role to another, and no longer: then there is a prompt error.
pub const NO_EDGE_MS: u64 = 1_000;
pub const NO_EDGE_PAUSES_MAX: u32 = 3;

/// Longest outage that a sub-query sits out while the circuits of all its edges are open, milliseconds since the first
/// failure. A source that restarts is back by then; with one that is down for longer there is a prompt error.
pub const OUTAGE_MS_MAX: u64 = 6_000;

/// Why an attempt was started, as `system.subqueries` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    First,
    R0,
    R1,
    /// The rest after the last key that was used; R3 if the source has changed.
    R2,
    /// What was used is left out, once it has been proved to be the same.
    R3,
    /// The same edge goes on with the answer that it was giving; if it has lost it, this is one of those above.
    R4,
    /// First attempt in a restarted query.
    R5,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::R0 => "R0",
            Self::R1 => "R1",
            Self::R2 => "R2",
            Self::R3 => "R3",
            Self::R4 => "R4",
            Self::R5 => "R5",
        }
    }
}

/// An edge that serves the source according to the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    /// This very node, or a node it has a link to.
    pub linked: bool,
    /// How the source behind it has done lately.
    pub condition: Condition,
}

/// Fixed facts of one sub-query.
#[derive(Debug, Clone)]
pub struct Setting {
    pub source: SourceName,
    /// The coordinator's node: its own edge needs no network.
    pub own: NodeId,
    /// Attempts in one run of the query.
    pub attempts_max: u32,
    /// Run of the query, from 1. Each has attempt numbers of its own.
    pub run: u32,
    /// Spreads the first attempts of different sub-queries over equal edges.
    pub spread: u64,
    /// Edges that have failed this source in an earlier run of the query: taken only if there is no other.
    pub shunned: Vec<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Opened {
        edges: Vec<Candidate>,
    },
    /// The stream fitted its trailer and the gate has taken its end.
    Ended {
        attempt: u32,
    },
    Failed {
        attempt: u32,
        error: MeshError,
    },
    /// The gate itself has failed (memory, rows that do not add up): another attempt would fare no better.
    GateFailed {
        attempt: u32,
        error: MeshError,
    },
    /// The gate's answer to [`Effect::Fence`]. `dice` is random, below 1,000.
    Fenced {
        attempt: u32,
        found: Fenced,
        edges: Vec<Candidate>,
        dice: u32,
    },
    /// The query's answer to [`Effect::SpendRestart`].
    Budget {
        granted: bool,
    },
    Waited {
        attempt: u32,
        edges: Vec<Candidate>,
    },
    /// Between the choice of an edge and the start of the attempt somebody else was the one to try the edge's source.
    Held {
        attempt: u32,
        rule: Rule,
        resume: Prefix,
        edges: Vec<Candidate>,
    },
    /// The plan wants no more rows; `complete` if the gate had its end by then.
    Abandoned {
        complete: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Raise the gate's number, before anything else.
    Fence { attempt: u32 },
    /// Stop it, if it still runs.
    CancelAttempt { attempt: u32 },
    /// Take one from the query's budget of restarts.
    SpendRestart,
    /// Come back with [`Event::Waited`] after this time; `or_edge`: or as soon as an edge can be reached.
    Wait { attempt: u32, ms: u64, or_edge: bool },
    StartAttempt {
        attempt: u32,
        edge: NodeId,
        rule: Rule,
        /// What it has to begin with, and is to leave out.
        resume: Prefix,
        /// With R4: the attempt whose answer is wanted, and the rule should it be lost.
        reattach: Option<(u32, Rule)>,
    },
    /// All rows are with the plan, or on their way to it.
    Finish,
    /// The sub-query has failed for good.
    Fail(MeshError),
    /// R5: rows were used; only the whole query can be run again.
    RestartQuery { cause: MeshError, edge: Option<NodeId> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    New,
    Running { edge: NodeId },
    Fencing { error: MeshError, edge: Option<NodeId> },
    Asking { error: MeshError, rule: Rule, resume: Prefix, wait: Pause },
    Waiting { rule: Rule, resume: Prefix },
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pause {
    ms: u64,
    or_edge: bool,
}

#[derive(Debug)]
pub struct SubqueryCore {
    setting: Setting,
    /// Number of the current attempt; the first of a run is the one after this.
    attempt: u32,
    /// Attempts begun in this run.
    begun: u32,
    /// Pauses on end in which no edge could be reached.
    edgeless: u32,
    /// Edge whose connection alone has died, with rows under way, and the first attempt of those on end that ended so.
    cut_off: Option<(NodeId, u32)>,
    /// The current attempt was to go on with an earlier one's answer.
    reattached: bool,
    /// Last attempt made at each edge.
    tried: BTreeMap<NodeId, u32>,
    phase: Phase,
}

impl SubqueryCore {
    pub fn new(setting: Setting) -> Self {
        let attempt = setting.run.saturating_sub(1).saturating_mul(setting.attempts_max.saturating_add(1));
        let tried = setting.shunned.iter().map(|node| (*node, 0)).collect();
        Self { setting, attempt, begun: 0, edgeless: 0, cut_off: None, reattached: false, tried, phase: Phase::New }
    }

    /// Number of the current attempt.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (event, self.phase.clone()) {
            (_, Phase::Over) => Vec::new(),
            (Event::Opened { edges }, Phase::New) => {
                self.attempt += 1;
                let rule = if self.setting.run > 1 { Rule::R5 } else { Rule::First };
                let mut effects = vec![Effect::Fence { attempt: self.attempt }];
                effects.extend(self.start(edges, rule, Prefix::default()));
                effects
            }
            (Event::Ended { attempt }, Phase::Running { .. }) if attempt == self.attempt => {
                self.phase = Phase::Over;
                vec![Effect::Finish]
            }
            (Event::Failed { attempt, error }, Phase::Running { edge }) if attempt == self.attempt => {
                self.failed(error.at_node(edge), Some(edge))
            }
            (Event::GateFailed { attempt, error }, Phase::Running { .. }) if attempt == self.attempt => {
                let mut effects = vec![Effect::CancelAttempt { attempt }];
                effects.extend(self.fail(error.of_source(self.setting.source.clone())));
                effects
            }
            (Event::Fenced { attempt, found, edges, dice }, Phase::Fencing { error, edge })
                if attempt == self.attempt =>
            {
                self.fenced(found, edges, dice, error, edge)
            }
            (Event::Budget { granted: false }, Phase::Asking { error, .. }) => {
                self.fail(worn_out(error, "the query's restarts are used up"))
            }
            (Event::Budget { granted: true }, Phase::Asking { rule, resume, wait: Pause { ms, or_edge }, .. }) => {
                self.phase = Phase::Waiting { rule, resume };
                vec![Effect::Wait { attempt: self.attempt, ms, or_edge }]
            }
            (Event::Waited { attempt, edges }, Phase::Waiting { rule, resume }) if attempt == self.attempt => {
                self.start(edges, rule, resume)
            }
            (Event::Held { attempt, rule, resume, edges }, Phase::Running { .. }) if attempt == self.attempt => {
                self.begun -= 1;
                self.start(edges, rule, resume)
            }
            // The attempt's own report is on its way.
            (Event::Abandoned { complete: true }, Phase::Running { .. }) => Vec::new(),
            (Event::Abandoned { .. }, _) => {
                self.phase = Phase::Over;
                vec![Effect::CancelAttempt { attempt: self.attempt }, Effect::Finish]
            }
            _ => Vec::new(),
        }
    }

    fn start(&mut self, edges: Vec<Candidate>, rule: Rule, resume: Prefix) -> Vec<Effect> {
        let source = self.setting.source.clone();
        let again =
            |c: &&Candidate| c.linked && c.condition.rest_ms == 0 && self.cut_off.is_some_and(|(n, _)| n == c.node);
        let again = edges.iter().find(again).copied();
        let chosen = again.or_else(|| self.choose(&edges));
        if let Some(Candidate { condition: Condition { rest_ms: ms @ 1.., failing_ms }, linked: true, .. }) = chosen {
            if failing_ms > OUTAGE_MS_MAX {
                let message = format!("`{source}` has not answered for {failing_ms} ms and is tried again in {ms} ms");
                return self.fail(MeshError::new(ErrorCode::CircuitOpen, message).of_source(source));
            }
            self.phase = Phase::Waiting { rule, resume };
            return vec![Effect::Wait { attempt: self.attempt, ms, or_edge: false }];
        }
        self.begun += 1;
        let Some(Candidate { node: edge, .. }) = chosen else {
            let error = MeshError::new(ErrorCode::NoEdge, format!("no live edge serves `{source}`"));
            return self.failed(error, None);
        };
        self.tried.insert(edge, self.attempt);
        self.phase = Phase::Running { edge };
        let reattach = self.cut_off.filter(|_| again.is_some()).map(|(_, since)| (since, rule));
        self.reattached = reattach.is_some();
        let rule = if reattach.is_some() { Rule::R4 } else { rule };
        vec![Effect::StartAttempt { attempt: self.attempt, edge, rule, resume, reattach }]
    }

    /// Linked before not linked, those that may be asked before those left alone (the shortest first), untried before
    /// tried (longest ago first), own before others; equals are spread.
    fn choose(&self, edges: &[Candidate]) -> Option<Candidate> {
        let mut best: Vec<Candidate> = edges.to_vec();
        best.sort_by_key(|c| c.node);
        if best.is_empty() {
            return None;
        }
        let shift = self.setting.spread % best.len() as u64;
        best.rotate_left(shift as usize);
        let tried = |c: &Candidate| self.tried.get(&c.node).map_or(0, |a| a + 1);
        best.into_iter().min_by_key(|c| (!c.linked, c.condition.rest_ms, tried(c), c.node != self.setting.own))
    }

    fn failed(&mut self, error: MeshError, edge: Option<NodeId>) -> Vec<Effect> {
        let dead = self.attempt;
        let since = self.cut_off.filter(|_| self.reattached).map_or(dead, |(_, since)| since);
        // While no edge can be reached at all, the answer waits on where it was.
        if let Some(edge) = edge {
            self.cut_off = (error.code == ErrorCode::PeerUnreachable).then_some((edge, since));
        }
        self.attempt += 1;
        self.phase = Phase::Fencing { error: error.of_source(self.setting.source.clone()), edge };
        vec![Effect::Fence { attempt: self.attempt }, Effect::CancelAttempt { attempt: dead }]
    }

    fn fenced(
        &mut self,
        found: Fenced,
        edges: Vec<Candidate>,
        dice: u32,
        error: MeshError,
        edge: Option<NodeId>,
    ) -> Vec<Effect> {
        if found.ended {
            // The gate had taken the end of the attempt before its failure was told: it has all rows.
            self.phase = Phase::Over;
            return vec![Effect::Finish];
        }
        if error.class() == ErrorClass::Permanent {
            return self.fail(error);
        }
        // Whoever would be asked next has to refuse too: the whole statement is decided anew.
        if matches!(error.code, ErrorCode::ReplayDiffers | ErrorCode::StaleDecision) {
            self.phase = Phase::Over;
            return vec![Effect::RestartQuery { cause: error, edge }];
        }
        let linked = edges.iter().any(|c| c.linked);
        self.edgeless = if linked { 0 } else { self.edgeless + 1 };
        if self.edgeless > NO_EDGE_PAUSES_MAX {
            return self.fail(worn_out(error, "no edge could be reached since"));
        }
        if self.begun >= self.setting.attempts_max {
            let tries = format!("given up after {} attempts", self.begun);
            return self.fail(worn_out(error, &tries));
        }
        let rule = match (found.taken.is_empty(), found.received_rows) {
            (false, _) if found.marked => Rule::R2,
            (false, _) => Rule::R3,
            (true, 0) => Rule::R0,
            (true, _) => Rule::R1,
        };
        if rule == Rule::R0 && !self.reattached {
            self.cut_off = None;
        }
        let again = edges.iter().any(|c| c.linked && self.cut_off.is_some_and(|(node, _)| node == c.node));
        let elsewhere = edges.iter().any(|c| c.linked && !self.tried.contains_key(&c.node));
        let wait = if !linked {
            Pause { ms: NO_EDGE_MS, or_edge: true }
        } else if again && !self.reattached || elsewhere && error.class() == ErrorClass::Transient {
            Pause { ms: 0, or_edge: false }
        } else {
            Pause { ms: backoff_ms(self.begun, dice), or_edge: false }
        };
        self.phase = Phase::Asking { error, rule, resume: found.taken, wait };
        vec![Effect::SpendRestart]
    }

    fn fail(&mut self, error: MeshError) -> Vec<Effect> {
        self.phase = Phase::Over;
        vec![Effect::Fail(error)]
    }
}

fn worn_out(mut error: MeshError, why: &str) -> MeshError {
    error.message = format!("{}; {why}", error.message);
    error
}

/// Between half of the doubled pause and all of it, by `dice` (below 1,000).
pub fn backoff_ms(begun: u32, dice: u32) -> u64 {
    let doubled = BACKOFF_MS_MIN.saturating_mul(1 << begun.saturating_sub(1).min(16)).min(BACKOFF_MS_MAX);
    doubled / 2 + doubled * u64::from(dice.min(999)) / 2_000
}
