//! What is asked of a drill, decided: whether it can be run here now, and its steps.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_api::validate::{format_duration, parse_duration};
use lifeboat_api::{
    AssertionType, DrillSpec, FailoverKind, GatewaySpec, PlanCleanupRequest, PlanFailoverRequest, PlanSpec,
};
use lifeboat_model::{DrillId, GatewayId, JobId};
use lifeboat_vault::Document;

use crate::context::Context;
use crate::http::error::{ApiError, ApiResult};
use crate::jobs;
use crate::jobs::program::ask::AskedOf;
use crate::records::{AnySpec, DrillJobSpec, DrillRecord, GatewayRecord, Step, StepRecord, Subject, kind, status};
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

/// The gateway that leads a run: this one, if it is of the plan's target site and can, else another there that can.
fn leader(context: &Context, attached: &AttachedVault, plan: &PlanSpec) -> ApiResult<GatewayId> {
    let snapshot = attached.snapshot();
    let needs_machines = plan.machines().next().is_some();
    let can = |document: &&Arc<Document>| {
        let record: GatewayRecord = status(document);
        document.spec_as::<GatewaySpec>().is_ok_and(|spec| spec.site_id == plan.target_site_id)
            && !record.agent
            && view::is_alive(&record, jobs::SILENCE)
            && (record.compute.is_some() || !needs_machines)
    };
    let able: Vec<GatewayId> =
        snapshot.of(kind::GATEWAYS).iter().filter(can).filter_map(|one| view::id(one).ok()).collect();
    let here = context.own_gateway(attached).filter(|own| able.contains(own));
    here.or(able.first().copied()).ok_or_else(|| {
        let site = view::site_name(&snapshot, plan.target_site_id).unwrap_or_else(|| plan.target_site_id.to_string());
        let with = if needs_machines { " that runs machines (--compute)" } else { "" };
        ApiError::conflict(format!(
            "no gateway of the site {site}{with} was heard of lately: start one with this vault"
        ))
    })
}

/// A run of a drill, if nothing that can be known here speaks against it.
pub(crate) async fn run(
    context: &Context,
    attached: &AttachedVault,
    drill: &Document,
    job: JobId,
    scheduled: bool,
) -> ApiResult<(AnySpec, Vec<StepRecord>)> {
    let spec: DrillSpec = drill.spec_as()?;
    let plan = plan_of(attached, &spec)?;
    let leader = leader(context, attached, &plan.spec_as()?)?;
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
    // What the leader would refuse is refused at once, where that is known.
    if context.own_gateway(attached) == Some(leader) {
        let asked = AskedOf::new(context, attached, &plan, Subject::Plan(spec.plan_id), super::test_job(job))?;
        asked.failover(&test_request(&spec)).await?;
    }
    let files = spec.assertion.iter().any(|one| one.kind == AssertionType::FileHash);
    let steps = [Step::TestPlan, Step::Assert]
        .into_iter()
        .chain(files.then_some(Step::HashFiles))
        .chain([Step::EndTest, Step::Attest])
        .map(|step| StepRecord::new(step, leader));
    let id: DrillId = view::id(drill)?;
    let decided =
        DrillJobSpec { drill: id, plan: spec.plan_id, plan_name: plan.name.clone(), gateway: leader, spec, scheduled };
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
