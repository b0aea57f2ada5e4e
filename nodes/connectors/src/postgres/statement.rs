//! One running sub-query: sends it, checks the types it returns, decodes its rows, and sees to it that the server stops
//! when it is no longer wanted.
//!
//! It runs through the extended protocol with binary results, all messages sent at once: one round trip, the row
//! description comes from the very plan that makes the rows, and the protocol takes one statement only. (`COPY (..) TO
//! STDOUT (FORMAT BINARY)` carries the same bytes for the same work of the server, but describes no types: asking for
//! them first doubles parsing and leaves a gap for DDL.)
//!
//! INVARIANT: the stream ends well only after `CommandComplete` with the number of rows that were decoded. Whatever
//! happens before is an error.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use greylag_actors::edge::port::ConnectorQuery;
use greylag_protocol::{ErrorCode, MeshError, Result};
use postgres_protocol::{IsNull, message::frontend};
use tokio::runtime::Handle;

use super::{
    abandon::abandon,
    catalog::KnownTypes,
    decode::RowDecoder,
    errors::{self, ServerError},
    session::Session,
    target::Target,
    types::PgType,
    wire::READY,
};
use crate::server::{Expiry, Lease, Producer, label_comment, server_timeout_ms};

/// Format code of binary results.
const BINARY: i16 = 1;

/// What [`begin`] found out before the first row.
pub(super) enum Begun {
    Running(Box<Run>, Expiry),
    /// Oids that are neither built in nor known: look them up and begin again.
    UnknownTypes(Vec<u32>, Expiry, Lease<Session>),
}

/// Sends the query and waits until the server has described its result.
pub(super) async fn begin(
    target: Arc<Target>,
    lease: Lease<Session>,
    session: Session,
    query: &ConnectorQuery,
    known: &KnownTypes,
    mut expiry: Expiry,
) -> Result<Begun> {
    let (session, lease, runtime) = (Some(session), Some(lease), Handle::current());
    let held = Held { session, lease, target, state: ServerState::Ready, runtime };
    let mut run = Box::new(Run { held, decoder: None, prelude: false, rows: 0, ready: None });
    let left = expiry.left();
    let described = expiry.bound(async {
        run.send(query, left).await?;
        run.description().await
    });
    let oids = match described.await {
        Ok(oids) => oids,
        Err(error) => return Err(run.explain(error, &expiry)),
    };
    let unknown: Vec<u32> =
        oids.iter().copied().filter(|oid| PgType::of_oid(*oid).is_none() && !known.contains_key(oid)).collect();
    if !unknown.is_empty() {
        return match run.held.give_up() {
            Some(lease) => Ok(Begun::UnknownTypes(unknown, expiry, lease)),
            None => Err(MeshError::internal("a running statement has no lease")),
        };
    }
    run.decoder = Some(decoder(&query.schema, &oids, known, query.batch_rows)?);
    Ok(Begun::Running(run, expiry))
}

fn decoder(schema: &SchemaRef, oids: &[u32], known: &KnownTypes, batch_rows: usize) -> Result<RowDecoder> {
    let types: Option<Vec<PgType>> =
        oids.iter().map(|oid| PgType::of_oid(*oid).or_else(|| known.get(oid).copied().flatten())).collect();
    match types {
        Some(types) => RowDecoder::new(schema.clone(), &types, batch_rows),
        None => {
            let message = "a column of the sub-query has a type that cannot be delivered";
            Err(MeshError::new(ErrorCode::UnsupportedType, message))
        }
    }
}

/// What the server is doing for a statement, as far as the client can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerState {
    /// It waits to be asked.
    Ready,
    /// It may be at work.
    Running,
    /// It has given up, and says so until it is ready.
    Failed,
}

/// The session of a statement, and what becomes of it.
struct Held {
    session: Option<Session>,
    lease: Option<Lease<Session>>,
    target: Arc<Target>,
    state: ServerState,
    runtime: Handle,
}

impl Held {
    /// Gives the connection back to the pool: the server has said all it had to say.
    fn put_back(&mut self) {
        self.state = ServerState::Ready;
        if self.session.as_ref().is_some_and(|session| session.in_transaction) {
            // First it has to be ended.
            return self.abandon();
        }
        if let (Some(mut session), Some(lease)) = (self.session.take(), self.lease.take()) {
            session.wire.shrink();
            lease.put_back(session);
        }
    }

    /// Stops the server in the background and keeps the connection if that works out.
    fn abandon(&mut self) {
        let (session, lease) = (self.session.take(), self.lease.take());
        let state = std::mem::replace(&mut self.state, ServerState::Ready);
        match (session, lease) {
            (Some(session), Some(lease)) if state == ServerState::Ready && !session.in_transaction => {
                lease.put_back(session);
            }
            (Some(session), lease) => {
                let at_work = state == ServerState::Running;
                self.runtime.spawn(abandon(self.target.clone(), session, lease, at_work));
            }
            (None, _) => {}
        }
    }

    /// Like [`Held::abandon`], but the lease is kept and the connection is not.
    fn give_up(&mut self) -> Option<Lease<Session>> {
        let lease = self.lease.take();
        self.abandon();
        lease
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A query on its way through one session.
pub(super) struct Run {
    held: Held,
    decoder: Option<RowDecoder>,
    /// Whether the answer to a `SET` in front of the query is still to come.
    prelude: bool,
    rows: u64,
    /// Decoded, and not asked for yet.
    ready: Option<RecordBatch>,
}

/// How far what has arrived led.
enum Step {
    /// More must arrive first.
    Starved,
    Full(RecordBatch),
    /// The result is over, and the connection back in the pool; the last rows, if there are any.
    Over(Option<RecordBatch>),
}

impl Producer for Box<Run> {
    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.ready.take() {
            return Ok(Some(batch));
        }
        loop {
            match self.decode()? {
                Step::Full(batch) => return Ok(Some(batch)),
                Step::Over(last) => return Ok(last),
                Step::Starved => {}
            }
            match self.held.session.as_mut() {
                Some(session) => session.wire.fill().await?,
                None => return Ok(None),
            }
        }
    }

    /// The server says `57014` for a cancel as for a time limit.
    fn explain(&mut self, error: MeshError, expiry: &Expiry) -> MeshError {
        if error.code == ErrorCode::SourceUnreachable
            && let Some(lease) = &self.held.lease
        {
            lease.pool().forget_idle();
        }
        let own_limit = self.held.session.as_ref().map_or(0, |session| session.own_timeout_ms);
        match (error.code, expiry.check()) {
            (ErrorCode::Cancelled, Some(reason)) => reason,
            (ErrorCode::Cancelled, None) if own_limit > 0 && expiry.elapsed().as_millis() >= u128::from(own_limit) => {
                MeshError::new(ErrorCode::Deadline, format!("the account's own limit of {own_limit} ms has passed"))
            }
            _ => error,
        }
    }
}

impl Run {
    /// The whole result, if all of it has arrived: then no task is needed to wait for more.
    pub(super) fn whole(&mut self) -> Result<Option<Option<RecordBatch>>> {
        match self.decode()? {
            Step::Over(batch) => Ok(Some(batch)),
            Step::Starved => Ok(None),
            Step::Full(batch) => {
                self.ready = Some(batch);
                Ok(None)
            }
        }
    }

    async fn send(&mut self, query: &ConnectorQuery, left: std::time::Duration) -> Result<()> {
        let session = self.held.session.as_mut().ok_or_else(|| MeshError::internal("a statement has no session"))?;
        let timeout_ms = server_timeout_ms(left, session.own_timeout_ms);
        self.prelude = timeout_ms != session.timeout_ms;
        session.wire.discard();
        let written = (|| {
            if self.prelude {
                session.wire.put_query(&format!("SET statement_timeout = {timeout_ms}"))?;
            }
            let outbox = session.wire.outbox();
            frontend::parse("", &format!("{}{}", label_comment(&query.label), query.sql), [], outbox)?;
            let no_values: [(); 0] = [];
            frontend::bind("", "", [], no_values, |(), _| Ok(IsNull::Yes), [BINARY], outbox)
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
            frontend::describe(b'P', "", outbox)?;
            frontend::execute("", 0, outbox)
        })();
        if written.is_err() {
            session.wire.discard();
            return Err(MeshError::new(
                ErrorCode::SourceRefused,
                "the sub-query's text holds a zero byte or is too long",
            ));
        }
        session.wire.put_sync();
        session.timeout_ms = timeout_ms;
        self.held.state = ServerState::Running;
        session.wire.flush().await
    }

    /// Type oids of the result's columns.
    async fn description(&mut self) -> Result<Vec<u32>> {
        let session = self.held.session.as_mut().ok_or_else(|| MeshError::internal("a statement has no session"))?;
        loop {
            let frame = session.wire.next().await?;
            let body = session.wire.body(frame);
            match frame.tag {
                b'T' => return row_description(body),
                b'E' => {
                    self.held.state = ServerState::Failed;
                    return Err(ServerError::parse(body).to_mesh());
                }
                READY if self.prelude => self.prelude = false,
                b'n' => {
                    return Err(MeshError::new(ErrorCode::ReadOnly, "the sub-query returns no rows: it is no query"));
                }
                b'C' if self.prelude => {}
                b'1' | b'2' | b'N' | b'S' | b'A' => {}
                _ => return Err(errors::malformed("a message before the first row")),
            }
        }
    }

    /// Decodes what has arrived, until a batch is full or the result ends.
    fn decode(&mut self) -> Result<Step> {
        let (Some(session), Some(decoder)) = (self.held.session.as_mut(), self.decoder.as_mut()) else {
            return Ok(Step::Over(None));
        };
        while let Some(frame) = session.wire.take()? {
            let body = session.wire.body(frame);
            match frame.tag {
                b'D' => {
                    decoder.row(body)?;
                    self.rows += 1;
                    if decoder.is_full() {
                        return decoder.finish().map(Step::Full);
                    }
                }
                b'C' => check_count(body, self.rows)?,
                READY => {
                    let last = if decoder.is_empty() { None } else { Some(decoder.finish()?) };
                    self.held.put_back();
                    return Ok(Step::Over(last));
                }
                b'E' => {
                    self.held.state = ServerState::Failed;
                    return Err(ServerError::parse(body).to_mesh());
                }
                b'N' | b'S' | b'A' => {}
                _ => return Err(errors::malformed("a message among the rows")),
            }
        }
        Ok(Step::Starved)
    }
}

/// `SELECT n`: the server's own count.
fn check_count(tag: &[u8], rows: u64) -> Result<()> {
    let counted = std::str::from_utf8(tag).ok().and_then(|tag| tag.trim_end_matches('\0').strip_prefix("SELECT "));
    match counted.and_then(|count| count.parse::<u64>().ok()) {
        Some(count) if count == rows => Ok(()),
        _ => Err(errors::malformed("a count that is not that of the rows sent")),
    }
}

/// Type oids from a `RowDescription`, every column of which must come in binary.
fn row_description(body: &[u8]) -> Result<Vec<u32>> {
    let malformed = || errors::malformed("RowDescription");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
    let mut oids = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let name = rest.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        // Table oid, column number, type oid, type length, type modifier, format.
        let (field, after) = rest[name + 1..].split_first_chunk::<18>().ok_or_else(malformed)?;
        let [_, _, _, _, _, _, o0, o1, o2, o3, .., f0, f1] = *field;
        if i16::from_be_bytes([f0, f1]) != BINARY {
            return Err(malformed());
        }
        oids.push(u32::from_be_bytes([o0, o1, o2, o3]));
        rest = after;
    }
    Ok(oids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn descriptions_are_read_within_their_bounds() {
        let mut body = vec![0, 1, b'a', 0];
        body.extend([0, 0, 0, 9, 0, 1, 0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 1]);
        assert_eq!(row_description(&body).unwrap(), [23]);
        for cut in 0..body.len() {
            assert!(row_description(&body[..cut]).is_err(), "{cut}");
        }
        *body.last_mut().unwrap() = 0;
        assert!(row_description(&body).is_err(), "text format");
    }

    #[test]
    fn counts_must_agree() {
        assert!(check_count(b"SELECT 7\0", 7).is_ok());
        for tag in [&b"SELECT 8\0"[..], b"SELECT\0", b"", b"INSERT 0 7\0", b"\xff"] {
            assert_eq!(check_count(tag, 7).unwrap_err().code, ErrorCode::SourceUnreachable);
        }
    }
}
