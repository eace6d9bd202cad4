//! Keys of vaults: `GET /v1/vaults/{id}/keys` and the verbs `add-key`, `remove-key`, `verify-key`, `rotate-key`.
//!
//! They act at once and answer what they did instead of beginning a job: a key must not be written down, and a job is.
//! Each can be repeated: a key that is there is not added again, a slot that is gone is not removed again, and a rotation
//! names the master key that it replaces. A rotation goes on when the request that began it is given up; one that was
//! broken off by a crash is finished by whichever gateway has the vault open next.
//!
//! A key in a key management service is a program that runs as this gateway. Whoever may use the API must not choose
//! it: only programs that the gateway was started with are run.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path as Segment, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::Validate;
use lifeboat_api::{
    AddKeyRequest, EncryptionKey, KeyRotation, KeySourceKind, ProblemCode, RemoveKeyRequest, RotateKeyRequest,
    VaultKeySlot, VaultKeys, VerifiedKey, VerifyKeyRequest,
};
use lifeboat_model::state::Health;
use lifeboat_vault::{KeySource, VaultError, VaultErrorKind, VaultInfo};
use serde_json::Value;

use super::Shared;
use super::body;
use super::error::{ApiError, ApiResult};
use super::vaults::attached;
use crate::approvals::{self, Act};
use crate::auth::Identity;
use crate::context::{Context, Happening};
use crate::vaults::{AttachedVault, key_of};

pub(crate) async fn list(State(context): Shared, Segment(id): Segment<String>) -> ApiResult<Json<VaultKeys>> {
    let attached = attached(&context, &id)?;
    let info = attached.vault()?.refresh().await.map_err(at_vault)?;
    Ok(Json(view(&info)))
}

fn view(info: &VaultInfo) -> VaultKeys {
    let slots = info.keys.iter();
    VaultKeys {
        vault_id: info.id,
        master_key: info.master,
        rewrapping: info.rewrapping,
        slots: slots
            .map(|slot| VaultKeySlot { slot: slot.slot, source: slot.source.clone(), created: slot.created })
            .collect(),
    }
}

pub(crate) async fn verb(
    State(context): Shared,
    Segment(segment): Segment<String>,
    request: Request,
) -> ApiResult<Response> {
    let who = super::tokens::identity(&request)?;
    let (id, verb) = super::verbs::split(&segment)?;
    let (id, verb) = (id.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    let attached = attached(&context, &id)?;
    match verb.as_str() {
        "add-key" => add(&context, &attached, &body, &who).await,
        "remove-key" => remove(&context, &attached, &body, &who).await,
        "verify-key" => verify(&context, &attached, &body).await,
        "rotate-key" => rotate(&context, &attached, &body, &who).await,
        other => Err(ApiError::new(
            ProblemCode::NotFound,
            format!("a vault has no verb {other:?}; there are add-key, remove-key, verify-key and rotate-key"),
        )),
    }
}

/// A key from outside: well-formed, and no program that this gateway wasn't given.
fn key_from(context: &Context, field: &str, key: &EncryptionKey) -> ApiResult<KeySource> {
    key.validate()?;
    admit(context, field, key)?;
    key_of(key).map_err(|error| ApiError::field(field, error.to_string()))
}

/// Refuses a program that the gateway wasn't started with.
pub(crate) fn admit(context: &Context, field: &str, key: &EncryptionKey) -> ApiResult<()> {
    let Some(name) = key.kms_key.as_deref().filter(|_| key.key_source == KeySourceKind::Kms) else { return Ok(()) };
    let program = name.strip_prefix("command:").unwrap_or_default().split('?').next().unwrap_or_default();
    if context.settings.kms_programs.iter().any(|known| known == Path::new(program)) {
        return Ok(());
    }
    Err(ApiError::field(
        field,
        format!(
            "this gateway doesn't run {program}: start it with --kms-programs {program} (or LIFEBOAT_KMS_PROGRAMS), since \
             the API alone must not choose what runs there"
        ),
    ))
}

/// A key that doesn't open the vault is the sender's concern, not a failure of ours.
fn at_vault(error: VaultError) -> ApiError {
    match error.kind() {
        VaultErrorKind::WrongKey => ApiError::conflict(error.to_string()),
        _ => error.into(),
    }
}

async fn add(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    body: &Value,
    who: &Identity,
) -> ApiResult<Response> {
    let wanted: AddKeyRequest = body::typed(body)?;
    let key = key_from(context, "key", &wanted.key)?;
    let vault = attached.vault()?;
    // What opens the vault opens everything in it.
    if vault.slots_of(&key).await?.is_empty() {
        let exact = format!("POST /v1/vaults/{}:add-key: a {}", attached.id(), word(&wanted.key));
        let name = format!("let another {} open the vault {}", word(&wanted.key), attached.attachment.name);
        approvals::demand(context, attached, who, Act { exact, name }).await?;
    }
    let before = vault.info().keys.len();
    let info = vault.add_key(&key).await.map_err(|error| match error.kind() {
        VaultErrorKind::WrongKey => ApiError::field("key", error.to_string()),
        _ => error.into(),
    })?;
    if wanted.r#use {
        vault.use_key(&key).await.map_err(at_vault)?;
        remember(context, attached, &wanted.key).await?;
    }
    if info.keys.len() > before {
        happened(context, attached, "vault.key-added", format!("a {} opens the vault from now on", word(&wanted.key)))
            .await;
    }
    Ok((StatusCode::OK, Json(view(&info))).into_response())
}

const fn word(key: &EncryptionKey) -> &'static str {
    match key.key_source {
        KeySourceKind::Passphrase => "passphrase",
        KeySourceKind::KeyFile => "key file",
        KeySourceKind::Kms => "KMS key",
    }
}

/// This gateway opens the vault with that key after its next start.
async fn remember(context: &Arc<Context>, attached: &AttachedVault, key: &EncryptionKey) -> ApiResult<()> {
    let mut attachment = attached.attachment.clone();
    attachment.set_key(key);
    context
        .state
        .change_attachments(|all| {
            all.iter_mut().filter(|known| known.id == attachment.id).for_each(|known| *known = attachment.clone());
        })
        .map_err(|error| ApiError::new(ProblemCode::Internal, format!("{error:#}; this gateway keeps its old key")))?;
    let renewed = Arc::new(AttachedVault::new(attachment, Some(attached.vault()?)));
    renewed.refresh().await?;
    context.vaults.insert(renewed);
    Ok(())
}

async fn remove(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    body: &Value,
    who: &Identity,
) -> ApiResult<Response> {
    let wanted: RemoveKeyRequest = body::typed(body)?;
    let vault = attached.vault()?;
    if vault.info().keys.iter().any(|key| key.slot == wanted.slot) {
        let exact = format!("POST /v1/vaults/{}:remove-key: slot {}", attached.id(), wanted.slot);
        let name = format!("let key slot {} open the vault {} no more", wanted.slot, attached.attachment.name);
        approvals::demand(context, attached, who, Act { exact, name }).await?;
    }
    let before = vault.info().keys.len();
    let info = vault.remove_key(wanted.slot).await.map_err(at_vault)?;
    if info.keys.len() < before {
        let what = format!("key slot {} opens the vault no more", wanted.slot);
        happened(context, attached, "vault.key-removed", what).await;
    }
    Ok((StatusCode::OK, Json(view(&info))).into_response())
}

async fn verify(context: &Arc<Context>, attached: &AttachedVault, body: &Value) -> ApiResult<Response> {
    let wanted: VerifyKeyRequest = body::typed(body)?;
    let key = key_from(context, "key", &wanted.key)?;
    let slots = attached.vault()?.slots_of(&key).await?;
    Ok((StatusCode::OK, Json(VerifiedKey { slots })).into_response())
}

async fn rotate(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    body: &Value,
    who: &Identity,
) -> ApiResult<Response> {
    let wanted: RotateKeyRequest = body::typed(body)?;
    let mut keys = Vec::new();
    for (index, key) in wanted.keys.iter().enumerate() {
        keys.push(key_from(context, &format!("keys[{index}]"), key)?);
    }
    let vault = attached.vault()?;
    if wanted.drop_others && vault.info().master <= wanted.from {
        let exact = format!("POST /v1/vaults/{}:rotate-key: from {}, dropping others", attached.id(), wanted.from);
        let name = format!("let only the keys that are given open the vault {}", attached.attachment.name);
        approvals::demand(context, attached, who, Act { exact, name }).await?;
    }
    // By itself: whoever asked may be gone before it is done.
    let rotation =
        context.tasks.spawn(async move { vault.rotate_master(wanted.from, &keys, wanted.drop_others).await });
    let done = rotation
        .await
        .map_err(|error| ApiError::new(ProblemCode::Internal, format!("the rotation broke off: {error}; ask again")))?
        .map_err(at_vault)?;
    if done.made {
        let what = format!("the vault has master key {}; {} keys were wrapped anew", done.master, done.rewrapped);
        happened(context, attached, "vault.key-rotated", what).await;
    }
    let answer = KeyRotation {
        master_key: done.master,
        made: done.made,
        dropped_slots: done.dropped,
        rewrapped: done.rewrapped,
        resealed: done.resealed,
        left_behind: done.left_behind,
    };
    Ok((StatusCode::OK, Json(answer)).into_response())
}

async fn happened(context: &Context, attached: &AttachedVault, kind: &'static str, message: String) {
    let event = Happening { severity: Health::Healthy, kind, message, group: None, volume: None, job: None };
    context.event(attached, event).await;
}
