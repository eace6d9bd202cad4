//! Copies of groups that are at home elsewhere by now: a failback took them to another gateway.
//!
//! The old home may have been lost then. When it is back it finds in the catalog that it was left: what it had not shipped goes to a
//! branch of its own, as with any gateway that was fenced, then its local files go; a disk that was adopted stays as it is. It is
//! tried again until it is done, and never while a job has the group.
//!
//! A gateway that was replaced doesn't give its copies up: they are shown as they were, for whoever wants to look into them. What it
//! had not shipped goes to a branch of its own all the same.

use std::sync::Arc;

use lifeboat_engine::EngineError;
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{BranchId, GatewayId, GroupId};
use lifeboat_vault::Document;

use super::{CLOSE_DEADLINE, place};
use crate::context::{Context, Happening};
use crate::jobs;
use crate::records::{GroupRecord, LeftRecord};
use crate::vaults::AttachedVault;
use crate::view;

/// Gives up the copies of a group that were left at this gateway.
pub(super) async fn give_up(
    context: &Arc<Context>,
    attached: &AttachedVault,
    group: GroupId,
    document: &Document,
    record: &GroupRecord,
    own: GatewayId,
) {
    if record.job.is_some() {
        return;
    }
    for left in record.left.iter().filter(|left| left.gateway == own && !left.shown) {
        let orphan = match leave(context, attached, group, left).await {
            Ok(orphan) => orphan,
            Err(error) => {
                tracing::warn!(%group, instance = left.instance, %error, "a copy that was left can't be given up yet");
                continue;
            }
        };
        let written = jobs::change_group_by_id(attached, group, |record| {
            let before = record.left.len();
            record.left.retain(|other| other != left);
            record.left.len() != before
        });
        if let Err(error) = written.await {
            tracing::debug!(%group, %error, "it can't be written down that a copy was given up; it is tried again");
            continue;
        }
        tell(context, attached, group, document, record, orphan, false).await;
    }
}

/// The instances that this gateway had when it was replaced.
pub(super) fn shown(record: &GroupRecord, own: GatewayId) -> impl Iterator<Item = String> {
    record.left.iter().filter(move |left| left.shown && left.gateway == own).map(|left| left.instance.clone())
}

/// Keeps in the vault what this gateway had not shipped when it was replaced.
pub(super) async fn keep(
    context: &Arc<Context>,
    attached: &AttachedVault,
    group: GroupId,
    document: &Document,
    record: &GroupRecord,
    own: GatewayId,
) {
    for left in record.left.iter().filter(|left| left.shown && !left.kept && left.gateway == own) {
        let Some(open) = context.instances.get(group, &left.instance) else { continue };
        let orphan = match open.instance.status().state {
            // It never stopped, or the vault was away when it started: it is to ask whether it was fenced.
            GroupState::Active => {
                open.instance.doubt();
                continue;
            }
            GroupState::Fenced => match open.instance.keep_unshipped().await {
                Ok(orphan) => orphan,
                Err(error) => {
                    tracing::warn!(%group, instance = left.instance, %error, "what wasn't shipped can't be kept yet");
                    continue;
                }
            },
            _ => continue,
        };
        let written = jobs::change_group_by_id(attached, group, |record| {
            let found = record.left.iter_mut().find(|other| *other == left);
            found.is_some_and(|found| !std::mem::replace(&mut found.kept, true))
        });
        if let Err(error) = written.await {
            tracing::debug!(%group, %error, "it can't be written down that a tail was kept; it is tried again");
            continue;
        }
        tell(context, attached, group, document, record, orphan, true).await;
    }
}

async fn leave(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    left: &LeftRecord,
) -> Result<Option<BranchId>, EngineError> {
    let lock = context.instances.lock(group);
    let _guard = lock.lock().await;
    if let Some(open) = context.instances.remove(&(group, left.instance.clone())) {
        open.instance.close(CLOSE_DEADLINE).await;
    }
    let dir = context.state.group(group).join(&left.instance);
    if !context.engine.exists(&dir) {
        return context.engine.forget(&dir).await.map(|()| None);
    }
    let place = place(context, attached, group, dir)
        .map_err(|error| EngineError::new(lifeboat_engine::ErrorKind::Retry, error.to_string()).with_source(error))?;
    context.engine.leave(place).await
}

async fn tell(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    document: &Document,
    record: &GroupRecord,
    orphan: Option<BranchId>,
    shown: bool,
) {
    let snapshot = attached.snapshot();
    let home = match &record.active {
        Some(active) if shown => Some(active.gateway),
        _ => view::home_of(record, &view::volumes_of(&snapshot, group)),
    };
    let name = home.and_then(|home| snapshot.get(crate::records::kind::GATEWAYS, &home.to_string()));
    let name = name.map_or_else(|| "another gateway".to_owned(), |home| format!("the gateway {}", home.name));
    let tail = match orphan {
        Some(branch) => format!("what it had not shipped is kept on the branch {branch}"),
        None => "everything that it had written is in the vault".to_owned(),
    };
    let message = match shown {
        true => format!(
            "the group {} is served by {name} since this gateway was replaced; it was fenced and shows the volumes as they were, for \
             reading only: {tail}",
            document.name
        ),
        false => format!(
            "the group {} is at home at {name} since a failback; this gateway was fenced and gave its copy up: {tail}",
            document.name
        ),
    };
    let severity = if orphan.is_some() { Health::Warning } else { Health::Healthy };
    let event = Happening { severity, kind: "group.left", message, group: Some(group), ..Happening::default() };
    context.event(attached, event).await;
}
