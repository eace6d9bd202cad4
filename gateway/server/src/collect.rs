//! Collecting garbage at an interval: for each group that is active at this gateway, one collection at a time; and, once a day,
//! for groups that were deleted and were active here last.
//!
//! Deleting a group takes its declaration away, never its history: somebody may want it back, and nothing but a person's
//! say ends that. So all points of a deleted group stay, whatever its policy said; what goes is what nobody needs: what its
//! points don't need, what was erased, what is dead in sparse segments. It begins once the vault's time for bringing deleted
//! things back has passed.
//!
//! A collection runs beside everything else and is given up when the process stops; the next one begins anew. What it did
//! is logged; what needs a person becomes an event, once for each cause. Only the instance that the catalog calls active
//! collects: a test failover's beside it doesn't.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_engine::ErrorKind;
use lifeboat_engine::gc::{self, GcReport, GcSettings, Memory};
use lifeboat_engine::points::PointRetention;
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{GatewayId, GroupId, Timestamp, VaultId};
use lifeboat_vault::{Document, Vault};

use crate::context::{Context, Happening};
use crate::port::EngineResult;
use crate::records::{GroupRecord, kind, status};
use crate::vaults::AttachedVault;

/// Time between two collections of a group.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Time until a collection goes on that had more to rebuild than one run does.
const GOES_ON: Duration = Duration::from_secs(60);
/// Time between two collections of deleted groups.
const DELETED_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Time between finding garbage and deleting it: for readers that hold a point which was dropped meanwhile.
pub(crate) const GRACE: Duration = Duration::from_secs(24 * 3600);

/// When each group's turn is, and what was last complained of.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    turns: Mutex<HashMap<GroupId, Turn>>,
    /// When the deleted groups of each vault have their turn.
    deleted: Mutex<HashMap<VaultId, Instant>>,
}

#[derive(Debug)]
struct Turn {
    next: Instant,
    complaint: Option<String>,
}

impl Collections {
    /// Whether it is the group's turn; the next one is an interval later. A group's first turn is an interval after it was
    /// first seen, so that a gateway that restarts again and again doesn't collect each time.
    fn take_turn(&self, group: GroupId, now: Instant) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(group).or_insert_with(|| Turn { next: now + INTERVAL, complaint: None });
        let due = turn.next <= now;
        if due {
            turn.next = now + INTERVAL;
        }
        due
    }

    /// Whether it is the turn of a vault's deleted groups.
    fn take_turn_of_deleted(&self, vault: VaultId, now: Instant) -> bool {
        let mut turns = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let next = turns.entry(vault).or_insert_with(|| now + INTERVAL);
        let due = *next <= now;
        if due {
            *next = now + DELETED_INTERVAL;
        }
        due
    }

    /// There is more to do: the next turn comes soon.
    fn goes_on(&self, group: GroupId, now: Instant) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get_mut(&group) {
            turn.next = turn.next.min(now + GOES_ON);
        }
    }

    /// Notes what is wrong, or that nothing is; whether it is news.
    fn complain(&self, group: GroupId, complaint: Option<&str>) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(group).or_insert_with(|| Turn { next: Instant::now() + INTERVAL, complaint: None });
        let news = complaint.is_some() && turn.complaint.as_deref() != complaint;
        turn.complaint = complaint.map(str::to_owned);
        news
    }
}

/// Begins the collections whose turn it is.
pub(crate) fn begin_due(context: &Arc<Context>, attached: &Arc<AttachedVault>) {
    let Some(own) = context.own_gateway(attached) else { return };
    for document in attached.snapshot().of(kind::GROUPS) {
        let Ok(group) = document.id.parse::<GroupId>() else { continue };
        let record: GroupRecord = status(document);
        let Some(active) = record.active.filter(|active| active.gateway == own) else { continue };
        let Some(open) = context.instances.get(group, &active.instance) else { continue };
        let found = open.instance.status();
        if found.state != GroupState::Active || found.branch != active.branch {
            continue;
        }
        if context.collections.take_turn(group, Instant::now()) {
            let (held, vault, name) = (Arc::clone(context), Arc::clone(attached), document.name.clone());
            let grace = grace(attached);
            let work = async move {
                let outcome = open.instance.collect_garbage(grace, false).await;
                settle(&held, &vault, group, &name, outcome).await;
            };
            context.tasks.spawn(context.stop.clone().run_until_cancelled_owned(work));
        }
    }
    if context.collections.take_turn_of_deleted(attached.id(), Instant::now()) {
        let (held, vault) = (Arc::clone(context), Arc::clone(attached));
        let work = async move { collect_deleted(&held, &vault, own).await };
        context.tasks.spawn(context.stop.clone().run_until_cancelled_owned(work));
    }
}

/// Collects the garbage of groups that were deleted, one after the other.
async fn collect_deleted(context: &Context, attached: &AttachedVault, own: GatewayId) {
    let Ok(vault) = attached.vault().map(Arc::new) else { return };
    let deleted = match vault.catalog().list_deleted(kind::GROUPS).await {
        Ok(deleted) => deleted,
        Err(error) => {
            tracing::info!(vault = %attached.id(), %error, "the garbage of deleted groups is collected another time");
            return;
        }
    };
    let (now, days) = (vault.now(), vault.info().soft_delete_days);
    for document in deleted.iter().filter(|document| is_final(document, now, days)) {
        let Ok(group) = document.id.parse::<GroupId>() else { continue };
        let record: GroupRecord = status(document);
        if record.active.is_some_and(|active| active.gateway == own) {
            let outcome = collect_all_kept(&vault, group, grace(attached)).await;
            settle(context, attached, group, &document.name, outcome).await;
        }
    }
}

/// Whether a deleted document can't be brought back any more.
fn is_final(document: &Document, now: Timestamp, days: u32) -> bool {
    document.deleted && now.seconds_since(document.updated) >= f64::from(days) * 86_400.0
}

/// How long garbage stays before it is deleted: in an immutable vault, for its days.
fn grace(attached: &AttachedVault) -> Duration {
    let immutable = crate::approvals::immutability(attached).map(|immutability| immutability.duration());
    GRACE.max(immutable.unwrap_or_default())
}

async fn collect_all_kept(vault: &Arc<Vault>, group: GroupId, grace: Duration) -> EngineResult<GcReport> {
    let runner = gc::newest_tenure(vault, group).await?;
    let settings = GcSettings { retention: PointRetention::everything(), grace, ..GcSettings::default() };
    gc::run(vault, group, runner, &settings, &mut Memory::default()).await
}

/// Says what a collection did, or why it did nothing.
async fn settle(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    name: &str,
    outcome: EngineResult<GcReport>,
) {
    let error = match outcome {
        Ok(report) => {
            tracing::info!(
                group = name,
                total_bytes = report.total.bytes,
                needed_bytes = report.needed.bytes,
                deleted_objects = report.deleted.objects,
                deleted_bytes = report.deleted.bytes,
                doomed_objects = report.doomed.objects,
                waiting_objects = report.waiting.objects,
                rescued_objects = report.rescued.objects,
                denied_objects = report.denied.objects,
                rebuilt_segments = report.rebuilt.objects,
                rebuilt_bytes = report.rebuilt.bytes,
                points = report.points,
                dropped_points = report.dropped_points,
                "garbage was collected"
            );
            if report.dropped_points > 0 {
                context.points.stale(group);
            }
            if report.unfinished {
                context.collections.goes_on(group, Instant::now());
            }
            context.collections.complain(group, None);
            return;
        }
        Err(error) => error,
    };
    // A group that was deleted before anything was shipped has nothing to collect.
    let nothing =
        matches!(error.kind(), ErrorKind::Retry | ErrorKind::Fenced | ErrorKind::Closed | ErrorKind::NotFound);
    if nothing {
        tracing::info!(group = name, %error, "garbage is collected another time");
        return;
    }
    let message = format!("the garbage of the group {name} can't be collected, and nothing was deleted: {error}");
    if context.collections.complain(group, Some(&message)) {
        let event = Happening {
            severity: Health::Warning,
            kind: "group.garbage",
            message,
            group: Some(group),
            ..Happening::default()
        };
        context.event(attached, event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_turn_once_an_interval_and_one_complaint_for_each_cause() {
        let (collections, group) = (Collections::default(), GroupId::from_bytes([1; 16]));
        let start = Instant::now();
        assert!(!collections.take_turn(group, start));
        assert!(!collections.take_turn(group, start + INTERVAL / 2));
        assert!(collections.take_turn(group, start + INTERVAL));
        assert!(!collections.take_turn(group, start + INTERVAL + INTERVAL / 2));
        collections.goes_on(group, start + INTERVAL + INTERVAL / 2);
        assert!(collections.take_turn(group, start + INTERVAL + INTERVAL / 2 + GOES_ON));
        assert!(collections.complain(group, Some("damaged")));
        assert!(!collections.complain(group, Some("damaged")));
        assert!(collections.complain(group, Some("damaged elsewhere")));
        assert!(!collections.complain(group, None));
        assert!(collections.complain(group, Some("damaged")));
        let vault = VaultId::from_bytes([2; 16]);
        assert!(!collections.take_turn_of_deleted(vault, start));
        assert!(collections.take_turn_of_deleted(vault, start + INTERVAL));
        assert!(!collections.take_turn_of_deleted(vault, start + DELETED_INTERVAL));
    }

    #[test]
    fn a_deleted_group_is_left_alone_for_as_long_as_it_may_be_brought_back() {
        let at = |days: i64| Timestamp::from_micros(days * 86_400_000_000);
        let mut document = Document {
            kind: kind::GROUPS.to_owned(),
            id: GroupId::from_bytes([1; 16]).to_string(),
            revision: 2,
            generation: 2,
            name: "shop".to_owned(),
            created: at(1),
            updated: at(10),
            deleted: true,
            spec: serde_json::Value::Null,
            status: serde_json::Value::Null,
        };
        assert!(!is_final(&document, at(23), 14));
        assert!(is_final(&document, at(24), 14));
        assert!(is_final(&document, at(10), 0));
        document.deleted = false;
        assert!(!is_final(&document, at(1000), 14), "it isn't deleted");
    }
}
