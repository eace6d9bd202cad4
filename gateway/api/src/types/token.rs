//! Tokens: what people and programs show to be let in.

use lifeboat_model::{Timestamp, TokenId, VaultId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Principal, Role, Secret, resource};

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreate {
    /// The vault that keeps it: it is valid at every gateway that is attached to that vault. The only vault that is attached
    /// when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub vault_id: Option<VaultId>,
    /// Whose it is or what for: 1 to 64 characters, not necessarily unique.
    pub name: String,
    /// What it may do: at least one role.
    pub roles: Vec<Role>,
    /// How long it lives, `1m` to `3650d`; until it is deleted when absent.
    #[serde(default)]
    pub ttl: Option<String>,
}

/// A token as made. None of it can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenSpec {
    /// The vault that keeps it.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// Whose it is or what for.
    pub name: String,
    /// What it may do.
    pub roles: Vec<Role>,
}

/// A token as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenStatus {
    /// When it ends; never when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// Whether it has ended.
    pub expired: bool,
    /// When it was last used, to the hour; absent when it never was.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
    /// Who made it.
    #[serde(default)]
    pub created_by: Option<Principal>,
    /// Its secrets that still open the door, the newest first: one, and after a rotation the older ones until they end.
    pub secrets: Vec<TokenSecret>,
}

/// A secret of a token, without the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenSecret {
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When it ends since a newer one took its place; absent for the newest.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends: Option<Timestamp>,
}

resource! {
    /// A token, without its secret.
    Token, TokenId, TokenSpec, TokenStatus
}

/// A token that has just got a secret. The secret stands here once and is kept nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// What it is.
    pub token: Token,
    /// What to send after `Authorization: Bearer`.
    pub secret: Secret,
}

/// `POST /v1/tokens/{id}:rotate`: another secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotateTokenRequest {
    /// How long the old secrets stay valid: `0s` to `30d`.
    #[serde(default = "default_grace")]
    pub grace: String,
}

impl Default for RotateTokenRequest {
    fn default() -> Self {
        Self { grace: default_grace() }
    }
}

/// How long old secrets stay valid unless a rotation says otherwise.
#[must_use]
pub fn default_grace() -> String {
    "1h".to_owned()
}

/// `POST /v1/tokens/{id}:renew`: another end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RenewTokenRequest {
    /// How long it lives from now on: `1m` to `3650d`.
    pub ttl: String,
}
