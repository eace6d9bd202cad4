//! Tests of the operations: what stays in state when something fails.

use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::diagnostic::Result;
use crate::provider::Resource;
use crate::schema::{Attribute, Schema, Timeouts};

struct Test;

#[async_trait]
impl Provider for Test {
    type Client = ();

    fn address(&self) -> &str {
        "example.com/x/test"
    }

    fn version(&self) -> &str {
        "0"
    }

    async fn configure(&self, _: &Context, _: &Object) -> Result<()> {
        Ok(())
    }

    fn resources(&self) -> Vec<Box<dyn Resource<()>>> {
        vec![Box::new(Thing)]
    }
}

/// What it does is in its name.
struct Thing;

#[async_trait]
impl Resource<()> for Thing {
    fn type_name(&self) -> &str {
        "test_thing"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .version(2)
            .attribute(Attribute::id())
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::string("secret").optional().write_only())
            .timeouts(Timeouts::new().create(Duration::from_secs(600)))
    }

    async fn modify_plan(&self, (): &(), cx: &Context, plan: &mut PlanChange) -> Result<()> {
        cx.set_private("planned", &true)?;
        if plan.is_destroy() && plan.get::<String>("name")? == "kept" {
            return Err(Diagnostic::error("Kept", "It can't go.").at("name").into());
        }
        Ok(())
    }

    async fn create(&self, (): &(), cx: &Context, request: CreateRequest) -> Result<Object> {
        let name: String = request.plan.get("name")?;
        let made = request.plan.clone().with("id", "1");
        match name.as_str() {
            "fails" => Err(Diagnostics::error("Failed", "at once")),
            "unfinished" => Ok(request.plan),
            "odd" => Ok(made.with("nonsense", true)),
            "waits" => {
                cx.save_partial(made);
                cx.sleep("waiting for ever", Duration::from_secs(86_400)).await?;
                Ok(Object::new())
            }
            "private" => {
                assert_eq!(cx.private("planned"), Some(true));
                cx.set_private("token", &"t")?;
                Ok(made.with("secret", request.config.get::<String>("secret")?))
            }
            _ => Ok(made),
        }
    }

    async fn read(&self, (): &(), cx: &Context, state: Object) -> Result<Option<Object>> {
        cx.warn("Seen", "It was read.");
        match state.get::<String>("name")?.as_str() {
            "gone" => Ok(None),
            "broken" => Err(Diagnostics::error("Broken", "for now")),
            _ => Ok(Some(state)),
        }
    }

    async fn update(&self, (): &(), _: &Context, _: UpdateRequest) -> Result<Object> {
        Err(Diagnostics::error("Failed", "to update"))
    }

    async fn delete(&self, (): &(), _: &Context, state: Object) -> Result<()> {
        match state.get::<String>("name")?.as_str() {
            "stuck" => Err(Diagnostics::error("Stuck", "")),
            _ => Ok(()),
        }
    }

    async fn upgrade_state(&self, _: &Context, version: i64, mut state: Json) -> Result<Json> {
        assert_eq!(version, 1);
        state["name"] = state["title"].take();
        Ok(state)
    }
}

const THING: &str = "test_thing";

fn engine() -> Engine<Test> {
    let engine = Engine::new(Test);
    engine.set_client(());
    engine
}

fn thing(name: &str) -> Object {
    Thing.schema().conform(Object::new().with("name", name)).unwrap()
}

fn change(prior: Option<Object>, planned: Option<Object>) -> Change {
    Change { config: planned.clone(), prior, planned, private: Private::new(), may_defer: false }
}

fn create(name: &str) -> Change {
    change(None, Some(thing(name).with("id", Value::Unknown)))
}

fn summaries(diagnostics: &Diagnostics) -> Vec<&str> {
    diagnostics.iter().map(|d| d.summary.as_str()).collect()
}

#[tokio::test]
async fn a_failed_create_leaves_nothing() {
    let outcome = engine().apply(THING, create("fails")).await;
    assert_eq!(outcome.state, None);
    assert_eq!(summaries(&outcome.diagnostics), ["Failed"]);
}

#[tokio::test]
async fn what_a_create_made_is_kept_even_if_its_result_is_wrong() {
    for (name, said) in [("unfinished", "Value still unknown"), ("odd", "Wrong value from the provider")] {
        let outcome = engine().apply(THING, create(name)).await;
        assert_eq!(outcome.state.unwrap().get("name"), Ok(name.to_owned()));
        assert_eq!(summaries(&outcome.diagnostics), [said]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_keeps_the_partial_state() {
    let mut request = create("waits");
    for side in [&mut request.planned, &mut request.config].into_iter().flatten() {
        side.set("timeouts", Object::new().with("create", "90s"));
    }
    let outcome = engine().apply(THING, request).await;
    assert_eq!(outcome.state.unwrap().get("id"), Ok("1".to_owned()));
    assert!(outcome.diagnostics.to_string().contains("within 1m30s"));
}

#[tokio::test(start_paused = true)]
async fn stop_ends_all_operations_and_later_ones_run() {
    let engine = engine();
    let (first, second, ()) =
        tokio::join!(engine.apply(THING, create("waits")), engine.apply(THING, create("waits")), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            engine.stop();
        });
    for outcome in [first, second] {
        assert_eq!(outcome.state.unwrap().get("id"), Ok("1".to_owned()));
        assert_eq!(summaries(&outcome.diagnostics), ["Stopped"]);
    }
    let outcome = engine.apply(THING, create("fine")).await;
    assert!(outcome.diagnostics.is_empty());
}

#[tokio::test]
async fn private_data_goes_from_plan_to_state_and_secrets_do_not() {
    let engine = engine();
    let mut plan = create("private");
    for side in [&mut plan.planned, &mut plan.config].into_iter().flatten() {
        side.set("secret", "s");
    }
    let config = plan.config.clone();
    let planned = engine.plan(THING, plan).await;
    assert!(planned.planned.as_ref().unwrap().is_null("secret"));
    let change = Change { config, prior: None, planned: planned.planned, private: planned.private, may_defer: false };
    let outcome = engine.apply(THING, change).await;
    assert!(outcome.diagnostics.is_empty(), "{}", outcome.diagnostics);
    assert!(outcome.state.unwrap().is_null("secret"));
    assert_eq!(outcome.private["token"], "t");
}

#[tokio::test]
async fn failed_updates_and_deletes_keep_the_prior_state() {
    let prior = thing("stuck").with("id", "1");
    let outcome = engine().apply(THING, change(Some(prior.clone()), Some(thing("new").with("id", "1")))).await;
    assert_eq!(outcome.state, Some(prior.clone()));
    let outcome = engine().apply(THING, change(Some(prior.clone()), None)).await;
    assert_eq!(outcome.state, Some(prior));
    let outcome = engine().apply(THING, change(Some(thing("free").with("id", "1")), None)).await;
    assert_eq!(outcome.state, None);
    assert!(outcome.diagnostics.is_empty());
}

#[tokio::test]
async fn a_change_of_timeouts_never_reaches_the_provider() {
    let prior = thing("x").with("id", "1");
    let planned = prior.clone().with("timeouts", Object::new().with("create", "5m"));
    let outcome = engine().apply(THING, change(Some(prior), Some(planned.clone()))).await;
    assert!(outcome.diagnostics.is_empty(), "{}", outcome.diagnostics);
    assert_eq!(outcome.state, Some(planned));
}

#[tokio::test]
async fn the_resource_is_asked_about_a_destroy() {
    let outcome = engine().plan(THING, change(Some(thing("kept").with("id", "1")), None)).await;
    assert_eq!(summaries(&outcome.diagnostics), ["Kept"]);
    let outcome = engine().plan(THING, change(Some(thing("other").with("id", "1")), None)).await;
    assert!(outcome.diagnostics.is_empty());
    assert_eq!(outcome.planned, None);
}

#[tokio::test]
async fn a_read_keeps_removes_or_fails() {
    let read = async |name: &str| engine().read(THING, thing(name).with("id", "1"), Private::new(), false).await;
    assert!(read("fine").await.state.is_some());
    let gone = read("gone").await;
    assert!(gone.state.is_none() && !gone.diagnostics.has_errors());
    assert_eq!(summaries(&gone.diagnostics), ["Seen"]);
    let broken = read("broken").await;
    assert!(broken.state.is_some());
    assert_eq!(summaries(&broken.diagnostics), ["Seen", "Broken"]);
}

#[tokio::test]
async fn states_are_upgraded_once_and_newer_ones_refused() {
    let engine = engine();
    let (state, _) = engine.upgrade(THING, 1, serde_json::json!({"id": "1", "title": "t"})).await.unwrap();
    assert_eq!(state, thing("t").with("id", "1"));
    let (state, _) = engine.upgrade(THING, 2, serde_json::json!({"id": "1", "name": "n", "left": true})).await.unwrap();
    assert_eq!(state.get("name"), Ok("n".to_owned()));
    let error = engine.upgrade(THING, 3, serde_json::json!({})).await.unwrap_err();
    assert_eq!(summaries(&error), ["State too new"]);
    assert!(engine.upgrade(THING, 2, serde_json::json!({"name": []})).await.is_err());
}

#[tokio::test]
async fn without_a_client_nothing_is_applied() {
    let outcome = Engine::new(Test).apply(THING, create("fine")).await;
    assert_eq!(summaries(&outcome.diagnostics), ["Provider not configured"]);
    let outcome = engine().apply("test_other", create("fine")).await;
    assert_eq!(summaries(&outcome.diagnostics), ["Unknown resource"]);
}
