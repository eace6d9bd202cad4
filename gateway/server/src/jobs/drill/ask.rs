//! What is asked of a drill, decided: whether it can be run here now, and its steps.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_api::validate::{format_duration, parse_duration};
use lifeboat_api::{AssertionType, DrillSpec, FailoverKind, PlanCleanupRequest, PlanFailoverRequest};
use lifeboat_model::{DrillId, JobId};
use lifeboat_vault::Document;

use crate::context::Context;
use crate::http::error::{ApiError, ApiResult};
use crate::jobs;
use crate::jobs::ask::own;
use crate::jobs::program::ask::AskedOf;
use crate::records::{AnySpec, DrillJobSpec, DrillRecord, Step, StepRecord, Subject, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

/// What a test may take beside its assertions before it is cleaned up, whatever became of its drill.
const MARGIN: Duration = Duration::from_secs(60 * 60);
/// How long a test that is kept is up.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How the plan of a drill is tested.
pub(super) fn test_request(spec: &DrillSpec) -> PlanFailoverRequest {
    let longest = spec.assertion.iter().filter_map(|one| parse_duration(&one.within).ok()).max().unwrap_or_default();
    let ttl = if spec.keep { KEPT } else { longest.saturating_add(MARGIN) };
    PlanFailoverRequest {
        kind: FailoverKind::Test,
        point: spec.point.clone(),
        ttl: format_duration(ttl),
        test_network_id: spec.network.parse().ok(),
    }
}

/// The plan of a drill.
fn plan_of(attached: &AttachedVault, spec: &DrillSpec) -> ApiResult<Arc<Document>> {
    let plan = attached.snapshot().get(kind::PLANS, &spec.plan_id.to_string()).cloned();
    plan.ok_or_else(|| ApiError::not_found("plan", &spec.plan_id.to_string()))
}

/// A run of a drill at this gateway, if nothing that can be known speaks against it.
pub(crate) async fn run(
    context: &Context,
    attached: &AttachedVault,
    drill: &Document,
    job: JobId,
    scheduled: bool,
) -> ApiResult<(AnySpec, Vec<StepRecord>)> {
    let here = own(context, attached)?;
    let spec: DrillSpec = drill.spec_as()?;
    let plan = plan_of(attached, &spec)?;
    let record: DrillRecord = status(drill);
    if let Some(test) = view::kept_test(&attached.snapshot(), &spec, &record) {
        return Err(ApiError::conflict(format!(
            "the test of the drill {} is still up ({test}): end it with `lifeboat drill cleanup {}`",
            drill.name, drill.name
        )));
    }
    let misfits = view::drill_misfits(&attached.snapshot(), &spec);
    if !misfits.is_empty() {
        return Err(misfits.into());
    }
    let asked = AskedOf::new(context, attached, &plan, Subject::Plan(spec.plan_id), super::test_job(job))?;
    asked.failover(&test_request(&spec)).await?;
    let files = spec.assertion.iter().any(|one| one.kind == AssertionType::FileHash);
    let steps = [Step::TestPlan, Step::Assert]
        .into_iter()
        .chain(files.then_some(Step::HashFiles))
        .chain([Step::EndTest, Step::Attest])
        .map(|step| StepRecord::new(step, here));
    let id: DrillId = view::id(drill)?;
    let decided =
        DrillJobSpec { drill: id, plan: spec.plan_id, plan_name: plan.name.clone(), gateway: here, spec, scheduled };
    Ok((AnySpec::Drill(Box::new(decided)), steps.collect()))
}

/// The end of a test that was kept: a job of the plan.
pub(crate) async fn cleanup(
    context: &Context,
    attached: &AttachedVault,
    drill: &Document,
    job: JobId,
    mut wanted: PlanCleanupRequest,
) -> ApiResult<Arc<Document>> {
    let spec: DrillSpec = drill.spec_as()?;
    let record: DrillRecord = status(drill);
    let Some(test) = view::kept_test(&attached.snapshot(), &spec, &record) else {
        return Err(ApiError::conflict(format!("the drill {} has no test that is up", drill.name)));
    };
    if let Some(job) = record.job {
        return Err(ApiError::conflict(format!("the drill {} runs ({job}): wait for it, or cancel it", drill.name)));
    }
    let plan = plan_of(attached, &spec)?;
    let asked = AskedOf::new(context, attached, &plan, Subject::Plan(spec.plan_id), job)?;
    wanted.notes.get_or_insert_with(|| format!("the drill {}", drill.name));
    let (spec, steps) = asked.cleanup(&wanted, Some(test))?;
    jobs::begin(context, attached, job, AnySpec::Program(Box::new(spec)), steps).await
}
