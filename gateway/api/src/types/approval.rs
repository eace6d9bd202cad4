//! Approvals: a second person's word for what destroys.

use lifeboat_model::{ApprovalId, Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Principal, resource};

/// What becomes of an approval. More states follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Somebody has asked, and nobody has decided.
    Pending,
    /// Granted: who asked can do it, once.
    Approved,
    /// Refused.
    Rejected,
    /// Granted, and done.
    Used,
    /// Not decided, or not used, in time.
    Expired,
}

impl ApprovalState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

/// What is to be approved. None of it can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalSpec {
    /// The vault that keeps it.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// What would be done, for people.
    pub name: String,
    /// The request, and what of its body matters: exactly this is approved.
    pub act: String,
    /// Who asked for it, and alone can do it then.
    pub requested_by: Principal,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalStatus {
    /// Where it stands.
    pub state: ApprovalState,
    /// Until when it can be decided, or used.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Who decided.
    #[serde(default)]
    pub decided_by: Option<Principal>,
    /// When.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub decided: Option<Timestamp>,
    /// What who decided said.
    #[serde(default)]
    pub comment: String,
}

resource! {
    /// An approval.
    Approval, ApprovalId, ApprovalSpec, ApprovalStatus
}

/// `POST /v1/approvals/{id}:approve` and `:reject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecideRequest {
    /// Why: up to 255 bytes.
    #[serde(default)]
    pub comment: String,
}
