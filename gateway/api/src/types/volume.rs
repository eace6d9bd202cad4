//! Volumes.

use lifeboat_model::{GatewayId, GroupId, JobId, PointId, PolicyId, SiteId, Timestamp, VolumeId, state::Health};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ProtectionState, resource};

/// A volume as declared: in a group, or by itself under a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeSpec {
    /// Letters, digits, `.`, `_`, `-`, at most 63 characters; unique in the vault. Cannot be changed.
    pub name: String,
    /// The gateway where it is at home. Cannot be changed.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// A multiple of 4096, at least 1 MiB, at most 64 TiB. It can grow, never shrink.
    pub size_bytes: u64,
    /// The group it belongs to; this or `policy_id`. Cannot be changed.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub group_id: Option<GroupId>,
    /// The policy that governs it by itself; this or `group_id`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub policy_id: Option<PolicyId>,
    /// Local space that a recovery gateway may use for data fetched from the vault: 64 MiB to 64 TiB. Kept with the
    /// volume; gateways of this version use up to the volume's size.
    #[serde(default)]
    pub cache_bytes: Option<u64>,
}

/// A volume as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStatus {
    /// Where its group stands.
    pub state: ProtectionState,
    /// Its group, also when it has none of its own choosing.
    #[schema(value_type = Option<String>)]
    pub group_id: Option<GroupId>,
    /// Its file in the mount of the gateway that serves it.
    pub path: Option<String>,
    /// The size that is served; smaller than the spec's until growing is done.
    pub size_bytes: Option<u64>,
    /// The gateway that serves it.
    #[schema(value_type = Option<String>)]
    pub active_gateway_id: Option<GatewayId>,
    /// Its site.
    #[schema(value_type = Option<String>)]
    pub active_site_id: Option<SiteId>,
    /// The name of that site.
    pub active_site: Option<String>,
    /// Its health.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy, and anything else worth knowing.
    pub reasons: Vec<String>,
    /// Seconds of acknowledged writes that a disaster now would lose.
    pub landed_rpo_seconds: Option<f64>,
    /// Time of the newest recovery point in the vault.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub latest_recovery_point: Option<Timestamp>,
    /// That point's id.
    #[schema(value_type = Option<String>)]
    pub latest_recovery_point_id: Option<PointId>,
    /// The job that works on it now, or that failed last.
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
}

resource! {
    /// A protected volume.
    Volume, VolumeId, VolumeSpec, VolumeStatus
}
