//! Admission: so many at once, so many waiting, the rest refused. Used for statements by the coordinator, and for
//! sub-queries by an edge.
//!
//! Of those that wait the most urgent goes first; among equally urgent ones parties (organisations) take turns by their
//! weights, and within a party it goes by arrival. Who waits for long becomes more urgent, so that nobody waits for ever.
//!
//! INVARIANT: at most `inside_max` slots exist at a time, and a freed one goes to whoever is next by that order.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::principal::Priority;
use tokio::{sync::oneshot, time::Instant};

use crate::bounds::Bound;

/// Time after which who waits counts as one step more urgent.
pub const AGEING: Duration = Duration::from_secs(10);
/// A turn of a party of weight 1, in units of its share.
const TURN: u64 = 1 << 20;
/// Greatest weight that counts.
const WEIGHT_MAX: u32 = 1_000;

/// Who wants to enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub priority: Priority,
    /// Those of one party share its turns.
    pub party: String,
    /// Turns of this party for each of one of weight 1.
    pub weight: u32,
}

impl Default for Ticket {
    fn default() -> Self {
        Self { priority: Priority::Normal, party: String::new(), weight: 1 }
    }
}

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
    /// In order of arrival.
    queue: BTreeMap<u64, Waiter>,
    arrivals: u64,
    /// What each party has had of its share, for those that have waiters or have had more than the least.
    served: BTreeMap<String, u64>,
}

/// Counted among those who wait until dropped.
#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    since: Instant,
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

impl Waiter {
    fn urgency(&self, now: Instant) -> u64 {
        let aged = now.saturating_duration_since(self.since).as_secs() / AGEING.as_secs();
        (self.ticket.priority as u64 + aged).min(Priority::Critical as u64)
    }
}

impl State {
    /// What a party has had; one that comes anew has had as much as who has had least, so that it cannot catch up.
    fn served(&self, party: &str) -> u64 {
        let least = || self.served.values().min().copied().unwrap_or_default();
        self.served.get(party).copied().unwrap_or_else(least)
    }

    /// Smaller goes first.
    fn rank(&self, arrival: u64, waiter: &Waiter, now: Instant) -> (u64, u64, u64) {
        let urgency = Priority::Critical as u64 - waiter.urgency(now);
        (urgency, self.served(&waiter.ticket.party), arrival)
    }

    fn next(&self, now: Instant) -> Option<u64> {
        let wanted = self.queue.iter().filter(|(_, waiter)| !waiter.sender.is_closed());
        wanted.map(|(arrival, waiter)| self.rank(*arrival, waiter, now)).min().map(|(_, _, arrival)| arrival)
    }

    fn serve(&mut self, ticket: &Ticket) {
        let had = self.served(&ticket.party) + TURN / u64::from(ticket.weight.clamp(1, WEIGHT_MAX));
        self.served.insert(ticket.party.clone(), had);
        let waits = |party: &String| self.queue.values().any(|waiter| waiter.ticket.party == *party);
        // Where nobody waits there are no turns to take.
        let gone: Vec<String> = self.served.keys().filter(|party| !waits(party)).cloned().collect();
        if gone.len() == self.served.len() {
            self.served.clear();
        } else {
            let least = self.served.values().min().copied().unwrap_or_default();
            self.served.retain(|party, had| *had > least || !gone.contains(party));
        }
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

    /// Enters as one of many equals.
    pub fn enter(&self) -> Entry {
        self.enter_as(Ticket::default())
    }

    pub fn enter_as(&self, ticket: Ticket) -> Entry {
        let mut state = self.shared.lock();
        if self.shared.inside.used() < self.shared.inside.max() {
            self.shared.inside.take(1);
            state.serve(&ticket);
            return Entry::Inside(Slot { shared: self.shared.clone() });
        }
        state.queue.retain(|_, waiter| !waiter.sender.is_closed());
        if !self.shared.waiting.reserve(1) {
            return Entry::Refused;
        }
        // Who waits begins to count now.
        let had = state.served(&ticket.party);
        state.served.entry(ticket.party.clone()).or_insert(had);
        let (sender, receiver) = oneshot::channel();
        state.arrivals += 1;
        let arrival = state.arrivals;
        let place = Place(self.shared.waiting.clone());
        state.queue.insert(arrival, Waiter { ticket, since: Instant::now(), sender, _place: place });
        Entry::Queued(Queued { receiver, position: Position { shared: self.shared.clone(), arrival } })
    }

    /// How many are inside, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.lock();
        let waiting = state.queue.values().filter(|waiter| !waiter.sender.is_closed()).count();
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
        let next = state.next(Instant::now()).and_then(|arrival| state.queue.remove(&arrival));
        let Some(Waiter { ticket, sender, .. }) = next else {
            self.shared.inside.release(1);
            return;
        };
        state.serve(&ticket);
        drop(state);
        // Passed on, not given back. If the waiter has gone meanwhile, dropping what comes back passes it further.
        drop(sender.send(Slot { shared: self.shared.clone() }));
    }
}

/// A place in the queue, until dropped.
#[derive(Debug)]
pub struct Queued {
    receiver: oneshot::Receiver<Slot>,
    position: Position,
}

impl Queued {
    /// The slot, when it is this one's turn.
    pub async fn wait(self) -> Option<Slot> {
        self.receiver.await.ok()
    }

    pub fn position(&self) -> Position {
        self.position.clone()
    }
}

/// Where somebody stands in the queue.
#[derive(Debug, Clone)]
pub struct Position {
    shared: Arc<Shared>,
    arrival: u64,
}

impl Position {
    /// How many would go before, as it stands now; `None` for one that does not wait any more.
    pub fn ahead(&self) -> Option<u32> {
        let (state, now) = (self.shared.lock(), Instant::now());
        let own = state.rank(self.arrival, state.queue.get(&self.arrival)?, now);
        let waiting = state.queue.iter().filter(|(_, waiter)| !waiter.sender.is_closed());
        let ahead = waiting.filter(|(arrival, waiter)| state.rank(**arrival, waiter, now) < own).count();
        u32::try_from(ahead).ok()
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

    fn ticket(priority: Priority, party: &str, weight: u32) -> Ticket {
        Ticket { priority, party: party.to_owned(), weight }
    }

    /// The order in which those who wait behind one slot go in.
    async fn order(tickets: &[Ticket]) -> Vec<usize> {
        let turnstile = turnstile(1, 64);
        let mut slot = inside(turnstile.enter());
        let mut waiting: Vec<(usize, Queued)> =
            tickets.iter().enumerate().map(|(at, t)| (at, queued(turnstile.enter_as(t.clone())))).collect();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let at = waiting.iter().position(|(_, queued)| queued.position().ahead() == Some(0)).unwrap();
            let (number, next) = waiting.remove(at);
            drop(slot);
            slot = next.wait().await.unwrap();
            order.push(number);
        }
        order
    }

    #[tokio::test]
    async fn the_urgent_go_first_and_equals_by_arrival() {
        use Priority::{Critical, High, Low, Normal};
        let tickets: Vec<Ticket> =
            [Low, Normal, Critical, High, Normal, Critical].iter().map(|p| ticket(*p, "a", 1)).collect();
        assert_eq!(order(&tickets).await, [2, 5, 3, 1, 4, 0]);
    }

    #[tokio::test]
    async fn parties_take_turns_by_their_weights() {
        let mut tickets = vec![ticket(Priority::Normal, "many", 1); 8];
        tickets.extend(vec![ticket(Priority::Normal, "few", 1); 2]);
        tickets.extend(vec![ticket(Priority::Normal, "heavy", 3); 6]);
        let order = order(&tickets).await;
        let place = |wanted: std::ops::Range<usize>| {
            order.iter().enumerate().filter(|(_, n)| wanted.contains(n)).map(|(at, _)| at).collect::<Vec<_>>()
        };
        // Each time round: one of `many`, one of `few`, three of `heavy`.
        assert!(place(8..10).iter().all(|at| *at < 10), "{order:?}");
        assert!(place(10..16).iter().all(|at| *at < 10), "{order:?}");
        assert!(place(0..8)[2..].iter().all(|at| *at >= 9), "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_long_becomes_urgent() {
        let turnstile = turnstile(1, 8);
        let first = inside(turnstile.enter());
        let low = queued(turnstile.enter_as(ticket(Priority::Low, "a", 1)));
        tokio::time::advance(AGEING * 3).await;
        let critical = queued(turnstile.enter_as(ticket(Priority::Critical, "a", 1)));
        assert_eq!((low.position().ahead(), critical.position().ahead()), (Some(0), Some(1)));
        drop(first);
        assert!(low.wait().await.is_some());
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
