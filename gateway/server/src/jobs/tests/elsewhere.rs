//! A home site with two gateways: a group, or a plan, comes home to another one than it left, and is at home there from then on.

use lifeboat_api::{Event, Machine, StartRequest, VolumeSource, VolumeSpec};
use lifeboat_model::GatewayId;

use super::programs::{Shop, failover};
use super::*;

const MODES: [FailbackMode; 3] = [FailbackMode::MinimizeDowntime, FailbackMode::FullDownload, FailbackMode::Create];

async fn id_of(client: &Client, name: &str) -> GatewayId {
    client.find_by_name::<GatewayView>(name).await.expect("list").expect("declared").id
}

fn to(mode: FailbackMode, gateway: GatewayId) -> FailbackRequest {
    FailbackRequest::to(mode, gateway)
}

/// The volume, at a gateway that knows it to be at home there.
async fn at_home(client: &Client, volume: &Volume, gateway: GatewayId) -> Volume {
    eventually("at home there", async || {
        let found: Volume = client.read(&volume.id.to_string()).await.expect("volume");
        let settled = found.status.state == ProtectionState::Protected && found.status.job_id.is_none();
        (settled && found.status.home_gateway_id == Some(gateway)).then_some(found)
    })
    .await
}

/// What a gateway says about copies that it gave up.
async fn said_of_left(client: &Client) -> Vec<String> {
    let events: Vec<Event> = client.list("/v1/events", &[]).await.expect("events");
    events.into_iter().filter(|event| event.kind == "group.left").map(|event| event.message).collect()
}

impl Pair {
    fn instances(&self, gateway: &str, group: GroupId) -> Vec<String> {
        let at = self.dir.path().join(gateway).join("groups").join(group.to_string());
        let Ok(entries) = std::fs::read_dir(at) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(super) async fn nothing_left(&self, gateway: &str, group: GroupId) {
        eventually(&format!("{gateway} gives its copy up"), async || {
            self.instances(gateway, group).is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_comes_home_to_another_gateway_by_every_mode_whenever_they_are_killed() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    let (a, c) = (id_of(&pair.b(), "a").await, id_of(&pair.b(), "c").await);
    for (round, mode) in MODES.into_iter().enumerate() {
        let (home, name, old) = if round % 2 == 0 { (c, "c", "a") } else { (a, "a", "c") };
        brake::hold();
        let over = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
        succeeded(&pair.disturb(over.id).await.0);
        pair.sole_writer(group, &format!("b/{}", over.id)).await;
        protected(&pair.b(), &volume, ProtectionState::FailedOver).await;
        brake::hold();
        let back = pair.b().group_verb(&text, "failback", &to(mode, home)).await.expect("failback");
        let (record, kills) = pair.disturb(back.id).await;
        succeeded(&record);
        assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
        pair.sole_writer(group, &format!("{name}/home")).await;
        at_home(&pair.b(), &volume, home).await;
        pair.nothing_left(old, group).await;
        pair.nothing_left("b", group).await;
    }
    // It is at home where it came to: a failback that names nothing goes there.
    brake::hold();
    let over = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    succeeded(&pair.disturb(over.id).await.0);
    brake::hold();
    let back = pair.b().group_verb(&text, "failback", &FailbackRequest::new(MODES[0])).await.expect("failback");
    succeeded(&pair.disturb(back.id).await.0);
    pair.sole_writer(group, "c/home").await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_home_that_comes_back_gives_its_copy_up_and_says_so() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    let c = id_of(&pair.b(), "c").await;
    let (first, second) = pair.running.take().expect("up");
    first.stop().await;
    pair.running = Some((pair.alone("idle", "nowhere").await, second));
    let over = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Unplanned)).await.expect("unplanned");
    assert_eq!(self::over(&pair.b(), &over).await.state, JobState::Succeeded);
    let back = pair.b().group_verb(&text, "failback", &to(FailbackMode::Create, c)).await.expect("failback");
    assert_eq!(self::over(&pair.b(), &back).await.state, JobState::Succeeded);
    at_home(&pair.c(), &volume, c).await;
    assert_eq!(pair.instances("a", group), ["home"], "nobody has seen it yet");

    pair.fake.kill_at(&["leave: done"]);
    pair.kill().await;
    pair.up().await;
    eventually("it is killed in the middle", async || (!pair.fake.killed().is_empty()).then_some(())).await;
    pair.kill().await;
    pair.up().await;
    pair.nothing_left("a", group).await;
    pair.sole_writer(group, "c/home").await;
    let said = eventually("it says so", async || said_of_left(&pair.a()).await.pop()).await;
    assert!(said.contains("at home at the gateway c") && said.contains("was fenced"), "{said}");
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_gateway_of_the_home_site_becomes_a_home_and_the_declaration_follows_it() {
    let (mut pair, volume) = Pair::start_three("east").await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    let client = pair.b();
    let (b, c) = (id_of(&client, "b").await, id_of(&client, "c").await);
    let moved = VolumeSpec { gateway_id: c, ..volume.spec.clone() };
    let early = client.update::<Volume>(&volume.id.to_string(), volume.generation, &moved).await;
    assert!(early.expect_err("it isn't there").to_string().contains("can't be changed"));
    let over = client.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    assert_eq!(self::over(&client, &over).await.state, JobState::Succeeded);
    for (gateway, why) in [(b, "of another: to run there"), (GatewayId::new(), "there is no gateway")] {
        let refused = client.group_verb(&text, "failback", &to(FailbackMode::Create, gateway)).await;
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let back = client.group_verb(&text, "failback", &to(FailbackMode::FullDownload, c)).await.expect("failback");
    assert_eq!(self::over(&client, &back).await.state, JobState::Succeeded);
    let found = at_home(&client, &volume, c).await;
    assert_eq!(found.spec, volume.spec, "what is declared stays");
    let in_use = client.delete::<GatewayView>(&c.to_string(), 1).await.expect_err("it is a home");
    assert!(in_use.to_string().contains("at home there"), "{in_use}");

    let wrong = VolumeSpec { gateway_id: b, ..volume.spec.clone() };
    let wrong = client.update::<Volume>(&volume.id.to_string(), found.generation, &wrong).await;
    assert!(wrong.expect_err("it isn't there").to_string().contains("can't be changed"));
    let changed = client.update::<Volume>(&volume.id.to_string(), found.generation, &moved).await.expect("in line");
    assert_eq!((changed.spec.gateway_id, changed.status.state), (c, ProtectionState::Protected));
    pair.sole_writer(group, "c/home").await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_comes_home_to_another_gateway_with_its_machines_whenever_they_are_killed() {
    let (pair, volume) = Pair::start_three("east").await;
    let mut shop = Shop::declare(pair, volume, None).await;
    let (a, b, c) = (shop.pair.hosts.0.clone(), shop.pair.hosts.1.clone(), shop.pair.third.host.clone());
    let start = shop.pair.b().verb::<Machine>(&shop.db.id.to_string(), "start", &StartRequest {}).await.expect("start");
    shop.done(&start).await;
    let over = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    shop.done(&over).await;
    let at_c = id_of(&shop.pair.b(), "c").await;
    brake::hold();
    let back = shop.ask("failback", &to(FailbackMode::FullDownload, at_c)).await;
    let (record, kills) = shop.pair.disturb(back.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert_eq!((a.names(), b.names(), c.names()), (vec![], vec![], vec!["db".to_owned()]));
    for group in shop.groups() {
        shop.pair.sole_writer(group, "c/home").await;
        shop.pair.nothing_left("a", group).await;
    }
    shop.plan_once("at home", |plan| plan.status.failover.is_none()).await;
    let twice =
        shop.pair.b().verb::<lifeboat_api::Plan>(&shop.plan.id.to_string(), "failback", &to(MODES[0], at_c)).await;
    assert!(twice.expect_err("it is there").to_string().contains("is at home"));
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_built_on_the_disk_that_was_named_while_it_was_away() {
    let (mut pair, volume) = Pair::start().await;
    protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let disk = |name: &str| {
        let path = pair.dir.path().join(name);
        std::fs::write(&path, vec![0; 4096]).expect("written");
        path
    };
    let (first, second) = (disk("first.raw"), disk("second.raw"));
    let on = |path: &Path| Some(VolumeSource { path: path.display().to_string() });
    let spec = VolumeSpec { name: "adopted".into(), source: on(&first), ..volume.spec.clone() };
    let client = pair.a();
    let adopted: Volume = client.create(&spec).await.expect("volume");
    let group = protected(&client, &adopted, ProtectionState::Protected).await;
    let (id, text) = (adopted.id.to_string(), group.to_string());
    let moved = VolumeSpec { source: on(&second), ..spec.clone() };
    let change = async |client: &Client, spec: &VolumeSpec| {
        let generation = client.read::<Volume>(&id).await.expect("volume").generation;
        client.update::<Volume>(&id, generation, spec).await
    };
    let early = change(&client, &moved).await.expect_err("it is at home").to_string();
    assert!(early.contains("can't be changed at home"), "{early}");

    let over = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    succeeded(&pair.revive(over.id).await);
    protected(&pair.b(), &adopted, ProtectionState::FailedOver).await;
    let changed = change(&pair.b(), &moved).await.expect("another disk");
    assert_eq!(changed.spec.source, moved.source);
    for (verb, body) in [
        ("failback", serde_json::json!({"mode": "minimize-downtime"})),
        ("failback", serde_json::json!({"mode": "full-download"})),
        ("reprotect", serde_json::json!({})),
    ] {
        let refused = pair.b().group_verb(&text, verb, &body).await.expect_err(verb).to_string();
        assert!(refused.contains("mode create") && refused.contains("second.raw"), "{refused}");
    }
    pair.fake.kill_at(&["take over lazily: the epoch is open", "take over lazily: done"]);
    let create = FailbackRequest::new(FailbackMode::Create);
    let back = pair.b().group_verb(&text, "failback", &create).await.expect("failback");
    succeeded(&pair.revive(back.id).await);
    assert_eq!(pair.fake.built_on(), [second]);
    pair.sole_writer(group, "a/home").await;

    // It is its disk like any other by now: the next new disk is the gateway's own.
    protected(&pair.b(), &adopted, ProtectionState::Protected).await;
    let over = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    succeeded(&pair.revive(over.id).await);
    let back = pair.b().group_verb(&text, "failback", &create).await.expect("failback");
    succeeded(&pair.revive(back.id).await);
    assert_eq!(pair.fake.built_on(), Vec::<std::path::PathBuf>::new());
    pair.kill().await;
}
