//! What goes wrong between a connector and MySQL, as the mesh's own errors.
//!
//! INVARIANT: no message carries a row's value: of the server's own messages only those of statements that could not
//! be prepared or of access that was refused are passed on.

use greylag_protocol::{ErrorCode, MeshError};
use mysql_async::{DriverError, Error, IoError, ServerError};

/// Server errors after which another try may do. Numbers as in `mysqld_error.h`.
const TRANSIENT: [u16; 15] = [
    1053, // server is shutting down
    1077, // server is shutting down (normal)
    1079, // shutdown complete
    1152, 1158, 1159, 1160, 1161, // connection aborted, and network errors
    1184, // connection aborted during handshake
    1205, // lock wait timeout
    1213, // deadlock
    1927, // connection was killed
    3169, // session was killed
    4031, // disconnected for inactivity
    1836, // read-only mode of a server that is changing roles
];
/// Too much asked at once: connections, connections of the account, its quota.
const BUSY: [u16; 3] = [1040, 1203, 1226];
/// The statement was stopped: interrupted, MySQL's time limit, MariaDB's time limit.
const STOPPED: [u16; 3] = [1317, 3024, 1969];
/// The transaction or the server is read-only.
const READ_ONLY: [u16; 2] = [1792, 1290];

pub(super) fn to_mesh(error: &Error) -> MeshError {
    match error {
        Error::Server(error) => server(error),
        Error::Io(IoError::Io(error)) if is_too_large(error) => too_large(),
        Error::Io(IoError::Io(error)) => lost(&format!("the connection failed: {error}")),
        // A certificate that is refused now will be refused again.
        Error::Io(IoError::Tls(error)) => MeshError::new(ErrorCode::SourceRefused, format!("TLS: {error}")),
        Error::Driver(DriverError::ConnectionClosed) => lost("the server closed the connection"),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            MeshError::new(ErrorCode::SourceRefused, "the server does not offer TLS; see option `tls`")
        }
        Error::Driver(DriverError::MixedParams | DriverError::StmtParamsMismatch { .. } | DriverError::Params(_)) => {
            MeshError::new(ErrorCode::SourceRefused, "the sub-query holds placeholders")
        }
        Error::Driver(DriverError::UnknownAuthPlugin { .. } | DriverError::MysqlOldPasswordDisabled) => {
            MeshError::new(ErrorCode::SourceRefused, "the server wants a kind of authentication that is not supported")
        }
        // Whatever else the driver has to say may quote packets.
        Error::Driver(_) | Error::Other(_) => lost("the server broke MySQL's protocol"),
        Error::Url(_) => MeshError::new(ErrorCode::InvalidResource, "option `url` is no MySQL URL"),
    }
}

fn server(error: &ServerError) -> MeshError {
    let code = match error.code {
        number if TRANSIENT.contains(&number) => ErrorCode::SourceUnreachable,
        number if BUSY.contains(&number) => ErrorCode::SourceBusy,
        number if STOPPED.contains(&number) => ErrorCode::Cancelled,
        number if READ_ONLY.contains(&number) => ErrorCode::ReadOnly,
        _ if error.state.starts_with("22") => ErrorCode::Execution,
        _ if error.state.starts_with("08") => ErrorCode::SourceUnreachable,
        _ => ErrorCode::SourceRefused,
    };
    let quotes_no_values =
        ["28", "42", "3D", "08", "25", "70", "0A"].iter().any(|class| error.state.starts_with(class));
    let message = if quotes_no_values {
        format!("MySQL: {} (error {})", error.message, error.code)
    } else {
        format!("MySQL refused with error {}, SQLSTATE {}", error.code, error.state)
    };
    MeshError::new(code, message)
}

fn lost(message: &str) -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, message)
}

fn is_too_large(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.to_string().contains("max_allowed_packet"))
}

fn too_large() -> MeshError {
    MeshError::new(ErrorCode::ValueOutOfRange, "the server sent a row that is larger than the mesh can carry")
}

#[cfg(test)]
mod tests {
    use super::*;
    use greylag_protocol::ErrorClass;

    fn error(code: u16, state: &str, message: &str) -> MeshError {
        to_mesh(&Error::Server(ServerError { code, state: state.into(), message: message.into() }))
    }

    #[test]
    fn numbers_map_to_codes_and_classes() {
        for (number, state, code, class) in [
            (1040, "08004", ErrorCode::SourceBusy, ErrorClass::Overload),
            (1053, "08S01", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            (1213, "40001", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            (1927, "70100", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            (1317, "70100", ErrorCode::Cancelled, ErrorClass::Permanent),
            (1792, "25006", ErrorCode::ReadOnly, ErrorClass::Permanent),
            (1365, "22012", ErrorCode::Execution, ErrorClass::Permanent),
            (1146, "42S02", ErrorCode::SourceRefused, ErrorClass::Permanent),
            (1045, "28000", ErrorCode::SourceRefused, ErrorClass::Permanent),
        ] {
            let error = error(number, state, "m");
            assert_eq!((error.code, error.class()), (code, class), "{number}");
        }
    }

    #[test]
    fn values_do_not_leak_through_messages() {
        assert!(!error(1292, "22007", "Incorrect datetime value: '4111'").message.contains("4111"));
        assert!(!error(1062, "23000", "Duplicate entry '4111' for key").message.contains("4111"));
        assert!(!error(1105, "HY000", "Unknown error '4111'").message.contains("4111"));
        assert!(error(1146, "42S02", "Table 'd.t' doesn't exist").message.contains("d.t"));
    }
}
