//! Chains that are written, cut, reordered, put back, written twice at once, and carried over rotations of the master key.

use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::ambient::VaultOptions;
use crate::faulty::{Effect, FaultyStore, OpKind, Rule};
use crate::secret::KeySource;
use crate::store::{Access, open_store};
use crate::vault::{Vault, VaultSettings};

fn key() -> KeySource {
    KeySource::Passphrase(SecretString::from("correct horse battery"))
}

async fn made() -> (Arc<dyn Store>, Vault) {
    let store = open_store("memory:", Access::Create).await.unwrap();
    let made = Vault::create(Arc::clone(&store), VaultSettings::new("main"), &key(), VaultOptions::for_tests()).await;
    (store, made.unwrap())
}

async fn open(store: &Arc<dyn Store>) -> Vault {
    Vault::open(Arc::clone(store), &key(), VaultOptions::for_tests()).await.unwrap()
}

fn said(what: &str) -> Vec<Value> {
    vec![json!({ "what": what })]
}

async fn findings(vault: &Vault, expected: &[AuditHead]) -> Vec<(String, String)> {
    let report = vault.audit().verify(expected).await.unwrap();
    report.findings.into_iter().map(|found| (found.object, found.what)).collect()
}

/// Every object of the log and its bytes.
async fn objects(store: &Arc<dyn Store>) -> Vec<(String, bytes::Bytes)> {
    let mut found = Vec::new();
    for object in store.list("audit").await.unwrap() {
        found.push((object.key.clone(), store.get(&object.key, OBJECT_BYTES_MAX).await.unwrap()));
    }
    found
}

async fn put_back(store: &Arc<dyn Store>, all: &[(String, bytes::Bytes)]) {
    for object in store.list("audit").await.unwrap() {
        store.delete(&object.key).await.unwrap();
    }
    for (key, bytes) in all {
        store.create(key, bytes.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn a_chain_goes_on_after_a_restart_and_is_read_as_it_was_written() {
    let (store, vault) = made().await;
    assert_eq!(vault.audit().head("a").await.unwrap(), None);
    let first = vault.audit().append("a", said("one")).await.unwrap();
    assert_eq!((first.first, first.last), (1, 1));
    let many: Vec<Value> = (0..RECORDS_MAX + 3).map(|n| json!({ "n": n })).collect();
    let second = vault.audit().append("a", many.clone()).await.unwrap();
    assert_eq!((second.first, second.last), (258, 260));
    let again = open(&store).await;
    assert_eq!(again.audit().head("a").await.unwrap(), Some(second.clone()));
    let third = again.audit().append("a", said("three")).await.unwrap();
    assert_eq!((third.first, third.last), (261, 261));
    assert_eq!(again.audit().objects("a").await.unwrap(), [1, 2, 258, 261]);
    let read = again.audit().read("a", 2).await.unwrap();
    assert_eq!(read.records, many[..RECORDS_MAX]);
    let report = again.audit().verify(&[first, second, third.clone()]).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.chains.len(), 1);
    assert_eq!((report.chains[0].records, report.chains[0].head.clone()), (261, Some(third)));
    assert!(again.audit().append("a", vec![]).await.is_err());
    assert!(again.audit().append("A/..", said("x")).await.is_err());
}

#[tokio::test]
async fn every_object_that_is_changed_taken_away_or_exchanged_is_named() {
    let (store, vault) = made().await;
    for what in ["one", "two", "three"] {
        vault.audit().append("a", said(what)).await.unwrap();
    }
    vault.audit().note_others("b").await.unwrap();
    let head = vault.audit().append("b", said("knows a")).await.unwrap();
    let whole = objects(&store).await;
    assert_eq!(whole.len(), 4);
    assert_eq!(findings(&vault, &[]).await, []);

    for at in 0..whole.len() {
        // Gone. The end of `a` is known to `b`; the end of `b` to whoever noted its head.
        let mut without = whole.clone();
        let (gone, _) = without.remove(at);
        put_back(&store, &without).await;
        let found = findings(&open(&store).await, std::slice::from_ref(&head)).await;
        assert!(found.iter().any(|(object, _)| *object == gone), "{gone}: {found:?}");
        // Any bit of it.
        let bytes = whole[at].1.clone();
        for place in (0..bytes.len()).step_by(bytes.len() / 40) {
            let mut changed = whole.clone();
            let mut flipped = bytes.to_vec();
            flipped[place] ^= 4;
            changed[at].1 = flipped.into();
            put_back(&store, &changed).await;
            let found = findings(&open(&store).await, std::slice::from_ref(&head)).await;
            assert!(found.iter().any(|(object, _)| *object == gone), "{gone} at {place}: {found:?}");
        }
    }
    // Two in each other's place.
    let mut swapped = whole.clone();
    let (one, two) = (swapped[0].1.clone(), swapped[1].1.clone());
    (swapped[0].1, swapped[1].1) = (two, one);
    put_back(&store, &swapped).await;
    let found = findings(&open(&store).await, &[]).await;
    assert!(found.iter().any(|(object, _)| *object == whole[0].0), "{found:?}");
    // A whole chain.
    put_back(&store, &whole[3..]).await;
    let found = findings(&open(&store).await, &[]).await;
    assert!(found.iter().any(|(object, what)| *object == whole[2].0 && what.contains("gone")), "{found:?}");
    put_back(&store, &whole).await;
    assert_eq!(findings(&open(&store).await, &[head]).await, []);
}

#[tokio::test]
async fn what_was_cut_off_shows_once_the_writer_goes_on_after_what_it_knew() {
    let (store, vault) = made().await;
    vault.audit().append("a", said("one")).await.unwrap();
    let early = objects(&store).await;
    let known = vault.audit().append("a", said("two")).await.unwrap();
    put_back(&store, &early).await;
    // Who knows nothing sees nothing: the end of a chain is vouched for by others only.
    let later = open(&store).await;
    assert_eq!(findings(&later, &[]).await, []);
    assert_eq!(later.audit().head("a").await.unwrap().map(|head| head.last), Some(1));
    later.audit().go_on_after(&known).await.unwrap();
    later.audit().append("a", said("three")).await.unwrap();
    let found = findings(&later, &[]).await;
    assert!(
        matches!(&found[..], [(object, what)] if object.ends_with("/000000000002.json") && what.contains("missing"))
    );
}

#[tokio::test]
async fn two_processes_with_one_state_and_lost_answers_fork_nothing() {
    let (store, vault) = made().await;
    let twin = open(&store).await;
    for round in 0..5 {
        vault.audit().append("a", said(&format!("mine {round}"))).await.unwrap();
        twin.audit().append("a", said(&format!("its {round}"))).await.unwrap();
    }
    assert_eq!(vault.audit().head("a").await.unwrap().map(|head| head.last), Some(10));
    assert_eq!(findings(&vault, &[]).await, []);

    // Every request of an append fails once, with and without effect: tried again, the records are there.
    for effect in [Effect::FailBefore, Effect::FailAfter, Effect::TimeoutAfter] {
        for request in 1..=3_u64 {
            let faulty = FaultyStore::new(Arc::clone(&store));
            let vault = open(&(Arc::clone(&faulty) as Arc<dyn Store>)).await;
            for kind in [OpKind::Create, OpKind::Get, OpKind::List] {
                faulty.inject(Rule::new(effect).on(kind).nth(request).times(1));
            }
            let what = format!("{effect:?} {request}");
            let mut tries = 0;
            while vault.audit().append("a", said(&what)).await.is_err() {
                tries += 1;
                assert!(tries < 9, "{what}");
            }
            let report = vault.audit().verify(&[]).await;
            let report = match report {
                Ok(report) => report,
                Err(_) => open(&store).await.audit().verify(&[]).await.unwrap(),
            };
            assert_eq!(report.findings, [], "{what}");
            let head = open(&store).await.audit().head("a").await.unwrap().unwrap();
            let newest = open(&store).await.audit().read("a", head.first).await.unwrap();
            assert_eq!(newest.records, said(&what));
        }
    }
}

#[tokio::test]
async fn old_objects_are_vouched_for_by_newer_ones_after_the_master_key_was_replaced() {
    let (store, vault) = made().await;
    vault.audit().append("a", said("old")).await.unwrap();
    vault.audit().append("lost-gateway", said("old")).await.unwrap();
    vault.audit().note_others("a").await.unwrap();
    vault.audit().append("a", said("knows the other")).await.unwrap();
    let vault = rotated(&store, &vault).await;
    vault.audit().append("a", said("new")).await.unwrap();
    // The chain of a gateway that writes no more is named by an object that is vouched for itself.
    let unsure = findings(&vault, &[]).await;
    assert!(unsure.iter().all(|(object, _)| object.starts_with("audit/lost-gateway/")), "{unsure:?}");
    vault.audit().note_others("a").await.unwrap();
    vault.audit().append("a", said("names it again")).await.unwrap();
    assert_eq!(findings(&vault, &[]).await, []);
}

#[tokio::test]
async fn who_has_a_master_key_of_long_ago_can_add_nothing_that_goes_unnoticed() {
    let (store, vault) = made().await;
    let old = vault.audit().shared.masters.newest();
    let vault = rotated(&store, &vault).await;
    let head = vault.audit().append("a", said("one")).await.unwrap();
    let key = object_key("a", 2);
    let forged = Content {
        writer: "a".to_owned(),
        first: 2,
        before: parse_hash(&head.hash).unwrap(),
        others: BTreeMap::new(),
        nonce: Binary([7; 16]),
        records: said("never happened"),
    };
    store.create(&key, old.seal(LABEL_MAC, &key, &forged, OBJECT_BYTES_MAX).unwrap()).await.unwrap();
    let found = findings(&open(&store).await, &[]).await;
    assert!(found.iter().any(|(object, what)| *object == key && what.contains("replaced")), "{found:?}");
    let refused = vault.audit().append("a", said("two")).await.unwrap_err();
    assert!(refused.kind() == VaultErrorKind::Tampered && refused.to_string().contains(&key), "{refused}");
}

/// Replaces the master key until nothing needs the first one, and opens the vault again.
async fn rotated(store: &Arc<dyn Store>, vault: &Vault) -> Vault {
    for _ in 0..2 {
        vault.rotate_master(vault.info().master, &[], false).await.unwrap();
    }
    let vault = open(store).await;
    assert!(vault.audit().shared.masters.get(1).is_none());
    vault
}
