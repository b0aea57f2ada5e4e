//! One opened source and the calls on it. Opens the connector when it is first needed, again when the declaration has
//! changed, and not more often than it makes sense while opening fails.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use greylag_protocol::{
    ErrorCode, MeshError, Result, SourceName,
    prefix::Prefix,
    schema::SourceSchema,
    state::{Role, Source},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    port::{Connector, ConnectorQuery, EdgeRows, LocalEdge, LocalSubquery},
    stream::{CancelOnDrop, EdgeStream, Wanted},
};
use crate::{
    NodeCtx,
    task::caught,
    turnstile::{Entry, Slot, Turnstile},
};

/// Sub-queries that wait for a slot at one edge.
const QUEUE_MAX: u64 = 256;
/// Longest wait for a slot. Then GL3010: whoever holds the slots may be waiting for the one who waits.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest time that opening a source may take.
const OPEN_MAX: Duration = Duration::from_secs(15);
/// Time for which a failure to open is believed.
const REOPEN_AFTER: Duration = Duration::from_millis(250);

pub struct Desk {
    ctx: Arc<NodeCtx>,
    source: SourceName,
    turnstile: Turnstile,
    stop: CancellationToken,
    opened: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    /// Version of the declaration that the rest is about.
    version: u64,
    connector: Option<Arc<dyn Connector>>,
    failed: Option<(Instant, MeshError)>,
}

impl Desk {
    pub fn new(ctx: Arc<NodeCtx>, source: SourceName, stop: CancellationToken) -> Self {
        let turnstile = Turnstile::new(
            ctx.bounds.open(
                "limits.edge_subqueries_max",
                source.to_string(),
                ctx.limits.edge_subqueries_max.max(1).into(),
            ),
            ctx.bounds.open("edge.queue_max", source.to_string(), QUEUE_MAX),
        );
        Self { ctx, source, turnstile, stop, opened: Mutex::default() }
    }

    /// Opens the source before anybody asks, so that a wrong declaration is in the log at once.
    pub async fn warm(&self) {
        if let Err(error) = self.connector().await {
            tracing::warn!(source = %self.source, code = %error.code, "the source cannot be opened yet");
        }
    }

    fn declaration(&self) -> Result<Source> {
        let state = self.ctx.mesh.state();
        let none = || MeshError::new(ErrorCode::NoEdge, format!("`{}` is not declared any more", self.source));
        state.sources.get(&self.source).cloned().ok_or_else(none)
    }

    async fn connector(&self) -> Result<Arc<dyn Connector>> {
        let declared = self.declaration()?;
        let mut opened = self.opened.lock().await;
        if opened.version != declared.version {
            *opened = Opened { version: declared.version, ..Opened::default() };
        }
        if let Some(connector) = &opened.connector {
            return Ok(connector.clone());
        }
        if let Some((at, error)) = &opened.failed
            && at.elapsed() < REOPEN_AFTER
        {
            return Err(error.clone());
        }
        let opening = self.ctx.connectors.open(&declared.spec, &*self.ctx.secrets);
        let outcome = timeout(OPEN_MAX, caught("opening a source", opening)).await.unwrap_or_else(|_| {
            let message = format!("the source was not opened within {} s", OPEN_MAX.as_secs());
            Err(MeshError::new(ErrorCode::SourceUnreachable, message))
        });
        match outcome {
            Ok(connector) => {
                connector.bounds().iter().for_each(|bound| self.ctx.bounds.list(bound));
                opened.connector = Some(connector.clone());
                opened.failed = None;
                Ok(connector)
            }
            Err(error) => {
                let error = self.named(error);
                opened.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn slot(&self) -> Result<Slot> {
        let busy = |why: String| MeshError::new(ErrorCode::SourceBusy, why);
        match self.turnstile.enter() {
            Entry::Inside(slot) => Ok(slot),
            Entry::Queued(queued) => match timeout(QUEUE_WAIT_MAX, queued.wait()).await {
                Ok(Some(slot)) => Ok(slot),
                Ok(None) => Err(self.stopping()),
                Err(_) => Err(busy(format!("no slot became free within {} s", QUEUE_WAIT_MAX.as_secs()))),
            },
            Entry::Refused => Err(busy(format!("{QUEUE_MAX} sub-queries wait for a slot already"))),
        }
    }

    /// Runs a call until it ends, the edge stops or the time is up.
    async fn bounded<T>(&self, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(self.stopping()),
            outcome = caught("a source's connector", call) => outcome,
            () = sleep_until(deadline) => Err(MeshError::new(ErrorCode::Deadline, "the edge call's deadline has passed")),
        };
        outcome.map_err(|error| self.named(error))
    }

    fn stopping(&self) -> MeshError {
        MeshError::new(ErrorCode::ShuttingDown, "the edge is stopping")
    }

    fn named(&self, error: MeshError) -> MeshError {
        error.of_source(self.source.clone()).at_node(self.ctx.node)
    }
}

#[async_trait]
impl LocalEdge for Desk {
    async fn query(&self, subquery: LocalSubquery) -> Result<EdgeRows> {
        let deadline = Instant::now() + subquery.timeout;
        let cancel = CancelOnDrop::new(self.stop.child_token());
        let token = cancel.token();
        let schema = subquery.schema.clone();
        let busy = self.ctx.work.begin(Role::Edge(self.source.clone())).map_err(|error| self.named(error))?;
        let opening = async {
            let slot = self.slot().await?;
            let connector = self.connector().await?;
            let query = ConnectorQuery {
                sql: subquery.sql,
                schema: subquery.schema,
                batch_rows: subquery.batch_rows,
                timeout: deadline.saturating_duration_since(Instant::now()),
                cancel: token,
                label: subquery.label,
            };
            let answer = match subquery.keyset {
                Some(keyset) => connector.query_by_key(query, keyset).await?,
                None => EdgeRows::plain(connector.query(query).await?),
            };
            Ok((slot, answer))
        };
        let (slot, answer) = self.bounded(deadline, opening).await?;
        let owner = (self.source.clone(), self.ctx.node);
        // What comes after the key has nothing to be left out of it.
        let resume = if answer.after_key { Prefix::default() } else { subquery.resume };
        let wanted = Wanted { schema, batch_rows: subquery.batch_rows, resume };
        let rows = Box::pin(EdgeStream::new(answer.rows, wanted, deadline, owner, cancel, (slot, busy)));
        Ok(EdgeRows { rows, ..answer })
    }

    async fn schema(&self, timeout: Duration) -> Result<SourceSchema> {
        let call = async { self.connector().await?.schema().await };
        self.bounded(Instant::now() + timeout, call).await
    }

    async fn ping(&self, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        let call = async { self.connector().await?.ping().await };
        self.bounded(start + timeout, call).await.map(|()| start.elapsed())
    }
}
