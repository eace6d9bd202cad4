//! A gateway is lost, and another one of its site takes over what it had.

use lifeboat_api::{Event, MoveGroupRequest, ReplaceGatewayRequest, VolumeSpec};
use lifeboat_model::GatewayId;

use super::*;

fn by(gateway_id: GatewayId, force: bool) -> ReplaceGatewayRequest {
    ReplaceGatewayRequest { gateway_id, force, leave_disks: false }
}

impl Pair {
    async fn id_of(&self, name: &str) -> GatewayId {
        self.b().find_by_name::<GatewayView>(name).await.expect("list").expect("declared").id
    }

    async fn replace(&self, lost: &str, body: &ReplaceGatewayRequest) -> Result<Job, lifeboat_api::ClientError> {
        self.b().verb::<GatewayView>(&self.id_of(lost).await.to_string(), "replace", body).await
    }

    async fn volume(&self, volume: &Volume) -> Volume {
        self.b().read(&volume.id.to_string()).await.expect("volume")
    }

    /// The job that moved the only group of a replacement, which names the instance.
    fn child(record: &JobRecord) -> JobId {
        *record.result.jobs.first().expect("one group")
    }

    async fn is_at_home(&self, volume: &Volume, gateway: GatewayId) -> Volume {
        eventually("at home there", async || {
            let found = self.volume(volume).await;
            let settled = found.status.state == ProtectionState::Protected && found.status.job_id.is_none();
            let named = found.spec.gateway_id == gateway && found.status.home_gateway_id == Some(gateway);
            (settled && named).then_some(found)
        })
        .await
    }

    async fn said(&self, client: &Client) -> String {
        eventually("it says so", async || {
            let events: Vec<Event> = client.list("/v1/events", &[]).await.expect("events");
            events.into_iter().find(|event| event.kind == "group.left").map(|event| event.message)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gateway_is_replaced_whenever_they_are_killed_and_shows_what_it_had_when_it_is_back() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let (a, b, c) = (pair.id_of("a").await, pair.id_of("b").await, pair.id_of("c").await);
    let refusals = [
        (by(c, false), "was heard of less than"),
        (by(a, true), "is the gateway that is to be replaced"),
        (by(b, true), "is of another: to run there, fail over"),
        (by(GatewayId::new(), true), "there is no gateway"),
    ];
    for (body, why) in refusals {
        let refused = pair.replace("a", &body).await.expect_err("refused").to_string();
        assert!(refused.contains(why), "{refused}");
    }
    brake::hold();
    let job = pair.replace("a", &by(c, true)).await.expect("replaces");
    assert_eq!(job.kind, JobKind::ReplaceGateway);
    let (record, kills) = pair.disturb(job.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert!(record.result.rpo_seconds.is_some() && record.result.rto_seconds.is_some(), "{record:?}");
    pair.sole_writer(group, &format!("c/{}", Pair::child(&record))).await;
    pair.is_at_home(&volume, c).await;

    // It runs again, and shows what it had.
    let said = pair.said(&pair.a()).await;
    assert!(said.contains("served by the gateway c") && said.contains("is kept on the branch"), "{said}");
    assert!(pair.instance_dir(group, "a/home").exists(), "its copy isn't given up");
    let lost: GatewayView = eventually("it says that it was replaced", async || {
        let found: GatewayView = pair.a().read(&a.to_string()).await.expect("gateway");
        found.status.reasons.iter().any(|reason| reason.contains("replaced by the gateway c")).then_some(found)
    })
    .await;
    assert_eq!(lost.status.replaced_by, Some(c));
    pair.kill().await;
    pair.up().await;
    pair.sole_writer(group, &format!("c/{}", Pair::child(&record))).await;
    let events: Vec<Event> = pair.a().list("/v1/events", &[]).await.expect("events");
    assert_eq!(events.iter().filter(|event| event.kind == "group.left").count(), 1, "its tail is kept once");

    // Nothing names it any more.
    let client = pair.b();
    client.delete::<GatewayView>(&a.to_string(), lost.generation).await.expect("it can be deleted");
    // And it isn't the home that a failback goes to.
    let over = client.group_verb(&group.to_string(), "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    assert_eq!(self::over(&client, &over).await.state, JobState::Succeeded);
    let back = FailbackRequest::new(FailbackMode::MinimizeDowntime);
    let back = client.group_verb(&group.to_string(), "failback", &back).await.expect("failback");
    assert_eq!(self::over(&client, &back).await.state, JobState::Succeeded);
    pair.sole_writer(group, &format!("c/{}", Pair::child(&record))).await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_killed_inside_every_step_comes_to_its_end() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let c = pair.id_of("c").await;
    let places = [
        "fail over: begins",
        "fail over: fenced",
        "fail over: the branch is there",
        "fail over: done",
        "keep: begins",
        "keep: done",
    ];
    pair.fake.kill_at(&places);
    let job = pair.replace("a", &by(c, true)).await.expect("replaces");
    let record = pair.revive(job.id).await;
    succeeded(&record);
    let writer = format!("c/{}", Pair::child(&record));
    pair.is_at_home(&volume, c).await;
    // What it keeps when it is back is tried until it is done, too.
    for place in ["keep: begins", "keep: done"] {
        eventually("it is killed in the middle", async || pair.fake.killed().contains(&place).then_some(())).await;
        pair.kill().await;
        pair.up().await;
    }
    let said = pair.said(&pair.a()).await;
    assert!(said.contains("for reading only"), "{said}");
    pair.sole_writer(group, &writer).await;
    assert_eq!(pair.fake.killed().len(), places.len());
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_lost_while_its_group_is_away_is_replaced_where_the_group_comes_back_to() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let (text, c) = (group.to_string(), pair.id_of("c").await);
    let client = pair.b();
    let over = client.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    assert_eq!(self::over(&client, &over).await.state, JobState::Succeeded);
    brake::hold();
    let job = pair.replace("a", &by(c, true)).await.expect("replaces");
    succeeded(&pair.disturb(job.id).await.0);
    pair.sole_writer(group, &format!("b/{}", over.id)).await;
    let moved = eventually("the declaration follows", async || {
        // Whoever answers may not have seen yet that the job is over.
        let found = pair.volume(&volume).await;
        (found.spec.gateway_id == c && found.status.state == ProtectionState::FailedOver).then_some(found)
    })
    .await;
    assert_eq!(moved.status.home_gateway_id, Some(c));
    let client = pair.b();
    let back = FailbackRequest::new(FailbackMode::MinimizeDowntime);
    let back = client.group_verb(&text, "failback", &back).await.expect("failback");
    assert_eq!(self::over(&client, &back).await.state, JobState::Succeeded);
    pair.sole_writer(group, "c/home").await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_gateway_that_is_lost_is_replaced_and_the_group_still_comes_home() {
    let (mut pair, volume) = Pair::start_three("west").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let (text, a, c) = (group.to_string(), pair.id_of("a").await, pair.id_of("c").await);
    let over = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    assert_eq!(self::over(&pair.b(), &over).await.state, JobState::Succeeded);
    let test = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Test)).await.expect("test");
    assert_eq!(self::over(&pair.b(), &test).await.state, JobState::Succeeded);
    brake::hold();
    let job = pair.replace("b", &by(c, true)).await.expect("replaces");
    let (record, _) = pair.disturb(job.id).await;
    succeeded(&record);
    pair.sole_writer(group, &format!("c/{}", Pair::child(&record))).await;
    let found = eventually("it is told", async || {
        let found: Group = pair.a().read(&text).await.expect("group");
        (found.status.active_gateway_id == Some(c)).then_some(found)
    })
    .await;
    assert_eq!((found.status.state, found.status.home_gateway_id), (ProtectionState::FailedOver, Some(a)));
    assert!(found.status.failover.is_some(), "it is still failed over");
    // What was tested at the lost one is cleaned up without it.
    assert_eq!(found.status.tests.iter().map(|test| test.gateway_id).collect::<Vec<_>>(), [c]);
    let cleanup = CleanupRequest { branch_id: None };
    let cleanup = pair.a().group_verb(&text, "cleanup", &cleanup).await.expect("cleanup");
    assert_eq!(self::over(&pair.a(), &cleanup).await.state, JobState::Succeeded);
    let back = FailbackRequest::new(FailbackMode::MinimizeDowntime);
    let back = pair.a().group_verb(&text, "failback", &back).await.expect("failback");
    assert_eq!(self::over(&pair.a(), &back).await.state, JobState::Succeeded);
    pair.sole_writer(group, "a/home").await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_lost_gateway_is_ended_and_what_it_never_set_up_is_set_up() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let (text, c) = (group.to_string(), pair.id_of("c").await);
    let (first, second) = pair.running.take().expect("up");
    first.stop().await;
    pair.running = Some((pair.alone("idle", "nowhere").await, second));
    let client = pair.b();
    let spec = VolumeSpec { name: "late".into(), ..volume.spec.clone() };
    let late = client.create::<Volume>(&spec).await.expect("declared at the lost one");
    let stuck = client.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    let job = pair.replace("a", &by(c, true)).await.expect("replaces");
    assert_eq!(self::over(&client, &job).await.state, JobState::Succeeded);
    let ended = self::over(&client, &stuck).await;
    assert_eq!(ended.state, JobState::Failed);
    let cause = ended.cause.expect("a cause");
    assert!(cause.contains("the gateway a was replaced"), "{cause}");
    pair.is_at_home(&volume, c).await;
    pair.is_at_home(&late, c).await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_moved_to_another_home_and_back_whenever_they_are_killed() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let (text, a, b, c) = (group.to_string(), pair.id_of("a").await, pair.id_of("b").await, pair.id_of("c").await);
    let to = |gateway_id| MoveGroupRequest { gateway_id, leave_disks: false };
    for (gateway, why) in [(a, "is at home there"), (b, "is of another: to run there, fail over")] {
        let refused = pair.b().group_verb(&text, "move", &to(gateway)).await.expect_err("refused").to_string();
        assert!(refused.contains(why), "{refused}");
    }
    for (gateway, name, old) in [(c, "c", "a"), (a, "a", "c")] {
        brake::hold();
        let job = pair.b().group_verb(&text, "move", &to(gateway)).await.expect("moves");
        let (record, kills) = pair.disturb(job.id).await;
        succeeded(&record);
        assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
        assert_eq!(record.result.rpo_seconds, Some(0.0));
        pair.sole_writer(group, &format!("{name}/{}", job.id)).await;
        let found = eventually("at home there", async || {
            let found = pair.volume(&volume).await;
            (found.status.home_gateway_id == Some(gateway) && found.status.job_id.is_none()).then_some(found)
        })
        .await;
        // The declaration may stay, as after a failback to another gateway.
        assert_eq!((found.spec.gateway_id, found.status.state), (a, ProtectionState::Protected));
        pair.nothing_left(old, group).await;
    }
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_isnt_declared_as_a_master_target_receives_no_failback() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let (text, a, c) = (group.to_string(), pair.id_of("a").await, pair.id_of("c").await);
    let client = pair.b();
    let over = client.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    assert_eq!(self::over(&client, &over).await.state, JobState::Succeeded);
    for (name, gateway, named) in [("a", a, None), ("c", c, Some(c))] {
        let found: GatewayView = client.read(&gateway.to_string()).await.expect("declared");
        let roles = serde_json::json!({"roles": ["configuration_server", "process_server"]});
        client.patch::<GatewayView>(&gateway.to_string(), found.generation, &roles).await.expect("changes");
        let back = FailbackRequest { gateway_id: named, ..FailbackRequest::new(FailbackMode::Create) };
        for verb in ["failback", "reprotect"] {
            let asked = match verb {
                "failback" => client.group_verb(&text, verb, &back).await,
                // It goes home, whoever else was named for a failback.
                _ if named.is_some() => continue,
                _ => client.group_verb(&text, verb, &lifeboat_api::ReprotectRequest {}).await,
            };
            let refused = asked.expect_err("refused").to_string();
            assert!(refused.contains(&format!("{name} isn't declared as a master target")), "{refused}");
        }
    }
    pair.kill().await;
}
