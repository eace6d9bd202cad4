//! Vaults made, opened, refused, tampered with, raced for and broken off at every request.

use std::path::PathBuf;

use bytes::Bytes;
use secrecy::SecretString;

use super::*;
mod golden;
mod rotation;
mod volumes;

use crate::faulty::{Effect, FaultyStore, OpKind, Rule};
use crate::store::{Access, open_store};

async fn memory() -> Arc<dyn Store> {
    open_store("memory:", Access::Create).await.unwrap()
}

fn key() -> KeySource {
    passphrase("correct horse battery")
}

fn passphrase(text: &str) -> KeySource {
    KeySource::Passphrase(SecretString::from(text))
}

async fn make(store: &Arc<dyn Store>) -> Vault {
    try_make(store, "main").await.unwrap()
}

async fn try_make(store: &Arc<dyn Store>, name: &str) -> Result<Vault, VaultError> {
    Vault::create(Arc::clone(store), VaultSettings::new(name), &key(), VaultOptions::for_tests()).await
}

async fn open(store: &Arc<dyn Store>) -> Result<Vault, VaultError> {
    Vault::open(Arc::clone(store), &key(), VaultOptions::for_tests()).await
}

/// Replaces an object behind everybody's back.
async fn replace(store: &Arc<dyn Store>, key: &str, bytes: impl Into<Bytes>) {
    store.delete(key).await.unwrap();
    store.create(key, bytes.into()).await.unwrap();
}

fn same_volume_keys(a: &VolumeKeys, b: &VolumeKeys) -> bool {
    a.key_id == b.key_id && a.keys.data.expose() == b.keys.data.expose() && a.keys.hash.expose() == b.keys.hash.expose()
}

#[tokio::test]
async fn a_vault_is_made_and_opened_from_its_objects_alone() {
    let home = tempfile::tempdir().unwrap();
    let url = format!("file://{}/v", home.path().display());
    let directory = open_store(&url, Access::Create).await.unwrap();
    for store in [memory().await, directory] {
        let vault = make(&store).await;
        let (volume, group) = (VolumeId::new(), GroupId::new());
        let volume_keys = vault.create_volume_keys(volume).await.unwrap();
        let group_key = vault.group_key(group).await.unwrap();
        assert_ne!(volume_keys.keys.data.expose(), volume_keys.keys.hash.expose());

        let again = open(&store).await.unwrap();
        assert_eq!(again.info(), vault.info());
        assert_eq!(again.info().name, "main");
        assert_eq!((again.info().revision, again.info().soft_delete_days), (1, 14));
        assert_eq!(Vault::inspect(&*store).await.unwrap(), vault.info());
        assert!(same_volume_keys(&again.volume_keys(volume).await.unwrap(), &volume_keys));
        assert_eq!(again.existing_group_key(group).await.unwrap().expose(), group_key.expose());
        let objects: Vec<_> = store.list("").await.unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(objects.len(), 3, "{objects:?}");
    }
}

#[tokio::test]
async fn opening_writes_nothing_and_costs_three_requests() {
    let store = memory().await;
    make(&store).await;
    let counted = FaultyStore::new(store);
    let store: Arc<dyn Store> = Arc::clone(&counted) as _;
    let vault = open(&store).await.unwrap();
    let counts = counted.counts();
    assert_eq!((counts.list, counts.get, counts.get_range, counts.total()), (1, 1, 1, 3));

    let volume = VolumeId::new();
    vault.create_volume_keys(volume).await.unwrap();
    vault.group_key(GroupId::new()).await.unwrap();
    counted.reset_counts();
    vault.create_volume_keys(volume).await.unwrap();
    vault.volume_keys(volume).await.unwrap();
    assert_eq!(counted.counts().total(), 0, "keys are cached");
}

#[tokio::test]
async fn a_wrong_key_is_called_that() {
    let store = memory().await;
    let id = make(&store).await.id();
    let home = tempfile::tempdir().unwrap();
    let path = key_file(&home);
    for wrong in [passphrase("correct horse bakery"), passphrase(""), KeySource::KeyFile(path)] {
        let error = Vault::open(Arc::clone(&store), &wrong, VaultOptions::for_tests()).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::WrongKey, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&id.to_string()) && text.contains("\"main\"") && text.contains("give the right one"),
            "{text}"
        );
        assert!(!text.contains("bakery"));
    }
}

fn key_file(home: &tempfile::TempDir) -> PathBuf {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = home.path().join("key");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(&[42; 64]).unwrap();
    path
}

#[tokio::test]
async fn several_keys_open_one_vault() {
    let store = memory().await;
    let vault = make(&store).await;
    let home = tempfile::tempdir().unwrap();
    let file = KeySource::KeyFile(key_file(&home));
    vault.add_key(&file).await.unwrap();
    let info = vault.add_key(&passphrase("another passphrase")).await.unwrap();
    assert_eq!(info.revision, 3);
    let sources: Vec<_> = info.keys.iter().map(|slot| (slot.slot, slot.source.as_str())).collect();
    assert_eq!(sources, [(1, "passphrase"), (2, "key-file"), (3, "passphrase")]);
    for source in [key(), file, passphrase("another passphrase")] {
        let opened = Vault::open(Arc::clone(&store), &source, VaultOptions::for_tests()).await.unwrap();
        assert_eq!(opened.info(), info);
    }
    let error = vault.add_key(&passphrase("short")).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput);
    assert_eq!(vault.add_key(&key()).await.unwrap().revision, 3, "it opens the vault already");
    for number in 3..SLOTS_MAX {
        vault.add_key(&passphrase(&format!("passphrase {number}"))).await.unwrap();
    }
    let error = vault.add_key(&passphrase("one too many")).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput);
    open(&store).await.unwrap();
}

#[tokio::test]
async fn settings_of_two_gateways_go_on_top_of_each_other() {
    let store = memory().await;
    let here = make(&store).await;
    let there = open(&store).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = KeySource::KeyFile(key_file(&home));
    there.add_key(&file).await.unwrap();
    let settings = VaultSettings { name: "renamed".into(), soft_delete_days: 30 };
    let info = here.update_settings(settings).await.unwrap();
    assert_eq!((info.revision, info.keys.len(), info.name.as_str()), (3, 2, "renamed"));
    assert_eq!(there.refresh().await.unwrap(), info);

    let changes = (0..8).map(|number| {
        let vault = if number % 2 == 0 { here.clone() } else { there.clone() };
        async move { vault.update_settings(VaultSettings::new(format!("name {number}"))).await }
    });
    for result in futures::future::join_all(changes).await {
        result.unwrap();
    }
    assert_eq!(here.refresh().await.unwrap().revision, 11);

    // A vault that goes back in time behind us is refused.
    store.delete(&object_key(11)).await.unwrap();
    assert_eq!(here.refresh().await.unwrap_err().kind(), VaultErrorKind::Tampered);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_while_others_change_is_not_told_that_it_went_back() {
    let home = tempfile::tempdir().unwrap();
    let store = open_store(&format!("file://{}", home.path().display()), Access::Create).await.unwrap();
    let vault = make(&store).await;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (vault, done) = (vault.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut last = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let revision = vault.refresh().await?.revision;
                    assert!(revision >= last, "{revision} after {last}");
                    last = revision;
                }
                Ok::<_, VaultError>(())
            })
        })
        .collect();
    for number in 0..60 {
        vault.update_settings(VaultSettings::new(format!("name {number}"))).await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn names_are_checked() {
    for name in ["", "  ", "a\nb", &"x".repeat(256)] {
        let error = try_make(&memory().await, name).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{name:?}");
    }
    let short = passphrase("1234567");
    let made = Vault::create(memory().await, VaultSettings::new("n"), &short, VaultOptions::for_tests()).await;
    assert_eq!(made.unwrap_err().kind(), VaultErrorKind::InvalidInput);
}

#[tokio::test]
async fn nothing_there_is_not_found_and_something_there_is_left_alone() {
    let store = memory().await;
    let error = open(&store).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::NotFound);
    assert!(error.to_string().contains("there is no vault at memory:"), "{error}");

    let vault = make(&store).await;
    let before = store.list("").await.unwrap();
    let error = try_make(&store, "other").await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::AlreadyExists);
    assert!(error.to_string().contains(&vault.id().to_string()), "{error}");
    assert_eq!(store.list("").await.unwrap(), before);

    // The remains of a vault whose document is gone are not built over.
    vault.group_key(GroupId::new()).await.unwrap();
    store.delete(&object_key(1)).await.unwrap();
    let error = try_make(&store, "other").await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput);
    assert!(error.to_string().contains("restore vault/"), "{error}");
}

#[tokio::test]
async fn of_two_that_make_a_vault_at_once_one_wins() {
    for _ in 0..10 {
        let store = memory().await;
        let (a, b) = futures::join!(try_make(&store, "a"), try_make(&store, "b"));
        let (winner, loser) = match a {
            Ok(a) => (a, b),
            a => (b.unwrap(), a),
        };
        assert_eq!(loser.unwrap_err().kind(), VaultErrorKind::AlreadyExists);
        assert_eq!(open(&store).await.unwrap().id(), winner.id());
    }
}

#[tokio::test]
async fn an_unsafe_backend_gets_no_vault() {
    let store = FaultyStore::new(memory().await);
    store.inject(Rule::new(Effect::Overwrite).on(OpKind::Create));
    let made = try_make(&(Arc::clone(&store) as _), "n").await;
    assert_eq!(made.unwrap_err().kind(), VaultErrorKind::Unsafe);
    assert!(store.inner().list("").await.unwrap().is_empty());

    let inner = memory().await;
    make(&inner).await;
    let store = FaultyStore::new(inner);
    store.inject(Rule::new(Effect::Corrupt).on(OpKind::GetRange));
    let error = open(&(Arc::clone(&store) as _)).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Unsafe, "{error}");
    let honest = open(store.inner()).await.unwrap();
    honest.probe().await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_as_newer() {
    let store = memory().await;
    make(&store).await;
    let newer = r#"{"format_version":3,"shape":["nobody","knows","yet"]}"#;
    store.create(&object_key(2), Bytes::from_static(newer.as_bytes())).await.unwrap();
    let before = store.list("").await.unwrap();
    for error in [
        open(&store).await.unwrap_err(),
        Vault::inspect(&*store).await.unwrap_err(),
        try_make(&store, "n").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), VaultErrorKind::NewerFormat, "{error}");
        assert!(error.to_string().contains("install a newer Lifeboat"), "{error}");
    }
    assert_eq!(store.list("").await.unwrap(), before);
}

/// Every byte of every document of the vault that counts, flipped in its lowest and its sixth bit: refused, and named. The
/// vault has been through everything that leaves its own kind of document.
#[tokio::test]
async fn every_flipped_byte_is_detected() {
    let store = memory().await;
    let vault = make(&store).await;
    let home = tempfile::tempdir().unwrap();
    let file = KeySource::KeyFile(key_file(&home));
    let (volume, group, erased) = (VolumeId::new(), GroupId::new(), VolumeId::new());
    vault.create_volume_keys(volume).await.unwrap();
    vault.create_volume_keys(erased).await.unwrap();
    vault.group_key(group).await.unwrap();
    vault.add_key(&file).await.unwrap();
    vault.rotate_master(1, &[file], false).await.unwrap();
    vault.rotate_volume_key(volume, 1).await.unwrap();
    vault.erase_volume(erased, "ann").await.unwrap();
    vault.catalog().create("volume", "a", "a", serde_json::json!({"n": 1}), serde_json::json!({})).await.unwrap();

    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    for object in store.list("").await.unwrap() {
        newest.insert(object.key.rsplit_once('/').unwrap().0.to_owned(), object.key);
    }
    assert_eq!(newest.len(), 5, "{newest:?}");
    let read = async || {
        let vault = open(&store).await?;
        vault.volume_keys(volume).await?;
        vault.existing_group_key(group).await?;
        assert!(vault.erasure(erased).await?.is_some());
        vault.catalog().list("volume").await.map(drop)
    };
    for key in newest.into_values() {
        let original = store.get(&key, 1 << 20).await.unwrap();
        for index in 0..original.len() {
            for bit in [0x01, 0x20] {
                let mut changed = original.to_vec();
                changed[index] ^= bit;
                replace(&store, &key, changed).await;
                let error = read().await.expect_err("a flipped byte must be detected");
                // A flipped digit of the version is a newer version. Nothing is mistaken for a wrong key.
                let kind = matches!(error.kind(), VaultErrorKind::Tampered | VaultErrorKind::NewerFormat);
                assert!(kind && error.to_string().contains(&key), "{key} byte {index}: {error}");
            }
        }
        for len in [0, 1, original.len() / 2, original.len() - 1] {
            replace(&store, &key, original.slice(..len)).await;
            assert_eq!(read().await.unwrap_err().kind(), VaultErrorKind::Tampered, "{key} cut to {len}");
        }
        replace(&store, &key, original).await;
    }
    read().await.unwrap();
}

/// Somebody who edits on purpose and makes the sum fit: the check of a slot, the MAC, or both stand in the way.
#[tokio::test]
async fn a_document_whose_sum_was_made_to_fit_is_no_better() {
    let store = memory().await;
    let vault = make(&store).await;
    let object = object_key(1);
    let original = store.get(&object, 1 << 20).await.unwrap();
    let text = String::from_utf8(original.to_vec()).unwrap();
    let other = Master::new(vault.id().to_bytes(), 1, Secret::default());
    for (from, to) in [
        ("\"name\":\"main\"", "\"name\":\"mine\""),
        ("\"soft_delete_days\":14", "\"soft_delete_days\":0"),
        ("\"rewrapping\":false", "\"rewrapping\":true"),
        ("\"slots_made\":1", "\"slots_made\":9"),
    ] {
        assert!(text.contains(from), "{from}");
        // What seals it is a key of theirs; the sum is right.
        let raw = serde_json::value::RawValue::from_string(in_order(&text).replace(from, to)).unwrap();
        let forged = other.seal(LABEL_MAC, &object, &raw, DOCUMENT_BYTES_MAX).unwrap();
        replace(&store, &object, forged).await;
        let error = open(&store).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::Tampered, "{from}: {error}");
    }
}

/// The content of an envelope, as it stands there.
fn in_order(text: &str) -> String {
    let at = text.find("\"content\":").unwrap() + "\"content\":".len();
    text[at..text.len() - 1].to_owned()
}

#[tokio::test]
async fn keys_do_not_open_in_another_place() {
    let store = memory().await;
    let vault = make(&store).await;
    let (a, b) = (VolumeId::new(), VolumeId::new());
    vault.create_volume_keys(a).await.unwrap();
    vault.create_volume_keys(b).await.unwrap();
    let copy = store.get(&format!("keys/{a}/00000001"), 4096).await.unwrap();
    replace(&store, &format!("keys/{b}/00000001"), copy.clone()).await;
    store.create(&format!("keys/{a}/00000002"), copy).await.unwrap();
    let opened = open(&store).await.unwrap();
    for volume in [a, b] {
        let error = opened.volume_keys(volume).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::Tampered, "{error}");
        assert!(error.to_string().contains(&volume.to_string()), "{error}");
        let error = opened.create_volume_keys(volume).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::Tampered, "a damaged key is never replaced");
    }
    // A vault document of another vault, opened by the same passphrase, has another master key.
    let other = memory().await;
    make(&other).await;
    replace(&store, &object_key(1), other.get(&object_key(1), 1 << 20).await.unwrap()).await;
    let swapped = open(&store).await.unwrap();
    assert_eq!(swapped.volume_keys(a).await.unwrap_err().kind(), VaultErrorKind::Tampered);
}

#[tokio::test]
async fn keys_are_made_once_whoever_asks() {
    let store = memory().await;
    let here = make(&store).await;
    let there = open(&store).await.unwrap();
    for _ in 0..10 {
        let (volume, group) = (VolumeId::new(), GroupId::new());
        let missing = there.volume_keys(volume).await.unwrap_err();
        assert_eq!(missing.kind(), VaultErrorKind::NotFound, "{missing}");
        assert_eq!(there.existing_group_key(group).await.unwrap_err().kind(), VaultErrorKind::NotFound);
        let (a, b) = futures::join!(here.create_volume_keys(volume), there.create_volume_keys(volume));
        assert!(same_volume_keys(&a.unwrap(), &b.unwrap()));
        let (a, b) = futures::join!(here.group_key(group), there.group_key(group));
        assert_eq!(a.unwrap().expose(), b.unwrap().expose());
    }
    let group = GroupId::new();
    here.group_key(group).await.unwrap();
    here.destroy_group_key(group).await.unwrap();
    assert_eq!(here.existing_group_key(group).await.unwrap_err().kind(), VaultErrorKind::NotFound);
}

/// Each request of a first day fails in each way, once; going on afterwards always ends with one good vault.
#[tokio::test]
async fn a_first_day_survives_every_fault_at_every_request() {
    let effects = [
        Effect::FailBefore,
        Effect::FailAfter,
        Effect::TimeoutBefore,
        Effect::TimeoutAfter,
        Effect::Throttle,
        Effect::Forbidden,
        Effect::Missing,
        Effect::Truncate,
        Effect::Corrupt,
        Effect::StaleList(1),
    ];
    let (volume, group) = (VolumeId::new(), GroupId::new());
    for effect in effects {
        for number in 1.. {
            let store = FaultyStore::new(memory().await);
            store.inject(Rule::new(effect).at_request(number));
            let shared: Arc<dyn Store> = Arc::clone(&store) as _;
            let first = async {
                let vault = try_make(&shared, "main").await?;
                let keys = vault.create_volume_keys(volume).await?;
                Ok::<_, VaultError>((vault.group_key(group).await?, keys))
            };
            let first = first.await;
            let reached = store.counts().total() >= number;
            store.clear();
            let vault = match open(&shared).await {
                Ok(vault) => vault,
                Err(error) => {
                    assert_eq!(error.kind(), VaultErrorKind::NotFound, "{effect:?} at {number}: {error}");
                    assert!(first.is_err());
                    make(&shared).await
                }
            };
            let keys = vault.create_volume_keys(volume).await.unwrap();
            let group_key = vault.group_key(group).await.unwrap();
            if let Ok((first_group, first_keys)) = first {
                assert!(same_volume_keys(&keys, &first_keys), "{effect:?} at {number}");
                assert_eq!(group_key.expose(), first_group.expose(), "{effect:?} at {number}");
            }
            assert_eq!(shared.list("vault").await.unwrap().len(), 1);
            assert_eq!(shared.list("keys").await.unwrap().len(), 2);
            if !reached {
                break;
            }
        }
    }
}

#[tokio::test]
async fn nothing_shows_a_key() {
    let store = memory().await;
    let vault = make(&store).await;
    let keys = vault.create_volume_keys(VolumeId::new()).await.unwrap();
    let shown = format!("{vault:?} {keys:?} {:?} {:?}", vault.catalog(), VaultOptions::for_tests());
    let hex: String = keys.keys.data.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!shown.contains(&hex) && !shown.contains(&format!("{:?}", keys.keys.data.expose())), "{shown}");
    assert!(shown.contains("DataKey(..)"), "{shown}");
    let secret = keys.keys.data.expose().to_vec();
    for object in store.list("").await.unwrap() {
        let bytes = store.get(&object.key, 1 << 20).await.unwrap();
        assert!(!bytes.windows(16).any(|window| secret.windows(16).any(|key| key == window)), "{}", object.key);
    }
}
