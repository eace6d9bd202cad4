//! The key that encrypts a gateway's local files: made at random once, kept wrapped beside them by what its operator gives at
//! each start.
//!
//! ```text
//! local.key   {"format_version":1,"id":…,"source":"passphrase"|"key-file"|"kms","kdf":…,"salt":…,"check":…,"nonce":…,"wrapped":…}
//! ```
//! Nothing of a vault is in it, and no vault needs it: who loses it loses this gateway's copies, and recovers from the vault.
//! Another passphrase wraps the same key anew; the files stay as they are. Derivations and bounds are those of a vault's key
//! slots.

use lifeboat_format::keys::LocalKey;
use lifeboat_model::VaultId;
use serde::{Deserialize, Serialize};

use crate::ambient::VaultOptions;
use crate::envelope::Binary;
use crate::error::{VaultError, VaultErrorKind, tampered};
use crate::kms::KmsContext;
use crate::secret::{
    Kdf, KeySource, LABEL_SLOT_CHECK, LABEL_SLOT_KEY, Secret, SourceWord, check_new_source, derive, new_slot_secret,
    same, slot_secret, unwrap, wrap,
};

const VERSION: u32 = 1;
/// More than any document of this kind has.
const BYTES_MAX: usize = 16_384;

#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format_version: u32,
    id: Binary<16>,
    source: SourceWord,
    kdf: Kdf,
    salt: Binary<32>,
    check: Binary<32>,
    nonce: Binary<12>,
    wrapped: Binary<48>,
}

impl Document {
    /// What a service binds a wrapped secret to. The id is no vault's: it is random, as vaults' ids are.
    const fn context(&self) -> KmsContext {
        KmsContext { vault: VaultId::from_bytes(self.id.0), slot: 0 }
    }

    fn aad(&self) -> Vec<u8> {
        [LABEL_SLOT_KEY, b"/local/", &self.id.0, self.source.as_str().as_bytes()].concat()
    }
}

/// Makes a local key: what to keep as `local.key`, and the key.
///
/// # Errors
/// `InvalidInput` for a source that is too weak or can't be read; what a service says.
pub async fn create_local_key(source: &KeySource, options: &VaultOptions) -> Result<(Vec<u8>, LocalKey), VaultError> {
    let mut key = Secret::default();
    options.entropy.fill(key.as_mut_slice())?;
    let document = wrapped(Binary(options.entropy.array()?), &key, source, options).await?;
    Ok((document, LocalKey::from_bytes(*key)))
}

/// Opens a local key with what its document, `local.key`, says that it opens with.
///
/// # Errors
/// `WrongKey` for another passphrase, file or kind of source; `Tampered` for a damaged document; `NewerFormat`.
pub async fn open_local_key(document: &[u8], source: &KeySource) -> Result<LocalKey, VaultError> {
    let (_, key) = opened(document, source).await?;
    Ok(LocalKey::from_bytes(*key))
}

/// The same key, to be opened with another source from now on: what to keep as `local.key` in place of the old one.
///
/// # Errors
/// As [`open_local_key`] and [`create_local_key`].
pub async fn rewrap_local_key(
    document: &[u8],
    old: &KeySource,
    new: &KeySource,
    options: &VaultOptions,
) -> Result<Vec<u8>, VaultError> {
    let (document, key) = opened(document, old).await?;
    wrapped(document.id, &key, new, options).await
}

async fn wrapped(
    id: Binary<16>,
    key: &Secret,
    source: &KeySource,
    options: &VaultOptions,
) -> Result<Vec<u8>, VaultError> {
    check_new_source(source)?;
    let (salt, nonce) = (options.entropy.array()?, options.entropy.array()?);
    let mut document = Document {
        format_version: VERSION,
        id,
        source: source.word(),
        kdf: Kdf::HkdfSha256 {},
        salt: Binary(salt),
        check: Binary([0; 32]),
        nonce: Binary(nonce),
        wrapped: Binary([0; 48]),
    };
    let (kdf, secret) = new_slot_secret(source, options.kdf, salt, document.context(), &options.entropy).await?;
    document.kdf = kdf;
    document.check = Binary(*derive(secret.as_slice(), &salt, &[LABEL_SLOT_CHECK]));
    let slot_key = derive(secret.as_slice(), &salt, &[LABEL_SLOT_KEY]);
    let wrapped = wrap(&slot_key, nonce, &document.aad(), key.as_slice())?;
    document.wrapped = Binary(wrapped.try_into().map_err(|_| tampered("the local key has a wrong length"))?);
    serde_json::to_vec(&document).map_err(|error| tampered("the local key can't be written").with_source(error))
}

async fn opened(document: &[u8], source: &KeySource) -> Result<(Document, Secret), VaultError> {
    let damaged = || {
        tampered("the local key (local.key) is damaged: restore it, or recover what this gateway held from the vault")
    };
    if document.len() > BYTES_MAX {
        return Err(damaged());
    }
    let Version { format_version } = serde_json::from_slice(document).map_err(|error| damaged().with_source(error))?;
    if format_version > VERSION {
        return Err(VaultError::new(
            VaultErrorKind::NewerFormat,
            format!("the local key (local.key) has format version {format_version}: install a newer Lifeboat"),
        ));
    }
    let document: Document = serde_json::from_slice(document).map_err(|error| damaged().with_source(error))?;
    let wrong = |why: String| {
        Err(VaultError::new(
            VaultErrorKind::WrongKey,
            format!("{why} does not open the local key (local.key): give what it was made with, or changed to since"),
        ))
    };
    let kind = |word: SourceWord| word.as_str().replace('-', " ");
    if source.word() != document.source {
        return wrong(format!("a {} is needed, and a {}", kind(document.source), kind(source.word())));
    }
    let salt = document.salt.0;
    let secret = slot_secret(source, &document.kdf, salt, document.context()).await?;
    if !same(derive(secret.as_slice(), &salt, &[LABEL_SLOT_CHECK]).as_slice(), &document.check.0) {
        return wrong(format!("this {}", kind(source.word())));
    }
    let slot_key = derive(secret.as_slice(), &salt, &[LABEL_SLOT_KEY]);
    let key = unwrap(&slot_key, document.nonce.0, &document.aad(), &document.wrapped.0).ok_or_else(damaged)?;
    let key: [u8; 32] = key.as_slice().try_into().map_err(|_| damaged())?;
    Ok((document, Secret::new(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> KeySource {
        KeySource::Passphrase(text.into())
    }

    #[tokio::test]
    async fn a_key_opens_with_its_source_until_it_is_changed() {
        let options = VaultOptions::for_tests();
        let (first, second) = (passphrase("correct horse"), passphrase("battery staple"));
        let (document, key) = create_local_key(&first, &options).await.unwrap();
        assert_eq!(open_local_key(&document, &first).await.unwrap().expose(), key.expose());
        assert_eq!(open_local_key(&document, &second).await.unwrap_err().kind(), VaultErrorKind::WrongKey);

        let changed = rewrap_local_key(&document, &first, &second, &options).await.unwrap();
        assert_eq!(open_local_key(&changed, &second).await.unwrap().expose(), key.expose());
        assert_eq!(open_local_key(&changed, &first).await.unwrap_err().kind(), VaultErrorKind::WrongKey);
        assert!(rewrap_local_key(&document, &second, &first, &options).await.is_err());
        assert!(rewrap_local_key(&document, &first, &passphrase("short"), &options).await.is_err());
    }

    #[tokio::test]
    async fn a_key_file_is_no_passphrase() {
        use std::os::unix::fs::PermissionsExt;
        let options = VaultOptions::for_tests();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [7; 64]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let source = KeySource::KeyFile(path);
        let (document, key) = create_local_key(&source, &options).await.unwrap();
        assert_eq!(open_local_key(&document, &source).await.unwrap().expose(), key.expose());
        let error = open_local_key(&document, &passphrase("correct horse")).await.unwrap_err();
        assert_eq!(error.kind(), VaultErrorKind::WrongKey);
        assert!(error.to_string().starts_with("a key file is needed, and a passphrase does not open"), "{error}");
    }

    /// Whatever is changed in the document, it never opens to another key.
    #[tokio::test]
    async fn a_changed_document_is_refused() {
        let source = passphrase("correct horse");
        let (document, key) = create_local_key(&source, &VaultOptions::for_tests()).await.unwrap();
        for at in 0..document.len() {
            let mut changed = document.clone();
            changed[at] ^= 1;
            match open_local_key(&changed, &source).await {
                Ok(found) => assert_eq!(found.expose(), key.expose(), "byte {at}"),
                Err(error) => assert!(!matches!(error.kind(), VaultErrorKind::Retry), "byte {at}: {error}"),
            }
        }
        for len in [0, 1, document.len() / 2, document.len() - 1] {
            assert!(open_local_key(&document[..len], &source).await.is_err());
        }
        let text = String::from_utf8(document).unwrap().replace("\"format_version\":1", "\"format_version\":2");
        assert_eq!(open_local_key(text.as_bytes(), &source).await.unwrap_err().kind(), VaultErrorKind::NewerFormat);
    }
}
