//! Who is not let into a mesh, with which code.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use greylag_cluster::{
    LinkState,
    identity::{CertificateAuthority, NodeKey, certificate::COMMON_NAME},
    transport::refusal,
};
use greylag_protocol::{
    ErrorCode, MeshError, MeshId, NodeId, Result,
    frame::{ALPN_MESH, StreamTag},
    state::Command,
};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;

use crate::node::{Node, PATIENCE, assert_code, form, founding_sites, joining_site, until};

/// Life of hand-made certificates.
const LIFE: Duration = Duration::from_secs(3600);

pub fn client(own: Option<(Vec<u8>, NodeKey)>, protocol: &[u8]) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)));
    let mut config = match own {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate.into()], key.tls_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

/// Dials a node with a hand-made certificate, or none, and says how that ends. The server's certificate is not looked
/// at, so that it is the server that refuses.
fn dial(node: &Node, own: Option<(Vec<u8>, NodeKey)>) -> MeshError {
    let address: SocketAddr = node.mesh.state().member(node.id()).unwrap().address.parse().unwrap();
    let config = client(own, ALPN_MESH);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let dialling = endpoint.connect_with(config, address, COMMON_NAME).unwrap();
        let ended = async {
            match dialling.await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            }
        };
        refusal::of_connection(&tokio::time::timeout(PATIENCE, ended).await.unwrap())
    })
}

fn certificate_of_another_mesh(node: NodeId, now: u64) -> (Vec<u8>, NodeKey) {
    let (authority, ca) = CertificateAuthority::mint(MeshId(uuid::Uuid::new_v4()), now).unwrap();
    let key = NodeKey::generate().unwrap();
    let ca = CertificateAuthority::open(&authority, &ca).unwrap();
    (ca.issue(node, &key.certificate_request().unwrap(), now, LIFE).unwrap().certificate, key)
}

#[test]
fn without_a_certificate_of_this_mesh_and_a_place_in_it_nobody_is_served() {
    let sites = founding_sites(2);
    let nodes = form(&sites);
    let now = nodes[0].mesh.seams().clock.unix_ms();
    assert_code(&dial(&nodes[0], None), ErrorCode::NoCertificate);
    assert_code(&dial(&nodes[0], Some(certificate_of_another_mesh(NodeId(1), now))), ErrorCode::ForeignCertificate);

    // Signed by the right authority, but named by no entry of the log.
    let authority = nodes.iter().find_map(|node| node.mesh.authority()).unwrap();
    let ca = nodes[0].mesh.state().mesh.as_ref().unwrap().ca_certificate.clone();
    let ca = CertificateAuthority::open(&authority, &ca).unwrap();
    let key = NodeKey::generate().unwrap();
    let issued = ca.issue(NodeId(77), &key.certificate_request().unwrap(), now, LIFE).unwrap();
    assert_code(&dial(&nodes[0], Some((issued.certificate, key))), ErrorCode::NotAMember);

    // Expired.
    let key = NodeKey::generate().unwrap();
    let long_ago = now - 2 * LIFE.as_millis() as u64;
    let issued = ca.issue(NodeId(2), &key.certificate_request().unwrap(), long_ago, LIFE).unwrap();
    assert_code(&dial(&nodes[0], Some((issued.certificate, key))), ErrorCode::ForeignCertificate);
}

/// What a client that has shown no certificate can have: streams it may open, and bytes it may send on them, before it
/// is stopped.
#[test]
fn a_stranger_gets_one_stream_and_a_small_window() {
    let mut site = founding_sites(1).remove(0);
    site.config.seeds.clear();
    let node = site.run();
    let address: SocketAddr = site.config.listen;
    let config = client(None, greylag_protocol::frame::ALPN_JOIN);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connection = endpoint.connect_with(config, address, COMMON_NAME).unwrap().await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        let brief = Duration::from_millis(300);
        assert!(tokio::time::timeout(brief, connection.open_bi()).await.is_err(), "a second stream");
        let mut sent = 0;
        while let Ok(Ok(())) = tokio::time::timeout(brief, send.write_all(&[0; 1024])).await {
            sent += 1;
            assert!(sent <= 1024, "it takes a megabyte from a stranger");
        }
    });
    assert_code(&dial(&node, None), ErrorCode::NoCertificate);
}

#[test]
fn a_node_does_not_take_another_mesh_for_its_own() {
    // Two meshes; a member of the first is made to dial a member of the second under the address of its peer.
    let (sites, mut other_sites) = (founding_sites(2), founding_sites(2));
    let mut nodes = form(&sites);
    let lost = nodes.remove(1);
    let (id, address) = (lost.id(), sites[1].config.listen);
    lost.kill();
    other_sites[0].config.listen = address;
    let seeds: Vec<String> = other_sites.iter().map(|site| site.config.listen.to_string()).collect();
    other_sites.iter_mut().for_each(|site| site.config.seeds = seeds.clone());
    let others = form(&other_sites);
    until("the certificate is refused", || {
        nodes[0].mesh.link_error(id).is_some_and(|error| error.code == ErrorCode::ForeignCertificate)
    });
    assert_eq!(nodes[0].link(id), Some(LinkState::Lost));
    assert_eq!(others.len(), 2);
}

#[test]
fn a_member_that_is_removed_is_cut_off_and_stays_out() {
    let sites = founding_sites(3);
    let mut nodes = form(&sites);
    let token = nodes[0].token(1, Duration::from_secs(60));
    let site = joining_site("node-4", &nodes.iter().collect::<Vec<_>>(), &token);
    let removed = site.run();
    let id = removed.id();
    for node in &nodes {
        until("a link", || {
            node.link(id) == Some(LinkState::Connected) && removed.link(node.id()) == Some(LinkState::Connected)
        });
    }
    let held: Result<_> = removed.block_on(removed.mesh.open(nodes[0].id(), StreamTag::Control));
    let (send, mut recv) = held.unwrap();

    nodes[1].block_on(nodes[1].mesh.propose(Command::Remove { node: id })).unwrap();
    // Existing connection: closed, with the streams on it.
    let ended = removed.block_on(recv.read_to_end(1)).unwrap_err();
    assert!(matches!(ended, quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(_))), "{ended}");
    for node in &nodes {
        until("the link is gone", || node.link(id).is_none() && removed.link(node.id()) == Some(LinkState::Lost));
        until("the reason is known", || {
            removed.mesh.link_error(node.id()).is_some_and(|error| error.code == ErrorCode::NotAMember)
        });
    }
    assert_code(&removed.block_on(removed.mesh.stopped()), ErrorCode::NotAMember);
    let error = removed.block_on(removed.mesh.open(nodes[0].id(), StreamTag::Control)).unwrap_err();
    assert_code(&error, ErrorCode::PeerUnreachable);
    let signature = removed.mesh.sign(b"x");
    assert_code(&nodes[0].mesh.verify(id, b"x", &signature).unwrap_err(), ErrorCode::BadSignature);
    drop((send, recv));
    removed.kill();

    // Reconnecting: refused, and told so.
    let error = site.start().refused();
    assert_code(&error, ErrorCode::NotAMember);

    // Its number is not given away again.
    let token = nodes[0].token(1, Duration::from_secs(60));
    let next = joining_site("node-5", &nodes.iter().collect::<Vec<_>>(), &token);
    let next = next.run();
    assert_eq!(next.id(), NodeId(5));
    nodes.drain(..).for_each(Node::kill);
}

/// Accepts every server.
#[derive(Debug)]
struct Anything(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
