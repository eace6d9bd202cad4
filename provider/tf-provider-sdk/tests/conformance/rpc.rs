//! What the Terraform that drives the other tests does not call: lists, actions, identities, generated
//! configuration, deferral. Over gRPC, with the protocol's own messages.

use tf_provider_sdk::tfplugin5::{self as pb, provider_client::ProviderClient};
use tf_provider_sdk::{Object, Provider as _, ReattachServer, Schema, Type, Value};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use super::common::{configure, connect, eventually, receive, send, send_null, summaries};
use super::torture::Torture;

const THING: &str = "torture_everything";

/// The torture provider in this process, configured, and a client of it.
pub(super) struct Session {
    server: ReattachServer,
    pub(super) client: ProviderClient<Channel>,
    data: tempfile::TempDir,
}

impl Session {
    pub(super) async fn start() -> Self {
        let server = ReattachServer::start(Torture).await.unwrap();
        let mut client = connect(&server).await;
        let data = tempfile::tempdir().unwrap();
        configure(&mut client, data.path()).await;
        Self { server, client, data }
    }

    pub(super) async fn end(self) {
        self.server.shutdown().await;
    }

    async fn list(
        &mut self,
        how_many: u64,
        limit: i64,
        with_resource: bool,
    ) -> tonic::Streaming<pb::list_resource::Event> {
        let request = pb::list_resource::Request {
            type_name: THING.into(),
            config: send(&Torture.list_resources()[0].schema(), Object::new().with("how_many", how_many)),
            include_resource_object: with_resource,
            limit,
        };
        self.client.list_resource(request).await.unwrap().into_inner()
    }
}

pub(super) fn schema(kind: &str) -> Schema {
    Torture.resources().iter().find(|resource| resource.type_name() == kind).unwrap().schema()
}

fn allowed() -> Option<pb::ClientCapabilities> {
    Some(pb::ClientCapabilities { deferral_allowed: true, write_only_attributes_allowed: true })
}

#[tokio::test]
async fn a_long_list_comes_as_it_is_found() {
    let mut session = Session::start().await;
    let events: Vec<_> = session.list(10_000, 0, true).await.map(Result::unwrap).collect().await;
    assert_eq!(events.len(), 10_001);
    assert_eq!(events[9_999].display_name, "9999");
    let state = receive(&schema(THING), events[41].resource_object.clone()).unwrap();
    assert_eq!(state.get("name"), Ok("41".to_owned()));
    assert_eq!(summaries(&events[10_000].diagnostic), ["That is all"]);
    // A limit ends it, and says so to the provider.
    let events: Vec<_> = session.list(10_000, 5, false).await.map(Result::unwrap).collect().await;
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|event| event.resource_object.is_none() && event.identity.is_some()));
    let log = session.data.path().join("list.log");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "enough after 4\n");
    // So does a Terraform that hangs up.
    let mut stream = session.list(u64::MAX, 0, false).await;
    stream.next().await.unwrap().unwrap();
    drop(stream);
    eventually("the list ends", || super::torture::count(&log, "enough") == 2).await;
    session.end().await;
}

#[tokio::test]
async fn a_list_is_validated() {
    let mut session = Session::start().await;
    let schema = Torture.list_resources()[0].schema();
    let mut validate = async |how_many: Value| {
        let request = pb::validate_list_resource_config::Request {
            type_name: THING.into(),
            config: send(&schema, Object::new().with("how_many", how_many)),
            ..Default::default()
        };
        summaries(&session.client.validate_list_resource_config(request).await.unwrap().into_inner().diagnostics)
    };
    assert_eq!(validate(Value::Number(13.into())).await, ["Unlucky"]);
    assert_eq!(validate(Value::Number("1.5".parse().unwrap())).await, ["Invalid value for \"how_many\""]);
    assert!(validate(Value::Unknown).await.is_empty());
    session.end().await;
}

#[tokio::test]
async fn an_action_tells_how_it_goes_and_stops_when_told() {
    use pb::invoke_action::event::Type as Event;
    let mut session = Session::start().await;
    let schema = Torture.actions()[0].schema();
    let config = |to: u64, hang: bool| send(&schema, Object::new().with("to", to).with("hang", hang));
    let plan = |to: u64| pb::plan_action::Request {
        action_type: "torture_count".into(),
        config: config(to, false),
        client_capabilities: allowed(),
    };
    let refused = session.client.plan_action(plan(1001)).await.unwrap().into_inner();
    assert_eq!(summaries(&refused.diagnostics), ["Too far"]);
    let planned = session.client.plan_action(plan(3)).await.unwrap().into_inner();
    assert!(planned.diagnostics.is_empty() && planned.deferred.is_none());

    let invoke = |to: u64, hang: bool| pb::invoke_action::Request {
        action_type: "torture_count".into(),
        config: config(to, hang),
        client_capabilities: None,
    };
    let stream = session.client.invoke_action(invoke(3, false)).await.unwrap().into_inner();
    let events: Vec<_> = stream.map(|event| event.unwrap().r#type.unwrap()).collect().await;
    let [Event::Progress(one), Event::Progress(_), Event::Progress(three), Event::Completed(done)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((one.message.as_str(), three.message.as_str(), done.diagnostics.len()), ("1", "3", 0));

    let mut stream = session.client.invoke_action(invoke(1, true)).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    session.client.stop(pb::stop::Request {}).await.unwrap();
    let Some(Event::Completed(stopped)) = stream.next().await.unwrap().unwrap().r#type else {
        panic!("it should have ended");
    };
    assert_eq!(summaries(&stopped.diagnostics), ["Stopped"]);
    session.end().await;
}

#[tokio::test]
async fn older_identities_are_upgraded() {
    let mut session = Session::start().await;
    let ty = Type::object([("id", Type::String), ("zones", Type::list(Type::String))]);
    let mut upgrade = async |version: i64, json: &str| {
        let raw = pb::RawState { json: json.as_bytes().to_vec(), flatmap: Default::default() };
        let request =
            pb::upgrade_resource_identity::Request { type_name: THING.into(), version, raw_identity: Some(raw) };
        session.client.upgrade_resource_identity(request).await.unwrap().into_inner()
    };
    for (version, json) in [(0, r#"{"number": 7}"#), (1, r#"{"id": "thing-7"}"#)] {
        let identity = upgrade(version, json).await.upgraded_identity.unwrap().identity_data.unwrap();
        let Value::Object(identity) = identity.decode(&ty).unwrap() else { panic!("no object") };
        assert_eq!(identity.get("id"), Ok("thing-7".to_owned()));
        assert!(identity.is_null("zones"));
    }
    assert_eq!(summaries(&upgrade(2, "{}").await.diagnostics), ["Identity too new"]);
    session.end().await;
}

#[tokio::test]
async fn configuration_is_generated_from_a_state() {
    let mut session = Session::start().await;
    let many = Object::new().with("text", "a").with("number", 7_u64).with("made", "made for a");
    let state = Object::new()
        .with("id", "thing-g")
        .with("name", "g")
        .with("defaulted", "by default")
        .with("derived", "not the default")
        .with("number", 0.1)
        .with("number_again", 0.1)
        .with("timeouts", Object::new().with("create", "5m"))
        .with("many", vec![many]);
    let request = pb::generate_resource_config::Request { type_name: THING.into(), state: send(&schema(THING), state) };
    let generated = session.client.generate_resource_config(request).await.unwrap().into_inner();
    assert!(generated.diagnostics.is_empty(), "{:?}", generated.diagnostics);
    let config = receive(&schema(THING), generated.config).unwrap();
    let set: Vec<&str> = config.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect();
    // Blocks are never null.
    assert_eq!(set, ["bag", "derived", "group", "many", "name", "named", "number"]);
    assert_eq!(config.at("many[0].text").and_then(Value::as_str), Some("a"));
    assert!(
        config.at("many[0].number").is_some_and(Value::is_null)
            && config.at("many[0].made").is_some_and(Value::is_null)
    );
    session.end().await;
}

#[tokio::test]
async fn what_is_too_early_is_deferred_or_refused() {
    let mut session = Session::start().await;
    let mirror = Torture.data_sources()[0].schema();
    let config = Object::new().with("value", "x").with("later", true);
    for (capabilities, deferred) in [(allowed(), true), (None, false)] {
        let request = pb::read_data_source::Request {
            type_name: "torture_mirror".into(),
            config: send(&mirror, config.clone()),
            client_capabilities: capabilities,
            ..Default::default()
        };
        let read = session.client.read_data_source(request).await.unwrap().into_inner();
        let reason = read.deferred.map(|deferred| deferred.reason());
        assert_eq!(reason, deferred.then_some(pb::deferred::Reason::ResourceConfigUnknown));
        if deferred {
            assert!(receive(&mirror, read.state).unwrap().is_unknown("value_again"));
        } else {
            assert_eq!(summaries(&read.diagnostics), ["Too early"]);
        }
        let old = schema("torture_old");
        let planned = send(&old, Object::new().with("name", "d").with("later", true));
        let request = pb::plan_resource_change::Request {
            type_name: "torture_old".into(),
            prior_state: send_null(),
            config: planned.clone(),
            proposed_new_state: planned,
            client_capabilities: capabilities,
            ..Default::default()
        };
        let plan = session.client.plan_resource_change(request).await.unwrap().into_inner();
        let reason = plan.deferred.map(|deferred| deferred.reason());
        assert_eq!(reason, deferred.then_some(pb::deferred::Reason::AbsentPrereq));
        assert_eq!(plan.diagnostics.is_empty(), deferred);
    }
    session.end().await;
}
