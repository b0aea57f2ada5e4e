//! One child as its supervisor's actor knows it: how it is started, how it is stopped.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use greylag_protocol::{ErrorCode, MeshError, Result};
use ractor::{ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr};
use tokio::task::JoinHandle;

use super::{actor::Message, core::ChildId, spec::ChildSpec};
use crate::{task::TaskGuard, tree::TreeEntry};

/// Longest start of a child; then it counts as failed.
pub(super) const START_MAX: Duration = Duration::from_secs(30);
/// Time that a killed child has to be gone before its supervisor goes on without it.
const KILL_MAX: Duration = Duration::from_secs(1);

/// Answers whoever asked for a child to be started.
pub(super) type Started = RpcReplyPort<Result<Option<ActorCell>>>;

/// A child, whatever its state.
pub(super) struct Kid {
    pub spec: ChildSpec,
    pub cell: Option<ActorCell>,
    pub start: Option<StartTask>,
    /// A start of it has not been reported yet.
    pub starting: bool,
    pub timer: Option<TaskGuard>,
    pub entry: TreeEntry,
    pub started: Option<Started>,
    pub gone: Vec<RpcReplyPort<bool>>,
}

impl Kid {
    pub(super) fn new(spec: ChildSpec, entry: TreeEntry, started: Option<Started>) -> Self {
        Self { spec, cell: None, start: None, starting: false, timer: None, entry, started, gone: Vec::new() }
    }
}

/// A start under way; called off when dropped.
pub(super) struct StartTask(JoinHandle<()>);

impl Drop for StartTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl StartTask {
    /// Calls it off, and returns when it does nothing more.
    pub(super) async fn call_off(mut self) {
        self.0.abort();
        let _ = tokio::time::timeout(KILL_MAX, &mut self.0).await;
    }
}

/// Says how a start ended, whatever became of the task that ran it.
struct StartReport {
    me: ActorRef<Message>,
    child: ChildId,
    outcome: Option<Result<ActorCell>>,
}

impl StartReport {
    fn end(mut self, outcome: Result<ActorCell>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for StartReport {
    fn drop(&mut self) {
        let called_off = || Err(MeshError::new(ErrorCode::Cancelled, "the start was called off"));
        let outcome = self.outcome.take().unwrap_or_else(called_off);
        let _ = self.me.cast(Message::StartEnded { child: self.child, outcome });
    }
}

/// Starts a child beside the supervisor, which goes on meanwhile.
pub(super) fn start(me: &ActorRef<Message>, child: ChildId, spec: &ChildSpec) -> StartTask {
    let report = StartReport { me: me.clone(), child, outcome: None };
    let (start, supervisor) = (spec.start.clone(), me.get_cell());
    StartTask(tokio::spawn(async move {
        let work = AssertUnwindSafe(async move { start(supervisor).await }).catch_unwind();
        report.end(match tokio::time::timeout(START_MAX, work).await {
            Ok(Ok(Ok(cell))) => Ok(cell),
            Ok(Ok(Err(error))) => Err(mesh_error(error)),
            Ok(Err(_)) => Err(MeshError::internal("the start panicked")),
            Err(_) => {
                let late = format!("it did not start within {} ms", START_MAX.as_millis());
                Err(MeshError::new(ErrorCode::Deadline, late))
            }
        });
    }))
}

/// The error that an actor gave when it was started, if it was one of ours.
fn mesh_error(error: ActorProcessingErr) -> MeshError {
    let error = match error.downcast::<SpawnErr>() {
        Ok(spawn) => match *spawn {
            SpawnErr::StartupFailed(inner) => inner,
            other => return MeshError::internal(other.to_string()),
        },
        Err(error) => error,
    };
    match error.downcast::<MeshError>() {
        Ok(error) => *error,
        Err(error) => MeshError::internal(error.to_string()),
    }
}

/// Sends the supervisor a message after a while, unless the guard goes first.
pub(super) fn later(me: &ActorRef<Message>, after: Duration, message: Message) -> TaskGuard {
    let me = me.clone();
    TaskGuard::control(async move {
        tokio::time::sleep(after).await;
        let _ = me.cast(message);
    })
}

/// Stops an actor, and kills it when its time is over. Returns when it is gone.
pub(super) async fn stop_cell(cell: &ActorCell, time: Duration) {
    cell.stop(None);
    if cell.wait(Some(time)).await.is_err() {
        tracing::warn!(actor = cell.get_name(), "actor is killed: it did not stop in its time");
        cell.kill();
        if cell.wait(Some(KILL_MAX)).await.is_err() {
            tracing::error!(actor = cell.get_name(), "actor cannot be killed: it blocks its thread");
        }
    }
}
