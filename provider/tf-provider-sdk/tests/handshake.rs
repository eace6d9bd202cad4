//! The real process, driven as Terraform drives it: environment, handshake line, mutual TLS, stop,
//! signals, shutdown.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails right there")]

mod common;
#[allow(dead_code, reason = "only its schema is needed here")]
#[path = "../examples/minimal.rs"]
mod minimal;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use common::{DEADLINE, configure, eventually, example_binary, receive, send, send_null, summaries};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P521_SHA512};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tf_provider_sdk::plugin::Empty;
use tf_provider_sdk::plugin::grpc_controller_client::GrpcControllerClient;
use tf_provider_sdk::plugin::grpc_stdio_client::GrpcStdioClient;
use tf_provider_sdk::tfplugin5::{self as pb, provider_client::ProviderClient};
use tf_provider_sdk::{Object, Provider, Value};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";

/// A certificate as Terraform makes one: self-signed, P-521, an authority by its own words.
struct Client {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Client {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }
}

/// A running provider, and what its handshake line said.
struct Plugin {
    child: Child,
    socket: PathBuf,
    server_certificate: CertificateDer<'static>,
    directory: tempfile::TempDir,
}

impl Plugin {
    async fn start(client: &Client) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(example_binary("minimal"))
            .env("TF_PLUGIN_MAGIC_COOKIE", COOKIE)
            .env("PLUGIN_PROTOCOL_VERSIONS", "5,6")
            .env("PLUGIN_CLIENT_CERT", client.certificate.pem())
            .env("TMPDIR", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line());
        let line = line.await.unwrap().unwrap().unwrap();
        let parts: Vec<&str> = line.split('|').collect();
        let [core, protocol, network, socket, kind, certificate] = parts[..] else {
            panic!("unexpected handshake: {line}");
        };
        assert_eq!((core, protocol, network, kind), ("1", "5", "unix", "grpc"));
        assert!(!certificate.contains('='));
        let server_certificate = STANDARD_NO_PAD.decode(certificate).unwrap().into();
        Self { child, socket: socket.into(), server_certificate, directory }
    }

    /// Connects with TLS and this client's certificate.
    async fn connect(&self, client: &Client) -> Result<Channel, tonic::transport::Error> {
        self.connect_as(client.certificate.der().clone(), &client.key).await
    }

    /// Connects with a certificate and a key, which need not belong together.
    async fn connect_as(
        &self,
        certificate: CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server_certificate.clone()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let certified = Arc::new(CertifiedKey::new(vec![certificate], key));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let socket = self.socket.clone();
        Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let (connector, socket) = (connector.clone(), socket.clone());
                async move {
                    let stream = UnixStream::connect(socket).await?;
                    let name = ServerName::try_from("localhost").unwrap();
                    let stream = connector.connect(name, stream).await?;
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            }))
            .await
    }

    async fn provider(&self, client: &Client) -> ProviderClient<Channel> {
        ProviderClient::new(self.connect(client).await.unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end and checks that nothing stays behind.
    async fn ended(mut self) -> std::process::ExitStatus {
        let ended = tokio::time::timeout(DEADLINE, self.child.wait());
        let status = ended.await.unwrap().unwrap();
        assert!(!self.socket.exists());
        assert!(!self.socket.parent().unwrap().exists());
        let left: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        status
    }
}

/// The process's exit code and what it wrote, in an environment of its own.
async fn run(environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(example_binary("minimal"))
        .env_remove("TF_PLUGIN_MAGIC_COOKIE")
        .env_remove("PLUGIN_CLIENT_CERT")
        .envs(environment.iter().copied())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, output).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_person_who_starts_it_is_told_why_that_is_no_use() {
    let (code, stdout, stderr) = run(&[]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("Terraform starts it"), "{stderr}");
    let (code, _, stderr) = run(&[("TF_PLUGIN_MAGIC_COOKIE", COOKIE), ("PLUGIN_PROTOCOL_VERSIONS", "4")]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("protocol 5"), "{stderr}");
}

#[tokio::test]
async fn the_right_client_is_served_and_shutdown_ends_the_process() {
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    let channel = plugin.connect(&client).await.unwrap();
    let mut stdio = GrpcStdioClient::new(channel.clone());
    let mut idle = stdio.stream_stdio(()).await.unwrap().into_inner();
    let mut provider = ProviderClient::new(channel.clone()).max_decoding_message_size(256 << 20);
    let schema = provider.get_schema(pb::get_provider_schema::Request {}).await.unwrap().into_inner();
    assert!(schema.diagnostics.is_empty(), "{:?}", schema.diagnostics);
    assert!(schema.resource_schemas.contains_key("minimal_note"));
    let capabilities = schema.server_capabilities.unwrap();
    assert!(capabilities.plan_destroy && capabilities.get_provider_schema_optional);
    assert!(capabilities.move_resource_state);

    let start = Instant::now();
    GrpcControllerClient::new(channel).shutdown(Empty {}).await.unwrap();
    let status = plugin.ended().await;
    assert_eq!(status.code(), Some(0));
    // Terraform kills what takes longer than two seconds.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!matches!(idle.message().await, Ok(Some(_))));
}

#[tokio::test]
async fn a_message_beyond_four_mib_gets_through() {
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    let mut provider = plugin.provider(&client).await.max_encoding_message_size(256 << 20);
    let schema = minimal::Minimal.schema();
    let big = Object::new().with("directory", "x".repeat(8 << 20));
    let response =
        provider.prepare_provider_config(pb::prepare_provider_config::Request { config: send(&schema, big) }).await;
    // The answer repeats the configuration: beyond the client's own default limit.
    assert_eq!(response.unwrap_err().code(), tonic::Code::OutOfRange);
    drop(plugin);
}

#[tokio::test]
async fn another_certificate_is_refused() {
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    // The same names and the same kind of key, another key.
    let stranger = Client::new();
    assert!(is_refused(plugin.connect(&stranger).await).await);
    // The right certificate, without its key: the signature of the handshake does not fit.
    let copied = client.certificate.der().clone();
    assert!(is_refused(plugin.connect_as(copied, &stranger.key).await).await);
    // The right client is still served.
    let request = pb::get_metadata::Request {};
    plugin.provider(&client).await.get_metadata(request).await.unwrap();
}

#[tokio::test]
async fn plaintext_is_refused() {
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    let socket = plugin.socket.clone();
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await;
    assert!(is_refused(channel).await);
}

/// True if the connection can't be made, or can't be used: in TLS 1.3 the client believes in it until
/// the server's refusal arrives.
async fn is_refused(channel: Result<Channel, tonic::transport::Error>) -> bool {
    match channel {
        Err(_) => true,
        Ok(channel) => {
            let request = pb::get_metadata::Request {};
            ProviderClient::new(channel).get_metadata(request).await.is_err()
        }
    }
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    let mode = std::fs::metadata(plugin.socket.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// Starts an apply that waits for an hour, and returns once its note exists.
async fn slow_apply(
    provider: &mut ProviderClient<Channel>,
    notes: &Path,
) -> tokio::task::JoinHandle<pb::apply_resource_change::Response> {
    configure(provider, notes).await;
    let schema = minimal::Minimal.resources()[0].schema();
    let config = Object::new().with("name", "slow").with("create_delay", "1h").with("text", "hello");
    let plan = ["id", "size", "exact"]
        .into_iter()
        .fold(config.clone().with("protected", false), |plan, name| plan.with(name, Value::Unknown));
    let request = pb::apply_resource_change::Request {
        type_name: "minimal_note".into(),
        prior_state: send_null(),
        planned_state: send(&schema, plan),
        config: send(&schema, config),
        ..Default::default()
    };
    let mut client = provider.clone();
    let apply = tokio::spawn(async move { client.apply_resource_change(request).await.unwrap().into_inner() });
    eventually("the note exists", || notes.join("slow.json").exists()).await;
    apply
}

#[tokio::test]
async fn stop_ends_an_apply_which_returns_what_it_has() {
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    let mut provider = plugin.provider(&client).await;
    let notes = tempfile::tempdir().unwrap();
    let apply = slow_apply(&mut provider, notes.path()).await;
    provider.stop(pb::stop::Request {}).await.unwrap();
    let response = tokio::time::timeout(DEADLINE, apply).await.unwrap().unwrap();
    assert_eq!(summaries(&response.diagnostics), ["Stopped"]);
    let schema = minimal::Minimal.resources()[0].schema();
    let state = receive(&schema, response.new_state).unwrap();
    assert_eq!(state.get("id"), Ok("note-slow".to_owned()));
}

#[tokio::test]
async fn an_interrupt_is_ignored_and_a_termination_is_not() {
    let client = Client::new();
    let plugin = Plugin::start(&client).await;
    let mut provider = plugin.provider(&client).await;
    let notes = tempfile::tempdir().unwrap();
    let apply = slow_apply(&mut provider, notes.path()).await;
    for _ in 0..3 {
        plugin.signal(rustix::process::Signal::INT);
        // An answer after the signal: it did not end the process.
        provider.get_metadata(pb::get_metadata::Request {}).await.unwrap();
    }
    assert!(!apply.is_finished());
    plugin.signal(rustix::process::Signal::TERM);
    assert_eq!(plugin.ended().await.code(), Some(0));
    apply.abort();
}

#[tokio::test]
async fn reattach_mode_prints_its_address_and_ends_on_an_interrupt() {
    let mut child = Command::new(example_binary("minimal"))
        .arg("--debug")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    tokio::time::timeout(DEADLINE, reader.read_line(&mut line)).await.unwrap().unwrap();
    let json = line.trim_end().strip_prefix("TF_REATTACH_PROVIDERS='").unwrap();
    let json: serde_json::Value = serde_json::from_str(json.strip_suffix('\'').unwrap()).unwrap();
    let entry = &json["registry.terraform.io/example/minimal"];
    assert_eq!((&entry["Protocol"], &entry["ProtocolVersion"]), (&"grpc".into(), &5.into()));
    assert_eq!(entry["Pid"], child.id().unwrap());
    let socket = PathBuf::from(entry["Addr"]["String"].as_str().unwrap());
    assert!(socket.exists());
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let status = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap().unwrap();
    assert!(status.success());
    assert!(!socket.exists());
    let mut rest = String::new();
    reader.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
}
