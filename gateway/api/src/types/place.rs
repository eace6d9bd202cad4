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

impl GatewayRole {
    /// All of them: what a gateway does that is declared without any.
    pub const ALL: [Self; 3] = [Self::ConfigurationServer, Self::ProcessServer, Self::MasterTarget];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationServer => "configuration_server",
            Self::ProcessServer => "process_server",
            Self::MasterTarget => "master_target",
        }
    }
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
    /// How it is doing as a process server of mobility agents; absent where it is none.
    #[serde(default)]
    pub process_server: Option<ProcessServerStatus>,
    /// The gateway that took its place; absent unless it was replaced.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub replaced_by: Option<GatewayId>,
}

/// How a process server is doing. Of the answering gateway as it is now; of another one as it was when that reported last, about every
/// 20 seconds and when its health changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessServerStatus {
    /// `host:port` at which agents reach it.
    pub address: String,
    /// The worst of what is measured below; what is too much stands in the guide to protecting a server.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy.
    pub reasons: Vec<String>,
    /// When the rest was measured.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub measured: Option<Timestamp>,
    /// Agents that stream to it.
    pub agents: u32,
    /// Share of its processors' time that was used in the last minute, whole percent.
    pub processor_percent: Option<u32>,
    /// Memory in use, without caches of files that can be dropped.
    pub memory_bytes_used: Option<u64>,
    /// Memory that there is: its control group's limit, or the machine's.
    pub memory_bytes_total: Option<u64>,
    /// Free on the file system of its state directory.
    pub disk_bytes_free: u64,
    /// Size of that file system.
    pub disk_bytes_total: u64,
    /// Records in its cache that are not in the vault yet.
    pub cache_bytes_used: u64,
    /// What its cache may take; beyond it agents wait.
    pub cache_bytes_limit: u64,
    /// Age of the oldest record in its cache that could be in the vault; absent while there is none. After a restart it counts from there.
    pub backlog_age_seconds: Option<u64>,
}

/// `:replace`: another gateway of the same site takes over what this one had, which is lost. Any gateway takes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplaceGatewayRequest {
    /// The gateway that takes its place: of the same site, with a process that has opened the vault.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// Also when the one that is replaced was heard of within the last minute. It is fenced: what it has acknowledged and not
    /// shipped stays with it.
    #[serde(default)]
    pub force: bool,
    /// Fetch everything from the vault, also what stands on disks which the lost gateway had adopted and which the new one sees.
    #[serde(default)]
    pub leave_disks: bool,
}

resource! {
    /// A gateway.
    Gateway, GatewayId, GatewaySpec, GatewayStatus
}
