//! Keys, and the keys derived from them. Owns the derivation labels of the format.
//!
//! A key shows as its type's name, is compared never, and is wiped when it is dropped. Derivation is HKDF-SHA256 with
//! the 16-byte random salt of the object that the derived key is for, so that no (key, nonce) pair can come twice even
//! when a machine is rolled back to an older state of its disks.

use aws_lc_rs::{aead, constant_time, hkdf, hmac};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::FormatError;

/// Bytes in every key.
pub const KEY_LEN: usize = 32;
/// Bytes in the salt of an object.
pub const SALT_LEN: usize = 16;
/// Bytes that authenticated encryption adds to its plaintext.
pub const TAG_LEN: usize = 16;

/// The salt of one object: fresh random bytes for every attempt to build one.
pub type Salt = [u8; SALT_LEN];

pub(crate) const LABEL_FRAME: &[u8] = b"lifeboat/v1/frame";
pub(crate) const LABEL_REBUILT: &[u8] = b"lifeboat/v1/rebuilt";
pub(crate) const LABEL_INDEX: &[u8] = b"lifeboat/v1/index";
pub(crate) const LABEL_MAP: &[u8] = b"lifeboat/v1/map";
pub(crate) const LABEL_GC: &[u8] = b"lifeboat/v1/gc";
const LABEL_MAC: &[u8] = b"lifeboat/v1/mac";
const LABEL_COMMIT: &[u8] = b"lifeboat/v1/commit";

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            /// The key with these bytes. The caller wipes its own copy.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
                Self(bytes)
            }

            /// The bytes, for wrapping them. Never to be logged or shown.
            #[must_use]
            pub const fn expose(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}

keys! {
    /// Encrypts the frames of one volume.
    DataKey;
    /// Keys the hashes of one volume's blocks, so that equal blocks of two volumes don't show as equal.
    HashKey;
    /// Encrypts and authenticates the indexes, maps and epochs of one group.
    GroupKey;
    /// Wraps every other key of a vault.
    MasterKey;
    /// Encrypts the local files of one gateway or agent.
    LocalKey;
}

/// The keys of one volume.
#[derive(Debug, Clone)]
pub struct VolumeKeys {
    /// Encrypts its frames.
    pub data: DataKey,
    /// Keys its block hashes.
    pub hash: HashKey,
}

/// HKDF-SHA256(ikm, salt, info) → 32 bytes.
#[must_use]
pub fn derive(ikm: &[u8; KEY_LEN], salt: &[u8], info: &[u8]) -> [u8; KEY_LEN] {
    let mut out = [0; KEY_LEN];
    let infos = [info];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(ikm)
        .expand(&infos, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF-SHA256 gives 32 bytes for every input");
    out
}

/// What an object stores to say, without betraying it, which group key sealed it.
#[must_use]
pub fn commitment(key: &GroupKey, salt: &Salt) -> [u8; KEY_LEN] {
    derive(key.expose(), salt, LABEL_COMMIT)
}

/// Compares a stored commitment with the key's, in constant time.
pub(crate) fn check_commitment(
    what: &'static str,
    key: &GroupKey,
    salt: &Salt,
    stored: &[u8; KEY_LEN],
) -> Result<(), FormatError> {
    constant_time::verify_slices_are_equal(&commitment(key, salt), stored).map_err(|_| FormatError::WrongKey { what })
}

/// The key that authenticates one object of a group.
pub(crate) fn mac_key(key: &GroupKey, salt: &Salt) -> hmac::Key {
    let mut bytes = derive(key.expose(), salt, LABEL_MAC);
    let mac = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
    bytes.zeroize();
    mac
}

/// An AES-256-GCM key of one object. Each number is used for one plaintext only: the caller's promise.
pub(crate) struct SealKey(aead::LessSafeKey);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    pub(crate) fn derive(ikm: &[u8; KEY_LEN], salt: &Salt, label: &[u8]) -> Self {
        let mut bytes = derive(ikm, salt, label);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &bytes).expect("AES-256-GCM takes every 32 bytes");
        bytes.zeroize();
        Self(aead::LessSafeKey::new(key))
    }

    /// Encrypts `plain` in place and appends the tag.
    pub(crate) fn seal(
        &self,
        what: &'static str,
        number: u64,
        aad: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        self.0
            .seal_in_place_append_tag(nonce(number), aead::Aad::from(aad), plain)
            .map_err(|_| FormatError::Refused { what, why: "it is too long to be encrypted" })
    }

    /// Decrypts what [`SealKey::seal`] gave.
    pub(crate) fn open(
        &self,
        what: &'static str,
        number: u64,
        aad: &[u8],
        stored: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        let mut buffer = stored.to_vec();
        let len = self
            .0
            .open_in_place(nonce(number), aead::Aad::from(aad), &mut buffer)
            .map_err(|_| FormatError::Authentication { what })?
            .len();
        buffer.truncate(len);
        Ok(buffer)
    }
}

/// The number as 96 bits, little-endian.
fn nonce(number: u64) -> aead::Nonce {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    aead::Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, 0, 0, 0, 0])
}
