//! The coordinator as doors see it. It starts an actor for each statement and hands its rows over; a caller that goes
//! away, while waiting or while reading, ends its statement.

use std::{sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use greylag_protocol::{
    ErrorCode, JobId, MeshError, QueryId, Result,
    messages::control::{ControlReply, ControlRequest},
    prefix::Prefix,
    state::Role,
    statement::{
        AdminCall, AdminReply, Progress, RunningStatement, Session, SessionOptions, StatementInfo, StatementService,
    },
};
use ractor::{Actor, ActorRef};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::{
    Coordinator, HANDLE_WAIT_MAX, admin, handle_within,
    query::{
        Announced, Job, QueryActor, QueryMessage,
        core::{Event, Goal},
        lost,
    },
};
use crate::NodeCtx;

/// Longest time that a statement may be given.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(12 * 3_600);
/// Longest statement text, bytes.
pub const SQL_BYTES_MAX: usize = 1 << 20;

pub struct Statements {
    ctx: Arc<NodeCtx>,
}

/// Ends a statement whose caller no longer waits for its plan.
struct Waiting(Option<ActorRef<QueryMessage>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(actor) = self.0.take() {
            // One that has ended does not care.
            let _ = actor.cast(QueryMessage::Happened(Event::ReaderGone { complete: false }));
        }
    }
}

impl Statements {
    pub fn new(ctx: Arc<NodeCtx>) -> Self {
        Self { ctx }
    }

    async fn coordinator(&self) -> Result<Arc<Coordinator>> {
        handle_within::<Coordinator>(&self.ctx, &Role::Coordinator, HANDLE_WAIT_MAX).await.ok_or_else(|| {
            MeshError::new(ErrorCode::ShuttingDown, "no coordinator runs on this node").at_node(self.ctx.node)
        })
    }

    /// GL5005 on a node that drains, while another coordinates: what has begun here may end, and nothing begins.
    fn check_stays(&self) -> Result<()> {
        let (state, me) = (self.ctx.mesh.state(), self.ctx.node);
        if state.draining.contains(&me) && state.others_stay(me, &Role::Coordinator) {
            return Err(MeshError::new(ErrorCode::ShuttingDown, "the node drains").at_node(me));
        }
        Ok(())
    }

    /// Starts a statement and waits for its plan.
    async fn start(
        &self,
        goal: Goal,
        session: &Session,
        sql: &str,
        parameters: Option<RecordBatch>,
    ) -> Result<(QueryId, Announced)> {
        if sql.len() > SQL_BYTES_MAX {
            let message = format!("a statement of {} bytes is over the limit of {SQL_BYTES_MAX}", sql.len());
            return Err(MeshError::new(ErrorCode::Syntax, message));
        }
        self.check_stays()?;
        let busy = self.ctx.work.begin(Role::Coordinator).map_err(|error| error.at_node(self.ctx.node))?;
        let coordinator = self.coordinator().await?;
        // Nothing is begun that could not be recorded.
        let admission = match goal {
            Goal::Execute => Some(self.ctx.audit.admit()?),
            Goal::Describe => None,
        };
        let standard = Duration::from_millis(self.ctx.timing.statement_timeout_ms);
        let time = session.options.timeout.unwrap_or(standard).min(TIMEOUT_MAX);
        let (announce, announced) = oneshot::channel();
        let query = self.query_id();
        let job = Job {
            query,
            goal,
            session: session.clone(),
            sql: sql.to_owned(),
            parameters,
            deadline: Instant::now() + time,
            announce,
            busy,
            admission,
        };
        let cell = coordinator.cell.clone();
        let (actor, _) = Actor::spawn_linked(None, QueryActor, (coordinator, job), cell).await.map_err(|error| {
            MeshError::new(ErrorCode::ShuttingDown, format!("the statement could not be started: {error}"))
        })?;
        let mut waiting = Waiting(Some(actor));
        let announced = announced.await.unwrap_or_else(|_| Err(lost(&self.ctx)))?;
        waiting.0 = None;
        Ok((query, announced))
    }

    /// Answers of the other coordinators, in any order.
    async fn ask_others(&self, request: ControlRequest) -> Result<Vec<Result<ControlReply>>> {
        let peers = self.ctx.peers()?;
        let within = Duration::from_millis(self.ctx.timing.call_timeout_ms);
        let others = peers.members(&Role::Coordinator).into_iter().filter(|node| *node != self.ctx.node);
        let asked = others.map(|node| {
            let (peers, request) = (peers.clone(), request.clone());
            async move { peers.call(node, &Role::Coordinator, request, within).await }
        });
        Ok(futures::future::join_all(asked).await)
    }

    /// Ids that sort by time.
    fn query_id(&self) -> QueryId {
        let (random, mut tail) = (Uuid::new_v4(), [0; 10]);
        tail.copy_from_slice(&random.as_bytes()[..10]);
        QueryId(uuid::Builder::from_unix_timestamp_millis(self.ctx.seams.clock.unix_ms(), &tail).into_uuid())
    }
}

#[async_trait]
impl StatementService for Statements {
    async fn describe(&self, session: &Session, sql: &str) -> Result<StatementInfo> {
        let (_, announced) = self.start(Goal::Describe, session, sql, None).await?;
        Ok(StatementInfo { schema: announced.schema, parameters: announced.parameters })
    }

    async fn execute(&self, session: &Session, sql: &str, parameters: Option<RecordBatch>) -> Result<RunningStatement> {
        let (query, announced) = self.start(Goal::Execute, session, sql, parameters).await?;
        Ok(RunningStatement { query, schema: announced.schema, batches: Box::pin(announced.rows) })
    }

    async fn cancel(&self, session: &Session, query: QueryId) -> Result<bool> {
        if self.coordinator().await?.cancel(query, &session.principal)? {
            return Ok(true);
        }
        // It may run at another coordinator: a client may have come back through another node.
        let mut denied = None;
        for answer in self.ask_others(ControlRequest::Cancel { query, principal: session.principal.clone() }).await? {
            match answer {
                Ok(ControlReply::Cancelled(true)) => return Ok(true),
                Err(error) if error.code == ErrorCode::Denied => denied = Some(error),
                _ => {}
            }
        }
        denied.map_or(Ok(false), Err)
    }

    async fn submit(
        &self,
        session: &Session,
        job: JobId,
        sql: &str,
        parameters: Option<RecordBatch>,
    ) -> Result<Progress> {
        if let Some(known) = self.progress(session, job, Duration::ZERO).await? {
            return Ok(known);
        }
        self.check_stays()?;
        let (coordinator, statements) = (self.coordinator().await?, Self::new(self.ctx.clone()));
        let (mut session, sql) = (session.clone(), sql.to_owned());
        let principal = session.principal.clone();
        session.options = SessionOptions { resumable: true, resume: Prefix::default(), ..session.options };
        let starting = async move { statements.execute(&session, &sql, parameters).await };
        Ok(coordinator.jobs.begin(&self.ctx, job, &principal, starting)?.progress(self.ctx.node))
    }

    async fn progress(&self, session: &Session, job: JobId, wait: Duration) -> Result<Option<Progress>> {
        if let Some(found) = self.coordinator().await?.jobs.get(job, &session.principal) {
            // Whether it has ended or the time is up, this is how far it is.
            let _ = timeout(wait, found.ended()).await;
            return Ok(Some(found.progress(self.ctx.node)));
        }
        let request = ControlRequest::JobProgress { job, principal: session.principal.clone() };
        let answers = self.ask_others(request).await?;
        Ok(answers.into_iter().find_map(|answer| match answer {
            Ok(ControlReply::Progress(progress)) => progress,
            _ => None,
        }))
    }

    async fn results(&self, session: &Session, job: JobId) -> Result<Option<RunningStatement>> {
        match self.coordinator().await?.jobs.get(job, &session.principal) {
            Some(found) => found.results(session.options.resume).await.map(Some),
            None => Ok(None),
        }
    }

    async fn cancel_job(&self, session: &Session, job: JobId) -> Result<bool> {
        let here = self.coordinator().await?.jobs.forget(job, &session.principal);
        let request = ControlRequest::CancelJob { job, principal: session.principal.clone() };
        let there = self.ask_others(request).await?;
        Ok(here || there.into_iter().any(|answer| matches!(answer, Ok(ControlReply::Cancelled(true)))))
    }

    async fn admin(&self, session: &Session, call: AdminCall) -> Result<AdminReply> {
        admin::run(&self.coordinator().await?, session, call).await
    }
}
