//! What the door gives to clients to bring back: tickets for a statement, handles of prepared statements, session
//! cookies. Each holds all that is needed, so the door keeps no state between calls, and each is sealed.
//!
//! INVARIANT: what `open` returns was sealed by the mesh, for this purpose and this principal, and has not expired.

use std::time::Duration;

use greylag_protocol::{ErrorCode, MeshError, Result, principal::Principal, statement::SessionOptions, wire};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest ticket, bytes, encoded: holds the statement and its parameters.
pub const TICKET_BYTES_MAX: usize = 6 << 20;

/// What a ticket is good for. One made for one purpose is refused for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Runs a statement, by `DoGet`.
    Statement,
    /// Stands for a prepared statement.
    Prepared,
    /// Stands for a statement in the background: its nonce is the job's id.
    Job,
    /// Carries session options, as a cookie.
    Session,
}

impl Purpose {
    /// How long a ticket for this is honoured.
    const fn ttl(self) -> Duration {
        Duration::from_secs(match self {
            Self::Statement => 15 * 60,
            Self::Prepared | Self::Job | Self::Session => 24 * 3600,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub purpose: Purpose,
    /// Tells one ticket from another, for cancelling.
    pub nonce: Uuid,
    /// Id of the principal that it was made for.
    pub principal: String,
    pub issued_unix_ms: u64,
    pub expires_unix_ms: u64,
    pub sql: String,
    pub options: SessionOptions,
    /// Schema of the result, as an IPC message; prepared statements and jobs only.
    pub schema: Vec<u8>,
    /// Values bound: a schema and a batch, as IPC messages.
    pub parameters: Option<(Vec<u8>, Vec<u8>)>,
}

/// Proves that a ticket is the mesh's own.
pub trait Sealer: Send + Sync + 'static {
    fn seal(&self, payload: &[u8]) -> Result<Vec<u8>>;
    fn is_genuine(&self, payload: &[u8], seal: &[u8]) -> bool;
}

/// HMAC-SHA256 with a key that lives as long as the process: tickets are honoured by the door that made them.
pub struct ProcessSealer {
    key: hmac::Key,
}

impl ProcessSealer {
    pub fn new() -> Result<Self> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| MeshError::internal("no random bytes for a ticket key"))?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }
}

impl Sealer for ProcessSealer {
    fn seal(&self, payload: &[u8]) -> Result<Vec<u8>> {
        Ok(hmac::sign(&self.key, payload).as_ref().to_vec())
    }

    fn is_genuine(&self, payload: &[u8], seal: &[u8]) -> bool {
        hmac::verify(&self.key, payload, seal).is_ok()
    }
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    payload: Vec<u8>,
    seal: Vec<u8>,
}

impl Ticket {
    pub fn new(purpose: Purpose, principal: &Principal, sql: &str, options: SessionOptions, now_unix_ms: u64) -> Self {
        let ttl = u64::try_from(purpose.ttl().as_millis()).unwrap_or(u64::MAX);
        Self {
            purpose,
            nonce: Uuid::new_v4(),
            principal: principal.id.clone(),
            issued_unix_ms: now_unix_ms,
            expires_unix_ms: now_unix_ms.saturating_add(ttl),
            sql: sql.to_owned(),
            options,
            schema: Vec::new(),
            parameters: None,
        }
    }

    /// GL4012 if statement and parameters are too long for a ticket.
    pub fn seal(&self, sealer: &dyn Sealer) -> Result<Vec<u8>> {
        let payload = wire::encode(self, TICKET_BYTES_MAX)?;
        let seal = sealer.seal(&payload)?;
        wire::encode(&Sealed { payload, seal }, TICKET_BYTES_MAX)
    }

    /// As `open_of_any_age`, and GL2002 for a ticket that has expired.
    pub fn open(
        sealer: &dyn Sealer,
        bytes: &[u8],
        purposes: &[Purpose],
        caller: &Principal,
        now_unix_ms: u64,
    ) -> Result<Self> {
        let ticket = Self::open_of_any_age(sealer, bytes, purposes, caller)?;
        if now_unix_ms > ticket.expires_unix_ms {
            return Err(MeshError::new(ErrorCode::TokenExpired, "the ticket has expired: ask for the statement again"));
        }
        Ok(ticket)
    }

    /// GL2001 for a ticket that was not sealed by the mesh, is for something else or for somebody else. For what
    /// is right however old the ticket is, such as cancelling what it has started.
    pub fn open_of_any_age(
        sealer: &dyn Sealer,
        bytes: &[u8],
        purposes: &[Purpose],
        caller: &Principal,
    ) -> Result<Self> {
        let sealed: Sealed = wire::decode(bytes, TICKET_BYTES_MAX).map_err(|_| refused("it cannot be read"))?;
        if !sealer.is_genuine(&sealed.payload, &sealed.seal) {
            return Err(refused("it was not made by this door"));
        }
        let ticket: Self =
            wire::decode(&sealed.payload, TICKET_BYTES_MAX).map_err(|_| refused("it is of another version"))?;
        if !purposes.contains(&ticket.purpose) {
            return Err(refused("it was made for something else"));
        }
        if ticket.principal != caller.id {
            return Err(refused("it was made for somebody else"));
        }
        Ok(ticket)
    }
}

fn refused(why: &str) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, format!("the ticket is refused: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use greylag_protocol::principal::PrincipalKind;

    use super::*;

    fn principal(id: &str) -> Principal {
        Principal { id: id.into(), kind: PrincipalKind::Person, roles: vec![], attributes: Default::default() }
    }

    fn code(result: Result<Ticket>) -> ErrorCode {
        result.unwrap_err().code
    }

    #[test]
    fn a_ticket_is_for_one_purpose_one_principal_and_a_time() {
        let sealer = ProcessSealer::new().unwrap();
        let ada = principal("ada");
        let ticket = Ticket::new(Purpose::Statement, &ada, "SELECT 1", SessionOptions::default(), 1000);
        let bytes = ticket.seal(&sealer).unwrap();
        let open = |purpose, who, now| Ticket::open(&sealer, &bytes, purpose, &principal(who), now);
        assert_eq!(open(&[Purpose::Statement], "ada", 1000), Ok(ticket.clone()));
        assert_eq!(open(&[Purpose::Statement], "ada", ticket.expires_unix_ms), Ok(ticket.clone()));
        assert_eq!(code(open(&[Purpose::Statement], "ada", ticket.expires_unix_ms + 1)), ErrorCode::TokenExpired);
        assert_eq!(code(open(&[Purpose::Statement], "bob", 1000)), ErrorCode::Unauthenticated);
        assert_eq!(code(open(&[Purpose::Prepared], "ada", 1000)), ErrorCode::Unauthenticated);
    }

    #[test]
    fn a_forged_ticket_is_refused() {
        let (ours, theirs) = (ProcessSealer::new().unwrap(), ProcessSealer::new().unwrap());
        let ada = principal("ada");
        let ticket = Ticket::new(Purpose::Statement, &ada, "SELECT 1", SessionOptions::default(), 0);
        let open = |bytes: &[u8]| Ticket::open(&ours, bytes, &[Purpose::Statement], &ada, 0);
        assert_eq!(code(open(&ticket.seal(&theirs).unwrap())), ErrorCode::Unauthenticated);
        let bytes = ticket.seal(&ours).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(code(open(&changed)), ErrorCode::Unauthenticated, "byte {at}");
            assert_eq!(code(open(&bytes[..at])), ErrorCode::Unauthenticated, "cut at {at}");
        }
        assert_eq!(open(&bytes), Ok(ticket));
    }

    #[test]
    fn a_statement_too_long_for_a_ticket_is_refused() {
        let sql = "x".repeat(TICKET_BYTES_MAX);
        let ticket = Ticket::new(Purpose::Statement, &principal("ada"), &sql, SessionOptions::default(), 0);
        assert_eq!(ticket.seal(&ProcessSealer::new().unwrap()).unwrap_err().code, ErrorCode::FrameTooLarge);
    }
}
