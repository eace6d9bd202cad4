//! Key slots: ways to a master key. Making one, and finding the one that a key opens.
//!
//! A slot's check is compared first, in constant time: it tells a key that is not this slot's from a slot that was
//! damaged, and nothing is decrypted with a wrong key.

use lifeboat_model::VaultId;

use super::document::{Content, Slot};
use crate::ambient::VaultOptions;
use crate::envelope::Binary;
use crate::error::{VaultError, VaultErrorKind, tampered};
use crate::kms::KmsContext;
use crate::secret::{
    KeySource, LABEL_SLOT_CHECK, LABEL_SLOT_KEY, Secret, derive, new_slot_secret, same, slot_secret, unwrap, wrap,
};

/// A slot with this number, through which `source` opens `master`.
pub(super) async fn new_slot(
    vault: VaultId,
    number: u32,
    source: &KeySource,
    master: &Secret,
    options: &VaultOptions,
) -> Result<Slot, VaultError> {
    let salt = options.entropy.array()?;
    let nonce = options.entropy.array()?;
    let context = KmsContext { vault, slot: number };
    let (kdf, secret) = new_slot_secret(source, options.kdf, salt, context, &options.entropy).await?;
    let mut slot = Slot {
        slot: number,
        source: source.word(),
        created: options.clock.now(),
        kdf,
        salt: Binary(salt),
        check: Binary(*derive(secret.as_slice(), &salt, &[LABEL_SLOT_CHECK])),
        nonce: Binary(nonce),
        wrapped: Binary([0; 48]),
    };
    let key = derive(secret.as_slice(), &salt, &[LABEL_SLOT_KEY]);
    let wrapped = wrap(&key, nonce, &slot_aad(vault, &slot), master.as_slice())?;
    slot.wrapped = Binary(wrapped.try_into().map_err(|_| tampered("a wrapped key has a wrong length"))?);
    Ok(slot)
}

fn slot_aad(vault: VaultId, slot: &Slot) -> Vec<u8> {
    [LABEL_SLOT_KEY, &vault.to_bytes(), &slot.slot.to_le_bytes(), slot.source.as_str().as_bytes()].concat()
}

/// The slots that a key opens, with the secret of each. Only a service that can't answer is an error; one that refuses a
/// slot holds another's.
pub(super) async fn opened_by(content: &Content, source: &KeySource) -> Result<Vec<(Slot, Secret)>, VaultError> {
    let (mut found, mut refused) = (Vec::new(), None);
    for slot in content.known_slots()?.into_iter().filter(|slot| slot.source == source.word()) {
        let context = KmsContext { vault: content.vault_id, slot: slot.slot };
        let secret = match slot_secret(source, &slot.kdf, slot.salt.0, context).await {
            Ok(secret) => secret,
            Err(error) if matches!(source, KeySource::Kms(_)) && error.kind() == VaultErrorKind::WrongKey => {
                refused = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let check = derive(secret.as_slice(), &slot.salt.0, &[LABEL_SLOT_CHECK]);
        if same(check.as_slice(), &slot.check.0) {
            found.push((slot, secret));
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// The newest master key, as the first slot that `source` opens has it, and the number of that slot.
pub(super) async fn unlock(content: &Content, source: &KeySource, url: &str) -> Result<(u32, Secret), VaultError> {
    let vault = content.vault_id;
    let Some((slot, secret)) = opened_by(content, source).await?.into_iter().next() else {
        return Err(does_not_open(content, source, url)?);
    };
    let slot_key = derive(secret.as_slice(), &slot.salt.0, &[LABEL_SLOT_KEY]);
    let opened = unwrap(&slot_key, slot.nonce.0, &slot_aad(vault, &slot), &slot.wrapped.0);
    match opened.and_then(|bytes| bytes.as_slice().try_into().ok()).map(Secret::new) {
        Some(master) => Ok((slot.slot, master)),
        None => Err(tampered(format!(
            "the key is right but the master key of {vault} in {url} does not open: the vault document was edited or \
             damaged; restore it"
        ))),
    }
}

fn does_not_open(content: &Content, source: &KeySource, url: &str) -> Result<VaultError, VaultError> {
    let heads = content.heads()?;
    let sources: Vec<_> = heads.iter().map(|head| head.source.as_str()).collect();
    let unknown: Vec<_> =
        sources.iter().filter(|word| crate::secret::SourceWord::of(word).is_none()).copied().collect();
    let more = match unknown.is_empty() {
        true => String::new(),
        false => format!("; this version of Lifeboat can't use {}: a newer one may", unknown.join(", ")),
    };
    Ok(VaultError::new(
        VaultErrorKind::WrongKey,
        format!(
            "this {} does not open the vault {:?} ({}) at {url}: give the right one; it opens with: {}{more}",
            source.word().as_str().replace('-', " "),
            content.name,
            content.vault_id,
            sources.join(", ").replace('-', " ")
        ),
    ))
}
