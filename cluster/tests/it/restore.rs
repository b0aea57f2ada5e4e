//! A whole mesh is lost and made anew from a snapshot.

use std::time::Duration;

use greylag_cluster::{restore, state::Archive};
use greylag_protocol::{
    ErrorCode, NodeId,
    state::{Allowed, Command, MemberStatus, RegisterOp},
};

use crate::node::{Node, Site, assert_code, form, founding_sites, free_addresses, joining_site, source, until};

#[test]
fn a_lost_mesh_begins_anew_with_what_it_knew_and_without_its_old_members() {
    let sites = founding_sites(3);
    let nodes = form(&sites);
    let node = &nodes[0];
    let apply = |replicas| {
        let spec = greylag_protocol::state::SourceSpec { replicas, ..source("kept") };
        node.block_on(node.mesh.propose(Command::ApplySource { spec, expect_version: None })).unwrap();
    };
    apply(1);
    apply(2);
    node.block_on(node.mesh.change_register("r", RegisterOp::Write { value: "v".into() }, None)).unwrap();
    let token = node.token(2, Duration::from_secs(3600));
    let allowed = Some([Allowed::AnyEdge].into());
    node.block_on(node.mesh.create_join_token(1, Duration::from_secs(60), allowed)).unwrap();
    let keeper = nodes.iter().find(|node| node.mesh.authority().is_some()).unwrap();
    let archive = keeper.block_on(keeper.mesh.archive()).unwrap();
    let bytes = archive.pack().unwrap();
    let before = node.mesh.state();
    let authority = keeper.mesh.authority();
    nodes.into_iter().for_each(Node::kill);

    // A directory that is not empty is not touched.
    let used = sites[0].dir.path();
    let restoring = |path: std::path::PathBuf, archive: Archive| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(restore(&path, &archive))
    };
    assert_code(&restoring(used.to_owned(), archive.clone()).unwrap_err(), ErrorCode::InvalidConfig);

    let mut site = Site::new("phoenix", free_addresses(1)[0]);
    // As its old configuration had it: seeds that are all gone.
    site.config.seeds = sites[0].config.seeds.clone();
    site.config.expect = 3;
    site.config.join_token = sites[0].config.join_token.clone();
    site.config.labels.insert("rack".into(), "9".into());
    let restored = restoring(site.dir.path().to_owned(), Archive::unpack(&bytes).unwrap()).unwrap();
    assert_eq!((restored.mesh.as_str(), restored.node, restored.sources), ("greylag", NodeId(4), 1));
    let again = restoring(site.dir.path().to_owned(), archive).unwrap_err();
    assert_code(&again, ErrorCode::InvalidConfig);

    let node = site.run();
    assert_eq!(node.id(), NodeId(4));
    let state = node.mesh.state();
    assert_eq!(state.mesh, before.mesh);
    assert_eq!(state.sources, before.sources);
    assert_eq!(state.wanted, before.wanted);
    assert_eq!(state.grants, before.grants);
    assert_eq!(state.registers.values, before.registers.values);
    assert_eq!(state.removed, [1, 2, 3].map(NodeId).into());
    assert!(state.epoch > before.epoch);
    assert_eq!(node.mesh.authority(), authority, "the same keys: tokens of clients are good still");
    until("it says what it is", || {
        let state = node.mesh.state();
        let me = state.member(node.id()).unwrap();
        me.name == "phoenix" && me.labels.contains_key("rack") && me.address == site.config.listen.to_string()
    });
    // A token of before lets nodes in, with ids that nobody has had.
    let late = joining_site("late", &[&node], &token);
    let joined = late.run();
    assert_eq!(joined.id(), NodeId(5));
    until("both are up", || joined.mesh.state().members.values().all(|m| m.status == MemberStatus::Up));
    // It is started again like any other node.
    joined.shut_down();
    node.kill();
    let node = site.run();
    assert_eq!(node.mesh.state().sources, before.sources);
}
