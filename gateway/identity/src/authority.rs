//! The authority of a vault: it signs certificates of machines, and is the same at every gateway that has the vault's key.
//!
//! It is made of 32 secret bytes that the vault keeps as it keeps the keys of volumes. Key and certificate follow from them
//! and the vault's id alone (Ed25519, fixed dates), so nothing else has to be kept or agreed upon. What machines trust is the
//! key: a certificate that another version writes otherwise is the same authority.
//!
//! It signs for names that its caller decides. Of a request it takes the public key and nothing else, and refuses one that
//! asks for more than that: a name, an authority's rights, another use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use lifeboat_model::{Timestamp, VaultId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::name::host;
use crate::{Fingerprint, MachineKind, MachineName, Peer, fingerprint, provider};

/// How long a certificate holds. It is renewed at two thirds.
pub const LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How far a machine's clock may be behind that of the gateway that signs.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Largest request, bytes of PEM: a P-256 one has about 500.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// The authority of one vault.
pub struct Authority {
    vault: VaultId,
    issuer: Issuer<'static, Key>,
    certificate: CertificateDer<'static>,
    pem: String,
    fingerprint: Fingerprint,
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub pem: String,
    /// What it says.
    pub peer: Peer,
}

/// The key that the authority signs with; it has no text form here that could get out.
struct Key(Ed25519KeyPair);

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

/// Why a request for a certificate isn't signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It can't be read.
    #[error("it is no certificate signing request in PEM, or asks for something that is unknown here: {0}")]
    Unreadable(String),
    /// Who made it doesn't have the key, or it was changed on the way.
    #[error("its signature doesn't fit its public key")]
    Signature,
    /// The key is of a kind that isn't signed for.
    #[error("its key must be of Ed25519 or ECDSA P-256")]
    Algorithm,
    /// It asks for something besides a certificate for its key.
    #[error("it asks for {0}: what a certificate says is decided here, ask for nothing but the key")]
    Presumes(&'static str),
}

/// A request whose signature is right and that asks for nothing.
#[derive(Debug)]
pub struct Request {
    parsed: CertificateSigningRequestParams,
}

impl Request {
    /// Reads a request and proves that who made it has the private key.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn read(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::Unreadable(format!("it has more than {REQUEST_BYTES_MAX} bytes")));
        }
        let parsed = CertificateSigningRequestParams::from_pem(pem).map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => RequestError::Signature,
            error => RequestError::Unreadable(error.to_string()),
        })?;
        if ![&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256].contains(&parsed.public_key.algorithm()) {
            return Err(RequestError::Algorithm);
        }
        let params = &parsed.params;
        let presumed = if params.is_ca != IsCa::NoCa {
            Some("the rights of an authority")
        } else if !params.subject_alt_names.is_empty() || params.distinguished_name.iter().next().is_some() {
            Some("a name")
        } else if !params.key_usages.is_empty() || !params.extended_key_usages.is_empty() {
            Some("uses of its key")
        } else {
            None
        };
        match presumed {
            Some(what) => Err(RequestError::Presumes(what)),
            None => Ok(Self { parsed }),
        }
    }

    /// Which key it is for.
    #[must_use]
    pub fn public_key(&self) -> Fingerprint {
        fingerprint(&self.parsed.public_key.subject_public_key_info())
    }
}

impl Authority {
    /// The authority of a vault, of the secret bytes that the vault keeps for it.
    ///
    /// # Errors
    /// The certificate can't be written, which no input makes happen.
    pub fn new(vault: VaultId, seed: &[u8; 32]) -> Result<Self, String> {
        let failed = |error: &dyn fmt::Display| format!("the authority of {vault} can't be set up: {error}");
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| failed(&error))?;
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2026, 1, 1);
        // "No end that is known" (RFC 5280, 4.1.2.5).
        params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(24 * 60 * 60 - 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Lifeboat vault {vault}"));
        let key = Key(key);
        let fingerprint = fingerprint(&key.subject_public_key_info());
        params.serial_number = Some(SerialNumber::from_slice(&positive(fingerprint)));
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self { vault, issuer: Issuer::new(params, key), certificate: der, pem, fingerprint })
    }

    /// Whose it is.
    #[must_use]
    pub const fn vault(&self) -> VaultId {
        self.vault
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Which key it signs with.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Signs a certificate for the key of a request: an agent's, for [`LIFE`] from now.
    ///
    /// # Errors
    /// Random bytes can't be had.
    pub fn sign(&self, request: &Request, id: &str, now: Timestamp) -> Result<Issued, String> {
        self.sign_for(request, id, now, LIFE)
    }

    /// [`Self::sign`] for another time.
    ///
    /// # Errors
    /// As for [`Self::sign`].
    pub fn sign_for(&self, request: &Request, id: &str, now: Timestamp, life: Duration) -> Result<Issued, String> {
        let name = MachineName { vault: self.vault, kind: MachineKind::Agent, id: id.to_owned() };
        self.certify(&request.parsed.public_key, &name, now, life)
    }

    /// A key pair and a certificate for a gateway that has the vault's key, to be kept in memory: it says who the gateway is, to
    /// machines that connect to it and to gateways that it connects to.
    ///
    /// # Errors
    /// Random bytes can't be had.
    pub fn gateway(&self, id: &str, now: Timestamp) -> Result<Arc<CertifiedKey>, String> {
        let name = MachineName { vault: self.vault, kind: MachineKind::Gateway, id: id.to_owned() };
        let key = KeyPair::generate().map_err(|error| format!("a key can't be made: {error}"))?;
        let issued = self.certify(&key, &name, now, LIFE)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = provider().key_provider.load_private_key(private).map_err(|error| error.to_string())?;
        let chain = vec![der(&issued.pem)?, self.certificate.clone()];
        Ok(Arc::new(CertifiedKey::new(chain, signer)))
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        name: &MachineName,
        now: Timestamp,
        life: Duration,
    ) -> Result<Issued, String> {
        let failed = |error: &dyn fmt::Display| format!("a certificate for {name} can't be signed: {error}");
        let mut params = CertificateParams::default();
        let seconds = u64::try_from(now.as_micros() / 1_000_000).map_err(|error| failed(&error))?;
        let second = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        params.not_before = second(seconds.saturating_sub(CLOCK_SKEW.as_secs()));
        params.not_after = second(seconds.saturating_add(life.as_secs()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.id.clone());
        let uri = name.to_string().try_into().map_err(|error: rcgen::Error| failed(&error))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if name.kind == MachineKind::Gateway {
            let host = host(name.vault).try_into().map_err(|error: rcgen::Error| failed(&error))?;
            params.subject_alt_names.push(SanType::DnsName(host));
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let mut serial = [0; 32];
        aws_lc_rs::rand::fill(&mut serial).map_err(|error| failed(&error))?;
        params.serial_number = Some(SerialNumber::from_slice(&positive(serial)));
        let certificate = params.signed_by(key, &self.issuer).map_err(|error| failed(&error))?;
        Ok(Issued { pem: certificate.pem(), peer: Peer::of(certificate.der())? })
    }
}

/// Sixteen bytes of a serial number, positive and without a leading zero.
fn positive(bytes: [u8; 32]) -> [u8; 16] {
    let mut serial = [0; 16];
    serial.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

/// The first certificate of a PEM text.
pub(crate) fn der(pem: &str) -> Result<CertificateDer<'static>, String> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("the certificate can't be read: {error}"))
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "authority of {}", self.vault)
    }
}

#[cfg(test)]
mod tests;
