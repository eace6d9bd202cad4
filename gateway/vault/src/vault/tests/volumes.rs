//! Data keys of volumes: made, replaced, raced for, destroyed, and broken off at every request.

use super::*;

fn all_effects() -> [Effect; 10] {
    [
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
    ]
}

#[tokio::test]
async fn a_new_data_key_keeps_the_old_ones_and_the_hash_key() {
    let store = memory().await;
    let here = make(&store).await;
    let there = open(&store).await.unwrap();
    let volume = VolumeId::new();
    let first = here.create_volume_keys(volume).await.unwrap();
    assert_eq!(there.volume_keys(volume).await.unwrap().key_id, 1);

    assert_eq!(here.rotate_volume_key(volume, 1).await.unwrap(), 2);
    assert_eq!(here.rotate_volume_key(volume, 1).await.unwrap(), 2, "asked again, it is done");
    let second = here.volume_keys(volume).await.unwrap();
    assert_eq!(second.key_id, 2);
    assert_eq!(second.keys.hash.expose(), first.keys.hash.expose());
    assert_ne!(second.keys.data.expose(), first.keys.data.expose());

    // Another gateway finds the key that a segment names, and takes it for new segments once it is told.
    assert_eq!(there.data_key(volume, 2).await.unwrap().expose(), second.keys.data.expose());
    assert_eq!(there.rotate_volume_key(volume, 2).await.unwrap(), 3);
    assert_eq!(here.volume_keys(volume).await.unwrap().key_id, 2);
    assert_eq!(here.reload_volume_keys(volume).await.unwrap(), 3);
    assert_eq!(here.volume_keys(volume).await.unwrap().key_id, 3);
    for number in [1, 2, 3] {
        let mine = here.data_key(volume, number).await.unwrap();
        assert_eq!(mine.expose(), there.data_key(volume, number).await.unwrap().expose());
    }
    for number in [0, 4, u32::MAX] {
        let error = here.data_key(volume, number).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::Tampered, "{error}");
    }
    let error = here.rotate_volume_key(volume, 9).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn of_gateways_that_replace_a_data_key_at_once_one_does() {
    let store = memory().await;
    let here = make(&store).await;
    let volume = VolumeId::new();
    here.create_volume_keys(volume).await.unwrap();
    for from in 1..6 {
        let there = open(&store).await.unwrap();
        let (a, b) = futures::join!(here.rotate_volume_key(volume, from), there.rotate_volume_key(volume, from));
        assert_eq!((a.unwrap(), b.unwrap()), (from + 1, from + 1));
        let (a, b) = (here.volume_keys(volume).await.unwrap(), there.volume_keys(volume).await.unwrap());
        assert!(same_volume_keys(&a, &b));
    }
}

#[tokio::test]
async fn an_erased_volume_says_so_everywhere_and_for_ever() {
    let store = memory().await;
    let here = make(&store).await;
    let there = open(&store).await.unwrap();
    let (volume, other) = (VolumeId::new(), VolumeId::new());
    let error = here.erase_volume(volume, "nobody").await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::NotFound, "{error}");
    let before = here.create_volume_keys(volume).await.unwrap();
    here.rotate_volume_key(volume, 1).await.unwrap();
    let kept = here.create_volume_keys(other).await.unwrap();
    there.volume_keys(volume).await.unwrap();
    assert_eq!(here.erasure(volume).await.unwrap(), None);

    let erasure = here.erase_volume(volume, "ann on paper").await.unwrap();
    assert_eq!((erasure.by.as_str(), erasure.left_behind.len()), ("ann on paper", 0));
    let again = there.erase_volume(volume, "somebody else").await.unwrap();
    assert_eq!(again, erasure, "the first erasure stands");
    let names: Vec<_> = store.list(&format!("keys/{volume}")).await.unwrap();
    assert_eq!(names.len(), 1, "{names:?}");

    for vault in [&here, &there, &open(&store).await.unwrap()] {
        for error in [
            vault.volume_keys(volume).await.unwrap_err(),
            vault.create_volume_keys(volume).await.unwrap_err(),
            vault.data_key(volume, 1).await.unwrap_err(),
            vault.rotate_volume_key(volume, 2).await.unwrap_err(),
            vault.reload_volume_keys(volume).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), VaultErrorKind::Erased, "{error}");
            let text = error.to_string();
            assert!(text.contains("ann on paper") && text.contains(&volume.to_string()), "{text}");
        }
        assert_eq!(vault.erasure(volume).await.unwrap().as_ref(), Some(&erasure));
        assert!(same_volume_keys(&vault.volume_keys(other).await.unwrap(), &kept));
    }
    let secret = before.keys.data.expose();
    for object in store.list("").await.unwrap() {
        let bytes = store.get(&object.key, 1 << 20).await.unwrap();
        assert!(!bytes.windows(32).any(|window| window == secret));
    }
}

#[tokio::test]
async fn keys_that_are_damaged_can_be_destroyed_and_nothing_else_be_done_with_them() {
    let store = memory().await;
    let vault = make(&store).await;
    let volume = VolumeId::new();
    vault.create_volume_keys(volume).await.unwrap();
    replace(&store, &format!("keys/{volume}/00000001"), "rubbish").await;
    let vault = open(&store).await.unwrap();
    assert_eq!(vault.volume_keys(volume).await.unwrap_err().kind(), VaultErrorKind::Tampered);
    assert_eq!(vault.rotate_volume_key(volume, 1).await.unwrap_err().kind(), VaultErrorKind::Tampered);
    vault.erase_volume(volume, "ann").await.unwrap();
    assert_eq!(vault.volume_keys(volume).await.unwrap_err().kind(), VaultErrorKind::Erased);
}

/// What an object lock does: the key objects stay, and the caller is told which.
#[tokio::test]
async fn a_storage_that_keeps_deleted_keys_is_named() {
    let store = FaultyStore::new(memory().await);
    let vault = make(&(Arc::clone(&store) as _)).await;
    let volume = VolumeId::new();
    vault.create_volume_keys(volume).await.unwrap();
    store.inject(Rule::new(Effect::Forbidden).on(OpKind::Delete));
    let erasure = vault.erase_volume(volume, "ann").await.unwrap();
    assert_eq!(erasure.left_behind, [format!("keys/{volume}/00000001")]);
    assert_eq!(vault.volume_keys(volume).await.unwrap_err().kind(), VaultErrorKind::Erased);
    store.clear();
    assert!(vault.erase_volume(volume, "ann").await.unwrap().left_behind.is_empty(), "erasing again deletes the rest");
    assert_eq!(store.inner().list(&format!("keys/{volume}")).await.unwrap().len(), 1);
}

/// A new data key and an erasure, with each request failing in each way: doing it again always ends well, and in between
/// the keys are the old ones, the new ones, or destroyed, never damaged.
#[tokio::test]
async fn changes_of_a_volumes_keys_survive_every_fault_at_every_request() {
    for effect in all_effects() {
        for number in 1.. {
            let store = FaultyStore::new(memory().await);
            let shared: Arc<dyn Store> = Arc::clone(&store) as _;
            let (volume, erased) = (VolumeId::new(), VolumeId::new());
            let vault = make(&shared).await;
            let first = vault.create_volume_keys(volume).await.unwrap();
            vault.create_volume_keys(erased).await.unwrap();
            store.reset_counts();
            store.inject(Rule::new(effect).at_request(number));
            let done = async {
                vault.rotate_volume_key(volume, 1).await?;
                vault.erase_volume(erased, "ann").await
            };
            let done = done.await;
            let reached = store.counts().total() >= number;
            store.clear();
            let between = open(&shared).await.unwrap();
            assert_eq!(between.data_key(volume, 1).await.unwrap().expose(), first.keys.data.expose());
            match between.volume_keys(erased).await {
                Ok(_) => assert!(done.is_err(), "{effect:?} at {number}"),
                Err(error) => assert_eq!(error.kind(), VaultErrorKind::Erased, "{effect:?} at {number}: {error}"),
            }
            assert_eq!(vault.rotate_volume_key(volume, 1).await.unwrap(), 2, "{effect:?} at {number}");
            vault.erase_volume(erased, "ann").await.unwrap();
            let after = open(&shared).await.unwrap();
            assert_eq!(after.volume_keys(volume).await.unwrap().key_id, 2);
            assert_eq!(after.volume_keys(erased).await.unwrap_err().kind(), VaultErrorKind::Erased);
            assert_eq!(shared.list(&format!("keys/{erased}")).await.unwrap().len(), 1);
            if !reached {
                break;
            }
        }
    }
}

/// Somebody who listed before an erasure and writes after it must not bring the keys back.
#[tokio::test]
async fn a_late_writer_does_not_bring_erased_keys_back() {
    let store = memory().await;
    let vault = make(&store).await;
    let volume = VolumeId::new();
    vault.create_volume_keys(volume).await.unwrap();
    vault.rotate_volume_key(volume, 1).await.unwrap();
    let second = format!("keys/{volume}/00000002");
    let late = store.get(&second, 65_536).await.unwrap();
    vault.erase_volume(volume, "ann").await.unwrap();
    store.create(&second, late).await.unwrap();
    assert_eq!(open(&store).await.unwrap().volume_keys(volume).await.unwrap_err().kind(), VaultErrorKind::Erased);
    vault.erase_volume(volume, "ann").await.unwrap();
    assert_eq!(store.list(&format!("keys/{volume}")).await.unwrap().len(), 1);
}
