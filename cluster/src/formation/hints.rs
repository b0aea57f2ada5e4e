//! What nodes tell their neighbours on the local network, where `discovery.mdns` asks for it: under which address to ask
//! them, and by which name their mesh goes. Anybody can say that. So it is a hint where to ask and nothing else: who is
//! asked has to prove that it knows the join token, as a seed has, and a hint that leads nowhere is no refusal.
//!
//! INVARIANT: nothing heard here is kept but addresses of nodes that name this mesh, and of those a bounded number.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use greylag_protocol::NodeUuid;
use tokio::sync::watch;

use crate::seams::{Beacon, Neighbourhood, Neighbours, Notice, Properties};

/// Version of what is said.
const VERSION: &str = "1";
/// Nodes kept at a time.
const HINTS_MAX: usize = 32;
/// Bytes of the digest of a mesh's name that are told.
const MESH_BYTES: usize = 16;

/// Keys of what is said.
const KEY_VERSION: &str = "v";
const KEY_MESH: &str = "mesh";
const KEY_NAME: &str = "name";
const KEY_ADDRESS: &str = "addr";

/// The addresses heard of so far. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Hints(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    mesh: String,
    /// Of this node itself.
    own: Option<SocketAddr>,
    /// By the name of the announcement.
    heard: Mutex<BTreeMap<String, SocketAddr>>,
    changed: watch::Sender<()>,
}

/// This node as its neighbours are to hear of it; `None` if nobody could dial that address.
pub(crate) fn beacon(mesh: &str, uuid: NodeUuid, name: &str, address: SocketAddr) -> Option<Beacon> {
    let text = read_address(&address.to_string())?.to_string();
    let said = [(KEY_VERSION, VERSION), (KEY_MESH, &mesh_digest(mesh)), (KEY_NAME, name), (KEY_ADDRESS, &text)];
    let properties = said.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    Some(Beacon { instance: format!("greylag-{}", uuid.0.simple()), address, properties })
}

impl Hints {
    pub(crate) fn new(mesh: &str, own: Option<SocketAddr>) -> Self {
        let (heard, changed) = (Mutex::default(), watch::Sender::new(()));
        Self(Arc::new(Shared { mesh: mesh_digest(mesh), own, heard, changed }))
    }

    /// Announces this node and listens to others, until the future is dropped.
    pub(crate) async fn gather(self, neighbourhood: Arc<dyn Neighbourhood>, beacon: Option<Beacon>) {
        match neighbourhood.enter(beacon) {
            Ok(Neighbours { mut heard, presence }) => {
                while let Some(notice) = heard.recv().await {
                    self.hear(notice);
                }
                tracing::warn!("nothing is heard of the neighbours any more");
                // This node can still be found by them.
                std::future::pending::<()>().await;
                drop(presence);
            }
            Err(error) => tracing::warn!(%error, "the neighbours can neither be told nor heard"),
        }
    }

    /// Where to ask.
    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.lock().values().copied().collect()
    }

    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn hear(&self, notice: Notice) {
        let mut heard = self.lock();
        match notice {
            Notice::Here { instance, properties } => {
                let Some((name, address)) = read(&properties, &self.0.mesh).filter(|(_, at)| Some(*at) != self.0.own)
                else {
                    return;
                };
                let room = heard.len() < HINTS_MAX || heard.contains_key(&instance);
                if !room || heard.get(&instance) == Some(&address) {
                    return;
                }
                tracing::info!(name, %address, "a neighbour says that it is of this mesh");
                heard.insert(instance, address);
            }
            Notice::Gone { instance } => {
                if heard.remove(&instance).is_none() {
                    return;
                }
            }
        }
        drop(heard);
        self.0.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, SocketAddr>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name and address of a node of this mesh, if that is what is said.
fn read(properties: &Properties, mesh: &str) -> Option<(String, SocketAddr)> {
    let only = |wanted: &str| {
        let mut values = properties.iter().filter(|(key, _)| key == wanted).map(|(_, value)| value);
        let value = values.next()?;
        std::str::from_utf8(value).ok().filter(|_| values.next().is_none())
    };
    if only(KEY_VERSION)? != VERSION || only(KEY_MESH)? != mesh {
        return None;
    }
    let (name, address) = (only(KEY_NAME)?, read_address(only(KEY_ADDRESS)?)?);
    let fits = (1..=63).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then(|| (name.to_owned(), address))
}

/// An address that somebody could listen at. Names are not taken: looking up what strangers make up takes time.
fn read_address(address: &str) -> Option<SocketAddr> {
    let address: SocketAddr = address.parse().ok()?;
    let ip = address.ip();
    let nowhere = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    (address.port() > 0 && !nowhere).then_some(address)
}

/// Neighbours of other meshes are told apart by it; it is no secret and proves nothing.
fn mesh_digest(name: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("greylag mesh {name}").as_bytes());
    digest.as_ref()[..MESH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn said(change: impl FnOnce(&mut Properties)) -> Option<(String, SocketAddr)> {
        let beacon = beacon("m", NodeUuid(Uuid::from_u128(7)), "n1", "10.0.0.1:7400".parse().unwrap()).unwrap();
        let mut properties = beacon.properties.into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
        change(&mut properties);
        read(&properties, &mesh_digest("m"))
    }

    fn at(address: &str) -> bool {
        said(|p| p[3].1 = address.into()).is_some()
    }

    #[test]
    fn what_a_node_says_is_read_and_nothing_else_is() {
        assert_eq!(said(|_| ()), Some(("n1".to_owned(), "10.0.0.1:7400".parse().unwrap())));
        assert!(said(|p| p.push(("more".into(), vec![0xff]))).is_some(), "a later release may say more");
        for (at, value) in [
            (0, &b"2"[..]),
            (0, b""),
            (1, mesh_digest("other").as_bytes()),
            (1, b""),
            (2, b""),
            (2, b"a\nb"),
            (2, &[0xff, 0xfe]),
            (2, &[b'x'; 64]),
            (3, &[0xc3, 0x28]),
        ] {
            assert_eq!(said(|p| p[at].1 = value.to_vec()), None, "{at} {value:?}");
        }
        for missing in 0..4 {
            assert_eq!(said(|p| drop(p.remove(missing))), None);
            assert_eq!(said(|p| p.push(p[missing].clone())), None, "said twice");
        }
        for good in ["127.0.0.1:7400", "10.0.0.1:65535", "[::1]:7400", "[fe80::1]:9"] {
            assert!(at(good), "{good}");
        }
        for bad in [
            "",
            ":",
            "host:1",
            "a.b-c.example:7400",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:+7",
            ":7400",
            "::1:7400",
            "[::]:7400",
            "[ff02::1]:7400",
            "[host]:7400",
            "[10.0.0.1]:7400",
            "0.0.0.0:7400",
            "224.0.0.251:5353",
            "255.255.255.255:1",
            "1.2.3:4",
            "999.1.1.1:4",
            "-a:1",
            "a..b:1",
            "user@host:1",
            "http://host:1",
            "host/x:1",
            "a b:1",
            "hö:1",
            &format!("{}:1", "a.".repeat(150)),
        ] {
            assert!(!at(bad), "{bad}");
        }
    }

    #[test]
    fn a_bounded_number_is_kept_while_they_are_there() {
        let hints = Hints::new("m", Some("10.0.0.1:7400".parse().unwrap()));
        let mut changes = hints.watch();
        let here = |n: usize, address: String| {
            let beacon = beacon("m", NodeUuid(Uuid::from_u128(n as u128)), "n", address.parse().unwrap()).unwrap();
            let properties = beacon.properties.into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
            Notice::Here { instance: beacon.instance, properties }
        };
        hints.hear(here(1, "10.0.0.1:7400".into()));
        assert!(hints.addresses().is_empty(), "this node itself");
        for n in 0..10 * HINTS_MAX {
            hints.hear(here(n, format!("10.0.1.1:{}", 1000 + n)));
        }
        assert_eq!(hints.addresses().len(), HINTS_MAX);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        hints.hear(here(3, "10.0.1.1:1003".into()));
        hints.hear(Notice::Gone { instance: "another".into() });
        assert!(!changes.has_changed().unwrap());
        hints.hear(here(3, "10.9.9.9:9".into()));
        assert!(hints.addresses().contains(&"10.9.9.9:9".parse().unwrap()) && hints.addresses().len() == HINTS_MAX);
        let Notice::Here { instance, .. } = here(3, "10.9.9.9:9".into()) else { unreachable!() };
        hints.hear(Notice::Gone { instance });
        assert_eq!(hints.addresses().len(), HINTS_MAX - 1);
    }

    #[test]
    fn a_node_that_nobody_could_dial_says_nothing() {
        let beacon = |address: &str| beacon("m", NodeUuid(Uuid::from_u128(7)), "n1", address.parse().unwrap());
        assert_eq!([beacon("0.0.0.0:7400"), beacon("10.0.0.1:0")], [None, None]);
        assert!(beacon("[::1]:7").is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn nothing_that_is_said_does_harm(
            pairs in prop::collection::vec(("(v|mesh|name|addr|[a-z]{0,3})", prop::collection::vec(any::<u8>(), 0..80)), 0..8),
            address in "[0-9a-z.:\\[\\]-]{0,40}|[0-9.]{7,15}:[0-9]{1,5}|\\[[0-9a-f:]{2,12}\\]:[0-9]{1,4}",
        ) {
            let mut properties: Properties = pairs;
            prop_assert_eq!(read(&properties, &mesh_digest("m")), None);
            properties.retain(|(key, _)| ![KEY_VERSION, KEY_MESH, KEY_NAME, KEY_ADDRESS].contains(&key.as_str()));
            let digest = mesh_digest("m");
            for (key, value) in [(KEY_VERSION, VERSION), (KEY_MESH, &digest), (KEY_NAME, "n"), (KEY_ADDRESS, &address)] {
                properties.push((key.to_owned(), value.as_bytes().to_vec()));
            }
            if let Some((_, found)) = read(&properties, &digest) {
                prop_assert!(found.port() > 0 && !found.ip().is_unspecified());
                prop_assert_eq!(address.parse::<SocketAddr>().unwrap(), found);
            }
        }
    }
}
