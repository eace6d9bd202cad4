//! Vaults: created in storage or attached, detached when nothing needs them any more.
//!
//! The key is used to open the vault and then kept in the state directory only (mode 0600), so that a restart needs
//! nothing. Deleting a vault that holds nothing detaches it; its objects stay where they are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::Validate;
use lifeboat_api::{
    GroupSpec, Immutability, ImmutabilityMode, Page, PolicySpec, ProblemCode, Vault, VaultCreate, VaultSpec,
};
use lifeboat_model::VaultId;
use lifeboat_vault::{
    Access, Document, MeteredStore, Vault as OpenVault, VaultError, VaultErrorKind, VaultSettings, open_storage,
};

use super::Shared;
use super::body::{self, PAGING, Query};
use super::error::{ApiError, ApiResult};
use super::resources::in_the_way;
use crate::approvals::{self, Act};
use crate::auth::Identity;
use crate::context::Context;
use crate::records::{GroupRecord, kind, status};
use crate::state_dir::Attachment;
use crate::vaults::{AttachedVault, key, options, target};
use crate::view;

pub(crate) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<Vault>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "name"])?;
    let vaults: Vec<Vault> = context
        .vaults
        .all()
        .iter()
        .map(|attached| view::vault(attached))
        .filter(|vault| query.text("name").is_none_or(|name| name == vault.spec.name))
        .collect();
    body::page(&query, vaults, |vault| vault.id.to_string()).map(Json)
}

pub(super) fn attached(context: &Context, id: &str) -> ApiResult<Arc<AttachedVault>> {
    id.parse::<VaultId>().ok().and_then(|id| context.vaults.get(id)).ok_or_else(|| ApiError::not_found("vault", id))
}

fn show(attached: &AttachedVault, code: StatusCode) -> Response {
    let vault = view::vault(attached);
    body::with_etag(code, vault.generation, &vault)
}

pub(crate) async fn read(State(context): Shared, Path(id): Path<String>) -> ApiResult<Response> {
    Ok(show(attached(&context, &id)?.as_ref(), StatusCode::OK))
}

pub(crate) async fn create(State(context): Shared, request: Request) -> ApiResult<Response> {
    // A vault's identity is what stands in storage; the key says whether a repeat is a repeat.
    let (_, repeatable) = body::new_id(request.headers(), kind::VAULTS)?;
    let mut wanted: VaultCreate = body::typed(&body::json(request).await?)?;
    wanted.validate()?;
    super::keys::admit(&context, "encryption.kms_key", &wanted.encryption)?;
    while wanted.storage_url.len() > "file:///".len() && wanted.storage_url.ends_with('/') {
        wanted.storage_url.pop();
    }
    outside_the_mount(&context, &wanted.storage_url)?;
    let attachment = attachment(&wanted);
    let here = |vault: &Arc<AttachedVault>| {
        vault.attachment.url == attachment.url && vault.attachment.endpoint == attachment.endpoint
    };
    if let Some(already) = context.vaults.all().into_iter().find(here) {
        let same = already.attachment.name == wanted.name && already.attachment.key_source == attachment.key_source;
        if wanted.attach || (repeatable && same) {
            // Only who holds the key is told that it is here already.
            if wanted.attach && (attachment.credentials.is_some() || attachment.proxy.is_some()) {
                let renewed = renew(&context, &already, attachment).await?;
                return Ok(show(&renewed, StatusCode::CREATED));
            }
            let kept = Attachment {
                credentials: attachment.credentials.or_else(|| already.attachment.credentials.clone()),
                proxy: attachment.proxy.or_else(|| already.attachment.proxy.clone()),
                ..attachment
            };
            open_with_key(&kept).await?;
            return Ok(show(&already, StatusCode::CREATED));
        }
        return Err(exists(&wanted.storage_url));
    }
    let vault = if wanted.attach { open_with_key(&attachment).await? } else { make(&attachment, &wanted).await? };
    let attached = take(&context, vault, attachment, wanted).await?;
    Ok(show(&attached, StatusCode::CREATED))
}

/// Attaches the vault with this id, for a gateway that was told where it is.
///
/// # Errors
/// Its storage can't be reached, the key doesn't open it, or another vault is there.
pub(crate) async fn attach(context: &Context, wanted: VaultCreate, id: VaultId) -> ApiResult<Arc<AttachedVault>> {
    wanted.validate()?;
    super::keys::admit(context, "encryption.kms_key", &wanted.encryption)?;
    outside_the_mount(context, &wanted.storage_url)?;
    let attachment = attachment(&wanted);
    let vault = open_with_key(&attachment).await?;
    if vault.id() != id {
        return Err(ApiError::conflict(format!(
            "{} holds the vault {}, and {id} was expected there",
            attachment.url,
            vault.id()
        )));
    }
    take(context, vault, attachment, wanted).await
}

/// A vault as a request says that it is reached; its id comes with opening it.
fn attachment(wanted: &VaultCreate) -> Attachment {
    Attachment {
        id: VaultId::from_bytes([0; 16]),
        name: wanted.name.clone(),
        url: wanted.storage_url.clone(),
        endpoint: wanted.storage_endpoint.clone(),
        region: wanted.storage_region.clone(),
        credentials: wanted.storage_credentials.clone().filter(|credentials| !credentials.is_empty()),
        proxy: wanted.storage_proxy.clone(),
        key_source: wanted.encryption.key_source,
        passphrase: wanted.encryption.passphrase.clone(),
        key_file: wanted.encryption.key_file.clone(),
        kms_key: wanted.encryption.kms_key.clone(),
    }
}

/// Attaches a vault that is open: from here on it is this gateway's.
async fn take(
    context: &Context,
    vault: OpenVault,
    mut attachment: Attachment,
    mut wanted: VaultCreate,
) -> ApiResult<Arc<AttachedVault>> {
    let info = vault.info();
    attachment.id = vault.id();
    if wanted.attach {
        attachment.name = info.name.clone();
        wanted.name = info.name;
        wanted.soft_delete_days = info.soft_delete_days;
        // Its own document says what else was decided.
        (wanted.immutability, wanted.second_approval) = (None, false);
    }
    if let Some(already) = context.vaults.get(attachment.id) {
        return Err(ApiError::conflict(format!(
            "the vault at {} is attached already, through {}",
            attachment.url, already.attachment.url
        )));
    }
    describe(&vault, &attachment, &wanted).await?;
    context
        .state
        .change_attachments(|all| {
            all.retain(|other| other.id != attachment.id);
            all.push(attachment.clone());
        })
        .map_err(|error| ApiError::new(ProblemCode::Internal, format!("{error:#}; the vault isn't attached")))?;
    let attached = Arc::new(AttachedVault::new(attachment, Some(vault)));
    attached.refresh().await?;
    context.vaults.insert(Arc::clone(&attached));
    context.wrote(&attached).await;
    tracing::info!(vault = %attached.id(), url = attached.attachment.url, attach = wanted.attach, "vault attached");
    Ok(attached)
}

/// Refuses a vault in a volume: what is written there would have to be kept there first.
fn outside_the_mount(context: &Context, url: &str) -> ApiResult<()> {
    let path = url.strip_prefix("file://").map(std::path::Path::new);
    match path.zip(context.exported.path()) {
        Some((path, mount)) if crate::adoption::leads_into(path, &mount) => Err(ApiError::field(
            "storage_url",
            format!(
                "{} lies in the gateway's own mount, {}, and so in a volume that the vault is to keep: choose another place",
                path.display(),
                mount.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// Replaces the credentials or the proxy of a vault that is attached, once they are seen to open it. What is open already
/// goes on with the old ones until the gateway restarts.
async fn renew(context: &Context, already: &AttachedVault, given: Attachment) -> ApiResult<Arc<AttachedVault>> {
    let old = &already.attachment;
    let attachment = Attachment {
        credentials: given.credentials.or_else(|| old.credentials.clone()),
        proxy: given.proxy.or_else(|| old.proxy.clone()),
        region: given.region.or_else(|| old.region.clone()),
        id: old.id,
        name: old.name.clone(),
        ..given
    };
    let vault = open_with_key(&attachment).await?;
    if vault.id() != attachment.id {
        return Err(ApiError::conflict(format!(
            "{} holds another vault than the one that is attached",
            attachment.url
        )));
    }
    context
        .state
        .change_attachments(|all| {
            all.retain(|other| other.id != attachment.id);
            all.push(attachment.clone());
        })
        .map_err(|error| ApiError::new(ProblemCode::Internal, format!("{error:#}; nothing was changed")))?;
    let renewed = Arc::new(AttachedVault::new(attachment, Some(vault)));
    renewed.refresh().await?;
    context.vaults.insert(Arc::clone(&renewed));
    tracing::info!(vault = %renewed.id(), "credentials of the vault's storage renewed");
    Ok(renewed)
}

fn exists(url: &str) -> ApiError {
    ApiError::conflict(format!(
        "there is a vault at {url} already: attach it (`attach`, or `lifeboat vault open`), or choose an empty place"
    ))
}

/// Errors of storage and key, under the field that they come from.
fn at_field(url: &str, error: VaultError) -> ApiError {
    match error.kind() {
        VaultErrorKind::WrongKey => ApiError::field("encryption", error.to_string()),
        VaultErrorKind::AlreadyExists | VaultErrorKind::Conflict => ApiError::conflict(format!(
            "{error}: attach it (`attach`, or `lifeboat vault open`), or choose an empty place"
        )),
        // A directory has no credentials: what is refused there is the place.
        VaultErrorKind::Denied if url.starts_with("file:") => ApiError::field("storage_url", error.to_string()),
        VaultErrorKind::Denied => ApiError::field("storage_credentials", error.to_string()),
        VaultErrorKind::NoBucket
        | VaultErrorKind::NotFound
        | VaultErrorKind::Unsafe
        | VaultErrorKind::Fatal
        | VaultErrorKind::NewerFormat => ApiError::field("storage_url", error.to_string()),
        _ => error.into(),
    }
}

async fn make(attachment: &Attachment, wanted: &VaultCreate) -> ApiResult<OpenVault> {
    let store = open_storage(&target(attachment), Access::Create)
        .await
        .map_err(|error| at_field(&attachment.url, error.into()))?;
    let store = Arc::new(MeteredStore::new(store));
    let mut settings = VaultSettings::new(wanted.name.clone());
    settings.soft_delete_days = wanted.soft_delete_days;
    let key = key(attachment).map_err(|error| at_field(&attachment.url, error))?;
    OpenVault::create(store, settings, &key, options()).await.map_err(|error| at_field(&attachment.url, error))
}

async fn open_with_key(attachment: &Attachment) -> ApiResult<OpenVault> {
    let store = open_storage(&target(attachment), Access::Open)
        .await
        .map_err(|error| at_field(&attachment.url, error.into()))?;
    let store = Arc::new(MeteredStore::new(store));
    let key = key(attachment).map_err(|error| at_field(&attachment.url, error))?;
    let vault = OpenVault::open(store, &key, options()).await.map_err(|error| at_field(&attachment.url, error))?;
    // Storage that was safe where the vault was made may not be as this gateway reaches it.
    vault.probe().await.map_err(|error| at_field(&attachment.url, error))?;
    Ok(vault)
}

/// Writes the vault's own document, unless it has one.
async fn describe(vault: &OpenVault, attachment: &Attachment, wanted: &VaultCreate) -> ApiResult<Arc<Document>> {
    let id = attachment.id.to_string();
    let spec = VaultSpec {
        name: wanted.name.clone(),
        storage_url: attachment.url.clone(),
        storage_endpoint: attachment.endpoint.clone(),
        storage_region: attachment.region.clone(),
        encryption: attachment.view(),
        soft_delete_days: wanted.soft_delete_days,
        immutability: wanted.immutability,
        second_approval: wanted.second_approval,
    };
    let value = serde_json::to_value(&spec).map_err(|error| ApiError::new(ProblemCode::Internal, error.to_string()))?;
    let catalog = vault.catalog();
    match catalog.get(kind::VAULTS, &id).await {
        Ok(document) => return Ok(document),
        Err(error) if error.kind() == VaultErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    match catalog.create(kind::VAULTS, &id, &spec.name, value.clone(), serde_json::json!({})).await {
        Ok(document) => Ok(document),
        Err(error) if error.kind() == VaultErrorKind::Conflict => {
            // It was deleted, that is, detached, and comes back.
            catalog.purge(kind::VAULTS, &id).await?;
            Ok(catalog.create(kind::VAULTS, &id, &spec.name, value, serde_json::json!({})).await?)
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn update(State(context): Shared, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let who = super::tokens::identity(&request)?;
    let generation = body::if_match(request.headers())?;
    let patch = body::json(request).await?;
    let attached = attached(&context, &id)?;
    let old = view::vault(&attached);
    body::check_generation(generation, old.generation)?;
    let mut merged =
        serde_json::to_value(&old.spec).map_err(|error| ApiError::new(ProblemCode::Internal, error.to_string()))?;
    body::merge(&mut merged, &patch);
    let new: VaultSpec = body::typed(&merged)?;
    for (field, same) in [
        ("name", old.spec.name == new.name),
        ("storage_url", old.spec.storage_url == new.storage_url),
        ("storage_endpoint", old.spec.storage_endpoint == new.storage_endpoint),
        ("storage_region", old.spec.storage_region == new.storage_region),
        ("encryption", old.spec.encryption == new.encryption),
    ] {
        if !same {
            return Err(ApiError::field(field, "can't be changed; declare a new vault instead"));
        }
    }
    protection(new.soft_delete_days, new.immutability)?;
    admit_protection(&attached, &old.spec, &new, &who)?;
    if let Some(what) = weakened(&old.spec, &new) {
        let exact = format!("PATCH /v1/vaults/{id}: {what}");
        let name = format!("change the vault {}: {what}", new.name);
        approvals::demand(&context, &attached, &who, Act { exact, name }).await?;
    }
    let vault = attached.vault()?;
    let mut settings = VaultSettings::new(vault.info().name);
    settings.soft_delete_days = new.soft_delete_days;
    vault.update_settings(settings).await?;
    vault.catalog().update_spec(kind::VAULTS, &id, generation, &new.name, merged).await.map_err(|error| match error
        .kind()
    {
        VaultErrorKind::Conflict => ApiError::new(ProblemCode::PreconditionFailed, error.to_string()),
        _ => error.into(),
    })?;
    context.wrote(&attached).await;
    Ok(show(&attached, StatusCode::OK))
}

/// Refuses what makes no sense, whatever stood there before.
fn protection(soft_delete_days: u32, immutability: Option<Immutability>) -> ApiResult<()> {
    let mut errors = Vec::new();
    lifeboat_api::validate::vault_protection("", soft_delete_days, immutability, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}

/// Refuses what an immutable vault lets nobody do, and what would leave nobody to approve anything.
fn admit_protection(attached: &AttachedVault, old: &VaultSpec, new: &VaultSpec, who: &Identity) -> ApiResult<()> {
    if let Some(locked) = old.immutability.filter(|immutability| immutability.mode == ImmutabilityMode::Locked) {
        let kept = new.immutability.is_some_and(|new| new.mode == locked.mode && new.days >= locked.days);
        if !kept {
            return Err(ApiError::field(
                "immutability",
                format!(
                    "is locked for {} days: it can be made longer, and neither shorter nor ended, by nobody",
                    locked.days
                ),
            ));
        }
    }
    if let Some(immutability) = new.immutability.filter(|_| new.immutability != old.immutability) {
        let snapshot = attached.snapshot();
        let shorter = |document: &&Arc<Document>| {
            let spec = document.spec_as::<PolicySpec>();
            spec.is_ok_and(|spec| approvals::too_short(&spec.retention, immutability).is_some())
        };
        let mut shorter: Vec<&str> =
            snapshot.of(kind::POLICIES).iter().filter(shorter).map(|document| document.name.as_str()).collect();
        // Also those that were deleted, and govern a group until it names another.
        let last = |group: &&Arc<Document>| {
            let (record, spec) = (status::<GroupRecord>(group), group.spec_as::<GroupSpec>());
            let policy = spec.ok().and_then(|spec| view::policy_of(&snapshot, &spec, &record));
            policy.is_some_and(|policy| approvals::too_short(&policy.retention, immutability).is_some())
        };
        if shorter.is_empty() {
            shorter.extend(snapshot.of(kind::GROUPS).iter().filter(last).map(|group| group.name.as_str()));
        }
        if !shorter.is_empty() {
            return Err(ApiError::field(
                "immutability",
                format!(
                    "needs every policy to keep recovery points for {} days, and {} don't: change them first",
                    immutability.days,
                    shorter.join(", ")
                ),
            ));
        }
    }
    if new.second_approval && !old.second_approval && !approvals::has_second(attached, &who.principal) {
        return Err(ApiError::field(
            "second_approval",
            "would leave nobody to approve anything: make a token with the role security_administrator for a second person first              (`lifeboat token create --role security_administrator`)",
        ));
    }
    Ok(())
}

/// What protects less than before.
fn weakened(old: &VaultSpec, new: &VaultSpec) -> Option<String> {
    let mut what = Vec::new();
    if new.soft_delete_days < old.soft_delete_days {
        what.push(format!(
            "deletions can be taken back for {} days instead of {}",
            new.soft_delete_days, old.soft_delete_days
        ));
    }
    let days = |spec: &VaultSpec| spec.immutability.map_or(0, |immutability| immutability.days);
    if days(new) < days(old) {
        what.push(format!("immutable for {} days instead of {}", days(new), days(old)));
    }
    if old.second_approval && !new.second_approval {
        what.push("no approval of a second person any more".to_owned());
    }
    (!what.is_empty()).then(|| what.join("; "))
}

pub(crate) async fn delete(State(context): Shared, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let who = super::tokens::identity(&request)?;
    let generation = body::if_match(request.headers())?;
    let attached = attached(&context, &id)?;
    let shown = view::vault(&attached);
    body::check_generation(generation, shown.generation)?;
    let snapshot = attached.refresh().await?;
    let mut blockers = Vec::new();
    for (kind, what) in [
        (kind::SITES, "site"),
        (kind::GATEWAYS, "gateway"),
        (kind::POLICIES, "policy"),
        (kind::GROUPS, "group"),
        (kind::VOLUMES, "volume"),
        (kind::NETWORKS, "network"),
        (kind::MACHINES, "machine"),
        (kind::PLANS, "plan"),
    ] {
        blockers.extend(snapshot.of(kind).iter().map(|document| format!("{what} {} ({})", document.name, document.id)));
    }
    if !blockers.is_empty() {
        return Err(in_the_way("vault", &shown.spec.name, blockers));
    }
    let name = format!("detach the vault {}", shown.spec.name);
    approvals::demand(&context, &attached, &who, Act { exact: format!("DELETE /v1/vaults/{id}"), name }).await?;
    match attached.vault()?.catalog().delete(kind::VAULTS, &id, None).await {
        Ok(_) => {}
        Err(error) if error.kind() == VaultErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    context
        .state
        .change_attachments(|all| all.retain(|other| other.id != attached.id()))
        .map_err(|error| ApiError::new(ProblemCode::Internal, format!("{error:#}")))?;
    context.vaults.remove(attached.id());
    context.audit.forget(attached.id());
    context.wake.notify_one();
    tracing::info!(vault = id, "vault detached; its objects stay where they are");
    Ok(StatusCode::NO_CONTENT.into_response())
}
