//! Registration keys and agents in the catalog: the hash of a key, which public key used it, and never a secret.

use lifeboat_api::{GatewayRole, MachineRole, Principal};
use lifeboat_model::{GatewayId, SiteId, Timestamp};
use serde::{Deserialize, Serialize};

/// Spec of a registration key's document; its name is the document's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegistrationKeySpecRecord {
    pub(crate) site_id: SiteId,
    /// Words: one that this version doesn't know gives nothing.
    #[serde(default)]
    pub(crate) roles: Vec<String>,
    #[serde(default)]
    pub(crate) created_by: Option<Principal>,
}

impl RegistrationKeySpecRecord {
    /// The roles that this version knows.
    pub(crate) fn known_roles(&self) -> Vec<MachineRole> {
        self.roles.iter().filter_map(|word| word.parse().ok()).collect()
    }

    /// The roles of a gateway among them; none for an agent's key.
    pub(crate) fn gateway_roles(&self) -> Vec<GatewayRole> {
        self.known_roles().into_iter().filter_map(MachineRole::of_gateway).collect()
    }
}

/// Status of a registration key's document. That it was used stands here, so that the catalog decides between two who use it at
/// once, wherever they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RegistrationKeyRecord {
    /// SHA-256 over the whole text, in hexadecimal digits.
    pub(crate) hash: String,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) used: Option<UseRecord>,
}

impl RegistrationKeyRecord {
    /// Without an end it never began.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| end <= now)
    }
}

/// Who used a registration key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UseRecord {
    pub(crate) time: Timestamp,
    /// SHA-256 of the public key, in hexadecimal digits: the same one again is the same machine, which lost the answer.
    pub(crate) public_key: String,
    /// The gateway that it was used for; absent for an agent, whose id has the key's digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<GatewayId>,
}

/// Spec of an agent's document; its name is the document's, and its id has the digits of its registration key's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentSpecRecord {
    pub(crate) site_id: SiteId,
}

/// Status of an agent's document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AgentRecord {
    /// SHA-256 of its public key, in hexadecimal digits.
    pub(crate) public_key: String,
    /// The newest certificate.
    pub(crate) certificate: Option<CertificateRecord>,
}

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateRecord {
    pub(crate) serial: String,
    pub(crate) signed: Timestamp,
    pub(crate) expires: Timestamp,
}
