//! Derivations, their bounds, and what must never be shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const CONTEXT: KmsContext = KmsContext { vault: lifeboat_model::VaultId::from_bytes([1; 16]), slot: 1 };
const STRENGTH: Kdf = Kdf::Argon2id(KdfStrength::WEAKEST);

fn passphrase(text: &str) -> KeySource {
    KeySource::Passphrase(SecretString::from(text))
}

fn key_file(home: &tempfile::TempDir, content: &[u8], mode: u32) -> KeySource {
    let path = home.path().join(format!("key-{}-{mode:o}", content.len()));
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    KeySource::KeyFile(path)
}

#[tokio::test]
async fn a_secret_depends_on_source_salt_and_strength() {
    let secret = slot_secret(&passphrase("correct horse"), &STRENGTH, [1; 32], CONTEXT).await.unwrap();
    assert_eq!(secret, slot_secret(&passphrase("correct horse"), &STRENGTH, [1; 32], CONTEXT).await.unwrap());
    assert_ne!(secret, slot_secret(&passphrase("correct horsf"), &STRENGTH, [1; 32], CONTEXT).await.unwrap());
    assert_ne!(secret, slot_secret(&passphrase("correct horse"), &STRENGTH, [2; 32], CONTEXT).await.unwrap());
    let stronger = Kdf::Argon2id(KdfStrength { iterations: 2, ..KdfStrength::WEAKEST });
    assert_ne!(secret, slot_secret(&passphrase("correct horse"), &stronger, [1; 32], CONTEXT).await.unwrap());
}

#[tokio::test]
async fn a_hostile_strength_is_refused_before_it_costs_anything() {
    for (memory_kib, iterations, lanes) in [
        (u32::MAX, 1, 1),
        (1_048_577, 1, 1),
        (64, 17, 1),
        (64, u32::MAX, 1),
        (1024, 1, 17),
        (7, 1, 1),
        (64, 0, 1),
        (64, 1, 0),
    ] {
        let kdf = Kdf::Argon2id(KdfStrength { memory_kib, iterations, lanes });
        let error = slot_secret(&passphrase("correct horse"), &kdf, [0; 32], CONTEXT).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{error}");
    }
    KdfStrength::default().params().unwrap();
}

#[tokio::test]
async fn key_files_are_checked() {
    let home = tempfile::tempdir().unwrap();
    let good = key_file(&home, &[7; 32], 0o600);
    let secret = slot_secret(&good, &Kdf::HkdfSha256 {}, [1; 32], CONTEXT).await.unwrap();
    assert_eq!(
        secret,
        slot_secret(&key_file(&home, &[7; 32], 0o400), &Kdf::HkdfSha256 {}, [1; 32], CONTEXT).await.unwrap()
    );
    assert_ne!(
        secret,
        slot_secret(&key_file(&home, &[7; 33], 0o600), &Kdf::HkdfSha256 {}, [1; 32], CONTEXT).await.unwrap()
    );
    slot_secret(&key_file(&home, &[7; 65_536], 0o600), &Kdf::HkdfSha256 {}, [1; 32], CONTEXT).await.unwrap();

    for (source, why) in [
        (key_file(&home, &[7; 31], 0o600), "31 bytes"),
        (key_file(&home, &[7; 65_537], 0o600), "65537 bytes"),
        (key_file(&home, &[7; 32], 0o640), "chmod 600"),
        (key_file(&home, &[7; 32], 0o604), "chmod 600"),
        (KeySource::KeyFile(home.path().to_owned()), "no regular file"),
    ] {
        let error = slot_secret(&source, &Kdf::HkdfSha256 {}, [1; 32], CONTEXT).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let absent = KeySource::KeyFile(home.path().join("absent"));
    let error = slot_secret(&absent, &Kdf::HkdfSha256 {}, [1; 32], CONTEXT).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::NotFound);
}

#[test]
fn wrapped_keys_open_with_the_same_key_nonce_and_position_only() {
    let key = derive(b"k", b"salt", &[b"a"]);
    let wrapped = wrap(&key, [1; 12], b"here", b"secret").unwrap();
    assert_eq!(unwrap(&key, [1; 12], b"here", &wrapped).unwrap().as_slice(), b"secret");
    assert!(unwrap(&derive(b"k", b"salt", &[b"b"]), [1; 12], b"here", &wrapped).is_none());
    assert!(unwrap(&key, [2; 12], b"here", &wrapped).is_none());
    assert!(unwrap(&key, [1; 12], b"there", &wrapped).is_none());
    for index in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[index] ^= 1;
        assert!(unwrap(&key, [1; 12], b"here", &changed).is_none());
    }
    assert!(unwrap(&key, [1; 12], b"here", &wrapped[..5]).is_none());
}

#[test]
fn nothing_shows_a_passphrase() {
    let shown = format!("{:?}", passphrase("correct horse"));
    assert_eq!(shown, "Passphrase(..)");
    let error = check_new_source(&passphrase("hunter2")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    check_new_source(&passphrase("hunter22")).unwrap();
}
