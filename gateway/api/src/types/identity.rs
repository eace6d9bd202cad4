//! Identities of machines: registration keys, enrolments, agents.

use lifeboat_model::{AgentId, GatewayId, RegistrationKeyId, SiteId, Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GatewayRole, Principal, Secret, resource};

/// What a machine is to be: an agent, or a gateway with roles. Nothing is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineRole {
    /// A mobility agent: sends what is written to disks of its own to a process server.
    Agent,
    /// A gateway that answers the API.
    ConfigurationServer,
    /// A gateway that ships writes to the vault.
    ProcessServer,
    /// A gateway that receives a failback.
    MasterTarget,
}

impl MachineRole {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Agent, Self::ConfigurationServer, Self::ProcessServer, Self::MasterTarget];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::ConfigurationServer => "configuration_server",
            Self::ProcessServer => "process_server",
            Self::MasterTarget => "master_target",
        }
    }

    /// All of them, for people.
    #[must_use]
    pub fn words() -> String {
        let gateways: Vec<&str> =
            Self::ALL.iter().filter(|role| **role != Self::Agent).map(|role| role.as_str()).collect();
        format!("agent, and for gateways {}", gateways.join(", "))
    }

    /// The role of a gateway; nothing for an agent.
    #[must_use]
    pub const fn of_gateway(self) -> Option<GatewayRole> {
        match self {
            Self::Agent => None,
            Self::ConfigurationServer => Some(GatewayRole::ConfigurationServer),
            Self::ProcessServer => Some(GatewayRole::ProcessServer),
            Self::MasterTarget => Some(GatewayRole::MasterTarget),
        }
    }
}

impl std::fmt::Display for MachineRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for MachineRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no role of a machine that enrols: there are {}", Self::words()))
    }
}

/// A registration key to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistrationKeyCreate {
    /// The site that the machine is at.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// What the machine is to be: `agent`, or one or several of `configuration_server`, `process_server` and `master_target` for a
    /// gateway.
    #[serde(default = "default_machine_roles")]
    pub roles: Vec<MachineRole>,
    /// What the key is for: 1 to 64 characters, not necessarily unique.
    #[serde(default = "default_registration_key_name")]
    pub name: String,
    /// How long it can be used, `1m` to `1h`.
    #[serde(default = "default_registration_key_ttl")]
    pub ttl: String,
}

/// What a machine is unless a key says otherwise.
#[must_use]
pub fn default_machine_roles() -> Vec<MachineRole> {
    vec![MachineRole::Agent]
}

/// What a key is for when nobody says.
#[must_use]
pub fn default_registration_key_name() -> String {
    "agent".to_owned()
}

/// How long a key can be used unless it is said otherwise.
#[must_use]
pub fn default_registration_key_ttl() -> String {
    "15m".to_owned()
}

/// A registration key as made. None of it can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistrationKeySpec {
    /// The vault that keeps it.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// The site that the machine is at.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// What it is for.
    pub name: String,
    /// What the machine is to be.
    pub roles: Vec<MachineRole>,
}

/// A registration key as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistrationKeyStatus {
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Whether it has ended.
    pub expired: bool,
    /// The agent that enrolled with it; absent as long as nobody did, and for a gateway's key.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub used_by: Option<AgentId>,
    /// The gateway that registered with it; absent as long as none did, and for an agent's key.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub used_by_gateway: Option<GatewayId>,
    /// When a machine used it up; absent as long as none did.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used: Option<Timestamp>,
    /// Who made it.
    #[serde(default)]
    pub created_by: Option<Principal>,
}

resource! {
    /// A registration key, without its secret.
    RegistrationKey, RegistrationKeyId, RegistrationKeySpec, RegistrationKeyStatus
}

/// A registration key that was just made. Its text stands here once and is kept nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewRegistrationKey {
    /// What it is.
    pub registration_key: RegistrationKey,
    /// What the machine enrols with, once.
    pub key: Secret,
}

/// `POST /v1/enrolments`: a machine becomes known. It needs no token: the registration key is what lets it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrolRequest {
    /// The text of the registration key.
    pub key: Secret,
    /// A request for a certificate, PEM: for a key of Ed25519 or ECDSA P-256, and asking for nothing else.
    pub csr: String,
    /// What people call the machine: 1 to 64 characters.
    pub name: String,
}

/// `POST /v1/agents/{id}:renew`: another certificate, asked for by the agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RenewCertificateRequest {
    /// A request for a certificate, PEM, for the agent's key.
    pub csr: String,
}

/// What a machine gets: its certificate, and what it believes gateways by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Enrolment {
    /// Who it is.
    pub agent: Agent,
    /// Its certificate, PEM.
    pub certificate: String,
    /// When that ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// The certificate of the vault's authority, PEM.
    pub authority: String,
}

/// A process server of a vault, as an agent is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KnownProcessServer {
    /// `host:port` at which agents reach it.
    pub address: String,
    /// Whether it stands at the site of the agent that asks.
    pub same_site: bool,
}

/// The process servers that an agent may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KnownProcessServers {
    /// Those that are heard of, the ones at the agent's own site first; 64 at most.
    pub servers: Vec<KnownProcessServer>,
}

/// An agent as it enrolled. None of it can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentSpec {
    /// The vault that knows it.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// The site that it is at.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// What people call it.
    pub name: String,
}

/// An agent as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentStatus {
    /// Serial number of its newest certificate, hexadecimal.
    pub serial: String,
    /// When that was signed.
    #[schema(value_type = String, format = DateTime)]
    pub signed: Timestamp,
    /// When that ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Whether that has ended: such an agent enrols anew.
    pub expired: bool,
    /// SHA-256 of its public key, hexadecimal.
    pub public_key: String,
}

resource! {
    /// A mobility agent: a machine that proves who it is by its certificate.
    Agent, AgentId, AgentSpec, AgentStatus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_a_machines_role_is_its_text() {
        for role in MachineRole::ALL {
            assert_eq!(serde_json::to_value(role).expect("a string"), role.as_str());
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<MachineRole>().expect_err("no role").contains("agent"));
    }
}
