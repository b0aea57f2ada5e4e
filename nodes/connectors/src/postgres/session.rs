//! One authenticated, read-only session with a PostgreSQL server: start-up, settings, small catalog queries, cancelling.
//!
//! INVARIANT: a session runs with `default_transaction_read_only = on`, an empty search path, UTC, and literals as the
//! standard has them, whatever the account's own defaults are.

use bytes::BytesMut;
use greylag_protocol::{ErrorCode, MeshError, Result};
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::frontend,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    errors::{self, ServerError},
    target::Target,
    wire::{READY, Wire},
};

/// Rows of one catalog query; more are refused rather than kept in memory.
const CATALOG_ROWS_MAX: usize = 1_000_000;
/// What a server of version 14 or later is told, so that it notices within a second when nobody is there any more, and does
/// not go on computing for a node that died. Others refuse it.
const NOTICE_LOSS: &str = "SET client_connection_check_interval = '500ms'";
/// What every session sets. The last statement answers with the account's own time limit.
const SETUP: &str = "SET default_transaction_read_only = on; SET synchronize_seqscans = off; \
    SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
    SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET transform_null_equals = off; \
    SET search_path = pg_catalog; SHOW statement_timeout";

/// Of a session whose time limit has to be set before the next statement.
const TIMEOUT_UNKNOWN: u64 = u64::MAX;

/// Fields of a row as text, `None` for NULL.
pub(super) type TextRow = Vec<Option<String>>;

pub(super) struct Session {
    pub wire: Wire,
    /// Index into the target's endpoints, for cancelling.
    endpoint: usize,
    process_id: i32,
    secret_key: i32,
    /// The server's time limit now in force, milliseconds.
    pub timeout_ms: u64,
    /// The account's own limit, milliseconds; 0 if it has none.
    pub own_timeout_ms: u64,
    /// A transaction was begun and has not been ended.
    pub in_transaction: bool,
}

impl Session {
    /// The first endpoint that answers.
    pub(super) async fn connect(target: &Target) -> Result<Self> {
        let mut failure = None;
        for endpoint in 0..target.endpoint_count() {
            match Self::connect_to(target, endpoint).await {
                Ok(session) => return Ok(session),
                Err(error) => _ = failure.get_or_insert(error),
            }
        }
        Err(failure.unwrap_or_else(|| MeshError::internal("a PostgreSQL source has no endpoint")))
    }

    async fn connect_to(target: &Target, endpoint: usize) -> Result<Self> {
        let wire = Wire::new(target.dial(endpoint).await?);
        let mut session = Self {
            wire,
            endpoint,
            process_id: 0,
            secret_key: 0,
            timeout_ms: 0,
            own_timeout_ms: 0,
            in_transaction: false,
        };
        session.start_up(target).await?;
        let rows = session.text_rows(SETUP).await?;
        if let Err(error) = session.text_rows(NOTICE_LOSS).await {
            tracing::debug!(%error, "the server does not look for lost clients");
        }
        let own = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        session.own_timeout_ms = timeout_setting_ms(&own);
        session.timeout_ms = session.own_timeout_ms;
        Ok(session)
    }

    async fn start_up(&mut self, target: &Target) -> Result<()> {
        let parameters = [
            ("user", target.user.as_str()),
            ("database", target.database.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", "greylag"),
        ];
        frontend::startup_message(parameters, self.wire.outbox()).map_err(|error| errors::lost(&error))?;
        self.wire.flush().await?;
        self.authenticate(target).await?;
        loop {
            let frame = self.wire.next().await?;
            let body = self.wire.body(frame);
            match frame.tag {
                b'K' => {
                    let Ok([process_id, secret_key]) = <[[u8; 4]; 2]>::try_from(body.as_chunks().0) else {
                        return Err(errors::malformed("BackendKeyData"));
                    };
                    self.process_id = i32::from_be_bytes(process_id);
                    self.secret_key = i32::from_be_bytes(secret_key);
                }
                READY => return Ok(()),
                b'E' => return Err(ServerError::parse(body).to_mesh()),
                b'S' | b'N' | b'v' => {}
                _ => return Err(errors::malformed("a message during start-up")),
            }
        }
    }

    async fn authenticate(&mut self, target: &Target) -> Result<()> {
        let mut scram: Option<ScramSha256> = None;
        let mut server_proved = false;
        loop {
            let frame = self.wire.next().await?;
            let body = self.wire.body(frame);
            match frame.tag {
                b'R' => {}
                b'N' | b'v' => continue,
                b'E' => return Err(ServerError::parse(body).to_mesh()),
                _ => return Err(errors::malformed("a message during authentication")),
            }
            let Some((kind, data)) = body.split_first_chunk::<4>() else {
                return Err(errors::malformed("Authentication"));
            };
            let mut answer = BytesMut::new();
            match i32::from_be_bytes(*kind) {
                0 if scram.is_some() && !server_proved => return Err(refused("the server did not prove itself")),
                0 => return Ok(()),
                3 => frontend::password_message(password(target)?, &mut answer).map_err(|e| errors::lost(&e))?,
                5 => {
                    let salt = data.try_into().map_err(|_| errors::malformed("an MD5 salt"))?;
                    let hash = md5_hash(target.user.as_bytes(), password(target)?, salt);
                    frontend::password_message(hash.as_bytes(), &mut answer).map_err(|e| errors::lost(&e))?;
                }
                10 => {
                    if !data.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                        return Err(refused("the server wants a SASL mechanism that is not supported"));
                    }
                    let exchange = ScramSha256::new(password(target)?, ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut answer)
                        .map_err(|e| errors::lost(&e))?;
                    scram = Some(exchange);
                }
                11 => {
                    let exchange = scram.as_mut().ok_or_else(|| errors::malformed("SASL out of turn"))?;
                    exchange.update(data).map_err(|_| refused("the SCRAM exchange failed"))?;
                    frontend::sasl_response(exchange.message(), &mut answer).map_err(|e| errors::lost(&e))?;
                }
                12 => {
                    let exchange = scram.as_mut().ok_or_else(|| errors::malformed("SASL out of turn"))?;
                    exchange.finish(data).map_err(|_| refused("the server did not prove itself"))?;
                    server_proved = true;
                }
                _ => return Err(refused("the server wants a kind of authentication that is not supported")),
            }
            if !answer.is_empty() {
                self.wire.outbox().extend_from_slice(&answer);
                self.wire.flush().await?;
            }
        }
    }

    /// Runs statements of our own and returns the rows of the last one that has any.
    pub(super) async fn text_rows(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        self.wire.put_query(sql).map_err(|error| errors::lost(&error))?;
        self.wire.flush().await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let frame = self.wire.next().await?;
            let body = self.wire.body(frame);
            match frame.tag {
                b'T' => rows.clear(),
                b'D' if rows.len() >= CATALOG_ROWS_MAX => {
                    let message = format!("the catalog has more than {CATALOG_ROWS_MAX} entries; see option `schemas`");
                    failure.get_or_insert(MeshError::new(ErrorCode::SourceRefused, message));
                }
                b'D' => rows.push(text_row(body)?),
                b'E' => {
                    let error = ServerError::parse(body);
                    if error.fatal {
                        return Err(error.to_mesh());
                    }
                    failure.get_or_insert(error.to_mesh());
                }
                READY => return failure.map_or(Ok(rows), Err),
                b'C' | b'I' | b'N' | b'S' | b'A' => {}
                _ => return Err(errors::malformed("a message in answer to a query")),
            }
        }
    }

    /// Ends the transaction, whatever its state. What was set in it may be lost.
    pub(super) async fn end_transaction(&mut self) -> Result<()> {
        self.text_rows("ROLLBACK").await?;
        self.in_transaction = false;
        self.timeout_ms = TIMEOUT_UNKNOWN;
        Ok(())
    }

    /// What [`cancel`] needs to know.
    pub(super) fn key(&self) -> (usize, i32, i32) {
        (self.endpoint, self.process_id, self.secret_key)
    }
}

/// Asks the server, over a connection of its own, to stop what the session with this key runs. Returns when the server
/// has passed the request on: what it then still sends ends soon.
pub(super) async fn cancel(target: &Target, (endpoint, process_id, secret_key): (usize, i32, i32)) -> Result<()> {
    let mut stream = target.dial(endpoint).await?;
    let mut request = BytesMut::new();
    frontend::cancel_request(process_id, secret_key, &mut request);
    let sent = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        // The server closes this connection after it has sent the signal.
        stream.read(&mut [0]).await
    };
    match sent.await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(errors::lost(&error)),
    }
}

fn password(target: &Target) -> Result<&[u8]> {
    target.password.as_deref().ok_or_else(|| refused("the server wants a password and none is configured"))
}

fn refused(what: &str) -> MeshError {
    MeshError::new(ErrorCode::SourceRefused, what)
}

/// A `DataRow` in text format.
fn text_row(body: &[u8]) -> Result<TextRow> {
    let malformed = || errors::malformed("a row");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        rest = after;
        row.push(match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| malformed())?;
                let (field, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
                rest = after;
                Some(String::from_utf8(field.to_vec()).map_err(|_| errors::malformed("text that is not UTF-8"))?)
            }
        });
    }
    Ok(row)
}

/// A time as PostgreSQL shows it (`0`, `500ms`, `30s`, `5min`, `1h`, `1d`) in milliseconds; 0 for what is not one.
fn timeout_setting_ms(text: &str) -> u64 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().unwrap_or(0);
    let scale = match unit {
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 1,
    };
    number.saturating_mul(scale)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn time_settings_are_read_with_their_units() {
        for (text, ms) in [("0", 0), ("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("2h", 7_200_000), ("?", 0)] {
            assert_eq!(timeout_setting_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn text_rows_are_read_within_their_bounds() {
        assert_eq!(text_row(&[0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255]).unwrap(), [Some("x".into()), None]);
        for hostile in [&[0][..], &[0, 1, 0, 0, 0, 9, b'x'], &[0, 1, 0, 0, 0], &[255, 255], &[0, 1, 128, 0, 0, 0]] {
            assert!(text_row(hostile).is_err());
        }
    }
}
