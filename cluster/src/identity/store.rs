//! The files that say who a node is. Each is replaced as a whole; the order of writing makes every crash harmless:
//! `node` (uuid and key) before anything is said, `founding` before anybody is answered, `authority` before
//! `membership`, and `membership` before the certificate is used.

use std::sync::Arc;

use greylag_protocol::{
    ErrorCode, MeshError, MeshId, NodeId, NodeUuid, Result,
    messages::join::{Authority, Candidate, Enrolment},
    state::{ControlState, Grant},
    wire,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Trust, authority::CertificateAuthority, key::NodeKey};
use crate::seams::{Blocking, Disk, Seams};

/// Version of every file here.
const FILE_VERSION: u16 = 1;
const FILE_BYTES_MAX: usize = 4 << 20;

const NODE: &str = "node.key";
const MEMBERSHIP: &str = "membership";
const AUTHORITY: &str = "authority";
const FOUNDING: &str = "founding";
const AUTHORITIES: &str = "authorities";
const TRUST: &str = "trust";

/// A node's place in a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub mesh: MeshId,
    pub node: NodeId,
    /// DER.
    pub certificate: Vec<u8>,
    pub ca_certificate: Vec<u8>,
    /// Members at the time, to dial until the log says more. No address: it cannot be dialled.
    pub members: Vec<(NodeId, String)>,
}

/// What a founder has resolved to do, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    pub mesh: MeshId,
    pub name: String,
    pub founded_unix_ms: u64,
    pub authority: Authority,
    pub ca_certificate: Vec<u8>,
    /// The token they all share, spent.
    pub grant: Option<Grant>,
    /// In order of id.
    pub members: Vec<Founder>,
    /// What it is made anew from, if it is.
    pub restored: Option<Box<ControlState>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founder {
    pub id: NodeId,
    pub candidate: Candidate,
    pub voter: bool,
    /// Known once it has asked for its certificate.
    pub public_key: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    uuid: Uuid,
    pkcs8: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct IdentityStore {
    files: Files,
    blocking: Arc<dyn Blocking>,
}

impl IdentityStore {
    pub(crate) fn new(seams: &Seams) -> Self {
        Self { files: Files(seams.disk.clone()), blocking: seams.blocking.clone() }
    }

    /// This data directory's uuid and key, made on first use.
    pub(crate) async fn node(&self) -> Result<(NodeUuid, NodeKey)> {
        self.run(|files| {
            if let Some(NodeFile { uuid, pkcs8 }) = files.read(NODE)? {
                return Ok((NodeUuid(uuid), NodeKey::from_pkcs8(pkcs8)?));
            }
            let (uuid, key) = (Uuid::new_v4(), NodeKey::generate()?);
            files.write(NODE, &NodeFile { uuid, pkcs8: key.pkcs8().to_vec() }, true)?;
            Ok((NodeUuid(uuid), key))
        })
        .await
    }

    pub(crate) async fn membership(&self) -> Result<Option<Membership>> {
        self.run(|files| files.read(MEMBERSHIP)).await
    }

    /// Makes this node a member, for good.
    pub(crate) async fn enrol(&self, enrolment: Enrolment) -> Result<Membership> {
        self.run(move |files| {
            let Enrolment { mesh, node, certificate, ca_certificate, authority, members, rotation, epoch } = enrolment;
            files.write(TRUST, &Trust { epoch, ca_certificate: ca_certificate.clone(), rotation }, false)?;
            if let Some(authority) = authority {
                files.write(AUTHORITY, &authority, true)?;
            }
            let membership = Membership { mesh, node, certificate, ca_certificate, members };
            files.write(MEMBERSHIP, &membership, false)?;
            Ok(membership)
        })
        .await
    }

    /// Puts another certificate in the place of this node's, before it is used.
    pub(crate) async fn renew(&self, certificate: Vec<u8>, ca_certificate: Vec<u8>) -> Result<Membership> {
        self.run(move |files| {
            let known: Option<Membership> = files.read(MEMBERSHIP)?;
            let known = known.ok_or_else(|| MeshError::internal("a node without a membership renews nothing"))?;
            let membership = Membership { certificate, ca_certificate, ..known };
            files.write(MEMBERSHIP, &membership, false)?;
            Ok(membership)
        })
        .await
    }

    /// Keeps these keys from now on, each with its authority's certificate.
    pub(crate) async fn keep_authorities(&self, known: Vec<(Authority, Vec<u8>)>) -> Result<()> {
        self.run(move |files| files.write(AUTHORITIES, &known, true)).await
    }

    /// What this node believes from now on.
    pub(crate) async fn keep_trust(&self, trust: Trust) -> Result<()> {
        self.run(move |files| files.write(TRUST, &trust, false)).await
    }

    /// What this node believes: as it knew it last, or as it was told when it was enrolled.
    pub(crate) async fn trust(&self, membership: &Membership) -> Result<Trust> {
        let enrolled = Trust::enrolled(&membership.ca_certificate);
        self.run(move |files| Ok(files.read(TRUST)?.unwrap_or(enrolled))).await
    }

    /// The mesh's keys that this node has been given, each with its authority's certificate. Those given at enrolment
    /// belong to the authority of then; keys left over from another mesh are not returned.
    pub(crate) async fn authorities(&self, enrolled_by: &[u8]) -> Result<Vec<(Authority, Vec<u8>)>> {
        let enrolled_by = enrolled_by.to_vec();
        self.run(move |files| {
            let first: Option<Authority> = files.read(AUTHORITY)?;
            let first = first.map(|keys| (keys, enrolled_by));
            let later: Vec<(Authority, Vec<u8>)> = files.read(AUTHORITIES)?.unwrap_or_default();
            let fits = |(keys, ca): &(Authority, Vec<u8>)| CertificateAuthority::open(keys, ca).is_ok();
            Ok(first.into_iter().chain(later).filter(fits).collect())
        })
        .await
    }

    pub(crate) async fn founding(&self) -> Result<Option<Founding>> {
        self.run(|files| files.read(FOUNDING)).await
    }

    pub(crate) async fn store_founding(&self, founding: Founding) -> Result<()> {
        self.run(move |files| files.write(FOUNDING, &founding, true)).await
    }

    /// Works on the files away from the reactor.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Files) -> Result<T> + Send + 'static) -> Result<T> {
        let files = self.files.clone();
        let (done, result) = oneshot::channel();
        let work = move || {
            // Who has stopped waiting does not want the result.
            let _ = done.send(work(&files));
        };
        self.blocking.run(Box::new(work)).await;
        result.await.unwrap_or_else(|_| Err(MeshError::internal("work on the data directory was abandoned")))
    }
}

#[derive(Debug, Clone)]
struct Files(Arc<dyn Disk>);

impl Files {
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.0.read(name).map_err(|error| broken(name, &error))? else { return Ok(None) };
        let damaged = |why: &str| MeshError::internal(format!("`{name}` in the data directory is damaged: {why}"));
        let (version, body) = bytes.split_first_chunk().ok_or_else(|| damaged("it is too short"))?;
        let version = u16::from_le_bytes(*version);
        if version != FILE_VERSION {
            let message =
                format!("`{name}` in the data directory has version {version}, this release reads {FILE_VERSION}");
            return Err(MeshError::new(ErrorCode::ProtocolVersion, message));
        }
        wire::decode(body, FILE_BYTES_MAX).map(Some).map_err(|error| damaged(&error.message))
    }

    fn write<T: Serialize>(&self, name: &str, value: &T, secret: bool) -> Result<()> {
        let mut bytes = FILE_VERSION.to_le_bytes().to_vec();
        bytes.extend(wire::encode(value, FILE_BYTES_MAX)?);
        self.0.write(name, &bytes, secret).map_err(|error| broken(name, &error))
    }
}

fn broken(name: &str, error: &std::io::Error) -> MeshError {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let code = if full { ErrorCode::DiskFull } else { ErrorCode::Internal };
    MeshError::new(code, format!("`{name}` in the data directory: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment(authority: Option<Authority>, ca_certificate: &[u8]) -> Enrolment {
        Enrolment {
            mesh: MeshId(Uuid::nil()),
            node: NodeId(3),
            certificate: vec![1],
            ca_certificate: ca_certificate.to_vec(),
            authority,
            members: vec![(NodeId(1), "a:1".into())],
            rotation: None,
            epoch: greylag_protocol::Epoch(0),
        }
    }

    #[tokio::test]
    async fn what_is_stored_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let seams = Seams::real(root.path().to_owned()).unwrap();
        let store = IdentityStore::new(&seams);
        let (uuid, key) = store.node().await.unwrap();
        let (again, same) = IdentityStore::new(&seams).node().await.unwrap();
        assert_eq!((again, same.public_key()), (uuid, key.public_key()));

        assert_eq!(store.membership().await.unwrap(), None);
        let (authority, ca) = CertificateAuthority::mint(MeshId(Uuid::nil()), 0).unwrap();
        let (_, other_ca) = CertificateAuthority::mint(MeshId(Uuid::nil()), 0).unwrap();
        let stored = store.enrol(enrolment(Some(authority.clone()), &ca)).await.unwrap();
        assert_eq!(store.membership().await.unwrap(), Some(stored.clone()));
        let renewed = store.renew(vec![2], ca.clone()).await.unwrap();
        assert_eq!(renewed, Membership { certificate: vec![2], ..stored });
        assert_eq!(store.membership().await.unwrap(), Some(renewed));
        let kept = vec![(authority.clone(), ca.clone())];
        assert_eq!(store.authorities(&ca).await.unwrap(), kept);
        assert_eq!(store.authorities(&other_ca).await.unwrap(), [], "keys of another mesh");
        let (later, later_ca) = CertificateAuthority::mint(MeshId(Uuid::nil()), 1).unwrap();
        store.keep_authorities(vec![(later.clone(), later_ca.clone()), (authority, other_ca.clone())]).await.unwrap();
        let kept = [kept, vec![(later, later_ca)]].concat();
        assert_eq!(store.authorities(&ca).await.unwrap(), kept);
        let membership = store.membership().await.unwrap().unwrap();
        let mut trust = Trust::enrolled(&ca);
        assert_eq!(store.trust(&membership).await.unwrap(), trust);
        trust.ca_certificate = other_ca;
        store.keep_trust(trust.clone()).await.unwrap();
        assert_eq!(store.trust(&membership).await.unwrap(), trust);
    }

    #[tokio::test]
    async fn a_damaged_file_or_another_version_is_an_error_not_a_fresh_start() {
        let root = tempfile::tempdir().unwrap();
        let seams = Seams::real(root.path().to_owned()).unwrap();
        let store = IdentityStore::new(&seams);
        for (content, code) in [
            (&b""[..], ErrorCode::Internal),
            (&[1, 0, 9, 9], ErrorCode::Internal),
            (&[7, 0], ErrorCode::ProtocolVersion),
        ] {
            seams.disk.write(NODE, content, true).unwrap();
            assert_eq!(store.node().await.map(|(uuid, _)| uuid).unwrap_err().code, code);
        }
    }
}
