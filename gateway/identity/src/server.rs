//! TLS at a gateway, for machines.
//!
//! Which vault a machine means it says by the name that it asks for ([`crate::server_name`]). The gateway shows a certificate
//! of that vault's authority, made in memory and renewed at half its life, and believes a machine's certificate if the authority
//! of the vault that the certificate names signed it, its time is right, and [`Trust::admit`] knows nothing against it.
//!
//! TLS 1.3 only, and no session is ever resumed: a machine that was revoked would come back by a ticket. Certificates are
//! looked at when hands are shaken: a connection that lives on is for the caller to look at again, with [`Trust::admit`].

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_model::{Timestamp, VaultId};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authority::LIFE;
use crate::name::vault_of;
use crate::{Authority, Fingerprint, Peer, provider};

/// What a gateway knows about authorities and machines.
pub trait Trust: Debug + Send + Sync {
    /// The authority of a vault that this gateway is attached to, as far as it is known.
    fn authority(&self, vault: VaultId) -> Option<Arc<Authority>>;

    /// Whether a machine may come in now: its certificate's time, and whether it was revoked. Who it says it is was proven.
    ///
    /// # Errors
    /// Why not, in a sentence for the log: who is refused learns nothing.
    fn admit(&self, peer: &Peer, now: Timestamp) -> Result<(), String>;
}

/// What a gateway asks of who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A machine's certificate: without one there is no connection.
    Certificate,
    /// Nothing; but a certificate that is shown has to be right.
    Nothing,
}

/// TLS for machines, as the gateway with this id.
///
/// # Errors
/// The cryptography has no TLS 1.3, which it has.
pub fn server_config(
    trust: Arc<dyn Trust>,
    gateway: &str,
    demand: Demand,
    protocols: &[&[u8]],
) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = provider();
    let verifier = Machines { trust: Arc::clone(&trust), demand, provider: Arc::clone(&provider) };
    let own = OwnCertificates { trust, gateway: gateway.to_owned(), made: Mutex::default() };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(own));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// The machine at the other end of a connection that was accepted with [`server_config`]; nothing when it showed no certificate.
#[must_use]
pub fn peer(connection: &rustls::ServerConnection) -> Option<Peer> {
    Peer::of(connection.peer_certificates()?.first()?).ok()
}

#[derive(Debug)]
struct Machines {
    trust: Arc<dyn Trust>,
    demand: Demand,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Machines {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == Demand::Certificate
    }

    /// No names of authorities: a gateway doesn't tell strangers which vaults it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refuse = |peer: Option<&Peer>, why: &str, error: CertificateError| {
            let name = peer.map(|peer| peer.name.to_string()).unwrap_or_default();
            tracing::info!(machine = name, why, "a machine is refused");
            Err(rustls::Error::InvalidCertificate(error))
        };
        let peer = match Peer::of(end_entity) {
            Ok(peer) => peer,
            Err(why) => return refuse(None, &why, CertificateError::BadEncoding),
        };
        let Some(authority) = self.trust.authority(peer.name.vault) else {
            return refuse(Some(&peer), "its vault isn't known here", CertificateError::UnknownIssuer);
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone())?;
        // By the authority of the vault that it names, and no other: one vault's authority vouches for nobody of another.
        let verified = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(end_entity, &[], now);
        if let Err(error) = verified {
            tracing::info!(machine = %peer.name, %error, "a machine is refused");
            return Err(error);
        }
        let now = Timestamp::from_micros(i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        match self.trust.admit(&peer, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(why) => refuse(Some(&peer), &why, CertificateError::Revoked),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate of this gateway's, and what it was made with.
#[derive(Debug)]
struct Made {
    authority: Fingerprint,
    at: Timestamp,
    certified: Arc<CertifiedKey>,
}

#[derive(Debug)]
struct OwnCertificates {
    trust: Arc<dyn Trust>,
    gateway: String,
    made: Mutex<HashMap<VaultId, Made>>,
}

impl OwnCertificates {
    /// The certificate for machines of this vault: of its authority as it is, and in the first half of its life by this clock,
    /// which may have been set back.
    fn of(&self, vault: VaultId, now: Timestamp) -> Option<Arc<CertifiedKey>> {
        let authority = self.trust.authority(vault)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let half: Duration = LIFE / 2;
        if let Some(known) = made.get(&vault)
            && known.authority == authority.fingerprint()
            && (0.0..half.as_secs_f64()).contains(&now.seconds_since(known.at))
        {
            return Some(Arc::clone(&known.certified));
        }
        match authority.gateway(&self.gateway, now) {
            Ok(certified) => {
                let fresh = Made { authority: authority.fingerprint(), at: now, certified: Arc::clone(&certified) };
                made.insert(vault, fresh);
                Some(certified)
            }
            Err(error) => {
                tracing::error!(%vault, error, "this gateway can't make itself a certificate: machines can't connect");
                None
            }
        }
    }
}

impl ResolvesServerCert for OwnCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(vault_of(hello.server_name()?)?, Timestamp::now())
    }
}
