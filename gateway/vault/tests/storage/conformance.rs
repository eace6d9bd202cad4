//! One list of checks, run over every backend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use lifeboat_lab::{Azurite, GcsDouble, Moto};
use lifeboat_vault::{Access, Entropy, Landed, Store, StoreClass, create_exact, open_store, probe};

use crate::{S3_CREDENTIALS, open, target};

#[tokio::test]
async fn memory_conforms() {
    conforms(open_store("memory:", Access::Create).await.unwrap()).await;
}

#[tokio::test]
async fn a_directory_conforms() {
    let home = tempfile::tempdir().unwrap();
    let url = format!("file://{}/vault", home.path().display());
    conforms(open_store(&url, Access::Create).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let moto = Moto::start(&["lab-bucket"]).await.unwrap();
    conforms(open(&target("s3://lab-bucket/vaults/one", &moto.endpoint(), &S3_CREDENTIALS)).await).await;
    // A vault without a prefix shares the bucket, and sees what is there under its own names only.
    let whole = open(&target("s3://lab-bucket", &moto.endpoint(), &S3_CREDENTIALS)).await;
    assert_eq!(whole.list_dirs("").await.unwrap(), ["vaults"]);
    assert_eq!(whole.get("vaults/one/stays", 4).await.unwrap(), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_conforms() {
    let azurite = Azurite::start(&["lab-container"]).await.unwrap();
    conforms(open(&target("az://lab-container/vaults/one", &azurite.endpoint(), &Azurite::CREDENTIALS)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_conforms() {
    let gcs = GcsDouble::start("lab-bucket").await.unwrap();
    conforms(open(&target("gs://lab-bucket/vaults/one", &gcs.endpoint(), &GcsDouble::CREDENTIALS)).await).await;
}

async fn conforms(store: Arc<dyn Store>) {
    let store = &store;
    probe(&**store, &Entropy::system()).await.expect("an honest backend passes the probe");
    assert!(store.list("").await.unwrap().is_empty(), "the probe cleans up");
    written_once_and_read_exactly(store).await;
    sizes(store).await;
    names(store).await;
    races(store).await;
    listings(store).await;
    pages(store).await;
    assert_eq!(store.sweep_leftovers(Duration::ZERO).await.unwrap(), 0);
    store.create("stays", Bytes::from_static(b"here")).await.unwrap();
}

async fn written_once_and_read_exactly(store: &Arc<dyn Store>) {
    store.create("a/b/one", Bytes::from_static(b"0123456789")).await.unwrap();
    let error = store.create("a/b/one", Bytes::from_static(b"other")).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::AlreadyExists, "{error}");
    assert!(error.to_string().contains("a/b/one") && error.to_string().contains(store.url()), "{error}");
    assert_eq!(store.get("a/b/one", 10).await.unwrap(), "0123456789");
    assert_eq!(store.get("a/b/one", 9).await.unwrap_err().class(), StoreClass::Fatal);
    assert_eq!(store.get_range("a/b/one", 3..7).await.unwrap(), "3456");
    assert_eq!(store.get_range("a/b/one", 9..10).await.unwrap(), "9");
    assert_eq!(store.get_range("a/b/one", 4..4).await.unwrap(), "");
    for range in [0..11, 9..12, 10..11, 4000..5000] {
        let error = store.get_range("a/b/one", range.clone()).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::Fatal, "{range:?}: {error}");
    }
    assert_eq!(store.get_tail("a/b/one", 4).await.unwrap(), ("6789".into(), 10));
    assert_eq!(store.get_tail("a/b/one", 10).await.unwrap(), ("0123456789".into(), 10));
    assert_eq!(store.get_tail("a/b/one", 4000).await.unwrap(), ("0123456789".into(), 10));
    let meta = store.head("a/b/one").await.unwrap();
    assert_eq!((meta.key.as_str(), meta.size), ("a/b/one", 10));
    for error in [
        store.get("a/b/two", 10).await.unwrap_err(),
        store.get("a/b", 10).await.unwrap_err(),
        store.get_range("a/b/two", 0..1).await.unwrap_err(),
        store.get_tail("a/b/two", 10).await.unwrap_err(),
        store.head("a/b/two").await.unwrap_err(),
    ] {
        assert_eq!(error.class(), StoreClass::NotFound, "{error}");
    }
    // Our own write under the name is told from somebody else's.
    let ours = Bytes::from_static(b"0123456789");
    assert_eq!(create_exact(&**store, "a/b/one", ours).await.unwrap(), Landed::Before);
    let theirs = create_exact(&**store, "a/b/one", Bytes::from_static(b"9876543210")).await.unwrap_err();
    assert!(theirs.is_already_exists(), "{theirs}");
    store.delete("a/b/one").await.unwrap();
    store.delete("a/b/one").await.unwrap();
    store.delete("never/was").await.unwrap();
    assert!(store.get("a/b/one", 10).await.unwrap_err().is_not_found());
    assert!(store.list("a").await.unwrap().is_empty());
    assert!(store.list_dirs("").await.unwrap().is_empty());
}

async fn sizes(store: &Arc<dyn Store>) {
    store.create("size/empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get("size/empty", 0).await.unwrap(), "");
    assert_eq!(store.head("size/empty").await.unwrap().size, 0);
    assert_eq!(store.get_tail("size/empty", 100).await.unwrap(), (Bytes::new(), 0));
    // Every byte tells where it is, so that a piece that is lost or doubled shows.
    let large: Bytes = (0..32_u32 << 20).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]).collect();
    store.create("size/large", large.clone()).await.unwrap();
    assert!(store.create("size/large", large.clone()).await.unwrap_err().is_already_exists());
    assert!(store.get("size/large", 32 << 20).await.unwrap() == large, "32 MiB come back as they were written");
    for range in [0..1_u64, 12_345_678..12_400_000, (32 << 20) - 1..32 << 20] {
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        assert!(store.get_range("size/large", range).await.unwrap() == large.slice(start..end));
    }
    let listed = store.list("size").await.unwrap();
    assert_eq!(listed.iter().map(|object| object.size).collect::<Vec<_>>(), [0, 32 << 20]);
    for key in ["size/empty", "size/large"] {
        store.delete(key).await.unwrap();
    }
}

async fn names(store: &Arc<dyn Store>) {
    let alphabet: String =
        (b'!'..=b'~').map(char::from).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')).collect();
    let long = format!("names/{}", "k".repeat(200)).repeat(2).replace("kn", "k/n");
    let keys = ["names/case/a", "names/case/A", "names/.hidden", "names/..", "names/-", "names/_", "names/a.b..c"]
        .map(str::to_owned)
        .into_iter()
        .filter(|key| !key.ends_with("/.."))
        .chain([format!("names/{alphabet}"), long]);
    let mut written = Vec::new();
    for key in keys {
        store.create(&key, Bytes::from(key.clone())).await.unwrap();
        written.push(key);
    }
    for key in &written {
        assert_eq!(store.get(key, 1000).await.unwrap(), key.as_bytes(), "{key}");
    }
    written.sort_unstable();
    let listed: Vec<_> = store.list("names").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(listed, written);
    for key in written {
        store.delete(&key).await.unwrap();
    }
    for key in ["", "/a", "a/", "a//b", "a/../b", ".", "a b", "ä", "a#1", "a?b", "a%2fb", "a\0"] {
        assert_eq!(store.create(key, Bytes::new()).await.unwrap_err().class(), StoreClass::Fatal, "{key:?}");
        assert_eq!(store.get(key, 1).await.unwrap_err().class(), StoreClass::Fatal, "{key:?}");
    }
}

/// Sixteen writers of one name: one wins, and its bytes are what is there.
async fn races(store: &Arc<dyn Store>) {
    for round in 0..8 {
        let key = format!("race/{round}");
        let tries = (0_u8..16).map(|writer| {
            let (store, key) = (Arc::clone(store), key.clone());
            tokio::spawn(async move { (writer, store.create(&key, vec![writer; 4096].into()).await) })
        });
        let mut winners = Vec::new();
        for outcome in futures::future::join_all(tries).await {
            match outcome.unwrap() {
                (writer, Ok(())) => winners.push(writer),
                (_, Err(error)) => assert!(error.is_already_exists(), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.get(&key, 4096).await.unwrap(), vec![winners[0]; 4096]);
        store.delete(&key).await.unwrap();
    }
}

async fn listings(store: &Arc<dyn Store>) {
    let all = ["log/2", "log/10", "log/1", "logs/1", "log/sub/x", "map/1", "top"];
    for key in all {
        store.create(key, Bytes::from_static(b"x")).await.unwrap();
    }
    let keys = |found: Vec<lifeboat_vault::ObjectMeta>| found.into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("log").await.unwrap()), ["log/1", "log/10", "log/2", "log/sub/x"]);
    assert_eq!(keys(store.list("log/sub").await.unwrap()), ["log/sub/x"]);
    assert_eq!(store.list("").await.unwrap().len(), all.len());
    assert!(store.list("lo").await.unwrap().is_empty());
    assert!(store.list("absent/below").await.unwrap().is_empty());
    assert_eq!(keys(store.list_after("log", "log/10").await.unwrap()), ["log/2", "log/sub/x"]);
    assert_eq!(keys(store.list_after("log", "log/15").await.unwrap()), ["log/2", "log/sub/x"]);
    assert!(store.list_after("log", "log/z").await.unwrap().is_empty());
    assert_eq!(store.list_dirs("").await.unwrap(), ["log", "logs", "map"]);
    assert_eq!(store.list_dirs("log").await.unwrap(), ["sub"]);
    assert!(store.list_dirs("absent").await.unwrap().is_empty());
    for key in all {
        store.delete(key).await.unwrap();
    }
}

/// More objects than a page of any listing holds.
async fn pages(store: &Arc<dyn Store>) {
    const OBJECTS: usize = 3000;
    let key = |index: usize| format!("pages/{:02}/{index:05}", index % 3);
    futures::stream::iter(0..OBJECTS)
        .for_each_concurrent(16, |index| async move {
            store.create(&key(index), Bytes::from(index.to_string())).await.unwrap();
        })
        .await;
    let expected: BTreeSet<String> = (0..OBJECTS).map(key).collect();
    let listed = store.list("pages").await.unwrap();
    assert_eq!(listed.len(), OBJECTS);
    assert!(listed.iter().map(|object| &object.key).eq(expected.iter()), "each once, in order");
    assert_eq!(store.list("pages/01").await.unwrap().len(), OBJECTS / 3);
    let after = key(1501);
    let rest = store.list_after("pages", &after).await.unwrap();
    assert!(rest.iter().map(|object| &object.key).eq(expected.iter().filter(|key| **key > after)));
    assert_eq!(store.list_dirs("pages").await.unwrap(), ["00", "01", "02"]);
    for index in 0..20 {
        store.delete(&key(index)).await.unwrap();
    }
    let left = store.list("pages").await.unwrap();
    assert!(left.iter().map(|object| &object.key).eq(expected.iter().filter(|k| (0..20).all(|i| **k != key(i)))));
}
