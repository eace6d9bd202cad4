//! Actions and what is computed from the API: what they ask, tell, and make of the answers.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fake_gateway;
mod session;

use fake_gateway::{FakeGateway, problem};
use serde_json::{Value as Json, json};
use session::{Session, send};
use terraform_provider_lifeboat::LifeboatProvider;
use tf_provider_sdk::tfplugin5 as pb;
use tf_provider_sdk::tfplugin5::invoke_action::event::Type as Event;
use tf_provider_sdk::{Object, Provider as _, Schema, Value};
use tokio_stream::StreamExt as _;

const TIME: &str = "2026-11-20T10:05:00Z";

fn id(prefix: &str) -> String {
    format!("{prefix}-{:032x}", 1)
}

fn view(id: &str, spec: Json, status: Json) -> Json {
    json!({"id": id, "generation": 1, "created": TIME, "updated": TIME, "spec": spec, "status": status})
}

fn job(revision: u64, state: &str, step: &str, cause: Option<&str>) -> Json {
    let over = !matches!(state, "queued" | "running");
    let step = json!({
        "name": step, "gateway_id": id("gw"), "state": state, "started": TIME, "finished": null, "message": "",
        "progress": {"done_bytes": 512, "total_bytes": 1024},
    });
    json!({
        "id": id("job"), "revision": revision, "kind": "planned-failover", "group_id": id("grp"), "group": "erp",
        "gateway_id": id("gw"), "state": state, "created": TIME, "started": TIME, "finished": over.then_some(TIME),
        "steps": [step], "cause": cause,
        "result": {"point_id": null, "point_time": TIME, "branch_id": null, "rpo_seconds": 0.0, "rto_seconds": 4.25,
                   "downtime_seconds": null, "bytes_volume": null, "bytes_compared": null, "bytes_changed": null,
                   "bytes_moved": null, "passes": null, "orphan_branch_id": null, "paths": []},
    })
}

async fn started() -> (FakeGateway, Session) {
    let gateway = FakeGateway::start().await;
    let mut session = Session::start().await;
    session.configure(gateway.block(&[])).await;
    (gateway, session)
}

fn schema_of(action: &str) -> Schema {
    let actions = LifeboatProvider.actions();
    actions.iter().find(|found| found.type_name() == action).unwrap().schema()
}

/// What it told, and how it ended.
async fn invoke(session: &mut Session, action: &str, config: Object) -> (Vec<String>, Vec<String>) {
    let request = pb::invoke_action::Request {
        action_type: action.into(),
        config: send(&schema_of(action), config),
        client_capabilities: None,
    };
    let mut events = session.client.invoke_action(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        match event.unwrap().r#type.unwrap() {
            Event::Progress(progress) => told.push(progress.message),
            Event::Completed(completed) => {
                let said = completed.diagnostics.iter().map(|d| format!("{}: {}", d.summary, d.detail));
                return (told, said.collect());
            }
        }
    }
    panic!("it never completed");
}

#[tokio::test]
async fn an_action_follows_its_job_to_the_end() {
    let (gateway, mut session) = started().await;
    let item = format!("GET /v1/jobs/{}", id("job"));
    gateway
        .answers(&format!("POST /v1/groups/{}:failover", id("grp")), 202, job(1, "queued", "stop-and-ship", None))
        .answers(&item, 200, job(2, "running", "stop-and-ship", None))
        .answers(&item, 503, problem("unavailable", 503, "starting", json!({})))
        .answers(&item, 200, job(3, "running", "open", None))
        .answers(&item, 200, job(4, "succeeded", "open", None));
    let config = Object::new().with("group_id", id("grp")).with("kind", "planned");
    let (told, said) = invoke(&mut session, "lifeboat_failover", config).await;
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(told[0], "planned-failover of erp, queued");
    assert!(told.contains(&"planned-failover of erp, running: stop-and-ship (50 %)".to_owned()), "{told:?}");
    assert!(told.last().unwrap().contains("is done: recovery point 2026-11-20T10:05:00Z"), "{told:?}");
    let sent = gateway.asked("POST /v1/groups").concat();
    assert!(sent.contains("\"kind\":\"planned\"") && sent.contains("\"point\":\"latest\""), "{sent}");
    session.end().await;
}

#[tokio::test]
async fn an_action_may_be_about_a_plan_or_a_machine_but_only_about_one_thing() {
    let (gateway, mut session) = started().await;
    let mut over = job(1, "succeeded", "move", None);
    (over["name"], over["group"]) = (json!("shop"), Json::Null);
    over.as_object_mut().unwrap().retain(|name, _| name != "group" && name != "group_id");
    over["plan_id"] = json!(id("plan"));
    gateway.answers(&format!("POST /v1/plans/{}:failover", id("plan")), 202, over.clone());
    let config = Object::new().with("plan_id", id("plan")).with("kind", "test").with("ttl", "2h");
    let (told, said) = invoke(&mut session, "lifeboat_failover", config).await;
    assert_eq!(said, Vec::<String>::new());
    assert!(told.iter().any(|line| line.contains("of shop")), "{told:?}");
    let sent = gateway.asked("POST /v1/plans").concat();
    assert!(sent.contains("\"ttl\":\"2h\"") && !sent.contains("branch_id"), "{sent}");
    gateway.answers(&format!("POST /v1/machines/{}:reprotect", id("mch")), 202, over);
    let (_, said) = invoke(&mut session, "lifeboat_reprotect", Object::new().with("machine_id", id("mch"))).await;
    assert_eq!(said, Vec::<String>::new());
    let schema = schema_of("lifeboat_commit");
    for config in [Object::new(), Object::new().with("plan_id", id("plan")).with("group_id", id("grp"))] {
        let request = pb::validate_action_config::Request {
            action_type: "lifeboat_commit".into(),
            config: send(&schema, config),
        };
        let found = session.client.validate_action_config(request).await.unwrap().into_inner();
        assert_eq!(found.diagnostics.len(), 1, "{:?}", found.diagnostics);
    }
    session.end().await;
}

#[tokio::test]
async fn a_job_that_fails_is_an_error_with_its_cause() {
    let (gateway, mut session) = started().await;
    let path = |verb: &str| format!("POST /v1/groups/{}:{verb}", id("grp"));
    gateway
        .answers(&path("commit"), 202, job(1, "failed", "commit", Some("the vault can't be reached: check the line")))
        .answers(&path("failback"), 409, problem("conflict", 409, "the group erp is at home", json!({})));
    let group = || Object::new().with("group_id", id("grp"));
    let (_, said) = invoke(&mut session, "lifeboat_commit", group()).await;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("The vault can't be reached: check the line.") && said[0].contains("lifeboat job show job-")
    );
    let (_, said) = invoke(&mut session, "lifeboat_failback", group()).await;
    assert!(said[0].starts_with("Cannot fail back the group grp-") && said[0].contains("is at home"), "{said:?}");
    session.end().await;
}

#[tokio::test]
async fn an_action_on_nothing_is_refused_at_plan() {
    let (_gateway, mut session) = started().await;
    let mut plan = async |group: Value| {
        let config = send(&schema_of("lifeboat_resync"), Object::new().with("group_id", group));
        let request =
            pb::plan_action::Request { action_type: "lifeboat_resync".into(), config, client_capabilities: None };
        let planned = session.client.plan_action(request).await.unwrap().into_inner();
        planned.diagnostics.iter().map(|d| d.summary.clone()).collect::<Vec<_>>()
    };
    assert_eq!(plan(Value::String(id("grp"))).await, ["No such group"]);
    assert!(plan(Value::Unknown).await.is_empty());
    let schema = schema_of("lifeboat_failover");
    let config = Object::new().with("group_id", id("grp")).with("kind", "planned").with("point", "latest-processed");
    let request =
        pb::validate_action_config::Request { action_type: "lifeboat_failover".into(), config: send(&schema, config) };
    let found = session.client.validate_action_config(request).await.unwrap().into_inner();
    assert_eq!(found.diagnostics[0].summary, "A planned failover takes the latest point");
    session.end().await;
}

#[tokio::test]
async fn a_policy_is_judged_by_what_is_written() {
    let (gateway, mut session) = started().await;
    let spec = json!({
        "vault_id": id("vlt"), "name": "standard", "recovery_point_interval": "5s", "rpo_threshold": "8s",
        "retention": [{"every": "all", "for": "1h"}], "bandwidth_limit": [{"mbps": 100}, {"mbps": 40}],
        "compression": "auto",
    });
    gateway.answers(
        &format!("GET /v1/policies/{}", id("pol")),
        200,
        view(&id("pol"), spec, json!({"group_ids": [], "failback_policy_id": null})),
    );
    let sources = LifeboatProvider.data_sources();
    let schema = sources.iter().find(|source| source.type_name() == "lifeboat_feasibility").unwrap().schema();
    let mut read = async |config: Object| {
        let request = pb::read_data_source::Request {
            type_name: "lifeboat_feasibility".into(),
            config: send(&schema, config.with("policy_id", id("pol"))),
            ..Default::default()
        };
        let response = session.client.read_data_source(request).await.unwrap().into_inner();
        assert!(response.diagnostics.is_empty(), "{:?}", response.diagnostics);
        match response.state.unwrap().decode(&schema.value_type()).unwrap() {
            Value::Object(state) => state,
            other => panic!("{other:?}"),
        }
    };
    // 4 MB/s over the lower of the two limits: 5 s and 4 s on the way.
    let written = Object::new().with("churn_bytes_per_second", 4_000_000_u64);
    let slow = read(written.clone()).await;
    assert_eq!(slow.get("feasible"), Ok(false));
    assert_eq!(slow.get("mbps"), Ok(40_u64));
    assert_eq!(slow.get("expected_rpo_seconds"), Ok(9_u64));
    let reasons: Vec<String> = slow.get("reasons").unwrap();
    assert!(reasons[0].contains("9 s, and the policy's threshold is 8 s"), "{reasons:?}");
    let enough = read(written.with("compression_ratio", 2_u64).with("size_gib", 10_u64)).await;
    assert_eq!(enough.get("feasible"), Ok(true));
    assert_eq!(enough.get("expected_rpo_seconds"), Ok(7_u64));
    assert!(enough.get::<f64>("vault_gib").unwrap() > 5.0);
    // Nothing protected yet: nothing written.
    let nothing = read(Object::new()).await;
    assert_eq!(nothing.get("churn_bytes_per_second"), Ok(0_u64));
    assert_eq!(nothing.get("feasible"), Ok(true));
    let too_much = read(Object::new().with("churn_bytes_per_second", 10_000_000_u64)).await;
    assert!(too_much.is_null("expected_rpo_seconds"));
    session.end().await;
}
