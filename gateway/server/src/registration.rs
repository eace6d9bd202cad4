//! This gateway's own registration by key: it enrols at one that has the vault, learns where that is, and attaches it.
//!
//! ```text
//! STATE/register.json ──start──┐
//! POST /v1/registration ───────┴─> enrol at an endpoint ──> the vault's place ──key and credentials of its own──> attached
//!                                   │ not reached: again      │ kept, mode 0600    │ missing: waits, and says what to type
//!                                   └ refused: says why       └ survives a restart └ the reconciler takes the declaration up
//! ```
//! `register.json` is left by whoever sets this machine up before the gateway runs: it is taken in at the next start and removed.
//! `registration.json` is this module's own. Both may hold a registration key and what opens the vault, which go as soon as they have done
//! their part; with a local key the second is encrypted.
//!
//! What opens the vault never comes over the network: it is given here, was there at the start (`--vault-key-file`, `--vault-kms-key`), or
//! is found where the enrolling gateway has it too, at the same path or under the same name. Every step can be done again: the same key pair
//! asks again after a lost answer, and what was learnt is kept before it is used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use lifeboat_api::validate::Validate;
use lifeboat_api::{
    ClientErrorKind, EncryptionKey, GatewayEnrolment, KeySourceKind, ProblemCode, RegisterRequest, Registration,
    RegistrationState, Secret, VaultCreate, VaultPlace,
};
use lifeboat_identity::{MachineError, Newcomer, RegistrationKeyText, enrol_gateway, forget_newcomer};
use lifeboat_model::state::Health;
use lifeboat_model::{GatewayId, RegistrationKeyId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::context::Context;
use crate::http::error::{ApiError, ApiResult};
use crate::http::{admit_key, attach};
use crate::state_dir::StateDir;

const INBOX: &str = "register.json";
pub(crate) const KEPT: &str = "registration.json";
const VERSION: u32 = 1;
/// Time between two tries, from the first to the longest.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(30);
/// Time between two looks whether what opens the vault has come.
const LOOK: Duration = Duration::from_secs(2);

/// What somebody left for the next start.
#[derive(Debug, Deserialize)]
struct Left {
    version: u32,
    #[serde(flatten)]
    request: RegisterRequest,
}

/// What is kept of a registration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    version: u32,
    /// Until it is registered.
    request: Option<RegisterRequest>,
    /// Why the request isn't tried any more.
    refused: Option<String>,
    /// What the enrolment said.
    learnt: Option<Learnt>,
    /// The vault was attached.
    registered: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Learnt {
    key_id: RegistrationKeyId,
    gateway_id: GatewayId,
    name: String,
    site: String,
    vault: VaultPlace,
}

/// A gateway's registration.
#[derive(Debug, Default)]
pub(crate) struct Registrar {
    kept: Mutex<Kept>,
    /// Why the last try failed, if it is tried again.
    trouble: Mutex<Option<String>>,
    wake: Notify,
    /// One at a time goes on with it.
    alone: tokio::sync::Mutex<()>,
}

/// Why an enrolment failed.
enum Failed {
    /// Nobody could be asked: the same may succeed later.
    Later(String),
    /// Something is in the way that may go by itself.
    InTheWay(String),
    /// A person is needed.
    Refused(String),
}

impl Registrar {
    /// Takes up what was kept, and what was left since.
    ///
    /// # Errors
    /// The state directory can't be written.
    pub(crate) fn open(state: &StateDir) -> anyhow::Result<Self> {
        let mut kept = match state.secret(KEPT)? {
            None => Kept::default(),
            Some(text) => {
                let read: anyhow::Result<Kept> = serde_json::from_slice(&text).map_err(Into::into);
                let path = state.path().join(KEPT);
                let read =
                    read.with_context(|| format!("{} is damaged: remove it and register again", path.display()))?;
                if read.version > VERSION {
                    bail!(
                        "{} is of version {}, which a newer gateway wrote: start that one",
                        path.display(),
                        read.version
                    );
                }
                read
            }
        };
        match left(state) {
            Ok(None) => {}
            Ok(Some(request)) => {
                if take_in(&mut kept, request, !state.attachments()?.is_empty()) {
                    keep(state, &kept)?;
                }
                state.remove(INBOX);
            }
            Err(why) => {
                tracing::error!(why, "what was left for the registration can't be used");
                if kept.learnt.is_none() {
                    kept.refused = Some(why);
                }
                state.remove(INBOX);
            }
        }
        Ok(Self { kept: Mutex::new(kept), ..Self::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, state: &StateDir, change: impl FnOnce(&mut Kept)) -> anyhow::Result<()> {
        let mut changed = self.kept().clone();
        change(&mut changed);
        keep(state, &changed)?;
        *self.kept() = changed;
        Ok(())
    }

    fn say(&self, trouble: Option<String>) {
        let mut said = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != trouble
            && let Some(why) = &trouble
        {
            tracing::warn!("not registered yet: {why}");
        }
        *said = trouble;
    }

    /// What is wrong with it, for the gateway's health.
    pub(crate) fn trouble(&self, context: &Context) -> Option<(Health, String)> {
        let shown = shown(context);
        let health = match shown.state {
            RegistrationState::NotAsked | RegistrationState::Registered => return None,
            RegistrationState::Enrolling => Health::Warning,
            RegistrationState::Refused | RegistrationState::WaitingForVault => Health::Critical,
        };
        Some((health, shown.message))
    }
}

/// What was left for this start.
fn left(state: &StateDir) -> Result<Option<RegisterRequest>, String> {
    let path = state.path().join(INBOX);
    let unusable = |why: String| format!("{} can't be used, and was removed: {why}; register again", path.display());
    let text = match state.secret(INBOX) {
        Ok(None) => return Ok(None),
        Ok(Some(text)) => text,
        Err(error) => return Err(unusable(format!("{error:#}"))),
    };
    let left: Left = serde_json::from_slice(&text).map_err(|error| {
        // The text may be a secret: where it breaks is enough.
        unusable(format!("line {}, column {} makes no sense", error.line(), error.column()))
    })?;
    if left.version != VERSION {
        return Err(unusable(format!("it is of version {}, and {VERSION} is known here", left.version)));
    }
    let wrong = |errors: Vec<lifeboat_api::FieldError>| {
        let errors: Vec<String> =
            errors.into_iter().map(|error| format!("{} {}", error.field, error.message)).collect();
        unusable(errors.join("; "))
    };
    left.request.validate().map_err(wrong)?;
    Ok(Some(left.request))
}

/// Takes in what was left; whether anything changed. The same key again brings nothing but what opens the vault.
fn take_in(kept: &mut Kept, request: RegisterRequest, attached: bool) -> bool {
    let key = RegistrationKeyText::parse(request.key.expose().trim()).map(|key| key.id);
    let known = kept.learnt.as_ref().map(|learnt| learnt.key_id);
    let same = known.is_some() && known == key;
    if same && (kept.registered || attached) {
        return false;
    }
    if attached {
        tracing::warn!("a registration key was left for this gateway, which has a vault already: it isn't used");
        return false;
    }
    let learnt = kept.learnt.take().filter(|_| same);
    *kept = Kept { version: VERSION, request: Some(request), refused: None, learnt, registered: false };
    true
}

fn keep(state: &StateDir, kept: &Kept) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(kept).context("writing the registration down")?;
    state.write_secret(KEPT, &text)
}

/// How far it is.
pub(crate) fn shown(context: &Context) -> Registration {
    let kept = context.registration.kept().clone();
    let trouble = context.registration.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let state_path = context.state.path().display();
    let attached = kept.learnt.as_ref().is_some_and(|learnt| context.vaults.get(learnt.vault.id).is_some());
    let (state, message) = match (&kept.learnt, &kept.request) {
        (Some(learnt), _) if attached => (
            RegistrationState::Registered,
            format!(
                "registered as the gateway {} at the site {}, with the vault {}",
                learnt.name, learnt.site, learnt.vault.name
            ),
        ),
        (Some(learnt), _) if kept.registered => (
            RegistrationState::NotAsked,
            format!("the vault {} that this gateway was registered with was detached since", learnt.vault.name),
        ),
        (Some(learnt), _) => {
            let why = trouble.unwrap_or_else(|| "it is being opened".to_owned());
            let message = format!(
                "known as the gateway {} at the site {}, and the vault {} at {} isn't open here: {why}. Its place is known, so to open it by \
                 hand type: lifeboat vault open --key-file FILE --state {state_path}",
                learnt.name, learnt.site, learnt.vault.name, learnt.vault.storage_url
            );
            (RegistrationState::WaitingForVault, message)
        }
        (None, _) if kept.refused.is_some() => (RegistrationState::Refused, kept.refused.clone().unwrap_or_default()),
        (None, Some(request)) => {
            let why = trouble.map_or_else(String::new, |why| format!(": {why}"));
            (RegistrationState::Enrolling, format!("registering at {}{why}", request.endpoints.join(", ")))
        }
        (None, None) => (RegistrationState::NotAsked, "no registration by key was asked for".to_owned()),
    };
    let learnt = kept.learnt;
    Registration {
        state,
        message,
        gateway_id: learnt.as_ref().map(|learnt| learnt.gateway_id),
        site: learnt.as_ref().map(|learnt| learnt.site.clone()),
        vault: learnt.map(|learnt| learnt.vault),
    }
}

/// Registers now: one try to enrol, and one to attach the vault. What can't be opened yet is tried again by itself.
///
/// # Errors
/// `Conflict` for what was refused and when there is a vault already, `Unavailable` when no endpoint was reached; nothing was kept then
/// but the key pair that makes it the same registration when it is tried again.
pub(crate) async fn register(context: &Arc<Context>, request: RegisterRequest) -> ApiResult<Registration> {
    let registrar = &context.registration;
    let _one = registrar.alone.lock().await;
    if let Some(key) = &request.vault_key {
        admit_key(context, "vault_key.kms_key", key)?;
    }
    let key = RegistrationKeyText::parse(request.key.expose().trim())
        .ok_or_else(|| ApiError::field("key", MachineError::Key.to_string()))?;
    let learnt = registrar.kept().learnt.clone().filter(|learnt| learnt.key_id == key.id);
    if learnt.is_none() {
        refuse_attached(context.vaults.all().iter().map(|vault| vault.attachment.name.as_str()), || {
            context.vaults.get(key.vault).is_some()
        })
        .map_err(ApiError::conflict)?;
        let learnt = enrol(context, &request).await.map_err(|failed| match failed {
            Failed::Later(why) => ApiError::new(ProblemCode::Unavailable, why),
            Failed::InTheWay(why) | Failed::Refused(why) => ApiError::conflict(why),
        })?;
        took(context, learnt, Some(request))?;
    } else if !registrar.kept().registered {
        registrar.change(&context.state, |kept| kept.request = Some(request)).map_err(internal)?;
    }
    registrar.say(open(context).await.err());
    // Goes on with it from here.
    registrar.wake.notify_one();
    Ok(shown(context))
}

/// A gateway registers with its first vault only: another one is attached by who has its key.
fn refuse_attached<'a>(names: impl Iterator<Item = &'a str>, same: impl Fn() -> bool) -> Result<(), String> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(match same() {
        true => format!(
            "this gateway has the vault {} already: there is nothing to register. It takes its declaration up by its name and site \
             (lifeboat gateway list)",
            names.join(" and ")
        ),
        false => format!(
            "this gateway has another vault already, {}: a gateway registers with its first one only. Attach a further one with its key: \
             lifeboat vault open URL --key-file FILE",
            names.join(" and ")
        ),
    })
}

fn internal(error: anyhow::Error) -> ApiError {
    ApiError::new(ProblemCode::Internal, format!("{error:#}"))
}

/// Keeps what the enrolment said, before anything is done with it.
fn took(context: &Context, learnt: Learnt, request: Option<RegisterRequest>) -> ApiResult<()> {
    tracing::info!(
        gateway = learnt.name,
        site = learnt.site,
        vault = %learnt.vault.id,
        url = learnt.vault.storage_url,
        "enrolled: the vault's place is known"
    );
    let kept = Kept { version: VERSION, request, refused: None, learnt: Some(learnt), registered: false };
    context.registration.change(&context.state, |now| *now = kept).map_err(internal)?;
    forget_newcomer(context.state.path());
    Ok(())
}

async fn enrol(context: &Context, request: &RegisterRequest) -> Result<Learnt, Failed> {
    let newcomer = Newcomer {
        name: &context.settings.name,
        site: context.settings.site.as_deref(),
        process_id: context.state.process_id(),
        version: env!("CARGO_PKG_VERSION"),
        address: Some(&context.address),
    };
    ask(context.state.path(), request, newcomer).await
}

async fn ask(state: &Path, request: &RegisterRequest, newcomer: Newcomer<'_>) -> Result<Learnt, Failed> {
    let key = request.key.expose().trim();
    let parts = RegistrationKeyText::parse(key).ok_or_else(|| Failed::Refused(MachineError::Key.to_string()))?;
    let GatewayEnrolment { gateway_id, name, site, vault, .. } =
        enrol_gateway(state, key, &request.endpoints, newcomer).await.map_err(judge)?;
    Ok(Learnt { key_id: parts.id, gateway_id, name, site, vault })
}

/// Whether trying again may help.
fn judge(error: MachineError) -> Failed {
    let text = error.to_string();
    match error {
        MachineError::Asking(asking) => match asking.kind() {
            // A certificate that isn't believed: another machine may answer there as yet, or a clock is wrong.
            ClientErrorKind::Unauthorized if asking.as_problem().is_none() => {
                let off = text.contains("not valid yet") || text.contains("expired");
                let clock = if off {
                    format!("; this machine's clock shows {}: set it if that is wrong", Timestamp::now())
                } else {
                    String::new()
                };
                Failed::InTheWay(format!("{text}{clock}"))
            }
            ClientErrorKind::NotFound => Failed::Refused(format!(
                "{text}: that gateway is of a version that registers no gateways; bring it up to date, or open the vault by hand \
                 (lifeboat vault open URL --key-file FILE)"
            )),
            ClientErrorKind::Unauthorized
            | ClientErrorKind::Forbidden
            | ClientErrorKind::Invalid
            | ClientErrorKind::Usage => Failed::Refused(text),
            // What is in the way (a gateway of that name that was heard of just now, a clock) may go.
            ClientErrorKind::Conflict => Failed::InTheWay(text),
            ClientErrorKind::Unreachable | ClientErrorKind::Failed => Failed::Later(text),
        },
        MachineError::Key | MachineError::Enrolled { .. } | MachineError::NotEnrolled(_) => Failed::Refused(text),
        MachineError::Files(_) | MachineError::Answer(_) | MachineError::Crypto(_) => Failed::Later(text),
    }
}

/// Attaches the vault with what there is; the reason why not.
async fn open(context: &Arc<Context>) -> Result<(), String> {
    let Kept { request, learnt: Some(learnt), .. } = context.registration.kept().clone() else { return Ok(()) };
    if learnt.name != context.settings.name {
        return Err(format!(
            "it was registered as {} and is started as {}: start it with --name {0}",
            learnt.name, context.settings.name
        ));
    }
    if context.vaults.get(learnt.vault.id).is_none() {
        let (given, credentials) = request.map_or((None, None), |asked| (asked.vault_key, asked.storage_credentials));
        let encryption =
            given.or_else(|| context.settings.vault_key.clone()).map_or_else(|| found(context, &learnt), Ok)?;
        let credentials = credentials.filter(|given: &BTreeMap<String, Secret>| !given.is_empty());
        let wanted = VaultCreate {
            name: learnt.vault.name.clone(),
            storage_url: learnt.vault.storage_url.clone(),
            storage_endpoint: learnt.vault.storage_endpoint.clone(),
            storage_region: learnt.vault.storage_region.clone(),
            storage_credentials: credentials,
            storage_proxy: None,
            encryption,
            soft_delete_days: lifeboat_api::default_soft_delete_days(),
            immutability: None,
            second_approval: false,
            attach: true,
        };
        attach(context, wanted, learnt.vault.id).await.map_err(|error| error.0.detail.clone())?;
        tracing::info!(gateway = learnt.name, site = learnt.site, vault = %learnt.vault.id, "registered: the vault is attached");
    }
    settle(context);
    Ok(())
}

/// The vault is attached: what opened it is with the attached vaults, and nothing of the request is needed any more.
fn settle(context: &Context) {
    let done = |kept: &mut Kept| {
        kept.request = None;
        kept.registered = true;
    };
    if let Err(error) = context.registration.change(&context.state, done) {
        // It is done again at the next start.
        tracing::warn!(error = format!("{error:#}"), "that this gateway is registered can't be written down");
    }
}

/// What opens the vault at the gateway that enrolled this one, if it is here too.
fn found(context: &Context, learnt: &Learnt) -> Result<EncryptionKey, String> {
    let there = &learnt.vault.encryption;
    let key = EncryptionKey {
        key_source: there.key_source,
        passphrase: None,
        key_file: there.key_file.clone(),
        kms_key: there.kms_key.clone(),
    };
    match there.key_source {
        KeySourceKind::KeyFile => {
            let path = there.key_file.as_deref().unwrap_or_default();
            if Path::new(path).is_file() {
                return Ok(key);
            }
            Err(format!(
                "its key is missing: there is no file {path}, and the gateway wasn't started with --vault-key-file"
            ))
        }
        KeySourceKind::Kms => match admit_key(context, "kms_key", &key) {
            Ok(()) => Ok(key),
            Err(error) => Err(format!("its key is missing: {}", error.0.detail)),
        },
        KeySourceKind::Passphrase => Err("its passphrase is missing".to_owned()),
    }
}

/// Goes on with a registration for as long as the gateway runs.
pub(crate) async fn run(context: Arc<Context>) {
    let registrar = &context.registration;
    let mut wait = *RETRY.start();
    loop {
        let step = {
            let _one = registrar.alone.lock().await;
            step(&context).await
        };
        let pause = match step {
            Step::Nothing => None,
            Step::Look => Some(LOOK),
            Step::Again => {
                let now = wait;
                wait = wait.saturating_mul(2).min(*RETRY.end());
                Some(now)
            }
        };
        let waited = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = registrar.wake.notified() => wait = *RETRY.start(),
            () = waited => {}
        }
    }
}

/// When to go on.
enum Step {
    /// When somebody asks for something.
    Nothing,
    /// Soon: what is missing may come.
    Look,
    /// Later and later: what failed may work.
    Again,
}

async fn step(context: &Arc<Context>) -> Step {
    let registrar = &context.registration;
    let Kept { request, refused, learnt, registered, .. } = registrar.kept().clone();
    if registered || (learnt.is_none() && (refused.is_some() || request.is_none())) {
        return Step::Nothing;
    }
    if learnt.is_none() {
        let Some(request) = request else { return Step::Nothing };
        match enrol(context, &request).await {
            Ok(learnt) => {
                if let Err(error) = took(context, learnt, Some(request)) {
                    registrar.say(Some(error.0.detail.clone()));
                    return Step::Again;
                }
            }
            Err(Failed::Later(why) | Failed::InTheWay(why)) => {
                registrar.say(Some(why));
                return Step::Again;
            }
            Err(Failed::Refused(why)) => {
                tracing::error!("not registered: {why}");
                // The key is of no use any more.
                let kept = Kept { version: VERSION, refused: Some(why), ..Kept::default() };
                if let Err(error) = registrar.change(&context.state, |now| *now = kept) {
                    registrar.say(Some(format!("{error:#}")));
                    return Step::Again;
                }
                return Step::Nothing;
            }
        }
    }
    match open(context).await {
        Ok(()) => {
            registrar.say(None);
            Step::Nothing
        }
        Err(why) => {
            let missing = why.contains("is missing");
            registrar.say(Some(why));
            if missing { Step::Look } else { Step::Again }
        }
    }
}

/// Registers a gateway that doesn't run: it enrols now, and attaches the vault when it is started.
///
/// # Errors
/// One sentence: it runs, has a vault, its files are encrypted, the key was refused, no endpoint was reached.
pub async fn enrol_stopped(
    state: &Path,
    name: &str,
    site: Option<&str>,
    request: RegisterRequest,
) -> anyhow::Result<Registration> {
    if state.join(crate::local_key::NAME).exists() {
        bail!(
            "the files of the state directory {} are encrypted: start the gateway, and register it while it runs",
            state.display()
        );
    }
    let state = StateDir::take(state)?;
    let key = RegistrationKeyText::parse(request.key.expose().trim()).context(MachineError::Key.to_string())?;
    let vaults = state.attachments()?;
    refuse_attached(vaults.iter().map(|vault| vault.name.as_str()), || {
        vaults.iter().any(|vault| vault.id == key.vault)
    })
    .map_err(anyhow::Error::msg)?;
    let newcomer =
        Newcomer { name, site, process_id: state.process_id(), version: env!("CARGO_PKG_VERSION"), address: None };
    let learnt = match ask(state.path(), &request, newcomer).await {
        Ok(learnt) => learnt,
        Err(Failed::Later(why) | Failed::InTheWay(why) | Failed::Refused(why)) => bail!(why),
    };
    let shown = Registration {
        state: RegistrationState::WaitingForVault,
        message: format!(
            "known as the gateway {} at the site {}; started with this name and state directory, it opens the vault {} at {} with its key",
            learnt.name, learnt.site, learnt.vault.name, learnt.vault.storage_url
        ),
        gateway_id: Some(learnt.gateway_id),
        site: Some(learnt.site.clone()),
        vault: Some(learnt.vault.clone()),
    };
    keep(
        &state,
        &Kept { version: VERSION, request: Some(request), refused: None, learnt: Some(learnt), registered: false },
    )?;
    forget_newcomer(state.path());
    Ok(shown)
}

#[cfg(test)]
mod tests;
