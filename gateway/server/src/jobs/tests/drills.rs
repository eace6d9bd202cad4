//! Drills of a plan whose gateways are killed, whose machines don't come up, which people break off: in every case evidence
//! says what was, and nothing is left of the test.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_api::{
    ActionType, ContinueRequest, Drill, DrillRunRequest, DrillSpec, DrillState, Event, Network, Plan,
    PlanCleanupRequest, PlanSpec,
};
use lifeboat_compute::Join;
use lifeboat_model::{DrillId, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::programs::{Shop, action, failover};
use super::*;
use crate::jobs::change_drill;

/// A drill of the shop's plan with these assertions and other settings.
fn spec(shop: &Shop, assertions: Value, more: Value) -> DrillSpec {
    let mut spec = json!({"plan_id": shop.plan.id, "name": "weekly", "assertion": assertions});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::from_value(spec).expect("a drill")
}

async fn declared(shop: &Shop, assertions: Value, more: Value) -> Drill {
    shop.pair.b().create(&spec(shop, assertions, more)).await.expect("drill")
}

async fn begin(shop: &Shop, drill: &Drill) -> Job {
    shop.pair.b().verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await.expect("begun")
}

async fn read(shop: &Shop, drill: &Drill) -> Drill {
    shop.pair.b().read(&drill.id.to_string()).await.expect("drill")
}

/// The evidence of the newest run; its signature is that of the gateway's key.
async fn evidence(shop: &Shop, drill: &Drill) -> Value {
    let found = shop.pair.b().drill_evidence(&drill.id.to_string(), None).await.expect("evidence");
    let gateways: Vec<GatewayView> = shop.pair.b().list("/v1/gateways", &[]).await.expect("list");
    let evidence: Value = serde_json::from_str(&found.evidence).expect("JSON");
    let gateway = gateways.iter().find(|one| evidence["gateway"]["id"] == one.id.to_string()).expect("known");
    assert_eq!(gateway.status.evidence_key.as_deref(), Some(found.public_key.as_str()));
    let bytes = |text: &str| STANDARD.decode(text).expect("base64");
    let key = UnparsedPublicKey::new(&ED25519, bytes(&found.public_key));
    key.verify(found.evidence.as_bytes(), &bytes(&found.signature)).expect("the gateway has signed it");
    let changed = found.evidence.replacen("\"passed\"", "\"Passed\"", 1);
    assert!(key.verify(changed.as_bytes(), &bytes(&found.signature)).is_err());
    evidence
}

/// Nothing runs, nothing is left of a test.
async fn nothing_is_left(shop: &Shop) {
    eventually("nothing of the test is left", async || {
        let plan = shop.plan().await;
        let writers: usize = shop.groups().iter().map(|group| shop.pair.writers(*group).len()).sum();
        (plan.status.tests.is_empty() && shop.pair.hosts.1.names().is_empty() && writers == 2).then_some(())
    })
    .await;
}

/// A web server that answers everything with this.
async fn web_server(body: &'static str) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn picture() -> Vec<u8> {
    let mut png_bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut png_bytes, 64, 64);
    encoder.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..64 * 64).map(|at| if at % 64 < at / 64 { 200 } else { 0 }).collect();
    encoder.write_header().expect("header").write_image_data(&pixels).expect("pixels");
    png_bytes
}

/// Both machines boot, and the front serves.
async fn alive(shop: &Shop) -> Value {
    let host = &shop.pair.hosts.1;
    host.says("db", "booting\nready for connections\n");
    host.says("web", "Debian GNU/Linux 12 web ttyS0\n\nweb login: ");
    host.serves("web", 80, web_server("orders: 42").await);
    host.shows("web", picture());
    json!([
        {"type": "boots", "machine_id": shop.db.id, "contains": "ready for connections"},
        {"type": "boots", "machine_id": shop.web.id},
        {"type": "tcp", "machine_id": shop.web.id, "port": 80},
        {"type": "http", "machine_id": shop.web.id, "path": "/health", "contains": "orders: 42"},
        {"type": "screen", "machine_id": shop.web.id},
        {"type": "script", "script": "note"},
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_comes_to_the_same_end_whenever_the_gateways_are_killed() {
    let mut shop = Shop::open().await;
    let assertions = alive(&shop).await;
    let drill = declared(&shop, assertions, json!({"max_rto": "1h", "max_rpo": "1d"})).await;
    assert_eq!(drill.status.state, DrillState::NeverRun);
    let undisturbed = begin(&shop, &drill).await;
    let first = shop.done(&undisturbed).await;
    brake::hold();
    let second = begin(&shop, &drill).await;
    let (record, kills) = shop.pair.disturb(second.id).await;
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert_eq!(record.state.0, JobState::Succeeded, "{record:#?}");
    nothing_is_left(&shop).await;
    for outcome in [first.result.drill, record.result.drill] {
        let outcome = outcome.expect("it came out");
        assert!(outcome.passed && outcome.failures.is_empty(), "{outcome:?}");
        assert!(outcome.rto_seconds.is_some() && outcome.rpo_seconds.is_some(), "{outcome:?}");
    }
    // The gateway that is asked may learn of it a moment later.
    let drill = eventually("both runs are told of", async || {
        let drill = read(&shop, &drill).await;
        ((drill.status.state, drill.status.runs.len()) == (DrillState::Passed, 2)).then_some(drill)
    })
    .await;
    assert_eq!(drill.status.runs[0].job_id, second.id, "the newest first");
    let evidence = evidence(&shop, &drill).await;
    assert_eq!((&evidence["passed"], &evidence["cleaned_up"]), (&json!(true), &json!(true)), "{evidence:#}");
    let of = |list: &str, field: &str| {
        let all = evidence[list].as_array().expect("a list").iter();
        all.map(|one| one[field].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("assertions", "of"), ["db", "web", "web", "web", "web", "note"]);
    assert_eq!(of("pictures", "machine"), ["web"]);
    assert_eq!(evidence["points"].as_array().expect("a list").len(), 2);
    let report = shop.pair.b().drill_report(&drill.id.to_string(), None).await.expect("report");
    assert!(report.contains("data:image/png;base64,") && report.contains("orders: 42"), "{report}");
    let events: Vec<Event> = shop.pair.b().list("/v1/events", &[]).await.expect("events");
    // A gateway that is killed right then says nothing of it: events are told once at most.
    let told = events.iter().filter(|event| event.kind == "drill.passed").count();
    assert!((1..=2).contains(&told), "{told} of 2");
    // Another run's evidence isn't of this drill, and what was deleted leaves nothing.
    let id = drill.id.to_string();
    let wrong = shop.pair.b().drill_evidence(&id, Some(&JobId::new().to_string())).await;
    assert!(wrong.expect_err("no such run").is_not_found());
    shop.pair.b().delete::<Drill>(&id, drill.generation).await.expect("deleted");
    let vault = shop.pair.running.as_ref().expect("up").1.context.vaults.all().remove(0).vault().expect("open");
    for kind in [kind::EVIDENCE, kind::PICTURES] {
        assert!(vault.catalog().list(kind).await.expect("list").is_empty(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_is_said_and_cleaned_up_all_the_same() {
    let shop = Shop::open().await;
    alive(&shop).await;
    let assertions = json!([
        {"type": "boots", "machine_id": shop.db.id, "contains": "no such line", "within": "1s"},
        {"type": "tcp", "machine_id": shop.web.id, "port": 443, "within": "1s"},
        {"type": "http", "machine_id": shop.web.id, "contains": "orders: 43", "within": "1s"},
        {"type": "screen", "machine_id": shop.db.id, "within": "1s"},
        {"type": "screen", "machine_id": shop.web.id, "picture": "00ff00ff00ff00ff", "within": "1s"},
        {"type": "script", "script": "missing", "within": "1s"},
        {"type": "http", "machine_id": shop.web.id},
    ]);
    let drill = declared(&shop, assertions, json!({})).await;
    let begun = begin(&shop, &drill).await;
    let outcome = shop.done(&begun).await.result.drill.expect("it came out");
    assert!(!outcome.passed && outcome.rto_seconds.is_none(), "{outcome:?}");
    let said = [
        "boots of db: its console ends with \"ready for connections\"",
        "tcp of web: nothing is at that port",
        "answered 200, without \"orders: 43\"",
        "screen of db: it has no screen",
        "of 64 apart",
        "missing",
    ];
    assert_eq!(outcome.failures.len(), said.len(), "{outcome:#?}");
    for (failure, said) in outcome.failures.iter().zip(said) {
        assert!(failure.contains(said), "{said:?} in {failure:?}");
    }
    nothing_is_left(&shop).await;
    assert_eq!(read(&shop, &drill).await.status.state, DrillState::Failed);
    // A machine that doesn't start.
    shop.pair.hosts.1.break_machine("web", "no room for it");
    let begun = begin(&shop, &drill).await;
    let outcome = shop.done(&begun).await.result.drill.expect("it came out");
    assert!(outcome.failures[0].contains("no room for it"), "{outcome:#?}");
    assert_eq!(outcome.failures.len(), 1 + 7, "nothing else was looked at: {outcome:#?}");
    nothing_is_left(&shop).await;
    assert_eq!(evidence(&shop, &drill).await["passed"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_is_kept_stays_until_it_is_ended() {
    let shop = Shop::open().await;
    let assertions = alive(&shop).await;
    let drill = declared(&shop, assertions, json!({"keep": true})).await;
    let id = drill.id.to_string();
    let begun = begin(&shop, &drill).await;
    assert!(shop.done(&begun).await.result.drill.expect("it came out").passed);
    assert_eq!(shop.pair.hosts.1.names(), ["db", "web"]);
    let kept = read(&shop, &drill).await;
    let test = kept.status.test_job_id.expect("it is up");
    assert_eq!(shop.plan().await.status.tests[0].job_id, test);
    assert_eq!(evidence(&shop, &drill).await["kept"], true);
    let client = shop.pair.b();
    let again = client.verb::<Drill>(&id, "run", &DrillRunRequest {}).await.expect_err("its test is up");
    assert!(again.to_string().contains("lifeboat drill cleanup weekly"), "{again}");
    let deleted = client.delete::<Drill>(&id, kept.generation).await.expect_err("its test is up");
    assert!(deleted.to_string().contains(&test.to_string()), "{deleted}");
    let plan = client.delete::<Plan>(&shop.plan.id.to_string(), shop.plan.generation).await.expect_err("in use");
    assert!(plan.blockers().iter().any(|one| one.contains("weekly")), "{plan:?}");
    let ended = client.verb::<Drill>(&id, "cleanup", &PlanCleanupRequest::default()).await.expect("begun");
    shop.done(&ended).await;
    nothing_is_left(&shop).await;
    let none = client.verb::<Drill>(&id, "cleanup", &PlanCleanupRequest::default()).await.expect_err("it is gone");
    assert!(none.to_string().contains("no test that is up"), "{none}");
    client.delete::<Drill>(&id, kept.generation).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_broken_off_cleans_up() {
    let shop = Shop::open().await;
    let assertions = json!([{"type": "boots", "machine_id": shop.db.id, "within": "10m"}]);
    let drill = declared(&shop, assertions, json!({})).await;
    let begun = begin(&shop, &drill).await;
    eventually("it looks at the machine", async || {
        let job = shop.pair.b().job(&begun.id.to_string()).await.expect("job");
        job.steps.iter().any(|step| step.name.contains("asserted") && step.state == JobState::Running).then_some(())
    })
    .await;
    shop.pair.b().cancel_job(&begun.id.to_string()).await.expect("asked");
    assert_eq!(shop.over(&begun).await.state, JobState::Cancelled);
    nothing_is_left(&shop).await;
    let drill = read(&shop, &drill).await;
    assert!(drill.status.runs[0].outcome.failures.contains(&"it was broken off".to_owned()), "{:?}", drill.status);
    // And again: nothing of the one before is in the way.
    shop.pair.hosts.1.says("db", "db login: ");
    let again = begin(&shop, &drill).await;
    assert!(shop.done(&again).await.result.drill.expect("it came out").passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_busy_is_waited_for() {
    let shop = Shop::open().await;
    let client = shop.pair.b();
    let mut plan: PlanSpec = shop.plan.spec.clone();
    plan.boot_group[1].pre_action = vec![action("look", ActionType::Manual)];
    client.update::<Plan>(&shop.plan.id.to_string(), shop.plan.generation, &plan).await.expect("changed");
    let drill = declared(&shop, json!([]), json!({})).await;
    let waits_for = async |job: &Job| {
        eventually("it waits for a person", async || {
            let job = client.job(&job.id.to_string()).await.expect("job");
            job.steps.iter().any(|step| step.waits_for.is_some()).then_some(())
        })
        .await;
    };
    let goes_on = async |id: &str| {
        let body = ContinueRequest { note: None };
        client.post::<Job>(&format!("/v1/jobs/{id}:continue"), &body).await.expect("told");
    };
    let test =
        client.verb::<Plan>(&shop.plan.id.to_string(), "failover", &failover(FailoverKind::Test)).await.expect("test");
    waits_for(&test).await;
    let begun = begin(&shop, &drill).await;
    eventually("the drill waits", async || {
        let job = client.job(&begun.id.to_string()).await.expect("job");
        job.steps[0].message.contains("is busy with the job").then_some(())
    })
    .await;
    goes_on(&test.id.to_string()).await;
    shop.done(&test).await;
    let child = eventually("the drill's own test waits for a person", async || {
        let jobs: Vec<Job> = client.list("/v1/jobs", &[]).await.expect("jobs");
        let waits = |job: &&Job| job.steps.iter().any(|step| step.waits_for.is_some());
        jobs.iter().find(|job| job.parent_id == Some(begun.id) && waits(job)).cloned()
    })
    .await;
    goes_on(&child.id.to_string()).await;
    assert!(shop.done(&begun).await.result.drill.expect("it came out").passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_run_by_themselves_and_expire() {
    let shop = Shop::open().await;
    let drill = declared(&shop, json!([]), json!({"schedule": {"every": "1h"}, "valid_for": "2h"})).await;
    let first = drill.status.next_run.expect("it has a schedule");
    assert_eq!(first.seconds_since(drill.created).round(), 3600.0);
    let context = &shop.pair.running.as_ref().expect("up").1.context;
    let attached = context.vaults.all().remove(0);
    let id: DrillId = drill.id;
    let past = |seconds: i64| Timestamp::from_micros(Timestamp::now().as_micros() - seconds * 1_000_000);
    change_drill(&attached, id, |record| record.begun.replace(past(3601)).is_none()).await.expect("written");
    let ran = eventually("it ran by itself", async || {
        let drill = read(&shop, &drill).await;
        (drill.status.state == DrillState::Passed).then_some(drill)
    })
    .await;
    assert_eq!(evidence(&shop, &drill).await["scheduled"], true);
    assert!(ran.status.next_run.is_some_and(|next| next > Timestamp::now()), "{:?}", ran.status);
    // Its time passes.
    change_drill(&attached, id, |record| {
        record.runs[0].finished = past(2 * 3600 + 1);
        true
    })
    .await
    .expect("written");
    eventually("it has expired, and that is said", async || {
        let events: Vec<Event> = shop.pair.b().list("/v1/events", &[]).await.expect("events");
        let told = events.iter().filter(|event| event.kind == "drill.expired").count();
        assert!(told <= 1, "{events:?}");
        (told == 1 && read(&shop, &drill).await.status.state == DrillState::Expired).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_may_have_a_network_of_its_own() {
    let shop = Shop::open().await;
    let networks: Vec<Network> = shop.pair.b().list("/v1/networks", &[]).await.expect("list");
    let home = networks.iter().find(|one| one.spec.site_id == shop.plan.spec.source_site_id).expect("declared");
    let client = shop.pair.b();
    let west: lifeboat_api::Site = client.read(&shop.plan.spec.target_site_id.to_string()).await.expect("site");
    let own = super::programs::network(&client, &west, "drills", "10.50.0.0/24", Some("br9")).await;
    let refused = client.create::<Drill>(&spec(&shop, json!([]), json!({"network": home.id}))).await;
    assert!(refused.expect_err("of the source site").to_string().contains("target site"));
    let drill = declared(&shop, json!([]), json!({"network": own.id, "keep": true})).await;
    let begun = begin(&shop, &drill).await;
    shop.done(&begun).await;
    let orders = shop.pair.hosts.1.running();
    let joins: Vec<&Join> = orders.iter().flat_map(|order| &order.interfaces).map(|one| &one.join).collect();
    assert_eq!(joins, [&Join::Bridge { name: "br9".to_owned() }, &Join::Bridge { name: "br9".to_owned() }]);
    let addresses: Vec<String> =
        orders.iter().flat_map(|order| &order.interfaces).filter_map(|one| Some(one.address?.to_string())).collect();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.iter().all(|address| address.starts_with("10.50.0.1")), "{addresses:?}");
    let blocked = client.delete::<Network>(&own.id.to_string(), own.generation).await.expect_err("a drill needs it");
    assert!(blocked.blockers().iter().any(|one| one.contains("weekly")), "{blocked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asserted_has_to_be_of_the_plan() {
    let shop = Shop::open().await;
    let stranger = lifeboat_model::MachineId::new();
    let wrong = spec(&shop, json!([{"type": "boots", "machine_id": stranger}]), json!({}));
    let refused = shop.pair.b().create::<Drill>(&wrong).await.expect_err("no machine of the plan");
    assert!(refused.to_string().contains("assertion[0].machine_id"), "{refused}");
    // Any gateway takes the request; one of the target site leads.
    let drill = declared(&shop, json!([]), json!({})).await;
    let begun = shop.pair.a().verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await.expect("begun");
    let gateways: Vec<GatewayView> = shop.pair.b().list("/v1/gateways", &[]).await.expect("list");
    let leader = gateways.iter().find(|one| one.id == begun.gateway_id).expect("known");
    assert_eq!(leader.spec.site_id, shop.plan.spec.target_site_id);
    assert!(shop.done(&begun).await.result.drill.expect("it came out").passed);
}
