//! Tokens as the API shows them: whose, what for, until when; never a secret or its hash.

use lifeboat_api::{Token, TokenSecret, TokenSpec, TokenStatus};
use lifeboat_model::Timestamp;
use lifeboat_vault::{Document, VaultError};

use super::{id, spec};
use crate::records::{TokenRecord, TokenSpecRecord, status};
use crate::vaults::AttachedVault;

pub(crate) fn token(attached: &AttachedVault, document: &Document) -> Result<Token, VaultError> {
    let declared = spec::<TokenSpecRecord>(document)?;
    let record: TokenRecord = status(document);
    let now = Timestamp::now();
    let secrets = record.secrets.iter().filter(|secret| !secret.is_over(now));
    Ok(Token {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: TokenSpec { vault_id: attached.id(), name: document.name.clone(), roles: declared.known_roles() },
        status: TokenStatus {
            expires: record.expires,
            expired: record.is_expired(now),
            last_used: record.last_used,
            created_by: declared.created_by,
            secrets: secrets.map(|secret| TokenSecret { created: secret.created, ends: secret.ends }).collect(),
        },
    })
}
