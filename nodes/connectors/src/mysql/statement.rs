//! One running sub-query: prepares it, checks the types it returns, decodes its rows as they come, and sees to it that the
//! server stops when it is no longer wanted.
//!
//! INVARIANT: the stream ends well only after the server's own end of the result; whatever happens before is an error.
//! A connection whose statement was stopped is never used again.

use std::{sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use greylag_actors::edge::port::ConnectorQuery;
use greylag_protocol::{ErrorCode, MeshError, Result};
use mysql_async::{BinaryProtocol, QueryResult, Row, Statement, prelude::Queryable};
use tokio::runtime::Handle;

use super::{decode::RowDecoder, errors, session::Session, target::Target};
use crate::server::{Expiry, Lease, Producer, label_comment};

pub(super) struct Run {
    target: Arc<Target>,
    lease: Option<Lease<Session>>,
    session: Option<Session>,
    statement: Option<Statement>,
    decoder: Option<RowDecoder>,
    /// Whether the server may be at work.
    at_work: bool,
    runtime: Handle,
}

impl Run {
    pub(super) fn new(target: Arc<Target>, lease: Lease<Session>, session: Session) -> Self {
        Self {
            target,
            lease: Some(lease),
            session: Some(session),
            statement: None,
            decoder: None,
            at_work: false,
            runtime: Handle::current(),
        }
    }

    /// Whether a failure may only mean that an idle connection had died.
    pub(super) fn is_reused(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_reused)
    }

    /// Another connection instead of one that turned out dead.
    pub(super) fn replace(&mut self, session: Session) {
        self.at_work = false;
        self.statement = None;
        if let Some(dead) = self.session.replace(session) {
            self.runtime.spawn(dead.close());
        }
    }

    /// Sends the query and waits until the server has described its result.
    pub(super) async fn begin(&mut self, query: &ConnectorQuery, left: Duration) -> Result<()> {
        let session = self.session.as_mut().ok_or_else(|| MeshError::internal("a statement has no session"))?;
        session.limit_time(left).await?;
        let sql = format!("{}{}", label_comment(&query.label), query.sql);
        let statement = session.conn.prep(sql).await.map_err(|error| errors::to_mesh(&error))?;
        if statement.num_params() != 0 {
            return Err(MeshError::new(ErrorCode::SourceRefused, "the sub-query holds placeholders"));
        }
        if statement.num_columns() == 0 {
            return Err(MeshError::new(ErrorCode::ReadOnly, "the sub-query returns no rows: it is no query"));
        }
        self.at_work = true;
        let result = session.conn.exec_iter(&statement, ()).await.map_err(|error| errors::to_mesh(&error))?;
        let columns = result.columns().unwrap_or_else(|| statement.columns());
        drop(result);
        self.decoder = Some(RowDecoder::new(query.schema.clone(), &columns, query.batch_rows)?);
        self.statement = Some(statement);
        Ok(())
    }

    /// Gives the connection back to the pool: the server has said all it had to say.
    async fn finish(&mut self) {
        self.at_work = false;
        if let (Some(mut session), Some(lease)) = (self.session.take(), self.lease.take()) {
            let closed = match self.statement.take() {
                Some(statement) => session.conn.close(statement).await,
                None => Ok(()),
            };
            match closed {
                Ok(()) => session.put_back(lease),
                Err(_) => session.close().await,
            }
        }
    }
}

impl Producer for Run {
    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let (Some(session), Some(decoder)) = (self.session.as_mut(), self.decoder.as_mut()) else { return Ok(None) };
        let mut result: QueryResult<'_, '_, BinaryProtocol> = QueryResult::new(&mut session.conn);
        loop {
            let row: Option<Row> = result.next().await.map_err(|error| errors::to_mesh(&error))?;
            let Some(row) = row else { break };
            decoder.row(&row)?;
            if decoder.is_full() {
                return decoder.finish().map(Some);
            }
        }
        let last = if decoder.is_empty() { None } else { Some(decoder.finish()?) };
        self.finish().await;
        Ok(last)
    }

    /// The server says the same for a statement that was killed as for one that ran too long.
    fn explain(&mut self, error: MeshError, expiry: &Expiry) -> MeshError {
        if error.code == ErrorCode::SourceUnreachable
            && let Some(lease) = &self.lease
        {
            lease.pool().forget_idle();
        }
        let own_limit = self.session.as_ref().map_or(0, |session| session.own_timeout_ms);
        match (error.code, expiry.check()) {
            (ErrorCode::Cancelled, Some(reason)) => reason,
            (ErrorCode::Cancelled, None) if own_limit > 0 && expiry.elapsed().as_millis() >= u128::from(own_limit) => {
                MeshError::new(ErrorCode::Deadline, format!("the account's own limit of {own_limit} ms has passed"))
            }
            _ => error,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let (Some(session), lease) = (self.session.take(), self.lease.take()) else { return };
        let (target, at_work) = (self.target.clone(), self.at_work);
        self.runtime.spawn(async move {
            if at_work {
                session.stop(&target).await;
            } else {
                session.close().await;
            }
            drop(lease);
        });
    }
}
