//! Where a PostgreSQL server is and who we are there; opens byte streams to it, in TLS where asked for.

use std::{io, path::PathBuf, sync::Arc};

use greylag_actors::edge::port::Options;
use greylag_protocol::{ErrorCode, MeshError, Result, state::SourceSpec};
use postgres_protocol::message::frontend;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::config::{Host, SslMode};
use tokio_rustls::TlsConnector;

use super::{errors, wire::ByteStream};
use crate::server::{Place, ServerOptions, TlsMode, tls};

const PORT_DEFAULT: u16 = 5432;

/// A server, or several that stand for one another, and the account used there.
pub(super) struct Target {
    endpoints: Vec<(Endpoint, TlsMode)>,
    pub user: String,
    pub password: Option<Vec<u8>>,
    pub database: String,
    verifying: Option<Arc<ClientConfig>>,
    unverifying: Option<Arc<ClientConfig>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Endpoint {
    Tcp {
        host: String,
        port: u16,
    },
    /// Path of the socket itself.
    Unix(PathBuf),
}

impl Endpoint {
    fn new(host: &str, port: u16) -> Self {
        if host.starts_with('/') { Self::unix(host.into(), port) } else { Self::Tcp { host: host.to_owned(), port } }
    }

    fn unix(folder: PathBuf, port: u16) -> Self {
        Self::Unix(folder.join(format!(".s.PGSQL.{port}")))
    }

    fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl Target {
    /// From resolved options. GL6002 names what is wrong, never its value.
    pub(super) fn new(spec: &SourceSpec, options: &Options) -> Result<Self> {
        let server = ServerOptions::read(spec, options)?;
        let parsed = match &server.place {
            Place::Url(url) => from_url(url, server.tls)?,
            Place::Parts { host, port, database, user, password } => Parsed {
                endpoints: vec![Endpoint::new(host, port.unwrap_or(PORT_DEFAULT))],
                user: user.clone(),
                password: password.as_ref().map(|password| password.clone().into_bytes()),
                database: database.clone(),
                tls: server.tls,
            },
        };
        let endpoints: Vec<_> = parsed
            .endpoints
            .into_iter()
            .map(|endpoint| {
                let mode = parsed.tls.unwrap_or_else(|| server.tls_for(endpoint.is_local()));
                (endpoint, mode)
            })
            .collect();
        let uses = |mode| endpoints.iter().any(|(_, used)| *used == mode);
        Ok(Self {
            verifying: uses(TlsMode::Verify).then(|| tls::verifying(server.tls_ca.as_deref())).transpose()?,
            unverifying: uses(TlsMode::Require).then(tls::unverifying).transpose()?,
            endpoints,
            user: parsed.user,
            password: parsed.password,
            database: parsed.database,
        })
    }

    pub(super) fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// A byte stream to one endpoint, ready for a start-up or cancel message.
    pub(super) async fn dial(&self, endpoint: usize) -> Result<Box<dyn ByteStream>> {
        let Some((endpoint, mode)) = self.endpoints.get(endpoint) else {
            return Err(MeshError::internal("a PostgreSQL endpoint has no address"));
        };
        match endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| unreachable(&error))?;
                Ok(Box::new(stream))
            }
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| unreachable(&error))?;
                stream.set_nodelay(true).map_err(|error| errors::lost(&error))?;
                let config = match mode {
                    TlsMode::Disable => return Ok(Box::new(stream)),
                    TlsMode::Require => &self.unverifying,
                    TlsMode::Verify => &self.verifying,
                };
                let Some(config) = config else { return Err(MeshError::internal("TLS was not set up")) };
                encrypt(stream, host, config.clone()).await
            }
        }
    }
}

/// Asks for TLS and shakes hands. Never falls back to plain.
async fn encrypt(mut stream: TcpStream, host: &str, config: Arc<ClientConfig>) -> Result<Box<dyn ByteStream>> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|error| errors::lost(&error))?;
    match stream.read_u8().await.map_err(|error| errors::lost(&error))? {
        b'S' => {}
        _ => return Err(MeshError::new(ErrorCode::SourceRefused, "the server does not offer TLS; see option `tls`")),
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| MeshError::new(ErrorCode::InvalidResource, "option `host` is no name that TLS could verify"))?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(MeshError::new(ErrorCode::SourceRefused, format!("TLS: {error}")))
        }
        Err(error) => Err(errors::lost(&error)),
    }
}

fn unreachable(error: &io::Error) -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, format!("no connection: {error}"))
}

struct Parsed {
    endpoints: Vec<Endpoint>,
    user: String,
    password: Option<Vec<u8>>,
    database: String,
    tls: Option<TlsMode>,
}

/// A libpq-style URL or list of keys and values. Its `sslmode` counts where option `tls` says nothing.
fn from_url(url: &str, tls: Option<TlsMode>) -> Result<Parsed> {
    let invalid = |what: &str| MeshError::new(ErrorCode::InvalidResource, format!("option `url` {what}"));
    let verify = ["sslmode=verify-full", "sslmode=verify-ca"].iter().find(|mode| url.contains(**mode));
    let readable = verify.map_or_else(|| url.to_owned(), |mode| url.replace(mode, "sslmode=require"));
    // The parser's own message may quote the password.
    let config: tokio_postgres::Config = readable.parse().map_err(|_| invalid("is no PostgreSQL URL"))?;
    let tls = tls.or(match config.get_ssl_mode() {
        _ if verify.is_some() => Some(TlsMode::Verify),
        SslMode::Disable => Some(TlsMode::Disable),
        SslMode::Require => Some(TlsMode::Require),
        _ => None,
    });
    let ports = config.get_ports();
    let endpoints: Vec<Endpoint> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT_DEFAULT);
            match host {
                Host::Tcp(host) => Endpoint::new(host, port),
                Host::Unix(folder) => Endpoint::unix(folder.clone(), port),
            }
        })
        .collect();
    if endpoints.is_empty() {
        return Err(invalid("names no host"));
    }
    let user = config.get_user().ok_or_else(|| invalid("names no user"))?;
    Ok(Parsed {
        endpoints,
        user: user.to_owned(),
        password: config.get_password().map(<[u8]>::to_vec),
        database: config.get_dbname().unwrap_or(user).to_owned(),
        tls,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_are_read_like_libpq_does() {
        let parsed = from_url("postgres://ann:p%40ss@db.example:5433/shop?sslmode=verify-full", None).unwrap();
        assert_eq!(parsed.endpoints, [Endpoint::Tcp { host: "db.example".into(), port: 5433 }]);
        assert_eq!((parsed.user.as_str(), parsed.database.as_str()), ("ann", "shop"));
        assert_eq!(parsed.password.as_deref(), Some(b"p@ss".as_slice()));
        assert_eq!(parsed.tls, Some(TlsMode::Verify));
        let parsed = from_url("postgres://ann@a:1,b:2/shop?sslmode=require", Some(TlsMode::Verify)).unwrap();
        assert_eq!(parsed.endpoints.len(), 2);
        assert_eq!(parsed.tls, Some(TlsMode::Verify));
        let parsed = from_url("host=/run/pg user=ann", None).unwrap();
        assert_eq!(parsed.endpoints, [Endpoint::Unix("/run/pg/.s.PGSQL.5432".into())]);
        assert!(parsed.endpoints[0].is_local());
        assert_eq!(parsed.tls, None);
    }

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        for url in ["postgres://ann:hunter2@host:port/x", "host=h password=hunter2", "mysql://hunter2@h/x"] {
            let error = from_url(url, None).err().unwrap();
            assert_eq!(error.code, ErrorCode::InvalidResource);
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }
}
