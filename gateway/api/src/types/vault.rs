//! Vaults: where everything that recovery needs is kept.

use lifeboat_model::{Timestamp, VaultId, state::Health};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Secret, resource};

/// How the vault's master key is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeySourceKind {
    /// A passphrase, stretched with Argon2id.
    Passphrase,
    /// A file of at least 32 random bytes on the gateway, mode 0600 or stricter.
    KeyFile,
    /// A key in a key management service that the gateway can ask.
    Kms,
}

/// A request to create a vault in storage, or to attach the one that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultCreate {
    /// 1 to 64 characters.
    pub name: String,
    /// Where it is kept, as the gateway sees it: `file:///absolute/directory`, `s3://bucket/prefix`,
    /// `az://container/prefix`, `gs://bucket/prefix`.
    pub storage_url: String,
    /// Address of the storage service, where it isn't the provider's own: `https://host[:port][/path]`.
    #[serde(default)]
    pub storage_endpoint: Option<String>,
    /// Region of an S3 bucket.
    #[serde(default)]
    pub storage_region: Option<String>,
    /// Credentials of the storage service, by name (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_NAME`, …). Never read
    /// back. Those of the gateway's environment when absent.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub storage_credentials: Option<BTreeMap<String, Secret>>,
    /// `http://[user:password@]host:port` through which this gateway reaches the storage. Never read back. That of the
    /// gateway's environment (`HTTPS_PROXY`) when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub storage_proxy: Option<Secret>,
    /// What opens it.
    pub encryption: EncryptionKey,
    /// Days for which data is kept after it is deleted: 0 to 3650.
    #[serde(default = "default_soft_delete_days")]
    pub soft_delete_days: u32,
    /// How long what the vault holds can't be destroyed; no time when absent.
    #[serde(default)]
    pub immutability: Option<Immutability>,
    /// Whether what destroys needs a second person's approval.
    #[serde(default)]
    pub second_approval: bool,
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
    /// With `kms`: the key's name, such as `command:/absolute/path/of/a/program?key=NAME`, as the gateway reaches it.
    #[serde(default)]
    pub kms_key: Option<String>,
}

/// What a vault is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultSpec {
    /// Its name.
    pub name: String,
    /// Where it is kept, as the gateway that created it sees it.
    pub storage_url: String,
    /// Address of the storage service, where it isn't the provider's own.
    #[serde(default)]
    pub storage_endpoint: Option<String>,
    /// Region of an S3 bucket.
    #[serde(default)]
    pub storage_region: Option<String>,
    /// What opens it.
    pub encryption: EncryptionView,
    /// Days for which data is kept after it is deleted.
    pub soft_delete_days: u32,
    /// How long what the vault holds can't be destroyed; no time when absent.
    #[serde(default)]
    pub immutability: Option<Immutability>,
    /// Whether what destroys needs a second person's approval.
    #[serde(default)]
    pub second_approval: bool,
}

/// How firmly immutability holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImmutabilityMode {
    /// It can be shortened, and ended.
    Unlocked,
    /// It can only be made longer: by nobody it is ended.
    Locked,
}

impl ImmutabilityMode {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlocked => "unlocked",
            Self::Locked => "locked",
        }
    }
}

/// How long what the vault holds can't be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Immutability {
    /// How firmly.
    pub mode: ImmutabilityMode,
    /// Days for which whatever is deleted, or no longer kept by any schedule, stays in storage; and which every policy must keep
    /// recovery points for: 1 to 3650.
    pub days: u32,
}

impl Immutability {
    /// Its days.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        Duration::from_secs(self.days as u64 * 86_400)
    }
}

/// How a vault is encrypted, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncryptionView {
    /// Where the key comes from.
    pub key_source: KeySourceKind,
    /// With `key_file`: its path.
    #[serde(default)]
    pub key_file: Option<String>,
    /// With `kms`: the key's name.
    #[serde(default)]
    pub kms_key: Option<String>,
}

/// The ways to open a vault. No key and nothing that a key could be guessed from is among it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultKeys {
    /// The vault.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// Number of its master key: 1, and one more for each rotation.
    pub master_key: u32,
    /// Whether a rotation is still bringing objects under that key.
    pub rewrapping: bool,
    /// The slots; each of them opens the vault.
    pub slots: Vec<VaultKeySlot>,
}

/// One way to open a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultKeySlot {
    /// Its number, never used twice.
    pub slot: u32,
    /// `passphrase`, `key-file`, `kms`, or a kind that a newer version made.
    pub source: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

/// `:add-key`: another way to open the vault. One that opens it already changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddKeyRequest {
    /// The key, as this gateway reaches it.
    pub key: EncryptionKey,
    /// This gateway opens the vault with it from now on.
    #[serde(default)]
    pub r#use: bool,
}

/// `:remove-key`: a slot that opens the vault no more. One that was removed before changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveKeyRequest {
    /// Number of the slot.
    pub slot: u32,
}

/// `:verify-key`: which slots a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyKeyRequest {
    /// The key, as this gateway reaches it.
    pub key: EncryptionKey,
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifiedKey {
    /// Numbers of the slots; none if it isn't one of the vault's.
    pub slots: Vec<u32>,
}

/// `:rotate-key`: a new master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotateKeyRequest {
    /// Number of the master key to be replaced: a repeat then changes nothing.
    pub from: u32,
    /// The keys of the other slots. The one that this gateway uses is at hand.
    #[serde(default)]
    pub keys: Vec<EncryptionKey>,
    /// Slots whose key isn't given open the vault no more.
    #[serde(default)]
    pub drop_others: bool,
}

/// What a rotation of the master key did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotation {
    /// Number of the master key now.
    pub master_key: u32,
    /// Whether this request made that key, or found it there and finished what was left.
    pub made: bool,
    /// Slots that open the vault no more.
    pub dropped_slots: Vec<u32>,
    /// Volumes and groups whose keys were wrapped anew.
    pub rewrapped: u64,
    /// Documents that were sealed anew.
    pub resealed: u64,
    /// Key objects of before that the storage didn't delete: they stay readable with the old master key.
    pub left_behind: u64,
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
