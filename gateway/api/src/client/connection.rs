//! One endpoint: its address, its token, and the connections to it that are idle.
//!
//! HTTP/1.1 over TLS, one request at a time on a connection; an idle connection is taken from the pool or a new one is
//! made. An idle connection that the gateway has closed meanwhile gives the request back unsent, and it is sent again
//! on a new one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::DEFAULT_PORT;
use super::error::ClientError;
use crate::types::Secret;

/// Idle connections kept for an endpoint.
const IDLE_MAX: usize = 8;
/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

type Sender = SendRequest<Full<Bytes>>;

/// An endpoint.
pub(super) struct Endpoint {
    /// `https://host:port`, without a path.
    pub(super) url: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    /// None for a machine, which shows a certificate.
    token: Option<Secret>,
    tls: Arc<rustls::ClientConfig>,
    connect_timeout: Duration,
    idle: Mutex<Vec<Sender>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.url).finish()
    }
}

impl Endpoint {
    pub(super) fn new(
        url: &str,
        token: Option<Secret>,
        tls: Arc<rustls::ClientConfig>,
        connect_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let wrong =
            |why: &str| ClientError::usage(format!("{url:?} is no endpoint ({why}): expected https://host:port"));
        let text = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let uri: http::Uri = text.trim_end_matches('/').parse().map_err(|_| wrong("it can't be read"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("only https is spoken"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("it has a path"));
        }
        let sound = |token: &Secret| !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic());
        if token.as_ref().is_some_and(|token| !sound(token)) {
            return Err(ClientError::usage(format!(
                "the token for {url} is empty or holds characters that no token has"
            )));
        }
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong("its host is no name and no address"))?;
        let shown =
            if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") };
        Ok(Self { url: shown, host, port, name, token, tls, connect_timeout, idle: Mutex::new(Vec::new()) })
    }

    /// The same, asking for another name than its address when TLS begins.
    pub(super) fn asking_for(self, name: ServerName<'static>) -> Self {
        Self { name, ..self }
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn request(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Bytes>,
        limit: Duration,
        repeatable: bool,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let exchange = async {
            loop {
                let pooled = self.take_idle();
                let reused = pooled.is_some();
                let sender = match pooled {
                    Some(sender) => sender,
                    None => self.connect().await?,
                };
                match self.exchange(sender, method, path, headers, body.clone()).await {
                    // A connection that idled too long proves nothing about the gateway.
                    Err(error) if reused && (repeatable || !error.maybe_sent()) => {
                        tracing::debug!(endpoint = %self.url, %error, "idle connection was closed");
                    }
                    other => return other,
                }
            }
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(ClientError::unreachable(&self.url, &format!("no answer within {limit:?}"), true)))
    }

    async fn exchange(
        &self,
        mut sender: Sender,
        method: &Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.url.trim_start_matches("https://"))
            .header(header::ACCEPT, "application/json, application/problem+json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|source| ClientError::usage(format!("the request makes no sense: {source}")))?;
        let answer = sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            ClientError::unreachable(&self.url, &chain(error.error()), !unsent)
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|source| ClientError::unreachable(&self.url, &format!("the answer broke off: {source}"), true))?
            .to_bytes();
        self.put_idle(sender);
        Ok((status, body))
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn put_idle(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        let unreachable = |why: String| ClientError::unreachable(&self.url, &why, false);
        let opened = async {
            let stream =
                TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| unreachable(e.to_string()))?;
            stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            let stream = connector.connect(self.name.clone(), stream).await.map_err(|source| {
                let certificate = source
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                    .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
                if certificate {
                    ClientError::certificate(&self.url, &source.to_string(), self.token.is_none())
                } else {
                    unreachable(format!("no TLS: {source}"))
                }
            })?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| unreachable(chain(&e)))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
            Ok(sender)
        };
        tokio::time::timeout(self.connect_timeout, opened)
            .await
            .unwrap_or_else(|_| Err(unreachable(format!("no connection within {:?}", self.connect_timeout))))
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
