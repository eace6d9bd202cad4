//! Machines: what boots from protected volumes, and where its interfaces are.

use lifeboat_model::{GroupId, JobId, MachineId, NetworkId, SiteId, VolumeId, state::Health};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MachineRun, PlanFailover, PlanTest, ProtectionState, resource};

/// A machine as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineSpec {
    /// The site where it is at home. Cannot be changed.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// Letters, digits, `.`, `_`, `-`, at most 63 characters; unique in the vault.
    pub name: String,
    /// The consistency group of all of its volumes. Cannot be changed.
    #[schema(value_type = String)]
    pub group_id: GroupId,
    /// Processors: 1 to 512.
    pub cpus: u32,
    /// Memory, MiB: 64 to 16777216.
    pub memory_mib: u64,
    /// What starts it.
    #[serde(default)]
    pub firmware: Firmware,
    /// Its disks, at least one, in the order in which the machine sees them.
    pub disk: Vec<MachineDisk>,
    /// Its interfaces, in the order in which the machine sees them.
    #[serde(default)]
    pub network_interface: Vec<NetworkInterface>,
    /// How it is different at another site; as at home when absent.
    #[serde(default)]
    pub target: Option<MachineTarget>,
}

/// What starts a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A boot sector.
    #[default]
    Bios,
    /// A program on a system partition.
    Uefi,
}

impl Firmware {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineDisk {
    /// The volume that it is: of the machine's group, and of no other machine.
    #[schema(value_type = String)]
    pub volume_id: VolumeId,
    /// Whether the machine boots from it. Of the disks one does: the one that says so, else the first that doesn't say no.
    #[serde(default)]
    pub boot: Option<bool>,
}

/// An interface of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkInterface {
    /// The network that it joins at home.
    #[schema(value_type = String)]
    pub network_id: NetworkId,
    /// Its hardware address, such as `52:54:00:12:34:56`, unique in the vault; one is given that stays the same when absent.
    #[serde(default)]
    pub mac: Option<String>,
    /// Its address at home, in a subnet of the network; unique there.
    #[serde(default)]
    pub address: Option<String>,
    /// Its address in tests, in a subnet of a network that tests join; unique there.
    #[serde(default)]
    pub test_address: Option<String>,
}

/// What a machine is at another site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineTarget {
    /// Processors: 1 to 512.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Memory, MiB: 64 to 16777216.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Machines that name the same are kept on different hosts, where the site has several gateways that run machines. 1 to 63
    /// letters, digits, `.`, `_` or `-`.
    #[serde(default)]
    pub anti_affinity_group: Option<String>,
}

impl MachineSpec {
    /// Which disk it boots from; `None` when it can't be said.
    #[must_use]
    pub fn boot_disk(&self) -> Option<usize> {
        let said = self.disk.iter().position(|disk| disk.boot == Some(true));
        said.or_else(|| self.disk.iter().position(|disk| disk.boot.is_none()))
    }
}

/// Where a machine or a plan stands, by the volumes that it needs. It says nothing of whether a machine runs: `run` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryState {
    /// A volume isn't protected yet, or setting it up failed.
    #[default]
    Unprotected,
    /// At home, shipped to the vault.
    Protected,
    /// Moving to another site.
    FailingOver,
    /// Active at another site, shipped to the vault from there.
    FailedOver,
    /// Moving back home.
    FailingBack,
    /// Some of it is at home and some elsewhere.
    Split,
}

impl RecoveryState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unprotected => "unprotected",
            Self::Protected => "protected",
            Self::FailingOver => "failing-over",
            Self::FailedOver => "failed-over",
            Self::FailingBack => "failing-back",
            Self::Split => "split",
        }
    }

    /// Of all that is needed: what isn't protected counts first, then what moves.
    #[must_use]
    pub fn of(parts: impl IntoIterator<Item = ProtectionState>) -> Self {
        let mut found: Vec<Self> = parts.into_iter().map(Self::from).collect();
        found.sort_unstable();
        found.dedup();
        let moving = [Self::FailingOver, Self::FailingBack].into_iter().find(|state| found.contains(state));
        match found.as_slice() {
            [] | [Self::Unprotected, ..] => Self::Unprotected,
            [one] => *one,
            _ => moving.unwrap_or(Self::Split),
        }
    }
}

impl From<ProtectionState> for RecoveryState {
    fn from(state: ProtectionState) -> Self {
        match state {
            ProtectionState::Pending
            | ProtectionState::Creating
            | ProtectionState::Deleting
            | ProtectionState::Failed => Self::Unprotected,
            ProtectionState::Protected => Self::Protected,
            ProtectionState::FailingOver => Self::FailingOver,
            ProtectionState::FailedOver => Self::FailedOver,
            ProtectionState::FailingBack => Self::FailingBack,
        }
    }
}

impl std::fmt::Display for RecoveryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A machine as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachineStatus {
    /// Where its volumes stand.
    pub state: RecoveryState,
    /// The site where they are active.
    #[schema(value_type = Option<String>)]
    pub active_site_id: Option<SiteId>,
    /// The name of that site.
    pub active_site: Option<String>,
    /// The health of its group, and its own.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy, and anything else worth knowing.
    pub reasons: Vec<String>,
    /// The hardware addresses of its interfaces, in their order, also those that were given.
    pub mac_addresses: Vec<String>,
    /// Where it runs, if one of our gateways runs it. A machine at home may well run without: on its own, or on a hypervisor.
    #[serde(default)]
    pub run: Option<MachineRun>,
    /// The job that has it, else the last one that failed.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
    /// The failover that it is in by itself, without a plan.
    #[serde(default)]
    pub failover: Option<PlanFailover>,
    /// Its own tests that weren't cleaned up yet.
    #[serde(default)]
    pub tests: Vec<PlanTest>,
}

resource! {
    /// A machine.
    Machine, MachineId, MachineSpec, MachineStatus
}

/// What a machine that runs is doing, as the gateway that runs it sees it: `GET /v1/machines/{id}/run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineLook {
    /// `running`, `paused`, `stopped` or `absent`.
    pub state: String,
    /// Why it stands still, or what ended it.
    pub reason: Option<String>,
    /// The end of its serial console, as text.
    pub console: String,
    /// What its screen shows: a PNG in base64. Absent unless it was asked for and there is one.
    pub screen_png: Option<String>,
}

/// `:reach` of a machine that runs: asks for an address at which a TCP port of it answers from its gateway's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReachRequest {
    /// The port.
    pub port: u16,
    /// Which interface, counted from 0.
    #[serde(default)]
    pub interface: usize,
    /// The job of the test that it runs in; its run outside tests when absent.
    #[serde(default)]
    pub test: Option<String>,
}

/// Where a port of a machine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReachAnswer {
    /// `address:port`, from the host of the gateway that runs it.
    pub address: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_that_of_everything_needed() {
        use ProtectionState as P;
        for (parts, state) in [
            (vec![], RecoveryState::Unprotected),
            (vec![P::Protected, P::Protected], RecoveryState::Protected),
            (vec![P::Protected, P::Creating], RecoveryState::Unprotected),
            (vec![P::Protected, P::FailedOver], RecoveryState::Split),
            (vec![P::FailingOver, P::FailedOver], RecoveryState::FailingOver),
            (vec![P::FailedOver, P::FailingBack], RecoveryState::FailingBack),
            (vec![P::FailedOver], RecoveryState::FailedOver),
        ] {
            assert_eq!(RecoveryState::of(parts.clone()), state, "{parts:?}");
        }
    }
}
