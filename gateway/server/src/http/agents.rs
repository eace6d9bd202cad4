//! Agents: they enrol with a registration key, renew their certificates, and are revoked.
//!
//! ```text
//! registration key: unused ──enrol(key, CSR)──> used by that public key ──> agent, with the key's digits ──> certificate, 24 h
//!                                                    │ the same public key again: the same agent, another certificate
//!                                                    └ another public key: refused
//! ```
//! The catalog decides who used a key: that it was used is a revision of its document, which one writer makes. Everything after
//! that can be done again, so a crash or a lost answer costs a repetition. A revoked agent is one whose document is gone.

use std::sync::Arc;

use aws_lc_rs::constant_time;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::Validate;
use lifeboat_api::{
    Agent, EnrolRequest, Enrolment, KnownProcessServers, MachineRole, Page, ProblemCode, RenewCertificateRequest,
    Timestamp,
};
use lifeboat_identity::{Issued, RegistrationKeyText, Request as CertificateRequest};
use lifeboat_model::AgentId;
use lifeboat_vault::{Document, Vault, VaultError, VaultErrorKind};
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::{Shared, audited, body, reads, tokens};
use crate::auth;
use crate::context::Context;
use crate::records::{
    AgentRecord, AgentSpecRecord, CertificateRecord, RegistrationKeyRecord, RegistrationKeySpecRecord, UseRecord, kind,
};
use crate::streams;
use crate::vaults::AttachedVault;
use crate::view;

pub(crate) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<Agent>>> {
    reads::listed(&context, request.uri().query(), kind::AGENTS, view::agent).await
}

pub(crate) async fn read(State(context): Shared, Path(id): Path<String>) -> ApiResult<Response> {
    let (attached, document) = context.require(kind::AGENTS, "agent", &id).await?;
    let agent = view::agent(&attached, &document)?;
    Ok(body::with_etag(StatusCode::OK, agent.generation, &agent))
}

pub(crate) async fn delete(State(context): Shared, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let by = tokens::identity(&request)?.principal.clone();
    let generation = body::if_match(request.headers())?;
    let (attached, document) = context.require(kind::AGENTS, "agent", &id).await?;
    body::check_generation(generation, document.generation)?;
    attached.vault()?.catalog().delete(kind::AGENTS, &id, None).await?;
    // At once, also when the copy of the catalog can't be renewed.
    context.revoked.add(view::id(&document)?);
    context.wrote(&attached).await;
    let message = format!("{by} revoked the agent {} ({id})", document.name);
    tokens::happened(&context, &attached, "agent.revoked", message).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn enrol(State(context): Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = Request::from_parts(parts.clone(), Body::empty());
    match Enrolling::of(&context, Request::from_parts(parts, body)).await {
        Ok(enrolling) => {
            let by = format!("with the registration key {}", enrolling.key.id);
            let act = async { enrolling.enrol(&context).await.into_response() };
            audited::run_for(&context, asked, by, act).await
        }
        // Counted with those who show a wrong token.
        Err(refused) => audited::refused(&context, &asked, refused).into_response(),
    }
}

/// Somebody who has shown the text of a registration key, and proven to have the private key of what is to be signed.
struct Enrolling {
    attached: Arc<AttachedVault>,
    key: RegistrationKeyText,
    /// The hash of the text that was shown.
    shown: String,
    csr: CertificateRequest,
    name: String,
}

impl Enrolling {
    async fn of(context: &Context, request: Request) -> ApiResult<Self> {
        let wanted: EnrolRequest = body::typed(&body::json(request).await?)?;
        wanted.validate()?;
        let csr = certificate_request(&wanted.csr)?;
        let key = RegistrationKeyText::parse(wanted.key.expose()).ok_or_else(not_valid)?;
        let attached = context.vaults.get(key.vault).ok_or_else(not_valid)?;
        let shown = auth::hex(&auth::hash(wanted.key.expose()));
        // By the copy of the catalog first: whoever guesses costs the vault one look, which all who guess share.
        let known = context.require(kind::REGISTRATION_KEYS, "registration key", &key.id.to_string()).await;
        let (_, known) =
            known.map_err(|error| if error.0.code == ProblemCode::NotFound { not_valid() } else { error })?;
        prove(&known, &shown)?;
        Ok(Self { attached, key, shown, csr, name: wanted.name })
    }

    async fn enrol(&self, context: &Context) -> ApiResult<Response> {
        let Self { attached, key, csr, .. } = self;
        let vault = attached.vault()?;
        let public_key = auth::hex(&csr.public_key());
        let used = use_up(&vault, key, &self.shown, &public_key).await?;
        let id = view::agent_of(key.id);
        let issued = sign(attached, csr, id).await?;
        let spec = AgentSpecRecord { site_id: used.site_id };
        let record = AgentRecord { public_key, certificate: Some(certificate_record(&issued)) };
        let (spec, status) = (tokens::value(&spec)?, tokens::value(&record)?);
        let id = id.to_string();
        let (document, new) = match vault.catalog().create(kind::AGENTS, &id, &self.name, spec, status).await {
            Ok(document) => (document, true),
            // Asked again since the answer was lost; or it was revoked since, and then it is gone for good.
            Err(error) if error.kind() == VaultErrorKind::Conflict => {
                (note_certificate(&vault, &id, &issued).await.map_err(gone)?, false)
            }
            Err(error) => return Err(error.into()),
        };
        context.wrote(attached).await;
        if new {
            let message = format!(
                "the agent {} ({id}) enrolled with the registration key {}; its certificate ends {}",
                document.name, key.id, issued.peer.not_after
            );
            tokens::happened(context, attached, "agent.enrolled", message).await;
        }
        answer(attached, &document, issued, StatusCode::CREATED).await
    }
}

/// Uses a registration key up for a public key, or finds that it did so before.
async fn use_up(
    vault: &Vault,
    key: &RegistrationKeyText,
    shown: &str,
    public_key: &str,
) -> ApiResult<RegistrationKeySpecRecord> {
    let now = Timestamp::now();
    let mut refused = None;
    let mut spend = |document: &Document| -> Option<Value> {
        let decided = spend(document, shown, public_key, now);
        refused = None;
        decided.unwrap_or_else(|error| {
            refused = Some(error);
            None
        })
    };
    let changed = vault.catalog().update_status(kind::REGISTRATION_KEYS, &key.id.to_string(), &mut spend).await;
    let document = changed.map_err(|error| match error.kind() {
        VaultErrorKind::NotFound => not_valid(),
        _ => error.into(),
    })?;
    if let Some(error) = refused {
        return Err(error);
    }
    Ok(document.spec_as::<RegistrationKeySpecRecord>()?)
}

/// The record of a registration key, for who has shown its text.
pub(super) fn prove(document: &Document, shown: &str) -> ApiResult<RegistrationKeyRecord> {
    let record: RegistrationKeyRecord = document.status_as()?;
    match constant_time::verify_slices_are_equal(record.hash.as_bytes(), shown.as_bytes()) {
        Ok(()) => Ok(record),
        Err(_) => Err(not_valid()),
    }
}

/// What becomes of a registration key that is shown with this public key: its new status, nothing new, or a refusal. What is
/// wrong with it is told only to who has shown its text.
fn spend(document: &Document, shown: &str, public_key: &str, now: Timestamp) -> ApiResult<Option<Value>> {
    let mut record = prove(document, shown)?;
    let refuse = |what: &str| {
        let detail = format!("the registration key {} {what}: have another one made", document.name);
        Err(ApiError::new(ProblemCode::Unauthorized, detail))
    };
    if record.is_expired(now) {
        return refuse("has ended");
    }
    let roles = document.spec_as::<RegistrationKeySpecRecord>()?.known_roles();
    if !roles.is_empty() && !roles.contains(&MachineRole::Agent) {
        return refuse("is for a gateway (`lifeboat gateway enrol`) and not for an agent");
    }
    if roles.is_empty() {
        return refuse("is for a kind of machine that this gateway doesn't know");
    }
    match &record.used {
        Some(used) if used.public_key == public_key => Ok(None),
        Some(used) => refuse(&format!("was used by another machine at {}", used.time)),
        None => {
            record.used = Some(UseRecord { time: now, public_key: public_key.to_owned(), gateway: None });
            tokens::value(&record).map(Some)
        }
    }
}

pub(crate) async fn verb(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let by = tokens::identity(&request)?.principal.clone();
    let (id, verb) = super::verbs::split(&segment)?;
    let (id, verb) = (id.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    match verb.as_str() {
        "renew" if by.id.as_deref() == Some(id.as_str()) => renew(&context, &id, &body).await,
        "renew" => Err(ApiError::new(
            ProblemCode::Forbidden,
            format!("{by} may have its own certificate renewed, and not that of {id}"),
        )),
        other => Err(ApiError::new(ProblemCode::NotFound, format!("an agent has no verb {other:?}; there is renew"))),
    }
}

pub(crate) async fn process_servers(
    State(context): Shared,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Json<KnownProcessServers>> {
    let by = tokens::identity(&request)?.principal.clone();
    if by.id.as_deref() != Some(id.as_str()) {
        let detail = format!("{by} may ask where it may go itself, and not where {id} may");
        return Err(ApiError::new(ProblemCode::Forbidden, detail));
    }
    let (attached, document) = context.require(kind::AGENTS, "agent", &id).await?;
    let spec: AgentSpecRecord = document.spec_as()?;
    let servers = streams::known(&context, &attached, Some(spec.site_id));
    Ok(Json(KnownProcessServers { servers: servers.into_iter().map(streams::shown).collect() }))
}

async fn renew(context: &Context, id: &str, body: &Value) -> ApiResult<Response> {
    let wanted: RenewCertificateRequest = body::typed(body)?;
    let csr = certificate_request(&wanted.csr)?;
    let (attached, document) = context.require(kind::AGENTS, "agent", id).await?;
    let record: AgentRecord = document.status_as()?;
    if record.public_key != auth::hex(&csr.public_key()) {
        return Err(ApiError::field(
            "csr",
            "must be for the key that the agent enrolled with: for another one, enrol it anew",
        ));
    }
    let issued = sign(&attached, &csr, view::id(&document)?).await?;
    // The document itself, and no copy, says whether it was revoked meanwhile.
    let document = note_certificate(&attached.vault()?, id, &issued).await.map_err(gone)?;
    context.wrote(&attached).await;
    tracing::info!(agent = id, until = %issued.peer.not_after, "certificate renewed");
    answer(&attached, &document, issued, StatusCode::OK).await
}

async fn sign(attached: &AttachedVault, csr: &CertificateRequest, id: AgentId) -> ApiResult<Issued> {
    let authority = attached.authority().await?;
    let issued = authority.sign(csr, &id.to_string(), Timestamp::now());
    issued.map_err(|error| ApiError::new(ProblemCode::Internal, error))
}

/// Writes the newest certificate down.
async fn note_certificate(vault: &Vault, id: &str, issued: &Issued) -> Result<Arc<Document>, VaultError> {
    let mut note = |document: &Document| {
        let mut record: AgentRecord = document.status_as().ok()?;
        record.certificate = Some(certificate_record(issued));
        serde_json::to_value(&record).ok()
    };
    vault.catalog().update_status(kind::AGENTS, id, &mut note).await
}

fn certificate_record(issued: &Issued) -> CertificateRecord {
    let peer = &issued.peer;
    CertificateRecord { serial: peer.serial.clone(), signed: Timestamp::now(), expires: peer.not_after }
}

async fn answer(
    attached: &AttachedVault,
    document: &Document,
    issued: Issued,
    status: StatusCode,
) -> ApiResult<Response> {
    let agent = view::agent(attached, document)?;
    let generation = agent.generation;
    let authority = attached.authority().await?.pem().to_owned();
    let enrolment = Enrolment { agent, certificate: issued.pem, expires: issued.peer.not_after, authority };
    Ok(body::with_etag(status, generation, &enrolment))
}

pub(super) fn certificate_request(pem: &str) -> ApiResult<CertificateRequest> {
    CertificateRequest::read(pem).map_err(|error| ApiError::field("csr", error.to_string()))
}

pub(super) fn not_valid() -> ApiError {
    ApiError::new(
        ProblemCode::Unauthorized,
        "the registration key isn't valid here: it was mistyped or deleted, or belongs to a vault that this gateway isn't attached to; \
         have another one made (`lifeboat registration-key create`)",
    )
}

/// An agent's document that isn't there is that of an agent that was revoked.
fn gone(error: VaultError) -> ApiError {
    match error.kind() {
        VaultErrorKind::NotFound => ApiError::new(
            ProblemCode::Unauthorized,
            "this machine was revoked: for it to come back, enrol it anew with another registration key",
        ),
        _ => error.into(),
    }
}
