//! The RPCs that Terraform 1.11 does not call, and those where the exact answer matters, called over
//! gRPC in reattach mode.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails right there")]

mod common;
#[allow(dead_code, reason = "its main is not called here")]
#[path = "../examples/minimal.rs"]
mod minimal;

use common::{configure, connect, receive, send, send_null, summaries};
use tf_provider_sdk::tfplugin5::{self as pb, provider_client::ProviderClient};
use tf_provider_sdk::{Object, Provider as _, ReattachServer, Schema, Type, Value};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

struct Session {
    server: ReattachServer,
    client: ProviderClient<Channel>,
    notes: tempfile::TempDir,
}

impl Session {
    async fn start() -> Self {
        let server = ReattachServer::start(minimal::Minimal).await.unwrap();
        let mut client = connect(&server).await;
        let notes = tempfile::tempdir().unwrap();
        configure(&mut client, notes.path()).await;
        Self { server, client, notes }
    }

    async fn end(self) {
        let socket = self.server.socket().to_path_buf();
        self.server.shutdown().await;
        assert!(!socket.exists());
    }

    fn note(&self, name: &str) {
        let text = r#"{"text": "hello", "protected": false}"#;
        std::fs::write(self.notes.path().join(format!("{name}.json")), text).unwrap();
    }
}

fn schema() -> Schema {
    minimal::Minimal.resources()[0].schema()
}

const NOTE: &str = "minimal_note";

fn identity(id: &str) -> Option<pb::ResourceIdentityData> {
    let identity = Value::Object(Object::new().with("id", id));
    Some(pb::ResourceIdentityData { identity_data: Some(pb::DynamicValue::encode(&identity)) })
}

fn raw(json: &str) -> Option<pb::RawState> {
    Some(pb::RawState { json: json.as_bytes().to_vec(), flatmap: Default::default() })
}

#[tokio::test]
async fn metadata_and_schemas_agree() {
    let mut session = Session::start().await;
    let metadata = session.client.get_metadata(pb::get_metadata::Request {}).await.unwrap().into_inner();
    assert_eq!(metadata.resources[0].type_name, NOTE);
    assert_eq!(metadata.data_sources[0].type_name, NOTE);
    assert_eq!(metadata.functions[0].name, "shout");
    assert_eq!(metadata.ephemeral_resources[0].type_name, "minimal_token");
    assert_eq!(metadata.list_resources[0].type_name, NOTE);
    assert_eq!(metadata.actions[0].type_name, "minimal_touch");
    let schema = session.client.get_schema(pb::get_provider_schema::Request {}).await.unwrap().into_inner();
    assert!(schema.action_schemas["minimal_touch"].schema.is_some());
    assert!(schema.list_resource_schemas.contains_key(NOTE));
    let identities = session
        .client
        .get_resource_identity_schemas(pb::get_resource_identity_schemas::Request {})
        .await
        .unwrap()
        .into_inner();
    let attribute = &identities.identity_schemas[NOTE].identity_attributes[0];
    assert!(attribute.name == "id" && attribute.required_for_import);
    session.end().await;
}

#[tokio::test]
async fn an_identity_comes_with_the_state_and_imports() {
    let mut session = Session::start().await;
    session.note("a");
    let imported = session
        .client
        .import_resource_state(pb::import_resource_state::Request {
            type_name: NOTE.into(),
            identity: identity("note-a"),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert!(imported.diagnostics.is_empty(), "{:?}", imported.diagnostics);
    let resource = &imported.imported_resources[0];
    assert_eq!(resource.identity, identity("note-a"));
    let read = session
        .client
        .read_resource(pb::read_resource::Request {
            type_name: NOTE.into(),
            current_state: resource.state.clone(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(read.new_identity, identity("note-a"));
    let state = receive(&schema(), read.new_state).unwrap();
    assert_eq!(state.get("name"), Ok("a".to_owned()));
    let upgraded = session
        .client
        .upgrade_resource_identity(pb::upgrade_resource_identity::Request {
            type_name: NOTE.into(),
            version: 0,
            raw_identity: raw(r#"{"id": "note-a"}"#),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(upgraded.upgraded_identity, identity("note-a"));
    session.end().await;
}

#[tokio::test]
async fn lists_come_as_a_stream() {
    let mut session = Session::start().await;
    for name in ["a1", "a2", "a3", "b1"] {
        session.note(name);
    }
    let config = Schema::new().attribute(tf_provider_sdk::Attribute::string("prefix").optional());
    let request = pb::list_resource::Request {
        type_name: NOTE.into(),
        config: send(&config, Object::new().with("prefix", "a")),
        include_resource_object: true,
        limit: 2,
    };
    let valid = session
        .client
        .validate_list_resource_config(pb::validate_list_resource_config::Request {
            type_name: NOTE.into(),
            config: request.config.clone(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert!(valid.diagnostics.is_empty());
    let stream = session.client.list_resource(request).await.unwrap().into_inner();
    let events: Vec<_> = stream.map(Result::unwrap).collect().await;
    let names: Vec<_> = events.iter().map(|e| e.display_name.as_str()).collect();
    assert_eq!(names, ["a1", "a2"]);
    assert_eq!(events[0].identity, identity("note-a1"));
    let state = receive(&schema(), events[0].resource_object.clone()).unwrap();
    assert_eq!(state.get("name"), Ok("a1".to_owned()));
    session.end().await;
}

#[tokio::test]
async fn actions_report_progress_and_complete() {
    use pb::invoke_action::event::Type as Event;
    let mut session = Session::start().await;
    session.note("a");
    let schema = minimal::Minimal.actions()[0].schema();
    let bad = pb::validate_action_config::Request {
        action_type: "minimal_touch".into(),
        config: send(&schema, Object::new().with("name", "")),
    };
    let found = session.client.validate_action_config(bad).await.unwrap().into_inner();
    assert_eq!(summaries(&found.diagnostics), ["Invalid value for \"name\""]);
    for (name, errors) in [("a", 0), ("missing", 1)] {
        let config = send(&schema, Object::new().with("name", name));
        let plan = pb::plan_action::Request {
            action_type: "minimal_touch".into(),
            config: config.clone(),
            client_capabilities: None,
        };
        let planned = session.client.plan_action(plan).await.unwrap().into_inner();
        assert!(planned.diagnostics.is_empty());
        let request =
            pb::invoke_action::Request { action_type: "minimal_touch".into(), config, client_capabilities: None };
        let stream = session.client.invoke_action(request).await.unwrap().into_inner();
        let events: Vec<_> = stream.map(|event| event.unwrap().r#type.unwrap()).collect().await;
        let [Event::Progress(progress), Event::Completed(completed)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(progress.message, format!("touching {name}"));
        assert_eq!(completed.diagnostics.len(), errors);
    }
    session.end().await;
}

#[tokio::test]
async fn functions_and_ephemeral_resources_answer() {
    let mut session = Session::start().await;
    let mut call = async |argument: &str| {
        let request = pb::call_function::Request {
            name: "shout".into(),
            arguments: vec![pb::DynamicValue::encode(&Value::String(argument.into()))],
        };
        session.client.call_function(request).await.unwrap().into_inner()
    };
    let result = call("quiet").await.result.unwrap().decode(&Type::String).unwrap();
    assert_eq!(result, Value::String("QUIET".into()));
    assert_eq!(call("").await.error.unwrap().function_argument, Some(0));
    let functions = session.client.get_functions(pb::get_functions::Request {}).await.unwrap();
    assert!(functions.into_inner().functions.contains_key("shout"));

    let schema = minimal::Minimal.ephemeral_resources()[0].schema();
    let config = send(&schema, Object::new().with("role", "reader"));
    let opened = session
        .client
        .open_ephemeral_resource(pb::open_ephemeral_resource::Request {
            type_name: "minimal_token".into(),
            config,
            client_capabilities: None,
        })
        .await
        .unwrap()
        .into_inner();
    let result = receive(&schema, opened.result).unwrap();
    assert_eq!(result.get("value"), Ok("token-for-reader".to_owned()));
    let private = opened.private;
    let closed = session
        .client
        .close_ephemeral_resource(pb::close_ephemeral_resource::Request { type_name: "minimal_token".into(), private })
        .await
        .unwrap()
        .into_inner();
    assert!(closed.diagnostics.is_empty());
    assert!(session.notes.path().join("closed-reader").exists());
    session.end().await;
}

#[tokio::test]
async fn states_are_upgraded_and_moved() {
    let mut session = Session::start().await;
    let old = r#"{"id": "note-a", "name": "a", "body": "old", "gone": [1, {"x": null}]}"#;
    let upgraded = session
        .client
        .upgrade_resource_state(pb::upgrade_resource_state::Request {
            type_name: NOTE.into(),
            version: 0,
            raw_state: raw(old),
        })
        .await
        .unwrap()
        .into_inner();
    let state = receive(&schema(), upgraded.upgraded_state).unwrap();
    assert_eq!(state.get("text"), Ok("old".to_owned()));
    assert_eq!(state.value("line"), Some(&Value::List(Vec::new())));
    let mut move_from = async |source: &str| {
        let request = pb::move_resource_state::Request {
            source_provider_address: "registry.terraform.io/example/other".into(),
            source_type_name: source.into(),
            source_state: raw(r#"{"name": "m", "memo": "text"}"#),
            target_type_name: NOTE.into(),
            ..Default::default()
        };
        session.client.move_resource_state(request).await.unwrap().into_inner()
    };
    let moved = move_from("minimal_memo").await;
    assert_eq!(moved.target_identity, identity("note-m"));
    let refused = move_from("other_thing").await;
    assert_eq!(summaries(&refused.diagnostics), ["Move not supported"]);
    session.end().await;
}

#[tokio::test]
async fn an_old_terraform_is_told_about_write_only_values() {
    let mut session = Session::start().await;
    let config = Object::new().with("name", "a").with("secret", "s").with("secret_version", 1_u64);
    for (capable, expected) in [(true, 0), (false, 1)] {
        let request = pb::validate_resource_type_config::Request {
            type_name: NOTE.into(),
            config: send(&schema(), config.clone()),
            client_capabilities: Some(pb::ClientCapabilities {
                write_only_attributes_allowed: capable,
                ..Default::default()
            }),
        };
        let found = session.client.validate_resource_type_config(request).await.unwrap().into_inner();
        assert_eq!(found.diagnostics.len(), expected, "{:?}", found.diagnostics);
    }
    session.end().await;
}

#[tokio::test]
async fn malformed_values_are_diagnostics_and_lose_no_state() {
    let mut session = Session::start().await;
    let garbage = || Some(pb::DynamicValue { msgpack: vec![0xdd, 0xff, 0xff, 0xff, 0xff], json: Vec::new() });
    let read = session
        .client
        .read_resource(pb::read_resource::Request {
            type_name: NOTE.into(),
            current_state: garbage(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(read.new_state, garbage());
    assert_eq!(summaries(&read.diagnostics), ["Cannot read a value from Terraform"]);
    let plan = pb::plan_resource_change::Request {
        type_name: "minimal_other".into(),
        prior_state: send_null(),
        ..Default::default()
    };
    let plan = session.client.plan_resource_change(plan).await.unwrap().into_inner();
    assert_eq!(summaries(&plan.diagnostics), ["Unknown resource"]);
    session.end().await;
}
