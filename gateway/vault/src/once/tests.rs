//! Every way in which a create's outcome can be unknown.

use std::sync::Arc;

use super::*;
use crate::faulty::{Effect, FaultyStore, OpKind, Rule};
use crate::store::{Access, open_store};

async fn faulty() -> Arc<FaultyStore> {
    FaultyStore::new(open_store("memory:", Access::Create).await.unwrap())
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn a_plain_create_is_one_request() {
    let store = faulty().await;
    assert_eq!(create_exact(&*store, "k", bytes("ours")).await.unwrap(), Landed::Now);
    assert_eq!(store.counts().total(), 1);
}

#[tokio::test]
async fn a_lost_reply_counts_as_success() {
    for effect in [Effect::FailAfter, Effect::TimeoutAfter] {
        let store = faulty().await;
        store.inject(Rule::new(effect).on(OpKind::Create).times(1));
        assert_eq!(create_exact(&*store, "k", bytes("ours")).await.unwrap(), Landed::Before);
        assert_eq!(store.get("k", 9).await.unwrap(), "ours");
    }
}

#[tokio::test]
async fn an_earlier_attempt_of_ours_counts_as_success() {
    let store = faulty().await;
    store.create("k", bytes("ours")).await.unwrap();
    assert_eq!(create_exact(&*store, "k", bytes("ours")).await.unwrap(), Landed::Before);
    // By the caller's own test, such as a nonce at the front.
    let landed = create_once(&*store, "k", bytes("our5"), &|found| found.starts_with(b"our")).await;
    assert_eq!(landed.unwrap(), Landed::Before);
}

#[tokio::test]
async fn somebody_elses_object_is_never_taken_for_ours() {
    for theirs in ["them", "", "a much longer object than what we would have written"] {
        let store = faulty().await;
        store.create("k", bytes(theirs)).await.unwrap();
        let error = create_exact(&*store, "k", bytes("ours")).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::AlreadyExists, "{theirs:?}: {error}");
        assert_eq!(store.get("k", 99).await.unwrap(), theirs);
    }
}

#[tokio::test]
async fn what_did_not_land_is_to_be_tried_again() {
    for effect in [Effect::FailBefore, Effect::TimeoutBefore, Effect::Throttle] {
        let store = faulty().await;
        store.inject(Rule::new(effect).on(OpKind::Create).times(1));
        let error = create_exact(&*store, "k", bytes("ours")).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::Retry, "{effect:?}");
        assert_eq!(create_exact(&*store, "k", bytes("ours")).await.unwrap(), Landed::Now);
    }
}

#[tokio::test]
async fn a_time_out_hides_neither_a_stranger_nor_a_second_failure() {
    let store = faulty().await;
    store.create("k", bytes("them")).await.unwrap();
    store.inject(Rule::new(Effect::TimeoutBefore).on(OpKind::Create).times(1));
    let error = create_exact(&*store, "k", bytes("ours")).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::AlreadyExists);

    let store = faulty().await;
    store.inject(Rule::new(Effect::TimeoutAfter).on(OpKind::Create).times(1));
    store.inject(Rule::new(Effect::FailBefore).on(OpKind::Get).times(1));
    assert!(create_exact(&*store, "k", bytes("ours")).await.unwrap_err().is_retry());
    assert_eq!(create_exact(&*store, "k", bytes("ours")).await.unwrap(), Landed::Before);
}

#[tokio::test]
async fn a_refusal_is_passed_on_without_reading() {
    let store = faulty().await;
    store.inject(Rule::new(Effect::Forbidden).on(OpKind::Create));
    let error = create_exact(&*store, "k", bytes("ours")).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::Denied);
    assert_eq!(store.counts().total(), 1);
}
