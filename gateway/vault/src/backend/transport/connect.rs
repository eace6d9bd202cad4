//! Connections to the storage: names resolved and checked, TCP, a proxy's CONNECT, TLS.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use crate::backend::endpoint::{ALLOW_HTTP, forbidden};
use crate::error::{StoreClass, StoreError};
use crate::storage::StorageTarget;

/// Longest to wait for one address.
const ADDRESS_LIMIT: Duration = Duration::from_secs(5);
/// Longest to wait for a connection that can be used: name, TCP, proxy, TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Names a PEM file with authorities to trust besides the machine's.
const EXTRA_AUTHORITIES: &str = "LIFEBOAT_STORAGE_CA_FILE";

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The network, for now: name, route, time-out, a proxy that doesn't answer.
    Network(String),
    /// Not without a person: an address that is never connected to, a certificate that isn't trusted, a proxy's password.
    Refused(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

impl Error for ConnectError {}

/// Makes connections; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Shared>);

struct Shared {
    /// Absent where only this machine is talked to, without TLS.
    tls: Option<TlsConnector>,
    proxies: Matcher,
    allow_http: bool,
}

impl Connector {
    pub(super) fn new(target: &StorageTarget, tls: bool) -> Result<Self, StoreError> {
        let environment = &target.environment;
        let tls = if tls { Some(TlsConnector::from(Arc::new(client_config(target)?))) } else { None };
        let mut proxies = Matcher::builder();
        let given = target.proxy.as_ref().map(|proxy| proxy.expose_secret().to_owned());
        let explicit = given.is_some();
        let proxy = given.or_else(|| environment.first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]));
        if let Some(proxy) = proxy {
            check_proxy(&proxy)?;
            proxies = proxies.https(proxy);
            // Who names a proxy for this vault means this vault.
            if !explicit && let Some(without) = environment.first(&["no_proxy", "NO_PROXY"]) {
                proxies = proxies.no(without);
            }
        }
        let allow_http = environment.first(&[ALLOW_HTTP]).is_some_and(|value| value == "1");
        Ok(Self(Arc::new(Shared { tls, proxies: proxies.build(), allow_http })))
    }
}

fn check_proxy(proxy: &str) -> Result<(), StoreError> {
    let good = proxy.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/"
    });
    if good {
        return Ok(());
    }
    // It may hold a password: it is not repeated.
    Err(StoreError::new(
        StoreClass::Fatal,
        "the proxy can't be used: give it as http://host:port or http://user:password@host:port",
    ))
}

fn client_config(target: &StorageTarget) -> Result<rustls::ClientConfig, StoreError> {
    let fatal = |text: String| StoreError::new(StoreClass::Fatal, text);
    let mut roots = rustls::RootCertStore::empty();
    // Certificates that can't be read or parsed are passed over: those that remain decide.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = target.environment.first(&[EXTRA_AUTHORITIES]) {
        let unusable = |error: &dyn fmt::Display| fatal(format!("{EXTRA_AUTHORITIES}={path} can't be used: {error}"));
        let certificates = CertificateDer::pem_file_iter(&path).map_err(|error| unusable(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
    }
    if roots.is_empty() {
        return Err(fatal(format!(
            "this machine trusts no certificate authority, so {} can't be reached: install ca-certificates, or name a \
             PEM file in {EXTRA_AUTHORITIES}",
            target.url
        )));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fatal(format!("TLS can't be set up: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl Shared {
    async fn connect(&self, uri: Uri) -> Result<Stream, ConnectError> {
        let host = uri.host().ok_or_else(|| ConnectError::Refused("a request names no host".into()))?.to_owned();
        if uri.scheme_str() != Some("https") {
            let local_only = !self.allow_http;
            return Ok(Stream(TokioIo::new(Box::new(dial(&uri, 80, local_only).await?))));
        }
        let Some(tls) = &self.tls else {
            return Err(ConnectError::Refused(format!("{host} was to be reached without TLS")));
        };
        let tcp = match self.proxies.intercept(&uri) {
            None => dial(&uri, 443, false).await?,
            Some(proxy) => {
                if let Some(why) = crate::backend::endpoint::literal(&host).and_then(forbidden) {
                    return Err(ConnectError::Refused(format!("{host} is never connected to: {why}")));
                }
                let mut tunnel = Tunnel::new(proxy.uri().clone(), Tcp);
                if let Some(authorisation) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorisation.clone());
                }
                tunnel.call(uri).await.map_err(|error| through_proxy(&error))?.into_inner()
            }
        };
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| ConnectError::Refused(format!("{host} can't be the name in a certificate")))?;
        let stream = tls.connect(name, tcp).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(inner @ rustls::Error::InvalidCertificate(_)) => ConnectError::Refused(format!(
                    "the certificate of {host} is not trusted: {inner}; trust its authority (ca-certificates, or \
                     {EXTRA_AUTHORITIES}) or correct the endpoint"
                )),
                _ => ConnectError::Network(format!("TLS with {host} failed: {error}")),
            }
        })?;
        Ok(Stream(TokioIo::new(Box::new(stream))))
    }
}

fn through_proxy(error: &(dyn Error + 'static)) -> ConnectError {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(inner) = error.downcast_ref::<ConnectError>() {
            return match inner {
                ConnectError::Network(text) => ConnectError::Network(format!("the proxy can't be reached: {text}")),
                ConnectError::Refused(text) => ConnectError::Refused(format!("the proxy can't be used: {text}")),
            };
        }
        next = error.source();
    }
    let text = error.to_string();
    if text.contains("authorization required") {
        ConnectError::Refused("the proxy wants a user name and password, or other ones".into())
    } else {
        ConnectError::Network(format!("the proxy makes no connection: {text}"))
    }
}

/// Connects to the first address of a host that answers and is not forbidden.
async fn dial(uri: &Uri, default_port: u16, local_only: bool) -> Result<TcpStream, ConnectError> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(default_port);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((bare, port))
        .await
        .map_err(|error| ConnectError::Network(format!("{host} can't be resolved: {error}")))?
        .collect();
    let mut last = ConnectError::Network(format!("{host} has no address"));
    for address in addresses {
        if let Some(why) = forbidden(address.ip()) {
            last = ConnectError::Refused(format!("{host} is {}, which is never connected to: {why}", address.ip()));
            continue;
        }
        if local_only && !address.ip().to_canonical().is_loopback() {
            last =
                ConnectError::Refused(format!("{host} is {}, which is not this machine, and TLS is off", address.ip()));
            continue;
        }
        match tokio::time::timeout(ADDRESS_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Only latency is lost if the kernel refuses.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = ConnectError::Network(format!("{address}: {error}")),
            Err(_) => last = ConnectError::Network(format!("{address}: no answer in {} s", ADDRESS_LIMIT.as_secs())),
        }
    }
    Err(last)
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::time::timeout(CONNECT_LIMIT, shared.connect(uri)).await.unwrap_or_else(|_| {
                Err(ConnectError::Network(format!("no connection in {} s", CONNECT_LIMIT.as_secs())))
            })
        })
    }
}

/// The connection to a proxy, as hyper's tunnel wants it.
#[derive(Clone)]
struct Tcp;

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move { dial(&uri, 80, false).await.map(TokioIo::new) })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, with TLS or without.
pub(crate) struct Stream(TokioIo<Box<dyn Duplex>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
