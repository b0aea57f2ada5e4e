//! Where a door is, and whether it is spoken to over TLS: `grpc+tls://host:port`, `grpc+tcp://host:port`, as Flight's
//! locations are written.

use std::{fmt, net::IpAddr};

use greylag_protocol::{ErrorCode, MeshError, Result};

const TLS: &str = "grpc+tls://";
const PLAIN: &str = "grpc+tcp://";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorAddress {
    /// `host:port`.
    authority: String,
    tls: bool,
}

impl DoorAddress {
    pub fn new(authority: impl Into<String>, tls: bool) -> Self {
        Self { authority: authority.into(), tls }
    }

    /// Reads an address as people write it. Without a scheme it is `host:port`, and spoken to over TLS if `tls`, or if it is
    /// on another machine: no door opens there without. GL6001 for another scheme, or for one without TLS where `tls` asks
    /// for it.
    pub fn parse(text: &str, tls: bool) -> Result<Self> {
        let wrong = |why: &str| Err(MeshError::new(ErrorCode::InvalidConfig, format!("`{text}` {why}")));
        let (authority, over_tls) = match text.split_once("://") {
            None => (text, tls || !is_loopback(text)),
            Some(("grpc+tls" | "https", rest)) => (rest, true),
            Some(("grpc+tcp" | "grpc" | "http", _)) if tls => {
                return wrong("is a door without TLS, and TLS is asked for");
            }
            Some(("grpc+tcp" | "grpc" | "http", rest)) => (rest, false),
            Some(_) => return wrong("is not `host:port`, `grpc+tls://host:port` or `grpc+tcp://host:port`"),
        };
        let authority = authority.trim_end_matches('/');
        match authority.rsplit_once(':') {
            Some((host, port))
                if !host.is_empty() && port.parse::<u16>().is_ok() && !authority.contains(['/', '@']) =>
            {
                Ok(Self::new(authority, over_tls))
            }
            _ => wrong("is not `host:port`"),
        }
    }

    /// A location of a flight, if it is one that can be dialled.
    pub(super) fn of_location(uri: &str) -> Option<Self> {
        let tls = uri.strip_prefix(TLS).map(|authority| Self::new(authority, true));
        tls.or_else(|| uri.strip_prefix(PLAIN).map(|authority| Self::new(authority, false)))
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether nobody on the way there reads what is said: TLS, or the machine itself.
    pub fn is_private(&self) -> bool {
        self.tls || is_loopback(&self.authority)
    }

    /// As HTTP has it.
    pub(super) fn endpoint(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for DoorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tls { TLS } else { PLAIN }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let read = |text: &str, tls| DoorAddress::parse(text, tls).map(|door| door.to_string()).map_err(|e| e.code);
        assert_eq!(read("127.0.0.1:50051", false), Ok("grpc+tcp://127.0.0.1:50051".into()));
        assert_eq!(read("127.0.0.1:50051", true), Ok("grpc+tls://127.0.0.1:50051".into()));
        assert_eq!(read("a.example:50051", false), Ok("grpc+tls://a.example:50051".into()));
        assert_eq!(read("grpc+tcp://a.example:50051", false), Ok("grpc+tcp://a.example:50051".into()));
        for (text, tls) in [("grpc+tls://a:1", false), ("grpc+tls://a:1", true), ("https://a:1/", true)] {
            assert_eq!(read(text, tls), Ok("grpc+tls://a:1".into()), "{text}");
        }
        assert_eq!(read("http://[::1]:9", false), Ok("grpc+tcp://[::1]:9".into()));
        for text in ["a", "a:", ":1", "a:70000", "ftp://a:1", "grpc+unix://a:1", "user@a:1", "a:1/x", ""] {
            assert_eq!(read(text, false), Err(ErrorCode::InvalidConfig), "{text}");
        }
        for text in ["grpc+tcp://a:1", "http://a:1", "grpc://a:1"] {
            assert_eq!(read(text, true), Err(ErrorCode::InvalidConfig), "{text}");
        }
    }

    #[test]
    fn what_is_private_and_what_is_not() {
        for text in ["127.0.0.1:1", "[::1]:1", "localhost:1", "grpc+tls://a.example:1"] {
            assert!(DoorAddress::parse(text, false).unwrap().is_private(), "{text}");
        }
        for text in ["grpc+tcp://10.0.0.1:1", "grpc+tcp://a.example:1", "http://127.0.0.1.example:1"] {
            assert!(!DoorAddress::parse(text, false).unwrap().is_private(), "{text}");
        }
        for uri in ["arrow-flight-reuse-connection://?", "grpc+unix:///x", ""] {
            assert_eq!(DoorAddress::of_location(uri), None);
        }
    }
}
