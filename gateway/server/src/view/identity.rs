//! Registration keys and agents as the API shows them: what for, until when, used by whom; never a text or its hash.

use lifeboat_api::{Agent, AgentSpec, AgentStatus, RegistrationKey, RegistrationKeySpec, RegistrationKeyStatus};
use lifeboat_model::{AgentId, GatewayId, RegistrationKeyId, Timestamp};
use lifeboat_vault::{Document, VaultError};

use super::{id, spec};
use crate::records::{AgentRecord, AgentSpecRecord, RegistrationKeyRecord, RegistrationKeySpecRecord, status};
use crate::vaults::AttachedVault;

/// The agent that enrols with a key. The same digits: a key makes one agent, whoever asks and however often.
pub(crate) fn agent_of(key: RegistrationKeyId) -> AgentId {
    AgentId::from_bytes(key.to_bytes())
}

/// The gateway that enrols with a key and isn't declared yet: the same digits, too.
pub(crate) fn gateway_of(key: RegistrationKeyId) -> GatewayId {
    GatewayId::from_bytes(key.to_bytes())
}

pub(crate) fn registration_key(attached: &AttachedVault, document: &Document) -> Result<RegistrationKey, VaultError> {
    let declared = spec::<RegistrationKeySpecRecord>(document)?;
    let record: RegistrationKeyRecord = status(document);
    let key: RegistrationKeyId = id(document)?;
    Ok(RegistrationKey {
        id: key,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: RegistrationKeySpec {
            vault_id: attached.id(),
            site_id: declared.site_id,
            name: document.name.clone(),
            roles: declared.known_roles(),
        },
        status: RegistrationKeyStatus {
            expires: record.expires.unwrap_or(document.created),
            expired: record.is_expired(Timestamp::now()),
            used_by: record.used.as_ref().filter(|used| used.gateway.is_none()).map(|_| agent_of(key)),
            used_by_gateway: record.used.as_ref().and_then(|used| used.gateway),
            used: record.used.map(|used| used.time),
            created_by: declared.created_by,
        },
    })
}

pub(crate) fn agent(attached: &AttachedVault, document: &Document) -> Result<Agent, VaultError> {
    let declared = spec::<AgentSpecRecord>(document)?;
    let record: AgentRecord = status(document);
    let certificate = record.certificate.as_ref();
    let expires = certificate.map_or(document.created, |signed| signed.expires);
    Ok(Agent {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: AgentSpec { vault_id: attached.id(), site_id: declared.site_id, name: document.name.clone() },
        status: AgentStatus {
            serial: certificate.map(|signed| signed.serial.clone()).unwrap_or_default(),
            signed: certificate.map_or(document.created, |signed| signed.signed),
            expires,
            expired: expires <= Timestamp::now(),
            public_key: record.public_key,
        },
    })
}
