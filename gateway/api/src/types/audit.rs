//! The audit log: who asked a gateway for what.

use lifeboat_model::{Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Principal;

/// What a record of the audit log is about. More kinds follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    /// Somebody asked for something that changes something. Written down before it is done.
    Asked,
    /// How that was answered.
    Answered,
    /// Somebody asked for what its roles don't allow.
    Forbidden,
    /// Requests that were not let in: without a token, or with a wrong one.
    Refused,
    /// A gateway began to write its part of the log.
    Began,
    /// What a gateway had to leave out.
    LeftOut,
    /// An act that a second person had approved was begun.
    Approved,
}

/// A record of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// The chain that it stands in (a gateway's state directory), and its number there.
    pub id: String,
    /// The vault that keeps it.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// When it was written, by the gateway's clock.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The gateway that wrote it, by name.
    pub gateway: String,
    /// What it is about.
    pub kind: AuditKind,
    /// Who asked; absent for who wasn't let in.
    #[serde(default)]
    pub who: Option<Principal>,
    /// The address that the request came from.
    #[serde(default)]
    pub from: Option<String>,
    /// Method and path.
    #[serde(default)]
    pub what: Option<String>,
    /// The same in the records of one request.
    #[serde(default)]
    pub request: Option<String>,
    /// The answer's status; absent when the request was broken off.
    #[serde(default)]
    pub status: Option<u16>,
    /// The answer's problem code, for one that isn't a success.
    #[serde(default)]
    pub problem: Option<String>,
    /// More about it.
    #[serde(default)]
    pub detail: Option<String>,
}
