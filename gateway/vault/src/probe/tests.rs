//! Backends that keep their promises pass; each way of breaking one is refused by its name.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::faulty::{Effect, FaultyStore, OpKind, Rule};
use crate::store::{Access, ObjectMeta, open_store};

async fn memory() -> Arc<dyn Store> {
    open_store("memory:", Access::Create).await.unwrap()
}

#[tokio::test]
async fn honest_backends_pass_and_keep_nothing() {
    let home = tempfile::tempdir().unwrap();
    let directory = open_store(&format!("file://{}/v", home.path().display()), Access::Create).await.unwrap();
    for store in [memory().await, directory] {
        probe(&*store, &Entropy::system()).await.unwrap();
        assert!(store.list("").await.unwrap().is_empty());
    }
}

async fn verdict(store: &dyn Store) -> String {
    let error = probe(store, &Entropy::system()).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Unsafe, "{error}");
    error.to_string()
}

#[tokio::test]
async fn planned_lies_are_refused() {
    for (rule, why) in [
        (Rule::new(Effect::Overwrite).on(OpKind::Create), "second create-only write"),
        (Rule::new(Effect::StaleList(1)).on(OpKind::List), "does not show an object that was just written"),
        (Rule::new(Effect::StaleList(1)).on(OpKind::List).nth(2).times(1), "listing by directory"),
        (Rule::new(Effect::Corrupt).on(OpKind::Get), "other bytes"),
        (Rule::new(Effect::Truncate).on(OpKind::Get), "other bytes"),
        (Rule::new(Effect::Corrupt).on(OpKind::GetRange), "exact ranges"),
        (Rule::new(Effect::Truncate).on(OpKind::GetRange), "exact ranges"),
    ] {
        let store = FaultyStore::new(memory().await);
        store.inject(rule.clone());
        let verdict = verdict(&*store).await;
        assert!(verdict.contains(why), "{rule:?}: {verdict}");
    }
}

#[tokio::test]
async fn an_outage_is_no_verdict() {
    for (effect, kind) in [(Effect::Throttle, VaultErrorKind::Retry), (Effect::Forbidden, VaultErrorKind::Denied)] {
        let mut number = 1;
        loop {
            let store = FaultyStore::new(memory().await);
            store.inject(Rule::new(effect).at_request(number));
            let result = probe(&*store, &Entropy::system()).await;
            if store.counts().total() < number {
                break;
            }
            // The last two requests clean up, which is allowed to fail.
            if let Err(error) = result {
                assert_eq!(error.kind(), kind, "request {number}: {error}");
            }
            number += 1;
        }
        assert!(number > 15, "the walk went over all requests");
    }
}

/// A racer whose reply is lost still won: that is no lie of the backend's.
#[tokio::test]
async fn a_lost_reply_in_the_race_is_no_verdict() {
    for effect in [Effect::TimeoutAfter, Effect::TimeoutBefore, Effect::FailAfter, Effect::Throttle] {
        for number in 1..=2 {
            let store = FaultyStore::new(memory().await);
            // The first two creates are of the single object.
            store.inject(Rule::new(effect).on(OpKind::Create).nth(2 + number).times(1));
            probe(&*store, &Entropy::system()).await.unwrap();
        }
    }
}

/// Lies that no plan of faults tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    ShiftedRange,
    WholeObjectForRange,
    RefusesAndOverwrites,
    DeletesNothing,
    ListsDeleted,
    WrongSize,
    BothRacersWin,
}

#[derive(Debug)]
struct Liar {
    inner: Arc<dyn Store>,
    lie: Lie,
}

#[async_trait]
impl Store for Liar {
    fn url(&self) -> &'static str {
        "memory:liar"
    }
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        if self.lie == Lie::BothRacersWin && key.ends_with("raced") {
            self.inner.delete(key).await?;
        }
        let result = self.inner.create(key, bytes.clone()).await;
        if self.lie == Lie::RefusesAndOverwrites && result.is_err() {
            self.inner.delete(key).await?;
            self.inner.create(key, bytes).await?;
        }
        result
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.inner.get(key, max_bytes).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self.lie {
            Lie::ShiftedRange if range.start > 0 => self.inner.get_range(key, range.start - 1..range.end - 1).await,
            Lie::WholeObjectForRange => self.inner.get(key, 4096).await,
            _ => self.inner.get_range(key, range).await,
        }
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = self.inner.list(prefix).await?;
        if self.lie == Lie::ListsDeleted && !found.iter().any(|object| object.key.ends_with("single")) {
            let key = format!("{prefix}/single");
            found.push(ObjectMeta { key, size: 64, modified: lifeboat_model::Timestamp::default() });
        }
        Ok(found)
    }
    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list_after(prefix, after).await
    }
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list_dirs(prefix).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let mut meta = self.inner.head(key).await?;
        meta.size += u64::from(self.lie == Lie::WrongSize);
        Ok(meta)
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        if self.lie == Lie::DeletesNothing { Ok(()) } else { self.inner.delete(key).await }
    }
}

#[tokio::test]
async fn other_lies_are_refused() {
    for (lie, why) in [
        (Lie::ShiftedRange, "exact ranges"),
        (Lie::WholeObjectForRange, "exact ranges"),
        (Lie::RefusesAndOverwrites, "overwrites it all the same"),
        (Lie::DeletesNothing, "still returns an object after deleting"),
        (Lie::ListsDeleted, "still shows an object after deleting"),
        (Lie::WrongSize, "wrong size"),
        (Lie::BothRacersWin, "both succeed"),
    ] {
        let liar = Liar { inner: memory().await, lie };
        let verdict = verdict(&liar).await;
        assert!(verdict.contains(why) && verdict.contains("memory:liar"), "{lie:?}: {verdict}");
    }
}
