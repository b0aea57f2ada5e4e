//! The walk of a statement, seen from a door.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use greylag_protocol::{
    ErrorCode, JobId, NodeId, QueryId, SourceName,
    messages::control::{BearerClaim, BearerRequest, ControlReply, ControlRequest, TableName},
    state::{Allowed, Command, RegisterOp, RegisterRequest, Role, RoleCount, RoleWanted, SourceSpec},
    statement::{AdminCall, JobState},
};

use super::{source::Act, *};
use crate::planner::port::{Catalog, EdgeDirectory, Permit, PlanRequest, Planner, SystemTables};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_from_other_nodes_and_from_the_own_one() {
    let world = World::with_edges(1, 2_345, Limits::default()).await;
    for sql in ["stream a", "collect a", "build a"] {
        for session in [anybody(), spooled()] {
            assert_eq!(multiset(&world.rows(&session, sql).await.unwrap()), whole(2_345, 1), "{sql}");
        }
    }
    assert_eq!(multiset(&world.rows(&anybody(), "stream a a").await.unwrap()), whole(2_345, 2));
    // The edge's own node asks itself.
    let beside = world.node(1).statements().execute(&anybody(), "stream a", None).await.unwrap();
    assert_eq!(beside.schema, source::schema());
    let batches = read(beside).await.unwrap();
    assert_eq!(multiset(&batches), whole(2_345, 1));
    assert!(batches[..batches.len() - 1].iter().all(|b| b.num_rows() == BATCH_ROWS as usize), "not canonical");
    let info = world.statements().describe(&anybody(), "stream a").await.unwrap();
    assert_eq!((info.schema, info.parameters.fields().len()), (source::schema(), 0));
    until("every sub-query has ended", || world.source.live() == 0).await;
    assert!(world.source.cancelled().is_empty(), "what ended well was not cancelled");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_stops_the_source() {
    let world = World::with_edges(1, 10_000_000, window(1 << 10)).await;
    let batches = world.rows(&anybody(), "some a 5").await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    until("the source was stopped", || world.source.live() == 0 && world.source.cancelled().len() == 1).await;
    assert_eq!(world.attempts().await, [("first".to_owned(), "cancelled".to_owned())]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_actor_nothing_is_answered() {
    let world = World::with_edges(1, 100, Limits::default()).await;
    let nobody = session(" ", &[], options());
    assert_eq!(world.run(&nobody, "stream a").await.err().unwrap().code, ErrorCode::Denied);
    let none = RoleWanted { count: RoleCount::AtMost(3), labels: BTreeMap::from([("never".into(), "there".into())]) };
    let command = Command::Want { role: Role::Policy, wanted: Some(none) };
    world.node(0).ctx().mesh.propose(command).await.unwrap();
    until("the policy has gone", || {
        world.nodes.iter().flatten().all(|n| n.ctx().directory.actor(&Role::Policy).is_none())
    })
    .await;
    for sql in ["stream a", "system nodes"] {
        let (outcome, took) = timed(world.run(&anybody(), sql)).await;
        assert_eq!(outcome.err().unwrap().code, ErrorCode::NoPolicy);
        assert!(took < Duration::from_secs(5), "{took:?}");
        let described = world.statements().describe(&anybody(), sql).await;
        assert_eq!(described.err().unwrap().code, ErrorCode::NoPolicy);
    }
    assert!(world.source.asked().is_empty());
    let any = RoleWanted { count: RoleCount::All, labels: BTreeMap::new() };
    world.node(0).ctx().mesh.propose(Command::Want { role: Role::Policy, wanted: Some(any) }).await.unwrap();
    until("the policy is back", || world.node(0).ctx().directory.actor(&Role::Policy).is_some()).await;
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(100, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_planner_plans_nothing_that_no_decision_covers() {
    let world = World::with_edges(1, 10, Limits::default()).await;
    world.rows(&anybody(), "stream a").await.unwrap();
    let ctx = world.node(0).ctx().clone();
    let planner = ctx.directory.handle::<dyn Planner>(&Role::Planner).unwrap();
    let schema = crate::coordinator::get_schema(&ctx, &SourceName::new("a").unwrap(), world.id(1), PATIENCE).await;
    let sources = BTreeMap::from([(SourceName::new("a").unwrap(), Arc::new(schema.unwrap()))]);
    let catalog = Arc::new(Catalog { sources, unavailable: BTreeMap::new() });
    let [asked, other] = [1, 2].map(|n| QueryId(uuid::Uuid::from_u128(n)));
    let table = TableName { source: "a".into(), schema: "main".into(), table: "t".into() };
    let plan = |permit| {
        let (planner, catalog) = (planner.clone(), catalog.clone());
        let request = PlanRequest {
            permit,
            sql: "stream a".into(),
            parameters: None,
            catalog,
            options: options(),
            system: Arc::new(NoTables),
            edges: Arc::new(NoTables),
            pins: Vec::new(),
            steps: Vec::new(),
        };
        async move { planner.plan(asked, request).await.map(|plan| plan.subqueries().len()) }
    };
    let good = Permit::new(asked, ctx.mesh.state().epoch, vec![table.clone()]);
    assert_eq!(plan(good).await.unwrap(), 1);
    let for_another = Permit::new(other, ctx.mesh.state().epoch, vec![table.clone()]);
    let too_little = Permit::new(asked, ctx.mesh.state().epoch, vec![TableName { table: "u".into(), ..table }]);
    for permit in [for_another, too_little] {
        assert_eq!(plan(permit).await.unwrap_err().code, ErrorCode::NoDecision);
    }
    drop((planner, ctx));
    world.stop().await;
}

struct NoTables;

#[async_trait::async_trait]
impl SystemTables for NoTables {
    fn schemas(&self) -> Vec<(&'static str, arrow::datatypes::SchemaRef)> {
        Vec::new()
    }
    async fn rows(&self, _: &str) -> Result<RecordBatch> {
        Err(MeshError::internal("not in this test"))
    }
}

impl EdgeDirectory for NoTables {
    fn edges(&self, _: &SourceName) -> Vec<greylag_protocol::NodeId> {
        Vec::new()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_an_error_of_its_statement_alone() {
    let world = World::with_edges(1, 1_000, Limits::default()).await;
    for sql in ["panic in planning", "panic in running"] {
        let error = match world.run(&anybody(), sql).await {
            Ok(running) => read(running).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.code, ErrorCode::Internal, "{error}");
        assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(1_000, 1));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_refused_found_and_forgotten() {
    let world = World::start(1, 10, Limits::default()).await;
    let statements = world.statements();
    let spec = |options: &[(&str, &str)]| SourceSpec {
        name: SourceName::new("a").unwrap(),
        kind: "fake".into(),
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        labels: BTreeMap::new(),
        replicas: 1,
    };
    let apply = |spec| AdminCall::ApplySource { spec, expect_version: None };
    let refused = statements.admin(&anybody(), apply(spec(&[]))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Denied);
    let other_kind = SourceSpec { kind: "oracle".into(), ..spec(&[]) };
    for wrong in
        [spec(&[("wrong", "")]), spec(&[("password", "hunter2")]), other_kind, SourceSpec { replicas: 0, ..spec(&[]) }]
    {
        let error = statements.admin(&admin(), apply(wrong)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert!(!error.message.contains("hunter2"));
    }
    assert_eq!(world.run(&anybody(), "stream a").await.err().unwrap().code, ErrorCode::UnknownTable);

    // Asked for at once, before its edge runs and before anybody knows its schema.
    let options = [("password", "env:SECRET"), ("shown", "yes")];
    statements.admin(&admin(), apply(spec(&options))).await.unwrap();
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(10, 1));
    let sources = world.rows(&anybody(), "system sources").await.unwrap();
    let column = |name: &str| sources[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(
        (column("status"), column("options"), column("edges")),
        ("ready".into(), "shown=yes".into(), "n1".into())
    );

    // Changed so that it cannot be opened: the reason is told, and another source is not held up by it.
    statements.admin(&admin(), apply(spec(&[("closed", "")]))).await.unwrap();
    let (error, took) = timed(async {
        loop {
            // The edge of before may still be on its way out.
            match world.run(&anybody(), "stream a").await {
                Err(error) if error.code != ErrorCode::ShuttingDown => break error,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!((error.code, error.source.unwrap().as_str()), (ErrorCode::SourceUnreachable, "a"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let other = SourceSpec { name: SourceName::new("b").unwrap(), ..spec(&[]) };
    statements.admin(&admin(), apply(other)).await.unwrap();
    world.rows(&anybody(), "stream b").await.unwrap();
    let (rows, took) = timed(world.rows(&anybody(), "stream b")).await;
    assert_eq!(multiset(&rows.unwrap()), whole(10, 1));
    assert!(took < Duration::from_secs(1), "{took:?}");

    statements.admin(&admin(), AdminCall::DropSource { name: SourceName::new("a").unwrap() }).await.unwrap();
    assert_eq!(world.run(&anybody(), "stream a").await.err().unwrap().code, ErrorCode::UnknownTable);
    let again = statements.admin(&admin(), AdminCall::DropSource { name: SourceName::new("a").unwrap() }).await;
    assert_eq!(again.unwrap_err().code, ErrorCode::UnknownSource);
    drop(statements);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_for_admins_alone() {
    let world = World::start(1, 10, Limits::default()).await;
    let statements = world.statements();
    let create = |uses, ttl_secs| AdminCall::CreateJoinToken { uses, ttl_secs, allowed: None };
    assert_eq!(statements.admin(&anybody(), create(1, 60)).await.unwrap_err().code, ErrorCode::Denied);
    for wrong in [create(0, 60), create(1, 0), create(1, u64::MAX)] {
        assert_eq!(statements.admin(&admin(), wrong).await.unwrap_err().code, ErrorCode::InvalidResource);
    }
    let AdminReply::Token { token } = statements.admin(&admin(), create(2, 60)).await.unwrap() else { panic!() };
    let parsed = greylag_cluster::identity::token::parse(&token).unwrap();
    let state = world.node(0).ctx().mesh.state();
    assert_eq!(state.grants[&parsed.id].uses_left, 2);
    assert!(parsed.ca_pin.is_some());
    let edges = Some([Allowed::AnyEdge].into());
    let limited = AdminCall::CreateJoinToken { uses: 1, ttl_secs: 60, allowed: edges.clone() };
    statements.admin(&admin(), limited).await.unwrap();
    let none = AdminCall::CreateJoinToken { uses: 1, ttl_secs: 60, allowed: Some(Default::default()) };
    assert_eq!(statements.admin(&admin(), none).await.unwrap_err().code, ErrorCode::InvalidResource);
    let listed = statements.admin(&admin(), AdminCall::ListJoinTokens).await.unwrap();
    let AdminReply::Tokens(listed) = listed else { panic!() };
    let of = |wanted: &str| listed.iter().find(|token| token.id == wanted);
    assert_eq!(of(&parsed.id).map(|token| (token.uses_left, &token.allowed)), Some((2, &None)));
    assert!(listed.iter().any(|token| token.uses_left == 1 && token.allowed == edges));
    statements.admin(&admin(), AdminCall::RevokeJoinToken { id: parsed.id.clone() }).await.unwrap();
    assert!(!world.node(0).ctx().mesh.state().grants.contains_key(&parsed.id));
    drop(statements);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bearer_token_is_had_at_any_node_and_by_coordinators_alone() {
    let world = World::start(2, 10, Limits::default()).await;
    let bearer = || AdminCall::IssueBearer { principal: session("ada", &["r"], options()).principal, ttl_secs: 60 };
    let keeps = |which: usize| world.node(which).ctx().mesh.authority().is_some();
    assert_ne!(keeps(0), keeps(1), "one of two votes");
    for which in [0, 1] {
        let statements = world.node(which).statements();
        assert_eq!(statements.admin(&anybody(), bearer()).await.unwrap_err().code, ErrorCode::Denied);
        let reply = statements.admin(&admin(), bearer()).await.unwrap();
        assert!(matches!(&reply, AdminReply::Token { token } if token == "ada r 60"), "{reply:?}");
        let empty = AdminCall::IssueBearer { principal: session(" ", &[], options()).principal, ttl_secs: 60 };
        assert_eq!(statements.admin(&admin(), empty).await.unwrap_err().code, ErrorCode::InvalidResource);
    }
    // A request in another's name, for another node, or of long ago.
    let (keeper, other) = if keeps(0) { (0, 1) } else { (1, 0) };
    let asker = world.node(other).ctx();
    let now = asker.seams.clock.unix_ms();
    for (claimed, to, asked_unix_ms, expected) in [
        (other, keeper, now, None),
        (keeper, keeper, now, Some(ErrorCode::BadSignature)),
        (other, other, now, Some(ErrorCode::Denied)),
        (other, keeper, now - 3_600_000, Some(ErrorCode::Denied)),
    ] {
        let (principal, ttl_secs) = (session("eve", &["admin"], options()).principal, 60);
        let (of, to) = (world.id(claimed), world.id(to));
        let claim = BearerClaim { asker: of, keeper: to, asked_unix_ms, principal, ttl_secs };
        let signature = asker.mesh.sign(&claim.signed_bytes().unwrap());
        let request = ControlRequest::IssueBearer(BearerRequest { claim, signature });
        let peers = asker.peers().unwrap();
        let reply = peers.call(world.id(keeper), &Role::Coordinator, request, Duration::from_secs(5)).await;
        let refused = match reply {
            Ok(ControlReply::Bearer(_)) => None,
            Ok(ControlReply::Error(error)) | Err(error) => Some(error.code),
            Ok(other) => panic!("{other:?}"),
        };
        assert_eq!(refused, expected);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registers_are_read_and_changed_by_admins_and_a_repeated_call_changes_them_once() {
    let world = World::start(1, 10, Limits::default()).await;
    let statements = world.statements();
    let name = || "lock".to_owned();
    let read = || AdminCall::ReadRegister { name: name() };
    let add = |request| AdminCall::ChangeRegister { name: name(), op: RegisterOp::Add { delta: 2 }, request };
    assert_eq!(statements.admin(&anybody(), read()).await.unwrap_err().code, ErrorCode::Denied);
    let found = |reply: Result<AdminReply>| match reply.unwrap() {
        AdminReply::Register { version, value } => (version, value),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(statements.admin(&admin(), read()).await), (0, None));
    let request = RegisterRequest { id: uuid::Uuid::new_v4(), after: 0 };
    for _ in 0..3 {
        assert_eq!(found(statements.admin(&admin(), add(Some(request))).await), (1, Some("2".to_owned())));
    }
    assert_eq!(found(statements.admin(&admin(), add(None)).await), (2, Some("4".to_owned())));
    assert_eq!(found(statements.admin(&admin(), read()).await), (2, Some("4".to_owned())));
    drop(statements);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_ends_its_queries_and_then_holds_no_role_and_takes_them_up_again() {
    let world = World::start(3, 30_000, window(10_000)).await;
    world.apply("a", 1).await;
    let edge = Role::Edge(SourceName::new("a").unwrap());
    let (from, to) = if world.node(0).ctx().mesh.state().holds(world.id(1), &edge) { (1, 2) } else { (2, 1) };
    let (statements, node) = (world.statements(), world.id(from));
    let drain = || AdminCall::DrainNode { node };
    assert_eq!(statements.admin(&anybody(), drain()).await.unwrap_err().code, ErrorCode::Denied);
    let nobody = AdminCall::DrainNode { node: NodeId(99) };
    assert_eq!(statements.admin(&admin(), nobody).await.unwrap_err().code, ErrorCode::InvalidResource);

    // One statement is read at its leisure, at the node that drains and from its edge.
    let leaving = world.node(from).statements();
    let mut begun = leaving.execute(&anybody(), "stream a", None).await.unwrap();
    let mut rows = vec![begun.batches.next().await.unwrap().unwrap()];
    let unread = leaving.execute(&anybody(), "stream a", None).await.unwrap();
    statements.admin(&admin(), drain()).await.unwrap();
    statements.admin(&admin(), drain()).await.unwrap();
    let runs = |which: usize, role: &Role| world.node(which).ctx().directory.actor(role).is_some();
    let all = [Role::Coordinator, Role::Planner, Role::Policy, edge.clone()];
    until("the edge has a successor", || runs(to, &edge)).await;
    until("it is known there", || world.node(from).ctx().mesh.state().draining.contains(&node)).await;
    assert_eq!(leaving.execute(&anybody(), "stream a", None).await.err().unwrap().code, ErrorCode::ShuttingDown);
    rows.extend(read(begun).await.unwrap());
    assert_eq!(multiset(&rows), whole(30_000, 1));
    until("its roles are with others", || {
        world.node(0).ctx().mesh.state().roles_of(node).is_empty()
            && runs(to, &edge)
            && all.iter().all(|role| !runs(from, role))
    })
    .await;
    // Who has not read to the end by then is told to go on elsewhere, and not that something broke.
    assert_eq!(read(unread).await.unwrap_err().code, ErrorCode::ShuttingDown);
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(30_000, 1));
    statements.admin(&admin(), AdminCall::UndrainNode { node }).await.unwrap();
    until("its roles are back", || all[..3].iter().all(|role| runs(from, role))).await;
    leaving.execute(&anybody(), "stream a", None).await.unwrap();
    assert!(runs(to, &edge) && !runs(from, &edge), "an edge is not moved back");
    drop((statements, leaving));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_leaves_a_node_that_drains_as_soon_as_nothing_runs_in_it() {
    // Nobody waits for this to be over.
    let grace_ms = 3_600_000;
    let world =
        World::start_with(3, 30_000, Setup { limits: window(10_000), drain_grace_ms: grace_ms, ..Setup::default() })
            .await;
    world.apply("a", 1).await;
    let edge = Role::Edge(SourceName::new("a").unwrap());
    let (from, to) = if world.node(0).ctx().mesh.state().holds(world.id(1), &edge) { (1, 2) } else { (2, 1) };
    let (statements, node) = (world.statements(), world.id(from));
    // One statement runs at another node and reads from this one's edge, which has no more for it.
    world.source.tell(from, Act::HangAfter(20_000));
    let mut begun = statements.execute(&anybody(), "stream a", None).await.unwrap();
    begun.batches.next().await.unwrap().unwrap();
    statements.admin(&admin(), AdminCall::DrainNode { node }).await.unwrap();
    let held = || world.node(0).ctx().mesh.state().roles_of(node);
    let used = vec![edge.clone()];
    until("only what is used stays", || held() == used).await;
    until("the edge has a successor", || world.node(to).ctx().directory.actor(&edge).is_some()).await;
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(30_000, 1));
    assert_eq!(held(), used);
    drop(begun);
    until("nothing is used any more", || held().is_empty()).await;
    until("nothing runs", || world.node(from).ctx().directory.roles().is_empty()).await;
    drop(statements);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_tables_tell_of_every_node() {
    let world = World::with_edges(1, 300, Limits::default()).await;
    world.rows(&anybody(), "stream a").await.unwrap();
    read(world.node(1).statements().execute(&anybody(), "collect a", None).await.unwrap()).await.unwrap();
    let of = |table: &'static str, column: &'static str| {
        let world = &world;
        async move {
            let batches = world.rows(&anybody(), &format!("system {table}")).await.unwrap();
            let texts = |b: &RecordBatch| {
                let column = b.column_by_name(column).unwrap().as_string::<i32>();
                column.iter().map(|text| text.unwrap_or("NULL").to_owned()).collect::<Vec<_>>()
            };
            let mut all: Vec<String> = batches.iter().flat_map(texts).collect();
            all.sort();
            all
        }
    };
    assert_eq!(of("nodes", "id").await, ["n1", "n2"]);
    assert_eq!(of("nodes", "link").await, ["connected", "self"]);
    assert_eq!(of("roles", "role").await.iter().filter(|r| r.as_str() == "edge/a").count(), 1);
    let kinds = of("tables", "kind").await;
    assert_eq!(kinds.iter().filter(|kind| kind.as_str() == "table").count(), 1);
    assert_eq!(of("subqueries", "state").await, ["done", "done"]);
    let coordinators = of("queries", "coordinator").await;
    assert!(coordinators.contains(&"n1".to_owned()) && coordinators.contains(&"n2".to_owned()), "{coordinators:?}");
    let states = of("queries", "state").await;
    assert!(states.iter().all(|s| s == "done" || s == "running"), "{states:?}");
    let (actors, nodes) = (of("actors", "name").await, of("actors", "node").await);
    for name in ["coordinator", "coordinator/catalog", "edge/a", "edge-door", "planner", "policy"] {
        assert!(actors.iter().any(|actor| actor == name), "{name} is not in {actors:?}");
    }
    assert!(nodes.contains(&"n1".to_owned()) && nodes.contains(&"n2".to_owned()));
    // A node that has gone is left out, and asking takes no longer for it than it may.
    let mut world = world;
    let gone = world.nodes[1].take().unwrap();
    gone.shutdown().await;
    gone.ctx().mesh.shutdown().await;
    let (rows, took) = timed(world.rows(&anybody(), "system actors")).await;
    assert!(rows.is_ok() && took < Duration::from_secs(3), "{took:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_by_itself_is_read_from_anywhere_and_stops_when_told() {
    const ROWS: u64 = 20_000;
    let world = World::with_edges(1, ROWS, Limits::default()).await;
    let (here, there) = (world.statements(), world.node(1).statements());
    let id = |n: u128| JobId(uuid::Uuid::from_u128(n));
    here.submit(&anybody(), id(1), "stream a", None).await.unwrap();
    let done = here.progress(&anybody(), id(1), PATIENCE).await.unwrap().unwrap();
    assert_eq!((done.node, done.rows, done.state), (world.id(0), ROWS, JobState::Done));
    // Nobody else sees it; its own principal does, at every coordinator; and it is not begun twice.
    assert_eq!(here.progress(&session("bob", &[], options()), id(1), Duration::ZERO).await.unwrap(), None);
    assert_eq!(there.progress(&anybody(), id(1), Duration::ZERO).await.unwrap().unwrap().node, world.id(0));
    assert_eq!(there.submit(&anybody(), id(1), "stream a", None).await.unwrap().node, world.id(0));
    assert!(there.results(&anybody(), id(1)).await.unwrap().is_none());
    assert_eq!(world.source.asked().len(), 1);
    for _ in 0..2 {
        let running = here.results(&anybody(), id(1)).await.unwrap().unwrap();
        assert_eq!(multiset(&read(running).await.unwrap()), whole(ROWS, 1));
    }

    world.source.tell(1, Act::HangAfter(1_000));
    there.submit(&anybody(), id(2), "stream a", None).await.unwrap();
    tokio::time::timeout(PATIENCE, world.source.hanging.notified()).await.expect("no edge was asked");
    let running = there.results(&anybody(), id(2)).await.unwrap().unwrap();
    assert!(!here.cancel_job(&session("bob", &[], options()), id(2)).await.unwrap());
    assert!(here.cancel_job(&anybody(), id(2)).await.unwrap(), "from another coordinator");
    assert_eq!(read(running).await.unwrap_err().code, ErrorCode::Cancelled);
    until("the source has stopped", || world.source.live() == 0).await;
    assert!(!here.cancel_job(&anybody(), id(2)).await.unwrap());
    assert!(here.cancel_job(&anybody(), id(1)).await.unwrap());
    until("its rows are gone", || world.node(0).ctx().spill.used() == 0).await;

    here.submit(&anybody(), id(3), "panic in planning", None).await.unwrap();
    let failed = here.progress(&anybody(), id(3), PATIENCE).await.unwrap().unwrap();
    assert!(matches!(failed.state, JobState::Failed(_)), "{failed:?}");
    drop((here, there));
    world.stop().await;
}
