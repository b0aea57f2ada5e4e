//! The supervisor with real actors, on tokio's paused clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use greylag_protocol::{ErrorCode, MeshError, NodeId, messages::control::ActorRow};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tokio::time::Instant;

use super::*;
use crate::ActorHome;

#[derive(RactorMessage, Debug, Clone, Copy)]
enum Order {
    Panic,
    Fail,
    Stop,
    /// Never returns.
    Hang,
}

/// What the children of one test did, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    fn count(&self, what: &str) -> usize {
        self.read().iter().filter(|w| *w == what).count()
    }
}

struct Child {
    name: &'static str,
    diary: Diary,
    /// Starts that fail before one succeeds.
    bad_starts: Arc<AtomicU32>,
}

/// Its drop shows that the state of a dead actor is gone.
struct Note {
    name: &'static str,
    diary: Diary,
}

impl Drop for Note {
    fn drop(&mut self) {
        self.diary.note(format!("-{}", self.name));
    }
}

impl Actor for Child {
    type Msg = Order;
    type State = Note;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Order>, (): ()) -> Result<Note, ActorProcessingErr> {
        if self.bad_starts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(MeshError::new(ErrorCode::SourceUnreachable, "not yet").into());
        }
        self.diary.note(format!("+{}", self.name));
        Ok(Note { name: self.name, diary: self.diary.clone() })
    }

    async fn handle(&self, me: ActorRef<Order>, order: Order, _: &mut Note) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Panic => panic!("told to panic"),
            Order::Fail => return Err("told to fail".into()),
            Order::Stop => me.stop(None),
            Order::Hang => std::future::pending().await,
        }
        Ok(())
    }
}

struct Stage {
    home: ActorHome,
    diary: Diary,
}

impl Stage {
    /// Names are one namespace per process, so every test has a node of its own.
    fn new() -> Self {
        static NODE: AtomicU32 = AtomicU32::new(1000);
        let node = NodeId(u64::from(NODE.fetch_add(1, Ordering::SeqCst)));
        Self { home: ActorHome::new(node, 7), diary: Diary::default() }
    }

    fn child(&self, name: &'static str) -> ChildSpec {
        self.child_that_starts_after(name, 0)
    }

    fn child_that_starts_after(&self, name: &'static str, bad_starts: u32) -> ChildSpec {
        let (diary, bad_starts) = (self.diary.clone(), Arc::new(AtomicU32::new(bad_starts)));
        ChildSpec::of(name, self.home.name(name), move || {
            (Child { name, diary: diary.clone(), bad_starts: bad_starts.clone() }, ())
        })
    }

    async fn supervisor(&self, strategy: Strategy, budget: Budget, children: Vec<ChildSpec>) -> SupervisorRef {
        Supervisor::spawn(&self.home, "sup", strategy, budget, children, None).await.unwrap()
    }

    fn row(&self, name: &str) -> Option<ActorRow> {
        self.home.tree.snapshot().into_iter().find(|row| row.name == name)
    }

    /// Waits until a child runs, and gives it an order.
    async fn tell(&self, name: &str, order: Order) {
        self.until(|| self.row(name).is_some_and(|row| row.state == "running")).await;
        let child: ActorRef<Order> = ActorRef::where_is(self.home.name(name)).unwrap();
        child.cast(order).unwrap();
    }

    /// Waits for a condition; the clock is paused, so this costs nothing, and it gives up after an hour of it.
    async fn until(&self, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(3600), "waited in vain: {:?}", self.diary.read());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn calm() -> Budget {
    Budget::within(5, Duration::from_secs(60)).backoff(Duration::from_millis(100), Duration::from_secs(2))
}

#[tokio::test(start_paused = true)]
async fn a_child_that_panics_or_fails_is_started_again() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![stage.child("a"), stage.child("b")]).await;
    stage.tell("a", Order::Panic).await;
    stage.until(|| stage.diary.count("+a") == 2).await;
    stage.tell("a", Order::Fail).await;
    stage.until(|| stage.diary.count("+a") == 3).await;
    stage.until(|| stage.row("a").unwrap().state == "running").await;
    assert_eq!(stage.diary.count("+b"), 1, "one for one");
    let row = stage.row("a").unwrap();
    assert_eq!((row.supervisor.as_str(), row.restarts), ("sup", 2));
    assert!(row.last_failure.unwrap().contains("told to fail"));
    sup.stop().await;
    assert!(stage.home.tree.snapshot().is_empty());
    assert_eq!((stage.diary.count("-a"), stage.diary.count("-b")), (3, 1), "no state is left behind");
}

#[tokio::test(start_paused = true)]
async fn waits_grow_from_one_restart_to_the_next() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![stage.child_that_starts_after("a", 4)]).await;
    let began = Instant::now();
    stage.until(|| stage.row("a").is_some_and(|row| row.state == "backing off")).await;
    stage.until(|| stage.diary.count("+a") == 1).await;
    // 100 + 200 + 400 + 800 ms, each shortened by up to a half.
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(750) && waited <= Duration::from_millis(1510), "{waited:?}");
    assert!(stage.row("a").unwrap().last_failure.unwrap().contains("GL3002: not yet"));
    sup.stop().await;
}

/// A supervisor's own supervisor, that only watches.
struct Watch(Arc<Mutex<Vec<String>>>);

#[derive(RactorMessage)]
struct Nothing;

impl Actor for Watch {
    type Msg = Nothing;
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<Nothing>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            self.0.lock().unwrap().push(error.to_string());
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_escalates_and_takes_the_other_children_along() {
    let stage = Stage::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (watch, _) = Actor::spawn(Some(stage.home.name("watch")), Watch(seen.clone()), ()).await.unwrap();
    let budget = Budget::within(2, Duration::from_secs(60)).backoff(Duration::ZERO, Duration::ZERO);
    let children = vec![stage.child("a"), stage.child("b")];
    let sup = Supervisor::spawn(&stage.home, "sup", Strategy::OneForOne, budget, children, Some(watch.get_cell()))
        .await
        .unwrap();
    for starts in 1..=3 {
        stage.until(|| stage.diary.count("+a") == starts).await;
        stage.tell("a", Order::Panic).await;
    }
    sup.cell().wait(Some(Duration::from_secs(5))).await.unwrap();
    stage.until(|| stage.diary.count("-b") == 1).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].contains("`sup` gave up: 3 failures"), "{seen:?}");
    watch.stop(None);
}

#[tokio::test(start_paused = true)]
async fn a_melted_supervisor_is_started_again_by_its_own() {
    let stage = Stage::new();
    let hot = Budget::within(0, Duration::from_secs(60)).backoff(Duration::ZERO, Duration::ZERO);
    let child = stage.child("a");
    let inner = Supervisor::child_spec(&stage.home, "inner", Strategy::OneForOne, hot, move || vec![child.clone()]);
    let outer = stage.supervisor(Strategy::OneForOne, calm(), vec![inner]).await;
    stage.until(|| stage.diary.count("+a") == 1).await;
    stage.tell("a", Order::Panic).await;
    stage.until(|| stage.diary.count("+a") == 2).await;
    stage.until(|| stage.row("inner").is_some_and(|row| row.state == "running")).await;
    let row = stage.row("inner").unwrap();
    assert_eq!((row.supervisor.as_str(), row.restarts), ("sup", 1));
    assert!(row.last_failure.unwrap().contains("gave up"));
    assert_eq!(stage.row("a").unwrap().supervisor, "inner");
    outer.stop().await;
    assert!(stage.home.tree.snapshot().is_empty());
    assert_eq!(stage.diary.count("-a"), 2);
}

#[tokio::test(start_paused = true)]
async fn children_come_and_go_at_run_time() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![]).await;
    let cell: ActorCell = sup.start_child(stage.child("a")).await.unwrap();
    assert_eq!(cell.get_status(), ActorStatus::Running);
    assert_eq!(sup.start_child(stage.child("a")).await.unwrap_err().code, ErrorCode::Internal, "twice");
    // A start that fails is told as what it was, and leaves nothing.
    let error = sup.start_child(stage.child_that_starts_after("b", 1)).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::SourceUnreachable, "not yet"));
    assert_eq!(sup.children().await.unwrap(), ["a"]);
    sup.add_child(stage.child_that_starts_after("c", 2)).await.unwrap();
    stage.until(|| stage.diary.count("+c") == 1).await;
    assert!(sup.stop_child("a").await.unwrap());
    assert_eq!(cell.get_status(), ActorStatus::Stopped);
    assert!(stage.row("a").is_none());
    assert!(!sup.stop_child("a").await.unwrap());
    sup.start_child(stage.child("a")).await.unwrap();
    sup.stop().await;
    assert_eq!(sup.children().await.unwrap_err().code, ErrorCode::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_stop_in_its_time_is_killed() {
    let stage = Stage::new();
    let spec = stage.child("a").shutdown(Duration::from_secs(3));
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![spec]).await;
    stage.tell("a", Order::Hang).await;
    let began = Instant::now();
    assert!(sup.stop_child("a").await.unwrap());
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(3) && waited < Duration::from_secs(4), "{waited:?}");
    assert_eq!(stage.diary.count("-a"), 1);
    sup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_can_be_called_off() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![]).await;
    let start: Start = Arc::new(|_| Box::pin(std::future::pending()));
    let spec = |name: &str| ChildSpec {
        name: name.into(),
        restart: Restart::Permanent,
        start: start.clone(),
        shutdown: SHUTDOWN_DEFAULT,
    };
    sup.add_child(spec("slow")).await.unwrap();
    sup.start_child(stage.child("a")).await.unwrap();
    assert!(sup.stop_child("slow").await.unwrap());
    // And one that nobody calls off fails by itself.
    let error = sup.start_child(spec("slow")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Deadline);
    sup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_panics_is_a_failure() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![]).await;
    let start: Start = Arc::new(|_| panic!("in the making"));
    let spec = ChildSpec { name: "a".into(), restart: Restart::Permanent, start, shutdown: SHUTDOWN_DEFAULT };
    assert_eq!(sup.start_child(spec).await.unwrap_err().code, ErrorCode::Internal);
    assert!(sup.children().await.unwrap().is_empty());
    sup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_restarts_those_behind_in_order() {
    let stage = Stage::new();
    let children = vec![stage.child("a"), stage.child("b"), stage.child("c")];
    let sup = stage.supervisor(Strategy::RestForOne, calm(), children).await;
    stage.until(|| stage.diary.count("+c") == 1).await;
    stage.tell("b", Order::Stop).await;
    stage.until(|| stage.diary.count("+c") == 2).await;
    assert_eq!(stage.diary.read(), ["+a", "+b", "+c", "-b", "-c", "+b", "+c"]);
    sup.stop().await;
    assert_eq!(stage.diary.read()[7..], ["-c", "-b", "-a"], "the last first");
}

#[tokio::test(start_paused = true)]
async fn grandchildren_die_with_their_parent() {
    let stage = Stage::new();
    let leaf = stage.child("leaf");
    let inner = Supervisor::child_spec(&stage.home, "inner", Strategy::OneForOne, calm(), move || vec![leaf.clone()]);
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![inner]).await;
    stage.until(|| stage.diary.count("+leaf") == 1).await;
    let leaf: ActorRef<Order> = ActorRef::where_is(stage.home.name("leaf")).unwrap();
    sup.cell().kill();
    leaf.get_cell().wait(Some(Duration::from_secs(5))).await.unwrap();
    stage.until(|| stage.diary.count("-leaf") == 1).await;
    stage.until(|| stage.home.tree.snapshot().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_dies_while_it_is_being_reported_is_not_lost() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![]).await;
    let inner = stage.child("a").start;
    let first = Arc::new(AtomicU32::new(1));
    let start: Start = Arc::new(move |supervisor| {
        let (child, first) = (inner(supervisor), first.clone());
        Box::pin(async move {
            let cell = child.await?;
            if first.swap(0, Ordering::SeqCst) == 1 {
                cell.kill();
                cell.wait(None).await?;
            }
            Ok(cell)
        })
    });
    sup.add_child(ChildSpec { name: "a".into(), restart: Restart::Permanent, start, shutdown: SHUTDOWN_DEFAULT })
        .await
        .unwrap();
    stage.until(|| stage.diary.count("+a") == 2).await;
    stage.until(|| stage.row("a").unwrap().state == "running").await;
    assert_eq!(stage.row("a").unwrap().last_failure.as_deref(), Some("killed"));
    sup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_is_restarted_when_it_ends_and_dropped_when_it_is_stopped() {
    let stage = Stage::new();
    let runs = Arc::new(AtomicU32::new(0));
    let (count, diary) = (runs.clone(), stage.diary.clone());
    let spec = ChildSpec::task(&stage.home, "loop", move || {
        let (run, note) = (count.fetch_add(1, Ordering::SeqCst), Note { name: "loop", diary: diary.clone() });
        async move {
            let _note = note;
            match run {
                0 => Ok(()),
                1 => Err(MeshError::new(ErrorCode::PeerUnreachable, "lost")),
                2 => panic!("in the loop"),
                _ => std::future::pending().await,
            }
        }
    });
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![spec]).await;
    stage.until(|| runs.load(Ordering::SeqCst) == 4).await;
    assert_eq!(stage.row("loop").unwrap().restarts, 3);
    assert_eq!(stage.diary.count("-loop"), 3);
    sup.stop().await;
    assert_eq!(stage.diary.count("-loop"), 4);
}

#[tokio::test(start_paused = true)]
async fn children_that_come_and_go_leave_nothing() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![]).await;
    for (round, order) in [Order::Stop, Order::Panic, Order::Fail].into_iter().cycle().take(300).enumerate() {
        sup.start_child(stage.child("a").restart(Restart::Temporary)).await.unwrap();
        stage.tell("a", order).await;
        stage.until(|| stage.row("a").is_none()).await;
        assert_eq!(stage.diary.count("-a"), round + 1);
    }
    assert!(sup.children().await.unwrap().is_empty());
    assert_eq!(stage.home.tree.snapshot().len(), 1, "the supervisor itself");
    sup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_just_being_started_does_not_outlive_its_supervisor() {
    let stage = Stage::new();
    let sup = stage.supervisor(Strategy::OneForOne, calm(), vec![]).await;
    let inner = stage.child("a").start;
    // It runs, and its start never comes to an end.
    let start: Start = Arc::new(move |supervisor| {
        let child = inner(supervisor);
        Box::pin(async move {
            child.await?;
            std::future::pending().await
        })
    });
    sup.add_child(ChildSpec { name: "a".into(), restart: Restart::Permanent, start, shutdown: SHUTDOWN_DEFAULT })
        .await
        .unwrap();
    stage.until(|| stage.diary.count("+a") == 1).await;
    let child: ActorRef<Order> = ActorRef::where_is(stage.home.name("a")).unwrap();
    child.cast(Order::Hang).unwrap();
    let began = Instant::now();
    sup.stop().await;
    assert!(began.elapsed() >= SHUTDOWN_DEFAULT, "it was given its time");
    assert_eq!(stage.diary.read(), ["+a", "-a"]);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}
