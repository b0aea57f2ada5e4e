#![allow(clippy::unwrap_used)]

//! Keys that are taken and keys that are not.

use greylag_protocol::principal::PrincipalKind;

use super::*;

const NOW: u64 = 1_000_000;

fn new() -> NewKey {
    let principal = Principal {
        id: "etl".into(),
        kind: PrincipalKind::Service,
        roles: vec!["loader".into()],
        attributes: BTreeMap::new(),
    };
    NewKey { principal, scopes: vec![Scope::Query, Scope::Describe], networks: vec![], expires_unix_ms: None }
}

fn minted(new: NewKey, random: u8) -> (BTreeMap<String, ApiKey>, String) {
    let (key, plain) = mint(new, &[random; RANDOM_BYTES], NOW).unwrap();
    assert!(!format!("{key:?}{plain:?}").contains(plain.reveal().rsplit('_').next().unwrap()));
    (BTreeMap::from([(key.id.clone(), key)]), plain.reveal().to_owned())
}

fn here() -> IpAddr {
    "10.0.0.7".parse().unwrap()
}

#[test]
fn a_key_names_its_principal_with_its_scopes() {
    let (keys, text) = minted(new(), 0xab);
    assert_eq!(text, format!("glk_{}_{}", "ab".repeat(8), "ab".repeat(32)));
    let principal = check(&keys, &text, here(), NOW).unwrap();
    assert_eq!((principal.id.as_str(), principal.roles.as_slice()), ("etl", &["loader".to_owned()][..]));
    assert_eq!(principal.attribute("credential"), Some("key:abababababababab"));
    assert!(require(&principal, Scope::Query).is_ok());
    assert_eq!(require(&principal, Scope::Manage).unwrap_err().code, ErrorCode::ScopeMissing);
}

#[test]
fn any_letter_changed_is_refused() {
    let (keys, text) = minted(new(), 0x3c);
    for at in 0..text.len() {
        for letter in [b'0', b'd', b'C', b'_'] {
            let mut bytes = text.clone().into_bytes();
            if bytes[at] == letter {
                continue;
            }
            bytes[at] = letter;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(check(&keys, &changed, here(), NOW).unwrap_err().code, ErrorCode::Unauthenticated, "{changed}");
        }
    }
    for odd in ["", "glk_", "glk__", &text[..text.len() - 1], &format!("{text}0"), &text.to_uppercase()] {
        assert!(check(&keys, odd, here(), NOW).is_err(), "{odd}");
    }
}

#[test]
fn unknown_and_wrong_are_refused_in_the_same_words() {
    let (keys, text) = minted(new(), 1);
    let wrong = text.replace("_0101010101010101_01", "_0101010101010101_02");
    let unknown = text.replace("_0101010101010101_", "_0101010101010102_");
    assert_ne!(wrong, text);
    assert_eq!(check(&keys, &wrong, here(), NOW), check(&keys, &unknown, here(), NOW));
    // An id whose hash would be all zeros is not made up for a key that is not there.
    assert!(check(&BTreeMap::new(), &text, here(), NOW).is_err());
}

#[test]
fn expiry_revocation_and_network_hold() {
    let mut limited = new();
    limited.expires_unix_ms = Some(NOW + 100);
    limited.networks = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let (mut keys, text) = minted(limited, 2);
    let code =
        |keys: &_, from: &str, now| check(keys, &text, from.parse().unwrap(), now).map(|_| ()).map_err(|e| e.code);
    assert_eq!(code(&keys, "10.0.0.9", NOW + 99), Ok(()));
    assert_eq!(code(&keys, "::ffff:10.0.0.9", NOW), Ok(()));
    assert_eq!(code(&keys, "2001:db8::9", NOW), Ok(()));
    assert_eq!(code(&keys, "10.0.1.9", NOW), Err(ErrorCode::AddressRefused));
    assert_eq!(code(&keys, "10.0.0.9", NOW + 100), Err(ErrorCode::TokenExpired));
    keys.values_mut().for_each(|key| key.revoked_unix_ms = Some(NOW));
    assert_eq!(code(&keys, "10.0.0.9", NOW), Err(ErrorCode::Unauthenticated));
}

#[test]
fn keys_that_could_never_be_used_are_not_made() {
    let cases: [fn(&mut NewKey); 4] = [
        |key| key.principal.id.clear(),
        |key| key.scopes.clear(),
        |key| key.expires_unix_ms = Some(NOW),
        |key| key.networks = vec!["10.0.0.1".parse().unwrap(); NETWORKS_MAX + 1],
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let mut key = new();
        change(&mut key);
        assert!(mint(key, &[0; RANDOM_BYTES], NOW).is_err(), "{number}");
    }
}

#[test]
fn uses_are_reported_once_an_hour() {
    let mut uses = KeyUses::default();
    uses.note("a", USE_REPORT_MS);
    assert_eq!(uses.due(USE_REPORT_MS), [("a".to_owned(), USE_REPORT_MS)]);
    uses.note("a", USE_REPORT_MS + 1);
    assert!(uses.due(USE_REPORT_MS + 2).is_empty());
    assert_eq!(uses.due(2 * USE_REPORT_MS), [("a".to_owned(), USE_REPORT_MS + 1)]);
    assert!(uses.due(4 * USE_REPORT_MS).is_empty());
    assert!(uses.seen.is_empty(), "a key that rests is forgotten");
    (0..USES_MAX + 5).for_each(|i| uses.note(&i.to_string(), 1));
    assert_eq!(uses.seen.len(), USES_MAX);
}
