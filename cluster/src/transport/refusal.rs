//! Codes on connections and streams: which number a close, reset or stop carries, and which error the other side makes
//! of it. Numbers are those of `GL####`, so that a capture of either side reads like its log.

use greylag_protocol::{ErrorCode, MeshError};
use quinn::{ConnectError, ConnectionError, ReadError, ReadExactError, VarInt, WriteError};

/// QUIC application code of a goodbye that is no error.
pub const CODE_BYE: u32 = 0;

/// First of QUIC's transport codes that carry a TLS alert (RFC 9001, 4.8).
const CRYPTO: std::ops::Range<u64> = 0x100..0x200;

/// The application code that stands for an error code.
pub fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u32(code.number().into())
}

/// What a lost or refused connection means. TLS alerts about certificates are GL4002; an application close that carries
/// a known number is that error; anything else is GL4013.
pub fn of_connection(error: &ConnectionError) -> MeshError {
    match error {
        ConnectionError::ApplicationClosed(close) => match known(close.error_code) {
            Some(code) => MeshError::new(code, String::from_utf8_lossy(&close.reason)),
            None => unreachable_peer("the peer has closed the connection"),
        },
        ConnectionError::ConnectionClosed(close) => of_transport(close.error_code.into(), "it says", error),
        ConnectionError::TransportError(failure) => of_transport(failure.code.into(), "we say", error),
        other => unreachable_peer(&format!("the connection was lost: {other}")),
    }
}

/// What a failure to dial means.
pub fn of_connect(error: &ConnectError) -> MeshError {
    unreachable_peer(&format!("the peer cannot be dialled: {error}"))
}

/// What a failed read means. A stream that was reset carries the peer's code; one that ended early is GL3007.
pub fn of_read(error: &ReadError) -> MeshError {
    match error {
        ReadError::Reset(code) => of_stream(*code, "reset"),
        ReadError::ConnectionLost(error) => of_connection(error),
        other => MeshError::internal(format!("a stream could not be read: {other}")),
    }
}

pub fn of_read_exact(error: &ReadExactError) -> MeshError {
    match error {
        ReadExactError::FinishedEarly(_) => truncated("a stream ended in the middle of a frame"),
        ReadExactError::ReadError(error) => of_read(error),
    }
}

/// What a failed write means. A stream that was stopped carries the peer's code.
pub fn of_write(error: &WriteError) -> MeshError {
    match error {
        WriteError::Stopped(code) => of_stream(*code, "stopped"),
        WriteError::ConnectionLost(error) => of_connection(error),
        other => MeshError::internal(format!("a stream could not be written: {other}")),
    }
}

pub(super) fn truncated(message: &str) -> MeshError {
    MeshError::new(ErrorCode::TruncatedStream, message)
}

pub(crate) fn unreachable_peer(message: &str) -> MeshError {
    MeshError::new(ErrorCode::PeerUnreachable, message)
}

fn known(code: VarInt) -> Option<ErrorCode> {
    u16::try_from(code.into_inner()).ok().and_then(ErrorCode::from_number)
}

fn of_stream(code: VarInt, what: &str) -> MeshError {
    match known(code) {
        Some(code) => MeshError::new(code, format!("the peer has {what} the stream: {}", code.summary())),
        None => truncated(&format!("the peer has {what} the stream")),
    }
}

fn of_transport(code: u64, who: &str, error: &ConnectionError) -> MeshError {
    if !CRYPTO.contains(&code) {
        return unreachable_peer(&format!("the connection failed: {error}"));
    }
    // Alerts as in RFC 8446, 6: certificate trouble is 42-46, an unknown authority 48, a bad signature 51.
    let (code, message) = match code - CRYPTO.start {
        42..=46 | 48 | 51 => (ErrorCode::ForeignCertificate, "the certificate was refused"),
        116 => (ErrorCode::NoCertificate, "a certificate is required"),
        120 => (ErrorCode::ProtocolVersion, "no protocol in common, or the node is not in a mesh yet"),
        _ => (ErrorCode::PeerUnreachable, "the handshake failed"),
    };
    MeshError::new(code, format!("{message} ({who}: {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_travel_as_their_numbers() {
        assert_eq!(code(ErrorCode::NotAMember).into_inner(), 4001);
        for known in ErrorCode::ALL {
            assert_eq!(of_read(&ReadError::Reset(code(*known))).code, *known);
            assert_eq!(of_write(&WriteError::Stopped(code(*known))).code, *known);
        }
        assert_eq!(of_read(&ReadError::Reset(VarInt::from_u32(7))).code, ErrorCode::TruncatedStream);
        assert_eq!(of_connection(&ConnectionError::TimedOut).code, ErrorCode::PeerUnreachable);
    }
}
