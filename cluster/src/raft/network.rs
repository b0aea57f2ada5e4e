//! Raft calls as bytes: one byte that names the call, then the request in the control codec; the answer is the answer
//! alone. A call that failed at the peer has no answer: the link reports it as a failed call.

use std::{io, sync::Arc, time::Duration};

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, wire};
use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    RAFT_CALL_BYTES_MAX, RaftLink,
    machine::Machine,
    types::{Snapshot, SnapshotData, SnapshotMeta, TypeConfig, Vote},
};

/// Least time for a peer to make entries durable. openraft gives a call one heartbeat, which a busy disk can take
/// longer than: the leader would send the same entries for ever.
const APPEND_TIME_MIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Snapshot = 4,
    TransferLeader = 5,
}

impl TryFrom<u8> for Call {
    type Error = MeshError;
    fn try_from(call: u8) -> Result<Self> {
        Ok(match call {
            1 => Self::Append,
            2 => Self::Vote,
            3 => Self::PreVote,
            4 => Self::Snapshot,
            5 => Self::TransferLeader,
            _ => return Err(MeshError::new(ErrorCode::MalformedFrame, format!("raft call {call} is not known"))),
        })
    }
}

/// Makes the network's end for each peer.
pub(super) struct Network {
    pub me: NodeId,
    pub link: Arc<dyn RaftLink>,
}

pub(super) struct Peer {
    me: NodeId,
    to: NodeId,
    link: Arc<dyn RaftLink>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Peer {
        Peer { me: self.me, to: NodeId(target), link: self.link.clone() }
    }
}

impl Peer {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        call: Call,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let unreachable = |e: &io::Error| RPCError::Unreachable(Unreachable::new(e));
        let body = wire::encode(request, RAFT_CALL_BYTES_MAX - 1).map_err(|e| unreachable(&io::Error::other(e)))?;
        let mut bytes = Vec::with_capacity(1 + body.len());
        bytes.push(call as u8);
        bytes.extend_from_slice(&body);
        // The link keeps the limit too; here it holds even if the link does not.
        let answer = match tokio::time::timeout(limit, self.link.call(self.to, bytes, limit)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) if e.kind() == io::ErrorKind::TimedOut => return Err(self.late(call, limit)),
            Ok(Err(e)) => return Err(unreachable(&e)),
            Err(_) => return Err(self.late(call, limit)),
        };
        wire::decode(&answer, RAFT_CALL_BYTES_MAX).map_err(|e| RPCError::Network(NetworkError::new(&e)))
    }

    fn late(&self, call: Call, timeout: Duration) -> RPCError<TypeConfig> {
        let action = match call {
            Call::Append => RPCTypes::AppendEntries,
            Call::Vote | Call::PreVote => RPCTypes::Vote,
            Call::Snapshot => RPCTypes::InstallSnapshot,
            Call::TransferLeader => RPCTypes::TransferLeader,
        };
        RPCError::Timeout(Timeout { action, id: self.me.0, target: self.to.0, timeout })
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = match request.entries.is_empty() {
            true => option.soft_ttl(),
            false => option.soft_ttl().max(APPEND_TIME_MIN),
        };
        self.call(Call::Append, &request, limit).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Call::Vote, &request, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Call::PreVote, &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Call::TransferLeader, &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let request = (vote, snapshot.meta, snapshot.snapshot);
        let sent = self.call(Call::Snapshot, &request, option.soft_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => answer.map_err(|e| match e {
                RPCError::Timeout(e) => StreamingError::Timeout(e),
                RPCError::Unreachable(e) => StreamingError::Unreachable(e),
                RPCError::Network(e) => StreamingError::Network(e),
                RPCError::RemoteError(e) => StreamingError::Unreachable(Unreachable::new(&e)),
            }),
        }
    }
}

/// Answers a peer's call. An error has no answer on the wire.
pub(super) async fn serve(raft: &openraft::Raft<TypeConfig, Machine>, request: &[u8]) -> Result<Vec<u8>> {
    let Some((call, body)) = request.split_first() else {
        return Err(MeshError::new(ErrorCode::MalformedFrame, "a raft call is empty"));
    };
    match Call::try_from(*call)? {
        Call::Append => answer(raft.append_entries(read(body)?).await),
        Call::Vote => answer(raft.vote(read(body)?).await),
        Call::PreVote => answer(raft.pre_vote(read(body)?).await),
        Call::TransferLeader => answer(raft.handle_transfer_leader(read(body)?).await),
        Call::Snapshot => {
            let (vote, meta, snapshot): (Vote, SnapshotMeta, SnapshotData) = read(body)?;
            answer(raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await)
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    wire::decode(body, RAFT_CALL_BYTES_MAX)
}

/// What goes wrong here is always that this node's Raft has stopped.
fn answer<A: Serialize, E: std::error::Error>(answer: Result<A, E>) -> Result<Vec<u8>> {
    match answer {
        Ok(answer) => wire::encode(&answer, RAFT_CALL_BYTES_MAX),
        Err(e) => Err(MeshError::new(ErrorCode::ShuttingDown, format!("raft has stopped here: {e}"))),
    }
}
