//! Who asks: the administrator of this gateway, or who holds a token of one of its vaults.
//!
//! The administrator's token is a file of the state directory and has every role: the way in when there is no vault, or nobody
//! who could make a token. Tokens are documents of the catalog. They are looked up by the id in their text, in the copy of the
//! catalog, so that a request waits for no vault; a revocation holds here at once where it was asked for, and elsewhere with the
//! next copy. Only hashes are kept, and compared in constant time.
//!
//! When a token was last used is written down beside the request, once an hour at most; a crash forgets an hour.

mod limits;
mod secret;

pub(crate) use secret::{Hash, fresh, hash, hex};

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time;
use lifeboat_api::{Principal, PrincipalKind, Role};
use lifeboat_model::{Timestamp, TokenId};
use lifeboat_vault::Document;

use crate::context::Context;
use crate::records::{TokenRecord, TokenSpecRecord, kind, status};
use crate::state_dir::StateDir;
use crate::vaults::AttachedVault;

/// How exactly it is known when a token was last used.
const USE_NOTED_EVERY: Duration = Duration::from_secs(3600);
/// How long noting it may take.
const NOTE_TIMEOUT: Duration = Duration::from_secs(20);

/// Somebody who was let in. A machine, by its certificate, is a principal without roles: what asks for a role needs to know
/// nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) principal: Principal,
    pub(crate) roles: Vec<Role>,
    pub(crate) expires: Option<Timestamp>,
    /// When its use should be noted: the token, and when it was noted last.
    used: Option<(TokenId, Option<Timestamp>)>,
}

impl Identity {
    /// A machine: it may do what is a machine's, and nothing that takes a role.
    pub(crate) fn machine(principal: Principal, expires: Timestamp) -> Self {
        Self { principal, roles: Vec::new(), expires: Some(expires), used: None }
    }
}

/// Why somebody isn't let in. A name is told only to who has shown the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no token, or not in the right place.
    Missing,
    /// No such token, or not with this secret.
    Unknown,
    /// It has ended.
    Expired(String),
    /// This secret has ended, the token has another one.
    Replaced(String),
    /// It isn't known, and a vault that may have it could not be read yet.
    Unsure,
}

/// Decides about tokens.
#[derive(Debug)]
pub(crate) struct Gate {
    administrator: Hash,
    /// Tokens whose use was noted by this process, and when.
    noted: Mutex<HashMap<TokenId, Timestamp>>,
    /// Tokens that were revoked here: they are refused although the copy of the catalog can't be renewed.
    revoked: Mutex<HashSet<TokenId>>,
    pub(crate) strangers: limits::Strangers,
    pub(crate) haste: limits::Haste,
}

impl Gate {
    /// Takes the administrator's token from the state directory; makes one of 256 random bits when there is none.
    pub(crate) fn open(state: &StateDir) -> anyhow::Result<Self> {
        let token = state.text_or_make("admin.token", secret::administrators)?;
        Ok(Self {
            administrator: hash(&token),
            noted: Mutex::default(),
            revoked: Mutex::default(),
            strangers: limits::Strangers::default(),
            haste: limits::Haste::default(),
        })
    }

    /// Who sends this `Authorization` header.
    pub(crate) fn identify(
        &self,
        header: Option<&http::HeaderValue>,
        gateway: &str,
        vaults: &[Arc<AttachedVault>],
        now: Timestamp,
    ) -> Result<Identity, Refusal> {
        let token = header.and_then(bearer).ok_or(Refusal::Missing)?;
        let shown = hash(token);
        if constant_time::verify_slices_are_equal(&shown, &self.administrator).is_ok() {
            let principal = Principal { kind: PrincipalKind::Administrator, id: None, name: gateway.to_owned() };
            return Ok(Identity { principal, roles: Role::ALL.to_vec(), expires: None, used: None });
        }
        let id = secret::id_of(token).ok_or(Refusal::Unknown)?;
        if self.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains(&id) {
            return Err(Refusal::Unknown);
        }
        let mut unread = false;
        for vault in vaults {
            let snapshot = vault.snapshot();
            unread |= !snapshot.is_read();
            if let Some(document) = snapshot.get(kind::TOKENS, &id.to_string()) {
                return holder(document, id, &shown, now);
            }
        }
        Err(if unread { Refusal::Unsure } else { Refusal::Unknown })
    }

    /// Lets nobody in with this token any more, whatever the copy of the catalog says.
    pub(crate) fn revoke(&self, id: TokenId) {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Whether the use of a token is to be written down now; who is told so, does it.
    fn is_to_be_noted(&self, id: TokenId, last: Option<Timestamp>, now: Timestamp) -> bool {
        let recent = |when: &Timestamp| now.seconds_since(*when) < USE_NOTED_EVERY.as_secs_f64();
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(recent) || noted.get(&id).is_some_and(recent) {
            return false;
        }
        // What is older than that says nothing any more: the table never grows past the tokens of an hour.
        noted.retain(|_, when| recent(when));
        noted.insert(id, now);
        true
    }
}

fn bearer(header: &http::HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The holder of a token whose document was found.
fn holder(document: &Document, id: TokenId, shown: &Hash, now: Timestamp) -> Result<Identity, Refusal> {
    let record: TokenRecord = status(document);
    let equal =
        |kept: &str| constant_time::verify_slices_are_equal(secret::hex(shown).as_bytes(), kept.as_bytes()).is_ok();
    // Every secret is compared, whichever it is.
    let mut found = None;
    for secret in &record.secrets {
        if equal(&secret.hash) {
            found = Some(secret);
        }
    }
    let secret = found.ok_or(Refusal::Unknown)?;
    let name = || document.name.clone();
    if record.is_expired(now) {
        return Err(Refusal::Expired(name()));
    }
    if secret.is_over(now) {
        return Err(Refusal::Replaced(name()));
    }
    // A document that this version can't read gives nothing.
    let spec = document.spec_as::<TokenSpecRecord>().unwrap_or_default();
    Ok(Identity {
        principal: Principal { kind: PrincipalKind::Token, id: Some(id.to_string()), name: name() },
        roles: spec.known_roles(),
        expires: record.expires,
        used: Some((id, record.last_used)),
    })
}

/// Has it written down, beside the request, that a token was used.
pub(crate) fn note_use(context: &Arc<Context>, identity: &Identity) {
    let Some((id, last)) = identity.used else { return };
    let now = Timestamp::now();
    if !context.gate.is_to_be_noted(id, last, now) {
        return;
    }
    let (stop, context_of_task) = (context.stop.clone(), Arc::clone(context));
    context.tasks.spawn(stop.run_until_cancelled_owned(async move {
        let noting = tokio::time::timeout(NOTE_TIMEOUT, note(&context_of_task, id, now)).await;
        match noting {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(token = %id, %error, "the use of a token can't be written down"),
            Err(_) => tracing::debug!(token = %id, "the use of a token wasn't written down in time"),
        }
    }));
}

async fn note(context: &Context, id: TokenId, now: Timestamp) -> Result<(), lifeboat_vault::VaultError> {
    let id = id.to_string();
    for attached in context.vaults.all() {
        if attached.snapshot().get(kind::TOKENS, &id).is_none() {
            continue;
        }
        let mut change = |document: &Document| {
            let mut record = document.status_as::<TokenRecord>().ok()?;
            record.last_used = record.last_used.max(Some(now));
            serde_json::to_value(&record).ok()
        };
        attached.vault()?.catalog().update_status(kind::TOKENS, &id, &mut change).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
