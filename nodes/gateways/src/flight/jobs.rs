//! Statements in the background, by Flight's `PollFlightInfo`: the first poll, with a statement, begins it and answers with
//! a descriptor to poll with; the poll that says no further descriptor says that it is done. What it has made can be
//! fetched at any time, from any door.
//!
//! The descriptor holds the whole statement, sealed: with the coordinator that ran it lost, the next poll begins it at
//! another, and whoever has read part of the rows goes on where he was.

use std::time::Duration;

use arrow_flight::{
    FlightDescriptor, FlightInfo, PollInfo,
    sql::{Any, Command, CommandStatementQuery, ProstMessageExt, TicketStatementQuery},
};
use greylag_protocol::{
    ErrorCode, JobId, MeshError, Result,
    statement::{JobState, Progress, RunningStatement, Session, SessionOptions},
};
use prost::Message;
use prost_types::Timestamp;

use super::{
    door::{Door, command, now_unix_ms, schema_message},
    parameters,
    ticket::{Purpose, Ticket},
    types::client_schema,
};

/// Longest that one poll waits for the end.
pub const POLL_WAIT_MAX: Duration = Duration::from_secs(2);

/// Answers one poll.
pub(super) async fn poll(door: &Door, session: &Session, descriptor: &FlightDescriptor) -> Result<PollInfo> {
    let (ticket, progress) = match again(door, session, descriptor)? {
        Some(ticket) => {
            let job = JobId(ticket.nonce);
            let progress = match door.service.progress(session, job, POLL_WAIT_MAX).await? {
                Some(progress) => progress,
                None => submit(door, session, &ticket).await?,
            };
            (ticket, progress)
        }
        None => {
            let Command::CommandStatementQuery(query) = command(&descriptor.cmd)? else {
                return Err(MeshError::new(ErrorCode::Unsupported, "only statements can be polled"));
            };
            let ticket = begin(door, session, &query).await?;
            let progress = submit(door, session, &ticket).await?;
            (ticket, progress)
        }
    };
    answer(door, &ticket, progress)
}

/// The ticket of a poll that is not the first.
fn again(door: &Door, session: &Session, descriptor: &FlightDescriptor) -> Result<Option<Ticket>> {
    let handle = Any::decode(&*descriptor.cmd).ok().and_then(|any| any.unpack::<TicketStatementQuery>().ok()).flatten();
    let Some(handle) = handle else { return Ok(None) };
    let (sealer, sealed) = (door.sealer.as_ref(), &handle.statement_handle);
    Ticket::open(sealer, sealed, &[Purpose::Job], &session.principal, now_unix_ms()).map(Some)
}

async fn begin(door: &Door, session: &Session, query: &CommandStatementQuery) -> Result<Ticket> {
    let described = door.service.describe(session, &query.query).await?;
    let options = SessionOptions { resumable: true, ..session.options.clone() };
    let mut ticket = Ticket::new(Purpose::Job, &session.principal, &query.query, options, now_unix_ms());
    ticket.schema = schema_message(&client_schema(&described.schema))?.to_vec();
    Ok(ticket)
}

async fn submit(door: &Door, session: &Session, ticket: &Ticket) -> Result<Progress> {
    let session = Session { options: ticket.options.clone(), ..session.clone() };
    let parameters = ticket.parameters.as_ref().map(parameters::read).transpose()?;
    door.service.submit(&session, JobId(ticket.nonce), &ticket.sql, parameters).await
}

/// Its rows, from the beginning or from what `session` says is there; begins it here if no coordinator knows it. `None`
/// if another has it.
pub(super) async fn results(door: &Door, session: &Session, ticket: &Ticket) -> Result<Option<RunningStatement>> {
    let job = JobId(ticket.nonce);
    if let Some(running) = door.service.results(session, job).await? {
        return Ok(Some(running));
    }
    submit(door, session, ticket).await?;
    door.service.results(session, job).await
}

fn answer(door: &Door, ticket: &Ticket, progress: Progress) -> Result<PollInfo> {
    let handle = TicketStatementQuery { statement_handle: ticket.seal(door.sealer.as_ref())?.into() };
    let descriptor = FlightDescriptor::new_cmd(handle.as_any().encode_to_vec());
    let info = door.statement_info(ticket, ticket.schema.clone().into(), descriptor.clone())?;
    let (total_records, next) = match progress.state {
        JobState::Running => (-1, Some(descriptor)),
        JobState::Done => (i64::try_from(progress.rows).unwrap_or(-1), None),
        JobState::Failed(error) => return Err(error),
    };
    let seconds = i64::try_from(ticket.expires_unix_ms / 1_000).unwrap_or(i64::MAX);
    let expires = Timestamp { seconds, nanos: 0 };
    let info = FlightInfo { total_records, ..info };
    // How much of a statement is done is not known before its end.
    let progress = next.is_none().then_some(1.0);
    Ok(PollInfo { info: Some(info), flight_descriptor: next, progress, expiration_time: Some(expires) })
}
