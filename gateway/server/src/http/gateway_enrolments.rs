//! Gateways that have no vault yet become known with a registration key, and are told where the vault is.
//!
//! ```text
//! registration key ──enrol(key, CSR, name)──> refused: nothing is written, the key stays good
//!        │                                     (clock, site, a living gateway of that name, roles beyond the key's)
//!        └──> used by that public key for that gateway ──> its declaration: the one that is there, or made ──> the vault's place
//!                    │ the same public key again: the same answer
//!                    └ another public key: refused
//! ```
//! As with agents the catalog decides who used a key, and everything after that can be done again. What opens the vault is never in an
//! answer, and no certificate is signed: a gateway's own says that it has the vault's key, and it makes itself one when it has.
//! Whether it serves under its name is decided later, by whoever opens the vault: see [`crate::reconcile`].

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lifeboat_api::validate::Validate;
use lifeboat_api::{
    GatewayEnrolRequest, GatewayEnrolment, GatewayRole, GatewaySpec, ProblemCode, Timestamp, VaultPlace,
};
use lifeboat_identity::{CLOCK_SKEW, RegistrationKeyText};
use lifeboat_model::GatewayId;
use lifeboat_vault::{Document, Vault, VaultErrorKind};
use serde_json::Value;

use super::agents::{certificate_request, not_valid, prove};
use super::error::{ApiError, ApiResult};
use super::{Shared, audited, body, tokens};
use crate::auth;
use crate::context::Context;
use crate::reconcile::TAKEN_FOR;
use crate::records::{GatewayRecord, RegistrationKeySpecRecord, UseRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

pub(crate) async fn enrol(State(context): Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = Request::from_parts(parts.clone(), Body::empty());
    match Newcomer::of(&context, Request::from_parts(parts, body)).await {
        Ok(newcomer) => {
            let by = format!("as {} with the registration key {}", newcomer.asked.name, newcomer.key.id);
            let act = async { newcomer.enrol(&context).await.into_response() };
            audited::run_for(&context, asked, by, act).await
        }
        // Counted with those who show a wrong token.
        Err(refused) => audited::refused(&context, &asked, refused).into_response(),
    }
}

/// A gateway that has shown the text of a registration key, and proven to have a private key.
struct Newcomer {
    attached: Arc<AttachedVault>,
    key: RegistrationKeyText,
    /// The hash of the text that was shown.
    shown: String,
    public_key: String,
    asked: GatewayEnrolRequest,
}

impl Newcomer {
    async fn of(context: &Context, request: Request) -> ApiResult<Self> {
        let asked: GatewayEnrolRequest = body::typed(&body::json(request).await?)?;
        asked.validate()?;
        let public_key = auth::hex(&certificate_request(&asked.csr)?.public_key());
        let key = RegistrationKeyText::parse(asked.key.expose()).ok_or_else(not_valid)?;
        let attached = context.vaults.get(key.vault).ok_or_else(not_valid)?;
        let shown = auth::hex(&auth::hash(asked.key.expose()));
        // By the copy of the catalog first: whoever guesses costs the vault one look, which all who guess share.
        let known = context.require(kind::REGISTRATION_KEYS, "registration key", &key.id.to_string()).await;
        let (_, known) =
            known.map_err(|error| if error.0.code == ProblemCode::NotFound { not_valid() } else { error })?;
        prove(&known, &shown)?;
        Ok(Self { attached, key, shown, public_key, asked })
    }

    async fn enrol(&self, context: &Context) -> ApiResult<Response> {
        let now = Timestamp::now();
        self.admit_clock(now)?;
        let vault = self.attached.vault()?;
        // Nobody else declares at this gateway meanwhile: what is decided by the copy of the catalog holds until it is written.
        let _alone = self.attached.alone().await?;
        let snapshot = self.attached.snapshot();
        let document = self.document(&vault).await?;
        let used = self.judge(&document, now)?;
        let allowed: RegistrationKeySpecRecord = document.spec_as()?;
        let site = snapshot.get(kind::SITES, &allowed.site_id.to_string()).map(|site| site.name.clone());
        let site = site.ok_or_else(|| {
            ApiError::conflict(
                "the site of the registration key was deleted: have another key made, for a site that there is",
            )
        })?;
        if let Some(own) = self.asked.site.as_ref().filter(|own| **own != site) {
            return Err(ApiError::conflict(format!(
                "the registration key is for a gateway at the site {site}, and this one was started for {own}: have a key made for that \
                 site, or start it with --site {site}"
            )));
        }
        let declared = self.declared(&snapshot, &allowed, &site)?;
        let id = match (&used, declared) {
            (Some(used), _) => used.gateway.ok_or_else(not_valid)?,
            (None, Some(declared)) => view::id(declared)?,
            (None, None) => view::gateway_of(self.key.id),
        };
        if used.is_none() {
            self.use_up(&vault, id, now).await?;
        }
        let new = match snapshot.get(kind::GATEWAYS, &id.to_string()) {
            Some(known) if known.name == self.asked.name => false,
            Some(known) => {
                return Err(ApiError::conflict(format!(
                    "the registration key was used for the gateway {}, and this one is named {}: start it with --name {0}, or have another \
                     key made",
                    known.name, self.asked.name
                )));
            }
            None => {
                self.declare(&vault, id, &allowed).await?;
                true
            }
        };
        context.wrote(&self.attached).await;
        if used.is_none() {
            let how = if new { "which is declared by that" } else { "which was declared before" };
            let message = format!(
                "the gateway {} ({id}), {how}, enrolled at the site {site} with the registration key {}, process {}",
                self.asked.name, self.key.id, self.asked.process_id
            );
            tokens::happened(context, &self.attached, "gateway.enrolled", message).await;
        }
        let answer = GatewayEnrolment {
            gateway_id: id,
            name: self.asked.name.clone(),
            site_id: allowed.site_id,
            site,
            vault: place(&self.attached),
            authority: self.attached.authority().await?.pem().to_owned(),
        };
        Ok((StatusCode::CREATED, Json(answer)).into_response())
    }

    /// A clock that is far off makes points of the wrong times, and a gateway that counts as dead.
    fn admit_clock(&self, now: Timestamp) -> ApiResult<()> {
        let off = self.asked.time.seconds_since(now) - now.seconds_since(self.asked.time);
        if off.abs() <= CLOCK_SKEW.as_secs_f64() {
            return Ok(());
        }
        let side = if off > 0.0 { "ahead of" } else { "behind" };
        Err(ApiError::conflict(format!(
            "the clock of the gateway that registers shows {}, {:.0} seconds {side} this one's ({now}): set it (chronyc makestep, \
             timedatectl set-ntp true) and try again; the registration key is still good",
            self.asked.time,
            off.abs()
        )))
    }

    async fn document(&self, vault: &Vault) -> ApiResult<Arc<Document>> {
        let found = vault.catalog().get(kind::REGISTRATION_KEYS, &self.key.id.to_string()).await;
        found.map_err(|error| if error.kind() == VaultErrorKind::NotFound { not_valid() } else { error.into() })
    }

    /// Whether the key is good for this gateway, and its use when it is the one that used it already.
    fn judge(&self, document: &Document, now: Timestamp) -> ApiResult<Option<UseRecord>> {
        let record = prove(document, &self.shown)?;
        let refuse = |what: &str| {
            let detail = format!("the registration key {} {what}: have another one made", document.name);
            Err(ApiError::new(ProblemCode::Unauthorized, detail))
        };
        if record.is_expired(now) {
            return refuse("has ended");
        }
        if document.spec_as::<RegistrationKeySpecRecord>()?.gateway_roles().is_empty() {
            return refuse("isn't for a gateway (--role process_server, …)");
        }
        match record.used {
            Some(used) if used.public_key == self.public_key => Ok(Some(used)),
            Some(used) => refuse(&format!("was used by another machine at {}", used.time)),
            None => Ok(None),
        }
    }

    /// The declaration under the gateway's name, if there is one that it may take up.
    fn declared<'a>(
        &self,
        snapshot: &'a Snapshot,
        allowed: &RegistrationKeySpecRecord,
        site: &str,
    ) -> ApiResult<Option<&'a Arc<Document>>> {
        let (name, process) = (&self.asked.name, &self.asked.process_id);
        let refuse = |why: String| Err(ApiError::conflict(why));
        let of_process = snapshot.of(kind::GATEWAYS).iter().find(|document| {
            status::<GatewayRecord>(document).process_id.as_ref() == Some(process) && document.name != *name
        });
        if let Some(other) = of_process {
            return refuse(format!(
                "this process's state directory is that of the gateway {} already, and it is started as {name}: start it under its own name, \
                 or with a state directory of its own",
                other.name
            ));
        }
        let Some(document) = snapshot.of(kind::GATEWAYS).iter().find(|document| document.name == *name) else {
            return Ok(None);
        };
        let record: GatewayRecord = status(document);
        if record.agent {
            return refuse(format!("{name} is the name of an agent here: start this gateway with another --name"));
        }
        let spec: GatewaySpec = document.spec_as()?;
        if spec.site_id != allowed.site_id {
            let there = view::site_name(snapshot, spec.site_id).unwrap_or_else(|| spec.site_id.to_string());
            return refuse(format!(
                "the gateway {name} is declared at the site {there}, and the registration key is for {site}: have a key made for {there}, or \
                 start this gateway with another --name"
            ));
        }
        let other = record.process_id.as_ref().is_some_and(|other| other != process);
        if other && view::is_alive(&record, TAKEN_FOR) {
            return refuse(format!(
                "the gateway {name} is at work: another process was heard of under this name within {TAKEN_FOR:?}. Stop it if this one is to \
                 take its place, and try again after that; otherwise start this one with another --name"
            ));
        }
        let roles = spec.roles.unwrap_or_else(|| GatewayRole::ALL.to_vec());
        let may = allowed.gateway_roles();
        let beyond: Vec<&str> = roles.iter().filter(|role| !may.contains(role)).map(|role| role.as_str()).collect();
        if !beyond.is_empty() {
            return refuse(format!(
                "the gateway {name} is declared as {}, which the registration key isn't for: have a key made with that role, or declare the \
                 gateway without it",
                beyond.join(" and ")
            ));
        }
        Ok(Some(document))
    }

    /// Uses the key up for this gateway, unless another machine did since it was looked at.
    async fn use_up(&self, vault: &Vault, id: GatewayId, now: Timestamp) -> ApiResult<()> {
        let mut refused = None;
        let mut spend = |document: &Document| -> Option<Value> {
            refused = None;
            let spent = (|| {
                if self.judge(document, now)?.is_some() {
                    return Ok(None);
                }
                let mut record = prove(document, &self.shown)?;
                let public_key = self.public_key.clone();
                record.used = Some(UseRecord { time: now, public_key, gateway: Some(id) });
                tokens::value(&record).map(Some)
            })();
            spent.unwrap_or_else(|error| {
                refused = Some(error);
                None
            })
        };
        let key = self.key.id.to_string();
        let changed = vault.catalog().update_status(kind::REGISTRATION_KEYS, &key, &mut spend).await;
        let document = changed
            .map_err(|error| if error.kind() == VaultErrorKind::NotFound { not_valid() } else { error.into() })?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        // The same machine at another gateway at the same moment: it goes by what was written.
        let used = prove(&document, &self.shown)?.used;
        match used.and_then(|used| used.gateway) {
            Some(other) if other == id => Ok(()),
            _ => Err(ApiError::conflict("the same registration was asked for at another gateway just now: try again")),
        }
    }

    async fn declare(&self, vault: &Vault, id: GatewayId, allowed: &RegistrationKeySpecRecord) -> ApiResult<()> {
        let roles = allowed.gateway_roles();
        // All of them is what a gateway has that is declared without any.
        let all = GatewayRole::ALL.iter().all(|role| roles.contains(role));
        let spec = GatewaySpec {
            site_id: allowed.site_id,
            name: self.asked.name.clone(),
            roles: (!all).then_some(roles),
            mount_path: None,
        };
        let (spec, none) = (tokens::value(&spec)?, tokens::value(&GatewayRecord::default())?);
        let made = vault.catalog().create(kind::GATEWAYS, &id.to_string(), &self.asked.name, spec, none).await;
        made.map(drop).map_err(|error| match error.kind() {
            VaultErrorKind::Conflict => ApiError::new(
                ProblemCode::Unauthorized,
                format!(
                    "the gateway {} that enrolled with this registration key was deleted since: have another key made",
                    self.asked.name
                ),
            ),
            _ => error.into(),
        })
    }
}

/// Where a vault is, by how this gateway reaches it.
fn place(attached: &AttachedVault) -> VaultPlace {
    let attachment = &attached.attachment;
    VaultPlace {
        id: attachment.id,
        name: attachment.name.clone(),
        storage_url: attachment.url.clone(),
        storage_endpoint: attachment.endpoint.clone(),
        storage_region: attachment.region.clone(),
        encryption: attachment.view(),
    }
}
