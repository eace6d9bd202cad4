//! Tokens: made, listed, rotated, renewed, revoked; and `GET /v1/whoami`.
//!
//! A secret is drawn here, stands in one answer, and is gone: what is kept is its hash. So a POST that is repeated under its
//! idempotency key can't have the same answer again; it is a conflict that says how to get another secret. A rotation that is
//! repeated rotates again, which costs nothing: nobody has seen the secret in between, and it ends with the grace period.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::{Validate, parse_duration};
use lifeboat_api::{
    NewToken, Page, Principal, ProblemCode, RenewTokenRequest, Role, RotateTokenRequest, Timestamp, Token, TokenCreate,
    Whoami,
};
use lifeboat_model::state::Health;
use lifeboat_model::{TokenId, VaultId};
use lifeboat_vault::{Document, VaultErrorKind};
use serde_json::Value;

use super::Shared;
use super::body;
use super::error::{ApiError, ApiResult};
use crate::approvals::{self, Act};
use crate::auth::{Identity, fresh};
use crate::context::{Context, Happening};
use crate::records::{SecretRecord, TokenRecord, TokenSpecRecord, kind};
use crate::vaults::AttachedVault;
use crate::view;

/// Tokens of a vault: every gateway keeps a copy of all of them.
const TOKENS_MAX: usize = 1000;
/// Secrets of a token that are valid at a time.
const SECRETS_MAX: usize = 8;

/// Who sends a request.
pub(super) fn identity(request: &Request) -> ApiResult<Arc<Identity>> {
    let found = request.extensions().get::<Arc<Identity>>();
    found.cloned().ok_or_else(|| ApiError::new(ProblemCode::Internal, "nobody was authenticated"))
}

pub(crate) async fn whoami(State(context): Shared, request: Request) -> ApiResult<Json<Whoami>> {
    let identity = identity(&request)?;
    Ok(Json(Whoami {
        principal: identity.principal.clone(),
        roles: identity.roles.clone(),
        expires: identity.expires,
        gateway: context.settings.name.clone(),
    }))
}

pub(crate) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<Token>>> {
    super::reads::listed(&context, request.uri().query(), kind::TOKENS, view::token).await
}

pub(crate) async fn read(State(context): Shared, Path(id): Path<String>) -> ApiResult<Response> {
    let (attached, document) = context.require(kind::TOKENS, "token", &id).await?;
    let token = view::token(&attached, &document)?;
    Ok(body::with_etag(StatusCode::OK, token.generation, &token))
}

pub(crate) async fn create(State(context): Shared, request: Request) -> ApiResult<Response> {
    let who = identity(&request)?;
    let by = who.principal.clone();
    let (bytes, repeatable) = body::new_id(request.headers(), kind::TOKENS)?;
    let id = TokenId::from_bytes(bytes);
    let wanted: TokenCreate = body::typed(&body::json(request).await?)?;
    wanted.validate()?;
    let attached = vault_for(&context, wanted.vault_id)?;
    if attached.snapshot().of(kind::TOKENS).len() >= TOKENS_MAX {
        return Err(ApiError::conflict(format!(
            "the vault {} has {TOKENS_MAX} tokens, which is as many as it takes: revoke those that nobody needs",
            attached.attachment.name
        )));
    }
    if wanted.roles.contains(&Role::SecurityAdministrator) {
        let until = wanted.ttl.as_deref().map_or_else(String::new, |ttl| format!(", for {ttl}"));
        let name = format!("make the token {} with the role security_administrator{until}", wanted.name);
        let roles: Vec<&str> = wanted.roles.iter().map(|role| role.as_str()).collect();
        let exact = format!("POST /v1/tokens: {:?} with {}{until}", wanted.name, roles.join(", "));
        approvals::demand(&context, &attached, &who, Act { exact, name }).await?;
    }
    let now = Timestamp::now();
    let (secret, hash) = draw(id)?;
    let spec = TokenSpecRecord {
        roles: wanted.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        created_by: Some(by.clone()),
    };
    let record = TokenRecord {
        expires: wanted.ttl.as_deref().map(|ttl| after(now, "ttl", ttl)).transpose()?,
        last_used: None,
        secrets: vec![SecretRecord { hash, created: now, ends: None }],
    };
    let catalog = attached.vault()?;
    let made =
        catalog.catalog().create(kind::TOKENS, &id.to_string(), &wanted.name, value(&spec)?, value(&record)?).await;
    let document = match made {
        Ok(document) => document,
        Err(error) if repeatable && error.kind() == VaultErrorKind::Conflict => {
            return Err(match catalog.catalog().get(kind::TOKENS, &id.to_string()).await {
                Ok(document) => made_before(&document),
                Err(_) => ApiError::conflict("the idempotency key made a token that was revoked since: use a new key"),
            });
        }
        Err(error) => return Err(error.into()),
    };
    context.wrote(&attached).await;
    let until = record.expires.map_or_else(String::new, |end| format!(", until {end}"));
    let message = format!("{by} made the token {} ({id}) with the roles {}{until}", wanted.name, spec.roles.join(", "));
    happened(&context, &attached, "token.created", message).await;
    let token = view::token(&attached, &document)?;
    Ok(body::with_etag(StatusCode::CREATED, token.generation, &NewToken { token, secret }))
}

/// The answer to a POST that was carried out before.
fn made_before(document: &Document) -> ApiError {
    ApiError::conflict(format!(
        "the idempotency key made the token {} ({1}) already, and its secret stood in the answer to that request only: have another \
         one made with POST /v1/tokens/{1}:rotate (`lifeboat token rotate {1}`), or revoke it and use a new key",
        document.name, document.id
    ))
}

pub(crate) async fn verb(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let by = identity(&request)?;
    let (id, verb) = super::verbs::split(&segment)?;
    let (id, verb) = (id.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    match verb.as_str() {
        "rotate" => rotate(&context, &id, &body, &by).await,
        "renew" => renew(&context, &id, &body, &by.principal).await,
        other => Err(ApiError::new(
            ProblemCode::NotFound,
            format!("a token has no verb {other:?}; there are rotate and renew"),
        )),
    }
}

async fn rotate(context: &Arc<Context>, id: &str, body: &Value, who: &Identity) -> ApiResult<Response> {
    let wanted: RotateTokenRequest = body::typed(body)?;
    wanted.validate()?;
    let (attached, document) = context.require(kind::TOKENS, "token", id).await?;
    let by = &who.principal;
    // Its new secret would make whoever asks a second person.
    if approvals::secures(&document) && by.id.as_deref() != Some(id) {
        let name = format!("take the token {} over by giving it another secret", document.name);
        approvals::demand(context, &attached, who, Act { exact: format!("POST /v1/tokens/{id}:rotate"), name }).await?;
    }
    let now = Timestamp::now();
    let (secret, hash) = draw(view::id(&document)?)?;
    let grace = after(now, "grace", &wanted.grace)?;
    let document = change(&attached, id, now, |record| {
        for old in &mut record.secrets {
            old.ends = Some(old.ends.map_or(grace, |end| end.min(grace)));
        }
        record.secrets.retain(|old| !old.is_over(now));
        if record.secrets.len() >= SECRETS_MAX {
            return Err(ApiError::conflict(format!(
                "the token has {SECRETS_MAX} secrets that are still valid: rotate it with a grace of 0s, which ends them"
            )));
        }
        record.secrets.insert(0, SecretRecord { hash: hash.clone(), created: now, ends: None });
        Ok(())
    })
    .await?;
    attached.refresh().await?;
    context.wrote(&attached).await;
    let message = format!("{by} rotated the token {} ({id}): its old secrets end {grace}", document.name);
    happened(context, &attached, "token.rotated", message).await;
    let token = view::token(&attached, &document)?;
    Ok((StatusCode::OK, Json(NewToken { token, secret })).into_response())
}

async fn renew(context: &Context, id: &str, body: &Value, by: &Principal) -> ApiResult<Response> {
    let wanted: RenewTokenRequest = body::typed(body)?;
    wanted.validate()?;
    let (attached, _) = context.require(kind::TOKENS, "token", id).await?;
    let now = Timestamp::now();
    let end = after(now, "ttl", &wanted.ttl)?;
    let document = change(&attached, id, now, |record| {
        record.expires = Some(end);
        Ok(())
    })
    .await?;
    context.wrote(&attached).await;
    happened(
        context,
        &attached,
        "token.renewed",
        format!("{by} renewed the token {} ({id}) until {end}", document.name),
    )
    .await;
    let token = view::token(&attached, &document)?;
    Ok(body::with_etag(StatusCode::OK, token.generation, &token))
}

pub(crate) async fn delete(State(context): Shared, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let by = identity(&request)?.principal.clone();
    let generation = body::if_match(request.headers())?;
    let (attached, document) = context.require(kind::TOKENS, "token", &id).await?;
    body::check_generation(generation, document.generation)?;
    attached.vault()?.catalog().delete(kind::TOKENS, &id, None).await?;
    // At once, also when the copy of the catalog can't be renewed.
    context.gate.revoke(view::id(&document)?);
    context.wrote(&attached).await;
    happened(&context, &attached, "token.revoked", format!("{by} revoked the token {} ({id})", document.name)).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Changes what may change of a token that hasn't ended.
async fn change(
    attached: &AttachedVault,
    id: &str,
    now: Timestamp,
    mut edit: impl FnMut(&mut TokenRecord) -> ApiResult<()> + Send,
) -> ApiResult<Arc<Document>> {
    let mut refused = None;
    let mut put = |document: &Document| {
        refused = None;
        let edited = document.status_as::<TokenRecord>().map_err(ApiError::from).and_then(|mut record| {
            if record.is_expired(now) {
                return Err(ApiError::conflict(format!(
                    "the token {} ({}) has expired and stays so: make another",
                    document.name, document.id
                )));
            }
            edit(&mut record)?;
            value(&record)
        });
        edited.map_err(|error| refused = Some(error)).ok()
    };
    let document = attached.vault()?.catalog().update_status(kind::TOKENS, id, &mut put).await?;
    match refused {
        Some(error) => Err(error),
        None => Ok(document),
    }
}

/// The vault that keeps a new token.
fn vault_for(context: &Context, wanted: Option<VaultId>) -> ApiResult<Arc<AttachedVault>> {
    let mut all = context.vaults.all();
    if let Some(id) = wanted {
        return context
            .vaults
            .get(id)
            .ok_or_else(|| ApiError::field("vault_id", format!("this gateway isn't attached to a vault {id}")));
    }
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(ApiError::conflict(
            "this gateway has no vault, and tokens are kept in a vault: make or attach one first, with admin.token of the gateway's \
             state directory",
        )),
        (Some(_), false) => Err(ApiError::field("vault_id", "is required: this gateway is attached to several vaults")),
    }
}

fn draw(id: TokenId) -> ApiResult<(lifeboat_api::Secret, String)> {
    fresh(id).map_err(|error| ApiError::new(ProblemCode::Internal, format!("{error:#}")))
}

pub(crate) fn value(record: &impl serde::Serialize) -> ApiResult<Value> {
    serde_json::to_value(record).map_err(|error| ApiError::new(ProblemCode::Internal, error.to_string()))
}

pub(super) fn after(now: Timestamp, field: &str, duration: &str) -> ApiResult<Timestamp> {
    let duration: Duration = parse_duration(duration).map_err(|message| ApiError::field(field, message))?;
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_micros(now.as_micros().saturating_add(micros)))
}

pub(super) async fn happened(context: &Context, attached: &AttachedVault, kind: &'static str, message: String) {
    context.event(attached, Happening { severity: Health::Healthy, kind, message, ..Happening::default() }).await;
}
