//! Registration keys: made, listed, revoked. What they are for is in [`super::agents`].
//!
//! As with tokens, a text stands in one answer and is gone. A key is for one machine and lives an hour at most.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::Validate;
use lifeboat_api::{NewRegistrationKey, Page, ProblemCode, RegistrationKey, RegistrationKeyCreate, Secret, Timestamp};
use lifeboat_identity::RegistrationKeyText;
use lifeboat_model::RegistrationKeyId;
use lifeboat_vault::{Document, VaultErrorKind};

use super::error::{ApiError, ApiResult};
use super::{Shared, body, reads, tokens};
use crate::auth;
use crate::records::{RegistrationKeyRecord, RegistrationKeySpecRecord, kind};
use crate::view;

/// Registration keys of a vault: every gateway keeps a copy of all of them.
const KEYS_MAX: usize = 1000;

pub(crate) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<RegistrationKey>>> {
    reads::listed(&context, request.uri().query(), kind::REGISTRATION_KEYS, view::registration_key).await
}

pub(crate) async fn read(State(context): Shared, Path(id): Path<String>) -> ApiResult<Response> {
    let (attached, document) = context.require(kind::REGISTRATION_KEYS, "registration key", &id).await?;
    let key = view::registration_key(&attached, &document)?;
    Ok(body::with_etag(StatusCode::OK, key.generation, &key))
}

pub(crate) async fn create(State(context): Shared, request: Request) -> ApiResult<Response> {
    let by = tokens::identity(&request)?.principal.clone();
    let (bytes, repeatable) = body::new_id(request.headers(), kind::REGISTRATION_KEYS)?;
    let id = RegistrationKeyId::from_bytes(bytes);
    let wanted: RegistrationKeyCreate = body::typed(&body::json(request).await?)?;
    wanted.validate()?;
    let (attached, _) = super::resources::referred(&context, kind::SITES, "site_id", "site", &wanted.site_id).await?;
    if attached.snapshot().of(kind::REGISTRATION_KEYS).len() >= KEYS_MAX {
        return Err(ApiError::conflict(format!(
            "the vault {} has {KEYS_MAX} registration keys, which is as many as it takes: delete those that nobody needs",
            attached.attachment.name
        )));
    }
    let authority = attached.authority().await?;
    let vault = attached.vault()?;
    let text = RegistrationKeyText::new(attached.id(), id, vault.random()?, authority.fingerprint()).expose();
    let now = Timestamp::now();
    let spec = RegistrationKeySpecRecord {
        site_id: wanted.site_id,
        roles: wanted.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        created_by: Some(by.clone()),
    };
    let expires = tokens::after(now, "ttl", &wanted.ttl)?;
    let record = RegistrationKeyRecord { hash: auth::hex(&auth::hash(&text)), expires: Some(expires), used: None };
    let (spec_value, status) = (tokens::value(&spec)?, tokens::value(&record)?);
    let made = vault.catalog().create(kind::REGISTRATION_KEYS, &id.to_string(), &wanted.name, spec_value, status).await;
    let document = match made {
        Ok(document) => document,
        Err(error) if repeatable && error.kind() == VaultErrorKind::Conflict => {
            return Err(match vault.catalog().get(kind::REGISTRATION_KEYS, &id.to_string()).await {
                Ok(document) => made_before(&document),
                Err(_) => ApiError::conflict(
                    "the idempotency key made a registration key that was deleted since: use a new one",
                ),
            });
        }
        Err(error) => return Err(error.into()),
    };
    context.wrote(&attached).await;
    let message = format!(
        "{by} made the registration key {} ({id}) for a machine with the roles {}, until {expires}",
        wanted.name,
        spec.roles.join(", ")
    );
    tokens::happened(&context, &attached, "registration-key.created", message).await;
    let registration_key = view::registration_key(&attached, &document)?;
    let generation = registration_key.generation;
    let answer = NewRegistrationKey { registration_key, key: Secret::new(text.as_str().to_owned()) };
    Ok(body::with_etag(StatusCode::CREATED, generation, &answer))
}

/// The answer to a POST that was carried out before.
fn made_before(document: &Document) -> ApiError {
    ApiError::new(
        ProblemCode::Conflict,
        format!(
            "the idempotency key made the registration key {} ({1}) already, and its text stood in the answer to that request only: \
             delete it (`lifeboat registration-key delete {1}`) and make another under a new idempotency key",
            document.name, document.id
        ),
    )
}

pub(crate) async fn delete(State(context): Shared, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let by = tokens::identity(&request)?.principal.clone();
    let generation = body::if_match(request.headers())?;
    let (attached, document) = context.require(kind::REGISTRATION_KEYS, "registration key", &id).await?;
    body::check_generation(generation, document.generation)?;
    // Who enrols reads the document itself and no copy: from here on nobody does with this key, at any gateway.
    attached.vault()?.catalog().delete(kind::REGISTRATION_KEYS, &id, None).await?;
    context.wrote(&attached).await;
    let message = format!("{by} deleted the registration key {} ({id})", document.name);
    tokens::happened(&context, &attached, "registration-key.deleted", message).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}
