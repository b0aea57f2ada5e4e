//! Asking the members for their health when somebody wants to know: each over the link to it, and who has none through
//! a member that has one. Who nobody can ask is probed from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use greylag_protocol::{
    NodeId, Result,
    frame::{FrameKind, StreamTag},
    messages::health::{HEALTH_VERSION, HealthReply, HealthReport, HealthRequest, PeerSight},
};
use quinn::{RecvStream, SendStream};
use tokio::time::{Instant, timeout};

use super::{
    DiskWatch, Health, Stalls,
    core::{Signs, judge},
};
use crate::{
    mesh::Incoming,
    raft::RaftNode,
    seams::{Probe, SocketFactory},
    transport::{FrameReader, FrameWriter, Switchboard},
};

/// Longest that one member is waited for.
const ASK_TIMEOUT: Duration = Duration::from_millis(400);
/// Members through which one is asked that this node has no link to.
const RELAYS_MAX: usize = 3;

#[derive(Clone)]
pub(crate) struct Gatherer {
    pub board: Arc<Switchboard>,
    pub raft: RaftNode,
    pub stalls: Arc<Stalls>,
    pub disk: Arc<DiskWatch>,
    pub sockets: Arc<dyn SocketFactory>,
}

impl Gatherer {
    /// Of every member, by what can be learnt of it within about a second.
    pub(crate) async fn gather(&self) -> BTreeMap<NodeId, Health> {
        let state = self.raft.state();
        let own = self.own_report();
        let me = own.node;
        let mut reports = BTreeMap::from([(me, own)]);
        let others: Vec<NodeId> = state.members.keys().copied().filter(|node| *node != me).collect();
        let direct = others.iter().map(|node| self.ask(*node, *node));
        reports.extend(futures::future::join_all(direct).await.into_iter().flatten().map(|r| (r.node, r)));

        let missing: Vec<NodeId> = others.into_iter().filter(|node| !reports.contains_key(node)).collect();
        let relayed = missing.iter().map(|node| self.ask_through(relays(&reports, *node, me), *node));
        let probed = missing.iter().map(|node| self.probe(*node));
        let (relayed, probed) = futures::join!(futures::future::join_all(relayed), futures::future::join_all(probed));
        reports.extend(relayed.into_iter().flatten().map(|report| (report.node, report)));
        let probes = missing.into_iter().zip(probed).collect();
        judge(&Signs { state: &state, reports: &reports, probes: &probes })
    }

    /// Answers other members, until the streams end.
    pub(crate) async fn serve(self, mut streams: tokio::sync::mpsc::Receiver<Incoming>) {
        while let Some(Incoming { peer, send, recv }) = streams.recv().await {
            let gatherer = self.clone();
            // As many at once as the peers' streams allow.
            tokio::spawn(async move {
                if let Ok(Err(error)) = timeout(2 * ASK_TIMEOUT, gatherer.answer(send, recv)).await {
                    tracing::debug!(%peer, %error, "a peer was not told of this node's health");
                }
            });
        }
    }

    async fn answer(&self, send: SendStream, recv: RecvStream) -> Result<()> {
        let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
        let HealthRequest { version, of } = recv.recv(FrameKind::Control).await?;
        let report = match of {
            _ if version != HEALTH_VERSION => None,
            me if me == self.raft.id() => Some(self.own_report()),
            other => self.ask(other, other).await,
        };
        let reply = report.map_or(HealthReply::Unknown, HealthReply::Report);
        send.send(FrameKind::Control, &reply).await?;
        send.finish()
    }

    fn own_report(&self) -> HealthReport {
        let now = Instant::now();
        let peers = self.board.links().sights(now);
        HealthReport { node: self.raft.id(), peers, stall: self.stalls.report(now), disk: self.disk.report(now) }
    }

    async fn ask_through(&self, relays: Vec<NodeId>, of: NodeId) -> Option<HealthReport> {
        for relay in relays {
            if let Some(report) = self.ask(relay, of).await {
                return Some(report);
            }
        }
        None
    }

    async fn ask(&self, whom: NodeId, of: NodeId) -> Option<HealthReport> {
        let asking = async {
            let (send, recv) = self.board.open(whom, StreamTag::Health).await?;
            let (mut send, mut recv) = (FrameWriter::new(send), FrameReader::new(recv));
            send.send(FrameKind::Control, &HealthRequest { version: HEALTH_VERSION, of }).await?;
            send.finish()?;
            recv.recv::<HealthReply>(FrameKind::Control).await
        };
        // Who passes a question on waits for its answer.
        let patience = if whom == of { ASK_TIMEOUT } else { 2 * ASK_TIMEOUT };
        match timeout(patience, asking).await {
            Ok(Ok(HealthReply::Report(report))) if report.node == of => Some(report),
            _ => None,
        }
    }

    async fn probe(&self, node: NodeId) -> Probe {
        let address = self.board.addresses().remove(&node).filter(|address| !address.is_empty());
        let Some(address) = address else { return Probe::Unknown };
        match timeout(ASK_TIMEOUT, self.sockets.resolve(&address)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => self.sockets.probe(addresses[0]).await,
            _ => Probe::Unknown,
        }
    }
}

/// Who says to have a link to `node`.
fn relays(reports: &BTreeMap<NodeId, HealthReport>, node: NodeId, me: NodeId) -> Vec<NodeId> {
    let linked = |report: &&HealthReport| report.peers.get(&node) == Some(&PeerSight::Linked);
    let all: BTreeSet<NodeId> = reports.values().filter(linked).map(|r| r.node).filter(|n| *n != me).collect();
    all.into_iter().take(RELAYS_MAX).collect()
}
