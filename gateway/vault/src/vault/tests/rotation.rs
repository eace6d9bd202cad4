//! Master keys: replaced, with other gateways at work, and broken off at every request.

use serde_json::json;

use super::*;

struct Content {
    volume: VolumeId,
    group: GroupId,
    volume_keys: VolumeKeys,
    group_key: GroupKey,
    authority: [u8; 32],
}

impl Content {
    async fn fill(vault: &Vault) -> Self {
        let (volume, group) = (VolumeId::new(), GroupId::new());
        let volume_keys = vault.create_volume_keys(volume).await.unwrap();
        let group_key = vault.group_key(group).await.unwrap();
        let authority = *vault.authority_secret().await.unwrap();
        vault.catalog().create("volume", "a", "a", json!({"n": 1}), json!({})).await.unwrap();
        vault.catalog().create("volume", "gone", "gone", json!({}), json!({})).await.unwrap();
        vault.catalog().delete("volume", "gone", None).await.unwrap();
        Self { volume, group, volume_keys, group_key, authority }
    }

    async fn check(&self, vault: &Vault) {
        assert!(same_volume_keys(&vault.volume_keys(self.volume).await.unwrap(), &self.volume_keys));
        assert_eq!(vault.existing_group_key(self.group).await.unwrap().expose(), self.group_key.expose());
        assert_eq!(*vault.existing_authority_secret().await.unwrap(), self.authority);
        assert_eq!(vault.catalog().get("volume", "a").await.unwrap().spec, json!({"n": 1}));
        assert_eq!(vault.catalog().list_deleted("volume").await.unwrap().len(), 1);
    }
}

async fn open_with(store: &Arc<dyn Store>, source: &KeySource) -> Result<Vault, VaultError> {
    Vault::open(Arc::clone(store), source, VaultOptions::for_tests()).await
}

/// Numbers of the master keys that anything but old revisions is sealed with.
async fn masters_in_use(store: &Arc<dyn Store>) -> Vec<u32> {
    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    for object in store.list("").await.unwrap() {
        let dir = object.key.rsplit_once('/').unwrap().0.to_owned();
        let latest = newest.entry(dir).or_default();
        *latest = latest.clone().max(object.key);
    }
    let mut found = Vec::new();
    for key in newest.into_values() {
        let bytes = store.get(&key, 1 << 20).await.unwrap();
        found.push(envelope::open(&bytes, &key).unwrap().master);
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[tokio::test]
async fn a_new_master_key_takes_everything_over() {
    let store = memory().await;
    let vault = make(&store).await;
    let content = Content::fill(&vault).await;
    let home = tempfile::tempdir().unwrap();
    let file = KeySource::KeyFile(key_file(&home));
    vault.add_key(&file).await.unwrap();
    let old_vault = store.get(&object_key(2), 1 << 20).await.unwrap();
    let old_key = store.get(&format!("keys/{}/00000001", content.volume), 1 << 20).await.unwrap();

    let error = vault.rotate_master(1, &[], false).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("slot 2 (key-file)"), "{error}");
    let error = vault.rotate_master(1, &[file.clone(), passphrase("a stranger's")], false).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{error}");
    assert_eq!((vault.info().master, vault.info().revision), (1, 2), "nothing was changed");

    let done = vault.rotate_master(1, std::slice::from_ref(&file), false).await.unwrap();
    assert_eq!((done.master, done.made, done.rewrapped, done.resealed, done.left_behind), (2, true, 3, 2, 0));
    assert!(done.dropped.is_empty());
    let info = vault.info();
    assert_eq!((info.master, info.rewrapping), (2, false));
    assert_eq!(info.keys.iter().map(|slot| slot.slot).collect::<Vec<_>>(), [3, 4], "numbers are never used twice");
    for source in [key(), file.clone()] {
        let opened = open_with(&store, &source).await.unwrap();
        assert_eq!(opened.info(), info);
        content.check(&opened).await;
    }
    content.check(&vault).await;
    assert_eq!(masters_in_use(&store).await, [2]);
    assert!(store.get(&format!("keys/{}/00000001", content.volume), 1 << 20).await.unwrap_err().is_not_found());

    // Asked again, it is done; a request from before changes nothing.
    let again = vault.rotate_master(1, std::slice::from_ref(&file), false).await.unwrap();
    assert_eq!((again.master, again.made), (2, false));
    assert_eq!(vault.info(), info);
    let error = vault.rotate_master(7, &[], true).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{error}");

    // What the old key vouched for: the document put back under its own name is an old revision, the key object is old.
    replace(&store, &object_key(4), old_vault).await;
    assert_eq!(open(&store).await.unwrap_err().kind(), VaultErrorKind::Tampered);
    assert_eq!(vault.refresh().await.unwrap_err().kind(), VaultErrorKind::Tampered);
    store.create(&format!("keys/{}/00000003", content.volume), old_key).await.unwrap();
    assert_eq!(vault.reload_volume_keys(content.volume).await.unwrap_err().kind(), VaultErrorKind::Tampered);
}

#[tokio::test]
async fn slots_whose_key_is_not_given_are_dropped_only_on_request() {
    let store = memory().await;
    let vault = make(&store).await;
    vault.add_key(&passphrase("known to somebody else")).await.unwrap();
    vault.add_key(&passphrase("written down somewhere")).await.unwrap();
    let done = vault.rotate_master(1, &[passphrase("written down somewhere")], true).await.unwrap();
    assert_eq!(done.dropped, [2]);
    for (text, opens) in
        [("correct horse battery", true), ("known to somebody else", false), ("written down somewhere", true)]
    {
        match open_with(&store, &passphrase(text)).await {
            Ok(_) => assert!(opens, "{text}"),
            Err(error) => {
                assert_eq!(error.kind(), VaultErrorKind::WrongKey);
                assert!(!opens, "{text}: {error}");
            }
        }
    }
}

/// Gateways that had the vault open go on: they read and write, and notice the new key when they meet it.
#[tokio::test]
async fn other_gateways_notice() {
    let store = memory().await;
    let here = make(&store).await;
    let content = Content::fill(&here).await;
    let there = open(&store).await.unwrap();
    let late = open(&store).await.unwrap();
    let stranger = passphrase("dropped on the way");
    here.add_key(&stranger).await.unwrap();
    let cut_off = open_with(&store, &stranger).await.unwrap();
    content.check(&cut_off).await;
    late.catalog().get("volume", "a").await.unwrap();
    here.rotate_master(1, &[], true).await.unwrap();

    content.check(&there).await;
    assert_eq!(there.info().master, 2, "reading a key wrapped under a newer master key led to it");
    let volume = VolumeId::new();
    let keys = there.create_volume_keys(volume).await.unwrap();
    assert!(same_volume_keys(&here.volume_keys(volume).await.unwrap(), &keys));

    // One that didn't notice yet writes under the old key: everybody can read that.
    let mut change = |_: &crate::catalog::Document| Some(json!({"seen": true}));
    let later = VolumeId::new();
    let late_keys = late.create_volume_keys(later).await.unwrap();
    assert_eq!(late.info().master, 1);
    assert!(same_volume_keys(&here.volume_keys(later).await.unwrap(), &late_keys));
    late.catalog().update_status("volume", "a", &mut change).await.unwrap();
    assert_eq!(here.catalog().get("volume", "a").await.unwrap().status, json!({"seen": true}));
    assert_eq!(there.refresh().await.unwrap(), here.refresh().await.unwrap());

    // One whose own key was dropped is told so, and isn't told that the vault is damaged.
    let error = cut_off.refresh().await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::WrongKey, "{error}");
    assert_eq!(cut_off.volume_keys(volume).await.unwrap_err().kind(), VaultErrorKind::WrongKey);
    content.check_keys(&cut_off).await;
    cut_off.use_key(&passphrase("still wrong")).await.unwrap_err();
    cut_off.use_key(&key()).await.unwrap_err();
}

impl Content {
    /// What is in memory stays there.
    async fn check_keys(&self, vault: &Vault) {
        assert!(same_volume_keys(&vault.volume_keys(self.volume).await.unwrap(), &self.volume_keys));
    }
}

#[tokio::test]
async fn the_next_rotation_drops_the_master_keys_before_the_last() {
    let store = memory().await;
    let vault = make(&store).await;
    let content = Content::fill(&vault).await;
    for from in 1..5 {
        let there = open(&store).await.unwrap();
        let (a, b) = futures::join!(vault.rotate_master(from, &[], false), there.rotate_master(from, &[], false));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.master, b.master), (from + 1, from + 1));
        assert_eq!(u32::from(a.made) + u32::from(b.made), 1, "one of them made it");
        vault.finish_rotation().await.unwrap();
        assert_eq!(masters_in_use(&store).await, [from + 1]);
        let opened = open(&store).await.unwrap();
        assert_eq!(opened.shared.content().previous.iter().map(|key| key.master).collect::<Vec<_>>(), [from]);
        content.check(&opened).await;
    }
    // What an older key than the last sealed is not believed any more, intact as it is.
    let old = store.get("catalog/volume/a/000000000001.json", 1 << 20).await.unwrap();
    assert_eq!(envelope::open(&old, "catalog/volume/a/000000000001.json").unwrap().master, 1);
    assert!(open(&store).await.unwrap().shared.masters.get(1).is_none());
}

/// Each request of a rotation fails in each way. At every moment the vault opens and everything in it is there; done
/// again, it completes.
#[tokio::test]
async fn a_rotation_survives_every_fault_at_every_request() {
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
    for effect in effects {
        for number in 1.. {
            let store = FaultyStore::new(memory().await);
            let shared: Arc<dyn Store> = Arc::clone(&store) as _;
            let vault = make(&shared).await;
            let content = Content::fill(&vault).await;
            let erased = VolumeId::new();
            vault.create_volume_keys(erased).await.unwrap();
            vault.erase_volume(erased, "ann").await.unwrap();
            store.reset_counts();
            store.inject(Rule::new(effect).at_request(number));
            let done = vault.rotate_master(1, &[], false).await;
            let reached = store.counts().total() >= number;
            store.clear();

            // Another gateway that opens it now, and the one that was at it.
            let between = open(&shared).await.unwrap_or_else(|error| panic!("{effect:?} at {number}: {error}"));
            content.check(&between).await;
            if let Ok(done) = &done {
                assert_eq!(done.master, 2);
            }
            let resumed = between.rotate_master(1, &[], false).await.unwrap();
            assert_eq!(resumed.master, 2, "{effect:?} at {number}");
            assert!(!between.info().rewrapping);
            // The storage let a fault say that it keeps an object: nothing but that may be left.
            let after = open(&shared).await.unwrap();
            content.check(&after).await;
            content.check(&vault).await;
            assert_eq!(after.volume_keys(erased).await.unwrap_err().kind(), VaultErrorKind::Erased);
            assert_eq!(masters_in_use(&shared).await, [2], "{effect:?} at {number}");
            if !reached {
                break;
            }
        }
    }
}

/// A key that is damaged is named and keeps nothing else from being done.
#[tokio::test]
async fn a_damaged_key_stops_the_end_of_a_rotation_and_not_the_rest() {
    let store = memory().await;
    let vault = make(&store).await;
    let content = Content::fill(&vault).await;
    let volume = VolumeId::new();
    vault.create_volume_keys(volume).await.unwrap();
    let damaged = format!("keys/{volume}/00000001");
    let intact = store.get(&damaged, 65_536).await.unwrap();
    replace(&store, &damaged, "rubbish").await;
    let error = vault.rotate_master(1, &[], false).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Tampered);
    assert!(error.to_string().contains(&damaged), "{error}");
    let opened = open(&store).await.unwrap();
    assert_eq!((opened.info().master, opened.info().rewrapping), (2, true));
    content.check(&opened).await;
    replace(&store, &damaged, intact).await;
    assert_eq!(opened.finish_rotation().await.unwrap().rewrapped, 1);
    assert!(!opened.info().rewrapping);
    assert_eq!(masters_in_use(&store).await, [2]);
}

#[tokio::test]
async fn slots_are_removed_but_never_the_last_nor_ones_own() {
    let store = memory().await;
    let vault = make(&store).await;
    let second = passphrase("the second one");
    assert_eq!(vault.remove_key(1).await.unwrap_err().kind(), VaultErrorKind::Conflict);
    vault.add_key(&second).await.unwrap();
    assert_eq!(vault.slots_of(&second).await.unwrap(), [2]);
    assert!(vault.slots_of(&passphrase("nobody's")).await.unwrap().is_empty());
    let error = vault.remove_key(1).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Conflict);
    assert!(error.to_string().contains("this gateway opens the vault with"), "{error}");
    assert_eq!(vault.remove_key(3).await.unwrap_err().kind(), VaultErrorKind::NotFound);
    assert_eq!(vault.remove_key(0).await.unwrap_err().kind(), VaultErrorKind::NotFound);
    vault.use_key(&second).await.unwrap();
    let info = vault.remove_key(1).await.unwrap();
    assert_eq!(info.keys.len(), 1);
    assert_eq!(vault.remove_key(1).await.unwrap(), info, "removing it again changes nothing");
    assert_eq!(open(&store).await.unwrap_err().kind(), VaultErrorKind::WrongKey);
    open_with(&store, &second).await.unwrap();
    assert_eq!(vault.add_key(&key()).await.unwrap().keys[1].slot, 3, "a number is never used twice");
    vault.remove_key(3).await.unwrap();
    assert_eq!(vault.add_key(&key()).await.unwrap().keys[1].slot, 4);
}

/// A slot made by a later release stands there unharmed, and is named when nothing else opens the vault.
#[tokio::test]
async fn a_slot_of_an_unknown_kind_is_left_alone() {
    let store = memory().await;
    let vault = make(&store).await;
    let strange = r#"{"slot":2,"source":"smart-card","created":"2026-01-01T00:00:00Z","reader":"left"}"#;
    vault
        .change(|content, _| {
            content.slots.push(serde_json::value::RawValue::from_string(strange.to_owned()).unwrap());
            content.slots_made = 2;
            Ok(true)
        })
        .await
        .unwrap();
    let opened = open(&store).await.unwrap();
    assert_eq!(opened.info().keys[1].source, "smart-card");
    opened.update_settings(VaultSettings::new("renamed")).await.unwrap();
    let bytes = store.get(&object_key(3), 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains(strange));
    let error = open_with(&store, &passphrase("not this one")).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::WrongKey);
    assert!(error.to_string().contains("this version of Lifeboat can't use smart-card"), "{error}");
    let error = opened.rotate_master(1, &[], false).await.unwrap_err();
    assert!(error.to_string().contains("slot 2 (smart-card)"), "{error}");
}
