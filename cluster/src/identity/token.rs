//! Join tokens as people pass them on: `gl1.<sha256 of the CA certificate, hex, or ->.<id>.<secret, hex>`.

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    messages::join::JoinToken,
    state::{AllowedRoles, Grant},
};
use ring::rand::{SecureRandom, SystemRandom};

use super::certificate::fingerprint;

const VERSION: &str = "gl1";
/// Bytes of a minted secret.
const SECRET_BYTES: usize = 16;
/// Shortest secret accepted, bytes: people may choose the formation token themselves.
const SECRET_BYTES_MIN: usize = 8;
const SECRET_BYTES_MAX: usize = 64;
const ID_BYTES_MAX: usize = 64;

/// Reads a token. GL6001 if it is none; the message never repeats it.
pub fn parse(token: &str) -> Result<JoinToken> {
    let mut parts = token.trim().split('.');
    let (Some(VERSION), Some(pin), Some(id), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid("it must have the form `gl1.<CA hash or ->.<id>.<secret>`"));
    };
    let ca_pin = match pin {
        "-" => None,
        pin => {
            let bytes = unhex(pin).and_then(|bytes| bytes.try_into().ok());
            Some(bytes.ok_or_else(|| invalid("its second part must be `-` or 64 hexadecimal digits"))?)
        }
    };
    let id_fits = (1..=ID_BYTES_MAX).contains(&id.len());
    if !id_fits || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(invalid("its third part must be 1-64 letters, digits, `-` or `_`"));
    }
    let secret = unhex(secret)
        .filter(|secret| (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()))
        .ok_or_else(|| invalid("its last part must be 16-128 hexadecimal digits, an even number of them"))?;
    Ok(JoinToken { ca_pin, id: id.to_owned(), secret })
}

/// The token as text. It holds the secret: for the person who asked for it, never for a log.
pub fn format(token: &JoinToken) -> String {
    let pin = token.ca_pin.map_or_else(|| "-".to_owned(), |pin| hex(&pin));
    format!("{VERSION}.{pin}.{}.{}", token.id, hex(&token.secret))
}

/// A new token for a mesh with this CA certificate, and the grant to put into the log for it.
pub fn mint(
    ca_certificate: &[u8],
    uses: u32,
    expires_unix_ms: u64,
    allowed: AllowedRoles,
) -> Result<(JoinToken, Grant)> {
    let mut token = mint_unpinned()?;
    token.ca_pin = Some(fingerprint(ca_certificate));
    let grant = Grant { id: token.id.clone(), secret: token.secret.clone(), uses_left: uses, expires_unix_ms, allowed };
    Ok((token, grant))
}

/// A new token for nodes that are to found a mesh together, before there is a CA to pin.
pub fn mint_unpinned() -> Result<JoinToken> {
    let mut id = [0; 8];
    let mut secret = vec![0; SECRET_BYTES];
    let random = SystemRandom::new();
    random
        .fill(&mut id)
        .and_then(|()| random.fill(&mut secret))
        .map_err(|_| MeshError::internal("the system gave no random bytes"))?;
    Ok(JoinToken { ca_pin: None, id: hex(&id), secret })
}

fn invalid(why: &str) -> MeshError {
    MeshError::new(ErrorCode::InvalidConfig, format!("`join_token` is not a join token: {why}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let unpinned = mint_unpinned().unwrap();
        assert_eq!(parse(&format(&unpinned)).unwrap(), unpinned);
        let (pinned, grant) = mint(b"certificate", 3, 99, None).unwrap();
        assert_eq!(pinned.ca_pin, Some(fingerprint(b"certificate")));
        assert_eq!((&grant.id, &grant.secret, grant.uses_left), (&pinned.id, &pinned.secret, 3));
        assert_eq!(parse(&format!(" {}\n", format(&pinned))).unwrap(), pinned);
    }

    #[test]
    fn what_is_no_token_is_refused_without_repeating_it() {
        let long = "ab".repeat(65);
        for bad in [
            "",
            "gl1",
            "gl1.-.id",
            "gl2.-.id.00112233445566778899",
            "gl1.-.id.00112233445566778899.more",
            "gl1.abcd.id.00112233445566778899",
            "gl1.-..00112233445566778899",
            "gl1.-.i d.00112233445566778899",
            "gl1.-.id.0011223344556677889",
            "gl1.-.id.s3cr3ts3cr3ts3cr3ts3cr3t",
            "gl1.-.id.00112233",
            &format!("gl1.-.id.{long}"),
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidConfig, "{bad}");
            assert!(!error.message.contains("s3cr3t") && !error.message.contains("0011"), "{error}");
        }
    }
}
