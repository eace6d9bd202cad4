//! The gateway's own authority and the certificate of its API.
//!
//! The authority is made once and kept (`ca.pem`, `ca.key`): clients trust it. The server's key and certificate are made
//! at every start and live in memory only, so they always name the addresses that are really listened on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::state_dir::StateDir;

/// The TLS configuration of the API.
///
/// # Errors
/// The authority can't be read or made.
pub(crate) fn server_config(
    state: &StateDir,
    host: &str,
    listen: SocketAddr,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let key =
        KeyPair::from_pem(&state.text_or_make("ca.key", || {
            Ok(KeyPair::generate().context("making the authority's key")?.serialize_pem())
        })?)
        .context("reading ca.key in the state directory")?;
    let certificate = state.text_or_make("ca.pem", || {
        let params = authority(state.process_id())?;
        Ok(params.self_signed(&key).context("making the authority's certificate")?.pem())
    })?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, key).context("reading ca.pem in the state directory")?;

    let server_key = KeyPair::generate().context("making the server's key")?;
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host.to_owned()];
    let address = listen.ip();
    if !address.is_unspecified() && !names.contains(&address.to_string()) {
        names.push(address.to_string());
    }
    names.retain(|name| !name.is_empty() && (name.parse::<IpAddr>().is_ok() || name.is_ascii()));
    let mut params = CertificateParams::new(names).context("naming the server's certificate")?;
    params.distinguished_name.push(DnType::CommonName, "Lifeboat gateway");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let server = params.signed_by(&server_key, &issuer).context("signing the server's certificate")?;

    // Shown too: who can't copy a file from this machine takes it from a connection, and compares its fingerprint.
    let shown =
        CertificateDer::from_pem_slice(certificate.as_bytes()).context("reading ca.pem in the state directory")?;

    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("setting TLS up")?
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone(), shown], private)
            .context("setting the server's certificate up")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authority(process_id: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new()).context("naming the authority")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The name carries the process id, so that two gateways' authorities in one file stay apart.
    params.distinguished_name.push(DnType::CommonName, format!("Lifeboat authority {process_id}"));
    Ok(params)
}
