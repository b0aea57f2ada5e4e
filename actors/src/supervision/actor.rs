//! The actor around the core: it starts, stops and waits as it is told, and reports back what came of it. It decides
//! nothing.
//!
//! INVARIANT: a start that was begun is reported exactly once, even when it is called off: a child is never started
//! while an earlier start of it may still come to something.

use std::collections::BTreeMap;

use futures::future::join_all;
use greylag_protocol::{ErrorCode, MeshError, Result};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tokio::time::Instant;

use super::{
    child::{Kid, StartTask, Started, later, start, stop_cell},
    core::{ChildId, Core, Effect, Event},
    spec::{Budget, ChildSpec, Restart, SHUTDOWN_DEFAULT, Strategy},
};
use crate::{
    context::ActorHome,
    measure,
    tree::{ActorState, TreeEntry},
};

/// Children of one supervisor.
pub(super) const CHILDREN_MAX: usize = 10_000;

#[derive(RactorMessage)]
pub(super) enum Message {
    /// With `trial`, answers when the child runs or has failed to start; else at once.
    Add {
        spec: ChildSpec,
        trial: bool,
        reply: Started,
    },
    /// Answers when the child is gone.
    Remove {
        name: String,
        reply: RpcReplyPort<bool>,
    },
    Children {
        reply: RpcReplyPort<Vec<String>>,
    },
    StartEnded {
        child: ChildId,
        outcome: Result<ActorCell>,
    },
    Waited {
        child: ChildId,
        turn: u64,
    },
    Overdue {
        child: ChildId,
        turn: u64,
    },
}

pub(super) struct SupervisorActor;

pub(super) struct Arguments {
    pub home: ActorHome,
    pub name: String,
    pub strategy: Strategy,
    pub budget: Budget,
    pub children: Vec<ChildSpec>,
    /// Name of its own supervisor within the node; empty for none.
    pub parent: String,
}

pub(super) struct State {
    home: ActorHome,
    name: String,
    strategy: Strategy,
    core: Core,
    kids: BTreeMap<ChildId, Kid>,
    next: ChildId,
    cells: BTreeMap<ActorId, ChildId>,
    /// Ends of children whose start has not been reported yet. Empty when none is being started.
    early: BTreeMap<ActorId, Option<String>>,
    began: Instant,
    dice: u64,
    entry: TreeEntry,
}

impl Actor for SupervisorActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Message>, args: Arguments) -> Result<State, ActorProcessingErr> {
        for spec in args.children {
            me.cast(Message::Add { spec, trial: false, reply: RpcReplyPort::from(tokio::sync::oneshot::channel().0) })?;
        }
        let seed = args.name.bytes().fold(args.home.seed, |seed, byte| next_dice(seed ^ u64::from(byte)));
        let entry = args.home.tree.register(&args.name, &args.parent);
        entry.set(ActorState::Running);
        Ok(State {
            home: args.home,
            name: args.name,
            strategy: args.strategy,
            core: Core::new(args.strategy, args.budget),
            kids: BTreeMap::new(),
            next: 0,
            cells: BTreeMap::new(),
            early: BTreeMap::new(),
            began: Instant::now(),
            dice: seed,
            entry,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Add { spec, trial, reply } => state.add(&me, spec, trial, reply),
            Message::Remove { name, reply } => {
                let Some((child, kid)) = state.kids.iter_mut().find(|(_, kid)| kid.spec.name == name) else {
                    let _ = reply.send(false);
                    return Ok(());
                };
                kid.gone.push(reply);
                let child = *child;
                state.step(&me, Event::Remove { child })
            }
            Message::Children { reply } => {
                let _ = reply.send(state.kids.values().map(|kid| kid.spec.name.clone()).collect());
                Ok(())
            }
            Message::StartEnded { child, outcome } => state.start_ended(&me, child, outcome),
            Message::Waited { child, turn } => state.step(&me, Event::Waited { child, turn }),
            Message::Overdue { child, turn } => state.step(&me, Event::Overdue { child, turn }),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, failure) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error.to_string())),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.filter(|reason| reason == "killed" || reason == "actor_task_cancelled"))
            }
            _ => return Ok(()),
        };
        match state.cells.remove(&cell.get_id()) {
            Some(child) => state.ended(&me, child, failure),
            None => {
                if state.kids.values().any(|kid| kid.starting) {
                    state.early.insert(cell.get_id(), failure);
                }
                Ok(())
            }
        }
    }

    /// Nobody restarts anybody any more: the children stop, each in its time, the last added first where order counts.
    async fn post_stop(&self, me: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let mut kids = std::mem::take(&mut state.kids);
        join_all(kids.values_mut().filter_map(|kid| kid.start.take()).map(StartTask::call_off)).await;
        // Children that run, but whose start could not be reported any more.
        let mut strays = me.get_cell().get_children();
        strays.retain(|cell| !state.cells.contains_key(&cell.get_id()));
        strays.sort_by_key(ActorCell::get_id);
        join_all(strays.iter().map(|cell| stop_cell(cell, SHUTDOWN_DEFAULT))).await;
        let stops = kids.into_values().rev().map(|kid| async move {
            drop(kid.timer);
            if let Some(cell) = &kid.cell {
                stop_cell(cell, kid.spec.shutdown).await;
            }
            kid.entry.set(ActorState::Stopped);
        });
        match state.strategy {
            Strategy::OneForOne => drop(join_all(stops).await),
            Strategy::RestForOne => {
                for stop in stops {
                    stop.await;
                }
            }
        }
        state.entry.set(ActorState::Stopped);
        Ok(())
    }
}

impl State {
    fn add(
        &mut self,
        me: &ActorRef<Message>,
        spec: ChildSpec,
        trial: bool,
        reply: Started,
    ) -> Result<(), ActorProcessingErr> {
        if self.kids.len() >= CHILDREN_MAX {
            let full = format!("supervisor `{}` has {CHILDREN_MAX} children already", self.name);
            let _ = reply.send(Err(MeshError::new(ErrorCode::QueueFull, full)));
            return Ok(());
        }
        if self.kids.values().any(|kid| kid.spec.name == spec.name) {
            let twice = format!("supervisor `{}` has a child `{}` already", self.name, spec.name);
            let _ = reply.send(Err(MeshError::internal(twice)));
            return Ok(());
        }
        self.next += 1;
        let child = self.next;
        let entry = self.home.tree.register(&spec.name, &self.name);
        let started = if trial {
            Some(reply)
        } else {
            let _ = reply.send(Ok(None));
            None
        };
        let restart = spec.restart;
        self.kids.insert(child, Kid::new(spec, entry, started));
        self.step(me, Event::Added { child, restart, trial })
    }

    fn start_ended(
        &mut self,
        me: &ActorRef<Message>,
        child: ChildId,
        outcome: Result<ActorCell>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(kid) = self.kids.get_mut(&child) else {
            if let Ok(cell) = outcome {
                cell.kill();
            }
            return Ok(());
        };
        kid.start = None;
        kid.starting = false;
        let cell = match outcome {
            Ok(cell) => cell,
            Err(error) => {
                let reason = error.to_string();
                if let Some(reply) = kid.started.take() {
                    let _ = reply.send(Err(error));
                }
                self.forget_early();
                return self.step(me, Event::StartFailed { child, reason });
            }
        };
        if let Some(reply) = kid.started.take() {
            let _ = reply.send(Ok(Some(cell.clone())));
        }
        let id = cell.get_id();
        kid.cell = Some(cell);
        let early = self.early.remove(&id);
        self.forget_early();
        self.cells.insert(id, child);
        self.step(me, Event::Started { child })?;
        match early {
            None => Ok(()),
            Some(failure) => {
                self.cells.remove(&id);
                self.ended(me, child, failure)
            }
        }
    }

    fn forget_early(&mut self) {
        if !self.kids.values().any(|kid| kid.starting) {
            self.early.clear();
        }
    }

    fn ended(
        &mut self,
        me: &ActorRef<Message>,
        child: ChildId,
        failure: Option<String>,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(kid) = self.kids.get_mut(&child) {
            kid.cell = None;
            kid.timer = None;
        }
        self.step(me, Event::Ended { child, failure })
    }

    fn step(&mut self, me: &ActorRef<Message>, event: Event) -> Result<(), ActorProcessingErr> {
        self.dice = next_dice(self.dice);
        for effect in self.core.step(self.began.elapsed(), self.dice, event) {
            self.perform(me, effect)?;
        }
        Ok(())
    }

    fn perform(&mut self, me: &ActorRef<Message>, effect: Effect) -> Result<(), ActorProcessingErr> {
        match effect {
            Effect::Start(child) => self.with(child, |kid| {
                kid.starting = true;
                kid.start = Some(start(me, child, &kid.spec));
            }),
            Effect::Stop(child, turn) => self.with(child, |kid| {
                kid.start = None;
                if let Some(cell) = &kid.cell {
                    cell.stop(None);
                }
                kid.timer = Some(later(me, kid.spec.shutdown, Message::Overdue { child, turn }));
            }),
            Effect::Kill(child) => self.with(child, |kid| {
                if let Some(cell) = &kid.cell {
                    cell.kill();
                }
            }),
            Effect::Wait(child, turn, wait) => {
                self.with(child, |kid| kid.timer = Some(later(me, wait, Message::Waited { child, turn })));
            }
            Effect::Show(child, shown) => self.with(child, |kid| kid.entry.set(shown)),
            Effect::Again(child) => {
                measure::actor_restarted();
                self.with(child, |kid| kid.entry.restarted());
            }
            Effect::Failed(child, reason) => self.failed(child, &reason),
            Effect::Forget(child) => self.forget(child),
            Effect::Melt(reason) => {
                self.entry.failed(&reason);
                tracing::error!(node = %self.home.node, supervisor = self.name, "supervisor gives up");
                return Err(ActorProcessingErr::from(format!("supervisor `{}` gave up: {reason}", self.name)));
            }
        }
        Ok(())
    }

    fn with(&mut self, child: ChildId, change: impl FnOnce(&mut Kid)) {
        if let Some(kid) = self.kids.get_mut(&child) {
            change(kid);
        }
    }

    fn failed(&self, child: ChildId, reason: &str) {
        let Some(kid) = self.kids.get(&child) else { return };
        kid.entry.failed(reason);
        let (node, name) = (self.home.node, &kid.spec.name);
        // What a temporary child (a query) says of its end may quote the statement.
        if kid.spec.restart == Restart::Temporary {
            tracing::debug!(%node, actor = name, reason, "actor failed");
        } else {
            tracing::warn!(%node, actor = name, reason, "actor failed");
        }
    }

    fn forget(&mut self, child: ChildId) {
        let Some(kid) = self.kids.remove(&child) else { return };
        if let Some(cell) = kid.cell {
            self.cells.remove(&cell.get_id());
        }
        if let Some(reply) = kid.started {
            let gone = format!("`{}` was stopped before it ran", kid.spec.name);
            let _ = reply.send(Err(MeshError::new(ErrorCode::Cancelled, gone)));
        }
        for reply in kid.gone {
            let _ = reply.send(true);
        }
    }
}

/// SplitMix64.
fn next_dice(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
