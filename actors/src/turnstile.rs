//! Admission: so many at once, so many waiting in order of arrival, the rest refused. Used for statements by the
//! coordinator and for sub-queries by an edge.
//!
//! INVARIANT: at most `inside_max` slots exist at a time, and a freed one goes to whoever has waited longest.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::bounds::Bound;

/// What entering comes to, decided without waiting.
#[derive(Debug)]
pub enum Entry {
    Inside(Slot),
    /// Behind others: the slot comes when it is free.
    Queued(Queued),
    /// The queue is full.
    Refused,
}

/// Cheap to clone; all clones are one turnstile.
#[derive(Debug, Clone)]
pub struct Turnstile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inside: Arc<Bound>,
    waiting: Arc<Bound>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiter>,
}

/// Counted among those who wait until dropped.
#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Slot>,
    _place: Place,
}

#[derive(Debug)]
struct Place(Arc<Bound>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turnstile {
    /// At most so many inside, and at most so many who wait.
    pub fn new(inside: Arc<Bound>, waiting: Arc<Bound>) -> Self {
        Self { shared: Arc::new(Shared { inside, waiting, state: Mutex::default() }) }
    }

    pub fn enter(&self) -> Entry {
        let mut state = self.shared.lock();
        if self.shared.inside.used() < self.shared.inside.max() {
            self.shared.inside.take(1);
            return Entry::Inside(Slot { shared: self.shared.clone() });
        }
        state.queue.retain(|waiter| !waiter.sender.is_closed());
        if !self.shared.waiting.reserve(1) {
            return Entry::Refused;
        }
        let (sender, receiver) = oneshot::channel();
        state.queue.push_back(Waiter { sender, _place: Place(self.shared.waiting.clone()) });
        Entry::Queued(Queued { receiver })
    }

    /// How many are inside, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.lock();
        let waiting = state.queue.iter().filter(|waiter| !waiter.sender.is_closed()).count();
        (self.shared.inside.used() as usize, waiting)
    }
}

/// The right to be inside, until dropped.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let next = loop {
            match state.queue.pop_front() {
                Some(waiter) if waiter.sender.is_closed() => continue,
                Some(waiter) => break Some(waiter.sender),
                None => break None,
            }
        };
        let Some(waiter) = next else {
            self.shared.inside.release(1);
            return;
        };
        drop(state);
        // Passed on, not given back. If the waiter has gone meanwhile, dropping what comes back passes it further.
        drop(waiter.send(Slot { shared: self.shared.clone() }));
    }
}

/// A place in the queue, until dropped.
#[derive(Debug)]
pub struct Queued {
    receiver: oneshot::Receiver<Slot>,
}

impl Queued {
    /// The slot, when it is this one's turn.
    pub async fn wait(self) -> Option<Slot> {
        self.receiver.await.ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn turnstile(inside: u64, waiting: u64) -> Turnstile {
        Turnstile::new(Arc::new(Bound::of(inside)), Arc::new(Bound::of(waiting)))
    }

    fn inside(entry: Entry) -> Slot {
        match entry {
            Entry::Inside(slot) => slot,
            other => panic!("not inside: {other:?}"),
        }
    }

    fn queued(entry: Entry) -> Queued {
        match entry {
            Entry::Queued(queued) => queued,
            other => panic!("not queued: {other:?}"),
        }
    }

    #[tokio::test]
    async fn first_come_first_served_and_the_rest_refused() {
        let turnstile = turnstile(1, 2);
        let first = inside(turnstile.enter());
        let second = queued(turnstile.enter());
        let mut third = queued(turnstile.enter());
        assert!(matches!(turnstile.enter(), Entry::Refused));
        assert_eq!(turnstile.load(), (1, 2));
        drop(first);
        let second = second.wait().await.unwrap();
        assert!(third.receiver.try_recv().is_err(), "the third went before its turn");
        assert_eq!(turnstile.load(), (1, 1));
        drop(second);
        drop(third.wait().await.unwrap());
        assert_eq!(turnstile.load(), (0, 0));
    }

    #[tokio::test]
    async fn who_leaves_the_queue_blocks_nobody() {
        let turnstile = turnstile(1, 1);
        let first = inside(turnstile.enter());
        drop(queued(turnstile.enter()));
        let second = queued(turnstile.enter());
        drop(first);
        drop(second.wait().await.unwrap());
        assert_eq!(turnstile.load(), (0, 0));
    }

    #[test]
    fn a_slot_given_to_one_who_has_just_gone_is_passed_on() {
        let turnstile = turnstile(1, 4);
        let first = inside(turnstile.enter());
        let gone = queued(turnstile.enter());
        let mut next = queued(turnstile.enter());
        drop(first);
        // The slot lies in `gone`'s channel, unread.
        drop(gone);
        assert!(next.receiver.try_recv().is_ok());
    }
}
