//! Collecting garbage at an interval: for each group that is active at this gateway, one collection at a time.
//!
//! A collection runs beside everything else and is given up when the process stops; the next one begins anew. What it did
//! is logged; what needs a person becomes an event, once for each cause. Only the instance that the catalog calls active
//! collects: a test failover's beside it doesn't.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_engine::ErrorKind;
use lifeboat_model::GroupId;
use lifeboat_model::state::{GroupState, Health};

use crate::context::{Context, Happening};
use crate::port::Instance;
use crate::records::{GroupRecord, kind, status};
use crate::vaults::AttachedVault;

/// Time between two collections of a group.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Time between finding garbage and deleting it: for readers that hold a point which was dropped meanwhile.
pub(crate) const GRACE: Duration = Duration::from_secs(24 * 3600);

/// When each group's turn is, and what was last complained of.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    turns: Mutex<HashMap<GroupId, Turn>>,
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

    /// Notes what is wrong, or that nothing is; whether it is news.
    fn complain(&self, group: GroupId, complaint: Option<&str>) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(turn) = turns.get_mut(&group) else { return false };
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
            let work = async move { collect(&held, &vault, group, &name, &*open.instance).await };
            context.tasks.spawn(context.stop.clone().run_until_cancelled_owned(work));
        }
    }
}

async fn collect(context: &Context, attached: &AttachedVault, group: GroupId, name: &str, instance: &dyn Instance) {
    let error = match instance.collect_garbage(GRACE, false).await {
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
                points = report.points,
                dropped_points = report.dropped_points,
                "garbage was collected"
            );
            if report.dropped_points > 0 {
                context.points.stale(group);
            }
            context.collections.complain(group, None);
            return;
        }
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::Retry | ErrorKind::Fenced | ErrorKind::Closed) {
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
        assert!(collections.complain(group, Some("damaged")));
        assert!(!collections.complain(group, Some("damaged")));
        assert!(collections.complain(group, Some("damaged elsewhere")));
        assert!(!collections.complain(group, None));
        assert!(collections.complain(group, Some("damaged")));
    }
}
