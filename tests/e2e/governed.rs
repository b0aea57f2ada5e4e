//! No way around: every call of the door as somebody whom policies permit nothing, and every trick to see a column, a row
//! or a value that policies keep back. The values that must not be seen are unlike anything else, so that finding one
//! anywhere, in a result, a schema, a plan or an error, is a leak.

use std::time::{Duration, Instant};

use arrow::{array::RecordBatch, util::pretty::pretty_format_batches};
use arrow_flight::{
    Action, Criteria, FlightDescriptor, FlightInfo, Ticket,
    sql::{CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables, client::FlightSqlServiceClient},
};
use futures::TryStreamExt;
use greylag_node::{
    cli::Connection,
    demo::{Databases, DemoMesh},
};
use greylag_protocol::{
    ErrorCode, SourceName,
    principal::{Principal, PrincipalKind},
    state::SourceSpec,
    statement::{AdminCall, AdminReply, SessionOptions},
};
use greylag_tests::binary;
use tonic::transport::{Channel, Endpoint};

/// In `ssn`, which is hidden; in `name`, which is masked; in rows of another ward, which are filtered out.
const KEPT_BACK: [&str; 3] = ["S3CR3T", "Nomen", "Hiddenrow"];
const ROWS: &str = "id,name,ssn,ward,grade\n1,Nomen-1,S3CR3T-1,north,3\n2,Nomen-2,S3CR3T-2,north,4\n\
                    3,Hiddenrow-3,S3CR3T-3,south,5\n4,Hiddenrow-4,S3CR3T-4,south,6\n";
const POLICIES: [(&str, &str); 4] = [
    (
        "mallory-sees-the-north",
        r#"@tables("vault.main.people") permit (principal == User::"mallory", action in [Action::"select", Action::"explain", Action::"describe"], resource) when { !(resource is Row) || (resource has ward && resource.ward == "north") };"#,
    ),
    (
        "no-ssn",
        r#"@tables("vault.main.people") forbid (principal == User::"mallory", action, resource == Column::"vault.main.people.ssn");"#,
    ),
    (
        "no-names",
        r#"@tables("vault.main.people") @mask("full") forbid (principal == User::"mallory", action, resource == Column::"vault.main.people.name");"#,
    ),
    ("nothing-of-other", r#"@tables("vault.main.other") forbid (principal == User::"mallory", action, resource);"#),
];

struct Vault {
    mesh: DemoMesh,
    _dir: tempfile::TempDir,
}

impl Vault {
    async fn build() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("vault");
        std::fs::create_dir_all(&data)?;
        std::fs::write(data.join("people.csv"), ROWS)?;
        std::fs::write(data.join("other.csv"), "id,ssn\n1,S3CR3T-9\n")?;
        let (mut mesh, _) = DemoMesh::start_of(dir.path(), 1, &Databases::default(), &binary()).await?;
        let options = [("path".to_owned(), data.to_string_lossy().into_owned())].into();
        let spec = SourceSpec {
            name: SourceName::new("vault")?,
            kind: "files".into(),
            options,
            labels: Default::default(),
            replicas: 1,
        };
        let admin = mesh.connection(0).await?;
        admin.admin(&AdminCall::ApplySource { spec, expect_version: None }).await?;
        mesh.wait_rows("SELECT 1 FROM system.tables WHERE name = 'people' AND error IS NULL").await?;
        for (id, text) in POLICIES {
            let call = AdminCall::PutPolicy { id: id.into(), text: text.into(), expect_version: None };
            admin.admin(&call).await?;
        }
        Ok(Self { mesh, _dir: dir })
    }

    async fn token(&self, id: &str) -> anyhow::Result<String> {
        let principal = Principal {
            id: id.into(),
            kind: PrincipalKind::Person,
            roles: vec!["analyst".into()],
            attributes: Default::default(),
        };
        let call = AdminCall::IssueBearer { principal, ttl_secs: 600 };
        match self.mesh.connection(0).await?.admin(&call).await? {
            AdminReply::Token { token } => Ok(token),
            other => anyhow::bail!("{other:?}"),
        }
    }

    async fn connect(&self, id: &str) -> anyhow::Result<Connection> {
        let token = self.token(id).await?;
        Ok(Connection::with_options(&self.mesh.door(0)?, &token, SessionOptions::default()).await?)
    }

    async fn raw(&self, token: &str) -> anyhow::Result<FlightSqlServiceClient<Channel>> {
        let channel = Endpoint::from_shared(format!("http://{}", self.mesh.door(0)?))?.connect().await?;
        let mut client = FlightSqlServiceClient::new(channel);
        client.set_token(token.to_owned());
        Ok(client)
    }
}

/// Everything that a statement says: its rows, or its error.
async fn said(connection: &Connection, sql: &str) -> String {
    match connection.query(sql).await {
        Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
        Err(error) => error.to_string(),
    }
}

fn check(what: &str, text: &str) {
    for kept_back in KEPT_BACK {
        assert!(!text.contains(kept_back), "{what} tells `{kept_back}`:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_kept_back_can_be_smuggled_out() -> anyhow::Result<()> {
    let mut vault = Vault::build().await?;
    let mallory = vault.connect("mallory").await?;
    let seen = said(&mallory, "SELECT * FROM people ORDER BY id").await;
    assert!(seen.contains("*******") && seen.contains("north") && !seen.contains("ssn"), "{seen}");
    // With the outcome that says so, where the text alone would not.
    let exact = [
        ("SELECT count(*) AS n FROM people", "| 2 |"),
        ("SELECT count(*) AS n FROM people WHERE name = 'Nomen-1'", "| 0 |"),
        ("SELECT count(*) AS n FROM people WHERE name LIKE 'N%'", "| 0 |"),
        ("SELECT max(id) AS n FROM people", "| 2 |"),
        // Would fail over a row that is filtered out.
        ("SELECT count(*) AS n FROM people WHERE 10 / (id - 3) < 0", "| 2 |"),
        ("SELECT count(*) AS n FROM people WHERE CASE WHEN ward = 'south' THEN 1 / (id - id) ELSE 1 END = 1", "| 2 |"),
        ("SELECT count(*) AS n FROM people a JOIN people b ON a.name = b.name", "| 4 |"),
        ("SELECT rows AS n FROM greylag.system.tables WHERE name = 'people'", "|   |"),
        ("SELECT count(*) AS n FROM greylag.system.tables WHERE name = 'other'", "| 0 |"),
        ("SELECT count(*) AS n FROM greylag.system.queries WHERE principal <> 'mallory'", "| 0 |"),
    ];
    for (sql, expected) in exact {
        let text = said(&mallory, sql).await;
        assert!(text.contains(expected), "{sql}\n{text}");
    }
    // As if there were no such column, whatever it is put into.
    let hidden = [
        "SELECT ssn FROM people",
        "SELECT p.ssn FROM vault.main.people p",
        "SELECT id FROM people ORDER BY ssn",
        "SELECT id FROM people WHERE ssn LIKE 'S3CR3T-1%'",
        "SELECT id FROM people GROUP BY id, ssn",
        "SELECT max(ssn) FROM people",
        "WITH p AS (SELECT * FROM people) SELECT ssn FROM p",
        "SELECT (SELECT max(ssn) FROM people)",
        "SELECT id FROM people WHERE id IN (SELECT id FROM people WHERE ssn > 'S')",
        "SELECT a.id FROM people a JOIN people b ON a.ssn = b.ssn",
        "SELECT named_struct('x', ssn) FROM people",
        "SELECT row_number() OVER (ORDER BY ssn) FROM people",
        "SELECT 1 / (CASE WHEN ssn = 'S3CR3T-1' THEN 0 ELSE 1 END) FROM people",
        "EXPLAIN SELECT ssn FROM people",
        "SELECT id FROM people EXCEPT SELECT id FROM people WHERE ssn IS NULL",
        "SELECT * EXCLUDE (id) , ssn FROM people",
    ];
    for sql in hidden {
        let error = mallory.query(sql).await.err().unwrap_or_else(|| panic!("{sql} was answered"));
        assert!(matches!(error.code, ErrorCode::UnknownColumn | ErrorCode::InvalidStatement), "{sql}: {error}");
    }
    // Whatever comes of these, it tells nothing. (Constants of the statement's own come back in errors: there are none here.)
    let tricks = [
        "SELECT cast(name AS bigint) FROM people",
        "SELECT cast(concat(name, ward) AS double) FROM people",
        "SELECT people FROM people",
        "SELECT p.* FROM people p, people q",
        "SELECT name, min(name) OVER () FROM people",
        "SELECT array_agg(name) FROM people",
        "SELECT string_agg(name, ',') FROM people",
        "SELECT substring(name FROM 1 FOR 5), length(name), md5(name) FROM people",
        "SELECT DISTINCT ward, name FROM people",
        "SELECT * FROM people UNION ALL SELECT * FROM people",
        "SELECT * FROM people WHERE ward = 'south'",
        "SELECT * FROM people WHERE ward <> 'north' OR true",
        "SELECT * FROM people LEFT JOIN (VALUES (3), (4)) v(k) ON id = k",
        "SELECT * FROM (VALUES (3), (4)) v(k) LEFT JOIN people ON id = k",
        "SELECT k, (SELECT name FROM people WHERE id = k) FROM (VALUES (3), (4)) v(k)",
        "EXPLAIN SELECT * FROM people",
        "EXPLAIN VERBOSE SELECT * FROM people",
        "EXPLAIN ANALYZE SELECT * FROM people",
        "DESCRIBE people",
        "SHOW COLUMNS FROM people",
        "SHOW TABLES",
        "SELECT * FROM other",
        "SELECT * FROM vault.main.othe",
        "SELECT * FROM vault.main.people_",
        "SELECT peple.id FROM people",
        "SELECT nam FROM people",
        "SELECT * FROM greylag.system.tables",
        // Of her own statements she may see the text, with the values that she has put there.
        "SELECT principal, state, rows, error FROM greylag.system.queries",
        "SELECT * FROM greylag.system.subqueries",
        "SELECT * FROM greylag.system.sources",
        "SELECT * FROM greylag.system.audit",
        "SELECT * FROM greylag.system.decisions",
        "SELECT * FROM greylag.system.policies",
        "SELECT * FROM greylag.system.keys",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM information_schema.tables",
    ];
    // An administrator's statement, with values in its text, lies beside.
    vault.mesh.connection(0).await?.query("SELECT * FROM people WHERE ssn = 'S3CR3T-1'").await?;
    for sql in tricks {
        check(sql, &said(&mallory, sql).await);
    }
    // What it came to read is in the audit, by column: `name` masked, `ward` by the row filter.
    let read = "SELECT 1 FROM greylag.system.audit WHERE principal = 'mallory' AND outcome = 'done' \
                AND columns = 'vault.main.people.id, vault.main.people.name, vault.main.people.ward'";
    assert!(mallory.query("SELECT id, name FROM people").await?.iter().any(|batch| batch.num_rows() > 0));
    vault.mesh.wait_rows(read).await?;
    let analyze = mallory.query("EXPLAIN ANALYZE SELECT * FROM people").await.unwrap_err();
    assert_eq!(analyze.code, ErrorCode::Denied, "its counts would tell of rows that are kept back");
    let near = said(&mallory, "SELECT * FROM vault.main.othe").await;
    assert!(!near.contains("other"), "names of tables are not told: {near}");
    Ok(())
}

/// What a call of the door comes to: what it says, for a leak to be looked for, and whether it gave data.
async fn fetched(client: &mut FlightSqlServiceClient<Channel>, info: FlightInfo) -> Result<String, String> {
    let mut text = format!("{:?}", info.schema);
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.unwrap_or_default();
        let stream = client.do_get(ticket).await.map_err(|e| e.to_string())?;
        let batches: Vec<_> =
            stream.try_collect().await.map_err(|e: arrow_flight::error::FlightError| e.to_string())?;
        text.push_str(&pretty_format_batches(&batches).map_err(|e| e.to_string())?.to_string());
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_door_needs_a_decision() -> anyhow::Result<()> {
    let vault = Vault::build().await?;
    let token = vault.token("nobody").await?;
    let mut nobody = vault.raw(&token).await?;
    let refused = |what: &str, text: &str| {
        assert!(text.contains("GL2003"), "{what} is not denied: {text}");
        check(what, text);
    };
    // Statements, at once and prepared, described and run; and what another was given.
    for sql in [
        "SELECT * FROM people",
        "EXPLAIN SELECT * FROM people",
        "DESCRIBE people",
        "SELECT * FROM greylag.system.nodes",
    ] {
        refused(sql, &nobody.execute(sql.to_owned(), None).await.unwrap_err().to_string());
        refused(sql, &nobody.prepare(sql.to_owned(), None).await.err().map(|e| e.to_string()).unwrap_or_default());
    }
    let mut admin = vault.raw(&vault.mesh.token()?).await?;
    let info = admin.execute("SELECT * FROM people".to_owned(), None).await?;
    let stolen = fetched(&mut nobody, info).await.unwrap_err();
    assert!(stolen.contains("GL2001") || stolen.contains("GL2003"), "another's ticket: {stolen}");
    // Questions about the catalog are answered, and tell of nothing that is not permitted.
    let tables = CommandGetTables { include_schema: true, ..Default::default() };
    let infos = [
        nobody.get_catalogs().await?,
        nobody.get_db_schemas(CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None }).await?,
        nobody.get_tables(tables).await?,
        nobody.get_table_types().await?,
    ];
    for info in infos {
        let text = fetched(&mut nobody, info).await.map_err(anyhow::Error::msg)?;
        assert!(!text.contains("people") && !text.contains("vault") && !text.contains("other"), "{text}");
    }
    let keys =
        CommandGetPrimaryKeys { catalog: Some("vault".into()), db_schema: Some("main".into()), table: "people".into() };
    let keys = match nobody.get_primary_keys(keys).await {
        Ok(info) => fetched(&mut nobody, info).await.unwrap_or_else(|error| error),
        Err(error) => error.to_string(),
    };
    check("primary keys", &keys);
    // The service below Flight SQL: each of its methods.
    let mut below = arrow_flight::flight_service_client::FlightServiceClient::new(
        Endpoint::from_shared(format!("http://{}", vault.mesh.door(0)?))?.connect().await?,
    );
    let with = |token: &str| -> tonic::metadata::MetadataValue<tonic::metadata::Ascii> {
        format!("Bearer {token}").parse().unwrap()
    };
    macro_rules! bare {
        ($method:ident, $body:expr) => {{
            let anonymous = below.$method(tonic::Request::new($body)).await.err().map(|s| s.to_string());
            assert!(
                anonymous.as_deref().is_some_and(|text| text.contains("GL2001")),
                "{}: {anonymous:?}",
                stringify!($method)
            );
            let mut request = tonic::Request::new($body);
            request.metadata_mut().insert("authorization", with(&token));
            let known = match below.$method(request).await {
                Ok(_) => String::new(),
                Err(status) => status.to_string(),
            };
            check(stringify!($method), &known);
            known
        }};
    }
    let no_command = || FlightDescriptor::new_cmd(Vec::new());
    for text in
        [bare!(get_flight_info, no_command()), bare!(get_schema, no_command()), bare!(poll_flight_info, no_command())]
    {
        assert!(text.contains("GL"), "{text}");
    }
    assert!(bare!(do_get, Ticket::new(Vec::new())).contains("GL"));
    bare!(list_flights, Criteria::default());
    // Every action, with a body that means something to some of them.
    let mut request = tonic::Request::new(arrow_flight::Empty {});
    request.metadata_mut().insert("authorization", with(&token));
    let listed: Vec<_> = below.list_actions(request).await?.into_inner().try_collect().await?;
    assert!(!listed.is_empty());
    for action in listed {
        bare!(do_action, Action::new(action.r#type.clone(), Vec::new()));
    }
    let nobody = Connection::with_options(&vault.mesh.door(0)?, &token, SessionOptions::default()).await?;
    for call in [
        AdminCall::ListJoinTokens,
        AdminCall::SaveSnapshot { from: 0 },
        AdminCall::DropPolicy { id: "no-ssn".into() },
        AdminCall::ListKeys { after: None },
    ] {
        assert_eq!(nobody.admin(&call).await.unwrap_err().code, ErrorCode::Denied, "{call:?}");
    }
    // All of it is in the audit, in a moment: each statement twice, and each of the calls.
    let admin = vault.mesh.connection(0).await?;
    let denied = "SELECT kind, action, statement, code FROM greylag.system.audit \
                  WHERE principal = 'nobody' AND outcome = 'denied' AND client = '127.0.0.1'";
    let started = Instant::now();
    loop {
        let rows = admin.query(denied).await?;
        if rows.iter().map(RecordBatch::num_rows).sum::<usize>() >= 2 * 4 + 4 {
            break;
        }
        let patience = Duration::from_secs(20);
        anyhow::ensure!(started.elapsed() < patience, "{}", pretty_format_batches(&rows)?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
