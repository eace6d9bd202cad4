//! Registration of gateways: how one that has no vault yet becomes known, and what it is told.

use std::collections::BTreeMap;

use lifeboat_model::{GatewayId, SiteId, Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EncryptionKey, EncryptionView, Secret};

/// `POST /v1/gateway-enrolments`: a gateway becomes known at one that has the vault. It needs no token: the registration key is
/// what lets it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayEnrolRequest {
    /// The text of the registration key.
    pub key: Secret,
    /// A request for a certificate, PEM: it proves who asks again. No certificate is signed for it.
    pub csr: String,
    /// The name that its process was started with: 1 to 63 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// The name of the site that its process was started with; any when absent.
    #[serde(default)]
    pub site: Option<String>,
    /// Identity of the process; kept in its state directory.
    pub process_id: String,
    /// Version of the process.
    pub version: String,
    /// `address:port` of its API.
    #[serde(default)]
    pub address: Option<String>,
    /// What its clock shows.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
}

/// Where a vault is, without anything that opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultPlace {
    /// Which vault.
    #[schema(value_type = String)]
    pub id: VaultId,
    /// Its name.
    pub name: String,
    /// Where it is kept, as the gateway that says so reaches it.
    pub storage_url: String,
    /// Address of the storage service, where it isn't the provider's own.
    #[serde(default)]
    pub storage_endpoint: Option<String>,
    /// Region of an S3 bucket.
    #[serde(default)]
    pub storage_region: Option<String>,
    /// What opens it at the gateway that says so: the kind of key, the path of its file or its name, and never the key.
    pub encryption: EncryptionView,
}

/// What a gateway that enrolled is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayEnrolment {
    /// Its declaration, which was there or was made.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// Its name there.
    pub name: String,
    /// Its site.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// That site's name.
    pub site: String,
    /// Where the vault is.
    pub vault: VaultPlace,
    /// The certificate of the vault's authority, PEM.
    pub authority: String,
}

/// `POST /v1/registration`: has the gateway that is asked register itself at another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisterRequest {
    /// Gateways that have the vault, `https://host:port`, tried in order.
    pub endpoints: Vec<String>,
    /// The text of the registration key.
    pub key: Secret,
    /// What opens the vault; what the gateway was started with, or what opens it elsewhere and is here too, when absent.
    #[serde(default)]
    pub vault_key: Option<EncryptionKey>,
    /// Credentials of the storage service, by name. Never read back. Those of the gateway's environment when absent.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub storage_credentials: Option<BTreeMap<String, Secret>>,
}

/// How far a gateway's registration by key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationState {
    /// None was asked for.
    NotAsked,
    /// It was asked for, and is tried again by itself.
    Enrolling,
    /// It was refused: another key is needed, or what `message` says.
    Refused,
    /// The vault knows the gateway, which can't open it yet.
    WaitingForVault,
    /// The vault is attached.
    Registered,
}

impl RegistrationState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Enrolling => "enrolling",
            Self::Refused => "refused",
            Self::WaitingForVault => "waiting_for_vault",
            Self::Registered => "registered",
        }
    }
}

/// A gateway's registration by key, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Registration {
    /// How far it is.
    pub state: RegistrationState,
    /// The same for people: what it waits for, and what to do.
    pub message: String,
    /// The gateway's declaration, once it is known.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub gateway_id: Option<GatewayId>,
    /// The name of its site, once it is known.
    #[serde(default)]
    pub site: Option<String>,
    /// Where the vault is, once it is known.
    #[serde(default)]
    pub vault: Option<VaultPlace>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_a_state_is_its_text() {
        use RegistrationState::{Enrolling, NotAsked, Refused, Registered, WaitingForVault};
        for state in [NotAsked, Enrolling, Refused, WaitingForVault, Registered] {
            assert_eq!(serde_json::to_value(state).expect("a string"), state.as_str());
        }
    }
}
