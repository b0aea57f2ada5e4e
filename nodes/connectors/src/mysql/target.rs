//! Where a MySQL or MariaDB server is and who we are there, as the driver's options.

use greylag_protocol::{ErrorCode, MeshError, Result, ipc::BATCH_BYTES_MAX};
use mysql_async::{Opts, OptsBuilder, SslOpts};

use crate::server::{Place, ServerOptions, TlsMode};

/// Bytes of a packet besides the values in it.
const PACKET_OVERHEAD_BYTES: usize = 1 << 20;
/// Seconds that an idle connection is thought to live. The pool closes it long before.
const WAIT_TIMEOUT_SECS: usize = 28_800;

pub(super) struct Target {
    pub opts: Opts,
    /// Of the URL or the option.
    pub database: Option<String>,
}

impl Target {
    /// From resolved options. GL6002 names what is wrong, never its value.
    pub(super) fn new(server: &ServerOptions) -> Result<Self> {
        let (builder, database, is_local) = match &server.place {
            Place::Url(url) => {
                // The parser's own message may quote the password.
                let invalid = |_| MeshError::new(ErrorCode::InvalidResource, "option `url` is no MySQL URL");
                let url = url.strip_prefix("mariadb://").map_or_else(|| url.clone(), |rest| format!("mysql://{rest}"));
                let opts = Opts::from_url(&url).map_err(invalid)?;
                let (database, is_local) = (opts.db_name().map(str::to_owned), is_local(opts.ip_or_hostname()));
                (OptsBuilder::from_opts(opts), database, is_local)
            }
            Place::Parts { host, port, database, user, password } => {
                let builder = OptsBuilder::default()
                    .ip_or_hostname(host)
                    .user(Some(user))
                    .pass(password.clone())
                    .db_name(Some(database));
                let builder = port.map_or(builder.clone(), |port| builder.tcp_port(port));
                (builder, Some(database.clone()), is_local(host))
            }
        };
        let given_by_url = Opts::from(builder.clone()).ssl_opts().cloned();
        let tls = match (server.tls, given_by_url) {
            (None, Some(given)) => Some(given),
            _ => tls(server, is_local),
        };
        // Packets larger than what can travel through the mesh are refused before memory is taken for them.
        let opts = builder
            .ssl_opts(tls)
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_nodelay(true)
            .max_allowed_packet(Some(BATCH_BYTES_MAX + PACKET_OVERHEAD_BYTES))
            .wait_timeout(Some(WAIT_TIMEOUT_SECS))
            .connect_attribute("program_name", "greylag");
        Ok(Self { opts: opts.into(), database })
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls(server: &ServerOptions, is_local: bool) -> Option<SslOpts> {
    match server.tls_for(is_local) {
        TlsMode::Disable => None,
        TlsMode::Require => {
            Some(SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true))
        }
        TlsMode::Verify => Some(match &server.tls_ca {
            None => SslOpts::default(),
            Some(path) => {
                SslOpts::default().with_root_certs(vec![path.clone().into()]).with_disable_built_in_roots(true)
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use greylag_protocol::{SourceName, state::SourceSpec};

    use super::*;

    fn target(options: &[(&str, &str)]) -> Result<Target> {
        let spec = SourceSpec {
            name: SourceName::new("shop").unwrap(),
            kind: "mysql".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            labels: BTreeMap::new(),
            replicas: 1,
        };
        Target::new(&ServerOptions::read(&spec, &spec.options)?)
    }

    #[test]
    fn urls_and_parts_say_the_same() {
        let url = target(&[("url", "mariadb://ann:p%40ss@127.0.0.1:3307/shop")]).unwrap();
        let parts =
            [("host", "127.0.0.1"), ("port", "3307"), ("user", "ann"), ("password", "p@ss"), ("database", "shop")];
        for target in [url, target(&parts).unwrap()] {
            assert_eq!((target.opts.user(), target.opts.pass()), (Some("ann"), Some("p@ss")));
            assert_eq!((target.opts.tcp_port(), target.opts.db_name()), (3307, Some("shop")));
            assert_eq!(target.database.as_deref(), Some("shop"));
            assert!(target.opts.ssl_opts().is_none(), "loopback is in plain by default");
            assert!(!target.opts.prefer_socket());
        }
        assert!(target(&[("url", "mysql://ann@db.example/shop")]).unwrap().opts.ssl_opts().is_some());
        assert!(
            target(&[("url", "mysql://ann@db.example/shop"), ("tls", "disable")]).unwrap().opts.ssl_opts().is_none()
        );
    }

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        for url in ["mysql://ann:hunter2@host:port/x", "postgres://hunter2@h/x", "mysql://h/x?hunter2=1"] {
            let error = target(&[("url", url)]).err().unwrap();
            assert_eq!(error.code, ErrorCode::InvalidResource);
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }
}
