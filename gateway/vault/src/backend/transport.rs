//! HTTP to the storage: one request is one attempt.
//!
//! `object_store` builds and signs requests; this sends them, over hyper and rustls, so that what happens on the wire is
//! decided in one place. It follows no redirect and repeats nothing that was sent; it gives up when nothing moves for
//! a while ([`STALL`]), in either direction; it reads no more of an answer than it has a use for; it connects to no address that
//! [`super::endpoint`] forbids, whatever a name resolves to; it goes through a proxy only by CONNECT, so that no proxy
//! sees a request. An answer that isn't a success becomes a [`Rejected`] with status and code, from which
//! [`super::failure`] decides what the caller can do. Dropping a call closes its connection; the request may have been
//! carried out.

mod connect;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::time::Instant;

pub(crate) use connect::ConnectError;
use connect::Connector;

use crate::error::{StoreClass, StoreError};
use crate::storage::StorageTarget;

/// Longest that neither side moves a byte before the request counts as lost, unless the operator says otherwise.
const STALL: Duration = Duration::from_secs(30);
/// The operator's word for it, in seconds.
const STALL_SETTING: &str = "LIFEBOAT_STORAGE_STALL_SECONDS";
/// An idle connection is closed before servers do it: a request on a connection that the server just closed is lost.
const IDLE: Duration = Duration::from_secs(10);
/// A body is handed on in pieces of this size, so that progress on a slow line is seen.
const PIECE_BYTES: usize = 64 << 10;
/// Most that is read of an answer that says why not.
const REFUSAL_BYTES: usize = 64 << 10;
/// Most that is read of any answer but an object's content: a page of a listing takes about 1 KiB an object, 5,000
/// objects.
const ANSWER_BYTES: u64 = 32 << 20;
/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// An answer that isn't a success.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) status: StatusCode,
    /// The service's own word for it, such as `NoSuchBucket`.
    pub(crate) code: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// The region that the bucket is in, where the service says so.
    pub(crate) region: Option<String>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} {code}", self.status.as_u16()),
            None => write!(f, "{}", self.status),
        }
    }
}

impl Error for Rejected {}

/// Nothing moved for too long, or an answer was larger than any that makes sense.
#[derive(Debug)]
struct Broken(&'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Broken {}

fn stalled() -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Broken("the storage stopped answering"))
}

/// The client; cheap to clone, connections are shared.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<Connector, Sending>,
    stall: Duration,
}

impl Transport {
    /// A client for a target. Reads the machine's trusted certificates: blocking file work.
    pub(crate) fn new(target: &StorageTarget, tls: bool) -> Result<Self, StoreError> {
        let connector = Connector::new(target, tls)?;
        let stall = match target.environment.first(&[STALL_SETTING]) {
            None => STALL,
            Some(text) => match text.trim().parse() {
                Ok(seconds @ 1..=600) => Duration::from_secs(seconds),
                _ => {
                    return Err(StoreError::new(
                        StoreClass::Fatal,
                        format!("{STALL_SETTING}={text} makes no sense: give 1 to 600 seconds"),
                    ));
                }
            },
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client, stall })
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        parts
            .headers
            .insert(header::USER_AGENT, HeaderValue::from_static(concat!("lifeboat/", env!("CARGO_PKG_VERSION"))));
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let unbounded = parts.method == Method::GET && !query.contains("list-type=") && !query.contains("comp=");
        let progress = Progress::new(self.stall);
        let sending = Sending { body, rest: Bytes::new(), progress: progress.clone() };
        let call = self.client.request(http::Request::from_parts(parts, sending));
        let answer = progress.watch(call).await?.map_err(sort)?;
        let (parts, body) = answer.into_parts();
        tracing::Span::current().record("http.response.status_code", parts.status.as_u16());
        let receiving = Receiving {
            body,
            left: if unbounded { u64::MAX } else { ANSWER_BYTES },
            stall: self.stall,
            deadline: Box::pin(tokio::time::sleep(self.stall)),
        };
        if !parts.status.is_success() {
            return Err(refusal(parts.status, &parts.headers, receiving).await);
        }
        if query.contains("comp=batch") {
            let bytes = receiving.collect().await?.to_bytes();
            if let Some(rejected) = batch_refusal(&bytes) {
                return Err(HttpError::new(HttpErrorKind::Unknown, rejected));
            }
            return Ok(HttpResponse::from_parts(parts, bytes.into()));
        }
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(receiving)))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.send(request).await
    }
}

impl HttpConnector for Transport {
    /// The same client for data and for fetching tokens: its rules hold for both, so `options` change nothing.
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

fn sort(error: hyper_util::client::legacy::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, error)
}

/// What an answer that isn't a success says.
async fn refusal(status: StatusCode, headers: &HeaderMap, body: Receiving) -> HttpError {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = header("retry-after").and_then(|text| text.trim().parse().ok());
    let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let region = header("x-amz-bucket-region").and_then(word);
    let mut code = header("x-ms-error-code").and_then(word);
    if code.is_none() {
        // What the body says is a courtesy: the status decides when it can't be read.
        let body = Limited::new(body, REFUSAL_BYTES).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        code = code_in(&String::from_utf8_lossy(&body));
    }
    HttpError::new(HttpErrorKind::Unknown, Rejected { status, code, retry_after, region })
}

/// The text as a word that can be shown, if it is one.
fn word(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(plain)).then(|| text.to_owned())
}

/// The code in an error document: `<Code>…</Code>` of S3, Azure and Google's XML; `"error": "…"` of token services.
fn code_in(body: &str) -> Option<String> {
    let between = |start: &str, end: &str| {
        let (_, rest) = body.split_once(start)?;
        let (found, _) = rest.split_once(end)?;
        word(found)
    };
    between("<Code>", "</Code>").or_else(|| {
        let (_, rest) = body.split_once("\"error\"")?;
        let (_, rest) = rest.split_once('"')?;
        rest.split_once('"').and_then(|(found, _)| word(found))
    })
}

/// The refusal inside an answer to a batch of one delete, if it is one.
fn batch_refusal(body: &[u8]) -> Option<Rejected> {
    let text = String::from_utf8_lossy(body);
    let (_, part) = text.split_once("HTTP/1.1 ")?;
    let status: StatusCode = part.get(..3)?.parse().ok()?;
    if status.is_success() {
        return None;
    }
    let header = part.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-ms-error-code").then(|| word(value))?
    });
    Some(Rejected { status, code: header.or_else(|| code_in(part)), retry_after: None, region: None })
}

/// When a byte moved last, in milliseconds since the request began.
#[derive(Clone)]
struct Progress {
    began: Instant,
    moved_ms: Arc<AtomicU64>,
    stall: Duration,
}

impl Progress {
    fn new(stall: Duration) -> Self {
        Self { began: Instant::now(), moved_ms: Arc::default(), stall }
    }

    fn note(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(ms, Ordering::Relaxed);
    }

    /// Waits for `call` for as long as something moves.
    async fn watch<T>(&self, call: impl Future<Output = T>) -> Result<T, HttpError> {
        tokio::pin!(call);
        loop {
            let until = self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed)) + self.stall;
            tokio::select! {
                done = &mut call => return Ok(done),
                () = tokio::time::sleep_until(until) => {
                    let moved = self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
                    if moved + self.stall <= Instant::now() {
                        return Err(stalled());
                    }
                }
            }
        }
    }
}

/// The body of a request, in pieces.
pub(crate) struct Sending {
    body: HttpRequestBody,
    rest: Bytes,
    progress: Progress,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.progress.note();
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            }
        }
        let len = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let hint = self.body.size_hint();
        hint.exact().map_or(hint, |exact| SizeHint::with_exact(exact.saturating_add(rest)))
    }
}

/// The body of an answer, with a limit on its size and on how long nothing may come.
struct Receiving {
    body: Incoming,
    left: u64,
    stall: Duration,
    deadline: Pin<Box<tokio::time::Sleep>>,
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let until = Instant::now() + self.stall;
                self.deadline.as_mut().reset(until);
                let len = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                match self.left.checked_sub(len) {
                    Some(left) => {
                        self.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => Poll::Ready(Some(Err(HttpError::new(
                        HttpErrorKind::Decode,
                        Broken("the answer is larger than any that makes sense"),
                    )))),
                }
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Interrupted, error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.deadline.as_mut().poll(context).map(|()| Some(Err(stalled()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
