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
use tokio::time::Instant;

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
    /// A value over the limit goes as GL4012; an error whose own text is too long, as its code alone.
    fn into_bytes(self) -> Vec<u8> {
        let error = |error: MeshError| wire::encode(&Err::<T, MeshError>(error), CONTROL_BYTES_MAX);
        let code = self.0.as_ref().err().map(|error| error.code);
        wire::encode(&self.0, CONTROL_BYTES_MAX)
            .or_else(|too_large| match code {
                Some(code) => error(MeshError::new(code, code.summary())),
                None => error(too_large),
            })
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

/// How asking an actor ended without an answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The actor is gone and has not seen the request: asking its successor is safe.
    Unsent,
    Failed(MeshError),
}

/// Asks an actor and waits at most `timeout`. See [`super::Peers::call`] for errors.
pub async fn call_actor(
    actor: &ActorRef<RoleMessage>,
    request: ControlRequest,
    timeout: Duration,
) -> Result<ControlReply> {
    ask(actor, request, timeout).await.map_err(|unanswered| match unanswered {
        Unanswered::Unsent => gone(),
        Unanswered::Failed(error) => error,
    })
}

pub(super) async fn ask(
    actor: &ActorRef<RoleMessage>,
    request: ControlRequest,
    timeout: Duration,
) -> Result<ControlReply, Unanswered> {
    let began = Instant::now();
    match actor.call(|port| RoleMessage::Call(Wire(Ok(request)), port), Some(timeout)).await {
        Ok(CallResult::Success(Wire(Ok(ControlReply::Error(error))))) => Err(Unanswered::Failed(error)),
        Ok(CallResult::Success(Wire(reply))) => reply.map_err(Unanswered::Failed),
        Ok(CallResult::Timeout) => Err(Unanswered::Failed(late(timeout))),
        // A remote actor's stand-in has a clock of its own for the same time-out, and may be the first to give up.
        Ok(CallResult::SenderError) if began.elapsed() >= timeout => Err(Unanswered::Failed(late(timeout))),
        Ok(CallResult::SenderError) => Err(Unanswered::Failed(gone())),
        Err(_) => Err(Unanswered::Unsent),
    }
}

pub(super) fn late(timeout: Duration) -> MeshError {
    MeshError::new(ErrorCode::Deadline, format!("a control call was not answered within {} ms", timeout.as_millis()))
}

fn gone() -> MeshError {
    MeshError::new(ErrorCode::PeerUnreachable, "the role's actor is gone")
}

/// For a role that does not run where it was looked for.
pub(super) fn absent(role: &greylag_protocol::state::Role) -> MeshError {
    MeshError::new(ErrorCode::PeerUnreachable, format!("no actor of the role {role} can be reached"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn bytes_that_are_no_message_become_an_error() {
        for bytes in [vec![], vec![0xff; 40], vec![0; CONTROL_BYTES_MAX + 1]] {
            let Wire(read) = Wire::<ControlRequest>::from_bytes(bytes);
            assert!(matches!(read.unwrap_err().code, ErrorCode::MalformedFrame | ErrorCode::FrameTooLarge));
        }
        let mut bytes = Wire::ok(ControlRequest::Probe).into_bytes();
        assert_eq!(Wire::<ControlRequest>::from_bytes(bytes.clone()).0.unwrap(), ControlRequest::Probe);
        bytes.push(0);
        assert_eq!(Wire::<ControlRequest>::from_bytes(bytes).0.unwrap_err().code, ErrorCode::MalformedFrame);
    }

    #[test]
    fn what_is_over_the_limit_travels_as_its_error() {
        let long = "x".repeat(CONTROL_BYTES_MAX);
        let bytes = Wire::ok(ControlReply::Error(MeshError::internal(long.clone()))).into_bytes();
        assert_eq!(Wire::<ControlReply>::from_bytes(bytes).0.unwrap_err().code, ErrorCode::FrameTooLarge);
        let bytes = Wire::<ControlReply>(Err(MeshError::new(ErrorCode::Denied, long))).into_bytes();
        assert_eq!(Wire::<ControlReply>::from_bytes(bytes).0.unwrap_err().code, ErrorCode::Denied);
    }
}
