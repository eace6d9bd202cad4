//! Bytes that are committed: what every version wrote, and what this one must write.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::ambient::Clock;
use crate::kms::{Kms, KmsContext, KmsError, KmsKey};

/// What the first releases wrote, with the same inputs but for the order of the random bytes: read for ever.
#[tokio::test]
async fn documents_of_version_1_are_read_and_written_as_version_2() {
    let (volume, group) = (VolumeId::from_bytes(*b"golden volume id"), GroupId::from_bytes(*b"golden group id."));
    let store = memory().await;
    for (file, object) in golden_objects(volume, group) {
        store.create(&object, std::fs::read(vectors(1).join(file)).unwrap().into()).await.unwrap();
    }
    let vault = open(&store).await.unwrap();
    assert_eq!((vault.info().master, vault.info().revision, vault.info().keys.len()), (1, 1, 1));
    // The bytes that counting from 0 gives, after the keys of the vault, its slot and the volume's.
    let keys = vault.volume_keys(volume).await.unwrap();
    assert_eq!(keys.key_id, 1);
    let (data, hash) = (keys.keys.data.expose(), keys.keys.hash.expose());
    assert!(data.windows(2).chain(hash.windows(2)).all(|pair| pair[1] == pair[0].wrapping_add(1)), "in another order");
    assert_eq!(hash[0], data[31].wrapping_add(1), "version 1 has the data key first");
    let group_key = vault.existing_group_key(group).await.unwrap();
    let document = vault.catalog().get("volume", &volume.to_string()).await.unwrap();
    assert_eq!((document.name.as_str(), document.generation), ("db", 1));

    // A change writes version 2, and the old slot still opens it.
    let info = vault.update_settings(VaultSettings::new("renamed")).await.unwrap();
    assert_eq!(vault.rotate_volume_key(volume, 1).await.unwrap(), 2);
    let again = open(&store).await.unwrap();
    assert_eq!((again.info(), again.info().name.as_str()), (info, "renamed"));
    assert_eq!(again.data_key(volume, 1).await.unwrap().expose(), data);
    let newest = again.volume_keys(volume).await.unwrap();
    assert_eq!((newest.key_id, newest.keys.hash.expose()), (2, hash));
    assert_ne!(newest.keys.data.expose(), data);
    assert_eq!(again.existing_group_key(group).await.unwrap().expose(), group_key.expose());
}

fn vectors(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("vectors/v{version}"))
}

fn golden_options() -> VaultOptions {
    VaultOptions {
        clock: Clock::new(|| Timestamp::from_micros(1_763_600_000_123_456)),
        entropy: counting_entropy(),
        ..VaultOptions::for_tests()
    }
}

fn golden_objects(volume: VolumeId, group: GroupId) -> [(&'static str, String); 4] {
    [
        ("vault.json", object_key(1)),
        ("key-volume.json", format!("keys/{volume}/00000001")),
        ("key-group.json", format!("keys/{group}/00000001")),
        ("catalog.json", format!("catalog/volume/{volume}/000000000001.json")),
    ]
}

/// The same for the audit log: what one chain says of another included.
#[tokio::test]
async fn golden_audit_log() {
    let store = memory().await;
    let settings = VaultSettings::new("golden");
    let vault = Vault::create(Arc::clone(&store), settings, &key(), golden_options()).await.unwrap();
    let records = |n: u32| vec![serde_json::json!({"kind": "asked", "n": n})];
    vault.audit().append("golden", records(1)).await.unwrap();
    vault.audit().note_others("other").await.unwrap();
    vault.audit().append("other", records(2)).await.unwrap();
    vault.audit().append("golden", records(3)).await.unwrap();
    compare(&store, &golden_audit()).await;

    let all: Vec<_> = [("vault.json", object_key(1))].into_iter().chain(golden_audit()).collect();
    let opened = open(&copy_of(&all).await).await.unwrap();
    let report = opened.audit().verify(&[]).await.unwrap();
    assert_eq!((report.findings.len(), report.chains.len()), (0, 2), "{report:?}");
    assert_eq!(opened.audit().read("golden", 2).await.unwrap().records, records(3));
}

fn golden_audit() -> [(&'static str, String); 3] {
    [
        ("audit-first.json", "audit/golden/000000000001.json".to_owned()),
        ("audit-other.json", "audit/other/000000000001.json".to_owned()),
        ("audit-next.json", "audit/golden/000000000002.json".to_owned()),
    ]
}

/// Bytes that a fixed clock, a fixed source of randomness and a fixed passphrase give. A change of any of them is a
/// change of the format: bump [`FORMAT_VERSION`], keep these files, add new ones. `LIFEBOAT_BLESS=1` writes them.
#[tokio::test]
async fn golden_documents() {
    let store = memory().await;
    let settings = VaultSettings::new("golden");
    let vault = Vault::create(Arc::clone(&store), settings, &key(), golden_options()).await.unwrap();
    let volume = VolumeId::from_bytes(*b"golden volume id");
    let group = GroupId::from_bytes(*b"golden group id.");
    let volume_keys = vault.create_volume_keys(volume).await.unwrap();
    let group_key = vault.group_key(group).await.unwrap();
    let spec = serde_json::json!({"name": "db", "size_gib": 8});
    let status = serde_json::json!({"lag_ms": 1.5, "state": "active"});
    vault.catalog().create("volume", &volume.to_string(), "db", spec, status).await.unwrap();
    let first = golden_objects(volume, group);
    compare(&store, &first).await;

    // The golden bytes are readable, with the keys that they were made with.
    let opened = open(&copy_of(&first).await).await.unwrap();
    assert!(same_volume_keys(&opened.volume_keys(volume).await.unwrap(), &volume_keys));
    assert_eq!(opened.existing_group_key(group).await.unwrap().expose(), group_key.expose());
    let document = opened.catalog().get("volume", &volume.to_string()).await.unwrap();
    assert_eq!((document.name.as_str(), document.generation), ("db", 1));

    // And what comes later: another data key, an erasure, another slot, another master key.
    let erased = VolumeId::from_bytes(*b"erased volume id");
    vault.create_volume_keys(erased).await.unwrap();
    vault.erase_volume(erased, "golden").await.unwrap();
    vault.rotate_volume_key(volume, 1).await.unwrap();
    let kms = KeySource::Kms(KmsKey::new("xor", Arc::new(XorKms), Duration::from_secs(5)));
    vault.add_key(&kms).await.unwrap();
    vault.rotate_master(1, std::slice::from_ref(&kms), false).await.unwrap();
    let later = [
        ("vault-kms.json", object_key(2)),
        ("vault-rewrapping.json", object_key(3)),
        ("vault-rotated.json", object_key(4)),
        ("key-volume-rotated.json", format!("keys/{volume}/00000003")),
        ("key-group-rotated.json", format!("keys/{group}/00000002")),
        ("key-erased-rotated.json", format!("keys/{erased}/00000003")),
        ("catalog-resealed.json", format!("catalog/volume/{volume}/000000000002.json")),
    ];
    compare(&store, &later).await;
    let copy = copy_of(&later).await;
    for source in [key(), kms] {
        let opened = Vault::open(Arc::clone(&copy), &source, VaultOptions::for_tests()).await.unwrap();
        assert_eq!((opened.info().master, opened.info().rewrapping), (2, false));
        let newest = opened.volume_keys(volume).await.unwrap();
        assert_eq!((newest.key_id, newest.keys.hash.expose()), (2, volume_keys.keys.hash.expose()));
        assert_eq!(opened.data_key(volume, 1).await.unwrap().expose(), volume_keys.keys.data.expose());
        assert_eq!(opened.existing_group_key(group).await.unwrap().expose(), group_key.expose());
        assert_eq!(opened.volume_keys(erased).await.unwrap_err().kind(), VaultErrorKind::Erased);
        assert_eq!(opened.catalog().get("volume", &volume.to_string()).await.unwrap().revision, 2);
    }
}

async fn compare(store: &Arc<dyn Store>, objects: &[(&str, String)]) {
    for (file, object) in objects {
        let bytes = store.get(object, 1 << 20).await.unwrap();
        let path = vectors(FORMAT_VERSION).join(file);
        if std::env::var_os("LIFEBOAT_BLESS").is_some() {
            std::fs::create_dir_all(vectors(FORMAT_VERSION)).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&golden),
            "the bytes of {file} changed: bump the format version"
        );
    }
}

async fn copy_of(objects: &[(&str, String)]) -> Arc<dyn Store> {
    let copy = memory().await;
    for (file, object) in objects {
        copy.create(object, std::fs::read(vectors(FORMAT_VERSION).join(file)).unwrap().into()).await.unwrap();
    }
    copy
}

/// A service whose bytes are the same in every run.
struct XorKms;

#[async_trait]
impl Kms for XorKms {
    async fn wrap(&self, context: KmsContext, secret: &[u8; 32]) -> Result<Vec<u8>, KmsError> {
        Ok(secret.iter().map(|byte| byte ^ 0x5a ^ u8::try_from(context.slot).unwrap()).collect())
    }

    async fn unwrap(&self, context: KmsContext, wrapped: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, KmsError> {
        Ok(wrapped.iter().map(|byte| byte ^ 0x5a ^ u8::try_from(context.slot).unwrap()).collect::<Vec<_>>().into())
    }
}

/// 0, 1, 2 … 255, 0 …
fn counting_entropy() -> Entropy {
    let next = Mutex::new(0_u8);
    Entropy::new(move |bytes| {
        let mut next = next.lock().unwrap();
        for byte in bytes {
            *byte = *next;
            *next = next.wrapping_add(1);
        }
        Ok(())
    })
}
