//! Reaching the server and being let in; the session's settings; the bound on connections; refusals by the server.

use std::time::Duration;

use arrow::{array::StringArray, datatypes::DataType};
use futures::StreamExt;
use greylag_actors::edge::port::ConnectorQuery;
use greylag_protocol::ErrorCode;

use super::{Fixture, connector, failure, query, schema_of, url};

#[tokio::test]
async fn the_session_is_set_up_and_read_only() {
    let Some(fixture) = Fixture::new("settings", "CREATE TABLE t (a int); CREATE SEQUENCE s").await else { return };
    let settings = [
        ("default_transaction_read_only", "on"),
        ("synchronize_seqscans", "off"),
        ("extra_float_digits", "3"),
        ("TimeZone", "UTC"),
        ("bytea_output", "hex"),
        ("standard_conforming_strings", "on"),
        ("search_path", "pg_catalog"),
        ("application_name", "greylag"),
        ("client_encoding", "UTF8"),
    ];
    // Twice: the second time with a connection from the pool.
    for _ in 0..2 {
        for (name, value) in settings {
            let sql = format!("SELECT current_setting('{name}')");
            let batches = fixture.rows(&sql, schema_of(&[DataType::Utf8])).await.unwrap();
            assert_eq!(batches[0].column(0).as_any().downcast_ref::<StringArray>().unwrap().value(0), value, "{name}");
        }
    }
    let schema = &fixture.schema;
    for sql in [
        format!("WITH x AS (INSERT INTO {schema}.t VALUES (1) RETURNING a) SELECT a FROM x"),
        format!("INSERT INTO {schema}.t VALUES (1) RETURNING a"),
        format!("SELECT nextval('{schema}.s')::int"),
        format!("SELECT 1 AS a INTO {schema}.u"),
        "SET default_transaction_read_only = off".into(),
        "SELECT 1; DELETE FROM t".into(),
    ] {
        let error = failure(&fixture.connector, query(&sql, schema_of(&[DataType::Int32]))).await;
        assert!(matches!(error.code, ErrorCode::ReadOnly | ErrorCode::SourceRefused), "{sql}: {error}");
    }
    let count: i64 = fixture.admin.query_one(&format!("SELECT count(*) FROM {schema}.t"), &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
    fixture.connector.ping().await.unwrap();
}

#[tokio::test]
async fn errors_of_the_server_are_typed() {
    let Some(fixture) = Fixture::new("errors", "").await else { return };
    for (sql, code) in [
        ("SELECT * FROM nowhere", ErrorCode::SourceRefused),
        ("SELECT 1 +", ErrorCode::SourceRefused),
        ("SELECT 1/(g - g) FROM generate_series(1, 2) g", ErrorCode::Execution),
        ("SELECT 'secret'::text::int", ErrorCode::Execution),
        ("SELECT $1::int", ErrorCode::SourceRefused),
        ("SELECT 'a\0b'", ErrorCode::SourceRefused),
    ] {
        let error = failure(&fixture.connector, query(sql, schema_of(&[DataType::Int32]))).await;
        assert_eq!(error.code, code, "{sql}: {error}");
        assert!(!error.message.contains("secret"), "{error}");
        assert_eq!(error.source.as_ref().map(|name| name.as_str()), Some("shop"));
    }
    // Rows came before the error: still an error, and the connection is good again.
    let sql = "SELECT 1000/(5000 - generate_series(1, 10000))";
    assert_eq!(failure(&fixture.connector, query(sql, schema_of(&[DataType::Int32]))).await.code, ErrorCode::Execution);
    assert_eq!(fixture.rows("SELECT 1", schema_of(&[DataType::Int32])).await.unwrap()[0].num_rows(), 1);
}

#[tokio::test]
async fn connections_are_bounded_and_the_bound_has_its_code() {
    let Some(fixture) = Fixture::with("bounded", "", &[("connections_max", "2")]).await else { return };
    let endless = || query("SELECT generate_series(1::int8, 1000000000)", schema_of(&[DataType::Int64]));
    let mut first = fixture.connector.query(endless()).await.unwrap();
    let second = fixture.connector.query(endless()).await.unwrap();
    let third = ConnectorQuery { timeout: Duration::from_millis(200), ..endless() };
    let error = fixture.connector.query(third).await.err().unwrap();
    assert!(matches!(error.code, ErrorCode::SourceBusy | ErrorCode::Deadline), "{error}");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%1000000000%' AND pid <> pg_backend_pid()";
    let count: i64 = fixture.admin.query_one(sql, &[]).await.unwrap().get(0);
    assert!(count >= 2);
    drop(second);
    assert!(fixture.connector.query(endless()).await.unwrap().next().await.unwrap().is_ok());
    assert!(first.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so() {
    let Some(url) = url() else { return };
    let config: tokio_postgres::Config = url.parse().unwrap();
    let port = config.get_ports()[0].to_string();
    let database = config.get_dbname().unwrap();
    let user = config.get_user().unwrap();
    let password = std::str::from_utf8(config.get_password().unwrap()).unwrap();
    let parts = |database, user, password, port| {
        [("host", "127.0.0.1"), ("port", port), ("database", database), ("user", user), ("password", password)]
    };
    assert!(connector(&parts(database, user, password, &port)).await.unwrap().ping().await.is_ok());
    for (options, code) in [
        (parts(database, user, "wrong", &port), ErrorCode::SourceRefused),
        (parts(database, "nobody", password, &port), ErrorCode::SourceRefused),
        (parts("nowhere", user, password, &port), ErrorCode::SourceRefused),
        (parts(database, user, password, "1"), ErrorCode::SourceUnreachable),
    ] {
        let error = connector(&options).await.unwrap().ping().await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(!error.message.contains(password) && !error.message.contains("wrong"), "{error}");
    }
    let without = &parts(database, user, password, &port)[..4];
    assert_eq!(connector(without).await.unwrap().ping().await.unwrap_err().code, ErrorCode::SourceRefused);
    let error = connector(&[("url", &url), ("schemas", "nowhere")]).await.unwrap().schema().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidResource);
    assert!(error.message.contains("`nowhere`"), "{error}");
}

#[tokio::test]
async fn tls_is_used_and_verified_where_asked_for() {
    let Some(url) = url() else { return };
    let encrypted = async |options: &[(&str, &str)]| {
        let connector = connector(options).await?;
        let sql = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let mut stream = connector.query(query(sql, schema_of(&[DataType::Utf8]))).await?;
        let batch = stream.next().await.unwrap()?;
        Ok::<_, greylag_protocol::MeshError>(
            batch.column(0).as_any().downcast_ref::<StringArray>().unwrap().value(0) == "true",
        )
    };
    assert!(!encrypted(&[("url", &url)]).await.unwrap(), "loopback is in plain by default");
    let Ok(ca) = std::env::var("GREYLAG_TEST_POSTGRES_CA") else {
        println!("SKIPPED: GREYLAG_TEST_POSTGRES_CA is not set");
        return;
    };
    assert!(encrypted(&[("url", &url), ("tls", "require")]).await.unwrap());
    assert!(encrypted(&[("url", &url), ("tls", "verify"), ("tls_ca", &ca)]).await.unwrap());
    let error = encrypted(&[("url", &url), ("tls", "verify")]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceRefused, "{error}");
    let other = url.replace("127.0.0.1", "127.0.0.2");
    let error = encrypted(&[("url", &other), ("tls", "verify"), ("tls_ca", &ca)]).await.unwrap_err();
    assert!(matches!(error.code, ErrorCode::SourceRefused | ErrorCode::SourceUnreachable), "{error}");
    // A cancel request goes through TLS as well.
    let connector =
        connector(&[("url", &url), ("tls", "verify"), ("tls_ca", &ca), ("connections_max", "1")]).await.unwrap();
    let sleep = ConnectorQuery {
        timeout: Duration::from_millis(200),
        ..query("SELECT pg_sleep(30)::text", schema_of(&[DataType::Utf8]))
    };
    assert_eq!(failure(&connector, sleep).await.code, ErrorCode::Deadline);
    tokio::time::timeout(Duration::from_secs(2), connector.ping()).await.unwrap().unwrap();
}

#[tokio::test]
async fn enums_are_delivered_without_having_read_the_schema() {
    let Some(fixture) =
        Fixture::with("enums", "CREATE TYPE mood AS ENUM ('sad', 'ok')", &[("connections_max", "1")]).await
    else {
        return;
    };
    for _ in 0..2 {
        let sql = format!("SELECT 'ok'::{}.mood", fixture.schema);
        let batches = fixture.rows(&sql, schema_of(&[DataType::Utf8])).await.unwrap();
        assert_eq!(batches[0].column(0).as_any().downcast_ref::<StringArray>().unwrap().value(0), "ok");
    }
    let sql = format!("SELECT ROW(1)::{0}.pair FROM (SELECT 1) x", fixture.schema);
    fixture.admin.batch_execute("CREATE TYPE pair AS (a int)").await.unwrap();
    let error = failure(&fixture.connector, query(&sql, schema_of(&[DataType::Utf8]))).await;
    assert_eq!(error.code, ErrorCode::UnsupportedType, "{error}");
}
