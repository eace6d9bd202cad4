//! Reads that are no resources: points, jobs, events, protection status, the gateway's report.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use http::Uri;
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{
    Event, GatewayReport, Job, Page, Point, PointVolume, ProblemCode, ProtectionHistory, ProtectionStatus, Resource,
};
use lifeboat_model::state::JobState;
use lifeboat_model::{BranchId, EventId, GroupId, PointKind, Timestamp, VolumeId};
use lifeboat_vault::{Document, VaultError};

use super::Shared;
use super::body::{PAGING, Query, page};
use super::error::{ApiError, ApiResult};
use crate::context::Context;
use crate::insight;
use crate::jobs;
use crate::port::PointFact;
use crate::records::{AnySpec, EventRecord, GroupRecord, JobRecord, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

/// Longest wait for a job to change.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often other gateways' changes are looked for while waiting.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How often, and with what pause, a job's group is looked at before the job is told to be over.
const SETTLE_LOOKS: u32 = 100;
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) async fn report(State(context): Shared) -> Json<GatewayReport> {
    Json(view::report(&context))
}

/// The objects of a kind in all vaults, of one name where the query has one.
pub(super) async fn listed<V: Resource>(
    context: &Context,
    query: Option<&str>,
    kind: &str,
    view: fn(&AttachedVault, &Document) -> Result<V, VaultError>,
) -> ApiResult<Json<Page<V>>> {
    let query = Query::of(query, &[PAGING[0], PAGING[1], "name"])?;
    let mut found = Vec::new();
    for attached in context.vaults.all() {
        // A list that lacks a whole vault would read as if everything in it were gone.
        if !attached.snapshot().is_read() {
            attached.refresh().await?;
        }
        for document in attached.snapshot().of(kind) {
            if query.text("name").is_none_or(|name| name == document.name) {
                found.push(view(&attached, document)?);
            }
        }
    }
    page(&query, found, V::id).map(Json)
}

/// The group that a query names, and where it is.
pub(super) async fn group_of(
    context: &Context,
    query: &Query,
) -> ApiResult<(std::sync::Arc<crate::vaults::AttachedVault>, GroupId, std::sync::Arc<Document>)> {
    let text = query
        .text("group")
        .ok_or_else(|| ApiError::new(ProblemCode::Malformed, "the parameter `group` is required: a group's id"))?;
    let (attached, document) = context.require(kind::GROUPS, "group", text).await?;
    let id = view::id(&document)?;
    Ok((attached, id, document))
}

pub(crate) async fn points(State(context): Shared, request: Request) -> ApiResult<Json<Page<Point>>> {
    let known = [PAGING[0], PAGING[1], "group", "branch", "from", "to", "kind"];
    let query = Query::of(request.uri().query(), &known)?;
    let (attached, group, document) = group_of(&context, &query).await?;
    let record: GroupRecord = status(&document);
    let branch = query.parsed::<BranchId>("branch")?.or(record.active.map(|active| active.branch));
    let (from, to) = (query.parsed::<Timestamp>("from")?, query.parsed::<Timestamp>("to")?);
    let wanted = query
        .text("kind")
        .map(|text| {
            [PointKind::CrashConsistent, PointKind::AppConsistent, PointKind::Manual, PointKind::Final]
                .into_iter()
                .find(|kind| kind.as_str() == text)
                .ok_or_else(|| {
                    ApiError::new(
                        ProblemCode::Malformed,
                        "kind: must be crash-consistent, app-consistent, manual or final",
                    )
                })
        })
        .transpose()?;
    let Some(branch) = branch else { return Ok(Json(Page { items: Vec::new(), next_page_token: None })) };
    let vault = attached.vault()?;
    let list = context.points.list(context.engine.as_ref(), &vault, group, branch).await?;
    let points: Vec<Point> = list
        .iter()
        .rev()
        .filter(|point| from.is_none_or(|from| point.time >= from) && to.is_none_or(|to| point.time <= to))
        .filter(|point| wanted.is_none_or(|kind| point.kind == kind))
        .map(|point| view::point(&context, group, &document.name, point))
        .collect();
    page(&query, points, |point| point.id.to_string()).map(Json)
}

pub(crate) async fn point(State(context): Shared, Path(id): Path<String>, uri: Uri) -> ApiResult<Json<Point>> {
    let query = Query::of(uri.query(), &["group", "branch"])?;
    let (attached, group, document) = group_of(&context, &query).await?;
    let record: GroupRecord = status(&document);
    let branch = query
        .parsed::<BranchId>("branch")?
        .or(record.active.map(|active| active.branch))
        .ok_or_else(|| ApiError::not_found("recovery point", &id))?;
    let vault = attached.vault()?;
    let mut list = context.points.list(context.engine.as_ref(), &vault, group, branch).await?;
    let is_it = |point: &PointFact| point.id.to_string() == id;
    if !list.iter().any(is_it) {
        // The list may be older than the point, which another gateway has taken.
        context.points.stale(group);
        list = context.points.list(context.engine.as_ref(), &vault, group, branch).await?;
    }
    let found = list.iter().find(|point| is_it(point));
    let found = found.ok_or_else(|| ApiError::not_found("recovery point", &id))?;
    let tree = context.points.view(context.engine.as_ref(), &vault, group, found).await?;
    let snapshot = attached.snapshot();
    let mut shown = view::point(&context, group, &document.name, found);
    let written: HashMap<VolumeId, _> = insight::before(&context, &vault, group, found).await?.into_iter().collect();
    let erased = tree.erased().into_iter().map(|volume| (volume, 0, None, true));
    shown.volumes = Some(
        tree.volumes()
            .into_iter()
            .map(|(volume, size_bytes, root)| (volume, size_bytes, root, false))
            .chain(erased)
            .map(|(volume, size_bytes, root, erased)| PointVolume {
                id: volume,
                name: snapshot.get(kind::VOLUMES, &volume.to_string()).map(|document| document.name.clone()),
                size_bytes,
                erased,
                root: root.map(|root| root.to_string()),
                written: written.get(&volume).cloned(),
            })
            .collect(),
    );
    Ok(Json(shown))
}

pub(crate) async fn jobs(State(context): Shared, request: Request) -> ApiResult<Json<Page<Job>>> {
    let query = Query::of(
        request.uri().query(),
        &[PAGING[0], PAGING[1], "group", "plan", "machine", "drill", "state", "kind"],
    )?;
    let wanted = query
        .text("state")
        .map(|text| {
            JobState::ALL.iter().copied().find(|state| state.as_str() == text).ok_or_else(|| {
                ApiError::new(ProblemCode::Malformed, "state: must be queued, running, succeeded, failed or cancelled")
            })
        })
        .transpose()?;
    let mut jobs = Vec::new();
    for attached in context.vaults.all() {
        for document in attached.snapshot().of(kind::JOBS) {
            let Ok(spec) = document.spec_as::<AnySpec>() else { continue };
            let record: JobRecord = status(document);
            let holder = spec.holder();
            let is_of = |name: &str, kind: &str| query.text(name).is_none_or(|id| holder == (kind, id.to_owned()));
            let fits = is_of("group", kind::GROUPS)
                && is_of("plan", kind::PLANS)
                && is_of("machine", kind::MACHINES)
                && is_of("drill", kind::DRILLS)
                && query.text("kind").is_none_or(|kind| spec.kind().as_str() == kind)
                && wanted.is_none_or(|state| record.state.0 == state);
            if fits {
                jobs.push(view::job(document)?);
            }
        }
    }
    jobs.sort_by_key(|job| std::cmp::Reverse((job.created, job.id)));
    page(&query, jobs, |job| job.id.to_string()).map(Json)
}

pub(crate) async fn job(State(context): Shared, Path(id): Path<String>, uri: Uri) -> ApiResult<Json<Job>> {
    let query = Query::of(uri.query(), &["wait", "since"])?;
    let wait = query
        .text("wait")
        .map(|text| {
            parse_duration(text).map_err(|error| ApiError::new(ProblemCode::Malformed, format!("wait: {error}")))
        })
        .transpose()?
        .unwrap_or_default()
        .min(WAIT_MAX);
    let since = query.parsed::<u64>("since")?;
    let deadline = tokio::time::Instant::now() + wait;
    let mut changes = context.watch();
    let (attached, mut document) = context.require(kind::JOBS, "job", &id).await?;
    loop {
        changes.borrow_and_update();
        // Another gateway's changes are in the vault before they are in our copy.
        if let Ok(vault) = attached.vault()
            && let Ok(fresh) = vault.catalog().get(kind::JOBS, &id).await
        {
            document = fresh;
        }
        let job = view::job(&document)?;
        if job.is_over() {
            settle(&attached, &job).await;
            return Ok(Json(job));
        }
        let news = since.is_none_or(|since| job.revision > since);
        if news || tokio::time::Instant::now() >= deadline {
            return Ok(Json(job));
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = context.stop.cancelled() => return Ok(Json(job)),
        }
    }
}

/// A job that is over is told only once what it was about is free and our copy of the catalog has what it did, so that who waited
/// for it reads its results and can begin the next. Bounded: a gateway that died in between frees it later.
async fn settle(attached: &crate::vaults::AttachedVault, job: &Job) {
    let id = job.id.to_string();
    for _ in 0..SETTLE_LOOKS {
        let snapshot = attached.snapshot();
        let seen = snapshot.get(kind::JOBS, &id).is_some_and(|document| {
            let record: JobRecord = status(document);
            record.is_over()
        });
        let free = !jobs::is_held(&snapshot, job.id);
        if seen && free {
            return;
        }
        if attached.refresh().await.is_err() {
            return;
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

pub(crate) async fn events(State(context): Shared, request: Request) -> ApiResult<Json<Page<Event>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "group", "since"])?;
    let since = query.parsed::<Timestamp>("since")?;
    let mut events = Vec::new();
    for attached in context.vaults.all() {
        let vault = attached.vault()?;
        for document in vault.catalog().list(kind::EVENTS).await? {
            let (Ok(id), Ok(record)) = (document.id.parse::<EventId>(), document.spec_as::<EventRecord>()) else {
                continue;
            };
            let fits = since.is_none_or(|since| record.time >= since)
                && query.text("group").is_none_or(|text| record.group.is_some_and(|group| group.to_string() == text));
            if fits {
                events.push(Event {
                    id,
                    time: record.time,
                    severity: record.severity,
                    kind: record.kind,
                    message: record.message,
                    vault_id: attached.id(),
                    gateway_id: record.gateway,
                    group_id: record.group,
                    volume_id: record.volume,
                    job_id: record.job,
                });
            }
        }
    }
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    page(&query, events, |event| event.id.to_string()).map(Json)
}

/// How well groups were protected in the last hour, of those that this gateway knows.
pub(crate) async fn history(State(context): Shared, request: Request) -> ApiResult<Json<Page<ProtectionHistory>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "group"])?;
    if let Some(group) = query.text("group") {
        context.require(kind::GROUPS, "group", group).await?;
    }
    let mut all = Vec::new();
    for attached in context.vaults.all() {
        for document in attached.snapshot().of(kind::GROUPS) {
            if query.text("group").is_none_or(|group| group == document.id) {
                all.push(context.history.of(view::id(document)?));
            }
        }
    }
    page(&query, all, |history| history.group_id.to_string()).map(Json)
}

pub(crate) async fn protection(State(context): Shared, request: Request) -> ApiResult<Json<Page<ProtectionStatus>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "group", "volume"])?;
    let mut wanted = query.text("group").map(str::to_owned);
    if let Some(volume) = query.text("volume") {
        let (_, document) = context.require(kind::VOLUMES, "volume", volume).await?;
        let spec: lifeboat_api::VolumeSpec = document.spec_as()?;
        wanted = Some(view::group_of(view::id(&document)?, &spec).to_string());
    }
    if let Some(group) = &wanted {
        context.require(kind::GROUPS, "group", group).await?;
    }
    let mut all = Vec::new();
    for attached in context.vaults.all() {
        for document in attached.snapshot().of(kind::GROUPS) {
            if wanted.as_ref().is_none_or(|group| *group == document.id) {
                let facts = view::group_facts(&context, &attached, document)?;
                all.push(view::protection(&context, &facts));
            }
        }
    }
    page(&query, all, |status| status.group_id.to_string()).map(Json)
}
