//! Voters that came later: they are given the authority, and keep the mesh open when its founders are gone.

use std::time::Duration;

use greylag_cluster::transport::{FrameReader, FrameWriter};
use greylag_protocol::{
    ErrorCode, NodeId,
    frame::{FrameKind, StreamTag},
    messages::authority::{AUTHORITY_VERSION, AuthorityBody, AuthorityReply, AuthorityRequest},
    state::Command,
};

use crate::node::{Node, Site, founding_sites, joining_site, until};

const HOUR: Duration = Duration::from_secs(3600);

fn join(name: &str, seeds: &[&Node]) -> (Site, Node) {
    let token = seeds[0].token(1, HOUR);
    let site = joining_site(name, seeds, &token);
    let node = site.run();
    (site, node)
}

#[test]
fn later_voters_keep_the_authority_and_the_mesh_outlives_its_founder() {
    let founder = founding_sites(1).remove(0).run();
    let (second_site, second) = join("second", &[&founder]);
    assert!(!second.mesh.state().member(second.id()).unwrap().voter, "two voters would be worse than one");

    // It does not vote, and is not given the keys, whatever it asks.
    let refused = second.block_on(async {
        let (send, recv) = second.mesh.open(founder.id(), StreamTag::Authority).await.unwrap();
        let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
        let body = AuthorityBody::Keys;
        let request = AuthorityRequest { version: AUTHORITY_VERSION, node: second.id(), body };
        send.send(FrameKind::Authority, &request).await.unwrap();
        send.finish().unwrap();
        recv.recv::<AuthorityReply>(FrameKind::Authority).await.unwrap()
    });
    let AuthorityReply::Refused(error) = refused else { panic!("{refused:?}") };
    assert_eq!(error.code, ErrorCode::Denied);
    assert!(second.mesh.authority().is_none());

    let (_third_site, third) = join("third", &[&founder]);
    let all_vote = || second.mesh.state().members.values().filter(|member| member.voter).count() == 3;
    until("three voters", all_vote);
    for node in [&second, &third] {
        until("the keys", || node.mesh.authority().is_some());
        assert_eq!(node.mesh.authority(), founder.mesh.authority());
    }

    // The founder is gone for good; the others let a node in, also after a restart.
    let gone = founder.id();
    founder.kill();
    second.block_on(second.mesh.propose(Command::Remove { node: gone })).unwrap();
    second.kill();
    let second = second_site.run();
    assert!(second.mesh.authority().is_some(), "they are on its disk");
    let (_fourth_site, fourth) = join("fourth", &[&third]);
    assert_eq!(fourth.id(), NodeId(4));
    until("its keys", || fourth.mesh.authority().is_some());
}
