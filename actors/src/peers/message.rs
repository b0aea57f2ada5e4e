//! The one message of role actors, and its encoding. Decoding never panics and never allocates over the limit: what
//! cannot be read reaches the actor, or the caller, as an error.

use std::time::Duration;

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    messages::control::{CONTROL_BYTES_MAX, ControlReply, ControlRequest},
    wire,
};
use ractor::{ActorRef, BytesConvertable, RpcReplyPort, rpc::CallResult};
use ractor_cluster::RactorClusterMessage;
use serde::{Serialize, de::DeserializeOwned};

/// A value on its way between role actors, or the error that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire<T>(pub Result<T>);

impl<T> Wire<T> {
    pub fn ok(value: T) -> Self {
        Self(Ok(value))
    }
}

impl<T> From<Result<T>> for Wire<T> {
    fn from(result: Result<T>) -> Self {
        Self(result)
    }
}

impl<T: Serialize + DeserializeOwned> BytesConvertable for Wire<T> {
    fn into_bytes(self) -> Vec<u8> {
        wire::encode(&self.0, CONTROL_BYTES_MAX)
            .or_else(|error| wire::encode(&Err::<T, MeshError>(error), CONTROL_BYTES_MAX))
            .unwrap_or_default()
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(wire::decode::<Result<T>>(&bytes, CONTROL_BYTES_MAX).and_then(|result| result))
    }
}

/// What a role actor is told. The variant's name is on the wire: it can never be renamed.
#[derive(RactorClusterMessage)]
pub enum RoleMessage {
    #[rpc]
    Call(Wire<ControlRequest>, RpcReplyPort<Wire<ControlReply>>),
}

/// Asks an actor and waits at most `timeout`. See [`super::Peers::call`] for errors.
pub async fn call_actor(
    actor: &ActorRef<RoleMessage>,
    request: ControlRequest,
    timeout: Duration,
) -> Result<ControlReply> {
    let gone = || MeshError::new(ErrorCode::PeerUnreachable, "the role's actor is gone");
    match actor.call(|port| RoleMessage::Call(Wire(Ok(request)), port), Some(timeout)).await {
        Ok(CallResult::Success(Wire(Ok(ControlReply::Error(error))))) => Err(error),
        Ok(CallResult::Success(Wire(reply))) => reply,
        Ok(CallResult::Timeout) => Err(MeshError::new(
            ErrorCode::Deadline,
            format!("a control call was not answered within {} ms", timeout.as_millis()),
        )),
        Ok(CallResult::SenderError) | Err(_) => Err(gone()),
    }
}
