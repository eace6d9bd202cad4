//! URLs, and the contract of [`Store`] on every backend.

use super::*;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn urls_are_parsed() {
    let directory = |path: &str| Location::Directory(PathBuf::from(path));
    assert_eq!(parse("file:///var/lib/vault").unwrap(), directory("/var/lib/vault"));
    assert_eq!(parse("file:///var/lib/vault/").unwrap(), directory("/var/lib/vault"));
    assert_eq!(parse("file://localhost/v").unwrap(), directory("/v"));
    assert_eq!(parse("file:///with%20space/%c3%a4").unwrap(), directory("/with space/ä"));
    for (url, provider, bucket, prefix) in [
        ("s3://my-bucket", Provider::S3, "my-bucket", ""),
        ("s3://my.bucket/a/b.c/", Provider::S3, "my.bucket", "a/b.c"),
        ("az://container/vaults/one", Provider::Azure, "container", "vaults/one"),
        ("gs://bucket_1//", Provider::Gcs, "bucket_1", ""),
    ] {
        let place = Place { provider, bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(parse(url).unwrap(), Location::Remote(place), "{url}");
    }
    assert_eq!(parse("memory:").unwrap(), Location::Memory(String::new()));
    assert_eq!(parse("memory:shared").unwrap(), Location::Memory("shared".into()));
}

#[test]
fn urls_that_cannot_be_used_are_refused_with_what_to_do() {
    let long = format!("s3://bucket/{}", "p".repeat(501));
    assert!(parse(&long).unwrap_err().to_string().contains("at most 500"));
    for (url, why) in [
        ("s3a://bucket/prefix", "s3://bucket/prefix"),
        ("abfss://container@account.dfs.core.windows.net/x", "az://container/prefix"),
        ("https://bucket.s3.amazonaws.com/x", "endpoint"),
        ("s3:bucket", "two slashes"),
        ("s3://", "bucket's name"),
        ("az://x", "container's name"),
        ("s3://bucket:9000/x", "bucket's name"),
        ("s3://bucket/a/../b", "what comes after"),
        ("s3://bucket/a//b", "what comes after"),
        ("gs://bucket/a?b=c", "what comes after"),
        ("s3://bucket/a#b", "what comes after"),
        ("file:relative", "three slashes"),
        ("file://host/dir", "absolute"),
        ("file:///", "root directory"),
        ("file:///a/../b", "`..`"),
        ("file:///a%00b", "NUL"),
        ("file:///a%2", "escapes"),
        ("file:///a%zz", "escapes"),
        ("ftp://x", "no backend"),
        ("/var/lib/vault", "no scheme"),
    ] {
        let error = parse(url).unwrap_err();
        assert_eq!(error.class(), StoreClass::Fatal, "{url}");
        let text = error.to_string();
        assert!(text.contains(why) && text.contains("give one such as"), "{url}: {text}");
    }
    let text = parse("s3://key:hunter2@bucket").unwrap_err().to_string();
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn settings_that_change_nothing_are_refused() {
    let target = StorageTarget { endpoint: Some("https://s3.example.com".into()), ..StorageTarget::new("memory:") };
    let text = open_storage(&target, Access::Open).await.unwrap_err().to_string();
    assert!(text.contains("endpoint") && text.contains("leave that away"), "{text}");
}

async fn each_backend() -> Vec<(Arc<dyn Store>, Option<tempfile::TempDir>)> {
    let home = tempfile::tempdir().unwrap();
    let url = format!("file://{}/vault", home.path().display());
    vec![
        (open_store("memory:", Access::Create).await.unwrap(), None),
        (open_store(&url, Access::Create).await.unwrap(), Some(home)),
    ]
}

#[tokio::test]
async fn objects_are_written_once_and_read_exactly() {
    for (store, _home) in each_backend().await {
        store.create("a/b/one", bytes("0123456789")).await.unwrap();
        let error = store.create("a/b/one", bytes("other")).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::AlreadyExists, "{error}");
        assert!(error.to_string().contains("a/b/one") && error.to_string().contains(store.url()), "{error}");
        assert_eq!(store.get("a/b/one", 10).await.unwrap(), bytes("0123456789"));
        let error = store.get("a/b/one", 9).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::Fatal);
        assert!(error.to_string().contains("10 bytes and at most 9"), "{error}");

        assert_eq!(store.get_range("a/b/one", 3..7).await.unwrap(), bytes("3456"));
        assert_eq!(store.get_range("a/b/one", 9..10).await.unwrap(), bytes("9"));
        assert_eq!(store.get_range("a/b/one", 4..4).await.unwrap(), bytes(""));
        for range in [0..11, 9..12, 10..11, 4000..5000] {
            let error = store.get_range("a/b/one", range.clone()).await.unwrap_err();
            assert_eq!(error.class(), StoreClass::Fatal, "{range:?}: {error}");
        }
        for (max_bytes, expected) in [(4, "6789"), (10, "0123456789"), (4096, "0123456789")] {
            assert_eq!(store.get_tail("a/b/one", max_bytes).await.unwrap(), (bytes(expected), 10), "{max_bytes}");
        }
        assert!(store.get_tail("a/b/two", 4).await.unwrap_err().is_not_found());
        store.create("empty", Bytes::new()).await.unwrap();
        assert_eq!(store.get("empty", 0).await.unwrap(), bytes(""));

        let meta = store.head("a/b/one").await.unwrap();
        assert_eq!((meta.key.as_str(), meta.size), ("a/b/one", 10));
        assert!(Timestamp::now().seconds_since(meta.modified) < 60.0);
        for error in [
            store.get("a/b/two", 10).await.unwrap_err(),
            store.get("a/b", 10).await.unwrap_err(),
            store.get_range("a/b/two", 0..1).await.unwrap_err(),
            store.head("a/b/two").await.unwrap_err(),
        ] {
            assert_eq!(error.class(), StoreClass::NotFound, "{error}");
        }
        store.delete("a/b/one").await.unwrap();
        store.delete("a/b/one").await.unwrap();
        store.delete("never/was").await.unwrap();
        assert!(store.get("a/b/one", 10).await.unwrap_err().is_not_found());
        assert!(store.list("a").await.unwrap().is_empty());
        assert!(store.list_dirs("").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn listings_are_sorted_and_go_by_whole_segments() {
    for (store, _home) in each_backend().await {
        for key in ["log/2", "log/10", "log/1", "logs/1", "log/sub/x", "map/1", "top"] {
            store.create(key, bytes("x")).await.unwrap();
        }
        let keys = |found: Vec<ObjectMeta>| found.into_iter().map(|object| object.key).collect::<Vec<_>>();
        assert_eq!(keys(store.list("log").await.unwrap()), ["log/1", "log/10", "log/2", "log/sub/x"]);
        assert_eq!(keys(store.list("log/sub").await.unwrap()), ["log/sub/x"]);
        assert_eq!(store.list("").await.unwrap().len(), 7);
        assert!(store.list("lo").await.unwrap().is_empty());
        assert!(store.list("absent/below").await.unwrap().is_empty());
        assert_eq!(keys(store.list_after("log", "log/10").await.unwrap()), ["log/2", "log/sub/x"]);
        assert_eq!(keys(store.list_after("log", "log/15").await.unwrap()), ["log/2", "log/sub/x"]);
        assert!(store.list_after("log", "log/z").await.unwrap().is_empty());
        assert_eq!(store.list_dirs("").await.unwrap(), ["log", "logs", "map"]);
        assert_eq!(store.list_dirs("log").await.unwrap(), ["sub"]);
        assert!(store.list_dirs("absent").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn keys_that_some_backend_would_not_take_are_refused_on_all() {
    let long = "k".repeat(513);
    for (store, _home) in each_backend().await {
        for key in ["", "/a", "a/", "a//b", "a/../b", ".", "a b", "ä", "a#1", "a\0", long.as_str()] {
            for error in [
                store.create(key, bytes("x")).await.unwrap_err(),
                store.get(key, 1).await.unwrap_err(),
                store.delete(key).await.unwrap_err(),
                store.head(key).await.unwrap_err(),
            ] {
                assert_eq!(error.class(), StoreClass::Fatal, "{key:?}: {error}");
            }
        }
        assert_eq!(store.list("../x").await.unwrap_err().class(), StoreClass::Fatal);
        assert_eq!(store.list_dirs("a/").await.unwrap_err().class(), StoreClass::Fatal);
    }
}

#[tokio::test]
async fn of_many_creates_of_one_name_exactly_one_wins() {
    for (store, _home) in each_backend().await {
        for round in 0..20 {
            let key = format!("race/{round}");
            let tries = (0_u8..8).map(|writer| {
                let (store, key) = (Arc::clone(&store), key.clone());
                tokio::spawn(async move { (writer, store.create(&key, vec![writer; 100].into()).await) })
            });
            let mut winners = Vec::new();
            for outcome in futures::future::join_all(tries).await {
                match outcome.unwrap() {
                    (writer, Ok(())) => winners.push(writer),
                    (_, Err(error)) => assert!(error.is_already_exists(), "{error}"),
                }
            }
            assert_eq!(winners.len(), 1);
            assert_eq!(store.get(&key, 100).await.unwrap(), vec![winners[0]; 100]);
        }
    }
}

#[tokio::test]
async fn named_memory_stores_are_shared_within_the_process() {
    let a = open_store("memory:store-tests-a", Access::Create).await.unwrap();
    let b = open_store("memory:store-tests-b", Access::Open).await.unwrap();
    let again = open_store("memory:store-tests-a", Access::Open).await.unwrap();
    a.create("k", bytes("v")).await.unwrap();
    assert_eq!(again.get("k", 1).await.unwrap(), bytes("v"));
    assert!(b.get("k", 1).await.unwrap_err().is_not_found());
}
