//! Sites and gateways: where volumes are served.

use lifeboat_model::{GatewayId, SiteId, Timestamp, VaultId, state::Health};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::resource;

/// A site as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteSpec {
    /// The vault it belongs to. Cannot be changed.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// 1 to 64 characters, unique in the vault. Cannot be changed.
    pub name: String,
    /// For people; at most 1024 characters.
    #[serde(default)]
    pub description: Option<String>,
}

/// A site as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteStatus {
    /// Its gateways.
    #[schema(value_type = Vec<String>)]
    pub gateway_ids: Vec<GatewayId>,
}

resource! {
    /// A place that can lose everything at once.
    Site, SiteId, SiteSpec, SiteStatus
}

/// What a gateway does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GatewayRole {
    /// Answers the API.
    ConfigurationServer,
    /// Ships writes to the vault.
    ProcessServer,
    /// Receives a failback.
    MasterTarget,
}

/// A gateway as declared. The process whose `--site` and `--name` match takes the declaration up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewaySpec {
    /// The site it stands in. Cannot be changed.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// The name that its process was started with; unique in the vault. Cannot be changed.
    pub name: String,
    /// What it does; all roles when absent.
    #[serde(default)]
    pub roles: Option<Vec<GatewayRole>>,
    /// Where it mounts its volumes, when its process wasn't started with `--mount`: an absolute path on the gateway.
    #[serde(default)]
    pub mount_path: Option<String>,
}

/// A gateway as observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayStatus {
    /// Whether a process has taken it up.
    pub registered: bool,
    /// Version of that process.
    pub version: Option<String>,
    /// Its health; `critical` when it wasn't heard of for two minutes.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy.
    pub reasons: Vec<String>,
    /// `host:port` at which its API answers.
    pub addresses: Vec<String>,
    /// When it last wrote to the vault; written about every 20 seconds.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// The process that took it up.
    pub process_id: Option<String>,
    /// Where it mounts its volumes.
    pub mount_path: Option<String>,
    /// What it runs machines with: `qemu` or `script`; absent where it runs none.
    #[serde(default)]
    pub compute: Option<String>,
    /// The public key (Ed25519, base64) that goes with the evidence of drills that it signs; absent until it signed one.
    #[serde(default)]
    pub evidence_key: Option<String>,
}

resource! {
    /// A gateway.
    Gateway, GatewayId, GatewaySpec, GatewayStatus
}
