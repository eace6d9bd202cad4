//! What a certificate of a vault's authority says about its holder.
//!
//! One URI, `lifeboat://<vault>/<kind>/<id>`, and for gateways one host name that stands for the vault. A certificate with
//! another number of URIs, or one that isn't exactly so, is nobody's.

use std::fmt;
use std::str::FromStr;

use lifeboat_model::{Timestamp, VaultId};
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Fingerprint, fingerprint, hex};

const SCHEME: &str = "lifeboat://";
/// A name for private use that no public name server knows.
const DOMAIN: &str = ".lifeboat.internal";

/// What kind of machine. A certificate is for one kind, and no kind passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineKind {
    /// A mobility agent: shows its certificate to gateways, and serves nobody.
    Agent,
    /// A gateway that has the vault's key.
    Gateway,
}

impl MachineKind {
    /// The word in a certificate.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for MachineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which machine of which vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MachineName {
    /// The vault whose authority vouches for it.
    pub vault: VaultId,
    /// What it is.
    pub kind: MachineKind,
    /// Its id: 1 to 64 lower-case letters, digits and hyphens.
    pub id: String,
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.vault, self.kind, self.id)
    }
}

impl FromStr for MachineName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut parts = text.strip_prefix(SCHEME)?.split('/');
            let vault = parts.next()?.parse().ok()?;
            let kind = parts.next()?;
            let kind = [MachineKind::Agent, MachineKind::Gateway].into_iter().find(|known| known.as_str() == kind)?;
            let id = parts.next().filter(|id| is_id(id))?;
            parts.next().is_none().then(|| Self { vault, kind, id: id.to_owned() })
        };
        read().ok_or_else(|| format!("{text:?} names no machine: expected {SCHEME}VAULT/KIND/ID"))
    }
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The name that machines of a vault ask a gateway for when they begin TLS, whatever its address is: it tells the gateway
/// which vault they mean, and the gateway's certificate must bear it.
#[must_use]
pub fn server_name(vault: VaultId) -> ServerName<'static> {
    ServerName::try_from(host(vault)).expect("an id and a domain are a name")
}

pub(crate) fn host(vault: VaultId) -> String {
    format!("{vault}{DOMAIN}")
}

/// The vault that somebody means who asks for this name; nothing for any other name.
#[must_use]
pub fn vault_of(name: &str) -> Option<VaultId> {
    name.strip_suffix(DOMAIN)?.parse().ok()
}

/// A machine by the certificate that it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub name: MachineName,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
    /// When it begins to hold.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Which key it is for.
    pub public_key: Fingerprint,
}

impl Peer {
    /// What a certificate says. Nothing of it is proven here.
    ///
    /// # Errors
    /// It can't be read, or doesn't name exactly one machine.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("the certificate can't be read: {error}"))?;
        if !rest.is_empty() {
            return Err("the certificate can't be read: something follows it".to_owned());
        }
        let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let name = match (uris.next(), uris.next()) {
            (Some(only), None) => only.parse()?,
            (None, _) => return Err("the certificate names no machine".to_owned()),
            (Some(_), Some(_)) => return Err("the certificate names more than one machine".to_owned()),
        };
        let time = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        let validity = parsed.validity();
        Ok(Self {
            name,
            serial: hex(parsed.raw_serial()),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            public_key: fingerprint(parsed.public_key().raw),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VAULT: VaultId = VaultId::from_bytes([7; 16]);

    #[test]
    fn a_name_reads_as_it_is_written_and_no_other_way() {
        let name = MachineName { vault: VAULT, kind: MachineKind::Agent, id: "agt-1".into() };
        let text = name.to_string();
        assert_eq!(text, "lifeboat://vlt-07070707070707070707070707070707/agent/agt-1");
        assert_eq!(text.parse(), Ok(name));
        for wrong in [
            "",
            "lifeboat://",
            &text.replace("agent", "root"),
            &text.replace("agent", "Agent"),
            &text.replace("vlt", "vol"),
            &text.replace("agt-1", ""),
            &text.replace("agt-1", "../x"),
            &format!("{text}/more"),
            &format!("{text}?a"),
            &text.replace("lifeboat:", "https:"),
        ] {
            assert!(wrong.parse::<MachineName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_name_stands_for_a_vault() {
        assert_eq!(vault_of(&host(VAULT)), Some(VAULT));
        assert_eq!(server_name(VAULT).to_str(), host(VAULT));
        for other in ["localhost", "lifeboat.internal", ".lifeboat.internal", "a.lifeboat.internal", "10.0.0.1"] {
            assert_eq!(vault_of(other), None, "{other}");
        }
    }
}
