#![allow(clippy::unwrap_used)]

//! Certificates that name somebody and certificates that do not.

use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

use super::*;

const NOW_SECS: u64 = 1_700_000_000;

fn certificate(names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.not_before = date_time_ymd(2023, 1, 1);
    params.not_after = date_time_ymd(2024, 1, 1);
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn trust() -> CertificateTrust {
    let roles = [("clinic/service/etl".to_owned(), vec!["loader".to_owned()])].into();
    CertificateTrust { trust_domain: "mesh.example".into(), roles }
}

#[test]
fn the_uri_names_the_principal() {
    let der = certificate(&["spiffe://mesh.example/clinic/service/etl"]);
    let principal = principal_of(&der, &trust(), NOW_SECS).unwrap();
    assert_eq!((principal.id.as_str(), principal.kind), ("etl", PrincipalKind::Service));
    assert_eq!((principal.organisation(), principal.roles.as_slice()), (Some("clinic"), &["loader".to_owned()][..]));
    assert!(principal.attribute("credential").unwrap().starts_with("certificate:"));
    let agent = principal_of(&certificate(&["spiffe://mesh.example/clinic/agent/a.7"]), &trust(), NOW_SECS).unwrap();
    assert_eq!((agent.kind, agent.agent_id()), (PrincipalKind::Agent, Some("a.7")));
    assert!(agent.roles.is_empty());
}

#[test]
fn no_name_two_names_and_strange_names_name_nobody() {
    let name = "spiffe://mesh.example/clinic/person/ada";
    let cases: [&[&str]; 10] = [
        &[],
        &[name, "spiffe://mesh.example/clinic/person/bob"],
        &["spiffe://mesh.example.evil/clinic/person/ada"],
        &["spiffe://other/clinic/person/ada"],
        &["https://mesh.example/clinic/person/ada"],
        &["spiffe://mesh.example/clinic/god/ada"],
        &["spiffe://mesh.example/clinic/person/"],
        &["spiffe://mesh.example/clinic/person/ada/x"],
        &["spiffe://mesh.example/../person/ada"],
        &["spiffe://mesh.example/clinic/person/a%64a"],
    ];
    for names in cases {
        let error = principal_of(&certificate(names), &trust(), NOW_SECS).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unauthenticated, "{names:?}");
    }
    let der = certificate(&[name]);
    principal_of(&der, &trust(), NOW_SECS).unwrap();
    assert_eq!(principal_of(&der, &trust(), 1_704_100_000).unwrap_err().code, ErrorCode::TokenExpired);
    assert!(principal_of(&der, &trust(), 1_600_000_000).is_err());
    for cut in 0..der.len() {
        assert!(principal_of(&der[..cut], &trust(), NOW_SECS).is_err());
    }
    assert!(principal_of(&[der, vec![0]].concat(), &trust(), NOW_SECS).is_err());
}
