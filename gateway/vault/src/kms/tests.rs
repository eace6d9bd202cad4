//! A real program asked for keys: what it gives, refuses, and gets wrong.

use std::path::Path;
use std::time::Instant;

use lifeboat_model::VaultId;

use super::*;
use crate::secret::Secret;
use crate::store::{Access, open_store};
use crate::{KeySource, Vault, VaultOptions, VaultSettings};

const CONTEXT: KmsContext = KmsContext { vault: VaultId::from_bytes([7; 16]), slot: 3 };

fn name(key: &str) -> String {
    format!("command:{}/testing/kms.sh?key={key}&timeout_seconds=20", env!("CARGO_MANIFEST_DIR"))
}

fn key(name_of_key: &str) -> KmsKey {
    KmsKey::parse(&name(name_of_key)).unwrap()
}

fn service(home: &tempfile::TempDir, which: &str) -> KmsKey {
    let path = home.path().join(which);
    std::fs::create_dir_all(&path).unwrap();
    key(path.to_str().unwrap())
}

#[tokio::test]
async fn a_program_wraps_and_unwraps_in_its_context() {
    let home = tempfile::tempdir().unwrap();
    let (key, other) = (service(&home, "a"), service(&home, "b"));
    let secret = Secret::new([42; 32]);
    let wrapped = key.wrap(CONTEXT, &secret).await.unwrap();
    assert_eq!(key.unwrap(CONTEXT, &wrapped).await.unwrap(), secret);
    let elsewhere = KmsContext { vault: VaultId::from_bytes([8; 16]), ..CONTEXT };
    for (key, context) in [(&key, KmsContext { slot: 4, ..CONTEXT }), (&key, elsewhere), (&other, CONTEXT)] {
        let error = key.unwrap(context, &wrapped).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::WrongKey, "{error}");
    }
    assert!(format!("{key:?}").contains("kms.sh"));
}

#[tokio::test]
async fn exit_codes_say_what_can_be_done() {
    for (key_name, kind, says) in [
        ("exit:10", VaultErrorKind::Retry, "as it was told"),
        ("exit:11", VaultErrorKind::WrongKey, "as it was told"),
        ("exit:12", VaultErrorKind::InvalidInput, "as it was told"),
        ("exit:1", VaultErrorKind::WrongKey, "exit code 1"),
        ("killed", VaultErrorKind::Retry, "killed by a signal"),
        ("garbage", VaultErrorKind::WrongKey, "not the JSON object"),
        ("flood", VaultErrorKind::WrongKey, "longer than 64 KiB"),
        ("short", VaultErrorKind::InvalidInput, "3 bytes instead of 32"),
        ("echo", VaultErrorKind::InvalidInput, "holds the secret in clear"),
        ("/nowhere", VaultErrorKind::InvalidInput, "no key /nowhere"),
    ] {
        let error = key(key_name).wrap(CONTEXT, &Secret::new([42; 32])).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{key_name}: {error}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("kms.sh"), "{key_name}: {text}");
        assert!(!text.contains("KioqKio") && !text.contains("secret words"), "{text}");
    }
    for path in ["/no/such/program", "/etc/hostname"] {
        let absent = KmsKey::parse(&format!("command:{path}")).unwrap();
        let error = absent.unwrap(CONTEXT, &[1]).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{error}");
    }
}

#[tokio::test]
async fn a_program_that_does_not_answer_is_given_up() {
    let text = name("sleep").replace("timeout_seconds=20", "timeout_seconds=1");
    let begun = Instant::now();
    let error = KmsKey::parse(&text).unwrap().unwrap(CONTEXT, &[1]).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Retry, "{error}");
    assert!(error.to_string().contains("no answer within 1 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn names_are_checked_before_anything_runs() {
    for good in ["command:/bin/x", "command:/bin/x?key=alias", "command:/a b?key=a=b&timeout_seconds=300"] {
        assert_eq!(KmsKey::parse(good).unwrap().name(), good);
    }
    let long = format!("command:/{}", "x".repeat(1100));
    for bad in [
        "",
        "aws-kms://x",
        "command:",
        "command:relative/path",
        "command:/dir/",
        "command:/x?timeout_seconds=0",
        "command:/x?timeout_seconds=301",
        "command:/x?timeout_seconds=soon",
        "command:/x?shell=yes",
        "command:/x\n?key=a",
        &long,
    ] {
        let error = KmsKey::parse(bad).unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{bad}");
        assert!(error.to_string().contains("command:/absolute/path"), "{error}");
    }
}

/// A vault whose only key is the service's: made, opened elsewhere, given another master key, taken from another vault.
#[tokio::test]
async fn a_vault_is_kept_by_a_service_alone() {
    let home = tempfile::tempdir().unwrap();
    let source = KeySource::Kms(service(&home, "a"));
    let store = open_store("memory:", Access::Create).await.unwrap();
    let options = VaultOptions::for_tests;
    let vault = Vault::create(Arc::clone(&store), VaultSettings::new("v"), &source, options()).await.unwrap();
    assert_eq!(vault.info().keys[0].source, "kms");
    let opened = Vault::open(Arc::clone(&store), &source, options()).await.unwrap();
    assert_eq!(opened.info(), vault.info());
    opened.rotate_master(1, &[], false).await.unwrap();
    vault.refresh().await.unwrap();
    assert_eq!(vault.info().master, 2);

    let passphrase = KeySource::Passphrase("correct horse battery".to_owned().into());
    vault.add_key(&passphrase).await.unwrap();
    let other = KeySource::Kms(service(&home, "b"));
    let error = Vault::open(Arc::clone(&store), &other, options()).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::WrongKey, "{error}");
    assert!(vault.slots_of(&other).await.unwrap().is_empty());
    vault.add_key(&other).await.unwrap();
    assert_eq!(vault.slots_of(&other).await.unwrap(), [4]);
    for source in [&source, &other, &passphrase] {
        Vault::open(Arc::clone(&store), source, options()).await.unwrap();
    }
    let away = KeySource::Kms(key("exit:10"));
    let error = Vault::open(Arc::clone(&store), &away, options()).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Retry, "{error}");
}

/// The test's program is a program: everybody may run it.
#[test]
fn the_program_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testing/kms.sh");
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o111, 0o111);
}
