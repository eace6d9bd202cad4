//! Drills that run by themselves, and those whose last run is worth nothing any more.
//!
//! Any gateway of the plan's target site may begin a run. Its id is derived from the drill and from when the last one began, so
//! that two of them that begin it at once begin the same.

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{DrillSpec, PlanSpec};
use lifeboat_model::state::Health;
use lifeboat_model::{JobId, Timestamp};
use lifeboat_vault::Document;

use super::{ask, change_drill, derived};
use crate::context::{Context, Happening};
use crate::jobs;
use crate::records::{DrillRecord, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

/// When a drill is to run by itself next, by its schedule's interval alone.
pub(crate) fn next_run(drill: &Document, spec: &DrillSpec, record: &DrillRecord) -> Option<Timestamp> {
    let every = parse_duration(&spec.schedule.as_ref()?.every).ok()?;
    Some(record.begun.unwrap_or(drill.created).plus(every))
}

/// Begins the runs that are due here, and tells of those that expired.
pub(crate) async fn tick(context: &Context, attached: &AttachedVault) {
    let snapshot = attached.snapshot();
    let Some((own, _)) = context.own_gateway(attached).and_then(|own| view::site_of(&snapshot, own)) else { return };
    let now = Timestamp::now();
    for drill in snapshot.of(kind::DRILLS) {
        let Ok(spec) = drill.spec_as::<DrillSpec>() else { continue };
        let plan = snapshot.get(kind::PLANS, &spec.plan_id.to_string());
        let Some(plan) = plan.and_then(|plan| plan.spec_as::<PlanSpec>().ok()) else { continue };
        if plan.target_site_id != own {
            continue;
        }
        let record: DrillRecord = status(drill);
        tell_expiry(context, attached, drill, &spec, &record, now).await;
        if record.job.is_some() || next_run(drill, &spec, &record).is_none_or(|next| next > now) {
            continue;
        }
        if spec.schedule.as_ref().and_then(|schedule| schedule.hours().ok()).is_none_or(|hours| !hours.contains(now)) {
            continue;
        }
        // One gateway that runs no machines leaves it to the others.
        if plan.machines().next().is_some() && context.compute.is_none() {
            continue;
        }
        begin(context, attached, drill, &record, now).await;
    }
}

async fn begin(context: &Context, attached: &AttachedVault, drill: &Document, record: &DrillRecord, now: Timestamp) {
    let before = record.begun.map(|begun| begun.to_string()).unwrap_or_default();
    let id: JobId = derived(&[b"lifeboat/v1/scheduled-drill\0", drill.id.as_bytes(), b"\0", before.as_bytes()]);
    let begun = async {
        let (spec, steps) = ask::run(context, attached, drill, id, true).await?;
        jobs::begin(context, attached, id, spec, steps).await
    };
    if let Err(error) = begun.await {
        tracing::warn!(
            drill = drill.name,
            error = error.0.detail,
            "a drill that is due can't be run; it is tried again"
        );
        return;
    }
    let Ok(id) = view::id(drill) else { return };
    let noted = change_drill(attached, id, |drill| {
        let first = drill.begun.is_none_or(|begun| begun < now);
        if first {
            drill.begun = Some(now);
        }
        first
    });
    if let Err(error) = noted.await {
        tracing::debug!(drill = drill.name, %error, "the start of a drill can't be noted; its first step does");
    }
}

async fn tell_expiry(
    context: &Context,
    attached: &AttachedVault,
    drill: &Document,
    spec: &DrillSpec,
    record: &DrillRecord,
    now: Timestamp,
) {
    let Some(last) = record.runs.first().filter(|run| run.outcome.passed) else { return };
    let expired = view::drill_expires(spec, last).is_some_and(|expires| expires <= now);
    if !expired || record.expiry_told == Some(last.job_id) {
        return;
    }
    let Ok(id) = view::id(drill) else { return };
    let mut ours = false;
    let told = change_drill(attached, id, |record| {
        ours = record.expiry_told != Some(last.job_id);
        record.expiry_told = Some(last.job_id);
        ours
    });
    if told.await.is_ok() && ours {
        let message = format!(
            "the drill {} passed last on {}, which is worth nothing after {}: run it again",
            drill.name, last.finished, spec.valid_for
        );
        let event = Happening { severity: Health::Warning, kind: "drill.expired", message, ..Happening::default() };
        context.event(attached, event).await;
    }
}
