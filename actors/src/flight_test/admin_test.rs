//! What administrators change about who may do what, at a real node, and what of it is seen in `system.*`.

use arrow::array::AsArray;
use greylag_protocol::{
    ErrorCode,
    admin::{CheckBeside, ResourceContent, ResourceId, TableExplanation, WhyRequest, WordOutcome},
    filter::FilterValue,
    messages::control::Verdict,
    principal::attribute,
    state::{AttributeKind, GovernanceSettings, Period, QuotaKey, Scope, TagPlace},
    statement::AdminCall,
};

use super::*;

/// Calls, as an administrator.
async fn call(world: &World, call: AdminCall) -> Result<AdminReply> {
    world.statements().admin(&admin(), call).await
}

/// A column of a system table.
async fn column(world: &World, table: &str, name: &str) -> Vec<Option<String>> {
    world.node(0).ctx().mesh.catch_up().await.unwrap();
    let batches = world.rows(&admin(), &format!("system {table}")).await.unwrap();
    let values = batches.iter().flat_map(|batch| {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|value| value.map(str::to_owned)).collect::<Vec<_>>()
    });
    values.collect()
}

fn put(id: &str, text: &str) -> AdminCall {
    AdminCall::PutPolicy { id: id.into(), text: text.into(), expect_version: None }
}

fn applied(reply: Result<AdminReply>) -> (u64, bool) {
    match reply.unwrap() {
        AdminReply::Applied { version, changed } => (version, changed),
        other => panic!("{other:?}"),
    }
}

const READS: &str = "permit (principal in Role::\"doctor\", action == Action::\"select\", resource)\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_checked_against_the_tables_that_there_are() {
    let world = World::with_edges(1, 10, Limits::default()).await;
    // The catalog knows the table once a statement has needed it.
    world.rows(&admin(), "stream a").await.unwrap();
    let good = format!("{READS}when {{ resource is Row && resource has v && resource.v == \"x\" }};");
    let about_a = format!("@tables(\"a.*.*\")\n{good}");
    assert_eq!(applied(call(&world, put("doctors", &about_a)).await), (1, true));
    assert_eq!(applied(call(&world, put("doctors", &about_a)).await), (1, false));
    for (text, word) in [
        ("permit (principal, action, resource) when { ", "line 1"),
        ("permit (principal, action, resource)\nwhen { resource is Row && resource.gone == 1 };", "line 2"),
        ("@id(\"other\") permit (principal, action, resource);", "`other`"),
        ("@maks(\"full\") permit (principal, action, resource);", "`@maks`"),
    ] {
        let error = call(&world, put("p", text)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidPolicy, "{text}");
        assert!(error.message.contains(word), "{error}");
    }
    assert_eq!(world.statements().admin(&anybody(), put("p", &good)).await.unwrap_err().code, ErrorCode::Denied);

    // An attribute that a policy uses keeps its type for as long as the policy is there.
    let ward = format!(
        "{READS}when {{ resource is Row && resource has v && principal has ward && resource.v == principal.ward }};"
    );
    let ward = format!("@tables(\"a.*.*\")\n{ward}");
    let check = |kind| {
        let beside = CheckBeside { attributes: [("ward".to_owned(), kind)].into(), ..Default::default() };
        AdminCall::CheckPolicy { id: "ward".into(), text: ward.clone(), beside }
    };
    assert!(matches!(call(&world, check(AttributeKind::Text)).await, Ok(AdminReply::Fits { tables: 1 })));
    assert_eq!(call(&world, check(AttributeKind::Integer)).await.unwrap_err().code, ErrorCode::InvalidPolicy);
    let declare = |kind| AdminCall::DeclareAttribute { name: "ward".into(), kind };
    assert_eq!(applied(call(&world, declare(Some(AttributeKind::Text))).await), (0, true));
    assert_eq!(applied(call(&world, declare(Some(AttributeKind::Text))).await), (0, false));
    assert_eq!(applied(call(&world, put("ward", &ward)).await), (1, true));
    let error = call(&world, declare(Some(AttributeKind::Integer))).await.unwrap_err();
    assert!(error.code == ErrorCode::InvalidPolicy && error.message.contains("`ward`"), "{error}");
    let reserved = AdminCall::DeclareAttribute { name: attribute::ACTS_FOR.into(), kind: Some(AttributeKind::Text) };
    assert_eq!(call(&world, reserved).await.unwrap_err().code, ErrorCode::InvalidResource);

    // A tag that brings a table under a policy which does not fit it is refused.
    let by_tag = "permit (principal, action == Action::\"select\", resource is Row in Tag::\"dated\") when { resource.day == 1 };";
    assert_eq!(applied(call(&world, put("dated", by_tag)).await), (1, true));
    let tag = |tables: &str| {
        let places = vec![TagPlace { tables: tables.into(), columns: None }];
        AdminCall::PutTag { tag: "dated".into(), places, expect_version: None }
    };
    assert_eq!(call(&world, tag("a.main.t")).await.unwrap_err().code, ErrorCode::InvalidPolicy);
    assert_eq!(call(&world, tag("a.main")).await.unwrap_err().code, ErrorCode::InvalidResource);
    assert_eq!(applied(call(&world, tag("b.*.*")).await), (1, true));

    assert_eq!(column(&world, "tags", "tables").await, [Some("b.*.*".to_owned())]);
    assert_eq!(column(&world, "attributes", "name").await, [Some("ward".to_owned())]);
    let ids = column(&world, "policies", "id").await;
    assert!(["doctors", "ward", "dated", "admins-read"].iter().all(|id| ids.contains(&Some((*id).to_owned()))));
    assert!(column(&world, "policies", "problem").await.iter().all(Option::is_none));
    let by = column(&world, "policies", "changed_by").await;
    let of_doctors = ids.iter().position(|id| id.as_deref() == Some("doctors")).unwrap();
    assert_eq!(by[of_doctors].as_deref(), Some("root"), "who changed it is who asked");

    let shown = call(&world, AdminCall::ShowResource { of: ResourceId::Policy("ward".into()) }).await.unwrap();
    assert!(matches!(shown, AdminReply::Resource(Some(ResourceContent::Policy(text))) if text == ward));
    call(&world, AdminCall::DropPolicy { id: "ward".into() }).await.unwrap();
    assert_eq!(
        call(&world, AdminCall::DropPolicy { id: "ward".into() }).await.unwrap_err().code,
        ErrorCode::InvalidResource
    );
    assert_eq!(applied(call(&world, declare(None)).await), (0, true));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_said_why_somebody_may_or_may_not() {
    let world = World::with_edges(1, 10, Limits::default()).await;
    call(&world, AdminCall::DropPolicy { id: "anybody-reads".into() }).await.unwrap();
    let rows = "@tables(\"a.*.*\") permit (principal in Role::\"doctor\", action == Action::\"select\", resource is Row) when { resource.k > 3 };";
    let masks = "@tables(\"a.*.*\") @mask(\"full\") forbid (principal in Role::\"doctor\", action == Action::\"select\", resource is Column) when { resource.name == \"v\" && context.hour >= 18 };";
    let night =
        "@tables(\"a.*.*\") forbid (principal in Group::\"night\", action == Action::\"select\", resource is Row);";
    for (id, text) in [("rows", rows), ("masks", masks), ("night", night)] {
        assert_eq!(applied(call(&world, put(id, text)).await), (1, true));
    }
    let why = async |change: fn(&mut Principal), hour: u64| {
        let mut principal = session("ada", &["doctor"], options()).principal;
        change(&mut principal);
        let at_unix_ms = Some(hour * 3_600_000);
        let request = WhyRequest { principal, sql: "stream a".into(), origin: "flight".into(), at_unix_ms };
        match call(&world, AdminCall::Why(Box::new(request))).await.unwrap() {
            AdminReply::Why(explanation) => *explanation,
            other => panic!("{other:?}"),
        }
    };
    let by_day = why(|_| (), 12).await;
    assert_eq!((&by_day.verdict, &by_day.policies[..]), (&Verdict::Permit, &["rows".to_owned()][..]));
    let table = &by_day.tables[0];
    let passes = |k| {
        let value = |column: &str| (column == "k").then_some(FilterValue::Integer(k));
        table.filter.as_ref().is_some_and(|filter| filter.passes(&value))
    };
    assert!(passes(4) && !passes(3), "{table:?}");
    assert!(table.masks.is_empty());
    let said = |table: &TableExplanation, id: &str, outcome: &WordOutcome| {
        table.words.iter().any(|word| word.policy == id && word.outcome == *outcome)
    };
    let of_rows = table.words.iter().find(|word| word.policy == "rows").map(|word| &word.outcome);
    assert!(
        matches!(of_rows, Some(WordOutcome::Depends { filter: Some(_), residual }) if residual.contains("resource.k"))
    );
    assert!(said(table, "night", &WordOutcome::OfOthers) && said(table, "masks", &WordOutcome::Fails));
    let at_night = why(|_| (), 20).await;
    assert_eq!(at_night.tables[0].masks.iter().map(|m| m.column.as_str()).collect::<Vec<_>>(), ["v"]);
    assert!(said(&at_night.tables[0], "masks", &WordOutcome::Holds), "{at_night:?}");
    let denied = why(|p| p.join_group("night"), 12).await;
    assert!(matches!(&denied.verdict, Verdict::Deny { reason } if reason.contains("`night`")), "{denied:?}");
    assert_eq!(denied.policies, ["night"]);
    assert!(said(&denied.tables[0], "night", &WordOutcome::Holds), "{denied:?}");
    let stranger = why(|p| p.roles.clear(), 12).await;
    assert!(matches!(&stranger.verdict, Verdict::Deny { reason } if reason.contains("no policy permits")));

    let request = |sql: &str| WhyRequest {
        principal: session("ada", &[], options()).principal,
        sql: sql.into(),
        origin: "flight".into(),
        at_unix_ms: None,
    };
    let unknown = call(&world, AdminCall::Why(Box::new(request("stream zz")))).await;
    assert_eq!(unknown.unwrap_err().code, ErrorCode::UnknownTable);
    let asked = AdminCall::Why(Box::new(request("stream a")));
    assert_eq!(world.statements().admin(&anybody(), asked).await.unwrap_err().code, ErrorCode::Denied);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_quotas_are_set_within_bounds() {
    let world = World::start(1, 10, Limits::default()).await;
    let settings = |minutes, expect_version| {
        let settings = GovernanceSettings { utc_offset_minutes: minutes, ..GovernanceSettings::default() };
        AdminCall::PutSettings { settings: Box::new(settings), expect_version }
    };
    assert_eq!(applied(call(&world, settings(120, Some(0))).await), (1, true));
    assert_eq!(call(&world, settings(60, Some(0))).await.unwrap_err().code, ErrorCode::VersionConflict);
    assert_eq!(call(&world, settings(1_000, None)).await.unwrap_err().code, ErrorCode::InvalidResource);
    let key = |organisation: &str| QuotaKey { organisation: organisation.into(), agent: None, period: Period::Day };
    let quota = |limit| AdminCall::SetQuota { key: key("clinic"), limit };
    assert_eq!(applied(call(&world, quota(Some(5))).await), (0, true));
    assert_eq!(applied(call(&world, quota(Some(5))).await), (0, false));
    let shown = || AdminCall::ShowResource { of: ResourceId::Quota(key("clinic")) };
    assert!(matches!(call(&world, shown()).await, Ok(AdminReply::Resource(Some(ResourceContent::Quota(5))))));
    assert_eq!(applied(call(&world, quota(None)).await), (0, true));
    assert!(matches!(call(&world, shown()).await, Ok(AdminReply::Resource(None))));
    let nobody = AdminCall::SetQuota { key: key(" "), limit: Some(1) };
    assert_eq!(call(&world, nobody).await.unwrap_err().code, ErrorCode::InvalidResource);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keys_secret_is_told_once_and_kept_nowhere() {
    let world = World::start(1, 10, Limits::default()).await;
    let robot = |change: fn(&mut Principal)| {
        let mut principal = session("robot", &["reader"], options()).principal;
        principal.kind = PrincipalKind::Agent;
        principal.attributes.insert(attribute::ACTS_FOR.into(), "ada".into());
        change(&mut principal);
        principal
    };
    let create = |principal, scopes: &[Scope], ttl_secs| AdminCall::CreateKey {
        principal,
        scopes: scopes.to_vec(),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        ttl_secs,
    };
    let made = call(&world, create(robot(|_| ()), &[Scope::Query], Some(60))).await.unwrap();
    let AdminReply::Key { id, key } = made else { panic!("{made:?}") };
    let state = world.node(0).ctx().mesh.state();
    let stored = &state.governance.keys[&id];
    let secret = key.rsplit('_').next().unwrap();
    assert!(secret.len() >= 64 && !format!("{:?}", state.governance).contains(secret));
    let from = "10.1.2.3".parse().unwrap();
    let now = world.node(0).ctx().seams.clock.unix_ms();
    let named = greylag_governance::identity::key::check(&state.governance.keys, &key, from, now).unwrap();
    assert_eq!((named.id.as_str(), named.person()), ("robot", Some("ada")));
    assert_eq!(stored.expires_unix_ms.unwrap() - stored.created_unix_ms, 60_000);

    let other = call(&world, create(robot(|_| ()), &[Scope::Query], None)).await.unwrap();
    assert!(matches!(other, AdminReply::Key { key: another, .. } if another != key));
    for (wrong, why) in [
        (create(robot(|_| ()), &[], None), "no scope"),
        (create(robot(|_| ()), &[Scope::Query], Some(0)), "no time"),
        (create(robot(|p| p.id.clear()), &[Scope::Query], None), "nobody"),
        (create(robot(|p| p.kind = PrincipalKind::Person), &[Scope::Query], None), "a person who acts for another"),
        (
            create(robot(|p| drop(p.attributes.insert("scopes".into(), "manage".into()))), &[Scope::Query], None),
            "scopes",
        ),
        (
            create(robot(|p| drop(p.attributes.insert("priority".into(), "most".into()))), &[Scope::Query], None),
            "priority",
        ),
    ] {
        assert_eq!(call(&world, wrong).await.unwrap_err().code, ErrorCode::InvalidResource, "{why}");
    }

    let AdminReply::Keys { keys, more } = call(&world, AdminCall::ListKeys { after: None }).await.unwrap() else {
        panic!()
    };
    assert_eq!((keys.len(), more), (2, false));
    let after = AdminCall::ListKeys { after: Some(keys[0].id.clone()) };
    assert!(matches!(call(&world, after).await, Ok(AdminReply::Keys { keys: rest, .. }) if rest == keys[1..]));
    call(&world, AdminCall::RevokeKey { id: id.clone() }).await.unwrap();
    let unknown = call(&world, AdminCall::RevokeKey { id: "none".into() }).await;
    assert_eq!(unknown.unwrap_err().code, ErrorCode::InvalidResource);
    let state = world.node(0).ctx().mesh.state();
    assert!(
        greylag_governance::identity::key::check(&state.governance.keys, &key, from, now).is_err(),
        "it is revoked"
    );

    let batches = world.rows(&admin(), "system keys").await.unwrap();
    let shown = format!("{batches:?}");
    assert!(shown.contains("acts_for=ada") && shown.contains("10.0.0.0/8"));
    assert!(!shown.contains("hash") && !shown.contains(secret));
    world.stop().await;
}
