//! The door over TLS: who is believed, who is let in by which certificate, and what changes while it is open.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fixture::{
    Opened, PATIENCE, Room,
    certificates::{Authority, Signed},
    credentials::Known,
    failure, open_as, open_tls, rows, soon, whoami,
};
use greylag_gateways::{
    flight::{
        address::DoorAddress,
        client::{Access, Client, Cookies},
        roaming::RoamingClient,
    },
    tls::{ClientTls, ServerTls, TlsFiles},
};
use greylag_governance::identity::certificate::CertificateTrust;
use greylag_protocol::{ErrorCode, Result, state::Scope, statement::SessionOptions};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

fn load(files: TlsFiles) -> Arc<ServerTls> {
    Arc::new(ServerTls::load(files).unwrap())
}

/// A door for 127.0.0.1 that shows a certificate of this authority.
async fn secured(authority: &Authority) -> Opened {
    open_tls(|_| {}, load(authority.server("door", "127.0.0.1").door(None, false))).await
}

fn access(token: Option<String>, tls: ClientTls) -> Access {
    Access { token, tls: Some(tls) }
}

fn trust() -> CertificateTrust {
    let roles = [("clinic/service/etl".to_owned(), vec!["loader".to_owned()])].into();
    CertificateTrust { trust_domain: "mesh.example".into(), roles }
}

#[tokio::test]
async fn a_door_with_tls_opens_off_loopback_and_serves() {
    let authority = Authority::new();
    let door = secured(&authority).await;
    let who = door.whoami(&access(Some(door.token("ada")), authority.trusted(None))).await.unwrap();
    assert!(who.starts_with("ada "), "{who}");
    assert!(!door.serving.is_finished());
}

#[tokio::test]
async fn a_client_believes_only_the_right_name_of_the_right_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let door = secured(&authority).await;
    let token = || Some(door.token("ada"));
    for tls in [other.trusted(None), ClientTls::default()] {
        let error = door.whoami(&access(token(), tls)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::PeerUnreachable, "{error}");
        assert!(error.message.contains("certificate"), "{error}");
    }
    let misnamed = open_tls(|_| {}, load(authority.server("misnamed", "other.example").door(None, false))).await;
    let error = misnamed.whoami(&access(token(), authority.trusted(None))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PeerUnreachable, "{error}");
    // Plaintext comes nowhere, and takes no door with it.
    let plain = Client::connect(&door.endpoint(), &door.token("ada")).await;
    let answer = match plain {
        Ok(client) => client.query("one").await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(answer.unwrap_err().code, ErrorCode::PeerUnreachable);
    assert_eq!(door.fake.calls.load(Ordering::SeqCst), 0);
    assert!(door.whoami(&access(token(), authority.trusted(None))).await.is_ok());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (server, stranger) = (authority.server("door", "127.0.0.1"), other.server("door", "127.0.0.1"));
    let missing = TlsFiles { certificate: "/nonexistent.pem".into(), ..server.door(None, false) };
    let swapped = TlsFiles { key: server.certificate.clone(), ..server.door(None, false) };
    let mismatched = TlsFiles { key: stranger.key.clone(), ..server.door(None, false) };
    let no_authority = server.door(Some(&server.key), false);
    let nobody = server.door(None, true);
    for (files, named) in [
        (missing, "/nonexistent.pem"),
        (swapped, "holds no private key"),
        (mismatched, "and its key"),
        (no_authority, "holds no certificate"),
        (nobody, "of no authority"),
    ] {
        let error = ServerTls::load(files).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidConfig, "{error}");
        assert!(error.message.contains(named), "{error}");
    }
    assert!(ClientTls::load(Some(&server.key), None).is_err());
    assert!(ClientTls::load(None, Some((&server.certificate, &server.certificate))).is_err());
}

#[tokio::test]
async fn where_a_certificate_is_required_only_a_good_one_is_let_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = authority.server("door", "127.0.0.1").door(Some(&authority.ca), true);
    let door = open_tls(|who| who.certificates = Some(trust()), load(files)).await;
    let by = async |signed: Option<&Signed>, token: Option<String>| {
        soon(door.whoami(&access(token, authority.trusted(signed)))).await
    };
    let good = authority.client("clinic/service/etl");
    let who = by(Some(&good), None).await.unwrap();
    assert!(who.starts_with(r#"etl ["loader"] flight {"credential": "certificate:"#), "{who}");
    assert!(who.contains(r#""organisation": "clinic""#), "{who}");
    let (strange, expired) = (other.client("clinic/service/etl"), authority.expired_client("clinic/service/etl"));
    let server = authority.server("no-client", "etl");
    for (what, signed) in [
        ("none", None),
        ("another authority", Some(&strange)),
        ("expired", Some(&expired)),
        ("a server's", Some(&server)),
    ] {
        for token in [None, Some(door.token("ada"))] {
            let error = by(signed, token).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::PeerUnreachable, "{what}: {error}");
        }
    }
    assert_eq!(door.fake.counts.now().started, 1, "only the good one ran a statement");
}

#[tokio::test]
async fn a_certificate_and_a_token_must_name_the_same_principal() {
    let (authority, known) = (Authority::new(), Arc::new(Known::default()));
    let files = authority.server("door", "127.0.0.1").door(Some(&authority.ca), false);
    let revocations = known.clone();
    let door = open_tls(
        |who| {
            who.certificates = Some(trust());
            who.known = revocations;
        },
        load(files),
    )
    .await;
    let by = async |signed: &Signed, token: Option<String>| {
        soon(door.whoami(&access(token, authority.trusted(Some(signed))))).await.map_err(|error| error.code)
    };
    // The mesh's tokens of this fixture are for persons.
    let (ada, bob) = (authority.client("clinic/person/ada"), authority.client("clinic/person/bob"));
    let (service, nobody) = (authority.client("clinic/service/ada"), authority.client("clinic/god/ada"));
    let who = by(&ada, Some(door.token("ada"))).await.unwrap();
    assert!(who.starts_with("ada [\"analyst\"]") && who.contains("\"credential\": \"bearer:"), "the token's: {who}");
    for (what, signed) in [("another id", &bob), ("another kind", &service), ("no principal", &nobody)] {
        assert_eq!(by(signed, Some(door.token("ada"))).await, Err(ErrorCode::Unauthenticated), "{what}");
    }
    assert_eq!(by(&nobody, None).await, Err(ErrorCode::Unauthenticated));
    let bad = Some(format!("{}x", door.token("ada")));
    assert_eq!(by(&ada, bad).await, Err(ErrorCode::Unauthenticated), "a bad token is not mended by a certificate");
    let elsewhere = authority.client("other/person/ada");
    let (key_id, key) = known.mint("ada", &[Scope::Query], &[], None);
    known.change(&key_id, |key| drop(key.principal.attributes.insert("organisation".into(), "clinic".into())));
    assert!(by(&ada, Some(key.clone())).await.is_ok(), "the same organisation");
    assert_eq!(by(&elsewhere, Some(key)).await, Err(ErrorCode::Unauthenticated), "another organisation");
    assert_eq!(door.whoami(&access(Some(door.token("ada")), authority.trusted(None))).await.map(drop), Ok(()));
    let nothing = door.whoami(&access(None, authority.trusted(None))).await.unwrap_err();
    assert_eq!(nothing.code, ErrorCode::Unauthenticated);
    // Revoked, it is worth nothing beside a good token either.
    let who = by(&ada, None).await.unwrap();
    let credential = who.split('"').find(|text| text.starts_with("certificate:")).unwrap().to_owned();
    known.revoked.lock().unwrap().insert(credential);
    for token in [None, Some(door.token("ada"))] {
        assert_eq!(by(&ada, token).await, Err(ErrorCode::Unauthenticated));
    }
}

/// Where the node reads no principals in them, certificates open the door and name nobody.
#[tokio::test]
async fn a_certificate_without_a_trust_domain_is_a_key_to_the_door_only() {
    let authority = Authority::new();
    let files = authority.server("door", "127.0.0.1").door(Some(&authority.ca), true);
    let door = open_tls(|_| {}, load(files)).await;
    let signed = authority.client("clinic/person/bob");
    let tls = || authority.trusted(Some(&signed));
    assert!(door.whoami(&access(Some(door.token("ada")), tls())).await.unwrap().starts_with("ada "));
    assert_eq!(door.whoami(&access(None, tls())).await.unwrap_err().code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn renewed_files_are_used_without_a_restart() {
    let (former, next) = (Authority::new(), Authority::new());
    let door_files = former.server("door", "127.0.0.1");
    let door = open_tls(|_| {}, load(door_files.door(None, false))).await;
    let by = async |authority: &Authority| -> Result<String> {
        door.whoami(&access(Some(door.token("ada")), authority.trusted(None))).await
    };
    assert!(by(&former).await.is_ok() && by(&next).await.is_err());
    let seated = Client::open(
        &DoorAddress::new(door.address.to_string(), true),
        &access(Some(door.token("ada")), former.trusted(None)),
        Cookies::default(),
    )
    .await
    .unwrap();
    let renewed = next.server("door", "127.0.0.1");
    // Half of a renewal changes nothing.
    std::fs::copy(&renewed.certificate, &door_files.certificate).unwrap();
    let looked = tokio::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1_500) {
        assert!(by(&former).await.is_ok());
    }
    std::fs::copy(&renewed.key, &door_files.key).unwrap();
    let renewal = async {
        while by(&next).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(renewal).await;
    assert!(by(&former).await.is_err());
    assert!(whoami(&seated).await.is_ok(), "who is seated stays");
}

#[tokio::test]
async fn who_dallies_in_the_handshake_holds_up_nobody_and_loses_the_seat() {
    let (authority, room) = (Authority::new(), Arc::new(Room::of(4)));
    let tls = load(authority.server("door", "127.0.0.1").door(None, false));
    let seats = room.clone();
    let door = open_as(
        |_| {},
        |parts| {
            parts.tls = Some(tls);
            parts.seats = seats;
        },
    )
    .await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(door.address).await.unwrap());
    }
    let taken = async |wanted: u64| {
        while room.taken.load(Ordering::SeqCst) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(taken(3)).await;
    let access = access(Some(door.token("ada")), authority.trusted(None));
    let address = DoorAddress::new(door.address.to_string(), true);
    let seated = Client::open(&address, &access, Cookies::default()).await.unwrap();
    assert!(whoami(&seated).await.is_ok());
    assert_eq!(room.taken.load(Ordering::SeqCst), 4);
    assert_eq!(door.whoami(&access).await.unwrap_err().code, ErrorCode::DoorFull, "told so, over TLS too");
    soon(taken(1)).await;
    for mut stream in silent {
        // Closed or reset: what matters is that it ends.
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    }
    assert!(door.whoami(&access).await.is_ok());
}

/// A door that is lost, and in its place one that listens to what it is sent.
#[tokio::test]
async fn a_token_is_never_sent_in_plaintext_after_a_door_with_tls() {
    let authority = Authority::new();
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trapped = trap.local_addr().unwrap().to_string();
    let tls = load(authority.server("door", "127.0.0.1").door(None, false));
    let others = vec![trapped.clone()];
    let door = open_as(
        |_| {},
        |parts| {
            parts.tls = Some(tls);
            parts.doors = Arc::new(move || others.clone());
        },
    )
    .await;
    let (access, address) = (access(Some(door.token("ada")), authority.trusted(None)), door.address.to_string());
    let info = Client::open(&DoorAddress::new(&address, true), &access, Cookies::default()).await.unwrap();
    let info = info.flight_info("one").await.unwrap();
    let locations: Vec<_> = info.endpoint[0].location.iter().map(|l| l.uri.as_str()).collect();
    assert_eq!(locations, ["arrow-flight-reuse-connection://?", &format!("grpc+tls://{trapped}")]);
    let heard = tokio::spawn(async move {
        let (mut stream, _) = trap.accept().await.unwrap();
        let mut heard = vec![0; 256];
        let bytes = stream.read(&mut heard).await.unwrap();
        heard.truncate(bytes);
        heard
    });
    let options = SessionOptions { resumable: true, ..SessionOptions::default() };
    let client = RoamingClient::connect_as(vec![format!("grpc+tls://{address}")], access.clone(), options.clone());
    let client = client.await.unwrap();
    rows(client.query("one").await.unwrap()).await.unwrap();
    door.closing.cancel();
    let next = tokio::spawn(async move { client.query("one").await.map(drop) });
    let heard = tokio::time::timeout(PATIENCE, heard).await.unwrap().unwrap();
    next.abort();
    assert_eq!(heard.first(), Some(&0x16), "a TLS handshake and nothing else: {heard:?}");
    let named = RoamingClient::connect_as(vec![format!("grpc+tcp://{trapped}")], access, options).await;
    assert_eq!(failure(named).code, ErrorCode::InvalidConfig);
}

#[tokio::test]
async fn a_door_without_tls_names_none_on_another_machine() {
    let others = vec!["10.0.0.4:50051".to_owned(), "b.example:50051".to_owned(), "127.0.0.1:9".to_owned()];
    let door = open_as(|_| {}, |parts| parts.doors = Arc::new(move || others.clone())).await;
    let info = door.client("ada").await.flight_info("one").await.unwrap();
    let locations: Vec<_> = info.endpoint[0].location.iter().map(|l| l.uri.as_str()).collect();
    assert_eq!(locations, ["arrow-flight-reuse-connection://?", "grpc+tcp://127.0.0.1:9"]);
}
