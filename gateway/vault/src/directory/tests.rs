//! What only a directory can get wrong.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::store::{Store, open_store};

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

async fn vault(home: &tempfile::TempDir) -> (PathBuf, Arc<dyn Store>) {
    let path = home.path().join("vault");
    let store = open_store(&url(&path), Access::Create).await.unwrap();
    (path, store)
}

#[tokio::test]
async fn create_makes_the_last_directory_only_and_for_the_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let (path, _) = vault(&home).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    open_store(&url(&path), Access::Create).await.unwrap();

    let deep = home.path().join("a/b");
    let error = open_store(&url(&deep), Access::Create).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::NotFound);
    assert!(error.to_string().contains("mount it first"), "{error}");
    assert!(!home.path().join("a").exists());

    let error = open_store(&url(&home.path().join("absent")), Access::Open).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::NotFound);
    assert!(!home.path().join("absent").exists());

    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    for access in [Access::Open, Access::Create] {
        let error = open_store(&url(&file), access).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::Fatal, "{error}");
    }
}

#[tokio::test]
async fn a_directory_that_vanished_or_was_replaced_is_an_outage_and_never_an_empty_vault() {
    let home = tempfile::tempdir().unwrap();
    let (path, store) = vault(&home).await;
    store.create("groups/g/epoch/1", Bytes::from_static(b"x")).await.unwrap();
    let away = home.path().join("unmounted");
    fs::rename(&path, &away).unwrap();

    for replaced in [false, true] {
        if replaced {
            fs::create_dir(&path).unwrap();
        }
        for error in [
            store.list("groups").await.unwrap_err(),
            store.list_dirs("").await.unwrap_err(),
            store.get("groups/g/epoch/1", 1).await.unwrap_err(),
            store.head("groups/g/epoch/1").await.unwrap_err(),
            store.create("groups/g/epoch/2", Bytes::new()).await.unwrap_err(),
            store.delete("groups/g/epoch/1").await.unwrap_err(),
            store.sweep_leftovers(Duration::ZERO).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), StoreClass::Retry, "{error}");
            assert!(error.to_string().contains("mount it again"), "{error}");
        }
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing was written below the mount point");

    fs::remove_dir(&path).unwrap();
    fs::rename(&away, &path).unwrap();
    assert_eq!(store.list("groups").await.unwrap().len(), 1);
    store.create("groups/g/epoch/2", Bytes::new()).await.unwrap();
}

/// A mount that goes away and comes back at any moment, in the middle of a request too: what was answered holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_while_a_directory_went_away_is_true_of_it() {
    let home = tempfile::tempdir().unwrap();
    let (path, store) = vault(&home).await;
    store.create("always", Bytes::from_static(b"x")).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mounts = std::thread::spawn({
        let (stop, path, away) = (Arc::clone(&stop), path.clone(), home.path().join("unmounted"));
        move || {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Acquire) {
                fs::rename(&path, &away).unwrap();
                // The empty directory below the mount point, and what was written there.
                fs::create_dir_all(&path).unwrap();
                std::thread::yield_now();
                while fs::rename(&away, &path).is_err() {
                    let _ = fs::remove_dir_all(&path);
                }
                rounds += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            rounds
        }
    });
    let mut created = Vec::new();
    let (mut outages, mut n) = (0, 0);
    while (created.len() < 300 || outages < 100) && n < 100_000 {
        n += 1;
        let key = format!("objects/{n}");
        match store.create(&key, Bytes::from_static(b"kept")).await {
            Ok(()) => created.push(key),
            Err(error) => {
                assert_eq!(error.class(), StoreClass::Retry, "{error}");
                outages += 1;
            }
        }
        match store.head("always").await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.class(), StoreClass::Retry, "{error}"),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Release);
    assert!(mounts.join().unwrap() > 0);
    assert!(created.len() >= 300 && outages >= 100, "{} created, {outages} outages", created.len());
    for key in created {
        store.head(&key).await.unwrap_or_else(|error| panic!("{key} was acknowledged: {error}"));
    }
}

#[tokio::test]
async fn two_gateways_share_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let (path, here) = vault(&home).await;
    let there = open_store(&url(&path), Access::Open).await.unwrap();
    here.create("epoch/1", Bytes::from_static(b"here")).await.unwrap();
    assert!(there.create("epoch/1", Bytes::from_static(b"there")).await.unwrap_err().is_already_exists());
    assert_eq!(there.get("epoch/1", 10).await.unwrap(), "here");
    there.delete("epoch/1").await.unwrap();
    assert!(here.get("epoch/1", 10).await.unwrap_err().is_not_found());
    // The directory went with its last object; a writer that knew it as durable makes it so again.
    here.create("epoch/2", Bytes::from_static(b"here")).await.unwrap();
    assert_eq!(there.list("epoch").await.unwrap().len(), 1);
}

#[tokio::test]
async fn writers_and_deleters_of_one_directory_do_not_trip_over_each_other() {
    let home = tempfile::tempdir().unwrap();
    let (_, store) = vault(&home).await;
    let tasks = (0..4).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..15 {
                let key = format!("deep/er/{task}-{number}");
                loop {
                    match store.create(&key, Bytes::from_static(b"x")).await {
                        Ok(()) => break,
                        // Its directory was removed as empty under it: nothing or all of it landed.
                        Err(error) if error.is_already_exists() => break,
                        Err(error) => assert!(error.is_retry(), "{error}"),
                    }
                }
                assert_eq!(store.get(&key, 1).await.unwrap(), "x");
                store.delete(&key).await.unwrap();
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    assert!(store.list("").await.unwrap().is_empty());
}

#[test]
fn every_directory_above_a_new_object_is_made_durable_once() {
    let home = tempfile::tempdir().unwrap();
    let directory = Directory::open(&home.path().join("vault"), Access::Create).unwrap();
    let deep = directory.root().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("object"), "x").unwrap();
    directory.settle("a/b/c/object", false).unwrap();
    let known: Vec<_> = ["a", "a/b", "a/b/c"].iter().map(|part| directory.root().join(part)).collect();
    let mut settled: Vec<_> = directory.settled().keys().cloned().collect();
    settled.sort();
    assert_eq!(settled, known);

    // Removed and made again, by this process or another: not known to be durable any more.
    let before = directory.settled()[&deep];
    fs::remove_dir_all(&deep).unwrap();
    directory.settle_delete("a/b/c/object").unwrap();
    assert!(!directory.settled().contains_key(&deep));
    fs::create_dir(&deep).unwrap();
    fs::write(deep.join("object"), "x").unwrap();
    directory.settle("a/b/c/object", false).unwrap();
    assert_ne!(directory.settled()[&deep], before);
}

#[tokio::test]
async fn leftovers_of_killed_writers_are_invisible_and_swept_when_old() {
    let home = tempfile::tempdir().unwrap();
    let (path, store) = vault(&home).await;
    store.create("log/1", Bytes::from_static(b"x")).await.unwrap();
    fs::write(path.join("log/2#1"), "half of it").unwrap();
    fs::write(path.join("log/not-ours#x"), "").unwrap();
    fs::create_dir(path.join("lost+found")).unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(store.list_dirs("").await.unwrap(), ["log"]);
    // A name with a leftover can still be taken.
    store.create("log/2", Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(store.get("log/2", 9).await.unwrap(), "y");

    assert_eq!(store.sweep_leftovers(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(store.sweep_leftovers(Duration::ZERO).await.unwrap(), 1);
    assert!(!path.join("log/2#1").exists() && path.join("log/not-ours#x").exists());
    assert_eq!(store.list("").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_full_disk_is_to_be_retried_and_a_refusal_is_not() {
    use io::ErrorKind as K;
    for kind in [K::StorageFull, K::QuotaExceeded, K::TimedOut, K::NotFound, K::Other, K::StaleNetworkFileHandle] {
        assert_eq!(classify_io(kind).0, StoreClass::Retry, "{kind}");
    }
    assert_eq!(classify_io(K::PermissionDenied).0, StoreClass::Denied);
    for kind in [K::ReadOnlyFilesystem, K::NotADirectory, K::IsADirectory, K::InvalidFilename] {
        assert_eq!(classify_io(kind).0, StoreClass::Fatal, "{kind}");
    }
    let home = tempfile::tempdir().unwrap();
    let (path, store) = vault(&home).await;
    fs::write(path.join("log"), "a file where a directory belongs").unwrap();
    let error = store.create("log/1", Bytes::new()).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::Fatal, "{error}");
    assert!(error.to_string().contains("log/1"), "{error}");
}
