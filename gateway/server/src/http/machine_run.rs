//! Looking at machines that run, and reaching them: asked of the gateway that runs them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use base64::Engine as _;
use lifeboat_api::{MachineLook, MachineSpec, ProblemCode, ReachAnswer, ReachRequest};
use lifeboat_compute::{ComputeError, Driver, ErrorKind, RunId, RunState};
use lifeboat_model::{GatewayId, GroupId, JobId, MachineId};
use serde_json::Value;

use super::Shared;
use super::body::{self, Query};
use super::error::{ApiError, ApiResult};
use crate::context::Context;
use crate::jobs::program::run_id;
use crate::records::{GatewayRecord, RecoveryRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};

const CONSOLE_BYTES: usize = 16 << 10;
const CONSOLE_BYTES_MAX: usize = 1 << 20;

impl From<ComputeError> for ApiError {
    fn from(error: ComputeError) -> Self {
        let code = match error.kind() {
            ErrorKind::Retry => ProblemCode::Unavailable,
            ErrorKind::Refused => ProblemCode::Conflict,
            ErrorKind::Fatal => ProblemCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// The run of a machine at this gateway, and what runs it.
async fn run_here(context: &Context, id: &str, test: Option<&str>) -> ApiResult<(Arc<dyn Driver>, RunId)> {
    let (attached, document) = context.require(kind::MACHINES, "machine", id).await?;
    let machine: MachineId = id.parse().map_err(|_| ApiError::not_found("machine", id))?;
    let test: Option<JobId> = test
        .map(|text| text.parse().map_err(|_| ApiError::field("test", format!("{text:?} is no job's id"))))
        .transpose()?;
    let snapshot = attached.snapshot();
    let gateway = match test {
        None => {
            let record: RecoveryRecord = status(&document);
            record.run.map(|run| run.gateway_id)
        }
        Some(test) => tests_gateway(&snapshot, test, document.spec_as::<MachineSpec>()?.group_id),
    };
    let gateway = gateway.ok_or_else(|| {
        let beyond = if test.is_some() { " in that test" } else { "; in a test it runs under the test's job" };
        ApiError::conflict(format!("no gateway runs the machine {}{beyond}", document.name))
    })?;
    if context.own_gateway(&attached) != Some(gateway) {
        return Err(elsewhere(&attached, &document.name, &gateway.to_string()));
    }
    let missing = || ApiError::conflict("this gateway runs no machines any more: start it with --compute");
    let driver = context.compute.clone().ok_or_else(missing)?;
    let run = run_id(machine, test).ok_or_else(|| ApiError::not_found("machine", id))?;
    Ok((driver, run))
}

/// The gateway that runs the machines of a group in a test.
fn tests_gateway(snapshot: &Snapshot, test: JobId, group: GroupId) -> Option<GatewayId> {
    let subjects = [kind::PLANS, kind::MACHINES].into_iter().flat_map(|kind| snapshot.of(kind));
    subjects
        .flat_map(|document| {
            let record: RecoveryRecord = status(document);
            record.tests
        })
        .find(|one| one.job == test)
        .map(|one| one.gateway_of(group))
}

fn elsewhere(attached: &AttachedVault, machine: &str, gateway: &str) -> ApiError {
    let document = attached.snapshot().get(kind::GATEWAYS, gateway).cloned();
    let name = document.as_ref().map_or(gateway, |document| document.name.as_str());
    let record: GatewayRecord = document.as_deref().map(status).unwrap_or_default();
    let at = record.addresses.first().map(|address| format!(" (https://{address})")).unwrap_or_default();
    ApiError::conflict(format!("the machine {machine} runs at the gateway {name}: ask that one{at}"))
}

pub(crate) async fn look(
    State(context): Shared,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Json<MachineLook>> {
    let query = Query::of(request.uri().query(), &["test", "console_bytes", "screen"])?;
    let bytes = query.parsed::<usize>("console_bytes")?.unwrap_or(CONSOLE_BYTES).min(CONSOLE_BYTES_MAX);
    let wants_screen = query.parsed::<bool>("screen")?.unwrap_or(false);
    let (driver, run) = run_here(&context, &id, query.text("test")).await?;
    let (state, reason) = match driver.state(&run).await? {
        RunState::Running => ("running", None),
        RunState::Paused { reason } => ("paused", Some(reason)),
        RunState::Stopped { how } => ("stopped", Some(how)),
        RunState::Absent => ("absent", None),
    };
    let console = driver.console(&run, bytes).await?;
    let screen = if wants_screen { driver.screen(&run).await? } else { None };
    Ok(Json(MachineLook {
        state: state.to_owned(),
        reason,
        console: String::from_utf8_lossy(&console).into_owned(),
        screen_png: screen.map(|png| base64::engine::general_purpose::STANDARD.encode(png)),
    }))
}

/// `:reach`.
pub(super) async fn reach(context: &Context, id: &str, body: &Value) -> ApiResult<Json<ReachAnswer>> {
    let wanted: ReachRequest = body::typed(body)?;
    let (driver, run) = run_here(context, id, wanted.test.as_deref()).await?;
    let address = driver.reach(&run, wanted.interface, wanted.port).await?;
    Ok(Json(ReachAnswer { address: address.to_string() }))
}
