//! Approvals as the API shows them.

use lifeboat_api::{Approval, ApprovalSpec, ApprovalStatus};
use lifeboat_model::Timestamp;
use lifeboat_vault::{Document, VaultError};

use super::{id, spec};
use crate::records::{ApprovalRecord, ApprovalSpecRecord};
use crate::vaults::AttachedVault;

pub(crate) fn approval(attached: &AttachedVault, document: &Document) -> Result<Approval, VaultError> {
    let ApprovalSpecRecord { act, requested_by } = spec(document)?;
    let record: ApprovalRecord = document.status_as()?;
    Ok(Approval {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: ApprovalSpec { vault_id: attached.id(), name: document.name.clone(), act, requested_by },
        status: ApprovalStatus {
            state: record.state_at(Timestamp::now()),
            expires: record.expires,
            decided_by: record.decided_by,
            decided: record.decided,
            comment: record.comment,
        },
    })
}
