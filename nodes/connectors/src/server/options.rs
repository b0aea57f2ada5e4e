//! Options of a source that is a database server, alike for every kind: either `url`, or `host`, `port`, `database`,
//! `user` and `password`; then `tls` with `tls_ca`, `schemas` and `connections_max`.

use std::path::PathBuf;

use greylag_actors::edge::port::Options;
use greylag_protocol::{Result, state::SourceSpec};

use crate::options::OptionReader;

/// Keys that every kind of server knows.
const COMMON_OPTIONS: [&str; 10] =
    ["url", "host", "port", "database", "user", "password", "tls", "tls_ca", "schemas", "connections_max"];
/// Connections to one source from one edge, unless the source says otherwise.
const CONNECTIONS_DEFAULT: usize = 8;
/// Most that a source may ask for.
const CONNECTIONS_MAX: usize = 256;
/// Most schemas that a source may expose.
const SCHEMAS_MAX: usize = 64;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsMode {
    /// In plain. What a loopback address or a Unix socket gets by default.
    Disable,
    /// Encrypted, whoever answers.
    Require,
    /// Encrypted, and the certificate must be valid for the host. What any other address gets by default.
    Verify,
}

/// Where the server is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the kind's own URL syntax. May hold a password.
    Url(String),
    Parts {
        host: String,
        port: Option<u16>,
        database: String,
        user: String,
        password: Option<String>,
    },
}

/// The options, typed. `Debug` is left out on purpose: they hold credentials.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerOptions {
    pub place: Place,
    /// `None` where nothing was said.
    pub tls: Option<TlsMode>,
    /// PEM file with the authorities to trust; the public ones without it.
    pub tls_ca: Option<PathBuf>,
    /// Empty where nothing was said.
    pub schemas: Vec<String>,
    pub connections_max: usize,
}

impl ServerOptions {
    /// GL6002 naming the option. Values of `url` and `password` may still be references: they are not looked into.
    pub(crate) fn read(spec: &SourceSpec, options: &Options) -> Result<Self> {
        let reader = OptionReader::new(spec, options, &COMMON_OPTIONS)?;
        let tls = match reader.text("tls") {
            None => None,
            Some(_) => Some(match reader.choice("tls", &["disable", "require", "verify"])? {
                "disable" => TlsMode::Disable,
                "require" => TlsMode::Require,
                _ => TlsMode::Verify,
            }),
        };
        let tls_ca = reader.text("tls_ca").map(PathBuf::from);
        if tls_ca.is_some() && tls.is_some_and(|mode| mode != TlsMode::Verify) {
            return Err(reader.invalid("option `tls_ca` has no effect unless `tls` is `verify`"));
        }
        Ok(Self {
            place: place(&reader)?,
            tls,
            tls_ca,
            schemas: schemas(&reader)?,
            connections_max: reader.number("connections_max", CONNECTIONS_DEFAULT, 1..=CONNECTIONS_MAX)?,
        })
    }

    /// What was asked for, or what `host` deserves.
    pub(crate) fn tls_for(&self, is_local: bool) -> TlsMode {
        self.tls.unwrap_or(if is_local { TlsMode::Disable } else { TlsMode::Verify })
    }
}

fn place(reader: &OptionReader<'_>) -> Result<Place> {
    if let Some(url) = reader.text("url") {
        return match ["host", "port", "database", "user", "password"].iter().find(|key| reader.text(key).is_some()) {
            None => Ok(Place::Url(url.to_owned())),
            Some(key) => Err(reader.invalid(format!("options `url` and `{key}` exclude each other"))),
        };
    }
    let Some(host) = reader.text("host") else {
        return Err(reader.invalid("either option `url` or option `host` is needed"));
    };
    let port = match reader.text("port") {
        None => None,
        Some(_) => Some(reader.number("port", 0u16, 1..=u16::MAX)?),
    };
    Ok(Place::Parts {
        host: host.to_owned(),
        port,
        database: reader.required("database")?.to_owned(),
        user: reader.required("user")?.to_owned(),
        password: reader.text("password").map(str::to_owned),
    })
}

fn schemas(reader: &OptionReader<'_>) -> Result<Vec<String>> {
    let mut schemas: Vec<String> = Vec::new();
    for name in reader.text("schemas").unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !schemas.iter().any(|known| known == name) {
            schemas.push(name.to_owned());
        }
    }
    if schemas.len() > SCHEMAS_MAX {
        return Err(reader.invalid(format!("option `schemas` names more than {SCHEMAS_MAX}")));
    }
    Ok(schemas)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::{ErrorCode, SourceName};

    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<ServerOptions> {
        let spec = SourceSpec {
            name: SourceName::new("shop").unwrap(),
            kind: "postgres".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            labels: Default::default(),
            replicas: 1,
        };
        ServerOptions::read(&spec, &spec.options)
    }

    #[test]
    fn parts_and_defaults() {
        let options = read(&[("host", "db.example"), ("database", "d"), ("user", "u"), ("schemas", "a, b,a")]).unwrap();
        assert_eq!(options.schemas, ["a", "b"]);
        assert_eq!(options.connections_max, CONNECTIONS_DEFAULT);
        assert_eq!(options.tls_for(false), TlsMode::Verify);
        assert_eq!(options.tls_for(true), TlsMode::Disable);
        assert!(matches!(options.place, Place::Parts { port: None, password: None, .. }));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (options, word) in [
            (&[][..], "`host`"),
            (&[("url", "env:U"), ("host", "h")][..], "exclude"),
            (&[("host", "h"), ("user", "u")][..], "`database`"),
            (&[("host", "h"), ("user", "u"), ("database", "d"), ("port", "0")][..], "`port`"),
            (&[("url", "env:U"), ("tls", "maybe")][..], "`tls`"),
            (&[("url", "env:U"), ("tls", "require"), ("tls_ca", "/ca")][..], "`tls_ca`"),
            (&[("url", "env:U"), ("connections_max", "0")][..], "`connections_max`"),
            (&[("url", "env:U"), ("conections_max", "1")][..], "did you mean `connections_max`"),
        ] {
            let error = read(options).err().unwrap();
            assert_eq!(error.code, ErrorCode::InvalidResource);
            assert!(error.message.contains(word), "{error} should name {word}");
        }
    }
}
