//! Plans and machines of two gateways that are killed again and again: what has to run runs where it has to, and nothing
//! else does.

use lifeboat_api::{
    ActionType, BootGroup, CommitRequest, ContinueRequest, Firmware, Machine, MachineDisk, MachineSpec, MachineTarget,
    Network, NetworkInterface, NetworkMapping, NetworkMappingSpec, NetworkSpec, Plan, PlanAction, PlanCleanupRequest,
    PlanDirection, PlanFailoverRequest, PlanShutdown, PlanSpec, Readiness, RecoveryState, RetryRequest, StartRequest,
    StopRequest, Subnet, VolumeSpec,
};
use lifeboat_compute::{DiskSource, Join};
use lifeboat_model::{BranchId, Timestamp};

use super::*;
use crate::jobs::change_recovery;

/// A plan with a database's machine in one group and two web servers in another.
pub(super) struct Shop {
    pub(super) pair: Pair,
    pub(super) plan: Plan,
    pub(super) db: Machine,
    pub(super) web: Machine,
}

pub(super) fn failover(kind: FailoverKind) -> PlanFailoverRequest {
    PlanFailoverRequest { kind, point: "latest".into(), ttl: "1h".into(), test_network_id: None }
}

pub(super) fn action(name: &str, kind: ActionType) -> PlanAction {
    PlanAction {
        name: name.into(),
        kind,
        script: (kind == ActionType::Script).then(|| "note".to_owned()),
        url: None,
        instruction: (kind == ActionType::Manual).then(|| "turn the key".to_owned()),
        directions: Vec::new(),
        kinds: Vec::new(),
        timeout: None,
    }
}

pub(super) async fn network(client: &Client, site: &Site, name: &str, range: &str, bridge: Option<&str>) -> Network {
    let subnet = Subnet { name: "web".into(), cidr: range.into(), gateway: None };
    let spec =
        NetworkSpec { site_id: site.id, name: name.into(), bridge: bridge.map(str::to_owned), subnet: vec![subnet] };
    client.create(&spec).await.expect("network")
}

impl Shop {
    pub(super) async fn open() -> Self {
        let (pair, volume) = Pair::start().await;
        Self::declare(pair, volume, None).await
    }

    /// `recovered`: what both machines are at the recovery site.
    pub(super) async fn declare(pair: Pair, volume: Volume, recovered: Option<MachineTarget>) -> Self {
        let client = pair.a();
        let group = protected(&client, &volume, ProtectionState::Protected).await;
        let second: Volume = {
            let spec = VolumeSpec { name: "shop".into(), ..volume.spec.clone() };
            client.create(&spec).await.expect("volume")
        };
        let other = protected(&client, &second, ProtectionState::Protected).await;
        let site = async |name: &str| client.find_by_name::<Site>(name).await.expect("list").expect("declared");
        let (east, west) = (site("east").await, site("west").await);
        let home = network(&client, &east, "servers", "10.20.0.0/24", None).await;
        let target = network(&client, &west, "servers", "10.30.0.0/24", Some("br0")).await;
        let test = network(&client, &west, "tests", "10.40.0.0/24", None).await;
        let mapping = NetworkMappingSpec {
            source_network_id: home.id,
            target_network_id: target.id,
            test_network_id: Some(test.id),
            subnet: Vec::new(),
            address_rule: lifeboat_api::AddressRule::KeepOrNextFree,
        };
        client.create::<NetworkMapping>(&mapping).await.expect("mapping");
        let machine = async |name: &str, group, volume: &Volume, address: &str| {
            let interface =
                NetworkInterface { network_id: home.id, mac: None, address: Some(address.into()), test_address: None };
            let spec = MachineSpec {
                site_id: east.id,
                name: name.into(),
                group_id: group,
                cpus: 2,
                memory_mib: 512,
                firmware: Firmware::Bios,
                disk: vec![MachineDisk { volume_id: volume.id, boot: None }],
                network_interface: vec![interface],
                target: recovered.clone(),
            };
            client.create::<Machine>(&spec).await.expect("machine")
        };
        let db = machine("db", group, &volume, "10.20.0.11").await;
        let web = machine("web", other, &second, "10.20.0.12").await;
        let boot = |name: &str, machine: &Machine, before: Vec<PlanAction>, after: Vec<PlanAction>| BootGroup {
            name: Some(name.into()),
            machine_ids: vec![machine.id],
            volume_ids: Vec::new(),
            pre_action: before,
            post_action: after,
        };
        let back_only =
            PlanAction { directions: vec![PlanDirection::Failback], ..action("welcome back", ActionType::Script) };
        let spec = PlanSpec {
            vault_id: db_vault(&client).await,
            name: "shop".into(),
            source_site_id: east.id,
            target_site_id: west.id,
            shutdown: Some(PlanShutdown {
                timeout: "30s".into(),
                pre_action: vec![action("announce", ActionType::Script)],
                post_action: Vec::new(),
            }),
            boot_group: vec![
                boot("data", &db, Vec::new(), vec![back_only]),
                boot("front", &web, vec![action("warm up", ActionType::Script)], Vec::new()),
            ],
        };
        let plan: Plan = client.create(&spec).await.expect("plan");
        Self { pair, plan, db, web }
    }

    pub(super) async fn ask(&self, verb: &str, body: &impl serde::Serialize) -> Job {
        self.pair.b().verb::<Plan>(&self.plan.id.to_string(), verb, body).await.expect(verb)
    }

    pub(super) async fn plan(&self) -> Plan {
        self.pair.b().read(&self.plan.id.to_string()).await.expect("plan")
    }

    /// The plan once it is so at the gateway that is asked: it may learn of a job's end a moment after the other one.
    pub(super) async fn plan_once(&self, what: &str, is_so: impl Fn(&Plan) -> bool) -> Plan {
        eventually(what, async || Some(self.plan().await).filter(|plan| is_so(plan))).await
    }

    pub(super) async fn machine(&self, machine: &Machine) -> Machine {
        self.pair.b().read(&machine.id.to_string()).await.expect("machine")
    }

    pub(super) async fn over(&self, job: &Job) -> Job {
        self.pair.b().wait_for_job(&job.id.to_string(), |_| ()).await.expect("waited")
    }

    pub(super) async fn done(&self, job: &Job) -> Job {
        let job = self.over(job).await;
        assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
        job
    }

    /// The groups that move.
    pub(super) fn groups(&self) -> Vec<GroupId> {
        vec![self.db.spec.group_id, self.web.spec.group_id]
    }

    fn active(&self, group: GroupId) -> Option<crate::records::ActiveRecord> {
        let context = &self.pair.running.as_ref().expect("up").1.context;
        let attached = context.vaults.all().remove(0);
        let document = attached.snapshot().get(kind::GROUPS, &group.to_string()).cloned()?;
        let record: crate::records::GroupRecord = status(&document);
        record.active
    }

    /// The branch of a group in the plan's only test.
    fn branch_under_test(&self, group: GroupId) -> BranchId {
        let attached = self.pair.running.as_ref().expect("up").1.context.vaults.all().remove(0);
        let plan = attached.snapshot().get(kind::PLANS, &self.plan.id.to_string()).cloned().expect("the plan");
        let record: crate::records::RecoveryRecord = status(&plan);
        let [test] = record.tests.as_slice() else { panic!("{record:?}") };
        let member = test.groups.iter().find(|member| member.group == group).expect("a part of it");
        BranchId::from_bytes(member.job.to_bytes())
    }

    /// Whether a writer (`b/INSTANCE`) is the one that the group is active in; tests are others.
    pub(super) fn is_active(&self, group: GroupId, writer: &str) -> bool {
        self.active(group).is_some_and(|active| writer.split_once('/').is_some_and(|(_, one)| one == active.instance))
    }

    /// One more recovery point of each group, as if its applications had written something.
    pub(super) fn more_points(&self) {
        for group in self.groups() {
            let Some(active) = self.active(group) else { continue };
            // Where it is active is known before it is open there.
            if let Some(at) = self.pair.written_at(group).into_iter().find(|at| at.ends_with(&active.instance)) {
                self.pair.fake.another_point(active.branch, &at);
            }
        }
    }

    /// Names of the actions that were run, from the program's notes.
    fn notes(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.pair.dir.path().join("notes")).unwrap_or_default();
        let mut notes: Vec<String> = Vec::new();
        for line in text.lines() {
            // One that was running when the gateway was killed is run again.
            if notes.last().is_none_or(|last| last != line) {
                notes.push(line.to_owned());
            }
        }
        notes
    }
}

fn json(body: impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(body).expect("plain")
}

async fn db_vault(client: &Client) -> lifeboat_model::VaultId {
    let vaults: Vec<lifeboat_api::Vault> = client.list("/v1/vaults", &[]).await.expect("list");
    vaults[0].id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_goes_over_and_back_whenever_the_gateways_are_killed() {
    let mut shop = Shop::open().await;
    let (a, b) = (shop.pair.hosts.0.clone(), shop.pair.hosts.1.clone());
    assert_eq!(shop.plan().await.status.readiness, Readiness::Ready, "{:?}", shop.plan().await.status.reasons);
    // The database's machine is run at home by the gateway there; the web server by somebody else.
    let start = shop.pair.b().verb::<Machine>(&shop.db.id.to_string(), "start", &StartRequest {}).await.expect("start");
    shop.done(&start).await;
    assert_eq!(a.names(), ["db"]);
    assert!(shop.machine(&shop.db).await.status.run.is_some());

    brake::hold();
    let planned = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    let (record, kills) = shop.pair.disturb(planned.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert_eq!((a.names(), b.names()), (vec![], vec!["db".to_owned(), "web".to_owned()]));
    assert_eq!(b.log(), ["start db", "start web"], "in the order of the boot groups, once each");
    let addresses: Vec<String> =
        b.running().iter().filter_map(|one| one.interfaces[0].address).map(|ip| ip.to_string()).collect();
    assert_eq!(
        {
            let mut all = addresses;
            all.sort();
            all
        },
        ["10.30.0.11", "10.30.0.12"]
    );
    assert!(b.running().iter().all(|one| one.interfaces[0].join == Join::Bridge { name: "br0".into() }));
    for order in b.running() {
        let DiskSource::Nbd { export, .. } = &order.disks[0].source else { panic!("{order:?}") };
        assert!(["db", "shop"].contains(&export.as_str()), "{order:?}");
    }
    assert_eq!(shop.notes(), ["announce failover planned", "warm up failover planned"]);
    let job = shop.over(&planned).await;
    assert_eq!(
        (job.result.rpo_seconds, job.result.jobs.len(), job.result.machines.len()),
        (Some(0.0), 2, 2),
        "{job:#?}"
    );
    let plan = shop.plan_once("failed over", |plan| plan.status.failover.is_some()).await;
    assert_eq!(plan.status.state, RecoveryState::FailedOver);
    assert!(!plan.status.failover.expect("in one").committed);

    let again =
        shop.pair.b().verb::<Plan>(&shop.plan.id.to_string(), "failover", &failover(FailoverKind::Unplanned)).await;
    assert!(again.expect_err("it is over already").to_string().contains("failed over already"));
    brake::hold();
    let commit = shop.ask("commit", &CommitRequest {}).await;
    succeeded(&shop.pair.disturb(commit.id).await.0);
    shop.plan_once("committed", |plan| plan.status.failover.as_ref().is_some_and(|one| one.committed)).await;

    brake::hold();
    let reprotect = shop.ask("reprotect", &lifeboat_api::ReprotectRequest {}).await;
    succeeded(&shop.pair.disturb(reprotect.id).await.0);
    assert_eq!(b.names(), ["db", "web"], "nothing stops for it");
    brake::hold();
    let back = shop.ask("failback", &FailbackRequest::new(FailbackMode::MinimizeDowntime)).await;
    let (record, kills) = shop.pair.disturb(back.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert_eq!((a.names(), b.names()), (vec!["db".to_owned()], vec![]), "the web server was never run by us at home");
    assert_eq!(b.log()[2..], ["stop web", "stop db"], "the last boot group first");
    assert_eq!(
        shop.notes()[2..],
        ["announce failback planned", "welcome back failback planned", "warm up failback planned"]
    );
    let plan = shop.plan_once("at home", |plan| plan.status.failover.is_none()).await;
    assert_eq!(plan.status.state, RecoveryState::Protected);
    assert!(shop.machine(&shop.web).await.status.run.is_none());
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_has_in_its_hands_is_nobody_elses() {
    let mut shop = Shop::open().await;
    let test = shop.ask("failover", &failover(FailoverKind::Test)).await;
    shop.done(&test).await;
    let group = shop.db.spec.group_id.to_string();
    let client = shop.pair.b();
    let cleanup =
        async |branch_id: Option<String>| client.group_verb(&group, "cleanup", &CleanupRequest { branch_id }).await;
    let refused = cleanup(None).await.expect_err("the plan's").to_string();
    assert!(refused.contains("the test of the plan shop"), "{refused}");
    let branch = shop.branch_under_test(shop.db.spec.group_id);
    let refused = cleanup(Some(branch.to_string())).await.expect_err("the plan's").to_string();
    assert!(refused.contains("the test of the plan shop"), "{refused}");
    // One of its own ends, and the plan's stays.
    let own = client.group_verb(&group, "failover", &super::ask(FailoverKind::Test)).await.expect("a test of its own");
    shop.done(&own).await;
    let ended = cleanup(None).await.expect("its own");
    shop.done(&ended).await;
    assert_eq!(shop.pair.hosts.1.names(), ["db", "web"]);
    assert!(!shop.pair.fake.is_dropped(branch));

    brake::hold();
    let over = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    for refused in [
        client.group_verb(&group, "failover", &super::ask(FailoverKind::Unplanned)).await,
        client.verb::<Machine>(&shop.db.id.to_string(), "failover", &failover(FailoverKind::Unplanned)).await,
    ] {
        let refused = refused.expect_err("in the plan's hands").to_string();
        assert!(refused.contains("in the hands of the plan shop, whose planned-failover runs"), "{refused}");
    }
    brake::release();
    shop.done(&over).await;
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_runs_beside_everything_and_leaves_nothing() {
    let mut shop = Shop::open().await;
    let (a, b) = (shop.pair.hosts.0.clone(), shop.pair.hosts.1.clone());
    brake::hold();
    let test = shop.ask("failover", &failover(FailoverKind::Test)).await;
    succeeded(&shop.pair.disturb(test.id).await.0);
    assert_eq!((a.names(), b.names()), (vec![], vec!["db".to_owned(), "web".to_owned()]));
    for order in b.running() {
        assert!(matches!(order.interfaces[0].join, Join::User { isolated: true, .. }), "{order:?}");
        let DiskSource::Nbd { export, .. } = &order.disks[0].source else { panic!("{order:?}") };
        assert!(export.starts_with("branches/br-"), "{order:?}");
        assert!(order.interfaces[0].address.expect("one").to_string().starts_with("10.40.0.1"), "{order:?}");
    }
    assert_eq!(shop.notes(), ["warm up failover test"], "nothing is shut down for a test");
    let plan = shop.plan_once("tested", |plan| plan.status.tests.iter().any(|test| test.machines.len() == 2)).await;
    assert_eq!((plan.status.state, plan.status.tests.len()), (RecoveryState::Protected, 1));

    let generation = plan.generation;
    let kept = shop.pair.b().delete::<Plan>(&plan.id.to_string(), generation).await.expect_err("it is in use");
    assert!(kept.to_string().contains(&format!("the test {}", test.id)), "{kept}");

    brake::hold();
    let cleanup = shop.ask("cleanup", &PlanCleanupRequest { notes: Some("the login worked".into()) }).await;
    succeeded(&shop.pair.disturb(cleanup.id).await.0);
    assert_eq!(shop.over(&cleanup).await.result.notes.as_deref(), Some("the login worked"));
    assert_eq!(b.names(), Vec::<String>::new());
    shop.plan_once("cleaned up", |plan| plan.status.tests.is_empty()).await;
    let groups: Vec<Group> = shop.pair.b().list("/v1/groups", &[]).await.expect("list");
    assert!(groups.iter().all(|group| group.status.tests.is_empty()), "{groups:?}");
    let none = shop.pair.b().verb::<Plan>(&shop.plan.id.to_string(), "cleanup", &PlanCleanupRequest::default()).await;
    assert!(none.expect_err("nothing is there").to_string().contains("no test to clean up"));
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_whose_time_is_over_ends_also_when_it_had_failed() {
    let mut shop = Shop::open().await;
    let b = shop.pair.hosts.1.clone();
    b.break_machine("web", "it has no kernel");
    let test = shop.ask("failover", &failover(FailoverKind::Test)).await;
    let failed = shop.over(&test).await;
    assert_eq!(failed.state, JobState::Failed);
    assert!(failed.cause.as_deref().is_some_and(|cause| cause.contains("no kernel")), "{failed:#?}");
    assert_eq!(b.names(), ["db"]);
    // As if an hour had passed.
    let context = std::sync::Arc::clone(&shop.pair.running.as_ref().expect("up").1.context);
    let attached = context.vaults.all().remove(0);
    let plan = shop.plan.id.to_string();
    change_recovery(&attached, kind::PLANS, &plan, |record| {
        record.tests.iter_mut().for_each(|test| test.expires = Timestamp::now());
        true
    })
    .await
    .expect("written");
    drop((context, attached));
    eventually("it ends", async || (b.names().is_empty() && shop.plan().await.status.tests.is_empty()).then_some(()))
        .await;
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_that_comes_back_switches_off_what_runs_elsewhere() {
    let mut shop = Shop::open().await;
    let (a, b) = (shop.pair.hosts.0.clone(), shop.pair.hosts.1.clone());
    let start = shop.pair.b().verb::<Machine>(&shop.db.id.to_string(), "start", &StartRequest {}).await.expect("start");
    shop.done(&start).await;
    // The site of the first gateway is cut off: its machine goes on running.
    let (first, second) = shop.pair.running.take().expect("up");
    first.stop().await;
    shop.pair.running = Some((shop.pair.alone("idle", "nowhere").await, second));
    let job = shop.ask("failover", &failover(FailoverKind::Unplanned)).await;
    let job = shop.done(&job).await;
    assert!(job.result.rpo_seconds.is_some());
    assert_eq!((a.names(), b.names()), (vec!["db".to_owned()], vec!["db".to_owned(), "web".to_owned()]));
    shop.pair.kill().await;
    shop.pair.up().await;
    eventually("the old one is switched off", async || a.names().is_empty().then_some(())).await;
    assert_eq!(b.names(), ["db", "web"]);
    let run = shop.machine(&shop.db).await.status.run.expect("it runs");
    assert_eq!(run.interfaces[0].address.as_deref(), Some("10.30.0.11"));
    let none = ChangePointRequest { point: "latest-app-consistent".into() };
    let refused = shop.pair.b().verb::<Plan>(&shop.plan.id.to_string(), "change-point", &none).await;
    let refused = refused.expect_err("there is no such point");
    assert!(refused.to_string().contains("no recovery point fits"), "{refused}");
    assert_eq!(b.names(), ["db", "web"], "nothing was stopped for it");
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_by_itself_takes_its_group_with_it() {
    let mut shop = Shop::open().await;
    let b = shop.pair.hosts.1.clone();
    let id = shop.web.id.to_string();
    let ask = async |verb: &str, body: &serde_json::Value| shop.pair.b().verb::<Machine>(&id, verb, body).await;
    let over = ask("failover", &json(failover(FailoverKind::Planned))).await.expect("failover");
    shop.done(&over).await;
    assert_eq!(b.names(), ["web"]);
    assert_eq!(shop.plan().await.status.state, RecoveryState::Split);
    let stop = ask("stop", &json(StopRequest { timeout: "5s".into() })).await.expect("stop");
    shop.done(&stop).await;
    assert_eq!(b.names(), Vec::<String>::new());
    let refused = ask("stop", &json(StopRequest { timeout: "5s".into() })).await.expect_err("it is off");
    assert!(refused.to_string().contains("nothing to stop"), "{refused}");
    let start = ask("start", &json(StartRequest {})).await.expect("start");
    shop.done(&start).await;
    let back = ask("failback", &json(FailbackRequest::new(FailbackMode::Create))).await.expect("failback");
    shop.done(&back).await;
    assert_eq!(b.names(), Vec::<String>::new());
    assert_eq!(shop.plan().await.status.state, RecoveryState::Protected);
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_a_person_and_an_action_that_failed_can_be_left_out() {
    let mut shop = Shop::open().await;
    let mut spec = shop.plan.spec.clone();
    let broken = PlanAction { script: Some("missing".into()), ..action("broken", ActionType::Script) };
    spec.boot_group[0].pre_action = vec![action("key", ActionType::Manual), broken];
    let generation = shop.plan.generation;
    shop.plan = shop.pair.b().update(&shop.plan.id.to_string(), generation, &spec).await.expect("changed");
    let job = shop.ask("failover", &failover(FailoverKind::Test)).await;
    let client = shop.pair.b();
    let id = job.id.to_string();
    eventually("it waits", async || {
        let job = client.job(&id).await.expect("job");
        job.steps.iter().find_map(|step| step.waits_for.clone())
    })
    .await;
    let say = ContinueRequest { note: Some("turned it".into()) };
    let _: Job = client.post(&format!("/v1/jobs/{id}:continue"), &say).await.expect("said");
    let failed = shop.over(&job).await;
    assert_eq!(failed.state, JobState::Failed);
    assert!(failed.cause.as_deref().is_some_and(|cause| cause.contains("--skip")), "{:?}", failed.cause);
    let retry = RetryRequest { skip: true };
    let _: Job = client.post(&format!("/v1/jobs/{id}:retry"), &retry).await.expect("again");
    let done = shop.done(&job).await;
    assert!(done.steps.iter().any(|step| step.message.contains("turned it")), "{done:#?}");
    let nobody = client.post::<Job>(&format!("/v1/jobs/{id}:continue"), &say).await.expect_err("it is over");
    assert!(nobody.to_string().contains("waits for nobody"), "{nobody}");
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_before_anything_begins() {
    let shop = Shop::open().await;
    let plan = shop.plan.id.to_string();
    let at_home = shop.pair.a().verb::<Plan>(&plan, "failover", &failover(FailoverKind::Planned)).await;
    assert!(at_home.expect_err("the wrong site").to_string().contains("comes up at the site west"));
    for (verb, body, why) in [
        ("commit", serde_json::json!({}), "isn't failed over"),
        ("change-point", serde_json::json!({"point": "latest"}), "isn't failed over"),
        ("failback", serde_json::json!({}), "is at home"),
        ("reprotect", serde_json::json!({}), "is at home"),
        ("failover", serde_json::json!({"kind": "planned", "point": "pt-1"}), "leave it out"),
        ("failover", serde_json::json!({"kind": "test", "ttl": "1s"}), "1m to 30d"),
        ("start", serde_json::json!({}), "no verb"),
    ] {
        let refused = shop.pair.b().verb::<Plan>(&plan, verb, &body).await.expect_err(verb);
        assert!(refused.to_string().contains(why), "{verb}: {refused}");
    }
    let Shop { mut pair, .. } = shop;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_was_cancelled_half_way_goes_on_when_it_is_asked_for_again() {
    let mut shop = Shop::open().await;
    let b = shop.pair.hosts.1.clone();
    let mut spec = shop.plan.spec.clone();
    spec.boot_group[1].pre_action = vec![action("key", ActionType::Manual)];
    let generation = shop.plan.generation;
    shop.plan = shop.pair.b().update(&shop.plan.id.to_string(), generation, &spec).await.expect("changed");
    let job = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    let client = shop.pair.b();
    let id = job.id.to_string();
    let waits = async || client.job(&id).await.expect("job").steps.iter().find_map(|step| step.waits_for.clone());
    eventually("it waits", async || waits().await).await;
    client.cancel_job(&id).await.expect("asked to stop");
    assert_eq!(shop.over(&job).await.state, JobState::Cancelled);
    assert_eq!(b.names(), ["db"], "what was done stays");
    let again = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    let id = again.id.to_string();
    let waits = async || client.job(&id).await.expect("job").steps.iter().find_map(|step| step.waits_for.clone());
    eventually("it waits once more", async || waits().await).await;
    let _: Job = client.post(&format!("/v1/jobs/{id}:continue"), &ContinueRequest::default()).await.expect("said");
    shop.done(&again).await;
    assert_eq!(b.names(), ["db", "web"]);
    assert_eq!(b.log(), ["start db", "start web"], "what ran already was left alone");
    shop.plan_once("failed over", |plan| plan.status.failover.is_some()).await;
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_download_fetches_everything_while_the_recovery_side_runs() {
    let mut shop = Shop::open().await;
    let over = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    shop.done(&over).await;
    let back = shop.ask("failback", &FailbackRequest::new(FailbackMode::FullDownload)).await;
    let back = shop.done(&back).await;
    let mut modes = Vec::new();
    for id in &back.result.jobs {
        let context = &shop.pair.running.as_ref().expect("up").1.context;
        let vault = context.vaults.all().remove(0).vault().expect("open");
        let document = vault.catalog().get(kind::JOBS, &id.to_string()).await.expect("job");
        let spec: crate::records::JobSpec = document.spec_as().expect("of a group");
        assert_eq!(spec.parent, Some(back.id));
        modes.push((spec.kind, spec.mode));
    }
    let forward = (JobKind::Reprotect, Some(FailbackMode::FullDownload));
    let last = (JobKind::Failback, Some(FailbackMode::MinimizeDowntime));
    assert_eq!(modes, [forward, forward, last, last]);
    shop.pair.kill().await;
}
