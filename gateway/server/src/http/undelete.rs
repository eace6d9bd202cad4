//! Taking deletions back: `GET /v1/deleted-groups` and `POST /v1/groups/{id}:undelete`.
//!
//! Deleting leaves a tombstone with the last spec and status, and the history in the vault; only the local files go. So a
//! group comes back as after the loss of a gateway: a failover, without a source, to the newest point from before the deletion.
//! Volumes of a group are deleted one by one before it; all of them come back. What the group needs and was deleted too
//! (its site, gateways and policy, as `terraform destroy` does) comes back first.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use lifeboat_api::{DeletedGroup, DeletedVolume, GatewaySpec, GroupSpec, JobKind, Page, UndeleteRequest, VolumeSpec};
use lifeboat_model::{BranchId, GroupId, JobId, Timestamp, VolumeId};
use lifeboat_vault::{Catalog, Document};
use serde_json::Value;

use super::Shared;
use super::body::{self, PAGING, Query};
use super::error::{ApiError, ApiResult};
use super::resources::name_taken;
use crate::context::{Context, Happening};
use crate::jobs::ask::{find_point, own};
use crate::jobs::{self, plan};
use crate::records::{AnySpec, GroupRecord, JobSpec, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

const DAY_MICROS: i64 = 86_400_000_000;

/// A group's tombstone, and those of its volumes.
struct Deleted {
    document: Arc<Document>,
    id: GroupId,
    volumes: Vec<(VolumeId, VolumeSpec, Arc<Document>)>,
}

impl Deleted {
    /// When the first of them was deleted: what was written before is what should come back.
    fn since(&self) -> Timestamp {
        let all = self.volumes.iter().map(|(_, _, document)| document.updated);
        all.chain([self.document.updated]).min().unwrap_or(self.document.updated)
    }
}

/// The deleted groups of a vault that were protected once.
async fn deleted(catalog: &Catalog) -> ApiResult<Vec<Deleted>> {
    let groups = catalog.list_deleted(kind::GROUPS).await?;
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut volumes: BTreeMap<GroupId, Vec<_>> = BTreeMap::new();
    for document in catalog.list_deleted(kind::VOLUMES).await? {
        let (Ok(id), Ok(spec)) = (document.id.parse::<VolumeId>(), document.spec_as::<VolumeSpec>()) else { continue };
        volumes.entry(view::group_of(id, &spec)).or_default().push((id, spec, document));
    }
    let mut found = Vec::new();
    for document in groups {
        let (Ok(id), record) = (document.id.parse(), status::<GroupRecord>(&document)) else { continue };
        let volumes = volumes.remove(&id).unwrap_or_default();
        if record.active.is_some() && !volumes.is_empty() {
            found.push(Deleted { document, id, volumes });
        }
    }
    Ok(found)
}

pub(super) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<DeletedGroup>>> {
    let query = Query::of(request.uri().query(), &PAGING)?;
    let mut groups = Vec::new();
    for attached in context.vaults.all() {
        let vault = attached.vault()?;
        let kept = i64::from(vault.info().soft_delete_days).saturating_mul(DAY_MICROS);
        for group in deleted(vault.catalog()).await? {
            let volume = |(id, spec, _): &(VolumeId, VolumeSpec, _)| DeletedVolume {
                id: *id,
                name: spec.name.clone(),
                size_bytes: spec.size_bytes,
            };
            groups.push(DeletedGroup {
                id: group.id,
                vault_id: attached.id(),
                name: group.document.name.clone(),
                deleted: group.since(),
                kept_until: Timestamp::from_micros(group.document.updated.as_micros().saturating_add(kept)),
                volumes: group.volumes.iter().map(volume).collect(),
            });
        }
    }
    body::page(&query, groups, |group| group.id.to_string()).map(Json)
}

/// Begins the job that brings a group back.
pub(super) async fn group(
    context: &Arc<Context>,
    id: &str,
    job: JobId,
    repeatable: bool,
    body: &Value,
) -> ApiResult<Arc<Document>> {
    let wanted: UndeleteRequest = body::typed(body)?;
    if repeatable && let Some((_, document)) = context.find(kind::JOBS, &job.to_string()).await {
        return Ok(document);
    }
    if let Some((_, document)) = context.find(kind::GROUPS, id).await {
        return Err(ApiError::conflict(format!("the group {} isn't deleted: there is nothing to undo", document.name)));
    }
    let (attached, group) = find(context, id).await?;
    let vault = attached.vault()?;
    let catalog = vault.catalog();
    let name = &group.document.name;
    let record: GroupRecord = status(&group.document);
    let active = record.active.ok_or_else(|| ApiError::not_found("deleted group", id))?;
    let needed = needed(catalog, &group).await?;
    let all = needed.iter().map(|(kind, document)| (*kind, document));
    let volumes = group.volumes.iter().map(|(_, _, document)| (kind::VOLUMES, document));
    for (kind, document) in all.chain(volumes).chain([(kind::GROUPS, &group.document)]) {
        if let Some(other) = catalog.find_by_name(kind, &document.name).await? {
            let what = kind.trim_end_matches('s').replace("policie", "policy");
            return Err(name_taken(&what, &document.name, &other));
        }
    }
    if context.holds(group.id, &active.instance) {
        return Err(ApiError::conflict(format!(
            "this gateway is still removing its local files of the group {name}: try again in a few seconds"
        )));
    }
    let point = wanted.point.unwrap_or_else(|| group.since().to_string());
    let point = find_point(context, &attached, group.id, active.branch, &point).await?;

    // The group last: until then the same can be asked again.
    for (kind, document) in &needed {
        catalog.restore(kind, &document.id, &mut |document| document.status.clone()).await?;
    }
    attached.refresh().await?;
    // A gateway that nobody declared is refused while the volumes are still deleted.
    let here = own(context, &attached)?;
    for (_, _, document) in &group.volumes {
        catalog.restore(kind::VOLUMES, &document.id, &mut |document| document.status.clone()).await?;
    }
    let back = GroupRecord {
        job: Some(job),
        failed_job: None,
        tests: Vec::new(),
        released: false,
        observed: None,
        ..status(&group.document)
    };
    let back = serde_json::to_value(back)
        .map_err(|error| ApiError::new(lifeboat_api::ProblemCode::Internal, error.to_string()))?;
    catalog.restore(kind::GROUPS, id, &mut |_| back.clone()).await?;
    attached.refresh().await?;
    let message = format!("the deletion of the group {name} and of {} volumes was taken back", group.volumes.len());
    let event = Happening { kind: "group.undeleted", message, group: Some(group.id), ..Happening::default() };
    context.event(&attached, event).await;

    let mut spec = JobSpec::new(JobKind::UnplannedFailover, group.id, name, here);
    spec.source = Some(active.gateway);
    spec.source_instance = Some(active.instance);
    spec.from_branch = Some(active.branch);
    spec.new_branch = Some(BranchId::from_bytes(job.to_bytes()));
    spec.point = Some(point.id);
    spec.point_time = Some(point.time);
    let steps = plan::failover(JobKind::UnplannedFailover, here, Some(active.gateway));
    jobs::begin(context, &attached, job, AnySpec::Group(Box::new(spec)), steps).await
}

/// The tombstone, in whichever vault it is.
async fn find(context: &Context, id: &str) -> ApiResult<(Arc<AttachedVault>, Deleted)> {
    for attached in context.vaults.all() {
        let vault = attached.vault()?;
        let found = deleted(vault.catalog()).await?.into_iter().find(|group| group.document.id == id);
        if let Some(found) = found {
            return Ok((attached, found));
        }
    }
    Err(ApiError::new(
        lifeboat_api::ProblemCode::NotFound,
        format!(
            "there is no deleted group {id} that was ever protected: /v1/deleted-groups lists those that can come back"
        ),
    ))
}

/// What the group can't do without and was deleted too, each after what it needs itself.
async fn needed(catalog: &Catalog, group: &Deleted) -> ApiResult<Vec<(&'static str, Arc<Document>)>> {
    let spec: GroupSpec = group.document.spec_as()?;
    let mut sites = vec![spec.site_id.to_string()];
    let mut gateways: Vec<Arc<Document>> = Vec::new();
    let mut homes: Vec<String> = group.volumes.iter().map(|(_, spec, _)| spec.gateway_id.to_string()).collect();
    let record: GroupRecord = status(&group.document);
    homes.extend(record.home.map(|home| home.to_string()));
    for document in catalog.list_deleted(kind::GATEWAYS).await? {
        if homes.contains(&document.id) {
            sites.push(document.spec_as::<GatewaySpec>()?.site_id.to_string());
            gateways.push(document);
        }
    }
    let mut found: Vec<(&'static str, Arc<Document>)> = Vec::new();
    let deleted = catalog.list_deleted(kind::SITES).await?;
    found.extend(deleted.into_iter().filter(|site| sites.contains(&site.id)).map(|site| (kind::SITES, site)));
    found.extend(gateways.into_iter().map(|gateway| (kind::GATEWAYS, gateway)));
    let policy = spec.policy_id.to_string();
    let deleted = catalog.list_deleted(kind::POLICIES).await?;
    found.extend(deleted.into_iter().filter(|found| found.id == policy).map(|policy| (kind::POLICIES, policy)));
    Ok(found)
}
