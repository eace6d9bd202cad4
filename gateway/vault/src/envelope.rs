//! JSON documents that carry a MAC: readable by people, verified byte by byte by us.
//!
//! ```text
//! {"format_version":2,"master":1,"sum":"<16 bytes>","mac":"<32 bytes>","content":{…}}      bytes are base64
//! {"format_version":1,"mac":"<32 bytes>","content":{…}}                                    as first releases wrote it
//! ```
//! One content has one encoding: a document that decodes but isn't byte for byte what we would write is refused, so
//! every flipped byte is detected. The version is read before anything else, so that a document of a newer
//! version is refused as newer and not as damaged. `master` numbers the master key that `mac` is made with; in version 1
//! it is the first. `sum` needs no key: it tells a damaged document from a wrong key before a key is tried.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::secret::{Secret, mac, same};

/// The version of every document of the vault that this build writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// Documents without a number of a master key.
const VERSION_1: u32 = 1;

const LABEL_SUM: &[u8] = b"lifeboat/v2/sum";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeV1<'a> {
    format_version: u32,
    mac: Binary<32>,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format_version: u32,
    master: u32,
    sum: Binary<16>,
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
    fn mac(&self, version: u32, master: u32, key: &Secret, content: &str) -> [u8; 32] {
        let len = u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_le_bytes();
        let (object, content, number) = (self.key.as_bytes(), content.as_bytes(), master.to_le_bytes());
        match version {
            VERSION_1 => mac(key, &[self.label, &[0], &self.vault, &len, object, content]),
            _ => mac(key, &[self.label, &[2], &self.vault, &len, object, &number, content]),
        }
    }
}

/// A document whose shape is right and whose sum fits; nothing of it is proven yet.
pub(crate) struct Opened<'a> {
    /// Version of its format.
    pub(crate) version: u32,
    /// Number of the master key that it says it was sealed with.
    pub(crate) master: u32,
    mac: Binary<32>,
    content: &'a RawValue,
}

impl Opened<'_> {
    /// Whether it was sealed for this position with this key.
    pub(crate) fn verify(&self, position: &Position<'_>, key: &Secret) -> Result<(), VaultError> {
        let expected = position.mac(self.version, self.master, key, self.content.get());
        if same(&expected, &self.mac.0) {
            return Ok(());
        }
        Err(tampered(format!(
            "{} is not what Lifeboat wrote there: it was edited, swapped or damaged; restore the object",
            position.key
        )))
    }

    /// The content, which nothing vouches for before [`Self::verify`].
    pub(crate) fn content<T: DeserializeOwned>(&self, key: &str) -> Result<T, VaultError> {
        serde_json::from_str(self.content.get()).map_err(|error| unreadable(key, error))
    }
}

/// Encodes and authenticates; `key` is made of the master key with that number.
pub(crate) fn encode<T: Serialize>(
    content: &T,
    position: &Position<'_>,
    master: u32,
    key: &Secret,
    max_bytes: u64,
) -> Result<Bytes, VaultError> {
    let unwritable = |error: serde_json::Error| {
        invalid(format!("{} can't be written as JSON: {error}", position.key)).with_source(error)
    };
    let content = serde_json::value::to_raw_value(content).map_err(unwritable)?;
    let mac = Binary(position.mac(FORMAT_VERSION, master, key, content.get()));
    let sum = sum(position.key, master, content.get());
    let envelope = Envelope { format_version: FORMAT_VERSION, master, sum, mac, content: &content };
    let bytes = serde_json::to_vec(&envelope).map_err(unwritable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= max_bytes) {
        Ok(bytes.into())
    } else {
        let len = bytes.len();
        Err(invalid(format!("{} would have {len} bytes: at most {max_bytes} are allowed", position.key)))
    }
}

/// Refuses a document of a newer format, whatever else is in it.
fn version(bytes: &[u8], key: &str) -> Result<u32, VaultError> {
    match serde_json::from_slice::<Version>(bytes) {
        Ok(Version { format_version: version @ (VERSION_1 | FORMAT_VERSION) }) => Ok(version),
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
        Err(error) => Err(unreadable(key, error)),
    }
}

/// Takes a document apart and proves that it is undamaged, as far as that can be told without a key.
pub(crate) fn open<'a>(bytes: &'a [u8], key: &str) -> Result<Opened<'a>, VaultError> {
    let damaged = || tampered(format!("{key} was reformatted or damaged; restore the object"));
    let failed = |error| unreadable(key, error);
    if version(bytes, key)? == VERSION_1 {
        let envelope: EnvelopeV1<'a> = serde_json::from_slice(bytes).map_err(failed)?;
        if serde_json::to_vec(&envelope).map_err(failed)? != bytes {
            return Err(damaged());
        }
        return Ok(Opened { version: VERSION_1, master: 1, mac: envelope.mac, content: envelope.content });
    }
    let envelope: Envelope<'a> = serde_json::from_slice(bytes).map_err(failed)?;
    let Envelope { master, mac, content, .. } = envelope;
    let whole = serde_json::to_vec(&envelope).map_err(failed)? == bytes;
    if !whole || master == 0 || sum(key, master, content.get()) != envelope.sum {
        return Err(damaged());
    }
    Ok(Opened { version: FORMAT_VERSION, master, mac, content })
}

/// The first 16 bytes of SHA-256 over name, master key's number and content.
fn sum(key: &str, master: u32, content: &str) -> Binary<16> {
    let mut context = digest::Context::new(&digest::SHA256);
    let len = u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes();
    for part in [LABEL_SUM, &len, key.as_bytes(), &master.to_le_bytes(), content.as_bytes()] {
        context.update(part);
    }
    let mut out = [0; 16];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    Binary(out)
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

/// Bytes of any length, base64 in JSON. The document's limit bounds them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(de::Error::custom)
    }
}
