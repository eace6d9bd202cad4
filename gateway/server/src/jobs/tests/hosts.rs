//! A recovery site with two gateways that run machines: a plan's machines that are to be kept apart come up on different ones,
//! whichever gateway is killed and whenever.

use lifeboat_api::{
    CommitRequest, Drill, DrillRunRequest, DrillSpec, Machine, MachineTarget, PlanCleanupRequest, RecoveryState,
    ReprotectRequest,
};
use lifeboat_model::Timestamp;

use super::programs::{Shop, failover};
use super::*;
use crate::jobs::change_recovery;
use crate::records::GatewayRecord;

/// The names of the three gateways.
const NAMES: [&str; 3] = ["a", "b", "c"];

impl Pair {
    /// Kills one gateway, and starts it again.
    async fn restart(&mut self, name: &str) {
        if name == "c" {
            self.third.running.take().expect("up").stop().await;
            let site = self.third.site.expect("there is one");
            self.third.running = Some(self.alone("c", site).await);
            return;
        }
        let (a, b) = self.running.take().expect("up");
        self.running = Some(match name {
            "a" => {
                a.stop().await;
                (self.alone("a", "east").await, b)
            }
            _ => {
                b.stop().await;
                (a, self.alone("b", "west").await)
            }
        });
    }

    /// Kills a gateway after every revision of a job, one after the other by turns, until the job is over.
    async fn disturb_by_turns(&mut self, id: JobId, from: usize) -> (JobRecord, usize) {
        let (mut seen, mut record) = self.job(id).await;
        let mut kills = 0;
        while !record.is_over() {
            self.restart(NAMES[(from + kills) % NAMES.len()]).await;
            kills += 1;
            (seen, record) = self.go_on(id, seen, &record).await;
        }
        brake::release();
        (record, kills)
    }
}

/// The shop, its two machines to be kept apart.
async fn open() -> Shop {
    let (pair, volume) = Pair::start_three("west").await;
    let apart = MachineTarget { anti_affinity_group: Some("shop".into()), ..MachineTarget::default() };
    Shop::declare(pair, volume, Some(apart)).await
}

fn hosts(shop: &Shop) -> (FakeHost, FakeHost, FakeHost) {
    (shop.pair.hosts.0.clone(), shop.pair.hosts.1.clone(), shop.pair.third.host.clone())
}

/// Everything has one writer, at these gateways.
async fn written_at(shop: &Shop, expected: [&str; 2]) {
    eventually(&format!("written at {expected:?}"), async || {
        let mut found: Vec<String> = Vec::new();
        for group in shop.groups() {
            let writers = shop.pair.writers(group);
            found.extend(writers.iter().filter_map(|one| one.split_once('/')).map(|(gateway, _)| gateway.to_owned()));
        }
        found.sort_unstable();
        (found == expected).then_some(())
    })
    .await;
}

async fn apart(shop: &Shop) {
    let (a, b, c) = hosts(shop);
    assert_eq!(a.names(), Vec::<String>::new());
    assert_eq!((b.names().len(), c.names().len()), (1, 1), "{:?} {:?}", b.names(), c.names());
    written_at(shop, ["b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_are_to_be_kept_apart_are_whenever_all_gateways_are_killed() {
    let mut shop = open().await;
    let (a, b, c) = hosts(&shop);
    assert_eq!(shop.plan().await.status.warnings, Vec::<String>::new());
    let start = shop.pair.b().verb::<Machine>(&shop.db.id.to_string(), "start", &lifeboat_api::StartRequest {}).await;
    shop.done(&start.expect("start")).await;
    brake::hold();
    let planned = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    let (record, kills) = shop.pair.disturb(planned.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    apart(&shop).await;
    assert_eq!(b.log().len() + c.log().len(), 2, "each was started once");
    assert_eq!(
        shop.plan_once("failed over", |plan| plan.status.failover.is_some()).await.status.state,
        RecoveryState::FailedOver
    );

    // Another point, at each where it is.
    shop.more_points();
    brake::hold();
    let change = shop.ask("change-point", &change("latest")).await;
    succeeded(&shop.pair.disturb(change.id).await.0);
    apart(&shop).await;
    brake::hold();
    let commit = shop.ask("commit", &CommitRequest {}).await;
    succeeded(&shop.pair.disturb(commit.id).await.0);
    brake::hold();
    let reprotect = shop.ask("reprotect", &ReprotectRequest {}).await;
    succeeded(&shop.pair.disturb(reprotect.id).await.0);
    apart(&shop).await;
    brake::hold();
    let back = shop.ask("failback", &FailbackRequest::new(FailbackMode::MinimizeDowntime)).await;
    succeeded(&shop.pair.disturb(back.id).await.0);
    assert_eq!((a.names(), b.names(), c.names()), (vec!["db".to_owned()], vec![], vec![]));
    written_at(&shop, ["a", "a"]).await;
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_over_two_hosts_comes_to_its_end_whichever_gateway_is_killed() {
    let mut shop = open().await;
    for from in 0..NAMES.len() {
        let kind = if from == 1 { FailoverKind::Unplanned } else { FailoverKind::Planned };
        brake::hold();
        let over = shop.ask("failover", &failover(kind)).await;
        let (record, kills) = shop.pair.disturb_by_turns(over.id, from).await;
        succeeded(&record);
        assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
        apart(&shop).await;
        shop.plan_once("failed over", |plan| plan.status.failover.is_some()).await;
        brake::hold();
        let back = shop.ask("failback", &FailbackRequest::new(FailbackMode::Create)).await;
        succeeded(&shop.pair.disturb_by_turns(back.id, from).await.0);
        written_at(&shop, ["a", "a"]).await;
        shop.plan_once("at home", |plan| plan.status.failover.is_none()).await;
    }
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_over_two_hosts_leaves_nothing_at_either() {
    let mut shop = open().await;
    let (_, b, c) = hosts(&shop);
    brake::hold();
    let test = shop.ask("failover", &failover(FailoverKind::Test)).await;
    succeeded(&shop.pair.disturb(test.id).await.0);
    assert_eq!((b.names().len(), c.names().len()), (1, 1), "{:?} {:?}", b.names(), c.names());
    shop.plan_once("tested", |plan| plan.status.tests.iter().any(|test| test.machines.len() == 2)).await;
    // Each is looked at where it runs.
    for machine in [&shop.db, &shop.web] {
        let at_c = c.names() == [machine.spec.name.clone()];
        let (right, wrong) = if at_c { (shop.pair.c(), shop.pair.b()) } else { (shop.pair.b(), shop.pair.c()) };
        let path = format!("/v1/machines/{}/run", machine.id);
        let query = [("test", test.id.to_string())];
        let look = eventually("it is found", async || right.get::<serde_json::Value>(&path, &query).await.ok()).await;
        assert_eq!(look["state"], "running");
        let refused = wrong.get::<serde_json::Value>(&path, &query).await.expect_err("elsewhere");
        assert!(refused.to_string().contains("runs at the gateway"), "{refused}");
    }
    brake::hold();
    let cleanup = shop.ask("cleanup", &PlanCleanupRequest::default()).await;
    succeeded(&shop.pair.disturb_by_turns(cleanup.id, 1).await.0);
    assert_eq!((b.names(), c.names()), (vec![], vec![]));
    written_at(&shop, ["a", "a"]).await;
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_host_is_left_they_come_up_together_and_it_is_said() {
    let mut shop = open().await;
    let (_, b, c) = hosts(&shop);
    // The second host can't run machines any more: it says so, and isn't chosen.
    shop.pair.third.running.take().expect("up").stop().await;
    let path = shop.pair.dir.path().join("c");
    let settings = ServeConfig { ..config(&path, "c", "west") };
    let fake = Arc::new(shop.pair.fake.clone());
    shop.pair.third.running = Some(Gateway::start_with(settings, fake, None).await.expect("starts"));
    let plan = shop.plan_once("warned", |plan| !plan.status.warnings.is_empty()).await;
    assert_eq!(plan.status.readiness, lifeboat_api::Readiness::Ready, "a warning stops nothing: {plan:?}");
    assert!(plan.status.warnings[0].contains("db and web"), "{:?}", plan.status.warnings);
    let over = shop.ask("failover", &failover(FailoverKind::Planned)).await;
    let over = shop.done(&over).await;
    assert!(over.steps[0].message.contains("db and web are to be kept apart"), "{over:#?}");
    assert_eq!((b.names(), c.names()), (vec!["db".to_owned(), "web".to_owned()], vec![]));
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_go_over_one_by_one_are_kept_apart_too() {
    let mut shop = open().await;
    let (_, b, c) = hosts(&shop);
    for machine in [&shop.db, &shop.web] {
        let id = machine.id.to_string();
        let over = shop.pair.b().verb::<Machine>(&id, "failover", &failover(FailoverKind::Planned)).await;
        shop.done(&over.expect("asked")).await;
    }
    assert_eq!((b.names(), c.names()), (vec!["db".to_owned()], vec!["web".to_owned()]));
    shop.pair.kill().await;
}

/// A drill that asserts something of both machines, which they will say wherever they run.
async fn drill_of_both(shop: &Shop) -> Drill {
    let (_, b, c) = hosts(shop);
    for host in [&b, &c] {
        host.says("db", "db is up");
        host.says("web", "web is up");
    }
    let spec: DrillSpec = serde_json::from_value(serde_json::json!({
        "plan_id": shop.plan.id, "name": "both", "assertion": [
            {"type": "boots", "machine_id": shop.db.id, "contains": "db is up"},
            {"type": "boots", "machine_id": shop.web.id, "contains": "web is up"},
        ],
    }))
    .expect("a drill");
    shop.pair.b().create(&spec).await.expect("declared")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_looks_at_machines_where_they_run() {
    let mut shop = open().await;
    let (_, b, c) = hosts(&shop);
    let drill = drill_of_both(&shop).await;
    let begun = shop.pair.b().verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await.expect("begun");
    let over = shop.done(&begun).await;
    let outcome = over.result.drill.clone().expect("it came out");
    assert!(outcome.passed, "{over:#?}");
    let gateways: std::collections::BTreeSet<_> = over
        .steps
        .iter()
        .filter(|step| step.name == "Look at what is asserted")
        .map(|step| (step.gateway_id, step.message.as_str()))
        .collect();
    assert_eq!(gateways.iter().map(|(_, said)| *said).collect::<Vec<_>>(), ["1 of 1 hold", "1 of 1 hold"], "{over:#?}");
    assert_eq!((b.names(), c.names()), (vec![], vec![]));
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_whose_other_host_is_lost_says_so_and_cleans_up() {
    let mut shop = open().await;
    let (_, b, c) = hosts(&shop);
    let drill = drill_of_both(&shop).await;
    brake::hold();
    let begun = shop.pair.b().verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await.expect("begun");
    // The test, and what is looked at where the run is led; the look at the other host comes next.
    brake::hold_after(begun.id, 1);
    eventually("it is the other host's turn", async || {
        let (_, job) = shop.pair.job(begun.id).await;
        job.current().filter(|(index, _)| *index == 2).map(drop)
    })
    .await;
    shop.pair.third.running.take().expect("up").stop().await;
    brake::release();

    // A minute and more ago.
    let then = Timestamp::from_micros(Timestamp::now().as_micros() - 70_000_000);
    let attached = shop.pair.running.as_ref().expect("up").1.context.vaults.all().remove(0);
    crate::jobs::change_job(&attached, begun.id, |record| {
        record.steps.iter_mut().for_each(|step| step.finished = step.finished.map(|_| then));
        true
    })
    .await
    .expect("written");
    let lost = shop.pair.b().find_by_name::<GatewayView>("c").await.expect("list").expect("declared").id.to_string();
    let aged = |document: &lifeboat_vault::Document| {
        let record = GatewayRecord { last_seen: Some(then), ..status(document) };
        serde_json::to_value(record).ok()
    };
    let vault = attached.vault().expect("open");
    vault.catalog().update_status(kind::GATEWAYS, &lost, &mut { aged }).await.expect("written");
    eventually("the run goes past it", async || {
        let step = shop.pair.job(begun.id).await.1.steps.get(2)?.clone();
        (step.state == JobState::Succeeded && step.message.contains("the gateway c was not heard of")).then_some(())
    })
    .await;

    // It is back in time for the clean-up.
    shop.pair.third.running = Some(shop.pair.alone("c", "west").await);
    let over = shop.done(&begun).await;
    let outcome = over.result.drill.clone().expect("it came out");
    let said = outcome.failures.join("; ");
    assert!(!outcome.passed && said.contains("nobody looked") && said.contains("nobody came"), "{said}");
    eventually("nothing is left", async || (b.names().is_empty() && c.names().is_empty()).then_some(())).await;
    shop.pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_whose_leading_gateway_is_lost_ends_at_the_other_host_too() {
    let mut shop = open().await;
    let (_, _, c) = hosts(&shop);
    let test = shop.ask("failover", &failover(FailoverKind::Test)).await;
    let test = shop.done(&test).await;
    assert_eq!(c.names().len(), 1);
    // The one that leads is gone, and the test's time is over since long ago.
    let (a, b) = shop.pair.running.take().expect("up");
    b.stop().await;
    let attached = a.context.vaults.all().remove(0);
    let plan = shop.plan.id.to_string();
    change_recovery(&attached, kind::PLANS, &plan, |record| {
        let Some(found) = record.tests.iter_mut().find(|one| one.job == test.id) else { return false };
        found.expires = Timestamp::from_micros(Timestamp::now().as_micros() - 700_000_000);
        true
    })
    .await
    .expect("written");
    eventually("its machine at the other host is switched off", async || c.names().is_empty().then_some(())).await;
    a.stop().await;
    shop.pair.third.running.take().expect("up").stop().await;
}
