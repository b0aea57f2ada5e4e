//! Credential references and what is behind them on this node: `env:NAME` is an environment variable, `file:/path` the
//! content of a file without its trailing line break. Options that hold credentials must be references, so that no
//! credential is ever replicated; every other option is taken as it is written.
//!
//! INVARIANT: neither a resolved value nor a value that should have been a reference appears in any message or log.

use std::{fs::File, io::Read};

use greylag_actors::edge::port::{Options, SECRET_OPTIONS, Secrets};
use greylag_protocol::{ErrorCode, MeshError, Result, state::SourceSpec};

/// Largest file that a reference may name, bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// References resolved against this process's environment and file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeSecrets;

impl Secrets for NodeSecrets {
    fn resolve(&self, reference: &str) -> Result<String> {
        match Reference::parse(reference)? {
            Reference::Env(name) => std::env::var(name).map_err(|error| {
                let what = match error {
                    std::env::VarError::NotPresent => "is not set",
                    std::env::VarError::NotUnicode(_) => "is not valid UTF-8",
                };
                invalid(format!("environment variable `{name}` {what} on this node"))
            }),
            Reference::File(path) => read_secret(path),
        }
    }
}

/// A reference, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reference<'a> {
    Env(&'a str),
    File(&'a str),
}

impl<'a> Reference<'a> {
    /// GL6002 for anything else; the message does not repeat it.
    fn parse(text: &'a str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("env:") {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !name.is_empty() && plain && !name.starts_with(|c: char| c.is_ascii_digit()) {
                return Ok(Self::Env(name));
            }
        }
        if let Some(path) = text.strip_prefix("file:")
            && path.starts_with('/')
        {
            return Ok(Self::File(path));
        }
        Err(invalid("a credential must be a reference, `env:NAME` or `file:/path`, not the value itself"))
    }
}

fn read_secret(path: &str) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| invalid(format!("credential file `{path}` cannot be read: {}", error.kind())))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(invalid(format!("credential file `{path}` is larger than {SECRET_BYTES_MAX} bytes")));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn invalid(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::InvalidResource, message)
}

/// Refuses (GL6002) a source that holds a credential in plain.
pub(crate) fn check_references(spec: &SourceSpec) -> Result<()> {
    for key in SECRET_OPTIONS {
        if let Some(value) = spec.options.get(key) {
            Reference::parse(value).map_err(|error| about(spec, key, error))?;
        }
    }
    Ok(())
}

/// The source's options with the credentials put in.
pub(crate) fn resolve_options(spec: &SourceSpec, secrets: &dyn Secrets) -> Result<Options> {
    let mut options = spec.options.clone();
    for key in SECRET_OPTIONS {
        if let Some(value) = options.get_mut(key) {
            // Checked here too: another resolver must not be able to let a plain value through.
            Reference::parse(value).map_err(|error| about(spec, key, error))?;
            *value = secrets.resolve(value).map_err(|error| about(spec, key, error))?;
        }
    }
    Ok(options)
}

fn about(spec: &SourceSpec, key: &str, error: MeshError) -> MeshError {
    MeshError::new(error.code, format!("option `{key}`: {}", error.message)).of_source(spec.name.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use greylag_protocol::SourceName;

    use super::*;

    fn spec(key: &str, value: &str) -> SourceSpec {
        SourceSpec {
            name: SourceName::new("shop").unwrap(),
            kind: "postgres".into(),
            options: [(key.to_owned(), value.to_owned())].into(),
            labels: Default::default(),
            replicas: 1,
        }
    }

    #[test]
    fn plain_values_are_refused_for_every_secret_option_and_never_repeated() {
        for key in SECRET_OPTIONS {
            for value in ["hunter2", "", "postgres://u:hunter2@h/db", "env:", "env:A B", "env:1X", "file:relative"] {
                let spec = spec(key, value);
                for error in [check_references(&spec).unwrap_err(), resolve_options(&spec, &NodeSecrets).unwrap_err()] {
                    assert_eq!(error.code, ErrorCode::InvalidResource);
                    assert!(error.message.contains(key) && !error.message.contains("hunter2"), "{error}");
                }
            }
        }
    }

    #[test]
    fn an_option_that_is_no_credential_is_left_alone() {
        let spec = spec("path", "file:/etc/hostname");
        check_references(&spec).unwrap();
        assert_eq!(resolve_options(&spec, &NodeSecrets).unwrap()["path"], "file:/etc/hostname");
    }

    #[test]
    fn an_environment_variable_is_read_and_a_missing_one_is_named() {
        let path = std::env::var("PATH").unwrap();
        assert_eq!(NodeSecrets.resolve("env:PATH").unwrap(), path);
        let error = NodeSecrets.resolve("env:GREYLAG_NO_SUCH_VARIABLE").unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert!(error.message.contains("GREYLAG_NO_SUCH_VARIABLE"), "{error}");
    }

    #[test]
    fn a_file_is_read_without_its_line_break_and_never_beyond_its_bound() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let reference = format!("file:{}", file.path().display());
        file.write_all(b" s3cret \r\n").unwrap();
        assert_eq!(resolve_options(&spec("password", &reference), &NodeSecrets).unwrap()["password"], " s3cret ");
        file.write_all(&vec![b'x'; SECRET_BYTES_MAX as usize]).unwrap();
        let error = NodeSecrets.resolve(&reference).unwrap_err();
        assert!(error.message.contains("larger than"), "{error}");
        assert!(NodeSecrets.resolve("file:/no/such/file").unwrap_err().message.contains("/no/such/file"));
    }
}
