//! Documents: generations, races, faults, pruning, tampering.

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::faulty::{Effect, FaultyStore, OpKind, Rule};
use crate::store::{Access, open_store};

const VAULT: [u8; 16] = [9; 16];

async fn memory() -> Arc<dyn Store> {
    open_store("memory:", Access::Create).await.unwrap()
}

fn catalog(store: &Arc<dyn Store>) -> Catalog {
    tuned(store, Tuning::DEFAULT)
}

fn masters(vault: [u8; 16]) -> Arc<Masters> {
    Arc::new(Masters::new(vault, 1, [(1, crate::secret::Secret::default())].into()))
}

fn tuned(store: &Arc<dyn Store>, tuning: Tuning) -> Catalog {
    Catalog::tuned(Arc::clone(store), masters(VAULT), VaultOptions::for_tests(), tuning)
}

async fn count(catalog: &Catalog, id: &str) -> Result<Arc<Document>, VaultError> {
    let mut add = |now: &Document| Some(json!({"n": now.status["n"].as_u64().unwrap_or(0) + 1}));
    catalog.update_status("volume", id, &mut add).await
}

#[tokio::test]
async fn a_document_lives_and_dies() {
    let catalog = catalog(&memory().await);
    assert_eq!(catalog.get("volume", "a").await.unwrap_err().kind(), VaultErrorKind::NotFound);
    let made = catalog.create("volume", "a", "db", json!({"gib": 1}), json!({})).await.unwrap();
    assert_eq!((made.revision, made.generation, made.deleted), (1, 1, false));
    let error = catalog.create("volume", "a", "db", json!({}), json!({})).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Conflict);

    let grown = catalog.update_spec("volume", "a", 1, "db", json!({"gib": 2})).await.unwrap();
    assert_eq!((grown.revision, grown.generation, grown.created), (2, 2, made.created));
    let seen = count(&catalog, "a").await.unwrap();
    assert_eq!((seen.revision, seen.generation, &seen.spec), (3, 2, &json!({"gib": 2})));
    let error = catalog.update_spec("volume", "a", 1, "db", json!({"gib": 3})).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Conflict);
    assert!(error.to_string().contains("generation 2, not 1"), "{error}");
    let renamed = catalog.update_spec("volume", "a", 2, "database", json!({"gib": 2})).await.unwrap();
    assert_eq!((renamed.revision, renamed.generation, renamed.name.as_str()), (4, 3, "database"));
    assert_eq!(renamed.status, json!({"n": 1}));
    assert_eq!(catalog.find_by_name("volume", "database").await.unwrap(), Some(Arc::clone(&renamed)));
    assert_eq!(catalog.find_by_name("volume", "db").await.unwrap(), None);

    assert_eq!(catalog.purge("volume", "a").await.unwrap_err().kind(), VaultErrorKind::Conflict);
    assert_eq!(catalog.delete("volume", "a", Some(2)).await.unwrap_err().kind(), VaultErrorKind::Conflict);
    let tombstone = catalog.delete("volume", "a", Some(3)).await.unwrap();
    assert_eq!((tombstone.revision, tombstone.generation, tombstone.deleted), (5, 4, true));
    assert_eq!(tombstone.spec, json!({"gib": 2}));
    for error in [
        catalog.get("volume", "a").await.unwrap_err(),
        catalog.delete("volume", "a", None).await.unwrap_err(),
        catalog.update_spec("volume", "a", 4, "db", json!({})).await.unwrap_err(),
        count(&catalog, "a").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), VaultErrorKind::NotFound, "{error}");
    }
    assert!(catalog.cached("volume", "a").is_none());
    assert!(catalog.list("volume").await.unwrap().is_empty());
    assert_eq!(catalog.list_deleted("volume").await.unwrap(), [tombstone]);
    let error = catalog.create("volume", "a", "db", json!({}), json!({})).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Conflict, "an id is never used again");
    catalog.purge("volume", "a").await.unwrap();
    catalog.purge("volume", "a").await.unwrap();
    assert!(catalog.shared.store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_deletion_is_taken_back_once() {
    let store = memory().await;
    let (here, there) = (catalog(&store), catalog(&store));
    let restored = |catalog: Catalog| async move {
        catalog.restore("volume", "a", &mut |tombstone| json!({"was": tombstone.status})).await
    };
    assert_eq!(restored(here.clone()).await.unwrap_err().kind(), VaultErrorKind::NotFound);
    let made = here.create("volume", "a", "db", json!({"gib": 1}), json!({"n": 1})).await.unwrap();
    assert_eq!(restored(here.clone()).await.unwrap(), made, "it isn't deleted");
    here.delete("volume", "a", None).await.unwrap();
    assert_eq!(there.list_deleted("volume").await.unwrap().len(), 1);

    let back = restored(here.clone()).await.unwrap();
    assert_eq!((back.revision, back.generation, back.deleted, back.created), (3, 3, false, made.created));
    assert_eq!((back.name.as_str(), &back.spec, &back.status), ("db", &json!({"gib": 1}), &json!({"was": {"n": 1}})));
    assert_eq!(restored(there.clone()).await.unwrap(), back, "somebody else did it");
    assert_eq!(there.get("volume", "a").await.unwrap(), back);
    assert!(there.list_deleted("volume").await.unwrap().is_empty());
    here.delete("volume", "a", Some(3)).await.unwrap();
    here.purge("volume", "a").await.unwrap();
    assert_eq!(restored(here).await.unwrap_err().kind(), VaultErrorKind::NotFound);
}

#[tokio::test]
async fn kinds_and_ids_that_cannot_be_names_are_refused() {
    let catalog = catalog(&memory().await);
    let long = "x".repeat(65);
    for bad in ["", "A", "a/b", "..", "a b", long.as_str()] {
        assert_eq!(catalog.get("volume", bad).await.unwrap_err().kind(), VaultErrorKind::InvalidInput);
        assert_eq!(catalog.list(bad).await.unwrap_err().kind(), VaultErrorKind::InvalidInput);
        let made = catalog.create(bad, "a", "n", json!({}), json!({})).await;
        assert_eq!(made.unwrap_err().kind(), VaultErrorKind::InvalidInput);
    }
    let huge = json!("x".repeat(2 << 20));
    let error = catalog.create("volume", "a", "n", huge, json!({})).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::InvalidInput);
    assert!(error.to_string().contains("at most 1048576"), "{error}");
}

#[tokio::test]
async fn typed_access_says_what_does_not_fit() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Spec {
        gib: u64,
    }
    let catalog = catalog(&memory().await);
    let document = catalog.create("volume", "a", "n", json!({"gib": 7}), json!([])).await.unwrap();
    assert_eq!(document.spec_as::<Spec>().unwrap(), Spec { gib: 7 });
    let error = document.status_as::<Spec>().unwrap_err();
    assert!(error.to_string().contains("the status of volume a"), "{error}");
}

#[tokio::test]
async fn requests_are_spent_on_what_changed_only() {
    let store = memory().await;
    let writer = catalog(&store);
    for id in ["a", "b", "c"] {
        writer.create("volume", id, id, json!({}), json!({})).await.unwrap();
        count(&writer, id).await.unwrap();
    }
    let counted = FaultyStore::new(Arc::clone(&store));
    let reader = catalog(&(Arc::clone(&counted) as _));
    let ids = |found: &[Arc<Document>]| found.iter().map(|document| document.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&reader.list("volume").await.unwrap()), ["a", "b", "c"]);
    assert_eq!((counted.counts().list, counted.counts().get, counted.counts().total()), (1, 3, 4));

    counted.reset_counts();
    reader.list("volume").await.unwrap();
    assert_eq!((counted.counts().list, counted.counts().total()), (1, 1));
    count(&writer, "b").await.unwrap();
    counted.reset_counts();
    assert_eq!(reader.list("volume").await.unwrap()[1].status, json!({"n": 2}));
    assert_eq!((counted.counts().list, counted.counts().get, counted.counts().total()), (1, 1, 2));

    counted.reset_counts();
    assert_eq!(reader.cached("volume", "b").unwrap().revision, 3);
    assert_eq!(counted.counts().total(), 0);
    // A change on a fresh view is one request; one that changes nothing looks once and writes nothing.
    count(&reader, "b").await.unwrap();
    assert_eq!((counted.counts().create, counted.counts().total()), (1, 1));
    counted.reset_counts();
    reader.update_status("volume", "b", &mut |now| Some(now.status.clone())).await.unwrap();
    reader.update_status("volume", "b", &mut |_| None).await.unwrap();
    reader.update_spec("volume", "b", 1, "b", json!({})).await.unwrap();
    assert_eq!((counted.counts().list, counted.counts().total()), (3, 3));
}

#[tokio::test]
async fn status_writers_lose_nothing_and_revisions_have_one_writer_each() {
    let home = tempfile::tempdir().unwrap();
    let url = format!("file://{}/v", home.path().display());
    let directory = open_store(&url, Access::Create).await.unwrap();
    for store in [memory().await, directory] {
        let catalogs = [catalog(&store), catalog(&store), catalog(&store)];
        catalogs[0].create("volume", "a", "n", json!({}), json!({"n": 0})).await.unwrap();
        let writers = catalogs.clone().map(|catalog| {
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for _ in 0..10 {
                    revisions.push(count(&catalog, "a").await.unwrap().revision);
                }
                revisions
            })
        });
        let mut revisions = Vec::new();
        for writer in futures::future::join_all(writers).await {
            revisions.extend(writer.unwrap());
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (2..=31).collect::<Vec<_>>(), "exactly one writer for each revision");
        for catalog in catalogs {
            let document = catalog.get("volume", "a").await.unwrap();
            assert_eq!((document.revision, &document.status), (31, &json!({"n": 30})));
        }
    }
}

#[tokio::test]
async fn of_spec_writers_at_one_generation_exactly_one_wins() {
    let store = memory().await;
    let (here, there) = (catalog(&store), catalog(&store));
    here.create("volume", "a", "n", json!({"by": "nobody"}), json!({})).await.unwrap();
    for generation in 1..20 {
        // Both know the document; a status writer gets in between, which must not make anybody fail.
        there.get("volume", "a").await.unwrap();
        let (a, b, status) = futures::join!(
            here.update_spec("volume", "a", generation, "n", json!({"by": "here", "g": generation})),
            there.update_spec("volume", "a", generation, "n", json!({"by": "there", "g": generation})),
            count(&there, "a"),
        );
        status.unwrap();
        let (winner, loser) = match a {
            Ok(a) => (a, b),
            a => (b.unwrap(), a),
        };
        assert_eq!(loser.unwrap_err().kind(), VaultErrorKind::Conflict);
        let now = here.get("volume", "a").await.unwrap();
        assert_eq!((now.generation, &now.spec), (generation + 1, &winner.spec));
    }
    let (a, b) = futures::join!(here.delete("volume", "a", Some(20)), there.delete("volume", "a", Some(20)));
    assert!(a.is_ok() != b.is_ok());
    let created = futures::join!(
        here.create("volume", "z", "here", json!({}), json!({})),
        there.create("volume", "z", "there", json!({}), json!({})),
    );
    assert!(created.0.is_ok() != created.1.is_ok());
}

#[tokio::test]
async fn a_view_that_is_behind_refuses_nothing() {
    let store = memory().await;
    let (here, there) = (catalog(&store), catalog(&store));
    here.create("volume", "a", "n", json!({"v": 1}), json!({})).await.unwrap();
    there.update_spec("volume", "a", 1, "n", json!({"v": 2})).await.unwrap();
    assert_eq!(here.cached("volume", "a").unwrap().generation, 1);
    let updated = here.update_spec("volume", "a", 2, "n", json!({"v": 3})).await.unwrap();
    assert_eq!((updated.generation, updated.revision), (3, 3));
    // Back to what the view behind believes is there: a change all the same.
    let updated = there.update_spec("volume", "a", 3, "n", json!({"v": 2})).await.unwrap();
    assert_eq!((updated.generation, &updated.spec), (4, &json!({"v": 2})));
}

#[tokio::test]
async fn old_revisions_go_and_the_newest_stay() {
    let store = memory().await;
    let hasty = tuned(&store, Tuning { keep_for: Duration::ZERO, ..Tuning::DEFAULT });
    hasty.create("volume", "a", "n", json!({}), json!({})).await.unwrap();
    for _ in 0..39 {
        count(&hasty, "a").await.unwrap();
    }
    let left = store.list("catalog/volume/a").await.unwrap();
    assert_eq!(left.len(), 8);
    assert_eq!(left[0].key, "catalog/volume/a/000000000033.json");
    assert_eq!(catalog(&store).get("volume", "a").await.unwrap().status, json!({"n": 39}));

    // By default revisions are kept for a while, whatever their number.
    let patient = catalog(&store);
    for _ in 0..16 {
        count(&patient, "a").await.unwrap();
    }
    assert_eq!(store.list("catalog/volume/a").await.unwrap().len(), 24);
    // Failing to prune fails no write.
    let failing = FaultyStore::new(Arc::clone(&store));
    failing.inject(Rule::new(Effect::Forbidden).on(OpKind::Delete));
    let hasty = tuned(&(Arc::clone(&failing) as _), Tuning { keep_for: Duration::ZERO, ..Tuning::DEFAULT });
    for _ in 0..16 {
        count(&hasty, "a").await.unwrap();
    }
    assert!(failing.counts().delete > 0);
}

/// The trap of create-only revisions with pruning: a writer that slept while its next name was used and pruned.
#[tokio::test(start_paused = true)]
async fn a_writer_that_slept_reads_again_before_it_writes() {
    let store = memory().await;
    let sleeper = catalog(&store);
    sleeper.create("volume", "a", "n", json!({}), json!({})).await.unwrap();
    let hasty = tuned(&store, Tuning { keep_for: Duration::ZERO, ..Tuning::DEFAULT });
    for _ in 0..31 {
        count(&hasty, "a").await.unwrap();
    }
    assert!(store.get("catalog/volume/a/000000000002.json", 9999).await.unwrap_err().is_not_found());
    tokio::time::advance(Tuning::DEFAULT.fresh_for).await;
    let written = count(&sleeper, "a").await.unwrap();
    assert_eq!((written.revision, &written.status), (33, &json!({"n": 32})));
}

#[tokio::test]
async fn documents_that_are_not_what_was_written_are_refused_by_name() {
    let store = memory().await;
    let writer = catalog(&store);
    for id in ["a", "b"] {
        writer.create("volume", id, id, json!({"secret": false}), json!({})).await.unwrap();
    }
    count(&writer, "a").await.unwrap();
    let path = |id: &str, revision: u64| format!("catalog/volume/{id}/{revision:012}.json");
    let a1 = store.get(&path("a", 1), 9999).await.unwrap();
    let a2 = store.get(&path("a", 2), 9999).await.unwrap();
    let edited = String::from_utf8(a2.to_vec()).unwrap().replace("\"secret\":false", "\"secret\":true ");
    let reformatted = String::from_utf8(a2.to_vec()).unwrap().replacen(',', ", ", 1);
    let cases: [(&str, u64, Bytes); 6] = [
        ("a", 2, edited.into()),
        ("a", 2, reformatted.into()),
        ("a", 2, [&a2[..], b"\n"].concat().into()),
        ("a", 2, a1.clone()),
        ("a", 3, a2.clone()),
        ("a", 2, a2.slice(..a2.len() - 9)),
    ];
    for (id, revision, bytes) in cases {
        let copy = memory().await;
        for object in store.list("").await.unwrap() {
            copy.create(&object.key, store.get(&object.key, 9999).await.unwrap()).await.unwrap();
        }
        copy.delete(&path(id, revision)).await.unwrap();
        copy.create(&path(id, revision), bytes).await.unwrap();
        let reader = catalog(&copy);
        for error in [
            reader.get("volume", "a").await.unwrap_err(),
            reader.list("volume").await.unwrap_err(),
            count(&reader, "a").await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), VaultErrorKind::Tampered, "{error}");
            assert!(error.to_string().contains("catalog/volume/a/"), "{error}");
        }
        let (fine, damaged) = reader.list_with_damage("volume").await.unwrap();
        assert_eq!((fine.len(), fine[0].id.as_str(), damaged.len()), (1, "b", 1));
    }

    // Another document's content, and another vault's.
    let copy = memory().await;
    copy.create(&path("b", 1), a1.clone()).await.unwrap();
    assert_eq!(catalog(&copy).get("volume", "b").await.unwrap_err().kind(), VaultErrorKind::Tampered);
    let elsewhere = Catalog::new(Arc::clone(&store), masters([8; 16]), VaultOptions::for_tests());
    assert_eq!(elsewhere.get("volume", "a").await.unwrap_err().kind(), VaultErrorKind::Tampered);
    for index in 0..a1.len() {
        let mut flipped = a1.to_vec();
        flipped[index] ^= 1;
        let copy = memory().await;
        copy.create(&path("a", 1), flipped.into()).await.unwrap();
        let error = catalog(&copy).get("volume", "a").await.unwrap_err();
        assert!(
            matches!(error.kind(), VaultErrorKind::Tampered | VaultErrorKind::NewerFormat),
            "byte {index}: {error}"
        );
    }
    // Files that are none of ours are passed over.
    copy.create("catalog/volume/b/notes.txt", Bytes::from_static(b"x")).await.unwrap();
    copy.create("catalog/volume/README", Bytes::from_static(b"x")).await.unwrap();
    copy.delete(&path("b", 1)).await.unwrap();
    assert!(catalog(&copy).list("volume").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_catalog_never_goes_back() {
    let store = memory().await;
    let reader = catalog(&store);
    reader.create("volume", "a", "n", json!({}), json!({})).await.unwrap();
    for _ in 0..3 {
        count(&reader, "a").await.unwrap();
    }
    // A listing that lags: what is known counts.
    let lagging = FaultyStore::new(Arc::clone(&store));
    let view = catalog(&(Arc::clone(&lagging) as _));
    for _ in 0..2 {
        count(&view, "a").await.unwrap();
    }
    for hidden in [1, 2] {
        lagging.inject(Rule::new(Effect::StaleList(hidden)).on(OpKind::List));
        assert_eq!(view.get("volume", "a").await.unwrap().revision, 6);
        assert_eq!(view.list("volume").await.unwrap()[0].revision, 6);
        assert_eq!(count(&view, "a").await.unwrap().revision, 7);
        lagging.clear();
        store.delete("catalog/volume/a/000000000007.json").await.unwrap();
        assert_eq!(view.get("volume", "a").await.unwrap_err().kind(), VaultErrorKind::Tampered);
        view.cache().clear();
        assert_eq!(view.get("volume", "a").await.unwrap().revision, 6);
    }
    // Objects taken away: an error that says so, in lists too.
    for object in store.list("catalog").await.unwrap() {
        store.delete(&object.key).await.unwrap();
    }
    let error = view.get("volume", "a").await.unwrap_err();
    assert!(error.to_string().contains("went back from revision 6 to 0"), "{error}");
    assert_eq!(view.list("volume").await.unwrap_err().kind(), VaultErrorKind::Tampered);
}

#[tokio::test]
async fn a_purge_elsewhere_is_no_rollback() {
    let store = memory().await;
    let (here, there) = (catalog(&store), catalog(&store));
    here.create("volume", "a", "n", json!({}), json!({})).await.unwrap();
    here.delete("volume", "a", None).await.unwrap();
    assert_eq!(there.list_deleted("volume").await.unwrap().len(), 1);
    here.purge("volume", "a").await.unwrap();
    assert!(there.list_deleted("volume").await.unwrap().is_empty());
    assert!(there.list("volume").await.unwrap().is_empty());
}

/// A scripted life with each request failing in each way, once. What was confirmed stays, what failed may be repeated.
#[tokio::test]
async fn a_life_survives_every_fault_at_every_request() {
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
        Effect::StaleList(3),
    ];
    for effect in effects {
        for number in 1.. {
            let store = FaultyStore::new(memory().await);
            store.inject(Rule::new(effect).at_request(number));
            let shared: Arc<dyn Store> = Arc::clone(&store) as _;
            let (here, there) = (catalog(&shared), catalog(&shared));
            let context = format!("{effect:?} at {number}");
            let mut confirmed = 0;
            let mut tried = 0;
            while here.create("volume", "a", "n", json!({"v": 0}), json!({"n": 0})).await.is_err() {
                if here.get("volume", "a").await.is_ok() {
                    break;
                }
            }
            for turn in 0..6 {
                let catalog = if turn % 2 == 0 { &here } else { &there };
                tried += 1;
                confirmed += u64::from(count(catalog, "a").await.is_ok());
            }
            let mut spec_confirmed = false;
            if let Ok(now) = there.get("volume", "a").await {
                spec_confirmed = there.update_spec("volume", "a", now.generation, "n", json!({"v": 1})).await.is_ok();
            }
            let reached = store.counts().total() >= number;
            store.clear();
            let end = catalog(&shared).get("volume", "a").await.unwrap();
            let n = end.status["n"].as_u64().unwrap();
            assert!((confirmed..=tried).contains(&n), "{context}: {confirmed} confirmed, {tried} tried, {n} there");
            if spec_confirmed {
                assert_eq!((&end.spec, end.generation), (&json!({"v": 1}), 2), "{context}");
            }
            assert!(here.get("volume", "a").await.unwrap().revision == end.revision, "{context}");
            if !reached {
                break;
            }
        }
    }
}
