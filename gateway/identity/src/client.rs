//! Connecting to a gateway: as another gateway, or with what a machine has.
//!
//! A gateway's certificate for that is made in memory for each configuration: whoever has the vault's key can make one, so it need not be
//! kept, and is never older than the configuration. Everything takes bounded time.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::Timestamp;
use rustls::RootCertStore;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Authority, provider};

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// TLS of a gateway to other gateways of its vault, as the gateway with this id; good for connections that are made soon.
///
/// # Errors
/// Random bytes can't be had, or the cryptography has no TLS 1.3, which it has.
pub fn gateway_config(
    authority: &Authority,
    gateway: &str,
    protocols: &[&[u8]],
) -> Result<Arc<rustls::ClientConfig>, String> {
    let certified = authority.gateway(gateway, Timestamp::now())?;
    client_config(authority.certificate().clone(), Arc::new(Always(certified)), protocols)
        .map_err(|error| error.to_string())
}

/// TLS to gateways of the vault with this authority.
pub(crate) fn client_config(
    authority: rustls_pki_types::CertificateDer<'static>,
    shows: Arc<dyn ResolvesClientCert>,
    protocols: &[&[u8]],
) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(shows);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A connection to a gateway of a vault at `host:port`.
///
/// # Errors
/// In a sentence: nothing answers there, or it isn't one of that vault's gateways.
pub async fn connect(
    tls: &Arc<rustls::ClientConfig>,
    name: &ServerName<'static>,
    address: &str,
) -> Result<TlsStream<TcpStream>, String> {
    let broken = |why: std::io::Error| format!("{address}: {why}");
    let late = |_| format!("{address}: no answer");
    let stream = timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await.map_err(late)?.map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;
    let shaking = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream);
    timeout(HANDSHAKE_PATIENCE, shaking).await.map_err(late)?.map_err(broken)
}
