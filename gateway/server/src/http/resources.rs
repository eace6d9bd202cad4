//! Everything that is declared in a vault: one way to list, create, read, change and delete it.
//!
//! A [`Kind`] adds what is particular: which references must exist, what can't be changed, what is in the way of a
//! deletion, how it is shown.

mod drills;
mod machines;
mod networks;
mod plans;
mod policies;

pub(crate) use drills::Drills;
pub(crate) use machines::Machines;
pub(crate) use networks::{Mappings, Networks};
pub(crate) use plans::Plans;
pub(crate) use policies::Policies;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::Validate;
use lifeboat_api::{Gateway, GatewaySpec, Group, GroupSpec, Page, ProblemCode, Site, SiteSpec, Volume, VolumeSpec};
use lifeboat_model::{GatewayId, GroupId, SiteId, VaultId, VolumeId};
use lifeboat_vault::{Document, VaultError, VaultErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Shared;
use super::body::{self, PAGING, Query};
use super::error::{ApiError, ApiResult};
use crate::approvals::{self, Act};
use crate::context::Context;
use crate::records::{GroupRecord, VolumeRecord, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

/// What is particular to a kind of resource.
#[async_trait]
pub(crate) trait Kind: Send + Sync + 'static {
    /// The kind of its documents.
    const KIND: &'static str;
    /// What people call it.
    const WHAT: &'static str;
    /// Whether one can clash with what others declare, by more than its name: one at a time is declared then.
    const CLASHES: bool = false;
    /// What is declared.
    type Spec: DeserializeOwned + Serialize + Validate + Clone + Send + Sync;
    /// What is shown.
    type View: Serialize + Send;

    /// The text form of an id.
    fn id(bytes: [u8; 16]) -> String;
    /// The name of its documents.
    fn name(spec: &Self::Spec) -> Cow<'_, str>;
    fn view(context: &Context, vault: &AttachedVault, document: &Document) -> Result<Self::View, VaultError>;

    /// The vault that it goes to; refuses references that don't exist.
    async fn admit(context: &Context, spec: &Self::Spec) -> ApiResult<Arc<AttachedVault>>;

    /// What people call it.
    fn called(_: &AttachedVault, document: &Document) -> String {
        document.name.clone()
    }

    /// Another than `id` that has its name.
    async fn namesake(vault: &AttachedVault, id: &str, spec: &Self::Spec) -> ApiResult<Option<Arc<Document>>> {
        let found = vault.vault()?.catalog().find_by_name(Self::KIND, &Self::name(spec)).await?;
        Ok(found.filter(|other| other.id != id))
    }

    /// Refuses what would get in the way of what else a new one needs, or clashes with what is there.
    async fn prepare(_: &AttachedVault, _id: &str, _: &Self::Spec) -> ApiResult<()> {
        Ok(())
    }

    /// Writes what else a new one needs, after it is written itself. The reconciler does it again after a crash.
    async fn created(_: &AttachedVault, _: &Document) -> ApiResult<()> {
        Ok(())
    }

    /// Refuses changes that can't be made.
    async fn admit_change(
        context: &Context,
        vault: &AttachedVault,
        id: &str,
        old: &Self::Spec,
        new: &Self::Spec,
    ) -> ApiResult<()>;

    /// What a change destroys, in words that say exactly what; nothing when it destroys nothing.
    fn destroys(_: &AttachedVault, _old: &Self::Spec, _new: &Self::Spec) -> Option<String> {
        None
    }

    /// Whether deleting one destroys something.
    const DELETION_DESTROYS: bool = false;

    /// What is in the way of deleting it, by kind and name.
    fn blockers(_: &AttachedVault, _: &Document) -> Vec<String> {
        Vec::new()
    }

    /// What is in the way of deleting one while it is named (`while_named=true`), where less is than otherwise: what names it
    /// stays, and says that it lacks it until it names another, or none.
    const WHILE_NAMED: Option<fn(&AttachedVault, &Document) -> Vec<String>> = None;

    /// Writes down what those that name it go on with, before one is deleted while it is named.
    async fn bequeath(_: &AttachedVault, _: &Document) -> ApiResult<()> {
        Ok(())
    }

    /// Does what else deleting it takes, after it is gone.
    async fn deleted(_: &AttachedVault, _: &Document) -> ApiResult<()> {
        Ok(())
    }
}

pub(crate) async fn list<K: Kind>(State(context): Shared, request: Request) -> ApiResult<Json<Page<K::View>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "name"])?;
    let mut documents = Vec::new();
    for vault in context.vaults.all() {
        // A list that lacks a whole vault would read as if everything in it were gone.
        if !vault.snapshot().is_read() {
            vault.refresh().await?;
        }
        for document in vault.snapshot().of(K::KIND) {
            if query.text("name").is_none_or(|name| name == K::called(&vault, document)) {
                documents.push((Arc::clone(&vault), Arc::clone(document)));
            }
        }
    }
    let page = body::page(&query, (0..documents.len()).collect(), |index: &usize| {
        documents.get(*index).map(|(_, document)| document.id.clone()).unwrap_or_default()
    })?;
    let items = page
        .items
        .into_iter()
        .filter_map(|index| documents.get(index))
        .map(|(vault, document)| K::view(&context, vault, document))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Json(Page { items, next_page_token: page.next_page_token }))
}

pub(crate) async fn read<K: Kind>(State(context): Shared, Path(id): Path<String>) -> ApiResult<Response> {
    let (vault, document) = context.require(K::KIND, K::WHAT, &id).await?;
    show::<K>(&context, &vault, &document, StatusCode::OK)
}

fn show<K: Kind>(
    context: &Context,
    vault: &AttachedVault,
    document: &Document,
    code: StatusCode,
) -> ApiResult<Response> {
    let view = K::view(context, vault, document)?;
    Ok(body::with_etag(code, document.generation, &view))
}

pub(crate) async fn create<K: Kind>(State(context): Shared, request: Request) -> ApiResult<Response> {
    let (bytes, repeatable) = body::new_id(request.headers(), K::KIND)?;
    let id = K::id(bytes);
    let spec: K::Spec = body::typed(&body::json(request).await?)?;
    spec.validate()?;
    let value = to_value(&spec)?;
    if repeatable && let Some((vault, document)) = context.find(K::KIND, &id).await {
        K::created(&vault, &document).await?;
        return repeated::<K>(&context, &vault, &document, &value);
    }
    let vault = K::admit(&context, &spec).await?;
    let _alone = if K::CLASHES { Some(vault.alone().await?) } else { None };
    let catalog = vault.vault()?;
    let name = K::name(&spec);
    if let Some(other) = K::namesake(&vault, &id, &spec).await? {
        return Err(name_taken(K::WHAT, &name, &other));
    }
    K::prepare(&vault, &id, &spec).await?;
    match catalog.catalog().create(K::KIND, &id, &name, value.clone(), serde_json::json!({})).await {
        Ok(document) => {
            K::created(&vault, &document).await?;
            context.wrote(&vault).await;
            tracing::info!(kind = K::KIND, id, %name, "declared");
            show::<K>(&context, &vault, &document, StatusCode::CREATED)
        }
        Err(error) if repeatable && error.kind() == VaultErrorKind::Conflict => {
            match catalog.catalog().get(K::KIND, &id).await {
                Ok(document) => repeated::<K>(&context, &vault, &document, &value),
                Err(_) => Err(ApiError::conflict(format!(
                    "the idempotency key made a {} that was deleted since: use a new key",
                    K::WHAT
                ))),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// The answer to a POST that was carried out before.
fn repeated<K: Kind>(
    context: &Context,
    vault: &AttachedVault,
    document: &Document,
    spec: &Value,
) -> ApiResult<Response> {
    if document.generation == 1 && document.spec != *spec {
        return Err(ApiError::conflict(format!(
            "the idempotency key was used for another {} already: use a new key for a new object",
            K::WHAT
        )));
    }
    show::<K>(context, vault, document, StatusCode::CREATED)
}

pub(crate) fn name_taken(what: &str, name: &str, other: &Document) -> ApiError {
    ApiError::conflict_at("name", format!("there is a {what} named {name:?} already ({})", other.id))
}

pub(crate) async fn update<K: Kind>(
    State(context): Shared,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let who = super::tokens::identity(&request)?;
    let generation = body::if_match(request.headers())?;
    let patch = body::json(request).await?;
    let (vault, document) = context.require(K::KIND, K::WHAT, &id).await?;
    body::check_generation(generation, document.generation)?;
    let old: K::Spec = document.spec_as()?;
    // Written out again, so that fields a newer version added to the type are there to be merged into.
    let mut merged = to_value(&old)?;
    body::merge(&mut merged, &patch);
    let new: K::Spec = body::typed(&merged)?;
    new.validate()?;
    let _alone = if K::CLASHES { Some(vault.alone().await?) } else { None };
    if let Some(what) = K::destroys(&vault, &old, &new) {
        let exact = format!("PATCH /v1/{}/{id}: {what}", K::KIND);
        let name = format!("change the {} {}: {what}", K::WHAT, K::called(&vault, &document));
        approvals::demand(&context, &vault, &who, Act { exact, name }).await?;
    }
    K::admit_change(&context, &vault, &id, &old, &new).await?;
    let catalog = vault.vault()?;
    let name = K::name(&new);
    if name != K::name(&old)
        && let Some(other) = K::namesake(&vault, &id, &new).await?
    {
        return Err(name_taken(K::WHAT, &name, &other));
    }
    let written = catalog.catalog().update_spec(K::KIND, &id, generation, &name, to_value(&new)?).await;
    let document = written.map_err(|error| match error.kind() {
        VaultErrorKind::Conflict => ApiError::new(ProblemCode::PreconditionFailed, error.to_string()),
        _ => error.into(),
    })?;
    context.wrote(&vault).await;
    tracing::info!(kind = K::KIND, id, %name, generation = document.generation, "changed");
    show::<K>(&context, &vault, &document, StatusCode::OK)
}

/// What may be said of a deletion.
const WHILE_NAMED: &[&str] = &["while_named"];

pub(crate) async fn delete<K: Kind>(
    State(context): Shared,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let who = super::tokens::identity(&request)?;
    let generation = body::if_match(request.headers())?;
    let less = match K::WHILE_NAMED {
        Some(less) => {
            let asked = Query::of(request.uri().query(), WHILE_NAMED)?.parsed::<bool>("while_named")?;
            Some(less).filter(|_| asked == Some(true))
        }
        None => None,
    };
    let blocked_by = less.unwrap_or(K::blockers);
    let (vault, document) = context.require(K::KIND, K::WHAT, &id).await?;
    body::check_generation(generation, document.generation)?;
    // Nobody declares meanwhile what needs it.
    let _alone = vault.alone().await?;
    let blockers = blocked_by(&vault, &document);
    if !blockers.is_empty() {
        return Err(in_the_way(K::WHAT, &K::called(&vault, &document), blockers));
    }
    if K::DELETION_DESTROYS {
        let name = format!("delete the {} {}", K::WHAT, K::called(&vault, &document));
        approvals::demand(&context, &vault, &who, Act { exact: format!("DELETE /v1/{}/{id}", K::KIND), name }).await?;
    }
    if less.is_some() {
        K::bequeath(&vault, &document).await?;
    }
    let catalog = vault.vault()?;
    catalog.catalog().delete(K::KIND, &id, Some(generation)).await.map_err(|error| match error.kind() {
        VaultErrorKind::Conflict => ApiError::new(ProblemCode::PreconditionFailed, error.to_string()),
        _ => error.into(),
    })?;
    K::deleted(&vault, &document).await?;
    context.wrote(&vault).await;
    tracing::info!(kind = K::KIND, id, name = document.name, "deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The error for a deletion that something is in the way of.
pub(crate) fn in_the_way(what: &str, name: &str, blockers: Vec<String>) -> ApiError {
    let detail =
        format!("the {what} {name} can't be deleted while it is in use by {}; delete them first", blockers.join(", "));
    lifeboat_api::Problem::new(ProblemCode::Conflict, detail).with_blockers(blockers).into()
}

fn to_value(spec: &impl Serialize) -> ApiResult<Value> {
    serde_json::to_value(spec).map_err(|error| ApiError::new(ProblemCode::Internal, error.to_string()))
}

/// Refuses what doesn't fit to what else is declared: with what can't be, else with what is taken.
fn fitting(found: view::Misfits) -> ApiResult<()> {
    if !found.wrong.is_empty() {
        return Err(found.wrong.into());
    }
    if !found.taken.is_empty() {
        return Err(ApiError::clash(found.taken));
    }
    Ok(())
}

/// Refuses to change a field.
fn fixed<T: PartialEq + std::fmt::Display>(field: &str, old: &T, new: &T) -> ApiResult<()> {
    if old == new {
        return Ok(());
    }
    Err(ApiError::field(field, format!("can't be changed (it is {old}); declare a new object instead")))
}

/// The documents that refer to one, as `kind name`.
fn named<'a>(what: &str, documents: impl Iterator<Item = &'a Arc<Document>>) -> Vec<String> {
    documents.map(|document| format!("{what} {} ({})", document.name, document.id)).collect()
}

/// A document that a field refers to; its absence is the field's fault.
pub(super) async fn referred(
    context: &Context,
    kind: &str,
    field: &str,
    what: &str,
    id: &impl ToString,
) -> ApiResult<(Arc<AttachedVault>, Arc<Document>)> {
    let id = id.to_string();
    context.require(kind, what, &id).await.map_err(|error| match error.0.code {
        ProblemCode::NotFound => ApiError::field(field, format!("there is no {what} {id}")),
        _ => error,
    })
}

fn same_vault(field: &str, vault: &AttachedVault, other: &AttachedVault) -> ApiResult<()> {
    if vault.id() == other.id() {
        return Ok(());
    }
    Err(ApiError::field(field, format!("belongs to the vault {}, not to {}", other.id(), vault.id())))
}

fn attached(context: &Context, id: VaultId) -> ApiResult<Arc<AttachedVault>> {
    context
        .vaults
        .get(id)
        .ok_or_else(|| ApiError::field("vault_id", format!("this gateway isn't attached to a vault {id}")))
}

/// See [`Site`].
#[derive(Debug)]
pub(crate) struct Sites;

#[async_trait]
impl Kind for Sites {
    const KIND: &'static str = kind::SITES;
    const WHAT: &'static str = "site";
    type Spec = SiteSpec;
    type View = Site;

    fn id(bytes: [u8; 16]) -> String {
        SiteId::from_bytes(bytes).to_string()
    }
    fn name(spec: &SiteSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(_: &Context, vault: &AttachedVault, document: &Document) -> Result<Site, VaultError> {
        view::site(vault, document)
    }
    async fn admit(context: &Context, spec: &SiteSpec) -> ApiResult<Arc<AttachedVault>> {
        attached(context, spec.vault_id)
    }
    async fn admit_change(_: &Context, _: &AttachedVault, _: &str, old: &SiteSpec, new: &SiteSpec) -> ApiResult<()> {
        fixed("vault_id", &old.vault_id, &new.vault_id)?;
        fixed("name", &old.name, &new.name)
    }
    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let snapshot = vault.snapshot();
        let mut blockers = named("gateway", view::referring(&snapshot, kind::GATEWAYS, "site_id", &document.id));
        blockers.extend(named("group", view::referring(&snapshot, kind::GROUPS, "site_id", &document.id)));
        blockers.extend(named("network", view::referring(&snapshot, kind::NETWORKS, "site_id", &document.id)));
        blockers.extend(named("machine", view::referring(&snapshot, kind::MACHINES, "site_id", &document.id)));
        blockers.extend(named("agent", view::referring(&snapshot, kind::AGENTS, "site_id", &document.id)));
        blockers.extend(named("plan", view::referring(&snapshot, kind::PLANS, "source_site_id", &document.id)));
        blockers.extend(named("plan", view::referring(&snapshot, kind::PLANS, "target_site_id", &document.id)));
        blockers
    }
}

/// See [`Gateway`].
#[derive(Debug)]
pub(crate) struct Gateways;

#[async_trait]
impl Kind for Gateways {
    const KIND: &'static str = kind::GATEWAYS;
    const WHAT: &'static str = "gateway";
    type Spec = GatewaySpec;
    type View = Gateway;

    fn id(bytes: [u8; 16]) -> String {
        GatewayId::from_bytes(bytes).to_string()
    }
    fn name(spec: &GatewaySpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(context: &Context, _: &AttachedVault, document: &Document) -> Result<Gateway, VaultError> {
        view::gateway(context, document)
    }
    async fn admit(context: &Context, spec: &GatewaySpec) -> ApiResult<Arc<AttachedVault>> {
        Ok(referred(context, kind::SITES, "site_id", "site", &spec.site_id).await?.0)
    }
    async fn admit_change(
        _: &Context,
        _: &AttachedVault,
        _: &str,
        old: &GatewaySpec,
        new: &GatewaySpec,
    ) -> ApiResult<()> {
        fixed("site_id", &old.site_id, &new.site_id)?;
        fixed("name", &old.name, &new.name)
    }
    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let snapshot = vault.snapshot();
        let mut blockers = named("volume", view::referring(&snapshot, kind::VOLUMES, "gateway_id", &document.id));
        for group in snapshot.of(kind::GROUPS) {
            let record: GroupRecord = status(group);
            if record.home.is_some_and(|home| home.to_string() == document.id) {
                blockers.push(format!("group {} ({}), which is at home there", group.name, group.id));
                continue;
            }
            let serves = record.active.as_ref().is_some_and(|active| active.gateway.to_string() == document.id)
                || record.tests.iter().any(|test| test.gateway.to_string() == document.id);
            if serves {
                blockers.push(format!("group {} ({}), which it serves", group.name, group.id));
            }
        }
        blockers
    }
}

/// See [`Group`].
#[derive(Debug)]
pub(crate) struct Groups;

#[async_trait]
impl Kind for Groups {
    const KIND: &'static str = kind::GROUPS;
    const WHAT: &'static str = "group";
    type Spec = GroupSpec;
    type View = Group;

    fn id(bytes: [u8; 16]) -> String {
        GroupId::from_bytes(bytes).to_string()
    }
    fn name(spec: &GroupSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(context: &Context, vault: &AttachedVault, document: &Document) -> Result<Group, VaultError> {
        view::group(context, vault, document)
    }
    async fn admit(context: &Context, spec: &GroupSpec) -> ApiResult<Arc<AttachedVault>> {
        let vault = attached(context, spec.vault_id)?;
        let (of_site, _) = referred(context, kind::SITES, "site_id", "site", &spec.site_id).await?;
        same_vault("site_id", &vault, &of_site)?;
        let (of_policy, _) = referred(context, kind::POLICIES, "policy_id", "policy", &spec.policy_id).await?;
        same_vault("policy_id", &vault, &of_policy)?;
        Ok(vault)
    }
    async fn admit_change(
        context: &Context,
        vault: &AttachedVault,
        id: &str,
        old: &GroupSpec,
        new: &GroupSpec,
    ) -> ApiResult<()> {
        refuse_implicit(vault, id)?;
        fixed("vault_id", &old.vault_id, &new.vault_id)?;
        fixed("site_id", &old.site_id, &new.site_id)?;
        let (of_policy, _) = referred(context, kind::POLICIES, "policy_id", "policy", &new.policy_id).await?;
        same_vault("policy_id", vault, &of_policy)
    }
    fn destroys(vault: &AttachedVault, old: &GroupSpec, new: &GroupSpec) -> Option<String> {
        policies::cut(vault, &old.policy_id, &new.policy_id)
    }
    const DELETION_DESTROYS: bool = true;
    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let record: GroupRecord = status(document);
        let snapshot = vault.snapshot();
        if record.implicit {
            return named("volume", snapshot.of(kind::VOLUMES).iter().filter(|volume| volume.name == document.name));
        }
        let mut blockers = named("volume", view::referring(&snapshot, kind::VOLUMES, "group_id", &document.id));
        blockers.extend(named("machine", view::referring(&snapshot, kind::MACHINES, "group_id", &document.id)));
        if let Some(job) = record.job {
            blockers.push(format!("job {job}, which is running"));
        }
        blockers
    }
}

/// The group of a single volume follows its volume.
fn refuse_implicit(vault: &AttachedVault, id: &str) -> ApiResult<()> {
    let implicit = vault.snapshot().get(kind::GROUPS, id).is_some_and(|document| {
        let record: GroupRecord = status(document);
        record.implicit
    });
    if implicit {
        return Err(ApiError::conflict("this group was made for a single volume: change the volume instead"));
    }
    Ok(())
}

/// Refuses another disk for a volume, but while its group is active elsewhere: a failback builds it there then.
fn disk_changes(record: &GroupRecord, home: Option<GatewayId>, old: &VolumeSpec, new: &VolumeSpec) -> ApiResult<()> {
    let refused = |why: String| Err(ApiError::field("source", why));
    let (Some(old), Some(_)) = (&old.source, &new.source) else {
        return refused("can't be added or taken away; declare a new object instead".to_owned());
    };
    let away = record.active.as_ref().is_some_and(|active| Some(active.gateway) != home);
    if !away {
        return refused(format!(
            "can't be changed at home (it is {}): while its group is failed over it can, and a failback with the mode create builds the \
             volume on the new disk",
            old.path
        ));
    }
    match record.job {
        Some(job) => refused(format!("can't be changed while the job {job} works on its group: wait for it")),
        None => Ok(()),
    }
}

/// See [`Volume`].
#[derive(Debug)]
pub(crate) struct Volumes;

#[async_trait]
impl Kind for Volumes {
    const KIND: &'static str = kind::VOLUMES;
    const WHAT: &'static str = "volume";
    type Spec = VolumeSpec;
    type View = Volume;

    fn id(bytes: [u8; 16]) -> String {
        VolumeId::from_bytes(bytes).to_string()
    }
    fn name(spec: &VolumeSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(context: &Context, vault: &AttachedVault, document: &Document) -> Result<Volume, VaultError> {
        view::volume(context, vault, document)
    }

    async fn admit(context: &Context, spec: &VolumeSpec) -> ApiResult<Arc<AttachedVault>> {
        let (vault, gateway) = referred(context, kind::GATEWAYS, "gateway_id", "gateway", &spec.gateway_id).await?;
        if let Some(policy) = spec.policy_id {
            let (of_policy, _) = referred(context, kind::POLICIES, "policy_id", "policy", &policy).await?;
            same_vault("policy_id", &vault, &of_policy)?;
        }
        if let Some(group) = spec.group_id {
            let (of_group, document) = referred(context, kind::GROUPS, "group_id", "group", &group).await?;
            same_vault("group_id", &vault, &of_group)?;
            let record: GroupRecord = status(&document);
            if record.implicit {
                return Err(ApiError::field("group_id", "is the group of a single volume; declare a group of its own"));
            }
            let group_spec: GroupSpec = document.spec_as()?;
            let gateway_spec: GatewaySpec = gateway.spec_as()?;
            if group_spec.site_id != gateway_spec.site_id {
                return Err(ApiError::field(
                    "gateway_id",
                    format!("the gateway {} stands at another site than the group {}", gateway.name, document.name),
                ));
            }
            let others = view::volumes_of(&vault.snapshot(), group);
            // After a failback to another gateway, volumes are declared there one after the other.
            let fits = |other: &VolumeSpec| other.gateway_id == spec.gateway_id || record.home == Some(spec.gateway_id);
            if let Some((_, other)) = others.iter().find(|(_, other)| !fits(other)) {
                return Err(ApiError::field(
                    "gateway_id",
                    format!(
                        "all volumes of a group are at home at one gateway; {} is at {}",
                        other.name, other.gateway_id
                    ),
                ));
            }
        }
        Ok(vault)
    }

    /// The group that a single volume gets has the volume's name.
    async fn prepare(vault: &AttachedVault, id: &str, spec: &VolumeSpec) -> ApiResult<()> {
        if spec.policy_id.is_none() {
            return Ok(());
        }
        let volume: VolumeId = id.parse().map_err(|_| ApiError::new(ProblemCode::Internal, "an id makes no sense"))?;
        let group = GroupId::from_bytes(volume.to_bytes()).to_string();
        match vault.vault()?.catalog().find_by_name(kind::GROUPS, &spec.name).await? {
            Some(other) if other.id != group => Err(name_taken("group", &spec.name, &other)),
            _ => Ok(()),
        }
    }

    async fn created(vault: &AttachedVault, document: &Document) -> ApiResult<()> {
        vault.refresh().await?;
        Ok(crate::reconcile::give_group(vault, document).await?)
    }

    async fn admit_change(
        context: &Context,
        vault: &AttachedVault,
        id: &str,
        old: &VolumeSpec,
        new: &VolumeSpec,
    ) -> ApiResult<()> {
        fixed("name", &old.name, &new.name)?;
        let id_of = |text: &str| text.parse::<VolumeId>().map_err(|_| ApiError::not_found("volume", text));
        let group = view::group_of(id_of(id)?, old).to_string();
        let record: GroupRecord =
            vault.snapshot().get(kind::GROUPS, &group).map(|found| status(found)).unwrap_or_default();
        // Where a failback took it: the declaration is brought in line.
        if record.home != Some(new.gateway_id) {
            fixed("gateway_id", &old.gateway_id, &new.gateway_id)?;
        }
        let text = |group: Option<GroupId>| group.map_or_else(|| "none".to_owned(), |group| group.to_string());
        fixed("group_id", &text(old.group_id), &text(new.group_id))?;
        let path =
            |spec: &VolumeSpec| spec.source.as_ref().map_or_else(|| "none".to_owned(), |found| found.path.clone());
        if path(old) != path(new) {
            let volumes = view::volumes_of(&vault.snapshot(), view::group_of(id_of(id)?, old));
            disk_changes(&record, view::home_of(&record, &volumes), old, new)?;
        }
        if new.size_bytes < old.size_bytes {
            return Err(ApiError::field(
                "size_bytes",
                format!(
                    "a volume can't shrink (from {} to {} bytes): its end holds data",
                    old.size_bytes, new.size_bytes
                ),
            ));
        }
        if path(old) != path(new) {
            let disk = new.source.as_ref().map(|source| source.path.clone());
            let opened = vault.vault()?;
            let mut change = |document: &Document| {
                let record = VolumeRecord { disk: disk.clone(), ..status(document) };
                serde_json::to_value(&record).ok()
            };
            opened.catalog().update_status(kind::VOLUMES, id, &mut change).await?;
        }
        let Some(policy) = new.policy_id.filter(|policy| Some(*policy) != old.policy_id) else { return Ok(()) };
        let (of_policy, _) = referred(context, kind::POLICIES, "policy_id", "policy", &policy).await?;
        same_vault("policy_id", vault, &of_policy)?;
        let volume: VolumeId = id.parse().map_err(|_| ApiError::not_found("volume", id))?;
        let group = GroupId::from_bytes(volume.to_bytes()).to_string();
        let catalog = vault.vault()?;
        let document = catalog.catalog().get(kind::GROUPS, &group).await?;
        let mut group_spec: GroupSpec = document.spec_as()?;
        group_spec.policy_id = policy;
        let value = to_value(&group_spec)?;
        catalog.catalog().update_spec(kind::GROUPS, &group, document.generation, &document.name, value).await?;
        Ok(())
    }

    fn destroys(vault: &AttachedVault, old: &VolumeSpec, new: &VolumeSpec) -> Option<String> {
        policies::cut(vault, old.policy_id.as_ref()?, new.policy_id.as_ref()?)
    }
    const DELETION_DESTROYS: bool = true;

    /// Machines and plans that nothing is under way with lack it, and say so.
    const WHILE_NAMED: Option<fn(&AttachedVault, &Document) -> Vec<String>> = Some(|vault, document| {
        let snapshot = vault.snapshot();
        let mut blockers = plans::that_move(&snapshot, &document.id);
        blockers.extend(
            machines::with_disk(&snapshot, &document.id).filter(|found| machines::moves(&snapshot, found)).map(
                |machine| format!("machine {} ({}), which is under way or away from home", machine.name, machine.id),
            ),
        );
        blockers.extend(used_by(vault, document));
        blockers
    });

    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let snapshot = vault.snapshot();
        let mut blockers = plans::that_boot(&snapshot, &document.id);
        blockers.extend(named("machine", machines::with_disk(&snapshot, &document.id)));
        blockers.extend(used_by(vault, document));
        blockers
    }

    async fn deleted(vault: &AttachedVault, document: &Document) -> ApiResult<()> {
        let Ok(spec) = document.spec_as::<VolumeSpec>() else { return Ok(()) };
        let Ok(id) = document.id.parse::<VolumeId>() else { return Ok(()) };
        if spec.group_id.is_some() {
            return Ok(());
        }
        let group = GroupId::from_bytes(id.to_bytes()).to_string();
        match vault.vault()?.catalog().delete(kind::GROUPS, &group, None).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == VaultErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is under way with a volume's group, and isn't the business of a machine or a plan.
fn used_by(vault: &AttachedVault, document: &Document) -> Vec<String> {
    let (Ok(id), Ok(spec)) = (document.id.parse::<VolumeId>(), document.spec_as::<VolumeSpec>()) else {
        return Vec::new();
    };
    let group = view::group_of(id, &spec).to_string();
    let snapshot = vault.snapshot();
    let mut blockers = Vec::new();
    let Some(group) = snapshot.get(kind::GROUPS, &group) else { return blockers };
    let record: GroupRecord = status(group);
    let running = record.job.filter(|job| {
        snapshot.get(kind::JOBS, &job.to_string()).is_some_and(|job| {
            let record: crate::records::JobRecord = status(job);
            !record.is_over()
        })
    });
    blockers.extend(running.map(|job| format!("job {job}, which is running")));
    blockers.extend(record.tests.iter().map(|test| format!("test failover {}: clean it up", test.branch)));
    blockers
}
