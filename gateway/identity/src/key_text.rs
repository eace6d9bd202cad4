//! The text of a registration key: `lbr_<vault>_<id>_<secret>_<fingerprint>`.
//!
//! Vault and id are 32 hexadecimal digits each, the secret 256 random bits and the fingerprint SHA-256 of the authority's
//! public key, both in base64 without padding (43 characters each, of which any may be `_`: the parts are cut by their
//! lengths). What is hashed and kept is the whole text. The fingerprint is how a machine that trusts nobody yet knows the
//! gateway that it meets for one of the vault's.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lifeboat_model::{RegistrationKeyId, VaultId};
use zeroize::Zeroizing;

use crate::{Fingerprint, hex};

const BEGIN: &str = "lbr_";
const ID_DIGITS: usize = 32;
const BASE64_CHARS: usize = 43;

/// A registration key, taken apart. The secret is wiped on drop and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrationKeyText {
    /// The vault that it is for.
    pub vault: VaultId,
    /// Which key it is.
    pub id: RegistrationKeyId,
    secret: Zeroizing<[u8; 32]>,
    /// The vault's authority.
    pub authority: Fingerprint,
}

impl RegistrationKeyText {
    /// A key with these 256 random bits.
    #[must_use]
    pub fn new(vault: VaultId, id: RegistrationKeyId, secret: [u8; 32], authority: Fingerprint) -> Self {
        Self { vault, id, secret: Zeroizing::new(secret), authority }
    }

    /// The text, which is a secret.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        Zeroizing::new(format!(
            "{BEGIN}{}_{}_{}_{}",
            hex(&self.vault.to_bytes()),
            hex(&self.id.to_bytes()),
            secret.as_str(),
            URL_SAFE_NO_PAD.encode(self.authority)
        ))
    }

    /// Takes a text apart.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (vault, rest) = text.strip_prefix(BEGIN)?.split_at_checked(ID_DIGITS)?;
        let (id, rest) = rest.strip_prefix('_')?.split_at_checked(ID_DIGITS)?;
        let (secret, rest) = rest.strip_prefix('_')?.split_at_checked(BASE64_CHARS)?;
        let authority = rest.strip_prefix('_')?;
        let bytes = |text: &str| -> Option<[u8; 32]> {
            let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
            decoded.as_slice().try_into().ok()
        };
        Some(Self {
            vault: format!("{}-{vault}", VaultId::PREFIX).parse().ok()?,
            id: format!("{}-{id}", RegistrationKeyId::PREFIX).parse().ok()?,
            secret: Zeroizing::new(bytes(secret)?),
            authority: bytes(authority)?,
        })
    }
}

impl fmt::Debug for RegistrationKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registration key {}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_as_it_is_written_and_is_strict() {
        // 0xff gives underscores in base64, which part nothing here.
        for byte in [0, 0x5a, 0xff] {
            let key = RegistrationKeyText::new(VaultId::new(), RegistrationKeyId::new(), [byte; 32], [0xff; 32]);
            let text = key.expose();
            assert_eq!(RegistrationKeyText::parse(&text), Some(key.clone()), "{}", text.as_str());
            assert!(!format!("{key:?}").contains(&text[70..113]));
            for wrong in [
                "",
                "lbr_",
                &text[..text.len() - 1],
                &format!("{}=", text.as_str()),
                &format!("{}A", text.as_str()),
                &text.replacen("lbr_", "lbt_", 1),
                &text.replacen(|c: char| c.is_ascii_digit(), "G", 1),
            ] {
                assert_eq!(RegistrationKeyText::parse(wrong), None, "{wrong}");
            }
        }
    }
}
