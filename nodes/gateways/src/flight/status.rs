//! Errors on the wire of gRPC, both ways: the status code says what a client can do, the message starts with the
//! stable code, and headers carry the particulars.

use greylag_protocol::{ErrorClass, ErrorCode, MeshError, NodeId, SourceName};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

pub const CODE: &str = "greylag-code";
pub const SQLSTATE: &str = "greylag-sqlstate";
pub const HINT: &str = "greylag-hint";
pub const RETRYABLE: &str = "greylag-retryable";
const SOURCE: &str = "greylag-source";
const NODE: &str = "greylag-node";

/// Longest message that is sent, bytes: statuses travel in headers, whose size peers limit.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// As a client gets it.
pub fn to_status(error: &MeshError) -> Status {
    let mut headers = MetadataMap::new();
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = MetadataValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    put(CODE, error.code.to_string());
    put(SQLSTATE, error.code.sqlstate().to_owned());
    put(HINT, error.code.hint().to_owned());
    put(RETRYABLE, error.is_retryable().to_string());
    if let Some(source) = &error.source {
        put(SOURCE, source.to_string());
    }
    if let Some(node) = error.node {
        put(NODE, node.0.to_string());
    }
    let mut message = error.to_string();
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
    }
    Status::with_metadata(grpc_code(error.code), message, headers)
}

fn grpc_code(code: ErrorCode) -> Code {
    use ErrorCode::*;
    match code {
        UnknownTable | UnknownSource => Code::NotFound,
        Unsupported | UnsupportedType => Code::Unimplemented,
        Syntax | UnknownColumn | InvalidStatement | Parameters | Execution | AmbiguousTable | InvalidConfig
        | InvalidResource => Code::InvalidArgument,
        Unauthenticated | TokenExpired | AddressRefused => Code::Unauthenticated,
        Denied | NoDecision | ScopeMissing => Code::PermissionDenied,
        SubqueryLost | VersionConflict => Code::Aborted,
        Deadline => Code::DeadlineExceeded,
        Cancelled => Code::Cancelled,
        Internal => Code::Internal,
        _ => match code.class() {
            ErrorClass::Transient => Code::Unavailable,
            ErrorClass::Overload => Code::ResourceExhausted,
            ErrorClass::Permanent => Code::FailedPrecondition,
        },
    }
}

/// The error that another node's door meant, or the nearest one to a failure of gRPC itself.
pub fn from_status(status: &Status) -> MeshError {
    let headers = status.metadata();
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let number = text(CODE).and_then(|code| code.strip_prefix("GL")).and_then(|digits| digits.parse().ok());
    let Some(code) = number.and_then(ErrorCode::from_number) else {
        // A door that cancels says so with its code: this is a stream that broke off.
        let broken = status.code() == Code::Cancelled;
        let error = foreign(status);
        return if broken { MeshError { code: ErrorCode::PeerUnreachable, ..error } } else { error };
    };
    let mut error = MeshError::new(code, "");
    error.source = text(SOURCE).and_then(|name| SourceName::new(name).ok());
    error.node = text(NODE).and_then(|node| node.parse().ok()).map(NodeId);
    // The display of an error without a message is what `to_status` has put around the message.
    let around = error.to_string();
    let prefix = format!("{code}: ");
    let suffix = around.strip_prefix(&prefix).unwrap_or_default();
    let message = status.message();
    let message = message.strip_prefix(&prefix).unwrap_or(message);
    error.message = message.strip_suffix(suffix).unwrap_or(message).to_owned();
    error
}

fn foreign(status: &Status) -> MeshError {
    let code = match status.code() {
        // What tonic says when a connection breaks is unknown to gRPC.
        Code::Unavailable | Code::Aborted | Code::Unknown => ErrorCode::PeerUnreachable,
        Code::Unauthenticated => ErrorCode::Unauthenticated,
        Code::PermissionDenied => ErrorCode::Denied,
        Code::DeadlineExceeded => ErrorCode::Deadline,
        Code::Cancelled => ErrorCode::Cancelled,
        Code::Unimplemented => ErrorCode::Unsupported,
        Code::InvalidArgument => ErrorCode::InvalidStatement,
        Code::OutOfRange | Code::ResourceExhausted => ErrorCode::FrameTooLarge,
        // With a cause it was made on this side: what answers does not speak HTTP/2, or not in plain text.
        _ if std::error::Error::source(status).is_some() => ErrorCode::PeerUnreachable,
        _ => ErrorCode::Internal,
    };
    MeshError::new(code, status.message())
}

/// A status that some layer below made on its own, in the words of ours.
pub(super) fn normal(status: Status) -> Status {
    if status.metadata().contains_key(CODE) { status } else { to_status(&foreign(&status)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_error_survives_the_trip() {
        for code in ErrorCode::ALL {
            let plain = MeshError::new(*code, "it did not go well: `gås`");
            let source = plain.clone().of_source(SourceName::new("orders").unwrap());
            for error in [plain.clone().at_node(NodeId(4)), source.clone(), source.at_node(NodeId(7)), plain] {
                let status = to_status(&error);
                assert_eq!(status.message(), error.to_string());
                assert_eq!(status.metadata().get(SQLSTATE).unwrap(), code.sqlstate());
                assert_eq!(from_status(&status), error);
                assert_eq!(normal(status.clone()).code(), status.code());
            }
        }
    }

    #[test]
    fn codes_say_what_a_client_can_do() {
        let code = |code| to_status(&MeshError::new(code, "x")).code();
        assert_eq!(code(ErrorCode::NoPolicy), Code::Unavailable);
        assert_eq!(code(ErrorCode::QueueFull), Code::ResourceExhausted);
        assert_eq!(code(ErrorCode::ReadOnly), Code::FailedPrecondition);
        assert_eq!(code(ErrorCode::Denied), Code::PermissionDenied);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let status = to_status(&MeshError::internal("å".repeat(MESSAGE_BYTES_MAX)));
        assert!(status.message().len() <= MESSAGE_BYTES_MAX && status.message().ends_with('å'));
    }

    #[test]
    fn failures_of_grpc_get_a_code() {
        let error = from_status(&Status::unavailable("connection refused"));
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::PeerUnreachable, "connection refused"));
        assert_eq!(from_status(&normal(Status::unimplemented("no"))).code, ErrorCode::Unsupported);
    }
}
