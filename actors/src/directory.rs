//! The roles that run on this node: the actor of each, and typed handles for calls that need no network. Role actors
//! enter themselves when they start; the guard they keep takes them out again when they end, however they end.
//!
//! It knows nothing of other nodes: that is `Peers`.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use greylag_protocol::state::Role;
use ractor::ActorRef;
use tokio::sync::watch;

use crate::peers::RoleMessage;

/// Called for each role actor that enters, before anybody can find it here.
pub(crate) type Announce = Box<dyn Fn(&Role, &ActorRef<RoleMessage>) + Send + Sync>;

/// Cheap to clone; all clones are one directory.
#[derive(Clone)]
pub struct RoleDirectory {
    shared: Arc<Shared>,
}

struct Shared {
    entries: Mutex<Entries>,
    /// Raised at every change.
    version: watch::Sender<u64>,
    announce: OnceLock<Announce>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    actors: BTreeMap<Role, (u64, ActorRef<RoleMessage>)>,
    /// Values are `Arc<T>`, the key has `T`.
    handles: BTreeMap<(Role, TypeId), (u64, Box<dyn Any + Send + Sync>)>,
}

impl Default for RoleDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl RoleDirectory {
    pub fn new() -> Self {
        let shared = Shared { entries: Mutex::default(), version: watch::Sender::new(0), announce: OnceLock::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Enters the actor of a role, in place of an older one. It is found until the guard is dropped.
    #[must_use = "the entry lives as long as its guard"]
    pub fn enter(&self, role: Role, actor: ActorRef<RoleMessage>) -> RoleGuard {
        if let Some(announce) = self.shared.announce.get() {
            announce(&role, &actor);
        }
        let mut entries = self.shared.lock();
        entries.next += 1;
        let id = entries.next;
        let old = entries.actors.insert(role.clone(), (id, actor));
        drop(entries);
        drop(old);
        self.shared.changed();
        RoleGuard { shared: self.shared.clone(), key: Key::Actor(role), id }
    }

    /// Offers a handle for calls within the process, such as an `Arc<dyn StatementService>`.
    #[must_use = "the entry lives as long as its guard"]
    pub fn offer<T: ?Sized + Send + Sync + 'static>(&self, role: Role, handle: Arc<T>) -> RoleGuard {
        let key = (role, TypeId::of::<T>());
        let mut entries = self.shared.lock();
        entries.next += 1;
        let id = entries.next;
        let old = entries.handles.insert(key.clone(), (id, Box::new(handle)));
        drop(entries);
        drop(old);
        self.shared.changed();
        RoleGuard { shared: self.shared.clone(), key: Key::Handle(key.0, key.1), id }
    }

    /// The actor of a role, if it runs here.
    pub fn actor(&self, role: &Role) -> Option<ActorRef<RoleMessage>> {
        self.shared.lock().actors.get(role).map(|(_, actor)| actor.clone())
    }

    /// A handle that a role offers here.
    pub fn handle<T: ?Sized + Send + Sync + 'static>(&self, role: &Role) -> Option<Arc<T>> {
        let entries = self.shared.lock();
        let (_, handle) = entries.handles.get(&(role.clone(), TypeId::of::<T>()))?;
        handle.downcast_ref::<Arc<T>>().cloned()
    }

    /// Roles whose actors run here, in order.
    pub fn roles(&self) -> Vec<Role> {
        self.shared.lock().actors.keys().cloned().collect()
    }

    /// Wakes when anything has entered or left.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Tells of every actor that enters from now on. Can be set once, before any role starts.
    pub(crate) fn announce_to(&self, announce: Announce) {
        if self.shared.announce.set(announce).is_err() {
            tracing::error!("the role directory has been given two announcers");
        }
    }
}

impl Shared {
    /// No code that could panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

enum Key {
    Actor(Role),
    Handle(Role, TypeId),
}

/// Keeps an entry of the directory. Belongs in the state of the role's actor.
pub struct RoleGuard {
    shared: Arc<Shared>,
    key: Key,
    id: u64,
}

impl Drop for RoleGuard {
    fn drop(&mut self) {
        let mut entries = self.shared.lock();
        // A successor may have taken the place already: then it is not ours to clear. What is taken out is dropped
        // after the lock, since it may own more guards.
        let mut actor = None;
        let mut handle = None;
        match &self.key {
            Key::Actor(role) => {
                if entries.actors.get(role).is_some_and(|(id, _)| *id == self.id) {
                    actor = entries.actors.remove(role);
                }
            }
            Key::Handle(role, of) => {
                let key = (role.clone(), *of);
                if entries.handles.get(&key).is_some_and(|(id, _)| *id == self.id) {
                    handle = entries.handles.remove(&key);
                }
            }
        }
        drop(entries);
        if actor.is_some() || handle.is_some() {
            self.shared.changed();
        }
    }
}

impl std::fmt::Debug for RoleGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleGuard").field("id", &self.id).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RoleDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleDirectory").field("roles", &self.roles()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    trait Greets: Send + Sync {
        fn greet(&self) -> u32;
    }

    struct Greeter(u32);

    impl Greets for Greeter {
        fn greet(&self) -> u32 {
            self.0
        }
    }

    fn greets(directory: &RoleDirectory, role: &Role) -> Option<u32> {
        directory.handle::<dyn Greets>(role).map(|handle| handle.greet())
    }

    #[test]
    fn a_handle_is_found_by_role_and_type_until_its_guard_goes() {
        let directory = RoleDirectory::new();
        let mut changes = directory.watch();
        let first = directory.offer::<dyn Greets>(Role::Policy, Arc::new(Greeter(1)));
        let other = directory.offer::<Greeter>(Role::Policy, Arc::new(Greeter(2)));
        assert_eq!((greets(&directory, &Role::Policy), greets(&directory, &Role::Planner)), (Some(1), None));
        assert_eq!(directory.handle::<Greeter>(&Role::Policy).unwrap().greet(), 2);
        // A successor is there before its predecessor's guard goes: that must not take the successor out.
        let second = directory.offer::<dyn Greets>(Role::Policy, Arc::new(Greeter(3)));
        drop(first);
        assert_eq!(greets(&directory, &Role::Policy), Some(3));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(second);
        assert_eq!(greets(&directory, &Role::Policy), None);
        assert!(changes.has_changed().unwrap());
        drop(other);
        assert!(directory.handle::<Greeter>(&Role::Policy).is_none());
    }

    /// An entry may own other entries.
    struct Owner {
        _owned: RoleGuard,
    }

    #[test]
    fn an_entry_that_owns_another_goes_without_a_deadlock() {
        let directory = RoleDirectory::new();
        let owned = directory.offer::<Greeter>(Role::Policy, Arc::new(Greeter(1)));
        let guard = directory.offer::<Owner>(Role::Policy, Arc::new(Owner { _owned: owned }));
        drop(guard);
        assert!(directory.handle::<Greeter>(&Role::Policy).is_none());
    }
}
