//! skeleton
use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use greylag_protocol::{
    NodeId, Result,
    messages::control::{ControlReply, ControlRequest},
    state::Role,
};

use crate::NodeCtx;

pub struct ClusterPeers {}

impl ClusterPeers {
    pub async fn start(_ctx: &Arc<NodeCtx>) -> Result<Arc<Self>> {
        todo!()
    }
}

#[async_trait]
impl super::Peers for ClusterPeers {
    fn members(&self, _role: &Role) -> Vec<NodeId> {
        todo!()
    }
    async fn call(&self, _: NodeId, _: &Role, _: ControlRequest, _: Duration) -> Result<ControlReply> {
        todo!()
    }
}
