//! Jobs of a group that a mobility agent has, while no gateway has the agent's line: refused when that is known, and failed in
//! the end when it wasn't. What an agent does when it is told is tried with real ones (`acceptance/tests/agent.rs`).

use lifeboat_api::{ClientError, ClientErrorKind, PointRequest};
use lifeboat_model::{GatewayId, Timestamp};

use super::*;
use crate::records::GatewayRecord;
use crate::vaults::AttachedVault;

fn attached(pair: &Pair) -> Arc<AttachedVault> {
    pair.running.as_ref().expect("up").1.context.vaults.all().remove(0)
}

/// Gives the group of the pair's volume to an agent.
async fn handed_over(pair: &Pair, group: GroupId, heard: Option<Timestamp>) -> GatewayId {
    let (agent, attached) = (GatewayId::new(), attached(pair));
    let vault = attached.vault().expect("open");
    let site = pair.b().find_by_name::<Site>("east").await.expect("list").expect("declared");
    let spec = GatewaySpec { site_id: site.id, name: "web".into(), roles: None, mount_path: None };
    let record = GatewayRecord { agent: true, process_id: Some("agt".into()), heard, ..GatewayRecord::default() };
    let (spec, record) = (serde_json::to_value(spec).expect("json"), serde_json::to_value(record).expect("json"));
    vault.catalog().create(kind::GATEWAYS, &agent.to_string(), "web", spec, record).await.expect("written");
    super::super::change_group_by_id(&attached, group, |record| {
        if let Some(active) = record.active.as_mut() {
            active.gateway = agent;
        }
        true
    })
    .await
    .expect("written");
    let client = pair.b();
    eventually("it is known", async || {
        let found = client.read::<Group>(&group.to_string()).await.expect("read");
        (found.status.active_gateway_id == Some(agent)).then_some(())
    })
    .await;
    agent
}

async fn heard(pair: &Pair, agent: GatewayId, at: Timestamp) {
    let aged = |document: &lifeboat_vault::Document| {
        let record = GatewayRecord { heard: Some(at), ..status(document) };
        serde_json::to_value(record).ok()
    };
    let attached = attached(pair);
    let vault = attached.vault().expect("open");
    vault.catalog().update_status(kind::GATEWAYS, &agent.to_string(), &mut { aged }).await.expect("written");
    attached.refresh().await.expect("read");
}

fn long_ago() -> Timestamp {
    Timestamp::from_micros(Timestamp::now().as_micros() - 70_000_000)
}

fn refused(answer: Result<Job, ClientError>) -> String {
    let error = answer.expect_err("refused");
    assert_eq!(error.kind(), ClientErrorKind::Conflict, "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_is_to_do_is_refused_while_nobody_can_tell_it() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let agent = handed_over(&pair, group, None).await;
    let (b, text) = (pair.b(), group.to_string());
    let planned = refused(b.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await);
    assert!(planned.contains("the agent web") && planned.contains("older version"), "{planned}");
    heard(&pair, agent, long_ago()).await;
    for answer in [
        b.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await,
        b.group_verb(&text, "point", &PointRequest { label: String::new(), app_consistent: false }).await,
        b.group_verb(&text, "release", &ReleaseRequest::default()).await,
        b.group_verb(&text, "resync", &ResyncRequest { compare: false }).await,
    ] {
        let said = refused(answer);
        assert!(said.contains("the agent web") && said.contains("start it"), "{said}");
    }
    heard(&pair, agent, Timestamp::now()).await;
    // Whose hooks those would be is the agent's to say, whatever is declared for gateways.
    let quiet = PointRequest { label: String::new(), app_consistent: true };
    let without = refused(b.group_verb(&text, "point", &quiet).await);
    assert!(without.contains("the agent web") && without.contains("no hooks"), "{without}");
    let vault = attached(&pair).vault().expect("open");
    let hooks = |document: &lifeboat_vault::Document| {
        serde_json::to_value(GatewayRecord { hooks_ms: Some(5000), follows_policy: true, ..status(document) }).ok()
    };
    vault.catalog().update_status(kind::GATEWAYS, &agent.to_string(), &mut { hooks }).await.expect("written");
    attached(&pair).refresh().await.expect("read");
    let begun = b.group_verb(&text, "point", &quiet).await.expect("it has some now");
    heard(&pair, agent, long_ago()).await;
    let over = b.wait_for_job(&begun.id.to_string(), |_| ()).await.expect("over");
    assert!(over.cause.is_some_and(|cause| cause.contains("not heard of")));
    heard(&pair, agent, Timestamp::now()).await;
    let compare = refused(b.group_verb(&text, "resync", &ResyncRequest { compare: true }).await);
    assert!(compare.contains("compare"), "{compare}");
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_an_agent_that_is_heard_no_more_fails_its_job_begun_or_not() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let agent = handed_over(&pair, group, Some(Timestamp::now())).await;
    let (b, text) = (pair.b(), group.to_string());
    for begun in [false, true] {
        heard(&pair, agent, Timestamp::now()).await;
        let planned = b.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
        let (_, job) = pair.job(planned.id).await;
        assert_eq!(job.steps.first().map(|step| (step.gateway, step.state)), Some((agent, JobState::Queued)));
        if begun {
            super::super::change_job(&attached(&pair), planned.id, |record| {
                record.state = JobStateRecord(JobState::Running);
                record.started = Some(long_ago());
                record.steps.iter_mut().take(1).for_each(|step| step.state = JobState::Running);
                true
            })
            .await
            .expect("written");
        }
        heard(&pair, agent, long_ago()).await;
        let over = b.wait_for_job(&planned.id.to_string(), |_| ()).await.expect("over");
        let cause = over.cause.unwrap_or_default();
        assert!(cause.contains("the agent web was not heard of") && cause.contains("unplanned"), "{begun}: {cause}");
    }
    // A job of the agent's own alone ends as well.
    heard(&pair, agent, Timestamp::now()).await;
    let point = PointRequest { label: String::new(), app_consistent: false };
    let point = b.group_verb(&text, "point", &point).await.expect("asked");
    heard(&pair, agent, long_ago()).await;
    let over = b.wait_for_job(&point.id.to_string(), |_| ()).await.expect("over");
    assert!(over.cause.is_some_and(|cause| cause.contains("not heard of")));
    pair.kill().await;
}
