//! Nothing without a decision, and no decision outlives what it was made by.

use greylag_protocol::{
    principal::attribute,
    state::{ApiKey, GovernanceSettings},
};

use super::{source::Act, *};

/// A world in which nobody but administrators has been permitted anything.
async fn closed(edges: usize, rows: u64, limits: Limits) -> World {
    let world = World::with_edges(edges, rows, limits).await;
    govern(&world, GovernCommand::DropPolicy { id: "anybody-reads".into() }).await;
    world
}

async fn govern(world: &World, command: GovernCommand) {
    let mesh = &world.node(0).ctx().mesh;
    mesh.propose(Command::Govern(command)).await.unwrap();
    mesh.catch_up().await.unwrap();
    let epoch = mesh.state().epoch;
    until("all know it", || world.nodes.iter().flatten().all(|n| n.ctx().mesh.state().epoch >= epoch)).await;
}

async fn names(world: &World, session: &Session) -> Vec<String> {
    let batches = world.rows(session, "system tables").await.unwrap();
    let column = |batch: &RecordBatch| batch.column_by_name("name").unwrap().as_string::<i32>().clone();
    batches.iter().flat_map(|b| column(b).iter().flatten().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_permitted_gets_nothing_and_is_told_by_which_policy() {
    let world = closed(1, 100, Limits::default()).await;
    let denied = world.run(&anybody(), "stream a").await.err().unwrap();
    assert_eq!(denied.code, ErrorCode::Denied, "{denied}");
    let described = world.statements().describe(&anybody(), "stream a").await.err().unwrap();
    assert_eq!(described.code, ErrorCode::Denied);
    assert!(world.source.asked().is_empty());
    assert_eq!(multiset(&world.rows(&admin(), "stream a").await.unwrap()), whole(100, 1));
    // What is there is not told either, and not what others run.
    let seen = names(&world, &anybody()).await;
    assert!(seen.contains(&"tables".to_owned()) && !seen.contains(&"t".to_owned()), "{seen:?}");
    assert!(names(&world, &admin()).await.contains(&"t".to_owned()));
    let other = world.run(&anybody(), "system nodes").await.err().unwrap();
    assert_eq!(other.code, ErrorCode::Denied);

    let text = r#"permit (principal == User::"ada", action == Action::"select", resource in Source::"a");"#;
    world.put_policy("ada-reads-a", text).await;
    assert_eq!(multiset(&world.rows(&anybody(), "stream a").await.unwrap()), whole(100, 1));
    world.put_policy("not-ada", r#"forbid (principal == User::"ada", action, resource is Row);"#).await;
    let denied = world.run(&anybody(), "stream a").await.err().unwrap();
    assert!(denied.code == ErrorCode::Denied && denied.message.contains("`not-ada`"), "{denied}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_goes_on_after_policies_have_changed_is_decided_anew() {
    let world = World::with_edges(2, 5_000, Limits::default()).await;
    let hang = || {
        for edge in [1, 2] {
            world.source.tell(edge, Act::FailWhenTold(2_000));
        }
    };
    // Nothing has left yet when its edge is lost: decided and planned anew, it gets all rows, each once.
    hang();
    let (session, statements) = (anybody(), world.statements());
    let running = tokio::spawn(async move { read(statements.execute(&session, "collect a", None).await?).await });
    world.source.hanging.notified().await;
    world.put_policy("another", r#"permit (principal, action == Action::"explain", resource);"#).await;
    world.source.forget();
    world.source.lose();
    let batches = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    assert_eq!(multiset(&batches), whole(5_000, 1));

    // The new decision is no.
    hang();
    let (session, statements) = (anybody(), world.statements());
    let running = tokio::spawn(async move { read(statements.execute(&session, "collect a", None).await?).await });
    world.source.hanging.notified().await;
    world.put_policy("nobody", "forbid (principal, action, resource is Row);").await;
    world.source.forget();
    world.source.lose();
    let error = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Denied, "{error}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_stops_what_runs_by_it() {
    let world = World::with_edges(1, 10_000_000, window(1 << 10)).await;
    let mut session = anybody();
    session.principal.attributes.insert(attribute::CREDENTIAL.into(), "key:k1".into());
    let key = ApiKey {
        id: "k1".into(),
        secret_hash: [1; 32],
        principal: session.principal.clone(),
        scopes: [].into(),
        networks: vec![],
        created_unix_ms: 1,
        expires_unix_ms: None,
        revoked_unix_ms: None,
        last_used_unix_ms: None,
    };
    govern(&world, GovernCommand::PutKey { key: Box::new(key) }).await;
    let mut by_key = world.run(&session, "stream a").await.unwrap();
    let mut by_another = world.run(&anybody(), "stream a").await.unwrap();
    assert!(by_key.batches.next().await.unwrap().is_ok() && by_another.batches.next().await.unwrap().is_ok());
    let (ended, took) = timed(async {
        govern(&world, GovernCommand::RevokeKey { id: "k1".into(), now_unix_ms: 5 }).await;
        loop {
            match by_key.batches.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    })
    .await;
    assert_eq!(ended.unwrap().unwrap_err().code, ErrorCode::Unauthenticated);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(by_another.batches.next().await.unwrap().is_ok(), "what runs by other credentials runs on");
    drop((by_key, by_another));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_estimated_over_the_budget_is_not_begun() {
    let world = World::with_edges(1, 100, Limits::default()).await;
    let budget = |rows_max| greylag_protocol::state::Budget { rows_max: Some(rows_max), ..Default::default() };
    for (rows_max, code) in [(999, Some(ErrorCode::BudgetExceeded)), (1_000, None)] {
        let settings = GovernanceSettings { budgets: vec![budget(rows_max)], ..Default::default() };
        let settings = GovernCommand::PutSettings { settings: Box::new(settings), expect_version: None };
        govern(&world, settings).await;
        let asked = world.source.asked().len();
        let outcome = world.rows(&anybody(), "stream a").await;
        assert_eq!(outcome.as_ref().err().map(|e| e.code), code, "{outcome:?}");
        assert_eq!(world.source.asked().len() - asked, usize::from(code.is_none()));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reads_more_than_estimated_is_stopped() {
    let world = World::with_edges(1, 10_000, Limits::default()).await;
    let budgets = vec![greylag_protocol::state::Budget { rows_max: Some(2_000), ..Default::default() }];
    let settings = Box::new(GovernanceSettings { budgets, ..Default::default() });
    govern(&world, GovernCommand::PutSettings { settings, expect_version: None }).await;
    let error = world.rows(&anybody(), "stream a").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::BudgetExceeded, "{error}");
    until("the source was stopped", || world.source.live() == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_for_a_removed_node_is_stopped() {
    let world = World::with_edges(2, 100_000_000, window(1 << 10)).await;
    // It has no edge of its own: what it reads from its own sources ends with its process.
    let mut running = world.run(&anybody(), "stream a").await.unwrap();
    assert!(running.batches.next().await.unwrap().is_ok());
    let (other, removed) = (world.node(1).statements(), AdminCall::RemoveNode { node: world.id(0) });
    other.admin(&admin(), removed).await.unwrap();
    let ((), took) = timed(until("no edge works for it any more", || world.source.live() == 0)).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // It looks for another edge in vain, and does not take a part for the whole.
    let end = tokio::time::timeout(PATIENCE, async {
        loop {
            match running.batches.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    assert!(end.await.expect("it hangs").unwrap().is_err());
    // The others go on.
    let mut goes_on = other.execute(&anybody(), "some a 5", None).await.unwrap();
    assert!(goes_on.batches.next().await.unwrap().is_ok());
    drop((running, goes_on, other));
    world.stop().await;
}
