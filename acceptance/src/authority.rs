//! A private authority, and what it vouches for: for servers of tests that talk TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

/// An authority that nobody trusts by default.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A server's key and certificate.
#[derive(Debug)]
pub struct Vouched {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server of this name or address.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn server(&self, name: &str) -> Result<Vouched> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok(Vouched { certificate, key })
    }
}

impl Vouched {
    /// What a server in this process shows.
    ///
    /// # Errors
    /// When rustls doesn't take it.
    pub fn config(&self) -> Result<Arc<ServerConfig>> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(|error| anyhow::anyhow!(error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)?;
        Ok(Arc::new(config))
    }

    /// The same in files for other programs: certificate and key, PEM.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&files.0, self.certificate.pem()).context("write a certificate")?;
        std::fs::write(&files.1, self.key.serialize_pem()).context("write a key")?;
        Ok(files)
    }
}
