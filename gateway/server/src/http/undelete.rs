//! Taking the deletion of a group back: `GET /v1/deleted-groups` and `POST /v1/groups/{id}:undelete`. [`declared`] takes back that of
//! what holds no data.
//!
//! Deleting leaves a tombstone with the last spec and status, and the history in the vault; only the local files go. So a
//! group comes back as after the loss of a gateway: a failover, without a source, to the newest point from before the deletion.
//! Volumes of a group are deleted one by one before it; all of them come back. What the group needs and was deleted too
//! (its site, gateways and policy, as `terraform destroy` does) comes back first.
//!
//! The group itself is the last, after the job that brings its data back was written down. So a request that was broken off, at
//! any place, left a deleted group still, and the next one goes on with it: what came back keeps when it was deleted
//! ([`VolumeRecord::deleted`]), so that the point is the same. A job that got no group is given up.

pub(super) mod declared;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use lifeboat_api::{DeletedGroup, DeletedVolume, GatewaySpec, GroupSpec, JobKind, Page, UndeleteRequest, VolumeSpec};
use lifeboat_model::{BranchId, GroupId, JobId, Timestamp, VolumeId};
use lifeboat_vault::{Catalog, Document, VaultError};
use serde_json::Value;

use super::Shared;
use super::body::{self, PAGING, Query};
use super::error::{ApiError, ApiResult};
use super::resources::name_taken;
use crate::context::{Context, Happening};
use crate::jobs::ask::{find_point, own};
use crate::jobs::{self, plan};
use crate::records::{AnySpec, GroupRecord, JobRecord, JobSpec, VolumeRecord, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

const DAY_MICROS: i64 = 86_400_000_000;

/// A volume of a deleted group: deleted too, or brought back by an earlier request that didn't come to its end.
struct Member {
    id: VolumeId,
    spec: VolumeSpec,
    document: Arc<Document>,
}

impl Member {
    /// When it was deleted.
    fn since(&self) -> Option<Timestamp> {
        if self.document.deleted {
            return Some(self.document.updated);
        }
        status::<VolumeRecord>(&self.document).deleted
    }
}

/// A group's tombstone, and its volumes.
struct Deleted {
    document: Arc<Document>,
    id: GroupId,
    volumes: Vec<Member>,
}

impl Deleted {
    /// When the first of them was deleted: what was written before is what should come back.
    fn since(&self) -> Timestamp {
        let all = self.volumes.iter().filter_map(Member::since);
        all.chain([self.document.updated]).min().unwrap_or(self.document.updated)
    }
}

/// The deleted groups of a vault that were protected once.
async fn deleted(catalog: &Catalog) -> ApiResult<Vec<Deleted>> {
    let groups = catalog.list_deleted(kind::GROUPS).await?;
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut volumes: BTreeMap<GroupId, Vec<Member>> = BTreeMap::new();
    for document in catalog.list_deleted(kind::VOLUMES).await?.into_iter().chain(catalog.list(kind::VOLUMES).await?) {
        let (Ok(id), Ok(spec)) = (document.id.parse::<VolumeId>(), document.spec_as::<VolumeSpec>()) else { continue };
        volumes.entry(view::group_of(id, &spec)).or_default().push(Member { id, spec, document });
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
            let volume = |member: &Member| DeletedVolume {
                id: member.id,
                name: member.spec.name.clone(),
                size_bytes: member.spec.size_bytes,
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
    if let Some((_, document)) = context.find(kind::GROUPS, id).await {
        if repeatable && let Some((_, begun)) = context.find(kind::JOBS, &job.to_string()).await {
            return Ok(begun);
        }
        return Err(ApiError::conflict(format!("the group {} isn't deleted: there is nothing to undo", document.name)));
    }
    let (attached, group) = find(context, id).await?;
    let vault = attached.vault()?;
    let catalog = vault.catalog();
    let name = &group.document.name;
    let record: GroupRecord = status(&group.document);
    let active = record.active.ok_or_else(|| ApiError::not_found("deleted group", id))?;
    let needed = needed(catalog, &group).await?;
    names_are_free(catalog, &group, &needed).await?;
    if context.holds(group.id, &active.instance) {
        return Err(ApiError::conflict(format!(
            "this gateway is still removing its local files of the group {name}: try again in a few seconds"
        )));
    }
    let point = wanted.point.unwrap_or_else(|| group.since().to_string());
    let point = find_point(context, &attached, group.id, active.branch, &point).await?;

    for (kind, document) in &needed {
        catalog.restore(kind, &document.id, &mut |document| document.status.clone()).await?;
    }
    attached.refresh().await?;
    // A gateway that nobody declared is refused while the volumes are still deleted.
    let here = own(context, &attached)?;
    for member in &group.volumes {
        restore_volume(catalog, &member.document.id).await?;
    }
    let mut spec = JobSpec::new(JobKind::UnplannedFailover, group.id, name, here);
    spec.source = Some(active.gateway);
    spec.source_instance = Some(active.instance);
    spec.from_branch = Some(active.branch);
    spec.new_branch = Some(BranchId::from_bytes(job.to_bytes()));
    spec.point = Some(point.id);
    spec.point_time = Some(point.time);
    let spec = AnySpec::Group(Box::new(spec));
    let steps = plan::failover(JobKind::UnplannedFailover, here, Some(active.gateway));
    let written = jobs::write_down(&attached, job, &spec, steps.clone()).await?;
    if status::<JobRecord>(&written).is_over() {
        return Err(ApiError::conflict(format!(
            "the job {job} of an earlier try was given up before the group {name} was there: ask again with a new idempotency key"
        )));
    }
    restore_group(catalog, &group, job).await?;
    attached.refresh().await?;
    let message = format!("the deletion of the group {name} and of {} volumes was taken back", group.volumes.len());
    let event = Happening { kind: "group.undeleted", message, group: Some(group.id), ..Happening::default() };
    context.event(&attached, event).await;
    jobs::begin(context, &attached, job, spec, steps).await
}

/// Refuses when something new has the name of what would come back.
async fn names_are_free(catalog: &Catalog, group: &Deleted, needed: &[(&'static str, Arc<Document>)]) -> ApiResult<()> {
    let all = needed.iter().map(|(kind, document)| (*kind, document));
    let volumes = group.volumes.iter().map(|member| (kind::VOLUMES, &member.document));
    for (kind, document) in all.chain(volumes).chain([(kind::GROUPS, &group.document)]) {
        let found = catalog.find_by_name(kind, &document.name).await?;
        if let Some(other) = found.filter(|other| other.id != document.id) {
            let what = kind.trim_end_matches('s').replace("policie", "policy");
            return Err(name_taken(&what, &document.name, &other));
        }
    }
    Ok(())
}

/// Brings a volume's document back; one that is back already stays as it is.
pub(crate) async fn restore_volume(catalog: &Catalog, id: &str) -> Result<(), VaultError> {
    let mut back = |tombstone: &Document| {
        let record = VolumeRecord { deleted: Some(tombstone.updated), ..status(tombstone) };
        serde_json::to_value(record).unwrap_or_else(|_| tombstone.status.clone())
    };
    catalog.restore(kind::VOLUMES, id, &mut back).await.map(drop)
}

/// Brings the group's document back, in the hands of the job that brings its data back.
async fn restore_group(catalog: &Catalog, group: &Deleted, job: JobId) -> ApiResult<()> {
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
    catalog.restore(kind::GROUPS, &group.document.id, &mut |_| back.clone()).await?;
    Ok(())
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
    let mut homes: Vec<String> = group.volumes.iter().map(|member| member.spec.gateway_id.to_string()).collect();
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
