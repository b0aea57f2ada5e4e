//! What clients ask about the catalog and about the door itself, and the options of their sessions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Int32Type, Schema, UInt32Type},
};
use arrow_flight::{
    Action, Empty, FlightDescriptor, FlightInfo, IpcMessage,
    sql::{
        CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
        CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, ProstMessageExt, SqlInfo,
        client::FlightSqlServiceClient,
    },
};
use fixture::{Opened, open};
use futures::TryStreamExt;
use greylag_gateways::flight::{
    COOKIE,
    session_proto::{
        GetSessionOptionsResult, OptionFault, OptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
    },
    status::from_status,
};
use greylag_protocol::ErrorCode;
use prost::Message;
use tonic::{Request, transport::Channel};

type Client = FlightSqlServiceClient<Channel>;

/// The answer's only batch, whose schema is the one that the flight info, and `GetSchema`, have announced.
async fn fetched(door: &Opened, client: &mut Client, info: FlightInfo) -> RecordBatch {
    let announced = info.clone().try_decode_schema().unwrap();
    let mut request = Request::new(info.flight_descriptor.clone().unwrap());
    request.metadata_mut().insert("authorization", format!("Bearer {}", door.token("ada")).parse().unwrap());
    let asked = door.raw().await.get_schema(request).await.unwrap().into_inner();
    assert_eq!(Schema::try_from(asked).unwrap(), announced);
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let batches: Vec<RecordBatch> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
    let [batch] = <[RecordBatch; 1]>::try_from(batches).unwrap();
    assert_eq!(batch.schema().as_ref(), &announced);
    batch
}

fn texts(batch: &RecordBatch, column: usize) -> Vec<&str> {
    batch.column(column).as_string::<i32>().iter().map(|t| t.unwrap_or("NULL")).collect()
}

#[tokio::test]
async fn catalogs_are_sources() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let info = client.get_catalogs().await.unwrap();
    let batch = fetched(&door, &mut client, info).await;
    assert_eq!(texts(&batch, 0), ["files", "orders"]);
}

#[tokio::test]
async fn schemas_are_filtered() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let ask = |catalog: Option<&str>, pattern: Option<&str>| CommandGetDbSchemas {
        catalog: catalog.map(str::to_owned),
        db_schema_filter_pattern: pattern.map(str::to_owned),
    };
    for (command, expected) in [
        (ask(None, None), vec!["public", "main", "secret"]),
        (ask(Some("orders"), None), vec!["main", "secret"]),
        (ask(None, Some("%i%")), vec!["public", "main"]),
        (ask(Some("nobody"), None), vec![]),
    ] {
        let info = client.get_db_schemas(command).await.unwrap();
        assert_eq!(texts(&fetched(&door, &mut client, info).await, 1), expected);
    }
}

#[tokio::test]
async fn tables_are_filtered() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let all = CommandGetTables::default();
    let info = client.get_tables(all.clone()).await.unwrap();
    let batch = fetched(&door, &mut client, info).await;
    assert_eq!(texts(&batch, 2), ["Nation\"s", "lines", "orders", "salaries"]);
    assert_eq!(texts(&batch, 3), ["TABLE"; 4]);
    let some = CommandGetTables { table_name_filter_pattern: Some("%e%".into()), ..all.clone() };
    let info = client.get_tables(some).await.unwrap();
    assert_eq!(texts(&fetched(&door, &mut client, info).await, 2), ["lines", "orders", "salaries"]);
    let views = CommandGetTables { table_types: vec!["VIEW".into()], ..all };
    let info = client.get_tables(views).await.unwrap();
    assert_eq!(fetched(&door, &mut client, info).await.num_rows(), 0);
    assert!(door.fake.described.lock().unwrap().is_empty());
}

#[tokio::test]
async fn columns_are_those_that_the_caller_may_read() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let command = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(command.clone()).await.unwrap();
    let batch = fetched(&door, &mut client, info).await;
    assert_eq!(texts(&batch, 2), ["Nation\"s", "lines", "orders"], "a denied table is not listed");
    let columns = |row: usize| {
        let message = IpcMessage(batch.column(4).as_binary::<i32>().value(row).to_vec().into());
        let schema = Schema::try_from(message).unwrap();
        schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>()
    };
    assert_eq!(columns(0), [""; 0], "one that cannot be read has no columns");
    assert_eq!(columns(1), ["id Int64", "v Utf8"]);
    door.fake.described.lock().unwrap().clear();
    let one = CommandGetTables { table_name_filter_pattern: Some("lines".into()), ..command };
    let info = client.get_tables(one).await.unwrap();
    fetched(&door, &mut client, info).await;
    assert_eq!(*door.fake.described.lock().unwrap(), ["SELECT * FROM \"orders\".\"main\".\"lines\""]);
}

#[tokio::test]
async fn the_door_describes_itself() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let info = client.get_table_types().await.unwrap();
    assert_eq!(texts(&fetched(&door, &mut client, info).await, 0), ["TABLE"]);

    let asked = vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerTransaction];
    let info = client.get_sql_info(asked).await.unwrap();
    let batch = fetched(&door, &mut client, info).await;
    let names: Vec<u32> = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
    assert_eq!(names, [SqlInfo::FlightSqlServerName as u32, SqlInfo::FlightSqlServerTransaction as u32]);
    let name = batch.column(1).as_union().value(0);
    assert_eq!(name.as_string::<i32>().value(0), "Greylag");
    let info = client.get_sql_info(vec![]).await.unwrap();
    assert!(fetched(&door, &mut client, info).await.num_rows() > 10);

    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None }).await.unwrap();
    let all = fetched(&door, &mut client, info).await;
    assert!(all.num_rows() >= 10 && texts(&all, 0).contains(&"DECIMAL"));
    let date = arrow_flight::sql::XdbcDataType::XdbcDate as i32;
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: Some(date) }).await.unwrap();
    let dates = fetched(&door, &mut client, info).await;
    assert_eq!((texts(&dates, 0), dates.column(1).as_primitive::<Int32Type>().value(0)), (vec!["DATE"], date));
}

#[tokio::test]
async fn primary_keys_are_listed_in_key_order() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let ask = |schema: Option<&str>| CommandGetPrimaryKeys {
        catalog: Some("orders".into()),
        db_schema: schema.map(str::to_owned),
        table: "lines".into(),
    };
    let info = client.get_primary_keys(ask(None)).await.unwrap();
    let batch = fetched(&door, &mut client, info).await;
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    let expected = ["catalog_name", "db_schema_name", "table_name", "column_name", "key_name", "key_sequence"];
    assert_eq!(names, expected);
    assert_eq!(
        (texts(&batch, 1), texts(&batch, 3), texts(&batch, 4)),
        (vec!["main"; 2], vec!["v", "id"], vec!["NULL"; 2])
    );
    assert_eq!(batch.column(5).as_primitive::<Int32Type>().values(), &[1, 2]);
    let info = client.get_primary_keys(ask(Some("it's"))).await.unwrap();
    assert_eq!(fetched(&door, &mut client, info).await.num_rows(), 0);
}

#[tokio::test]
async fn foreign_keys_are_empty_of_the_right_schema() {
    let door = open().await;
    let mut client = door.flight_sql("ada").await;
    let table = || "orders".to_owned();
    let exported = CommandGetExportedKeys { table: table(), ..Default::default() };
    let imported = CommandGetImportedKeys { table: table(), ..Default::default() };
    let cross = CommandGetCrossReference { pk_table: table(), fk_table: table(), ..Default::default() };
    let infos = [
        client.get_exported_keys(exported).await.unwrap(),
        client.get_imported_keys(imported).await.unwrap(),
        client.get_cross_reference(cross).await.unwrap(),
    ];
    for info in infos {
        let batch = fetched(&door, &mut client, info).await;
        assert_eq!((batch.num_columns(), batch.num_rows()), (13, 0));
    }
}

#[tokio::test]
async fn commands_that_are_none_are_refused() {
    let door = open().await;
    let update = arrow_flight::sql::CommandStatementUpdate { query: "x".into(), transaction_id: None };
    for bytes in [b"noise".to_vec(), vec![], update.as_any().encode_to_vec()] {
        let mut raw = door.raw().await;
        let request = || {
            let mut request = Request::new(FlightDescriptor::new_cmd(bytes.clone()));
            request.metadata_mut().insert("authorization", format!("Bearer {}", door.token("ada")).parse().unwrap());
            request
        };
        for status in [
            raw.get_flight_info(request()).await.map(drop).unwrap_err(),
            raw.get_schema(request()).await.map(drop).unwrap_err(),
        ] {
            let code = from_status(&status).code;
            assert!(status.metadata().contains_key("greylag-code"), "{status}");
            assert!(matches!(code, ErrorCode::Unsupported | ErrorCode::InvalidStatement), "{status}");
        }
    }
}

#[tokio::test]
async fn actions_are_listed() {
    let door = open().await;
    let mut request = Request::new(Empty {});
    request.metadata_mut().insert("authorization", format!("Bearer {}", door.token("ada")).parse().unwrap());
    let listed = door.raw().await.list_actions(request).await.unwrap().into_inner();
    let names: Vec<String> = listed.map_ok(|a| a.r#type).try_collect().await.unwrap();
    for name in ["greylag.admin", "greylag.cancel", "CancelFlightInfo", "SetSessionOptions", "CreatePreparedStatement"]
    {
        assert!(names.iter().any(|n| n == name), "{name} among {names:?}");
    }
}

/// One action with a cookie, if there is one: its answer, and the cookie that came back.
async fn act<T: Message + Default>(
    door: &Opened,
    name: &str,
    body: Vec<u8>,
    cookie: Option<&str>,
) -> (T, Option<String>) {
    let mut request = Request::new(Action::new(name, body));
    request.metadata_mut().insert("authorization", format!("Bearer {}", door.token("ada")).parse().unwrap());
    if let Some(cookie) = cookie {
        request.metadata_mut().insert("cookie", cookie.parse().unwrap());
    }
    let response = door.raw().await.do_action(request).await.unwrap();
    let cookie = response.metadata().get("set-cookie").map(|c| c.to_str().unwrap().to_owned());
    let answer = response.into_inner().message().await.unwrap().unwrap();
    (T::decode(&*answer.body).unwrap(), cookie.map(|c| c.split(';').next().unwrap().to_owned()))
}

#[tokio::test]
async fn session_options_are_kept_in_a_cookie() {
    let door = open().await;
    let whole = OptionValue::Whole;
    let text = |t: &str| OptionValue::Text(t.into());
    let set = SetSessionOptionsRequest::new([
        ("greylag.delivery".to_owned(), text("spooled")),
        ("greylag.batch_rows".to_owned(), whole(100)),
        ("greylag.timeout_ms".to_owned(), whole(-4)),
        ("catalog".to_owned(), text("orders")),
    ]);
    let (result, cookie) = act::<SetSessionOptionsResult>(&door, "SetSessionOptions", set.encode_to_vec(), None).await;
    let faults = [("catalog".to_owned(), OptionFault::Name), ("greylag.timeout_ms".to_owned(), OptionFault::Value)];
    assert_eq!(result.faults(), faults.into());
    let cookie = cookie.unwrap();
    assert!(cookie.starts_with(COOKIE));

    let more = SetSessionOptionsRequest::new([("greylag.timeout_ms".to_owned(), text("1500"))]);
    let (_, cookie) =
        act::<SetSessionOptionsResult>(&door, "SetSessionOptions", more.encode_to_vec(), Some(&cookie)).await;
    let cookie = cookie.unwrap();
    let (now, _) = act::<GetSessionOptionsResult>(&door, "GetSessionOptions", vec![], Some(&cookie)).await;
    let expected = [
        ("greylag.batch_rows".to_owned(), whole(100)),
        ("greylag.delivery".to_owned(), text("spooled")),
        ("greylag.resumable".to_owned(), text("false")),
        ("greylag.timeout_ms".to_owned(), whole(1500)),
    ];
    assert_eq!(now.options(), expected.into());

    let mut client = door.client("ada").await;
    client.set_header("cookie", &cookie).unwrap();
    let batches = fixture::rows(client.query("whoami").await.unwrap()).await.unwrap();
    let who = texts(&batches[0], 0)[0].to_owned();
    assert!(who.contains("Spooled") && who.contains("1.5s") && who.contains("batch_rows: 100"), "{who}");
    let mut stranger = door.client("bob").await;
    stranger.set_header("cookie", &cookie).unwrap();
    assert_eq!(fixture::failure(stranger.query("one").await).code, ErrorCode::Unauthenticated);

    let (_, cookie) = act::<arrow_flight::Empty>(&door, "CloseSession", vec![], Some(&cookie)).await;
    assert_eq!(cookie.unwrap(), format!("{COOKIE}="));
}
