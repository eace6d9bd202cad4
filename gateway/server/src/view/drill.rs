//! Drills: whether they fit to what else is declared, how the API shows them.

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{Drill, DrillRun, DrillSpec, DrillState, DrillStatus, FieldError, PlanSpec};
use lifeboat_model::{JobId, NetworkId, Timestamp};
use lifeboat_vault::{Document, VaultError};

use super::{declared_network, id, spec, status, volumes_of_plan};
use crate::jobs::drill::schedule;
use crate::records::{DrillRecord, RecoveryRecord, kind};
use crate::vaults::{AttachedVault, Snapshot};

/// What of a drill doesn't fit to its plan.
pub(crate) fn drill_misfits(snapshot: &Snapshot, spec: &DrillSpec) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    let fault = |field: String, message: String| FieldError { field, message };
    let plan = snapshot.get(kind::PLANS, &spec.plan_id.to_string());
    let Some(plan) = plan.and_then(|document| document.spec_as::<PlanSpec>().ok()) else {
        return vec![fault("plan_id".to_owned(), format!("there is no plan {}", spec.plan_id))];
    };
    if let Ok(network) = spec.network.parse::<NetworkId>() {
        match declared_network(snapshot, network) {
            None => wrong.push(fault("network".to_owned(), format!("there is no network {network}"))),
            Some(found) if found.site_id != plan.target_site_id => {
                let message = format!("must be a network of the plan's target site, and {} is of another", found.name);
                wrong.push(fault("network".to_owned(), message));
            }
            Some(_) => {}
        }
    }
    let volumes = volumes_of_plan(snapshot, &plan);
    for (index, one) in spec.assertion.iter().enumerate() {
        if let Some(machine) = one.machine_id
            && !plan.machines().any(|(_, _, member)| member == machine)
        {
            let message = format!("must be a machine of the plan {}", plan.name);
            wrong.push(fault(format!("assertion[{index}].machine_id"), message));
        }
        if let Some(volume) = one.volume_id
            && !volumes.iter().any(|(member, _)| *member == volume)
        {
            let message = format!("must be a volume of the plan {}", plan.name);
            wrong.push(fault(format!("assertion[{index}].volume_id"), message));
        }
    }
    wrong
}

/// The test of a drill that is up.
pub(crate) fn kept_test(snapshot: &Snapshot, spec: &DrillSpec, record: &DrillRecord) -> Option<JobId> {
    let plan: RecoveryRecord = status(snapshot.get(kind::PLANS, &spec.plan_id.to_string())?);
    record.test.filter(|test| plan.tests.iter().any(|one| one.job == *test))
}

/// When a run that passed is worth nothing any more.
pub(crate) fn drill_expires(spec: &DrillSpec, run: &DrillRun) -> Option<Timestamp> {
    let valid = parse_duration(&spec.valid_for).ok()?;
    run.outcome.passed.then(|| run.finished.plus(valid))
}

pub(crate) fn drill(attached: &AttachedVault, document: &Document) -> Result<Drill, VaultError> {
    let snapshot = attached.snapshot();
    let own: DrillSpec = spec(document)?;
    let record: DrillRecord = status(document);
    let expires = record.runs.first().and_then(|run| drill_expires(&own, run));
    let state = match (record.job, record.runs.first()) {
        (Some(_), _) => DrillState::Running,
        (None, None) => DrillState::NeverRun,
        (None, Some(_)) if expires.is_some_and(|expires| expires <= Timestamp::now()) => DrillState::Expired,
        (None, Some(run)) if run.outcome.passed => DrillState::Passed,
        (None, Some(_)) => DrillState::Failed,
    };
    Ok(Drill {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        status: DrillStatus {
            state,
            plan: snapshot.get(kind::PLANS, &own.plan_id.to_string()).map(|plan| plan.name.clone()),
            job_id: record.job.or(record.failed_job),
            expires,
            next_run: schedule::next_run(document, &own, &record),
            test_job_id: kept_test(&snapshot, &own, &record),
            runs: record.runs,
        },
        spec: own,
    })
}
