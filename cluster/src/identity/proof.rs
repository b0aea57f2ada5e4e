//! Proofs that both sides of a join connection know the token's secret, bound to that very TLS channel (RFC 9266's
//! idea): a man in the middle has two channels with two exporters, so he can pass on neither proof.

use greylag_protocol::{MeshError, Result, messages::join::JOIN_EXPORTER_LABEL};
use ring::hmac;

/// What TLS exports for one connection: the same on both of its ends and nowhere else.
pub(crate) struct Channel([u8; 32]);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Joiner,
    Seed,
}

impl Channel {
    pub(crate) fn of(connection: &quinn::Connection) -> Result<Self> {
        let mut exported = [0; 32];
        connection
            .export_keying_material(&mut exported, JOIN_EXPORTER_LABEL, b"")
            .map_err(|_| MeshError::internal("TLS exported no keying material"))?;
        Ok(Self(exported))
    }

    pub(crate) fn prove(&self, secret: &[u8], side: Side) -> [u8; 32] {
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&key(secret), &self.message(side)).as_ref());
        proof
    }

    /// In constant time.
    pub(crate) fn check(&self, secret: &[u8], side: Side, proof: &[u8; 32]) -> bool {
        hmac::verify(&key(secret), &self.message(side), proof).is_ok()
    }

    fn message(&self, side: Side) -> Vec<u8> {
        let name: &[u8] = match side {
            Side::Joiner => b"joiner",
            Side::Seed => b"seed",
        };
        [name, self.0.as_slice()].concat()
    }
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_secret_one_side_and_one_channel() {
        let (here, there) = (Channel([1; 32]), Channel([2; 32]));
        let proof = here.prove(b"secret", Side::Joiner);
        assert!(here.check(b"secret", Side::Joiner, &proof));
        assert!(!here.check(b"Secret", Side::Joiner, &proof));
        assert!(!here.check(b"secret", Side::Seed, &proof));
        assert!(!there.check(b"secret", Side::Joiner, &proof));
    }
}
