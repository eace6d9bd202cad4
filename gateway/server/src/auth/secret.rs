//! The text of a token: `lbt_<id, 32 hexadecimal digits>_<secret, 256 random bits in base64>`.
//!
//! The id says which document to look into; the hash is over the whole text, so that a secret is bound to its id. The
//! administrator's token has no id. Nothing here keeps, prints or logs a text.

use anyhow::Context;
use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lifeboat_api::Secret;
use lifeboat_model::TokenId;

/// SHA-256 of a token's text. 256 random bits need no slow hash.
pub(crate) type Hash = [u8; 32];

const BEGIN: &str = "lbt_";
const ID_DIGITS: usize = 32;
const SECRET_BYTES: usize = 32;

fn random() -> anyhow::Result<String> {
    let mut bytes = [0; SECRET_BYTES];
    rand::fill(&mut bytes).context("drawing a random token")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The text of an administrator's token.
pub(super) fn administrators() -> anyhow::Result<String> {
    Ok(format!("{BEGIN}{}", random()?))
}

/// A new text for the token with this id, and its hash.
pub(crate) fn fresh(id: TokenId) -> anyhow::Result<(Secret, String)> {
    let text = Secret::new(format!("{BEGIN}{}_{}", hex(&id.to_bytes()), random()?));
    let hash = hex(&hash(text.expose()));
    Ok((text, hash))
}

/// The id in the text of a token.
pub(super) fn id_of(token: &str) -> Option<TokenId> {
    let (id, secret) = token.strip_prefix(BEGIN)?.split_at_checked(ID_DIGITS)?;
    let secret = secret.strip_prefix('_')?;
    (URL_SAFE_NO_PAD.decode(secret).ok()?.len() == SECRET_BYTES).then_some(())?;
    format!("{}-{id}", TokenId::PREFIX).parse().ok()
}

pub(crate) fn hash(token: &str) -> Hash {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
