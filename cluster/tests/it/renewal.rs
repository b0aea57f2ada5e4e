//! Certificates that live for seconds: renewed while they are good, and had back by who was away for too long.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use greylag_cluster::{
    LinkState,
    identity::{
        NodeKey,
        certificate::{COMMON_NAME, Validity, validity_of},
    },
    transport::{FrameReader, FrameWriter},
};
use greylag_protocol::{
    ErrorCode, NodeId,
    frame::{FrameKind, StreamTag},
    messages::authority::{AUTHORITY_VERSION, AuthorityBody, AuthorityReply, AuthorityRequest},
    state::Command,
};

use crate::{
    node::{Node, Site, assert_code, form, founding_sites, joining_site, until},
    refusal::client,
};

const LIFE: Duration = Duration::from_secs(6);

fn short_lived(mut sites: Vec<Site>) -> Vec<Site> {
    for site in &mut sites {
        site.config.timing.certificate_life_ms = LIFE.as_millis() as u64;
    }
    sites
}

/// Dates of the certificate that a node shows to who dials it now.
fn shown(node: &Node) -> Validity {
    validity_of(&chain(node)[0]).unwrap()
}

/// What a node shows to who dials it now: its own certificate first.
pub fn chain(node: &Node) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let address: SocketAddr = node.mesh.state().member(node.id()).unwrap().address.parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = client(None, greylag_protocol::frame::ALPN_JOIN);
        let connection = endpoint.connect_with(config, address, COMMON_NAME).unwrap().await.unwrap();
        let chain = connection.peer_identity().unwrap();
        *chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap()
    })
}

fn connected(nodes: &[&Node]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            until("a link", || node.link(other.id()) == Some(LinkState::Connected));
        }
    }
}

fn fourth(nodes: &[Node]) -> Site {
    let token = nodes[0].token(1, Duration::from_secs(600));
    joining_site("node-4", &nodes.iter().collect::<Vec<_>>(), &token)
}

#[test]
fn certificates_are_renewed_in_time_without_a_stream_being_lost() {
    let sites = short_lived(founding_sites(3));
    let nodes = form(&sites);
    let site = fourth(&nodes);
    let joined = site.run();
    assert!(joined.mesh.authority().is_none(), "it has to ask");
    let all: Vec<&Node> = nodes.iter().chain([&joined]).collect();
    connected(&all);
    let first: Vec<Validity> = all.iter().map(|node| shown(node)).collect();

    // For its own name and its own key alone.
    let ask = |node: NodeId, key: &NodeKey| {
        let body = AuthorityBody::Renew { csr: key.certificate_request().unwrap() };
        joined.block_on(async {
            let (send, recv) = joined.mesh.open(nodes[0].id(), StreamTag::Authority).await.unwrap();
            let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
            let request = AuthorityRequest { version: AUTHORITY_VERSION, node, body };
            send.send(FrameKind::Authority, &request).await.unwrap();
            send.finish().unwrap();
            match recv.recv(FrameKind::Authority).await.unwrap() {
                AuthorityReply::Refused(error) => error.code,
                other => panic!("{other:?}"),
            }
        })
    };
    let stolen = NodeKey::generate().unwrap();
    assert_eq!(ask(nodes[1].id(), &stolen), ErrorCode::NotAMember);
    assert_eq!(ask(joined.id(), &stolen), ErrorCode::ForeignCertificate);

    // A stream of before, held over every renewal.
    let (mut send, mut recv) = joined.block_on(joined.mesh.open(nodes[0].id(), StreamTag::Control)).unwrap();
    let mut incoming = nodes[0].mesh.serve(StreamTag::Control).unwrap();
    let mut served = nodes[0].block_on(incoming.recv()).unwrap();
    let expired = first.iter().map(|validity| validity.expires_unix_ms).max().unwrap();
    let clock = joined.mesh.seams().clock.clone();
    until("the first certificates have expired", || clock.unix_ms() > expired + 1000);
    for (node, first) in all.iter().zip(&first) {
        let now = shown(node);
        assert!(now.expires_unix_ms > first.expires_unix_ms, "{now:?}");
        assert!(now.expires_unix_ms > clock.unix_ms());
        assert!(now.expires_unix_ms - now.issued_unix_ms <= LIFE.as_millis() as u64 + 1000);
    }
    joined.block_on(send.write_all(b"still")).unwrap();
    let mut bytes = [0; 5];
    nodes[0].block_on(served.recv.read_exact(&mut bytes)).unwrap();
    nodes[0].block_on(served.send.write_all(&bytes)).unwrap();
    joined.block_on(recv.read_exact(&mut bytes)).unwrap();
    assert_eq!(&bytes, b"still");

    // The renewed one is on disk: a node that is started again connects with it.
    drop((send, recv));
    let before = shown(&joined);
    joined.kill();
    let joined = site.run();
    assert!(shown(&joined).expires_unix_ms >= before.expires_unix_ms);
    connected(&nodes.iter().chain([&joined]).collect::<Vec<_>>());
}

#[test]
fn who_was_away_for_longer_than_its_certificate_comes_back() {
    let sites = short_lived(founding_sites(3));
    let mut nodes = form(&sites);
    let mut site = fourth(&nodes);
    let joined = site.run();
    connected(&nodes.iter().chain([&joined]).collect::<Vec<_>>());
    joined.kill();
    let founder = nodes.remove(0);
    let (ordinal, id) = (sites.iter().position(|s| s.config.name == name(&founder)).unwrap(), founder.id());
    founder.kill();
    std::thread::sleep(LIFE + Duration::from_secs(2));
    // Without a token: it is a member still.
    site.config.join_token = None;
    let since = Instant::now();
    let joined = site.run();
    let founder = sites[ordinal].run();
    assert_eq!((joined.id(), founder.id()), (NodeId(4), id));
    connected(&[&nodes[0], &nodes[1], &joined, &founder]);
    println!("back_ms={}", since.elapsed().as_millis());

    // Everybody was away.
    joined.kill();
    founder.kill();
    nodes.drain(..).for_each(Node::kill);
    std::thread::sleep(LIFE + Duration::from_secs(2));
    let starting: Vec<_> = sites.iter().chain([&site]).map(Site::start).collect();
    let nodes: Vec<Node> = starting.into_iter().map(crate::node::Starting::settled).collect();
    connected(&nodes.iter().collect::<Vec<_>>());

    // Who was removed while it was away gets none.
    let (mut removed, others): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(|node| node.id() == NodeId(4));
    removed.remove(0).kill();
    others[0].block_on(others[0].mesh.propose(Command::Remove { node: NodeId(4) })).unwrap();
    let validity_ends = Instant::now() + LIFE + Duration::from_secs(2);
    std::thread::sleep(validity_ends - Instant::now());
    assert_code(&site.start().refused(), ErrorCode::NotAMember);
    assert!(others.iter().all(|node| node.link(NodeId(4)).is_none()));
}

fn name(node: &Node) -> String {
    node.mesh.state().member(node.id()).unwrap().name.clone()
}
