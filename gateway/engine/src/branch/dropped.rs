//! Giving a branch up: its tenure ends, and what it holds becomes garbage.
//!
//! The fence comes first, so that no writer goes on; then the mark, which is for ever. A crash between the two leaves a
//! fenced branch that is still listed: giving it up again completes it.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_format::epoch::Purpose;
use lifeboat_format::gc::{BranchDrop, RECORD_LEN_MAX};
use lifeboat_model::{BranchId, GatewayId, GroupId};
use lifeboat_vault::{Vault, create_exact};

use super::{BranchLog, Claim, claim_epoch, complete_cuts, random};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::record_place;
use crate::segments::{Reader, ReaderLimits, names};

/// Gives up a branch that forked from another, such as that of a test failover: its writer is fenced, its points are no
/// longer offered, and its data is deleted in time, unless a branch that descends from it needs it. Again is fine.
///
/// # Errors
/// `NotFound` without such a branch, `Invalid` for a group's first branch, `Retry` when the vault can't be reached.
pub async fn drop_branch(vault: &Arc<Vault>, group: GroupId, branch: BranchId, gateway: GatewayId) -> Result<()> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let log = BranchLog::read(&reader, branch).await?;
    if log.origin().is_none() {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!("branch {branch} is where the group's history begins: delete the group to delete it"),
        ));
    }
    give_up(&reader, branch, gateway).await
}

pub(crate) async fn give_up(reader: &Reader, branch: BranchId, gateway: GatewayId) -> Result<()> {
    for _ in 0..64 {
        let log = BranchLog::read(reader, branch).await?;
        if log.dropped {
            return Ok(());
        }
        let fenced = log.epochs.last().is_some_and(|entry| entry.intent.purpose == Purpose::Fence);
        let claim = Claim { writer: gateway, purpose: Purpose::Fence, origin: None, promoted_to: None };
        if !fenced && claim_epoch(reader, branch, log.newest().next(), claim).await?.is_none() {
            continue;
        }
        let newest = BranchLog::read(reader, branch).await?.newest();
        complete_cuts(reader, branch, newest).await?;
        let key = names::dropped(reader.group(), branch);
        let drop = BranchDrop { branch, gateway, time: reader.vault().now() };
        let bytes = drop
            .encode(&record_place(reader, &key), random(reader.vault())?, reader.key())
            .map_err(|error| cause::object(&key, error))?;
        return match create_exact(&**reader.vault().store(), &key, Bytes::from(bytes)).await {
            // Somebody else gave it up at the same moment.
            Err(error) if !error.is_already_exists() => Err(cause::store(error)),
            Ok(_) | Err(_) => Ok(()),
        };
    }
    Err(EngineError::new(
        ErrorKind::Retry,
        format!(
            "branch {branch} was claimed by others 64 times while it was to be given up: stop the gateway that uses it"
        ),
    ))
}

/// Proves the mark.
pub(super) async fn check(reader: &Reader, branch: BranchId) -> Result<()> {
    let key = names::dropped(reader.group(), branch);
    let bytes = reader.small(&key, RECORD_LEN_MAX).await?;
    let found = BranchDrop::decode(&bytes, &record_place(reader, &key), reader.key());
    let found = found.map_err(|error| cause::object(&key, error))?;
    if found.branch == branch { Ok(()) } else { Err(cause::tampered(format!("{key} speaks of another branch"))) }
}
