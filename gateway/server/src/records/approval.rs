//! Approvals in the catalog.

use lifeboat_api::{ApprovalState, Principal};
use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Spec of an approval's document; its name says what would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApprovalSpecRecord {
    /// Exactly what is approved.
    pub(crate) act: String,
    pub(crate) requested_by: Principal,
}

/// Status of an approval's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApprovalRecord {
    pub(crate) state: ApprovalState,
    /// Until when it can be decided, or used.
    pub(crate) expires: Timestamp,
    #[serde(default)]
    pub(crate) decided_by: Option<Principal>,
    #[serde(default)]
    pub(crate) decided: Option<Timestamp>,
    #[serde(default)]
    pub(crate) comment: String,
}

impl ApprovalRecord {
    /// Where it stands now: what waits for somebody too long has expired.
    pub(crate) fn state_at(&self, now: Timestamp) -> ApprovalState {
        match self.state {
            ApprovalState::Pending | ApprovalState::Approved if self.expires <= now => ApprovalState::Expired,
            state => state,
        }
    }
}
