//! What a node's chain needs from outside: a folder, and the replicated log's word on all chains. A simulation stands in
//! for both.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use greylag_cluster::{Mesh, seams::Blocking};
use greylag_governance::audit::{AuditStorage, Chain, Folder, MemoryStorage};
use greylag_protocol::{
    NodeId, Result,
    state::{AuditHead, Command, GovernCommand},
};

/// Where the chain's files are. Calls block.
pub trait AuditPlace: Send + Sync + 'static {
    /// The folder, made if missing. Nobody else has it open.
    fn storage(&self) -> io::Result<Box<dyn AuditStorage>>;
}

/// A folder on the node's disk.
#[derive(Debug, Clone)]
pub struct FolderPlace(pub PathBuf);

impl AuditPlace for FolderPlace {
    fn storage(&self) -> io::Result<Box<dyn AuditStorage>> {
        Ok(Box::new(Folder::create(self.0.clone())?))
    }
}

/// A folder in memory that outlives the node.
#[derive(Debug, Clone, Default)]
pub struct MemoryPlace(pub MemoryStorage);

impl AuditPlace for MemoryPlace {
    fn storage(&self) -> io::Result<Box<dyn AuditStorage>> {
        Ok(Box::new(self.0.clone()))
    }
}

/// The replicated log, as far as it is about chains; and the node's time and threads.
#[async_trait]
pub(crate) trait HeadLog: Send + Sync + 'static {
    fn chain(&self) -> Chain;
    /// Of all nodes, as far as this one knows.
    fn heads(&self) -> BTreeMap<NodeId, AuditHead>;
    /// After an error it may have been committed, or may still be.
    async fn commit(&self, head: AuditHead) -> Result<()>;
    fn unix_ms(&self) -> u64;
    fn blocking(&self) -> Arc<dyn Blocking>;
}

/// In production.
pub(crate) struct MeshHeads(pub Mesh);

#[async_trait]
impl HeadLog for MeshHeads {
    fn chain(&self) -> Chain {
        Chain { mesh: self.0.id(), node: self.0.node() }
    }

    fn heads(&self) -> BTreeMap<NodeId, AuditHead> {
        self.0.state().governance.audit_heads.clone()
    }

    async fn commit(&self, head: AuditHead) -> Result<()> {
        self.0.propose(Command::Govern(GovernCommand::AuditHead { head })).await.map(|_| ())
    }

    fn unix_ms(&self) -> u64 {
        self.0.seams().clock.unix_ms()
    }

    fn blocking(&self) -> Arc<dyn Blocking> {
        self.0.seams().blocking.clone()
    }
}
