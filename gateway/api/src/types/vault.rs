//! Vaults: where everything that recovery needs is kept.

use lifeboat_model::{VaultId, state::Health};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Secret, resource};

/// How the vault's master key is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeySourceKind {
    /// A passphrase, stretched with Argon2id.
    Passphrase,
    /// A file of at least 32 random bytes on the gateway, mode 0600 or stricter.
    KeyFile,
}

/// A request to create a vault in storage, or to attach the one that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultCreate {
    /// 1 to 64 characters.
    pub name: String,
    /// Where it is kept, as the gateway sees it: `file:///absolute/directory`.
    pub storage_url: String,
    /// What opens it.
    pub encryption: EncryptionKey,
    /// Days for which data is kept after it is deleted: 0 to 3650.
    #[serde(default = "default_soft_delete_days")]
    pub soft_delete_days: u32,
    /// Attach the vault that is there instead of creating one; the name and the settings are then the vault's own.
    #[serde(default)]
    pub attach: bool,
}

/// The key of a vault, as it is sent. It is never read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncryptionKey {
    /// Which of the fields below holds the key.
    pub key_source: KeySourceKind,
    /// With `passphrase`: at least 8 characters.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub passphrase: Option<Secret>,
    /// With `key_file`: absolute path on the gateway.
    #[serde(default)]
    pub key_file: Option<String>,
}

/// What a vault is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultSpec {
    /// Its name.
    pub name: String,
    /// Where it is kept, as the gateway that created it sees it.
    pub storage_url: String,
    /// What opens it.
    pub encryption: EncryptionView,
    /// Days for which data is kept after it is deleted.
    pub soft_delete_days: u32,
}

/// How a vault is encrypted, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncryptionView {
    /// Where the key comes from.
    pub key_source: KeySourceKind,
    /// With `key_file`: its path.
    #[serde(default)]
    pub key_file: Option<String>,
}

/// What the gateway that answers sees of a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultStatus {
    /// The vault's own id as it stands in storage.
    #[schema(value_type = String)]
    pub vault_uuid: VaultId,
    /// Version of the vault's format.
    pub format_version: u32,
    /// Whether it can be reached and is sound.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy.
    pub reasons: Vec<String>,
    /// Bytes that its objects take; absent until it was counted.
    pub bytes_stored: Option<u64>,
    /// Where this gateway finds it; may differ from `spec.storage_url`.
    pub attached_url: String,
}

resource! {
    /// A vault.
    Vault, VaultId, VaultSpec, VaultStatus
}

/// Default of `soft_delete_days`.
#[must_use]
pub const fn default_soft_delete_days() -> u32 {
    14
}
