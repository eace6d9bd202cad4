//! Tokens in the catalog: the hash of each secret, never a secret.

use lifeboat_api::{Principal, Role};
use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Spec of a token's document; its name is the document's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TokenSpecRecord {
    /// Words: one that this version doesn't know gives nothing.
    pub(crate) roles: Vec<String>,
    pub(crate) created_by: Option<Principal>,
}

impl TokenSpecRecord {
    /// The roles that this version knows.
    pub(crate) fn known_roles(&self) -> Vec<Role> {
        self.roles.iter().filter_map(|word| word.parse().ok()).collect()
    }
}

/// Status of a token's document. What changes is here and not in the spec, so that a revocation never fails since somebody
/// rotated the token or used it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TokenRecord {
    pub(crate) expires: Option<Timestamp>,
    pub(crate) last_used: Option<Timestamp>,
    /// The newest first.
    pub(crate) secrets: Vec<SecretRecord>,
}

impl TokenRecord {
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// One secret: SHA-256 over the whole text of the token, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SecretRecord {
    pub(crate) hash: String,
    pub(crate) created: Timestamp,
    #[serde(default)]
    pub(crate) ends: Option<Timestamp>,
}

impl SecretRecord {
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|end| end <= now)
    }
}
