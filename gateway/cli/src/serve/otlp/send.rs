//! One request to the collector: `ExportTraceServiceRequest` in OTLP's JSON, over HTTP/1.1. Nothing is followed, no proxy is asked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::layer::Ended;
use super::settings::Settings;

/// What is read of an answer.
const ANSWER_BYTES: usize = 64 << 10;

/// Why a batch wasn't taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// The same may work later.
    Passing(String),
    /// It won't.
    Final(String),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// Ids are hexadecimal digits, 64-bit integers are strings.
fn span(span: &Ended) -> Value {
    let attributes: Vec<Value> =
        span.fields.attributes.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    let status = match &span.fields.error {
        Some(error) => json!({"code": 2, "message": error}),
        None => json!({}),
    };
    json!({
        "traceId": hex(&span.place.trace),
        "spanId": hex(&span.place.id),
        "parentSpanId": span.place.parent.map(|id| hex(&id)).unwrap_or_default(),
        "name": span.name,
        "kind": span.fields.kind as u8,
        "startTimeUnixNano": nanos(span.begun),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": attributes,
        "status": status,
    })
}

/// What is said of a batch.
pub(super) fn message(resource: &[(String, String)], batch: &[Ended]) -> Value {
    let spans: Vec<Value> = batch.iter().map(span).collect();
    let attributes: Vec<Value> =
        resource.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": attributes},
        "scopeSpans": [{"scope": {"name": "lifeboat", "version": env!("CARGO_PKG_VERSION")}, "spans": spans}],
    }]})
}

/// The same as it is sent.
pub(super) fn body(settings: &Settings, batch: &[Ended]) -> Bytes {
    let text = message(&settings.resource, batch).to_string().into_bytes();
    if !settings.gzip {
        return text.into();
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Into memory: it can't fail.
    match packed.write_all(&text).and_then(|()| packed.finish()) {
        Ok(packed) => packed.into(),
        Err(_) => Bytes::new(),
    }
}

/// Sends it. Gives how many spans the collector didn't take of those that it got.
pub(super) async fn post(settings: &Settings, body: Bytes) -> Result<u64, Refused> {
    let passing = |error: std::io::Error| Refused::Passing(error.to_string());
    let uri = &settings.uri;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if settings.tls.is_some() { 443 } else { 80 });
    let mut request = Request::post(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(header::HOST, uri.authority().map_or("", http::uri::Authority::as_str))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("lifeboat/", env!("CARGO_PKG_VERSION")));
    if settings.gzip {
        request = request.header(header::CONTENT_ENCODING, "gzip");
    }
    let mut request = request.body(Full::new(body)).map_err(|error| Refused::Final(error.to_string()))?;
    for (name, value) in &settings.headers {
        let value: &HeaderValue = value;
        request.headers_mut().insert(name, value.clone());
    }
    let stream = TcpStream::connect((&*host, port)).await.map_err(passing)?;
    let Some(tls) = &settings.tls else { return exchange(stream, request).await };
    let name = ServerName::try_from(host).map_err(|error| Refused::Final(error.to_string()))?;
    let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(|error| {
        Refused::Passing(format!(
            "TLS: {error}; the authority that vouches for the collector is named by OTEL_EXPORTER_OTLP_CERTIFICATE"
        ))
    })?;
    exchange(secured, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<u64, Refused> {
    let passing = |error: hyper::Error| Refused::Passing(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(passing)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(passing)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
    match status {
        status if status.is_success() => Ok(body.map_or(0, |body| rejected(&body.to_bytes()))),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Refused::Passing(format!("the collector answered {status}"))),
        status => Err(Refused::Final(format!("the collector answered {status}"))),
    }
}

/// What an answer says that wasn't taken: `partialSuccess.rejectedSpans`, a number or a string of digits.
pub(super) fn rejected(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let told = answer.pointer("/partialSuccess/rejectedSpans");
    told.and_then(|told| told.as_u64().or_else(|| told.as_str()?.parse().ok())).unwrap_or(0)
}
