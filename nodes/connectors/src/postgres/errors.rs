//! What goes wrong between a connector and PostgreSQL, as the mesh's own errors.
//!
//! INVARIANT: no message carries a row's value. PostgreSQL quotes values in messages of some classes; those are named
//! by their SQLSTATE alone.

use std::io;

use greylag_protocol::{ErrorCode, MeshError};

/// An `ErrorResponse`, as far as it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerError {
    pub sqlstate: String,
    pub message: String,
    /// The server closes the connection after it.
    pub fatal: bool,
}

impl ServerError {
    /// From the body of an `ErrorResponse`. Fields that are not there stay empty.
    pub(super) fn parse(mut body: &[u8]) -> Self {
        let mut error = Self { sqlstate: String::new(), message: String::new(), fatal: false };
        while let [kind, rest @ ..] = body {
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            let text = String::from_utf8_lossy(&rest[..end]);
            match kind {
                0 => break,
                b'C' => error.sqlstate = text.into_owned(),
                b'M' => error.message = text.into_owned(),
                b'V' => error.fatal = matches!(text.as_ref(), "FATAL" | "PANIC"),
                _ => {}
            }
            body = rest.get(end + 1..).unwrap_or_default();
        }
        error
    }

    /// As the rest of the mesh knows it. `57014` (a statement stopped) is left to the caller, who knows why.
    pub(super) fn to_mesh(&self) -> MeshError {
        let code = match self.sqlstate.as_str() {
            "53300" => ErrorCode::SourceBusy,
            "57014" => ErrorCode::Cancelled,
            "25006" => ErrorCode::ReadOnly,
            "40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => {
                ErrorCode::SourceUnreachable
            }
            // A protocol violation is ours, and will repeat.
            "08P01" => ErrorCode::SourceRefused,
            state if state.starts_with("08") || state.starts_with("53") => ErrorCode::SourceUnreachable,
            state if state.starts_with("22") => ErrorCode::Execution,
            _ => ErrorCode::SourceRefused,
        };
        MeshError::new(code, self.text())
    }

    fn text(&self) -> String {
        let quotes_no_values = ["08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"]
            .iter()
            .any(|class| self.sqlstate.starts_with(class));
        if quotes_no_values {
            format!("PostgreSQL: {} (SQLSTATE {})", self.message, self.sqlstate)
        } else {
            format!("PostgreSQL refused with SQLSTATE {}", self.sqlstate)
        }
    }
}

/// The connection broke, or could not be made.
pub(super) fn lost(error: &io::Error) -> MeshError {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ => format!("the connection failed: {error}"),
    };
    MeshError::new(ErrorCode::SourceUnreachable, what)
}

/// The server said what the protocol does not allow. The connection cannot be used any more; another one may do.
pub(super) fn malformed(what: &str) -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, format!("the server broke PostgreSQL's protocol: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use greylag_protocol::ErrorClass;

    fn error(sqlstate: &str, message: &str) -> MeshError {
        let body = format!("SERROR\0VERROR\0C{sqlstate}\0M{message}\0Ddetail\0\0");
        ServerError::parse(body.as_bytes()).to_mesh()
    }

    #[test]
    fn states_map_to_codes_and_classes() {
        for (state, code, class) in [
            ("08006", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            ("08P01", ErrorCode::SourceRefused, ErrorClass::Permanent),
            ("57P01", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            ("40001", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            ("53200", ErrorCode::SourceUnreachable, ErrorClass::Transient),
            ("53300", ErrorCode::SourceBusy, ErrorClass::Overload),
            ("22012", ErrorCode::Execution, ErrorClass::Permanent),
            ("25006", ErrorCode::ReadOnly, ErrorClass::Permanent),
            ("42P01", ErrorCode::SourceRefused, ErrorClass::Permanent),
            ("28P01", ErrorCode::SourceRefused, ErrorClass::Permanent),
            ("57014", ErrorCode::Cancelled, ErrorClass::Permanent),
            ("", ErrorCode::SourceRefused, ErrorClass::Permanent),
        ] {
            let error = error(state, "m");
            assert_eq!((error.code, error.class()), (code, class), "{state}");
        }
    }

    #[test]
    fn values_do_not_leak_through_messages() {
        let message = error("22P02", "invalid input syntax for type integer: \"4111-1111\"").message;
        assert_eq!(message, "PostgreSQL refused with SQLSTATE 22P02");
        assert!(error("42P01", "relation \"t\" does not exist").message.contains("relation \"t\""));
        assert!(!error("P0001", "card 4111").message.contains("4111"));
        assert!(!error("23505", "Key (card)=(4111)").message.contains("4111"));
    }

    #[test]
    fn a_cut_body_is_read_as_far_as_it_goes() {
        assert_eq!(ServerError::parse(b"").sqlstate, "");
        assert_eq!(ServerError::parse(b"C53").sqlstate, "53");
        assert!(ServerError::parse(b"VFATAL\0C57P01\0").fatal);
    }
}
