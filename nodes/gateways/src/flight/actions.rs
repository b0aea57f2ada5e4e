//! Actions beyond Flight SQL's own: cancelling, session options, and the mesh's own calls. Bodies of the mesh's calls
//! are JSON, so that any Flight client can make them.

use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo,
    Result as ActionResult,
    sql::{Any, TicketStatementQuery},
};
use futures::{StreamExt, stream::BoxStream};
use greylag_protocol::{
    ErrorCode, JobId, MeshError, QueryId, Result,
    statement::{AdminCall, Session},
};
use prost::Message;
use tonic::{Response, Status, metadata::MetadataValue};

use super::{
    door::{Door, now_unix_ms},
    session,
    session_proto::{
        CLOSE_SESSION, CloseSessionResult, GET_SESSION_OPTIONS, GetSessionOptionsResult, SET_SESSION_OPTIONS,
        SetSessionOptionsRequest, SetSessionOptionsResult,
    },
    ticket::{Purpose, Ticket},
};

/// Body: an `AdminCall` as JSON. Answer: an `AdminReply` as JSON.
pub const ADMIN_ACTION: &str = "greylag.admin";
/// Body: a `QueryId` as text. Answer: `true` or `false` as JSON: whether such a query ran here.
pub const CANCEL_ACTION: &str = "greylag.cancel";
pub(super) const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

type Answers = Response<BoxStream<'static, Result<ActionResult, Status>>>;

pub(super) fn listed() -> Vec<ActionType> {
    [
        (ADMIN_ACTION, "Changes resources, tokens, membership. Body: AdminCall as JSON. Answer: AdminReply as JSON."),
        (CANCEL_ACTION, "Cancels a query. Body: its id as text. Answer: true or false as JSON."),
        (CANCEL_FLIGHT_INFO, "Cancels what runs on a flight's tickets. Body: CancelFlightInfoRequest."),
        (SET_SESSION_OPTIONS, "Sets greylag.* options, kept in a cookie. Body: SetSessionOptionsRequest."),
        (GET_SESSION_OPTIONS, "Options of this call. Body: GetSessionOptionsRequest."),
        (CLOSE_SESSION, "Forgets the session's options. Body: CloseSessionRequest."),
    ]
    .map(|(name, description)| ActionType { r#type: name.into(), description: description.into() })
    .into()
}

pub(super) async fn run(door: &Door, session: &Session, action: Action) -> Result<Answers> {
    match action.r#type.as_str() {
        ADMIN_ACTION => admin(door, session, &action.body).await,
        CANCEL_ACTION => {
            let text = std::str::from_utf8(&action.body).unwrap_or_default();
            let query: QueryId = text.parse().map_err(|_| unreadable(CANCEL_ACTION, "a query's id"))?;
            json(&door.service.cancel(session, query).await?)
        }
        CANCEL_FLIGHT_INFO => {
            let request = CancelFlightInfoRequest::decode(&*action.body).ok().and_then(|request| request.info);
            let info = request.ok_or_else(|| unreadable(CANCEL_FLIGHT_INFO, "a CancelFlightInfoRequest"))?;
            let status = cancel(door, session, &info).await?;
            Ok(answer(CancelFlightInfoResult::new(status).encode_to_vec()))
        }
        SET_SESSION_OPTIONS => set_options(door, session, &action.body),
        GET_SESSION_OPTIONS => {
            let options = session::listed(&session.options);
            Ok(answer(GetSessionOptionsResult::new(options).encode_to_vec()))
        }
        CLOSE_SESSION => with_cookie(answer(CloseSessionResult::closed().encode_to_vec()), &session::cookie_end()),
        other => Err(MeshError::new(ErrorCode::Unsupported, format!("action `{other}` is not offered by this door"))),
    }
}

async fn admin(door: &Door, session: &Session, body: &[u8]) -> Result<Answers> {
    let call: AdminCall = serde_json::from_slice(body).map_err(|e| {
        MeshError::new(ErrorCode::InvalidResource, format!("the body of `{ADMIN_ACTION}` cannot be read: {e}"))
    })?;
    json(&door.service.admin(session, call).await?)
}

/// Cancels every statement that runs on one of these tickets, all of which must be the caller's own.
pub(super) async fn cancel(door: &Door, session: &Session, info: &FlightInfo) -> Result<CancelStatus> {
    let mut status = CancelStatus::NotCancellable;
    for ticket in info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref()) {
        let statement = Any::decode(&*ticket.ticket).ok().and_then(|any| any.unpack::<TicketStatementQuery>().ok());
        let Some(statement) = statement.flatten() else { continue };
        let sealed = &statement.statement_handle;
        let sealer = door.sealer.as_ref();
        let purposes = [Purpose::Statement, Purpose::Job];
        let ticket = Ticket::open_of_any_age(sealer, sealed, &purposes, &session.principal)?;
        if ticket.purpose == Purpose::Job && door.service.cancel_job(session, JobId(ticket.nonce)).await? {
            status = CancelStatus::Cancelled;
        }
        for query in door.running.of(ticket.nonce) {
            if door.service.cancel(session, query).await? {
                status = CancelStatus::Cancelled;
            }
        }
    }
    Ok(status)
}

fn set_options(door: &Door, session: &Session, body: &[u8]) -> Result<Answers> {
    let request = SetSessionOptionsRequest::decode(body)
        .map_err(|_| unreadable(SET_SESSION_OPTIONS, "a SetSessionOptionsRequest"))?;
    let mut options = session.options.clone();
    let mut faults = Vec::new();
    for (name, value) in request.options() {
        if let Err(fault) = session::set(&mut options, &name, &value) {
            faults.push((name, fault));
        }
    }
    let cookie = session::cookie_line(options, &session.principal, door.sealer.as_ref(), now_unix_ms())?;
    with_cookie(answer(SetSessionOptionsResult::new(faults).encode_to_vec()), &cookie)
}

fn with_cookie(mut answers: Answers, cookie: &str) -> Result<Answers> {
    let cookie = MetadataValue::try_from(cookie).map_err(|_| MeshError::internal("a cookie is not plain text"))?;
    answers.metadata_mut().insert("set-cookie", cookie);
    Ok(answers)
}

fn json(value: &impl serde::Serialize) -> Result<Answers> {
    let body = serde_json::to_vec(value).map_err(|e| MeshError::internal(format!("an answer is not JSON: {e}")))?;
    Ok(answer(body))
}

fn answer(body: Vec<u8>) -> Answers {
    Response::new(futures::stream::iter([Ok(ActionResult::new(body))]).boxed())
}

fn unreadable(action: &str, expected: &str) -> MeshError {
    MeshError::new(ErrorCode::InvalidStatement, format!("the body of `{action}` is not {expected}"))
}
