//! JSON documents that carry a MAC: readable by people, verified byte by byte by us.
//!
//! ```text
//! {"format_version":1,"mac":"<base64 of 32 bytes>","content":{…}}
//! ```
//! One content has one encoding: a document that decodes but isn't byte for byte what we would write is refused, so
//! every flipped byte is detected. The version is read before anything else, so that a document of a newer
//! version is refused as newer and not as damaged.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::secret::{Secret, mac, same};

/// The version of every document of the vault that this build writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format_version: u32,
    mac: Binary<32>,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// What a MAC binds besides the content: the kind of document and where it stands.
pub(crate) struct Position<'a> {
    /// Separates kinds of documents.
    pub(crate) label: &'a [u8],
    /// Key of the object, which everything else follows from.
    pub(crate) key: &'a str,
    /// The vault's id.
    pub(crate) vault: [u8; 16],
}

impl Position<'_> {
    fn mac(&self, key: &Secret, content: &str) -> [u8; 32] {
        let len = u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_le_bytes();
        mac(key, &[self.label, &[0], &self.vault, &len, self.key.as_bytes(), content.as_bytes()])
    }
}

/// Encodes and authenticates.
pub(crate) fn encode<T: Serialize>(
    content: &T,
    position: &Position<'_>,
    key: &Secret,
    max_bytes: u64,
) -> Result<Bytes, VaultError> {
    let unwritable = |error: serde_json::Error| {
        invalid(format!("{} can't be written as JSON: {error}", position.key)).with_source(error)
    };
    let content = serde_json::value::to_raw_value(content).map_err(unwritable)?;
    let mac = Binary(position.mac(key, content.get()));
    let envelope = Envelope { format_version: FORMAT_VERSION, mac, content: &content };
    let bytes = serde_json::to_vec(&envelope).map_err(unwritable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= max_bytes) {
        Ok(bytes.into())
    } else {
        let len = bytes.len();
        Err(invalid(format!("{} would have {len} bytes: at most {max_bytes} are allowed", position.key)))
    }
}

/// Refuses a document of a newer format, whatever else is in it.
pub(crate) fn check_version(bytes: &[u8], key: &str) -> Result<(), VaultError> {
    match serde_json::from_slice::<Version>(bytes) {
        Ok(Version { format_version: FORMAT_VERSION }) => Ok(()),
        Ok(Version { format_version }) if format_version > FORMAT_VERSION => Err(VaultError::new(
            VaultErrorKind::NewerFormat,
            format!(
                "{key} has format version {format_version} and this build knows {FORMAT_VERSION}: \
                 nothing was changed; install a newer Lifeboat"
            ),
        )),
        Ok(Version { format_version }) => {
            Err(tampered(format!("{key} has format version {format_version}, which never existed; restore the object")))
        }
        Err(error) => {
            Err(tampered(format!("{key} is no document of Lifeboat: {error}; restore the object")).with_source(error))
        }
    }
}

/// Decodes without authenticating: for what has to be read before the key is known.
pub(crate) fn decode_unverified<T: DeserializeOwned>(bytes: &[u8], key: &str) -> Result<T, VaultError> {
    let content = open(bytes, key)?.content;
    serde_json::from_str(content.get()).map_err(|error| unreadable(key, error))
}

/// Verifies, then decodes.
pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    position: &Position<'_>,
    key: &Secret,
) -> Result<T, VaultError> {
    let envelope = open(bytes, position.key)?;
    if !same(&position.mac(key, envelope.content.get()), &envelope.mac.0) {
        return Err(tampered(format!(
            "{} is not what Lifeboat wrote there: it was edited, swapped or damaged; restore the object",
            position.key
        )));
    }
    serde_json::from_str(envelope.content.get()).map_err(|error| unreadable(position.key, error))
}

fn open<'a>(bytes: &'a [u8], key: &str) -> Result<Envelope<'a>, VaultError> {
    check_version(bytes, key)?;
    let envelope: Envelope<'a> = serde_json::from_slice(bytes).map_err(|error| unreadable(key, error))?;
    let again = serde_json::to_vec(&envelope).map_err(|error| unreadable(key, error))?;
    if again != bytes {
        return Err(tampered(format!("{key} was reformatted or damaged; restore the object")));
    }
    Ok(envelope)
}

fn unreadable(key: &str, error: serde_json::Error) -> VaultError {
    tampered(format!("{key} is no document of Lifeboat: {error}; restore the object")).with_source(error)
}

/// Fixed-size bytes, base64 in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binary<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> std::fmt::Debug for Binary<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl<const N: usize> Serialize for Binary<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Binary<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let bytes = bytes.try_into().map_err(|_| de::Error::custom(format!("expected {N} bytes in base64")))?;
        Ok(Self(bytes))
    }
}
