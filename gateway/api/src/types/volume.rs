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
    /// The gateway where it is at home. After a failback to another gateway it can be changed to that one, which only brings the
    /// declaration in line; else it cannot be changed.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// A multiple of 4096, at least 1 MiB, at most 64 TiB. It can grow, never shrink. Left out, or 0, with a `source`: its
    /// size.
    #[serde(default)]
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
    /// What the volume is made of; an empty volume without. Its path can be changed while the group is active elsewhere: the
    /// failback, with the mode `create`, builds the volume on the new disk, whatever that holds. Else it cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<VolumeSource>,
    /// Which other hosts may use it over the network, at the gateway that serves it; none when left out.
    #[serde(default)]
    pub export: Option<VolumeExport>,
}

/// Who may use a volume over the network, and by which protocol: one of them, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeExport {
    /// Over NBD with TLS.
    #[serde(default)]
    pub nbd: Option<NbdExport>,
    /// Over iSCSI.
    #[serde(default)]
    pub iscsi: Option<IscsiExport>,
}

/// Who may use a volume over NBD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NbdExport {
    /// Certificates, one PEM text each, 1 to 16: who shows one of them, or one that one of them signed, may use the volume and its
    /// recovery points.
    pub client_certificates: Vec<String>,
}

/// Who may use a volume over iSCSI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IscsiExport {
    /// Names of initiators, 1 to 64: `iqn.…`, `eui.…` or `naa.…`, in small letters.
    pub initiators: Vec<String>,
}

/// Where other hosts find a volume, as the gateway that serves it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportStatus {
    /// Its URL over NBD with TLS: `nbds://HOST:PORT/NAME`.
    pub nbd_url: Option<String>,
    /// The name of its target over iSCSI. It stays with the volume, whichever gateway serves it.
    pub iscsi_target: Option<String>,
    /// Where its target is: `HOST:PORT`.
    pub iscsi_portal: Option<String>,
    /// Why one of these is missing that was asked for.
    pub reasons: Vec<String>,
}

/// A disk image or block device that is adopted: it is the volume from then on, in place and with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeSource {
    /// Its absolute path on the machine of the volume's home gateway. Its size is a multiple of 4096; nothing else may have
    /// it open for writing or mounted. It is never deleted or made shorter, also not with the volume.
    pub path: String,
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
    /// Where it is served over NBD, at the gateway that serves it: its unix socket, or its TCP port on loopback.
    #[serde(default)]
    pub nbd_url: Option<String>,
    /// Where other hosts find it; nothing without an `export`, and until a gateway serves it.
    #[serde(default)]
    pub export: Option<ExportStatus>,
    /// The size that is served; smaller than the spec's until growing is done.
    pub size_bytes: Option<u64>,
    /// The gateway where it is at home: another one than is declared after a failback to that one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub home_gateway_id: Option<GatewayId>,
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

/// `:rotate-key`: a new data key, which new segments of the volume are encrypted under. The old ones go on reading what
/// was written under them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotateVolumeKeyRequest {
    /// Number of the data key that is to be followed: a repeat then makes no other. The newest when absent.
    #[serde(default)]
    pub from: Option<u32>,
}

/// The data key of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeKey {
    /// The volume.
    #[schema(value_type = String)]
    pub volume_id: VolumeId,
    /// Number of its newest data key.
    pub data_key: u32,
}

/// `:erase`: destroys all keys of a volume. Nobody can read any more what it held in the vault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EraseRequest {
    /// The volume's name; its id where the name isn't known any more.
    pub confirm: String,
    /// Also while it is declared: it goes on being written and loses its recovery points, now and from now on.
    #[serde(default)]
    pub force: bool,
}

/// What is left of a volume that was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeErasure {
    /// The volume.
    #[schema(value_type = String)]
    pub volume_id: VolumeId,
    /// When its keys were destroyed.
    #[schema(value_type = String, format = DateTime)]
    pub erased: Timestamp,
    /// By whom.
    pub by: String,
    /// Key objects that the storage didn't delete: under an object lock the volume is erased only once they are gone.
    pub left_behind: Vec<String>,
}
