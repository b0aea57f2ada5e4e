//! Settings of a call: the caller's session cookie first, then the call's own headers over it.
//!
//! Session options of Flight (`SetSessionOptions`) are kept by the client: the door answers with a cookie that holds
//! them, sealed. A call that carries no cookie has the defaults.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    prefix::Prefix,
    principal::{Principal, attribute},
    statement::{Delivery, SessionOptions},
};
use tonic::metadata::MetadataMap;

use super::{
    session_proto::{OptionFault, OptionValue},
    ticket::{Purpose, Sealer, Ticket},
};
use crate::identity::Authenticator;

/// Name of the session cookie.
pub const COOKIE: &str = "greylag_session";
/// Most rows of a batch that a client may ask for.
pub const BATCH_ROWS_MAX: u32 = 1 << 20;
/// Longest value of a header that becomes an attribute, bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;

/// Headers that set an option, with the option's name.
const OPTION_HEADERS: [(&str, &str); 4] = [
    ("greylag-delivery", "greylag.delivery"),
    ("greylag-timeout-ms", "greylag.timeout_ms"),
    ("greylag-batch-rows", "greylag.batch_rows"),
    ("greylag-resumable", "greylag.resumable"),
];
/// Header of a call that fetches a result: what the client has of it already, as the last message that it got said.
pub const RESUME_HEADER: &str = "greylag-resume";
/// Headers by which agents name themselves, with the attribute's name. They say no more than the caller claims:
/// where the credential names the same attribute, the credential's stands. Whose quota is spent, for whom an agent acts,
/// groups and scopes are in no header: only a credential can say them.
const ATTRIBUTE_HEADERS: [(&str, &str); 4] = [
    ("greylag-agent-id", attribute::AGENT_ID),
    ("greylag-framework", attribute::FRAMEWORK),
    ("greylag-request-id", attribute::REQUEST_ID),
    ("greylag-priority", attribute::PRIORITY),
];

/// Adds what the caller says about itself to what its credential says. How urgent it may say that it is, is not its own to
/// decide.
pub(super) fn claim_attributes(
    headers: &MetadataMap,
    principal: &mut Principal,
    authenticator: &Authenticator,
) -> Result<()> {
    for (header, name) in ATTRIBUTE_HEADERS {
        let Some(value) = header_text(headers, header)? else { continue };
        if value.len() > ATTRIBUTE_BYTES_MAX {
            return Err(invalid(format!("header `{header}` is over {ATTRIBUTE_BYTES_MAX} bytes long")));
        }
        if principal.attributes.contains_key(name) {
            continue;
        }
        let value = match name {
            attribute::PRIORITY => {
                let asked =
                    value.parse().map_err(|()| invalid(format!("header `{header}`: `{value}` is no priority")))?;
                authenticator.priority(principal, asked).as_str()
            }
            _ => value,
        };
        principal.attributes.insert(name.to_owned(), value.to_owned());
    }
    Ok(())
}

/// The options of a call by this principal.
pub(super) fn options_of(
    headers: &MetadataMap,
    principal: &Principal,
    sealer: &dyn Sealer,
    now_unix_ms: u64,
) -> Result<SessionOptions> {
    let mut options = match cookie(headers) {
        Some(sealed) => {
            let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| invalid("the session cookie cannot be read"))?;
            Ticket::open(sealer, &sealed, &[Purpose::Session], principal, now_unix_ms)?.options
        }
        None => SessionOptions::default(),
    };
    for (header, name) in OPTION_HEADERS {
        if let Some(value) = header_text(headers, header)? {
            set(&mut options, name, &OptionValue::Text(value.to_owned()))
                .map_err(|_| invalid(format!("header `{header}` has a value that makes no sense: `{value}`")))?;
        }
    }
    Ok(options)
}

/// What the caller has already of the result that it fetches.
pub(super) fn resume(headers: &MetadataMap) -> Result<Prefix> {
    match header_text(headers, RESUME_HEADER)? {
        Some(text) => text.parse().map_err(|_| invalid(format!("header `{RESUME_HEADER}` cannot be read"))),
        None => Ok(Prefix::default()),
    }
}

fn header_text<'a>(headers: &'a MetadataMap, name: &str) -> Result<Option<&'a str>> {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().map_err(|_| invalid(format!("header `{name}` is not plain text")))
}

fn invalid(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::InvalidResource, message)
}

fn cookie(headers: &MetadataMap) -> Option<&str> {
    let lines = headers.get_all("cookie").into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, value)| *name == COOKIE && !value.is_empty()).map(|(_, value)| value).next_back()
}

/// The `set-cookie` line that makes a client carry these options.
pub(super) fn cookie_line(
    options: SessionOptions,
    principal: &Principal,
    sealer: &dyn Sealer,
    now_unix_ms: u64,
) -> Result<String> {
    let sealed = Ticket::new(Purpose::Session, principal, "", options, now_unix_ms).seal(sealer)?;
    Ok(format!("{COOKIE}={}; HttpOnly; SameSite=Strict", URL_SAFE_NO_PAD.encode(sealed)))
}

/// The `set-cookie` line that makes a client forget its options.
pub(super) fn cookie_end() -> String {
    format!("{COOKIE}=; Max-Age=0; HttpOnly; SameSite=Strict")
}

/// Sets one option. An empty value or text means the default.
pub(super) fn set(options: &mut SessionOptions, name: &str, value: &OptionValue) -> Result<(), OptionFault> {
    let defaults = SessionOptions::default();
    match name {
        "greylag.delivery" => {
            options.delivery = match value {
                OptionValue::Unset => defaults.delivery,
                OptionValue::Text(text) if text == "streamed" => Delivery::Streamed,
                OptionValue::Text(text) if text == "spooled" => Delivery::Spooled,
                _ => return Err(OptionFault::Value),
            }
        }
        "greylag.timeout_ms" => {
            options.timeout = match number(value)? {
                None => defaults.timeout,
                Some(0) => return Err(OptionFault::Value),
                Some(millis) => Some(Duration::from_millis(millis)),
            }
        }
        "greylag.batch_rows" => {
            options.batch_rows = match number(value)?.map(u32::try_from) {
                None => defaults.batch_rows,
                Some(Ok(rows)) if (1..=BATCH_ROWS_MAX).contains(&rows) => rows,
                Some(_) => return Err(OptionFault::Value),
            }
        }
        "greylag.resumable" => {
            options.resumable = match value {
                OptionValue::Unset => defaults.resumable,
                OptionValue::Text(text) if text == "true" => true,
                OptionValue::Text(text) if text == "false" => false,
                _ => return Err(OptionFault::Value),
            }
        }
        _ => return Err(OptionFault::Name),
    }
    Ok(())
}

fn number(value: &OptionValue) -> Result<Option<u64>, OptionFault> {
    match value {
        OptionValue::Unset => Ok(None),
        OptionValue::Text(text) if text.is_empty() => Ok(None),
        OptionValue::Text(text) => text.parse().map(Some).map_err(|_| OptionFault::Value),
        OptionValue::Whole(whole) => u64::try_from(*whole).map(Some).map_err(|_| OptionFault::Value),
        OptionValue::Other => Err(OptionFault::Value),
    }
}

/// All options with their values.
pub(super) fn listed(options: &SessionOptions) -> BTreeMap<String, OptionValue> {
    let delivery = match options.delivery {
        Delivery::Streamed => "streamed",
        Delivery::Spooled => "spooled",
    };
    let timeout = options.timeout.map_or(OptionValue::Unset, |timeout| {
        OptionValue::Whole(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX))
    });
    [
        ("greylag.delivery".to_owned(), OptionValue::Text(delivery.to_owned())),
        ("greylag.timeout_ms".to_owned(), timeout),
        ("greylag.batch_rows".to_owned(), OptionValue::Whole(options.batch_rows.into())),
        ("greylag.resumable".to_owned(), OptionValue::Text(options.resumable.to_string())),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use greylag_protocol::principal::PrincipalKind;
    use tonic::metadata::MetadataValue;

    use super::*;
    use crate::{bearer::Verifier, flight::ticket::ProcessSealer, identity::AuthenticatorParts};

    fn ada() -> Principal {
        Principal { id: "ada".into(), kind: PrincipalKind::Person, roles: vec![], attributes: Default::default() }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut headers = MetadataMap::new();
        for (name, value) in pairs {
            headers.append(*name, MetadataValue::try_from(*value).unwrap());
        }
        headers
    }

    #[test]
    fn headers_stand_over_the_cookie_and_the_cookie_over_the_defaults() {
        let sealer = ProcessSealer::new().unwrap();
        let options = |pairs: &[(&'static str, &str)]| options_of(&headers(pairs), &ada(), &sealer, 5);
        assert_eq!(options(&[]), Ok(SessionOptions::default()));
        let kept =
            SessionOptions { delivery: Delivery::Spooled, batch_rows: 7, resumable: true, ..SessionOptions::default() };
        let line = cookie_line(kept.clone(), &ada(), &sealer, 5).unwrap();
        let cookie = line.split(';').next().unwrap();
        assert_eq!(options(&[("cookie", cookie)]), Ok(kept.clone()));
        let among = format!("other=1; {cookie}; more=2");
        let both = options(&[("cookie", &among), ("greylag-timeout-ms", "1500")]).unwrap();
        assert_eq!(both, SessionOptions { timeout: Some(Duration::from_millis(1500)), ..kept });
        assert_eq!(options(&[("cookie", "greylag_session=")]), Ok(SessionOptions::default()));
        for bad in ["greylag_session=@@", "greylag_session=AAAA"] {
            assert!(options(&[("cookie", bad)]).is_err(), "{bad}");
        }
        let stranger = Principal { id: "bob".into(), ..ada() };
        assert!(options_of(&headers(&[("cookie", cookie)]), &stranger, &sealer, 5).is_err());
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let sealer = ProcessSealer::new().unwrap();
        for (name, value) in [
            ("greylag-delivery", "fast"),
            ("greylag-timeout-ms", "-1"),
            ("greylag-timeout-ms", "0"),
            ("greylag-timeout-ms", "soon"),
            ("greylag-batch-rows", "0"),
            ("greylag-batch-rows", "1048577"),
            ("greylag-resumable", "perhaps"),
        ] {
            let error = options_of(&headers(&[(name, value)]), &ada(), &sealer, 5).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidResource, "{name}: {value}");
        }
        assert_eq!(set(&mut SessionOptions::default(), "catalog", &OptionValue::Unset), Err(OptionFault::Name));
        assert_eq!(
            set(&mut SessionOptions::default(), "greylag.timeout_ms", &OptionValue::Other),
            Err(OptionFault::Value)
        );
    }

    #[test]
    fn what_is_listed_can_be_set_again() {
        let options = SessionOptions {
            delivery: Delivery::Spooled,
            timeout: Some(Duration::from_millis(9)),
            batch_rows: 3,
            resumable: true,
            ..SessionOptions::default()
        };
        let mut again = SessionOptions::default();
        for (name, value) in listed(&options) {
            set(&mut again, &name, &value).unwrap();
        }
        assert_eq!(again, options);
    }

    #[test]
    fn a_claim_never_overrides_the_token() {
        let parts = AuthenticatorParts::new(Verifier::new(|| None));
        let (authenticator, mut principal) = (Authenticator::new(parts).unwrap(), ada());
        principal.attributes.insert("agent_id".into(), "from the token".into());
        let claims = headers(&[("greylag-agent-id", "forged"), ("greylag-framework", "crew")]);
        claim_attributes(&claims, &mut principal, &authenticator).unwrap();
        assert_eq!(principal.attributes["agent_id"], "from the token");
        assert_eq!(principal.attributes["framework"], "crew");
        let long = "x".repeat(ATTRIBUTE_BYTES_MAX + 1);
        assert!(claim_attributes(&headers(&[("greylag-request-id", &long)]), &mut principal, &authenticator).is_err());
    }
}
