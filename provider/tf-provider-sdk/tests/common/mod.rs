//! What the tests share: the example provider's binary, values over gRPC, and waits with a deadline.

#![allow(dead_code, reason = "each test file uses its own part of this")]

mod workspace;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tf_provider_sdk::tfplugin5::{self as pb, provider_client::ProviderClient};
use tf_provider_sdk::{Object, ReattachServer, Schema, Value};
use tonic::transport::{Channel, Endpoint};

#[allow(unused_imports, reason = "as above")]
pub(crate) use workspace::{APPLY, PLAN, Workspace, with};

/// Long enough for a machine under load, short enough for a person.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// An example provider, which cargo builds beside the tests.
pub(crate) fn example_binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(|deps| deps.parent()).unwrap();
    let binary = target.join("examples").join(name);
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

/// Asks until it is so, or panics at the deadline.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An object as Terraform sends it: whole, in msgpack.
pub(crate) fn send(schema: &Schema, object: Object) -> Option<pb::DynamicValue> {
    let object = schema.conform(object).unwrap();
    Some(pb::DynamicValue::encode(&Value::Object(object)))
}

/// Null as Terraform sends it.
pub(crate) fn send_null() -> Option<pb::DynamicValue> {
    Some(pb::DynamicValue::encode(&Value::Null))
}

/// An object as the provider answered it; `None` for null.
pub(crate) fn receive(schema: &Schema, message: Option<pb::DynamicValue>) -> Option<Object> {
    match message.unwrap().decode(&schema.value_type()).unwrap() {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// `severity summary (path)` of each diagnostic.
pub(crate) fn summaries(diagnostics: &[pb::Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(|d| d.summary.clone()).collect()
}

/// Configures an example provider for `directory`.
pub(crate) async fn configure(client: &mut ProviderClient<Channel>, directory: &std::path::Path) {
    let config = format!("{{\"directory\": {directory:?}}}");
    let request = pb::configure::Request {
        terraform_version: "1.11.4".into(),
        config: Some(pb::DynamicValue { msgpack: Vec::new(), json: config.into_bytes() }),
        client_capabilities: None,
    };
    let response = client.configure(request).await.unwrap().into_inner();
    assert!(response.diagnostics.is_empty(), "{:?}", response.diagnostics);
}

/// A gRPC client of a provider that serves in this process.
pub(crate) async fn connect(server: &ReattachServer) -> ProviderClient<Channel> {
    let socket = server.socket().to_path_buf();
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .unwrap();
    ProviderClient::new(channel)
}
