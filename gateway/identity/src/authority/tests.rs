//! What is signed, and what isn't.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_500_000);

fn authority(byte: u8) -> Authority {
    Authority::new(VaultId::from_bytes([byte; 16]), &[byte; 32]).expect("made")
}

fn empty() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn csr(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).expect("a request").pem().expect("PEM")
}

#[test]
fn an_authority_follows_from_its_secret_alone() {
    let (one, again, other) = (authority(1), authority(1), authority(2));
    assert_eq!((one.pem(), one.fingerprint()), (again.pem(), again.fingerprint()));
    assert_ne!(one.fingerprint(), other.fingerprint());
    assert!(!format!("{one:?}").contains("01, 01"));
}

#[test]
fn a_certificate_says_who_when_and_nothing_that_was_asked_for() {
    let authority = authority(1);
    for key in [KeyPair::generate().expect("a key"), KeyPair::generate_for(&PKCS_ED25519).expect("a key")] {
        let request = Request::read(&csr(&empty(), &key)).expect("sound");
        let issued = authority.sign(&request, "agt-7", NOW).expect("signed");
        let peer = &issued.peer;
        assert_eq!(peer.name.to_string(), format!("lifeboat://{}/agent/agt-7", authority.vault()));
        assert_eq!(peer.public_key, request.public_key());
        assert_eq!(peer.not_before, Timestamp::from_micros((1_800_000_000 - 300) * 1_000_000));
        assert_eq!(peer.not_after, Timestamp::from_micros((1_800_000_000 + 86_400) * 1_000_000));
        assert_eq!(Peer::of(&der(&issued.pem).expect("PEM")).as_ref(), Ok(peer));
        let again = authority.sign(&request, "agt-7", NOW).expect("signed");
        assert_ne!(again.peer.serial, peer.serial);
        assert_eq!(peer.serial.len(), 32);
    }
}

#[test]
fn a_request_that_asks_for_more_is_refused() {
    let key = KeyPair::generate().expect("a key");
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = empty();
        change(&mut params);
        Request::read(&csr(&params, &key)).expect_err("refused")
    };
    let name = RequestError::Presumes("a name");
    assert_eq!(with(&|params| params.distinguished_name.push(DnType::CommonName, "agt-1")), name);
    let uri = "lifeboat://vlt-01/agent/agt-1".try_into().expect("ASCII");
    assert_eq!(with(&|params| params.subject_alt_names = vec![SanType::URI(Clone::clone(&uri))]), name);
    assert_eq!(
        with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        RequestError::Presumes("the rights of an authority")
    );
    let uses = RequestError::Presumes("uses of its key");
    assert_eq!(with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), uses);
    assert_eq!(with(&|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), uses);
    let strong = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    assert_eq!(Request::read(&csr(&empty(), &strong)).expect_err("refused"), RequestError::Algorithm);
}

#[test]
fn a_request_is_signed_by_who_has_the_key() {
    let key = KeyPair::generate().expect("a key");
    let sound = empty().serialize_request(&key).expect("a request").der().to_vec();
    let read = |der: &[u8]| {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        Request::read(&format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"))
    };
    let public_key = read(&sound).expect("sound").public_key();
    // Every byte, one at a time: a bad signature, no request at all, or (in the wrapping of the signature) the same request.
    let mut bad_signatures = 0;
    for index in 0..sound.len() {
        let mut changed = sound.clone();
        changed[index] ^= 1;
        match read(&changed) {
            Err(RequestError::Signature) => bad_signatures += 1,
            Err(_) => {}
            Ok(same) => assert_eq!(same.public_key(), public_key, "byte {index}"),
        }
    }
    assert!(bad_signatures > 64, "the key and the signature at least: {bad_signatures}");
    for wrong in ["", "-----BEGIN CERTIFICATE REQUEST-----", authority(1).pem(), &"x".repeat(9000)] {
        assert!(matches!(Request::read(wrong), Err(RequestError::Unreadable(_))), "{wrong:.40}");
    }
}
