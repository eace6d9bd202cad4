//! Verbs on volumes: `POST /v1/volumes/{id}:rotate-key` and `:erase`.
//!
//! A new data key is made in the vault and noted in the volume's document, which tells the gateway that serves the volume
//! to take it up. Erasing destroys keys for good: it wants the volume's name, and is refused while the volume is
//! declared unless forced. Both can be repeated.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::{
    EraseRequest, Immutability, ProblemCode, RotateVolumeKeyRequest, VolumeErasure, VolumeKey, VolumeSpec,
};
use lifeboat_model::VolumeId;
use lifeboat_model::state::Health;
use lifeboat_vault::{Document, VaultErrorKind};
use serde_json::Value;

use super::Shared;
use super::body;
use super::error::{ApiError, ApiResult};
use crate::approvals::{self, Act};
use crate::auth::Identity;
use crate::context::{Context, Happening};
use crate::records::{VolumeRecord, kind, status};
use crate::vaults::AttachedVault;

pub(crate) async fn verb(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let (id, verb) = super::verbs::split(&segment)?;
    let who = super::tokens::identity(&request)?;
    let (id, verb) = (id.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    match verb.as_str() {
        "rotate-key" => rotate(&context, &id, &body).await,
        "erase" => erase(&context, &id, &body, &who).await,
        other => Err(ApiError::new(
            ProblemCode::NotFound,
            format!("a volume has no verb {other:?}; there are rotate-key and erase"),
        )),
    }
}

async fn rotate(context: &Arc<Context>, id: &str, body: &Value) -> ApiResult<Response> {
    let wanted: RotateVolumeKeyRequest = body::typed(body)?;
    let (attached, document) = context.require(kind::VOLUMES, "volume", id).await?;
    let volume: VolumeId = id.parse().map_err(|_| ApiError::not_found("volume", id))?;
    let vault = attached.vault()?;
    let unready = |error: lifeboat_vault::VaultError| match error.kind() {
        VaultErrorKind::NotFound => {
            ApiError::conflict(format!("{} has no key yet: wait until it is protected", document.name))
        }
        _ => error.into(),
    };
    let newest = vault.reload_volume_keys(volume).await.map_err(unready)?;
    let data_key = vault.rotate_volume_key(volume, wanted.from.unwrap_or(newest)).await.map_err(unready)?;
    note(&attached, id, |record| record.data_key = record.data_key.max(data_key)).await?;
    context.wrote(&attached).await;
    if data_key > newest {
        let message = format!("volume {} writes under data key {data_key} from its next segment on", document.name);
        happened(context, &attached, Health::Healthy, "volume.key-rotated", volume, message).await;
    }
    Ok((StatusCode::OK, Json(VolumeKey { volume_id: volume, data_key })).into_response())
}

/// Notes in a volume's document what the gateway that serves it has to know.
async fn note(attached: &AttachedVault, id: &str, change: impl Fn(&mut VolumeRecord) + Send + Sync) -> ApiResult<()> {
    let vault = attached.vault()?;
    let mut put = |document: &Document| {
        let mut record: VolumeRecord = status(document);
        change(&mut record);
        serde_json::to_value(&record).ok()
    };
    vault.catalog().update_status(kind::VOLUMES, id, &mut put).await?;
    Ok(())
}

async fn erase(context: &Arc<Context>, id: &str, body: &Value, who: &Identity) -> ApiResult<Response> {
    let wanted: EraseRequest = body::typed(body)?;
    let volume: VolumeId = id.parse().map_err(|_| ApiError::not_found("volume", id))?;
    let (attached, declared, document) = find(context, volume).await?;
    let called = |document: &Arc<Document>| {
        document.spec_as::<VolumeSpec>().map_or_else(|_| document.name.clone(), |spec| spec.name)
    };
    let name = document.as_ref().map_or_else(|| id.to_owned(), called);
    if wanted.confirm != name {
        return Err(ApiError::field(
            "confirm",
            format!("must be {name:?}, the volume whose keys are to be destroyed for good"),
        ));
    }
    if declared && !wanted.force {
        return Err(ApiError::conflict(format!(
            "volume {name} is protected: delete it first, or erase it with `force` and lose all its recovery points while \
             it goes on being written"
        )));
    }
    let known = attached.vault()?.erasure(volume).await?.is_some();
    if !known {
        refuse_immutable(&attached, &name, declared, document.as_deref())?;
        let exact = format!("POST /v1/volumes/{id}:erase{}", if declared { ": though it is protected" } else { "" });
        let act = Act { exact, name: format!("destroy the keys of the volume {name}, and with them all its data") };
        approvals::demand(context, &attached, who, act).await?;
    }
    let by = format!("{}, at gateway {}", who.principal, context.settings.name);
    let erasure = attached.vault()?.erase_volume(volume, &by).await?;
    if declared {
        note(&attached, id, |record| record.erased = Some(erasure.erased)).await?;
        context.wrote(&attached).await;
    }
    if !known {
        let message =
            format!("the keys of volume {name} ({id}) were destroyed: nobody can read what it held in the vault");
        happened(context, &attached, Health::Warning, "volume.erased", volume, message).await;
    }
    let answer =
        VolumeErasure { volume_id: volume, erased: erasure.erased, by: erasure.by, left_behind: erasure.left_behind };
    Ok((StatusCode::OK, Json(answer)).into_response())
}

/// An immutable vault lets nobody destroy what was there within its days.
fn refuse_immutable(
    attached: &AttachedVault,
    name: &str,
    declared: bool,
    document: Option<&Document>,
) -> ApiResult<()> {
    let Some(Immutability { days, .. }) = approvals::immutability(attached) else { return Ok(()) };
    let deleted = document.filter(|_| !declared).map(|document| document.updated);
    let age = deleted.map(|deleted| lifeboat_model::Timestamp::now().seconds_since(deleted));
    if age.is_some_and(|age| age >= f64::from(days) * 86_400.0) {
        return Ok(());
    }
    let when = match deleted {
        Some(deleted) => format!("it was deleted {deleted}"),
        None if declared => "it is protected".to_owned(),
        None => "when it was deleted isn't known any more".to_owned(),
    };
    Err(ApiError::conflict(format!(
        "the vault {} is immutable for {days} days, and {when}: volume {name} can be erased {days} days after its deletion",
        attached.attachment.name
    )))
}

/// The vault that has a volume, whether the volume is declared there, and its document if that is still known. Deleted volumes
/// are what is erased as a rule, and their keys outlive their documents.
async fn find(context: &Context, volume: VolumeId) -> ApiResult<(Arc<AttachedVault>, bool, Option<Arc<Document>>)> {
    let id = volume.to_string();
    if let Some((attached, document)) = context.find(kind::VOLUMES, &id).await {
        return Ok((attached, true, Some(document)));
    }
    for attached in context.vaults.all() {
        let vault = attached.vault()?;
        let deleted = vault.catalog().list_deleted(kind::VOLUMES).await?;
        if let Some(document) = deleted.iter().find(|document| document.id == id) {
            return Ok((attached, false, Some(Arc::clone(document))));
        }
        match vault.reload_volume_keys(volume).await {
            Err(error) if error.kind() == VaultErrorKind::NotFound => {}
            // Erased before, or damaged: its keys are here, and erasing is the one thing left to do.
            _ => return Ok((attached, false, None)),
        }
    }
    Err(ApiError::not_found("volume", &id))
}

async fn happened(
    context: &Context,
    attached: &AttachedVault,
    severity: Health,
    kind: &'static str,
    volume: VolumeId,
    message: String,
) {
    let event = Happening { severity, kind, message, group: None, volume: Some(volume), job: None };
    context.event(attached, event).await;
}
