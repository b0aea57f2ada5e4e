//! How a running statement is told to stop, from outside its thread and without a race.
//!
//! `sqlite3_interrupt` alone is not enough: called a moment before the statement starts, it is forgotten, and called a
//! moment after it ends, it hits the next one. So the wish is kept in a flag that SQLite asks for while it works, and
//! the interrupt, which gets through faster, is sent only while the statement holds its connection.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use greylag_protocol::{ErrorCode, MeshError};
use rusqlite::InterruptHandle;
use tokio_util::sync::CancellationToken;

/// Why a statement is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reason {
    /// Nobody wants the rows any more.
    Cancelled = 1,
    /// Its time is up.
    Deadline = 2,
}

/// The wish that one statement stops.
pub(super) struct Stop {
    reason: AtomicU8,
    deadline: Instant,
    interrupt: Mutex<Option<InterruptHandle>>,
    token: CancellationToken,
}

impl Stop {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { reason: AtomicU8::new(0), deadline, interrupt: Mutex::new(None), token: CancellationToken::new() }
    }

    /// The first reason stays.
    pub(super) fn halt(&self, reason: Reason) {
        let _ = self.reason.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        self.token.cancel();
        if let Some(handle) = held(&self.interrupt).as_ref() {
            handle.interrupt();
        }
    }

    /// The error to end with, if the statement is to stop. Asked often, by the statement itself.
    pub(super) fn wish(&self) -> Option<MeshError> {
        if self.reason.load(Ordering::Acquire) == 0 && Instant::now() >= self.deadline {
            self.halt(Reason::Deadline);
        }
        match self.reason.load(Ordering::Acquire) {
            0 => None,
            reason if reason == Reason::Deadline as u8 => {
                Some(MeshError::new(ErrorCode::Deadline, "the sub-query ran out of time"))
            }
            _ => Some(MeshError::new(ErrorCode::Cancelled, "the sub-query was cancelled")),
        }
    }

    /// Resolves once the statement is to stop.
    pub(super) async fn halted(&self) {
        self.token.cancelled().await;
    }

    /// The statement now holds this connection.
    pub(super) fn attach(&self, handle: InterruptHandle) {
        *held(&self.interrupt) = Some(handle);
    }

    /// The connection is about to serve somebody else.
    pub(super) fn detach(&self) {
        *held(&self.interrupt) = None;
    }
}

/// What the mutex holds. Nothing that is kept in ours can be left half-done by a panic.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
