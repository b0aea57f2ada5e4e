//! Each call of the door with each scope: what a credential is not good for does not come through.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::sync::{Arc, atomic::Ordering};

use arrow_flight::{
    Action, CancelFlightInfoRequest, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, Ticket,
    sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, CommandGetCatalogs,
        CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTables, CommandPreparedStatementQuery,
        CommandStatementQuery, CommandStatementUpdate, ProstMessageExt,
    },
};
use fixture::{Opened, credentials::Known, open_as, soon};
use greylag_gateways::flight::{ADMIN_ACTION, CANCEL_ACTION, session_proto, status::from_status};
use greylag_protocol::{ErrorCode, QueryId, state::Scope, statement::AdminCall};
use prost::Message;
use tonic::{Request, Status};
use uuid::Uuid;

use Scope::{Describe, Manage, Metrics, Query};

const DESCRIBE: &[Scope] = &[Describe, Query];
const QUERY: &[Scope] = &[Query];
const CANCEL: &[Scope] = &[Query, Manage];
const MANAGE: &[Scope] = &[Manage];

struct Walk<'a> {
    door: &'a Opened,
    header: String,
    /// Made by somebody who may.
    info: FlightInfo,
    prepared: Vec<u8>,
    answers: Vec<(String, &'static [Scope], Result<(), Status>)>,
}

fn any(message: &impl ProstMessageExt) -> Vec<u8> {
    message.as_any().encode_to_vec()
}

fn statement() -> CommandStatementQuery {
    CommandStatementQuery { query: "one".into(), transaction_id: None }
}

impl Walk<'_> {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.header.parse().unwrap());
        request
    }

    fn note(&mut self, what: impl Into<String>, needs: &'static [Scope], answer: Result<(), Status>) {
        self.answers.push((what.into(), needs, answer));
    }

    async fn methods(&mut self) {
        let mut raw = self.door.raw().await;
        macro_rules! call {
            ($what:expr, $needs:expr, $method:ident $message:expr) => {
                let request = self.request($message);
                let answer = soon(raw.$method(request)).await.map(drop);
                self.note(format!("{} {}", stringify!($method), $what), $needs, answer);
            };
        }
        let prepared = CommandPreparedStatementQuery { prepared_statement_handle: self.prepared.clone().into() };
        let questions = [
            ("catalogs", any(&CommandGetCatalogs {})),
            ("schemas", any(&CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None })),
            ("tables", any(&CommandGetTables { include_schema: true, ..CommandGetTables::default() })),
            ("info", any(&CommandGetSqlInfo { info: vec![] })),
            ("keys", any(&CommandGetPrimaryKeys { table: "lines".into(), ..CommandGetPrimaryKeys::default() })),
        ];
        for (what, command) in questions {
            call!(what, DESCRIBE, get_flight_info FlightDescriptor::new_cmd(command.clone()));
            call!(what, DESCRIBE, get_schema FlightDescriptor::new_cmd(command.clone()));
            call!(what, DESCRIBE, do_get Ticket::new(command));
        }
        for (what, command) in [("statement", any(&statement())), ("prepared", any(&prepared))] {
            call!(what, DESCRIBE, get_flight_info FlightDescriptor::new_cmd(command.clone()));
            call!(what, DESCRIBE, get_schema FlightDescriptor::new_cmd(command.clone()));
        }
        call!("statement", QUERY, poll_flight_info FlightDescriptor::new_cmd(any(&statement())));
        let ticket = self.info.endpoint[0].ticket.clone().unwrap();
        call!("statement", QUERY, do_get ticket);
        call!("prepared", QUERY, do_get Ticket::new(any(&prepared)));
        call!("noise", QUERY, do_get Ticket::new("noise"));
        let update = CommandStatementUpdate { query: "x".into(), transaction_id: None };
        for (what, command) in [("update", any(&update)), ("parameters", any(&prepared))] {
            let descriptor = FlightDescriptor::new_cmd(command);
            let data = FlightData { flight_descriptor: Some(descriptor), ..FlightData::default() };
            call!(what, QUERY, do_put futures::stream::iter([data]));
        }
        call!("", QUERY, do_exchange futures::stream::iter([FlightData::default()]));
        call!("", DESCRIBE, list_flights Criteria::default());
        call!("", DESCRIBE, list_actions Empty {});
    }

    async fn actions(&mut self) {
        let create = ActionCreatePreparedStatementRequest { query: "one".into(), transaction_id: None };
        let close = ActionClosePreparedStatementRequest { prepared_statement_handle: self.prepared.clone().into() };
        let cancel = CancelFlightInfoRequest::new(self.info.clone()).encode_to_vec();
        let admin = serde_json::to_vec(&AdminCall::ListJoinTokens).unwrap();
        let actions: Vec<(&str, &'static [Scope], Vec<u8>)> = vec![
            (ADMIN_ACTION, MANAGE, admin),
            (CANCEL_ACTION, CANCEL, QueryId(Uuid::nil()).to_string().into_bytes()),
            ("CancelFlightInfo", CANCEL, cancel.clone()),
            ("CancelQuery", CANCEL, cancel),
            ("CreatePreparedStatement", DESCRIBE, any(&create)),
            ("ClosePreparedStatement", DESCRIBE, any(&close)),
            (session_proto::SET_SESSION_OPTIONS, DESCRIBE, vec![]),
            (session_proto::GET_SESSION_OPTIONS, DESCRIBE, vec![]),
            (session_proto::CLOSE_SESSION, DESCRIBE, vec![]),
            ("BeginTransaction", QUERY, vec![]),
            ("EndTransaction", QUERY, vec![]),
            ("BeginSavepoint", QUERY, vec![]),
            ("EndSavepoint", QUERY, vec![]),
            ("CreatePreparedSubstraitPlan", QUERY, vec![]),
            ("whatever", QUERY, vec![]),
        ];
        for (name, needs, body) in actions {
            let request = self.request(Action::new(name, body));
            let answer = soon(self.door.raw().await.do_action(request)).await.map(drop);
            self.note(name, needs, answer);
        }
    }
}

/// What somebody who may do everything has been given.
async fn given(door: &Opened, header: &str) -> (FlightInfo, Vec<u8>) {
    let mut request = Request::new(FlightDescriptor::new_cmd(any(&statement())));
    request.metadata_mut().insert("authorization", header.parse().unwrap());
    let info = door.raw().await.get_flight_info(request).await.unwrap().into_inner();
    let create = ActionCreatePreparedStatementRequest { query: "one".into(), transaction_id: None };
    let mut request = Request::new(Action::new("CreatePreparedStatement", any(&create)));
    request.metadata_mut().insert("authorization", header.parse().unwrap());
    let mut answers = door.raw().await.do_action(request).await.unwrap().into_inner();
    let body = answers.message().await.unwrap().unwrap().body;
    let created = Any::decode(&*body).unwrap().unpack::<arrow_flight::sql::ActionCreatePreparedStatementResult>();
    (info, created.unwrap().unwrap().prepared_statement_handle.to_vec())
}

#[tokio::test]
async fn a_credential_does_what_its_scopes_say_and_no_more() {
    let known = Arc::new(Known::default());
    let door = open_as(|who| who.known = known.clone(), |_| {}).await;
    let (info, prepared) = given(&door, &format!("Bearer {}", door.token("ada"))).await;
    let cases: [&[Scope]; 6] =
        [&[Query], &[Describe], &[Manage], &[Metrics], &[Query, Describe, Manage, Metrics], &[Describe, Manage]];
    for scopes in cases {
        let (_, key) = known.mint("ada", scopes, &[], None);
        let header = format!("Bearer {key}");
        let mut walk = Walk { door: &door, header, info: info.clone(), prepared: prepared.clone(), answers: vec![] };
        let before = door.fake.calls.load(Ordering::SeqCst);
        walk.methods().await;
        walk.actions().await;
        let mut refused = 0;
        for (call, needs, answer) in &walk.answers {
            let lacks = answer.as_ref().err().is_some_and(|s| from_status(s).code == ErrorCode::ScopeMissing);
            let may = needs.iter().any(|need| scopes.contains(need));
            assert_eq!(lacks, !may, "{call} with {scopes:?}: {answer:?}");
            refused += usize::from(lacks);
        }
        if refused == walk.answers.len() {
            assert_eq!(door.fake.calls.load(Ordering::SeqCst), before, "something came through");
        }
        assert_eq!(refused == walk.answers.len(), scopes == [Metrics], "{scopes:?}");
    }
}

#[tokio::test]
async fn the_walk_leaves_no_action_out() {
    let door = fixture::open().await;
    let header = format!("Bearer {}", door.token("ada"));
    let (info, prepared) = given(&door, &header).await;
    let mut walk = Walk { door: &door, header, info, prepared, answers: vec![] };
    walk.actions().await;
    let request = walk.request(Empty {});
    let mut listed = door.raw().await.list_actions(request).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(action) = listed.message().await.unwrap() {
        assert!(walk.answers.iter().any(|(name, _, _)| *name == action.r#type), "{} is not walked", action.r#type);
        seen += 1;
    }
    assert!(seen > 5, "{seen} actions are listed");
    // A token of the mesh without scopes is good for all of them.
    for (name, _, answer) in &walk.answers {
        let code = answer.as_ref().err().map(|status| from_status(status).code);
        assert_ne!(code, Some(ErrorCode::ScopeMissing), "{name}");
    }
}
