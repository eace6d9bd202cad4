//! A gateway that answers as it is told, over real TLS: for what a real one does rarely or late.
//!
//! The first answers for a method and path are given once each; the last one stays.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value as Json, json};
use tf_provider_sdk::Object;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Default)]
struct Script {
    answers: Mutex<BTreeMap<String, VecDeque<(u16, Json)>>>,
    asked: Mutex<Vec<String>>,
}

pub(crate) struct FakeGateway {
    script: Arc<Script>,
    url: String,
    ca: String,
}

impl FakeGateway {
    pub(crate) async fn start() -> Self {
        let script = Arc::new(Script::default());
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], private)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), router));
        Self { script, url, ca: key.cert.pem() }
    }

    /// The provider block that leads here; `extra` gateways are not there.
    pub(crate) fn block(&self, extra: &[&str]) -> Object {
        let mut endpoints = vec![self.url.clone()];
        endpoints.extend(extra.iter().map(|url| (*url).to_owned()));
        Object::new().with("endpoints", endpoints).with("token", "secret").with("ca_certificate", &self.ca)
    }

    /// Answers this next, and from then on.
    pub(crate) fn answers(&self, request: &str, status: u16, body: Json) -> &Self {
        self.script.answers.lock().unwrap().entry(request.to_owned()).or_default().push_back((status, body));
        self
    }

    /// How often it was asked so, with what body or precondition.
    pub(crate) fn asked(&self, request: &str) -> Vec<String> {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|line| line.starts_with(request)).cloned().collect()
    }
}

/// A problem document.
pub(crate) fn problem(code: &str, status: u16, detail: &str, more: Json) -> Json {
    let mut problem = json!({"type": format!("urn:lifeboat:problem:{code}"), "title": code, "status": status, "code": code, "detail": detail});
    for (name, value) in more.as_object().into_iter().flatten() {
        problem[name] = value.clone();
    }
    problem
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = TowerToHyperService::new(router);
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    State(script): State<Arc<Script>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = format!("{method} {}", uri.path());
    let precondition = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    script.asked.lock().unwrap().push(format!("{request} {precondition} {}", String::from_utf8_lossy(&body)));
    let mut answers = script.answers.lock().unwrap();
    let (status, body) = match answers.get_mut(&request) {
        Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
        Some(queue) => queue.front().cloned().unwrap(),
        None => (404, problem("not-found", 404, "there is none", json!({}))),
    };
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}
