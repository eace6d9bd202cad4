//! The provider in this process, and a gRPC client of it, as Terraform would be.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use hyper_util::rt::TokioIo;
use terraform_provider_lifeboat::{LifeboatProvider, Link};
use tf_provider_sdk::tfplugin5::{self as pb, provider_client::ProviderClient};
use tf_provider_sdk::{Object, Provider as _, ReattachServer, Resource, Schema, Value};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub(crate) struct Session {
    server: ReattachServer,
    pub(crate) client: ProviderClient<Channel>,
}

/// What a plan came to.
pub(crate) struct Plan {
    pub(crate) planned: Option<Object>,
    /// The paths that force a replacement.
    pub(crate) replaces: Vec<String>,
    /// `path: summary: detail` of every diagnostic.
    pub(crate) said: Vec<String>,
}

/// What an operation came to.
pub(crate) struct Applied {
    pub(crate) state: Option<Object>,
    /// `path: summary: detail` of every diagnostic.
    pub(crate) said: Vec<String>,
}

impl Session {
    pub(crate) async fn start() -> Self {
        let server = ReattachServer::start(LifeboatProvider).await.unwrap();
        let socket = server.socket().to_path_buf();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .unwrap();
        Self { server, client: ProviderClient::new(channel) }
    }

    pub(crate) async fn end(self) {
        self.server.shutdown().await;
    }

    /// As when a plan is made before the gateway's address is known.
    pub(crate) async fn configure_unknown(&mut self) {
        self.configure(Object::new().with("endpoint", Value::Unknown)).await;
    }

    pub(crate) async fn configure(&mut self, block: Object) {
        let request = pb::configure::Request {
            terraform_version: "1.11.4".into(),
            config: send(&LifeboatProvider.schema(), block),
            client_capabilities: None,
        };
        let said = said(&self.client.configure(request).await.unwrap().into_inner().diagnostics);
        assert!(said.is_empty(), "{said:?}");
    }

    /// What `terraform validate` says of a resource.
    pub(crate) async fn validate(&mut self, name: &str, config: Object) -> Vec<String> {
        let request = pb::validate_resource_type_config::Request {
            type_name: name.into(),
            config: send(&schema_of(name), config),
            client_capabilities: Some(pb::ClientCapabilities {
                write_only_attributes_allowed: true,
                ..Default::default()
            }),
        };
        said(&self.client.validate_resource_type_config(request).await.unwrap().into_inner().diagnostics)
    }

    /// Plans as Terraform does: its proposal is the configuration, with the prior values of computed attributes.
    pub(crate) async fn plan(&mut self, name: &str, prior: Option<&Object>, config: Option<&Object>) -> Plan {
        let schema = schema_of(name);
        let whole = |object: &Object| schema.conform(object.clone()).unwrap();
        let (prior, config) = (prior.map(whole), config.map(whole));
        let proposed = config.as_ref().map(|config| propose(&schema, prior.as_ref(), config));
        let message = |object: Option<Object>| object.map_or_else(send_null, |object| send(&schema, object));
        let request = pb::plan_resource_change::Request {
            type_name: name.into(),
            prior_state: message(prior),
            proposed_new_state: message(proposed),
            config: message(config),
            ..Default::default()
        };
        let response = self.client.plan_resource_change(request).await.unwrap().into_inner();
        Plan {
            planned: receive(&schema, response.planned_state),
            replaces: response.requires_replace.iter().map(path).collect(),
            said: said(&response.diagnostics),
        }
    }

    /// Applies a plan: `None` for what isn't there.
    pub(crate) async fn apply(
        &mut self,
        name: &str,
        prior: Option<&Object>,
        plan: Option<&Object>,
        config: &Object,
    ) -> Applied {
        let schema = schema_of(name);
        let message = |object: Option<&Object>| object.map_or_else(send_null, |object| send(&schema, object.clone()));
        let request = pb::apply_resource_change::Request {
            type_name: name.into(),
            prior_state: message(prior),
            planned_state: message(plan),
            config: if plan.is_some() { send(&schema, config.clone()) } else { send_null() },
            ..Default::default()
        };
        let response = self.client.apply_resource_change(request).await.unwrap().into_inner();
        Applied { state: receive(&schema, response.new_state), said: said(&response.diagnostics) }
    }

    /// Plans and applies a create.
    pub(crate) async fn create(&mut self, name: &str, config: &Object) -> Applied {
        let plan = self.plan(name, None, Some(config)).await;
        assert!(plan.said.is_empty(), "{:?}", plan.said);
        self.apply(name, None, plan.planned.as_ref(), config).await
    }

    /// Plans and applies a change.
    pub(crate) async fn update(&mut self, name: &str, prior: &Object, config: &Object) -> Applied {
        let plan = self.plan(name, Some(prior), Some(config)).await;
        assert!(plan.said.is_empty(), "{:?}", plan.said);
        self.apply(name, Some(prior), plan.planned.as_ref(), config).await
    }

    pub(crate) async fn read(&mut self, name: &str, state: &Object) -> Applied {
        let schema = schema_of(name);
        let request = pb::read_resource::Request {
            type_name: name.into(),
            current_state: send(&schema, state.clone()),
            ..Default::default()
        };
        let response = self.client.read_resource(request).await.unwrap().into_inner();
        Applied { state: receive(&schema, response.new_state), said: said(&response.diagnostics) }
    }
}

pub(crate) fn resource(name: &str) -> Box<dyn Resource<Link>> {
    LifeboatProvider.resources().into_iter().find(|resource| resource.type_name() == name).unwrap()
}

fn schema_of(name: &str) -> Schema {
    resource(name).schema()
}

/// Computed attributes that the configuration leaves out keep their prior value.
fn propose(schema: &Schema, prior: Option<&Object>, config: &Object) -> Object {
    let mut proposed = config.clone();
    let Some(prior) = prior else { return proposed };
    let configurable_only =
        ["name", "description", "policy_id", "cache_gib", "roles", "mount_path", "app_consistent_interval"];
    for attribute in schema.root().attributes() {
        let name = attribute.name();
        if config.is_null(name) && !configurable_only.contains(&name) {
            proposed.set(name, prior.value(name).cloned().unwrap_or_default());
        }
    }
    if let (Some(Value::Object(block)), Some(before)) =
        (proposed.value_mut("encryption"), prior.at("encryption.passphrase_version"))
        && block.is_null("passphrase_version")
    {
        block.set("passphrase_version", before.clone());
    }
    proposed
}

pub(crate) fn send(schema: &Schema, object: Object) -> Option<pb::DynamicValue> {
    let object = schema.conform(object).unwrap();
    Some(pb::DynamicValue::encode(&Value::Object(object)))
}

fn receive(schema: &Schema, message: Option<pb::DynamicValue>) -> Option<Object> {
    match message?.decode(&schema.value_type()).unwrap() {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

fn send_null() -> Option<pb::DynamicValue> {
    Some(pb::DynamicValue::encode(&Value::Null))
}

fn said(diagnostics: &[pb::Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|d| format!("{}: {}: {}", d.attribute.as_ref().map(path).unwrap_or_default(), d.summary, d.detail))
        .collect()
}

fn path(path: &pb::AttributePath) -> String {
    use pb::attribute_path::step::Selector;
    let mut text = String::new();
    for step in &path.steps {
        match &step.selector {
            Some(Selector::AttributeName(name)) if text.is_empty() => text.push_str(name),
            Some(Selector::AttributeName(name)) => text.push_str(&format!(".{name}")),
            Some(Selector::ElementKeyInt(index)) => text.push_str(&format!("[{index}]")),
            Some(Selector::ElementKeyString(key)) => text.push_str(&format!("[{key:?}]")),
            None => {}
        }
    }
    text
}
