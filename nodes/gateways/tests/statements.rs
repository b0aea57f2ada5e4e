//! Statements through the door: rows, back-pressure, cancelling, tickets, errors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::time::Duration;

use arrow::{
    array::{Array, AsArray, Int64Array, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::{DataType, Int64Type},
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, Ticket as FlightTicket,
    sql::{Any, ProstMessageExt, TicketStatementQuery},
};
use fixture::{Opened, failure, open, principal, rows, service::numbers, soon};
use futures::{StreamExt, TryStreamExt};
use greylag_gateways::flight::{
    MESSAGE_BYTES_SPLIT,
    status::from_status,
    ticket::{Purpose, Ticket},
};
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, QueryId, SourceName,
    statement::{AdminCall, AdminReply, Delivery, SessionOptions},
};
use prost::Message;
use tonic::Request;
use uuid::Uuid;

fn total(batches: &[RecordBatch]) -> RecordBatch {
    concat_batches(&batches[0].schema(), batches).unwrap()
}

#[tokio::test]
async fn rows_come_as_they_were() {
    let door = open().await;
    let answer = door.client("ada").await.query("numbers 30 1000").await.unwrap();
    assert_eq!(answer.schema, numbers(0, 0).schema());
    assert!(answer.query.is_some());
    assert_eq!(total(&rows(answer).await.unwrap()), numbers(0, 30_000));
    let empty = rows(door.client("ada").await.query("nothing").await.unwrap()).await.unwrap();
    assert_eq!(empty.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

#[tokio::test]
async fn the_usual_client_gets_them_too() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let info = client.execute("numbers 5 10".into(), None).await.unwrap();
    assert_eq!(info.clone().try_decode_schema().unwrap(), *numbers(0, 0).schema());
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let batches: Vec<RecordBatch> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
    assert_eq!(total(&batches), numbers(0, 50));
}

#[tokio::test]
async fn views_leave_as_plain_text() {
    let door = open().await;
    let client = door.client("ada").await;
    assert_eq!(client.schema("views").await.unwrap().field(0).data_type(), &DataType::Utf8);
    let answer = client.query("views").await.unwrap();
    assert_eq!(answer.schema.field(0).data_type(), &DataType::Utf8);
    let expected = StringArray::from(vec![Some("a string that is longer than a view"), None, Some("b")]);
    assert_eq!(rows(answer).await.unwrap()[0].column(0).as_ref(), &expected as &dyn Array);
}

#[tokio::test]
async fn large_batches_are_sent_in_parts_and_endless_rows_not_at_all() {
    let door = open().await;
    let client = door.client("ada").await;
    let sent = rows(client.query("text 40 500000").await.unwrap()).await.unwrap();
    assert!(sent.iter().all(|b| b.num_rows() * 500_000 <= MESSAGE_BYTES_SPLIT), "{} parts", sent.len());
    assert_eq!(sent.iter().map(RecordBatch::num_rows).sum::<usize>(), 40);
    let one = rows(client.query("text 1 9000000").await.unwrap()).await.unwrap();
    assert_eq!(one[0].column(0).as_string::<i32>().value(0).len(), 9_000_000);
    let answer = client.query("text 2 17000000").await.unwrap();
    assert_eq!(rows(answer).await.unwrap_err().code, ErrorCode::FrameTooLarge);
}

/// What a client may have in flight without reading: its own stream window, and what gRPC has taken to send.
const AHEAD_BYTES_MAX: usize = (2 << 20) + (4 << 20);

#[tokio::test]
async fn a_slow_reader_holds_its_query_back() {
    let door = open().await;
    const ROWS: usize = 8192;
    let mut answer = door.client("ada").await.query("numbers 2000 8192").await.unwrap();
    let first = soon(answer.batches.next()).await.unwrap().unwrap();
    assert_eq!(first.num_rows(), ROWS);
    // It has come to rest once nothing more has been pulled for a while.
    let mut before = 0;
    let at_rest = soon(async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let pulled = door.fake.counts.now().pulled;
            if pulled == before {
                return pulled;
            }
            before = pulled;
        }
    })
    .await;
    assert!(at_rest * ROWS * 8 <= AHEAD_BYTES_MAX, "{at_rest} batches pulled ahead");
    let rest: Vec<RecordBatch> = soon(answer.batches.try_collect()).await.unwrap();
    assert_eq!(rest.iter().map(RecordBatch::num_rows).sum::<usize>(), 1999 * ROWS);
    assert_eq!(rest.last().unwrap().column(0).as_primitive::<Int64Type>().value(ROWS - 1), 2000 * ROWS as i64 - 1);
}

#[tokio::test]
async fn dropping_a_result_cancels_its_query() {
    let door = open().await;
    let client = door.client("ada").await;
    let answer = client.query("numbers 100000 8192").await.unwrap();
    drop(answer);
    door.fake.counts.until(|c| c.started == 1 && c.dropped == 1).await;
    let mut answer = client.query("hang").await.unwrap();
    assert_eq!(soon(answer.batches.next()).await.unwrap().unwrap(), numbers(0, 3));
    assert_eq!(door.fake.counts.now().dropped, 1);
    drop(answer);
    door.fake.counts.until(|c| c.started == 2 && c.dropped == 2).await;
    let answer = client.query("hang").await.unwrap();
    drop((answer, client));
    door.fake.counts.until(|c| c.started == 3 && c.dropped == 3).await;
}

#[tokio::test]
async fn errors_keep_code_source_and_node() {
    let door = open().await;
    let client = door.client("ada").await;
    let lost = MeshError::new(ErrorCode::SubqueryLost, "it went away")
        .of_source(SourceName::new("orders").unwrap())
        .at_node(NodeId(7));
    assert_eq!(failure(client.query("early error").await), lost);
    let mut answer = client.query("late error").await.unwrap();
    assert_eq!(answer.batches.next().await.unwrap(), Ok(numbers(0, 2)));
    assert_eq!(answer.batches.next().await.unwrap(), Err(lost));
    let syntax = failure(client.query("what is this").await);
    assert_eq!((syntax.code, syntax.message.as_str()), (ErrorCode::Syntax, "`what is this` is not known"));
    let answer = client.query("other schema").await.unwrap();
    assert_eq!(rows(answer).await.unwrap_err().code, ErrorCode::Internal);
    let mut usual = door.flight_sql("ada").await;
    let error = usual.execute("early error".into(), None).await.unwrap_err().to_string();
    assert!(error.contains("GL3004: it went away (source `orders`, node n7)"), "{error}");
}

fn sealed(info: &FlightInfo) -> Vec<u8> {
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let any = Any::decode(&*ticket.ticket).unwrap();
    any.unpack::<TicketStatementQuery>().unwrap().unwrap().statement_handle.to_vec()
}

fn info_of(handle: Vec<u8>) -> FlightInfo {
    let ticket = TicketStatementQuery { statement_handle: handle.into() }.as_any().encode_to_vec();
    let endpoint = arrow_flight::FlightEndpoint::new().with_ticket(FlightTicket::new(ticket));
    FlightInfo::new().try_with_schema(&numbers(0, 0).schema()).unwrap().with_endpoint(endpoint)
}

#[tokio::test]
async fn tickets_are_for_their_principal_and_for_now() {
    let door = open().await;
    let (ada, bob) = (door.client("ada").await, door.client("bob").await);
    let info = ada.flight_info("one").await.unwrap();
    assert_eq!(rows(ada.fetch(&info).await.unwrap()).await.unwrap(), [numbers(1, 1)]);
    assert_eq!(failure(bob.fetch(&info).await).code, ErrorCode::Unauthenticated);

    let mut forged = sealed(&info);
    let at = forged.windows(3).position(|w| w == b"one").unwrap();
    forged[at..at + 3].copy_from_slice(b"two");
    assert_eq!(failure(ada.fetch(&info_of(forged)).await).code, ErrorCode::Unauthenticated);
    assert_eq!(failure(ada.fetch(&info_of(b"one".to_vec())).await).code, ErrorCode::Unauthenticated);

    let make = |purpose, now| Ticket::new(purpose, &principal("ada"), "one", SessionOptions::default(), now);
    let expired = make(Purpose::Statement, 1000).seal(door.sealer.as_ref()).unwrap();
    assert_eq!(failure(ada.fetch(&info_of(expired)).await).code, ErrorCode::TokenExpired);
    let other = make(Purpose::Session, fixture::now() * 1000).seal(door.sealer.as_ref()).unwrap();
    assert_eq!(failure(ada.fetch(&info_of(other)).await).code, ErrorCode::Unauthenticated);
    assert_eq!(door.fake.counts.now().started, 1, "only the good ticket started anything");
}

#[tokio::test]
async fn a_ticket_holds_the_options_it_was_made_with() {
    let door = open().await;
    let mut client = door.client("ada").await;
    let options = SessionOptions {
        delivery: Delivery::Spooled,
        timeout: Some(Duration::from_millis(2500)),
        batch_rows: 77,
        ..SessionOptions::default()
    };
    client.set_options(&options).unwrap();
    let info = client.flight_info("whoami").await.unwrap();
    client.set_options(&SessionOptions::default()).unwrap();
    let who = rows(client.fetch(&info).await.unwrap()).await.unwrap();
    let who = who[0].column(0).as_string::<i32>().value(0).to_owned();
    assert!(who.ends_with(&format!("{options:?}")), "{who}");
    client.set_header("greylag-delivery", "by pigeon").unwrap();
    assert_eq!(failure(client.query("one").await).code, ErrorCode::InvalidResource);
}

async fn action<T: Message + Default>(door: &Opened, id: &str, name: &str, body: Vec<u8>) -> Result<T, MeshError> {
    let mut request = Request::new(Action::new(name, body));
    request.metadata_mut().insert("authorization", format!("Bearer {}", door.token(id)).parse().unwrap());
    let mut raw = door.raw().await;
    let mut answers = raw.do_action(request).await.map_err(|s| from_status(&s))?.into_inner();
    let answer = answers.message().await.map_err(|s| from_status(&s))?.unwrap();
    Ok(T::decode(&*answer.body).unwrap())
}

#[tokio::test]
async fn queries_are_cancelled_by_flight_and_by_id() {
    let door = open().await;
    let ada = door.client("ada").await;
    let info = ada.flight_info("hang").await.unwrap();
    let body = || CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let cancel = |id: &'static str| action::<CancelFlightInfoResult>(&door, id, "CancelFlightInfo", body());
    assert_eq!(cancel("ada").await.unwrap().status(), CancelStatus::NotCancellable, "it does not run yet");
    let mut answer = ada.fetch(&info).await.unwrap();
    assert_eq!(answer.batches.next().await.unwrap(), Ok(numbers(0, 3)));
    assert_eq!(cancel("bob").await.unwrap_err().code, ErrorCode::Unauthenticated);
    assert_eq!(cancel("ada").await.unwrap().status(), CancelStatus::Cancelled);
    assert_eq!(soon(answer.batches.next()).await.unwrap().unwrap_err().code, ErrorCode::Cancelled);

    let mut answer = ada.query("hang").await.unwrap();
    assert!(answer.batches.next().await.unwrap().is_ok());
    assert_eq!(ada.cancel(answer.query.unwrap()).await, Ok(true));
    assert_eq!(soon(answer.batches.next()).await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(ada.cancel(QueryId(Uuid::new_v4())).await, Ok(false));
}

#[tokio::test]
async fn the_older_cancel_action_works_too() {
    use arrow_flight::sql::{ActionCancelQueryRequest, ActionCancelQueryResult};
    let door = open().await;
    let ada = door.client("ada").await;
    let info = ada.flight_info("hang").await.unwrap();
    let mut answer = ada.fetch(&info).await.unwrap();
    assert!(answer.batches.next().await.unwrap().is_ok());
    #[allow(deprecated)]
    let body = ActionCancelQueryRequest { info: info.encode_to_vec().into() }.as_any().encode_to_vec();
    let any: Any = action(&door, "ada", "CancelQuery", body).await.unwrap();
    #[allow(deprecated)]
    let result: ActionCancelQueryResult = any.unpack().unwrap().unwrap();
    assert_eq!(result.result, CancelStatus::Cancelled as i32);
    assert_eq!(soon(answer.batches.next()).await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
}

#[tokio::test]
async fn admin_calls_pass_both_ways() {
    let door = open().await;
    let client = door.client("ada").await;
    let call = AdminCall::IssueBearer { principal: principal("bob"), ttl_secs: 9 };
    assert!(matches!(client.admin(&call).await, Ok(AdminReply::Token { token }) if token == "t"));
    let name = SourceName::new("orders").unwrap();
    let error = client.admin(&AdminCall::DropSource { name: name.clone() }).await.unwrap_err();
    assert_eq!((error.code, error.source), (ErrorCode::UnknownSource, Some(name)));
    let calls = door.fake.admin_calls.lock().unwrap().clone();
    assert_eq!(calls[0], format!("ada: {call:?}"));
    let refused = action::<Any>(&door, "ada", "greylag.admin", b"{\"Explode\":{}}".to_vec()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidResource);
    let unknown = action::<Any>(&door, "ada", "greylag.unknown", vec![]).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::Unsupported);
}

#[tokio::test]
async fn closing_ends_what_runs_and_frees_the_port() {
    let door = open().await;
    let client = door.client("ada").await;
    let _idle = door.channel().await;
    let mut answer = client.query("hang").await.unwrap();
    assert!(answer.batches.next().await.unwrap().is_ok());
    door.closing.cancel();
    let error = soon(answer.batches.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::ShuttingDown);
    door.fake.counts.until(|c| c.dropped == 1).await;
    drop(answer);
    assert_eq!(soon(door.serving).await.unwrap(), Ok(()));
    tokio::net::TcpListener::bind(door.address).await.unwrap();
}

#[tokio::test]
async fn parameters_are_bound_by_handle() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let mut prepared = client.prepare("SELECT $1, $2".into(), None).await.unwrap();
    let parameters = prepared.parameter_schema().unwrap().clone();
    assert_eq!(parameters.field(1).data_type(), &DataType::Utf8, "views are plain here too");
    assert_eq!(prepared.dataset_schema().unwrap(), &parameters);
    let row = |n: &[i64], t: &[&str]| {
        let columns: Vec<arrow::array::ArrayRef> =
            vec![std::sync::Arc::new(Int64Array::from(n.to_vec())), std::sync::Arc::new(StringArray::from(t.to_vec()))];
        RecordBatch::try_new(std::sync::Arc::new(parameters.clone()), columns).unwrap()
    };
    for (n, t) in [(1, "one"), (2, "two")] {
        // Clients name the columns as they like: what counts is their order.
        let named: arrow::array::StructArray = row(&[n], &[t]).into();
        let fields = ["0", "1"].iter().zip(named.fields()).map(|(name, f)| f.as_ref().clone().with_name(*name));
        let schema = arrow::datatypes::Schema::new(fields.collect::<Vec<_>>());
        let upload = RecordBatch::try_new(schema.into(), named.columns().to_vec()).unwrap();
        prepared.set_parameters(upload).unwrap();
        let info = prepared.execute().await.unwrap();
        assert_eq!(info.clone().try_decode_schema().unwrap(), parameters);
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let batches: Vec<RecordBatch> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches, [row(&[n], &[t])]);
    }
    prepared.set_parameters(row(&[1, 2], &["x", "y"])).unwrap();
    let error = prepared.execute().await.unwrap_err().to_string();
    assert!(error.contains("GL1007"), "{error}");
    let described = door.fake.described.lock().unwrap().len();
    assert_eq!(described, 1, "planned once, when it was prepared");
}

#[tokio::test]
async fn prepared_statements_belong_to_who_made_them() {
    use arrow_flight::sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        CommandPreparedStatementQuery,
    };
    let door = open().await;
    let create = |sql: &str| {
        let request = ActionCreatePreparedStatementRequest { query: sql.into(), transaction_id: None };
        request.as_any().encode_to_vec()
    };
    let any: Any = action(&door, "ada", "CreatePreparedStatement", create("SELECT $1, $2")).await.unwrap();
    let created: ActionCreatePreparedStatementResult = any.unpack().unwrap().unwrap();
    let handle = created.prepared_statement_handle;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() }.as_any().encode_to_vec();
    for (id, code) in [("bob", ErrorCode::Unauthenticated), ("ada", ErrorCode::Parameters)] {
        let mut request = Request::new(FlightTicket::new(command.clone()));
        request.metadata_mut().insert("authorization", format!("Bearer {}", door.token(id)).parse().unwrap());
        let status = door.raw().await.do_get(request).await.map(drop).unwrap_err();
        assert_eq!(from_status(&status).code, code, "{id}");
    }
    let close = ActionClosePreparedStatementRequest { prepared_statement_handle: handle }.as_any().encode_to_vec();
    let mut request = Request::new(Action::new("ClosePreparedStatement", close));
    request.metadata_mut().insert("authorization", format!("Bearer {}", door.token("ada")).parse().unwrap());
    door.raw().await.do_action(request).await.unwrap();
    let error = action::<Any>(&door, "ada", "CreatePreparedStatement", create("nonsense")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Syntax);
}

#[tokio::test]
async fn nothing_is_written_here() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let mut errors = vec![
        client.execute_update("DELETE".into(), None).await.unwrap_err().to_string(),
        client.begin_transaction().await.unwrap_err().to_string(),
        client.execute("one".into(), Some("t".into())).await.unwrap_err().to_string(),
        client.prepare("one".into(), Some("t".into())).await.unwrap_err().to_string(),
    ];
    let mut prepared = client.prepare("one".into(), None).await.unwrap();
    errors.push(prepared.execute_update().await.unwrap_err().to_string());
    for error in errors {
        assert!(error.contains("GL1006"), "{error}");
    }
}
