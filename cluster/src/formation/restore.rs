//! A whole lost mesh made anew from a snapshot, as a mesh of one in a fresh data directory. What is written there is the
//! resolution of a founder; the node that is started on it goes on from that as a founder that was stopped.

use std::path::Path;

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, NodeUuid, Result,
    frame::FORWARD_BYTES_MAX,
    messages::join::Candidate,
    state::{Command, ControlState, Member, MemberStatus},
    wire,
};

use crate::{
    identity::store::{Founder, Founding, IdentityStore},
    seams::Seams,
    state::Archive,
};

/// What has been made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Name that the node must be configured with.
    pub mesh: String,
    pub node: NodeId,
    pub sources: usize,
}

/// Makes `data_dir` ready for the node that is to begin the mesh anew. GL6001 for a directory that has anything in it.
pub async fn restore(data_dir: &Path, archive: &Archive) -> Result<Restored> {
    let invalid = |why: String| MeshError::new(ErrorCode::InvalidConfig, format!("`{}`: {why}", data_dir.display()));
    let found = match std::fs::read_dir(data_dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(invalid(error.to_string())),
    };
    if found {
        return Err(invalid("the data directory is not empty, and nothing in it is overwritten".to_owned()));
    }
    let facts = archive.state.mesh.as_ref().ok_or_else(|| MeshError::internal("the snapshot is of no mesh"))?;
    let seams = Seams::real(data_dir.to_owned()).map_err(|error| invalid(error.to_string()))?;
    let store = IdentityStore::new(&seams);
    let (uuid, key) = store.node().await?;
    let kept = archive.reborn(|id| member(id, uuid, key.public_key().to_vec()));
    check_size(&kept)?;
    let me = NodeId(archive.state.next_node);
    let founder = Founder { id: me, candidate: candidate(&facts.name, uuid), voter: true, public_key: None };
    let founding = Founding {
        mesh: facts.id,
        name: facts.name.clone(),
        founded_unix_ms: facts.founded_unix_ms,
        authority: archive.authority.clone(),
        ca_certificate: facts.ca_certificate.clone(),
        grant: None,
        members: vec![founder],
        restored: Some(Box::new(kept.clone())),
    };
    store.store_founding(founding).await?;
    Ok(Restored { mesh: facts.name.clone(), node: me, sources: kept.sources.len() })
}

/// It is one command of the log.
fn check_size(kept: &ControlState) -> Result<()> {
    wire::encode(&Command::Restore { state: Box::new(kept.clone()) }, FORWARD_BYTES_MAX).map(|_| ())
}

/// Name and addresses come from the node's configuration when it is started, as they do whenever it has changed.
fn candidate(mesh: &str, uuid: NodeUuid) -> Candidate {
    Candidate {
        mesh_name: mesh.to_owned(),
        expect: 1,
        uuid,
        name: "restored".to_owned(),
        address: String::new(),
        labels: Default::default(),
        door: None,
        outbound_only: false,
        knows: vec![uuid],
    }
}

fn member(id: NodeId, uuid: NodeUuid, public_key: Vec<u8>) -> Member {
    Member {
        id,
        uuid,
        name: "restored".to_owned(),
        address: String::new(),
        door: None,
        labels: Default::default(),
        outbound_only: false,
        voter: true,
        status: MemberStatus::Up,
        status_since_unix_ms: 0,
        public_key,
        allowed: None,
        certified_by: Vec::new(),
    }
}
