//! Where a vault's key comes from, and how keys wrap keys.
//!
//! ```text
//! passphrase ──Argon2id──┐
//!                        ├─> slot secret ──HKDF──> key check (compared first)
//! key file ────HKDF──────┤                └─HKDF──> slot key ──AES-256-GCM──> master key
//! KMS ─────────unwrap────┘
//! ```
//! Owns every secret of the vault in memory: all wiped on drop, none shown by `Debug`, none compared in variable
//! time. Parameters of a derivation come from a document that anybody may have written, so they are bounded before
//! they are believed.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf, hmac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ambient::Entropy;
use crate::envelope::Blob;
use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::kms::{KmsContext, KmsKey, WRAPPED_BYTES_MAX};

/// Shortest passphrase that a new slot takes, in characters.
const PASSPHRASE_MIN: usize = 8;
/// Least and most bytes of a key file.
const KEY_FILE_BYTES: std::ops::RangeInclusive<u64> = 32..=65_536;

pub(crate) const LABEL_SLOT_CHECK: &[u8] = b"lifeboat/v1/slot-check";
pub(crate) const LABEL_SLOT_KEY: &[u8] = b"lifeboat/v1/slot-key";
const LABEL_KEY_FILE: &[u8] = b"lifeboat/v1/key-file";

/// 32 secret bytes, wiped on drop.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// What opens a vault.
#[derive(Clone)]
pub enum KeySource {
    /// A passphrase that people keep. At least 8 characters when a slot is made; use many more.
    Passphrase(SecretString),
    /// A file of 32 to 65,536 random bytes that only its owner can read. Its bytes are the key, whatever they are.
    KeyFile(PathBuf),
    /// A key in a key management service, which wraps a random secret.
    Kms(KmsKey),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase(_) => f.write_str("Passphrase(..)"),
            Self::KeyFile(path) => f.debug_tuple("KeyFile").field(path).finish(),
            Self::Kms(key) => f.debug_tuple("Kms").field(key).finish(),
        }
    }
}

impl KeySource {
    pub(crate) const fn word(&self) -> SourceWord {
        match self {
            Self::Passphrase(_) => SourceWord::Passphrase,
            Self::KeyFile(_) => SourceWord::KeyFile,
            Self::Kms(_) => SourceWord::Kms,
        }
    }
}

/// The kind of a key source as documents name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SourceWord {
    Passphrase,
    KeyFile,
    Kms,
}

impl SourceWord {
    /// The kind with this name, if this build knows it.
    pub(crate) fn of(word: &str) -> Option<Self> {
        [Self::Passphrase, Self::KeyFile, Self::Kms].into_iter().find(|source| source.as_str() == word)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key-file",
            Self::Kms => "kms",
        }
    }
}

/// Cost of deriving a key from a passphrase with Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdfStrength {
    /// Memory in KiB; 8 to 1,048,576 and at least 8 for each lane.
    pub memory_kib: u32,
    /// Passes; 1 to 16.
    pub iterations: u32,
    /// Lanes; 1 to 16.
    pub lanes: u32,
}

impl KdfStrength {
    /// The cheapest there is, for tests.
    pub const WEAKEST: KdfStrength = KdfStrength { memory_kib: 8, iterations: 1, lanes: 1 };

    /// Refuses what a hostile document could use to exhaust memory or time.
    fn params(self) -> Result<argon2::Params, VaultError> {
        let refuse = || {
            let Self { memory_kib, iterations, lanes } = self;
            invalid(format!(
                "Argon2id with {memory_kib} KiB, {iterations} passes and {lanes} lanes is out of bounds: \
                 at most 1048576 KiB, 16 passes and 16 lanes"
            ))
        };
        if self.memory_kib > 1_048_576 || self.iterations > 16 || self.lanes > 16 {
            return Err(refuse());
        }
        argon2::Params::new(self.memory_kib, self.iterations, self.lanes, Some(32)).map_err(|_| refuse())
    }
}

impl Default for KdfStrength {
    /// The second recommended choice of RFC 9106: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self { memory_kib: 65_536, iterations: 3, lanes: 4 }
    }
}

/// How a slot derives its secret, as documents hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kdf {
    #[serde(rename = "argon2id")]
    Argon2id(KdfStrength),
    #[serde(rename = "hkdf-sha256")]
    HkdfSha256 {},
    /// The secret itself, as a service wrapped it.
    #[serde(rename = "kms")]
    Kms { wrapped: Blob },
}

/// How the secret of a new slot comes about, and the secret.
pub(crate) async fn new_slot_secret(
    source: &KeySource,
    strength: KdfStrength,
    salt: [u8; 32],
    context: KmsContext,
    entropy: &Entropy,
) -> Result<(Kdf, Secret), VaultError> {
    let kdf = match source {
        KeySource::Passphrase(_) => Kdf::Argon2id(strength),
        KeySource::KeyFile(_) => Kdf::HkdfSha256 {},
        KeySource::Kms(key) => {
            let mut secret = Secret::default();
            entropy.fill(secret.as_mut_slice())?;
            let wrapped = Blob(key.wrap(context, &secret).await?);
            return Ok((Kdf::Kms { wrapped }, secret));
        }
    };
    let secret = slot_secret(source, &kdf, salt, context).await?;
    Ok((kdf, secret))
}

/// Derives the secret of a slot. Takes the time and memory that Argon2id is meant to take, off the async threads.
pub(crate) async fn slot_secret(
    source: &KeySource,
    kdf: &Kdf,
    salt: [u8; 32],
    context: KmsContext,
) -> Result<Secret, VaultError> {
    if let (KeySource::Kms(key), Kdf::Kms { wrapped }) = (source, kdf) {
        if wrapped.0.len() > WRAPPED_BYTES_MAX {
            return Err(tampered("a key slot's wrapped secret is too long; restore the vault document"));
        }
        return key.unwrap(context, &wrapped.0).await;
    }
    let (source, kdf) = (source.clone(), kdf.clone());
    let derived = tokio::task::spawn_blocking(move || match (&source, kdf) {
        (KeySource::Passphrase(passphrase), Kdf::Argon2id(strength)) => {
            let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, strength.params()?);
            let mut secret = Secret::default();
            argon2
                .hash_password_into(passphrase.expose_secret().as_bytes(), &salt, secret.as_mut_slice())
                .map_err(|error| invalid(format!("the passphrase can't be used: {error}; choose a shorter one")))?;
            Ok(secret)
        }
        (KeySource::KeyFile(path), Kdf::HkdfSha256 {}) => {
            let content = read_key_file(path)?;
            Ok(derive(&content, &salt, &[LABEL_KEY_FILE]))
        }
        (source, _) => Err(tampered(format!(
            "a key slot of kind {} has the derivation of another kind; restore the vault document",
            source.word().as_str()
        ))),
    });
    derived.await.unwrap_or_else(|error| {
        Err(VaultError::new(VaultErrorKind::Retry, "deriving the vault's key was broken off").with_source(error))
    })
}

/// Whether the source is good enough for a new slot.
pub(crate) fn check_new_source(source: &KeySource) -> Result<(), VaultError> {
    match source {
        KeySource::Passphrase(text) if text.expose_secret().chars().count() < PASSPHRASE_MIN => {
            Err(invalid(format!("the passphrase is too short: give at least {PASSPHRASE_MIN} characters")))
        }
        _ => Ok(()),
    }
}

fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => VaultErrorKind::NotFound,
            _ => VaultErrorKind::InvalidInput,
        };
        VaultError::new(kind, format!("can't read the key file {shown}: {error}; check its path and owner"))
            .with_source(error)
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(invalid(format!("the key file {shown} is no regular file; give the path of one")));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(invalid(format!(
            "the key file {shown} has mode {mode:04o}, so others could read it: run chmod 600 on it"
        )));
    }
    if !KEY_FILE_BYTES.contains(&metadata.len()) {
        let len = metadata.len();
        return Err(invalid(format!(
            "the key file {shown} has {len} bytes: it must have 32 to 65536; make one with \
             `head -c 64 /dev/urandom`"
        )));
    }
    // Room for all of it at once: a vector that grows would leave unwiped copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(65_537));
    file.take(65_537).read_to_end(&mut content).map_err(failed)?;
    if u64::try_from(content.len()) != Ok(metadata.len()) {
        return Err(invalid(format!("the key file {shown} changed while it was read: try again")));
    }
    Ok(content)
}

/// HKDF-SHA256 (RFC 5869) to 32 bytes; the info is the parts one after the other.
pub(crate) fn derive(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Secret {
    let mut out = Secret::default();
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(ikm)
        .expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .expect("HKDF-SHA256 gives 32 bytes for every input");
    out
}

/// Whether two byte strings are equal, in time that tells nothing of where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// HMAC-SHA256 over the parts one after the other.
pub(crate) fn mac(key: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

/// Encrypts secret bytes under `key`: ciphertext and tag.
pub(crate) fn wrap(key: &Secret, nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(plain.len() + 16));
    buffer.extend_from_slice(plain);
    sealing_key(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut *buffer)
        .map_err(|_| VaultError::new(VaultErrorKind::Fatal, "a key could not be wrapped"))?;
    // Ciphertext from here on.
    Ok(std::mem::take(&mut *buffer))
}

/// Decrypts what [`wrap`] gave; `None` if it isn't that, or the key or the position is another.
pub(crate) fn unwrap(key: &Secret, nonce: [u8; 12], aad: &[u8], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(wrapped.to_vec());
    let opened = sealing_key(key).open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer);
    let len = opened.ok()?.len();
    buffer.truncate(len);
    Some(buffer)
}

fn sealing_key(key: &Secret) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("AES-256-GCM takes every 32 bytes"))
}

#[cfg(test)]
mod tests;
