//! The gateway's own authority and the certificate of its API.
//!
//! The authority is made once and kept (`ca.pem`, `ca.key`): clients trust it. The server's key is made at every start, its
//! certificates when somebody comes to an address for the first time, and all of them live in memory only: they name the address that
//! was really reached.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use lifeboat_model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::state_dir::StateDir;

/// Configurations for people that are kept: one for each address of this machine.
const KEPT_MAX: usize = 64;

/// Who this gateway is to those that connect to it: an authority, and a certificate for each address that they come to. So a machine
/// that gets another address (DHCP) is known by that one too.
pub(crate) struct Identity {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    /// What every certificate says, beside the address.
    names: Vec<String>,
    shown: CertificateDer<'static>,
    ends: Timestamp,
    people: Mutex<HashMap<IpAddr, Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Identity {
    /// Takes up the authority in the state directory, or makes it.
    ///
    /// # Errors
    /// It can't be read or made.
    pub(crate) fn open(state: &StateDir, host: &str, listen: SocketAddr) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(&state.text_or_make("ca.key", || {
            Ok(KeyPair::generate().context("making the authority's key")?.serialize_pem())
        })?)
        .context("reading ca.key in the state directory")?;
        let certificate = state.text_or_make("ca.pem", || {
            let params = authority(state.process_id())?;
            Ok(params.self_signed(&key).context("making the authority's certificate")?.pem())
        })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).context("reading ca.pem in the state directory")?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host.to_owned()];
        let address = listen.ip();
        if !address.is_unspecified() && !names.contains(&address.to_string()) {
            names.push(address.to_string());
        }
        names.retain(|name| !name.is_empty() && (name.parse::<IpAddr>().is_ok() || name.is_ascii()));
        // Shown too: who can't copy a file from this machine takes it from a connection, and compares its fingerprint.
        let shown =
            CertificateDer::from_pem_slice(certificate.as_bytes()).context("reading ca.pem in the state directory")?;
        let key = KeyPair::generate().context("making the server's key")?;
        let (_, parsed) = X509Certificate::from_der(&shown).context("reading ca.pem in the state directory")?;
        let ends = Timestamp::from_micros(parsed.validity().not_after.timestamp().saturating_mul(1_000_000));
        let made = Self { issuer, key, names, shown, ends, people: Mutex::default() };
        // A gateway that can't make one certificate finds out at its start.
        made.people(address)?;
        Ok(made)
    }

    /// When the authority ends.
    pub(crate) const fn ends(&self) -> Timestamp {
        self.ends
    }

    /// TLS towards people and programs that come to this address of ours.
    ///
    /// # Errors
    /// No certificate can be made.
    pub(crate) fn people(&self, reached: IpAddr) -> anyhow::Result<Arc<ServerConfig>> {
        let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = people.get(&reached) {
            return Ok(Arc::clone(found));
        }
        let mut config = self.made(reached, None)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if people.len() >= KEPT_MAX {
            people.clear();
        }
        let config = Arc::new(config);
        people.insert(reached, Arc::clone(&config));
        Ok(config)
    }

    /// TLS towards whoever comes to this address of ours and proves to be who `clients` takes; towards everybody without that.
    ///
    /// # Errors
    /// No certificate can be made.
    pub(crate) fn config(
        &self,
        reached: IpAddr,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> anyhow::Result<Arc<ServerConfig>> {
        self.made(reached, clients).map(Arc::new)
    }

    fn made(&self, reached: IpAddr, clients: Option<Arc<dyn ClientCertVerifier>>) -> anyhow::Result<ServerConfig> {
        let mut names = self.names.clone();
        if !reached.is_unspecified() && !names.contains(&reached.to_string()) {
            names.push(reached.to_string());
        }
        let mut params = CertificateParams::new(names).context("naming the server's certificate")?;
        params.distinguished_name.push(DnType::CommonName, "Lifeboat gateway");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let server = params.signed_by(&self.key, &self.issuer).context("signing the server's certificate")?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("setting TLS up")?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        builder
            .with_single_cert(vec![server.der().clone(), self.shown.clone()], private)
            .context("setting the server's certificate up")
    }
}

fn authority(process_id: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new()).context("naming the authority")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The name carries the process id, so that two gateways' authorities in one file stay apart.
    params.distinguished_name.push(DnType::CommonName, format!("Lifeboat authority {process_id}"));
    Ok(params)
}
