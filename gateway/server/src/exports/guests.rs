//! Who may have which volume over NBD: who shows a certificate that the volume's export names, or one that a named one signed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lifeboat_export::File;
use lifeboat_export::nbd::{Admission, Admitted};
use lifeboat_model::VolumeId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::declared;
use crate::context::Context;
use crate::export::{Owner, owner};
use crate::tls::Identity;

/// Configurations of TLS that are kept: one for each address of this machine.
const KEPT_MAX: usize = 64;

/// The door of NBD for other hosts.
pub(crate) struct Guests {
    context: Weak<Context>,
    identity: Arc<Identity>,
    kept: Mutex<HashMap<IpAddr, Arc<ServerConfig>>>,
}

impl Guests {
    pub(crate) fn new(context: &Arc<Context>, identity: Arc<Identity>) -> Self {
        Self { context: Arc::downgrade(context), identity, kept: Mutex::default() }
    }
}

impl Admission for Guests {
    fn tls(&self, reached: IpAddr) -> std::io::Result<Arc<ServerConfig>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.get(&reached) {
            return Ok(Arc::clone(found));
        }
        let made =
            self.identity.config(reached, Some(Arc::new(AnyCertificate(provider())))).map_err(std::io::Error::other)?;
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(reached, Arc::clone(&made));
        Ok(made)
    }

    fn admits(&self, shown: &[CertificateDer<'static>], file: &File) -> Admitted {
        let Some(context) = self.context.upgrade() else { return Admitted::No };
        match owner(&context, file) {
            Owner::Volume(volume) if is_named(&context, volume, shown) => Admitted::Yes,
            Owner::Unsure => Admitted::Unsure,
            Owner::Volume(_) | Owner::Nobody => Admitted::No,
        }
    }
}

fn is_named(context: &Context, volume: VolumeId, shown: &[CertificateDer<'static>]) -> bool {
    let nbd = declared(context, volume).and_then(|(_, spec)| spec.export).and_then(|export| export.nbd);
    nbd.is_some_and(|nbd| is_trusted(&nbd.client_certificates, shown, UnixTime::now()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Whether the first of these certificates, whose key was proved, is one of the named ones, or was signed by one.
fn is_trusted(named: &[String], shown: &[CertificateDer<'static>], now: UnixTime) -> bool {
    let Some((own, between)) = shown.split_first() else { return false };
    let named: Vec<CertificateDer<'static>> =
        named.iter().filter_map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok()).collect();
    if named.contains(own) {
        return true;
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(named);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    verifier.is_ok_and(|verifier| verifier.verify_client_cert(own, between, now).is_ok())
}

/// Takes any certificate whose key is proved: which volume it may have is asked when it names one.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), Issuer::new(params, key))
    }

    fn signed(by: &Issuer<'static, KeyPair>, days: std::ops::Range<i64>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["esx1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let day = |days: i64| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(days.cast_unsigned() * 86_400);
        params.not_before = day(days.start).into();
        params.not_after = day(days.end).into();
        params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
    }

    #[test]
    fn who_is_named_comes_in_and_whom_a_named_one_signed() {
        let (pem, issuer) = authority("ours");
        let (other_pem, other) = authority("others");
        let own = CertificateParams::new(vec!["host".to_owned()])
            .unwrap()
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(100 * 86_400));
        let client = [signed(&issuer, 50..150)];
        assert!(is_trusted(&[own.pem()], &[own.der().clone()], now), "the very certificate");
        assert!(is_trusted(&[own.pem(), pem.clone()], &client, now), "signed by one of them");
        assert!(!is_trusted(&[own.pem(), other_pem], &client, now));
        assert!(!is_trusted(&[], &client, now));
        assert!(!is_trusted(std::slice::from_ref(&pem), &[], now));
        assert!(!is_trusted(std::slice::from_ref(&pem), &[signed(&issuer, 10..50)], now), "its time is over");
        assert!(!is_trusted(&[pem], &[signed(&other, 50..150)], now));
    }
}
