//! A machine's own identity: made, kept, renewed and shown.
//!
//! ```text
//! DIR/enrolling.pem   the key pair, from before the first request until the answer is kept: a lost answer is asked for again
//! DIR/identity.pem    key pair, certificate and the vault's authority, in one file, mode 0600
//! ```
//! Both are written under a temporary name, synced and renamed: after a crash there is the old identity or the new one. The
//! private key is made here and leaves this machine never.
//!
//! A machine believes a gateway by the authority of its vault: when it enrols by the fingerprint in the registration key, and
//! from then on by the authority's certificate. Host names and the public authorities of the world play no part.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lifeboat_api::{Client, ClientError, EnrolRequest, Enrolment, KnownProcessServer, RenewCertificateRequest, Secret};
use lifeboat_model::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use zeroize::Zeroizing;

use crate::authority::{CLOCK_SKEW, der};
use crate::client::client_config;
use crate::name::{MachineName, Peer, server_name};
use crate::pinned::{self, Pinned};
use crate::{Fingerprint, RegistrationKeyText, provider};

const IDENTITY: &str = "identity.pem";
const ENROLLING: &str = "enrolling.pem";
/// Longest sleep between two looks at the clock, which may be set meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two tries to renew: there are eight hours of them.
const RENEW_INTERVAL: Duration = Duration::from_secs(30);

/// What went wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The text is no registration key.
    #[error(
        "that is no registration key: expected the text that `lifeboat registration-key create` printed, beginning with lbr_"
    )]
    Key,
    /// There is no identity in the directory.
    #[error("{} holds no identity: enrol this machine first", .0.display())]
    NotEnrolled(PathBuf),
    /// There is one already.
    #[error(
        "{} holds the identity {name} already, until {until}: it renews itself. To enrol anew since it was revoked, remove {IDENTITY} there \
         first", .directory.display()
    )]
    Enrolled {
        /// Where.
        directory: PathBuf,
        /// Whose.
        name: MachineName,
        /// When its certificate ends.
        until: Timestamp,
    },
    /// A file can't be read or written.
    #[error("{0}")]
    Files(String),
    /// No gateway could be asked, or it refused.
    #[error(transparent)]
    Asking(#[from] ClientError),
    /// A gateway answered what it shouldn't have.
    #[error("the gateway's answer isn't used: {0}")]
    Answer(String),
    /// The cryptography refused.
    #[error("{0}")]
    Crypto(String),
}

/// A machine's identity; clones share it, and see it renewed.
#[derive(Clone, Debug)]
pub struct Machine {
    directory: PathBuf,
    shown: Arc<Shown>,
}

/// What is shown when hands are shaken: always the newest.
#[derive(Debug)]
struct Shown(RwLock<Arc<Current>>);

struct Current {
    peer: Peer,
    key: Zeroizing<String>,
    authority: CertificateDer<'static>,
    authority_pem: String,
    certified: Arc<CertifiedKey>,
}

impl Machine {
    /// Enrols with a registration key at the first of these endpoints that answers, and keeps the identity in the directory,
    /// which is made if only its last component is missing.
    ///
    /// Safe to repeat with the same key until it succeeds: it then gives the same identity.
    ///
    /// # Errors
    /// See [`MachineError`]. A gateway that isn't one of the key's vault is refused before anything is sent to it.
    pub async fn enrol(directory: &Path, key: &str, endpoints: &[String], name: &str) -> Result<Self, MachineError> {
        let key = key.trim();
        let parts = RegistrationKeyText::parse(key).ok_or(MachineError::Key)?;
        match Self::open(directory) {
            Err(MachineError::NotEnrolled(_)) => {}
            Ok(there) if there.current().peer.not_after > Timestamp::now() => {
                let Peer { name, not_after: until, .. } = there.current().peer.clone();
                return Err(MachineError::Enrolled { directory: directory.to_owned(), name, until });
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(MachineError::Files(format!("{} can't be made: {error}", directory.display())));
            }
            _ => {}
        }
        let pair = pair_in(directory, ENROLLING)?;
        let tls = pinned::config(Arc::new(Pinned::new(parts.authority)))?;
        let client = Client::for_machine(endpoints, tls, &server_name(parts.vault))?;
        let request =
            EnrolRequest { key: Secret::new(key.to_owned()), csr: request_for(&pair)?, name: name.to_owned() };
        let enrolment = client.enrol(&request).await?;
        let text = Zeroizing::new(pair.serialize_pem());
        let current = Current::of(text, &enrolment.certificate, &enrolment.authority)?;
        current.check(&enrolment, parts.vault, parts.authority)?;
        current.keep(directory)?;
        // From here on the identity says it all; what stays behind is the same key.
        let _ = fs::remove_file(directory.join(ENROLLING));
        Ok(Self::with(directory, current))
    }

    /// The identity in a directory.
    ///
    /// # Errors
    /// `NotEnrolled` when there is none, `Files` when it can't be read.
    pub fn open(directory: &Path) -> Result<Self, MachineError> {
        let path = directory.join(IDENTITY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(MachineError::NotEnrolled(directory.to_owned()));
            }
            Err(error) => return Err(MachineError::Files(format!("{} can't be read: {error}", path.display()))),
        };
        let damaged = || {
            let shown = path.display();
            MachineError::Files(format!("{shown} is damaged: restore it, or remove it and enrol this machine anew"))
        };
        let (key, rest) = split(&text, "PRIVATE KEY").ok_or_else(damaged)?;
        let (certificate, rest) = split(rest, "CERTIFICATE").ok_or_else(damaged)?;
        let (authority, _) = split(rest, "CERTIFICATE").ok_or_else(damaged)?;
        let current = Current::of(Zeroizing::new(key.to_owned()), certificate, authority).map_err(|_| damaged())?;
        Ok(Self::with(directory, current))
    }

    fn with(directory: &Path, current: Current) -> Self {
        Self { directory: directory.to_owned(), shown: Arc::new(Shown(RwLock::new(Arc::new(current)))) }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.shown.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who it is.
    #[must_use]
    pub fn name(&self) -> MachineName {
        self.current().peer.name.clone()
    }

    /// What its newest certificate says.
    #[must_use]
    pub fn certificate(&self) -> Peer {
        self.current().peer.clone()
    }

    /// What to ask a gateway for when TLS begins, whatever its address is.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        server_name(self.current().peer.name.vault)
    }

    /// TLS to gateways of its vault, with these protocols. Good for as long as the process runs: a connection shows the
    /// certificate that is the newest when it is made.
    ///
    /// # Errors
    /// The cryptography has no TLS 1.3, which it has.
    pub fn tls(&self, protocols: &[&[u8]]) -> Result<Arc<rustls::ClientConfig>, MachineError> {
        let shows = Arc::clone(&self.shown) as Arc<dyn ResolvesClientCert>;
        client_config(self.current().authority.clone(), shows, protocols)
            .map_err(|error| MachineError::Crypto(format!("TLS can't be set up: {error}")))
    }

    /// Has another certificate signed for its key, and keeps it.
    ///
    /// # Errors
    /// See [`MachineError`]; the identity is as it was then.
    pub async fn renew(&self, endpoints: &[String]) -> Result<(), MachineError> {
        let current = self.current();
        let pair = KeyPair::from_pem(&current.key)
            .map_err(|error| MachineError::Crypto(format!("the key can't be used: {error}")))?;
        let client = Client::for_machine(endpoints, self.tls(&[b"http/1.1"])?, &self.server_name())?;
        let csr = request_for(&pair)?;
        let Peer { name, .. } = &current.peer;
        let enrolment = client.renew_certificate(&name.id, &RenewCertificateRequest { csr }).await?;
        let renewed = Current::of(current.key.clone(), &enrolment.certificate, &current.authority_pem)?;
        renewed.check(&enrolment, name.vault, authority_of(&current.authority)?)?;
        renewed.keep(&self.directory)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
        Ok(())
    }

    /// The process servers of its vault, by the first of these gateways that answers.
    ///
    /// # Errors
    /// See [`MachineError`].
    pub async fn process_servers(&self, endpoints: &[String]) -> Result<Vec<KnownProcessServer>, MachineError> {
        let client = Client::for_machine(endpoints, self.tls(&[b"http/1.1"])?, &self.server_name())?;
        Ok(client.process_servers(&self.name().id).await?.servers)
    }

    /// When its certificate is to be renewed: at two thirds of its life.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        let peer = self.certificate();
        let skew = i64::try_from(CLOCK_SKEW.as_micros()).unwrap_or(0);
        let life = peer.not_after.as_micros().saturating_sub(peer.not_before.as_micros()).saturating_sub(skew);
        Timestamp::from_micros(peer.not_after.as_micros().saturating_sub(life / 3))
    }

    /// Renews its certificate whenever it is time, for ever: drop the future to end that. What a gateway refuses, or that none
    /// can be reached, is logged and tried again every 30 seconds; after the certificate's end only a new enrolment helps.
    pub async fn keep_renewed(&self, endpoints: &[String]) {
        loop {
            let wait = self.renew_at().seconds_since(Timestamp::now());
            if wait > 0.0 {
                tokio::time::sleep(Duration::from_secs_f64(wait).min(LOOK_INTERVAL)).await;
                continue;
            }
            let name = self.name();
            match self.renew(endpoints).await {
                Ok(()) => {
                    tracing::info!(machine = %name, until = %self.certificate().not_after, "certificate is renewed")
                }
                Err(error) => {
                    let until = self.certificate().not_after;
                    if until > Timestamp::now() {
                        tracing::warn!(machine = %name, %until, %error, "certificate can't be renewed yet");
                    } else {
                        tracing::error!(
                            machine = %name, %until, %error,
                            "certificate has ended: enrol this machine anew, with another registration key"
                        );
                    }
                    tokio::time::sleep(RENEW_INTERVAL).await;
                }
            }
        }
    }
}

impl Current {
    fn of(key: Zeroizing<String>, certificate: &str, authority: &str) -> Result<Self, MachineError> {
        let (certificate, trusted) =
            (der(certificate).map_err(MachineError::Answer)?, der(authority).map_err(MachineError::Answer)?);
        let peer = Peer::of(&certificate).map_err(MachineError::Answer)?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| MachineError::Crypto(format!("the key can't be read: {error}")))?;
        let signer = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|error| MachineError::Crypto(format!("the key can't be used: {error}")))?;
        let certified = CertifiedKey::new(vec![certificate], signer);
        certified
            .keys_match()
            .map_err(|_| MachineError::Answer("the certificate is for another key than this machine's".to_owned()))?;
        Ok(Self { peer, key, authority: trusted, authority_pem: authority.to_owned(), certified: Arc::new(certified) })
    }

    /// Whether it is what was asked for: a gateway of the vault may be mistaken, and this is kept for a day.
    fn check(
        &self,
        enrolment: &Enrolment,
        vault: lifeboat_model::VaultId,
        authority: Fingerprint,
    ) -> Result<(), MachineError> {
        let wrong = |what: &str| Err(MachineError::Answer(format!("{what} isn't the one that was asked for")));
        if self.peer.name.vault != vault {
            return wrong("the vault in the certificate");
        }
        if self.peer.name.id != enrolment.agent.id.to_string() {
            return wrong("the id in the certificate");
        }
        if authority_of(&self.authority)? != authority {
            return wrong("the authority");
        }
        Ok(())
    }

    fn keep(&self, directory: &Path) -> Result<(), MachineError> {
        let certificate = self.certified.cert.first().map(|der| pem_of(der)).unwrap_or_default();
        let text = Zeroizing::new(format!(
            "{}\n{}\n{}\n",
            self.key.trim_end(),
            certificate.trim_end(),
            self.authority_pem.trim_end()
        ));
        write(directory, IDENTITY, text.as_bytes())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} until {}", self.peer.name, self.peer.not_after)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Which key an authority's certificate is for.
fn authority_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, MachineError> {
    pinned::public_key(certificate)
        .ok_or_else(|| MachineError::Answer("the authority's certificate can't be read".to_owned()))
}

/// The key pair of an enrolment that is under way; a new one, kept before it is used, when there is none.
pub(crate) fn pair_in(directory: &Path, name: &str) -> Result<KeyPair, MachineError> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            KeyPair::from_pem(&text).map_err(|error| {
                MachineError::Files(format!("{} is damaged ({error}): remove it and enrol again", path.display()))
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pair =
                KeyPair::generate().map_err(|error| MachineError::Crypto(format!("a key can't be made: {error}")))?;
            write(directory, name, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
            Ok(pair)
        }
        Err(error) => Err(MachineError::Files(format!("{} can't be read: {error}", path.display()))),
    }
}

/// A request that asks for a certificate and nothing in it.
pub(crate) fn request_for(pair: &KeyPair) -> Result<String, MachineError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(pair).and_then(|request| request.pem());
    request.map_err(|error| MachineError::Crypto(format!("a request for a certificate can't be made: {error}")))
}

/// The first PEM block with this label, and what follows it.
fn split<'a>(text: &'a str, label: &str) -> Option<(&'a str, &'a str)> {
    let end = format!("-----END {label}-----");
    let from = text.find(&format!("-----BEGIN {label}-----"))?;
    let to = text.find(&end)?.checked_add(end.len())?;
    Some((text.get(from..to)?, text.get(to..)?))
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Replaces a file, mode 0600.
fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), MachineError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.new"));
    let written = (|| {
        // Whatever a crash left there may have another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|error: std::io::Error| {
        let _ = fs::remove_file(&temporary);
        MachineError::Files(format!("{} can't be written: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests;
