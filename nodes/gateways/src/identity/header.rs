//! What an `authorization` header holds (RFC 7617 for `Basic`, RFC 6750 for `Bearer`).

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use greylag_protocol::{ErrorCode, MeshError, Result};

/// Clients differ on whether `Basic` credentials are padded.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The token or key in a header. The user name before a password says nothing. GL2001 if there is none.
pub(crate) fn secret(authorization: &str) -> Result<String> {
    let (scheme, rest) = authorization.split_once(' ').ok_or_else(|| unauthenticated("it names no scheme"))?;
    let rest = rest.trim();
    let secret = if scheme.eq_ignore_ascii_case("bearer") {
        rest.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = BASIC.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        pair.and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned())).unwrap_or_default()
    } else {
        return Err(unauthenticated("its scheme is neither `Bearer` nor `Basic`"));
    };
    if secret.is_empty() {
        return Err(unauthenticated("it holds no token or key; there are no other passwords here"));
    }
    Ok(secret)
}

fn unauthenticated(why: &str) -> MeshError {
    MeshError::new(ErrorCode::Unauthenticated, format!("the `authorization` of the call is refused: {why}"))
}
