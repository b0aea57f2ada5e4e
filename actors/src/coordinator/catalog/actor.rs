//! The catalog's actor: feeds [`CatalogCore`] with the replicated state, the clock and the edges' answers, and
//! publishes what it knows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use greylag_protocol::{Result, SourceName, schema::SourceSchema};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::core::{CatalogCore, CatalogView, Declared, Event, Fetch};
use crate::{
    NodeCtx,
    coordinator::edges::{get_schema, nearest},
    task::{TaskGuard, caught},
    tree::{ActorState, TreeEntry},
};

/// Longest time one reading may take: a catalog of many thousand tables over a slow link fits into it.
const READ_MAX: Duration = Duration::from_secs(20);

pub struct CatalogActor;

#[derive(RactorMessage)]
pub enum CatalogMessage {
    StateChanged,
    Fetched { source: SourceName, ticket: u64, result: Result<Arc<SourceSchema>> },
    Refresh,
    Tick,
}

pub struct State {
    ctx: Arc<NodeCtx>,
    core: CatalogCore,
    publish: watch::Sender<Arc<CatalogView>>,
    started: Instant,
    reading: BTreeMap<SourceName, TaskGuard>,
    timer: Option<TaskGuard>,
    _watching: TaskGuard,
    _row: TreeEntry,
}

impl Actor for CatalogActor {
    type Msg = CatalogMessage;
    type State = State;
    type Arguments = (Arc<NodeCtx>, watch::Sender<Arc<CatalogView>>);

    async fn pre_start(
        &self,
        myself: ActorRef<CatalogMessage>,
        (ctx, publish): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let mut states = ctx.mesh.watch();
        let watching = TaskGuard::control(async move {
            while myself.cast(CatalogMessage::StateChanged).is_ok() && states.changed().await.is_ok() {}
        });
        let row = ctx.tree().register("coordinator/catalog", "coordinator");
        row.set(ActorState::Running);
        Ok(State {
            core: CatalogCore::new(ctx.timing.schema_ttl_ms),
            ctx,
            publish,
            started: Instant::now(),
            reading: BTreeMap::new(),
            timer: None,
            _watching: watching,
            _row: row,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<CatalogMessage>,
        message: CatalogMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let events = match message {
            CatalogMessage::StateChanged => vec![state.declared()],
            CatalogMessage::Fetched { source, ticket, result } => vec![Event::Fetched { source, ticket, result }],
            // The state may have changed without the news of it having come here.
            CatalogMessage::Refresh => vec![state.declared(), Event::Refresh],
            CatalogMessage::Tick => vec![Event::Tick],
        };
        for event in events {
            for fetch in state.core.on(state.now_ms(), event) {
                state.read(&myself, fetch);
            }
        }
        state.wake_when_due(&myself);
        state.publish.send_replace(Arc::new(state.core.view()));
        Ok(())
    }
}

impl State {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn declared(&self) -> Event {
        let state = self.ctx.mesh.state();
        let of = |(name, source): (&SourceName, &greylag_protocol::state::Source)| Declared {
            name: name.clone(),
            version: source.version,
            edges: nearest(&self.ctx, name),
        };
        Event::State(state.epoch, state.sources.iter().map(of).collect())
    }

    fn read(&mut self, myself: &ActorRef<CatalogMessage>, fetch: Fetch) {
        let (ctx, me) = (self.ctx.clone(), myself.clone());
        let Fetch { source, edge, ticket } = fetch;
        let name = source.clone();
        let reading = TaskGuard::query(&self.ctx.seams, async move {
            let call = get_schema(&ctx, &source, edge, READ_MAX);
            let result = caught("reading a schema", call).await.map(Arc::new);
            if let Err(error) = &result {
                tracing::debug!(%source, %edge, code = %error.code, "a schema could not be read");
            }
            // A catalog that has gone needs no answer.
            let _ = me.cast(CatalogMessage::Fetched { source, ticket, result });
        });
        self.reading.insert(name, reading);
    }

    fn wake_when_due(&mut self, myself: &ActorRef<CatalogMessage>) {
        self.timer = self.core.due_ms().map(|due| {
            let (at, me) = (self.started + Duration::from_millis(due), myself.clone());
            TaskGuard::control(async move {
                sleep_until(at).await;
                let _ = me.cast(CatalogMessage::Tick);
            })
        });
    }
}
