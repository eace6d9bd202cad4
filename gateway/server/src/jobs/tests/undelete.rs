//! A deletion that is taken back, broken off at each place and asked for again: it comes to the same end.

use lifeboat_api::{DeletedGroup, JobKind, PointRequest, Policy, UndeleteRequest};

use super::*;
use crate::http::undelete::restore_volume;
use crate::jobs::{plan, write_down};
use crate::records::JobSpec;

async fn delete<R: lifeboat_api::Resource + lifeboat_api::client::Collection>(client: &Client, name: &str) {
    let found: R = client.find_by_name(name).await.expect("list").expect("declared");
    client.delete::<R>(&found.id(), found.generation()).await.expect("deleted");
}

/// How far a request came before the gateway stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    ThePolicy,
    TheVolume,
    TheJob,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_broken_off_at_any_place_is_asked_for_again() {
    for left in [Left::Nothing, Left::ThePolicy, Left::TheVolume, Left::TheJob] {
        let (mut pair, volume) = Pair::start().await;
        let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
        let text = group.to_string();
        let taken = pair.a().group_verb(&text, "point", &PointRequest::default()).await.expect("a point");
        pair.a().wait_for_job(&taken.id.to_string(), |_| ()).await.expect("over");
        delete::<Volume>(&pair.a(), "db").await;
        delete::<Policy>(&pair.a(), "gold").await;
        let before: Vec<DeletedGroup> = pair.a().list("/v1/deleted-groups", &[]).await.expect("list");
        assert_eq!(before.len(), 1, "{before:?}");
        eventually("its files are gone", async || pair.writers(group).is_empty().then_some(())).await;

        let attached = pair.running.as_ref().expect("up").0.context.vaults.all().remove(0);
        let vault = attached.vault().expect("open");
        let catalog = vault.catalog();
        if left >= Left::ThePolicy {
            let policy = catalog.list_deleted(kind::POLICIES).await.expect("list").remove(0);
            catalog.restore(kind::POLICIES, &policy.id, &mut |policy| policy.status.clone()).await.expect("restored");
        }
        if left >= Left::TheVolume {
            restore_volume(catalog, &volume.id.to_string()).await.expect("restored");
        }
        if left >= Left::TheJob {
            let own = pair.running.as_ref().expect("up").0.context.own_gateway(&attached).expect("registered");
            let spec = JobSpec::new(JobKind::UnplannedFailover, group, "db", own);
            let steps = plan::failover(JobKind::UnplannedFailover, own, Some(own));
            let id = JobId::from_bytes([7; 16]);
            write_down(&attached, id, &AnySpec::Group(Box::new(spec)), steps).await.expect("written");
        }
        pair.kill().await;
        pair.up().await;
        for name in ["a", "b"] {
            registered(&pair.a(), name).await;
        }

        let listed: Vec<DeletedGroup> = pair.a().list("/v1/deleted-groups", &[]).await.expect("list");
        assert_eq!(listed, before, "{left:?}: the same can come back, from the same time");
        let job = pair.a().group_verb(&text, "undelete", &UndeleteRequest::default()).await;
        let job = job.unwrap_or_else(|error| panic!("{left:?}: {error}"));
        let job = pair.a().wait_for_job(&job.id.to_string(), |_| ()).await.expect("over");
        assert_eq!(job.state, JobState::Succeeded, "{left:?}: {job:?}");
        pair.sole_writer(group, &format!("a/{}", job.id)).await;
        assert!(pair.a().find_by_name::<Policy>("gold").await.expect("list").is_some(), "{left:?}");
        let listed: Vec<DeletedGroup> = pair.a().list("/v1/deleted-groups", &[]).await.expect("list");
        assert!(listed.is_empty(), "{left:?}: {listed:?}");
        let again = pair.a().group_verb(&text, "undelete", &UndeleteRequest::default()).await.expect_err("is there");
        assert!(again.to_string().contains("nothing to undo"), "{again}");
        pair.kill().await;
    }
}
