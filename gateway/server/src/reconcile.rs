//! Reconciliation: brings what runs at this gateway in line with what the catalog says, over and over.
//!
//! ```text
//! look at every vault ─> register ─> groups: open, set up, resume, add and grow volumes, settings ─> jobs ─> report
//!        ^                                                                                              │
//!        └── intent written here (at once) · a job runs (300 ms) · interval (2 s) <─────────────────────┘
//! ```
//! It is the only part that acts on the engine besides the jobs, and it never does what a job is doing: a group that a
//! job has is left alone. A vault that can't be reached changes nothing about what runs. Nothing is kept here that a
//! crash could lose.

mod left;
mod silence;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_api::validate::{CompressionSetting, parse_compression, parse_duration, retention_tiers};
use lifeboat_api::{BandwidthLimit, GatewaySpec, GroupSpec, JobKind, PolicySpec, VolumeSpec, default_at_log_percent};
use lifeboat_engine::EngineError;
use lifeboat_engine::pace::PaceRule;
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{GatewayId, GroupId, JobId, Timestamp, VolumeId};
use lifeboat_vault::{Catalog, Document, VaultError, VaultErrorKind};

use crate::adoption;
use crate::collect;
use crate::context::{Context, Happening};
use crate::hooks::Scripts;
use crate::insight;
use crate::jobs;
use crate::port::{CompressionChoice, HeldVolume, Instance, Place, Settings};
use crate::records::{
    ActiveRecord, AnySpec, GatewayRecord, GroupRecord, HOME_INSTANCE, JobSpec, Observed, RegistrationKeyRecord,
    TokenRecord, VolumeRecord, kind, status,
};
use crate::runs;
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

pub(crate) use silence::Silences;

/// Time between two looks while a job concerns this gateway.
const BUSY_INTERVAL: Duration = Duration::from_millis(300);
/// How often a gateway says that it is there, and how its groups are doing.
const REPORT_INTERVAL: Duration = Duration::from_secs(20);
/// A gateway of the same name that was heard of since isn't replaced.
pub(crate) const TAKEN_FOR: Duration = Duration::from_secs(60);
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two tidyings of a vault, and the age from which what a crash left in storage is swept.
const TIDY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a token that ended is still shown.
const TOKENS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Events that are kept.
const EVENTS_MAX: usize = 2000;
/// Jobs that are over and kept.
const JOBS_MAX: usize = 500;
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
const JOURNAL_BYTES_MAX: u64 = 16 << 30;

/// Reconciles until the context is stopped. A look that panics is a fault of ours: it is logged, and the next one begins
/// from what the catalog says, as after a crash.
pub(crate) async fn supervise(context: Arc<Context>) {
    while let Err(error) = tokio::spawn(run(Arc::clone(&context))).await {
        tracing::error!(%error, "reconciliation broke off; it begins again");
        context.stop.clone().run_until_cancelled_owned(tokio::time::sleep(Duration::from_secs(1))).await;
    }
}

async fn run(context: Arc<Context>) {
    loop {
        let busy = tick(&context).await;
        let interval = if busy {
            BUSY_INTERVAL.min(context.settings.reconcile_interval)
        } else {
            context.settings.reconcile_interval
        };
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = context.wake.notified() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// One look at everything. Returns whether a job concerns this gateway.
pub(crate) async fn tick(context: &Arc<Context>) -> bool {
    let mut busy = false;
    let mut troubles = Vec::new();
    for attached in context.vaults.all() {
        match attached.refresh().await {
            Ok(snapshot) => {
                register(context, &attached, &snapshot, &mut troubles).await;
                silence::look(context, &attached, &snapshot).await;
                mend(context, &attached, &snapshot).await;
                take_up_keys(context, &attached, &snapshot).await;
                // Before anything that writes: a step goes on by itself once it is begun, and people wait for it.
                busy |= jobs::tick(context, &attached).await;
                groups(context, &attached).await;
                insight::keep(context, &attached, false).await;
                jobs::release_holders(context, &attached).await;
                runs::expire(context, &attached).await;
                jobs::drill::schedule::tick(context, &attached).await;
                forget_deleted(context, &attached).await;
                if context.settings.collect_garbage {
                    collect::begin_due(context, &attached);
                }
                if attached.is_untidy(TIDY_INTERVAL) {
                    let attached = Arc::clone(&attached);
                    context
                        .tasks
                        .spawn(context.stop.clone().run_until_cancelled_owned(async move { tidy(&attached).await }));
                }
            }
            Err(error) => tracing::debug!(vault = %attached.id(), %error, "vault can't be reached"),
        }
    }
    for ((group, _), open) in context.instances.all() {
        let found = open.instance.status();
        if found.health != Health::Healthy {
            troubles.extend(found.reasons.into_iter().map(|reason| (found.health, format!("group {group}: {reason}"))));
        }
    }
    runs::look(context, &mut troubles).await;
    context.set_troubles(troubles);
    context.notify_watchers();
    busy
}

/// Takes up the declaration with this gateway's name and site, and says that it is there.
async fn register(
    context: &Context,
    attached: &AttachedVault,
    snapshot: &Snapshot,
    troubles: &mut Vec<(Health, String)>,
) {
    let declared = snapshot.of(kind::GATEWAYS).iter().find(|document| {
        document.name == context.settings.name
            && !status::<GatewayRecord>(document).agent
            && context.settings.site.as_ref().is_none_or(|site| {
                document
                    .spec_as::<GatewaySpec>()
                    .ok()
                    .and_then(|spec| snapshot.get(kind::SITES, &spec.site_id.to_string()).cloned())
                    .is_some_and(|document| document.name == *site)
            })
    });
    let Some(document) = declared else { return };
    let before: GatewayRecord = status(document);
    let process_id = context.state.process_id();
    let other = before.process_id.as_deref().is_some_and(|other| other != process_id);
    if other && view::is_alive(&before, TAKEN_FOR) {
        troubles.push((
            Health::Critical,
            format!(
                "another process registered as the gateway {} and was heard of within {TAKEN_FOR:?}: stop it, or give this one a --name of its own",
                document.name
            ),
        ));
        return;
    }
    let (health, reasons) = context.health();
    let due = before.last_seen.is_none_or(|seen| Timestamp::now().seconds_since(seen) >= REPORT_INTERVAL.as_secs_f64());
    let mut wanted = GatewayRecord {
        process_id: Some(process_id.to_owned()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        addresses: vec![context.address.clone()],
        last_seen: before.last_seen,
        mount_path: context.exported.path().map(|path| path.display().to_string()),
        compute: context.compute.as_ref().map(|driver| driver.name().to_owned()),
        evidence_key: before.evidence_key.clone(),
        coordinates: context.settings.listen_consistency.is_some(),
        agent: false,
        heard: None,
        follows_policy: false,
        compares: false,
        hooks_ms: None,
        process_server: context.load.record(
            context.data_address.get().map(String::as_str),
            before.process_server.as_ref().filter(|_| before.process_id.as_deref() == Some(process_id)),
            due,
        ),
        silence: None,
        health,
        reasons,
        job: before.job,
        failed_job: before.failed_job,
        // Another machine under its name begins anew.
        replaced: before.replaced.filter(|_| !other),
    };
    if let Some(replaced) = &wanted.replaced {
        troubles.push((
            Health::Critical,
            format!(
                "this gateway was replaced by {} at {}: what it had is served there and shown here as it was, for reading only; stop it, \
                 and empty its state directory before the machine is used again",
                view::gateway_name(context, replaced.by),
                replaced.since
            ),
        ));
    }
    if wanted == before && !due {
        return;
    }
    wanted.last_seen = Some(Timestamp::now());
    let written = async {
        let vault = attached.vault()?;
        vault
            .catalog()
            .update_status(kind::GATEWAYS, &document.id, &mut |found| {
                let found: GatewayRecord = status(found);
                // Someone else took it between our look and our write.
                if found.process_id != before.process_id {
                    return None;
                }
                // A job that replaces it may have begun since.
                let replaced = found.replaced.filter(|_| !other);
                let wanted = GatewayRecord { job: found.job, failed_job: found.failed_job, replaced, ..wanted.clone() };
                serde_json::to_value(&wanted).ok()
            })
            .await
    };
    if let Err(error) = written.await {
        tracing::warn!(gateway = document.name, %error, "gateway can't report to the vault");
        return;
    }
    if let Some(level) = before.silence {
        let message = format!("the gateway {} is heard again; its silence had become {level}", document.name);
        context.event(attached, Happening { kind: "gateway.heard", message, ..Happening::default() }).await;
    }
    if before.process_id.as_deref() != Some(process_id) {
        let message = format!("gateway {} registered from process {process_id}", document.name);
        let event = Happening { kind: "gateway.registered", message, ..Happening::default() };
        // The copy has to know it before anything else asks who this gateway is.
        if let Err(error) = attached.refresh().await {
            tracing::debug!(%error, "catalog can't be read back");
        }
        context.event(attached, event).await;
        context.notify_watchers();
    }
}

/// How a group runs here, by its policy and the space there is.
fn settings(
    context: &Context,
    id: GroupId,
    group: &GroupSpec,
    policy: &PolicySpec,
    volumes: &[(VolumeId, VolumeSpec)],
) -> Settings {
    let bytes: u64 = volumes.iter().map(|(_, spec)| spec.size_bytes).fold(0, u64::saturating_add);
    // Whole powers of two, so that free space going up and down doesn't change the settings all the time.
    let room = (context.state.free_bytes() / 4).max(1).ilog2();
    let percent = policy.resync.as_ref().map_or_else(default_at_log_percent, |resync| resync.at_log_percent);
    let journal =
        (bytes / 100).saturating_mul(u64::from(percent)).min(1 << room).clamp(JOURNAL_BYTES_MIN, JOURNAL_BYTES_MAX);
    let limits = policy.bandwidth_limit.iter().filter_map(pace_rule).collect();
    let paces = context.paces(group.policy_id, limits);
    Settings {
        point_interval: parse_duration(&policy.recovery_point_interval).unwrap_or(Duration::from_secs(5)),
        compression: match parse_compression(&policy.compression) {
            Ok(CompressionSetting::Off) => CompressionChoice::Off,
            Ok(CompressionSetting::Level(level)) => CompressionChoice::Level(level),
            Ok(CompressionSetting::Auto) | Err(_) => CompressionChoice::Auto,
        },
        retention: retention_tiers(&policy.retention),
        journal_bytes: context.settings.journal_bytes.unwrap_or(journal),
        app_points: group.app_consistency.as_ref().map(|declared| {
            let every = policy.app_consistent_interval.as_ref().and_then(|text| parse_duration(text).ok());
            // Whoever coordinates its replication group has them taken by all of it at once.
            let every = every.filter(|_| group.shared_points.is_none());
            let scripts = Scripts::new(&context.settings.hooks, declared, &group.name, context.exported.path());
            context.hooks.of(id, scripts, every)
        }),
        // Times were checked when the policy was declared.
        resync_hours: policy.resync.as_ref().and_then(|resync| resync.hours().ok()),
        pace: paces.sent,
        resync_pace: paces.read,
    }
}

/// One limit of a policy; limits were checked when the policy was declared.
fn pace_rule(limit: &BandwidthLimit) -> Option<PaceRule> {
    Some(PaceRule { hours: limit.hours().ok()?, bytes_per_second: u64::from(limit.mbps) * 1_000_000 / 8 })
}

/// Where an instance lives and how it runs.
pub(crate) fn place(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    dir: PathBuf,
) -> Result<Place, VaultError> {
    let missing = |what: String| -> VaultError {
        lifeboat_vault::StoreError::new(lifeboat_vault::StoreClass::NotFound, what).into()
    };
    let gateway =
        context.own_gateway(attached).ok_or_else(|| missing("this gateway isn't declared in the vault".to_owned()))?;
    place_of(context, attached, group, dir, gateway)
}

/// [`place`] for a gateway, or an agent in a gateway's place.
pub(crate) fn place_of(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    dir: PathBuf,
    gateway: GatewayId,
) -> Result<Place, VaultError> {
    let missing = |what: String| -> VaultError {
        lifeboat_vault::StoreError::new(lifeboat_vault::StoreClass::NotFound, what).into()
    };
    let snapshot = attached.snapshot();
    let document = snapshot
        .get(kind::GROUPS, &group.to_string())
        .ok_or_else(|| missing(format!("the group {group} isn't declared any more")))?;
    let spec: GroupSpec = document.spec_as()?;
    let policy: PolicySpec = view::policy_of(&snapshot, &spec, &status(document))
        .ok_or_else(|| missing(format!("the policy {} of the group {} isn't declared", spec.policy_id, spec.name)))?;
    let settings = settings(context, group, &spec, &policy, &view::volumes_of(&snapshot, group));
    Ok(Place { vault: attached.vault()?, group, gateway, machine: context.state.machine(), dir, settings })
}

/// The instance, opened if it is there and isn't open; `None` when there is none.
pub(crate) async fn ensure_open(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    name: &str,
) -> Result<Option<Arc<dyn Instance>>, EngineError> {
    let lock = context.instances.lock(group);
    let _guard = lock.lock().await;
    if let Some(open) = context.instances.get(group, name) {
        return Ok(Some(open.instance));
    }
    let dir = context.state.group(group).join(name);
    if !context.engine.exists(&dir) {
        return Ok(None);
    }
    let place = place(context, attached, group, dir).map_err(|error| {
        let kind = match error.kind() {
            VaultErrorKind::Retry => lifeboat_engine::ErrorKind::Retry,
            VaultErrorKind::Denied | VaultErrorKind::NoBucket => lifeboat_engine::ErrorKind::Denied,
            _ => lifeboat_engine::ErrorKind::Invalid,
        };
        EngineError::new(kind, error.to_string()).with_source(error)
    })?;
    let instance = context.engine.open(place).await?;
    let found = instance.status();
    tracing::info!(%group, instance = name, state = %found.state, branch = %found.branch, "group opened");
    context.keep(group, name, Arc::clone(&instance));
    Ok(Some(instance))
}

/// Gives a volume that has a policy and no group a group of its own: the same 16 bytes as id, the same name. Done again,
/// it comes to the same.
pub(crate) async fn give_group(attached: &AttachedVault, volume: &Document) -> Result<(), VaultError> {
    let spec: VolumeSpec = volume.spec_as()?;
    let Some(policy_id) = spec.policy_id else { return Ok(()) };
    let id: VolumeId = view::id(volume)?;
    let snapshot = attached.snapshot();
    let site = snapshot
        .get(kind::GATEWAYS, &spec.gateway_id.to_string())
        .and_then(|gateway| gateway.spec_as::<GatewaySpec>().ok())
        .map(|gateway| gateway.site_id);
    let Some(site_id) = site else { return Ok(()) };
    let group = GroupSpec {
        vault_id: attached.id(),
        site_id,
        name: spec.name.clone(),
        policy_id,
        app_consistency: None,
        shared_points: None,
    };
    let record = GroupRecord { implicit: true, ..GroupRecord::default() };
    let (Ok(group), Ok(record)) = (serde_json::to_value(group), serde_json::to_value(record)) else { return Ok(()) };
    let vault = attached.vault()?;
    let group_id = GroupId::from_bytes(id.to_bytes()).to_string();
    match vault.catalog().create(kind::GROUPS, &group_id, &spec.name, group, record).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == VaultErrorKind::Conflict => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a crash between two writes of one request left: volumes without their group, groups without their volume.
async fn mend(context: &Context, attached: &AttachedVault, snapshot: &Snapshot) {
    let Some(own) = context.own_gateway(attached) else { return };
    let mut mended = false;
    for volume in snapshot.of(kind::VOLUMES) {
        let (Ok(id), Ok(spec)) = (volume.id.parse::<VolumeId>(), volume.spec_as::<VolumeSpec>()) else { continue };
        let group = GroupId::from_bytes(id.to_bytes()).to_string();
        if spec.policy_id.is_some() && spec.gateway_id == own && snapshot.get(kind::GROUPS, &group).is_none() {
            mended = true;
            if let Err(error) = give_group(attached, volume).await {
                tracing::warn!(volume = volume.id, %error, "volume can't be given its group yet");
            }
        }
    }
    for group in snapshot.of(kind::GROUPS) {
        let record: GroupRecord = status(group);
        let Ok(id) = group.id.parse::<GroupId>() else { continue };
        let volume = VolumeId::from_bytes(id.to_bytes()).to_string();
        if record.implicit
            && snapshot.get(kind::VOLUMES, &volume).is_none()
            && is_deleted(attached, kind::VOLUMES, &volume).await
        {
            mended = true;
            let Ok(vault) = attached.vault() else { continue };
            if let Err(error) = vault.catalog().delete(kind::GROUPS, &group.id, None).await {
                tracing::warn!(group = group.id, %error, "group of a deleted volume can't be deleted yet");
            }
        }
    }
    if mended && let Err(error) = attached.refresh().await {
        tracing::debug!(%error, "catalog can't be read back");
    }
}

/// Whether there is a tombstone: merely not to be seen isn't enough to take anything away.
async fn is_deleted(attached: &AttachedVault, kind: &str, id: &str) -> bool {
    let Ok(vault) = attached.vault() else { return false };
    vault.catalog().list_deleted(kind).await.is_ok_and(|deleted| deleted.iter().any(|document| document.id == id))
}

/// Takes up what was done to keys elsewhere: new data keys, volumes that were erased, a rotation that was broken off.
async fn take_up_keys(context: &Context, attached: &Arc<AttachedVault>, snapshot: &Snapshot) {
    let Ok(vault) = attached.vault() else { return };
    for document in snapshot.of(kind::VOLUMES) {
        let Ok(volume) = document.id.parse::<VolumeId>() else { continue };
        let record: VolumeRecord = status(document);
        let Some(known) = vault.known_data_key(volume) else { continue };
        if known >= record.data_key && record.erased.is_none() {
            continue;
        }
        match vault.reload_volume_keys(volume).await {
            Ok(data_key) => tracing::info!(%volume, data_key, "new segments are encrypted under another data key"),
            Err(error) if error.kind() == VaultErrorKind::Erased => {
                tracing::warn!(%volume, "the keys of a volume were destroyed: it is shipped no more");
            }
            Err(error) => tracing::warn!(%volume, %error, "keys of a volume can't be read again yet"),
        }
    }
    if vault.info().rewrapping {
        let attached = Arc::clone(attached);
        let stop = context.stop.clone();
        context.tasks.spawn(stop.run_until_cancelled_owned(async move { attached.finish_rotation().await }));
    }
}

/// Every group of a vault, as far as this gateway has a part in it.
async fn groups(context: &Arc<Context>, attached: &Arc<AttachedVault>) {
    let Some(own) = context.own_gateway(attached) else { return };
    let snapshot = attached.snapshot();
    for document in snapshot.of(kind::GROUPS) {
        let Ok(id) = document.id.parse::<GroupId>() else { continue };
        let record: GroupRecord = status(document);
        let volumes = view::volumes_of(&snapshot, id);
        let home = view::home_of(&record, &volumes) == Some(own);
        let mut wanted: BTreeSet<String> =
            record.tests.iter().filter(|test| test.gateway == own).map(|test| test.job.to_string()).collect();
        if home && record.active.is_some() {
            wanted.insert(record.home_instance.clone().unwrap_or_else(|| HOME_INSTANCE.to_owned()));
        }
        let active = record.active.as_ref().filter(|active| active.gateway == own);
        left::give_up(context, attached, id, document, &record, own).await;
        wanted.extend(left::shown(&record, own));
        wanted.extend(active.map(|active| active.instance.clone()));
        for name in &wanted {
            open_wanted(context, attached, id, document, name, active.is_some_and(|active| active.instance == *name))
                .await;
        }
        left::keep(context, attached, id, document, &record, own).await;
        match active {
            Some(active) => serve(context, attached, id, document, &record, active, &volumes).await,
            None if record.active.is_none() && home && record.job.is_none() && record.failed_job.is_none() => {
                enable(context, attached, id, document, own).await;
            }
            // The group is active elsewhere. An idle instance of ours would notice at its next write only.
            None if home && record.active.is_some() => doubt(context, id, &record),
            None => {}
        }
    }
}

/// Has the home instance ask the vault whether it was fenced.
fn doubt(context: &Context, group: GroupId, record: &GroupRecord) {
    let name = record.home_instance.as_deref().unwrap_or(HOME_INSTANCE);
    if let Some(open) = context.instances.get(group, name)
        && open.instance.status().state == GroupState::Active
    {
        open.instance.doubt();
    }
}

async fn open_wanted(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    document: &Document,
    name: &str,
    serves: bool,
) {
    let key = (group, name.to_owned());
    if context.instances.get(group, name).is_some() || context.instances.is_waiting(&key) {
        return;
    }
    let failure = match ensure_open(context, attached, group, name).await {
        Ok(Some(instance)) => {
            if instance.status().state == GroupState::Fenced {
                let message = format!(
                    "the group {} was taken over by another gateway while this one was away; it is read-only here, and what wasn't shipped is kept",
                    document.name
                );
                let event = Happening {
                    severity: Health::Warning,
                    kind: "group.fenced",
                    message,
                    group: Some(group),
                    ..Happening::default()
                };
                context.event(attached, event).await;
            }
            return;
        }
        // A home gateway that lost its state while the group is active elsewhere: the failback makes a new one.
        Ok(None) if !serves => return,
        Ok(None) => format!(
            "this gateway serves the group {} but its local state is gone ({}): fail the group over, unplanned, to this gateway or \
             another one, to go on from the vault",
            document.name,
            context.state.group(group).join(name).display()
        ),
        Err(error) => format!("the group {} can't be opened: {error}", document.name),
    };
    if context.instances.failed(key, failure.clone()) {
        let event = Happening {
            severity: Health::Critical,
            kind: "group.unavailable",
            message: failure,
            group: Some(group),
            ..Happening::default()
        };
        context.event(attached, event).await;
    }
}

/// A group that isn't protected yet, at its home: a job sets it up. Its id follows from the group's, so that it is
/// written once.
async fn enable(context: &Context, attached: &AttachedVault, group: GroupId, document: &Document, own: GatewayId) {
    let spec = JobSpec::new(JobKind::EnableProtection, group, &document.name, own);
    let id = JobId::from_bytes(group.to_bytes());
    let spec = AnySpec::Group(Box::new(spec));
    if let Err(error) = jobs::begin(context, attached, id, spec, jobs::plan::protection(own)).await {
        tracing::warn!(%group, error = %error.0, "protection can't be enabled yet");
    }
}

/// A group that this gateway serves.
async fn serve(
    context: &Context,
    attached: &AttachedVault,
    id: GroupId,
    document: &Document,
    record: &GroupRecord,
    active: &ActiveRecord,
    volumes: &[(VolumeId, VolumeSpec)],
) {
    let Some(open) = context.instances.get(id, &active.instance) else { return };
    let instance = open.instance;
    let state = instance.status().state;
    if record.job.is_none() {
        if state == GroupState::Standby && !record.released {
            // A switch that was begun and abandoned: the group is still this gateway's.
            match instance.resume().await {
                Ok(()) => tracing::info!(group = %id, "group resumed after an abandoned switch"),
                Err(error) => tracing::warn!(group = %id, %error, "group can't be resumed yet"),
            }
        }
        if state == GroupState::Active {
            let home = view::home_of(record, volumes).unwrap_or(active.gateway);
            adjust(context, attached, (id, home), active.gateway, &instance, volumes).await;
        }
    }
    if let Ok(place) = place(context, attached, id, PathBuf::new()) {
        instance.set_settings(place.settings);
    }
    report(context, attached, id, document, record, active).await;
}

/// Adds, grows and removes volumes.
async fn adjust(
    context: &Context,
    attached: &AttachedVault,
    (group, home): (GroupId, GatewayId),
    own: GatewayId,
    instance: &Arc<dyn Instance>,
    volumes: &[(VolumeId, VolumeSpec)],
) {
    let there = instance.volumes();
    for wanted in view::held(volumes) {
        let done = match there.iter().find(|held| held.id == wanted.id) {
            None => match adoption::admit(context, own, home, &wanted) {
                Ok(()) => instance.add_volume(wanted.clone()).await.map(|()| "added"),
                Err(error) => Err(error),
            },
            Some(held) if held.size_bytes < wanted.size_bytes => {
                instance.grow_volume(wanted.id, wanted.size_bytes).await.map(|()| "grown")
            }
            Some(_) => continue,
        };
        tell_volume(context, attached, group, &wanted, done).await;
    }
    for held in there.iter().filter(|held| volumes.iter().all(|(id, _)| *id != held.id)) {
        if !is_deleted(attached, kind::VOLUMES, &held.id.to_string()).await {
            continue;
        }
        let done = instance.remove_volume(held.id).await.map(|()| "removed");
        tell_volume(context, attached, group, held, done).await;
    }
}

async fn tell_volume(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    volume: &HeldVolume,
    done: Result<&'static str, EngineError>,
) {
    let key = (group, volume.id.to_string());
    match done {
        Ok(what) => {
            context.instances.remove(&key);
            let message = format!("volume {} was {what}", volume.name);
            let event = Happening {
                kind: "volume.changed",
                message,
                group: Some(group),
                volume: Some(volume.id),
                ..Happening::default()
            };
            context.event(attached, event).await;
        }
        Err(error) => {
            let message = format!("volume {} can't be brought in line: {error}", volume.name);
            if context.instances.failed(key, message.clone()) {
                let event = Happening {
                    severity: Health::Critical,
                    kind: "volume.failed",
                    message,
                    group: Some(group),
                    volume: Some(volume.id),
                    job: None,
                };
                context.event(attached, event).await;
            }
        }
    }
}

/// Tells the other gateways how a group is doing: at once when something changed that matters, else now and then.
async fn report(
    context: &Context,
    attached: &AttachedVault,
    id: GroupId,
    document: &Document,
    record: &GroupRecord,
    active: &ActiveRecord,
) {
    let Some(now) = view::observe(context, id, active) else { return };
    let due = record.observed.as_ref().is_none_or(|before| {
        matters(before, &now) || now.time.seconds_since(before.time) >= REPORT_INTERVAL.as_secs_f64()
    });
    if !due {
        return;
    }
    let written = async {
        let vault = attached.vault()?;
        vault
            .catalog()
            .update_status(kind::GROUPS, &document.id, &mut |found| {
                let mut found: GroupRecord = status(found);
                if found.active.as_ref() != Some(active) {
                    return None;
                }
                found.observed = Some(now.clone());
                serde_json::to_value(&found).ok()
            })
            .await
    };
    if let Err(error) = written.await {
        tracing::debug!(group = %id, %error, "group's state can't be told");
        return;
    }
    let worse = record.observed.as_ref().is_some_and(|before| before.health < now.health);
    if worse {
        let message = format!("the group {} is {}: {}", document.name, now.health, now.reasons.join("; "));
        let event =
            Happening { severity: now.health, kind: "group.health", message, group: Some(id), ..Happening::default() };
        context.event(attached, event).await;
    }
    if let Err(error) = attached.refresh().await {
        tracing::debug!(%error, "catalog can't be read back");
    }
    context.notify_watchers();
}

fn matters(before: &Observed, now: &Observed) -> bool {
    before.gateway != now.gateway
        || before.health != now.health
        || before.volumes != now.volumes
        || before.mount_path != now.mount_path
        || before.nbd_address != now.nbd_address
        || before.exports != now.exports
        || before.latest_point.is_none() != now.latest_point.is_none()
        || before.resync.is_none() != now.resync.is_none()
}

/// Groups that were deleted: their local files go. Only a tombstone counts; a group that is merely not to be seen stays.
async fn forget_deleted(context: &Context, attached: &AttachedVault) {
    let snapshot = attached.snapshot();
    let local: Vec<GroupId> = context
        .state
        .groups()
        .into_iter()
        .filter(|group| snapshot.get(kind::GROUPS, &group.to_string()).is_none())
        .collect();
    if local.is_empty() {
        return;
    }
    let Ok(vault) = attached.vault() else { return };
    let Ok(deleted) = vault.catalog().list_deleted(kind::GROUPS).await else { return };
    for group in local {
        let text = group.to_string();
        if deleted.iter().all(|document| document.id != text) {
            continue;
        }
        let lock = context.instances.lock(group);
        let _guard = lock.lock().await;
        for (name, open) in context.instances.of(group) {
            context.instances.remove(&(group, name));
            open.instance.close(CLOSE_DEADLINE).await;
        }
        if let Err(error) = forget_group(context, group).await {
            tracing::warn!(%group, %error, "local files of a deleted group can't be removed");
        } else {
            tracing::info!(%group, "local files of a deleted group were removed; the vault keeps its history");
        }
    }
}

async fn forget_group(context: &Context, group: GroupId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let dir = context.state.group(group);
    let entries: Vec<PathBuf> = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).collect();
    for instance in entries {
        context.engine.forget(&instance).await?;
    }
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Sweeps what crashes left in storage, and drops the oldest events and finished jobs beyond what is kept. A failure is
/// worth a warning: it is tried again the next day.
async fn tidy(attached: &AttachedVault) {
    let Ok(vault) = attached.vault() else { return };
    match vault.store().sweep_leftovers(TIDY_INTERVAL).await {
        Ok(0) => {}
        Ok(swept) => tracing::info!(vault = %attached.id(), swept, "leftovers of crashes were swept from the vault"),
        Err(error) => tracing::warn!(vault = %attached.id(), %error, "leftovers of crashes can't be swept"),
    }
    let catalog = vault.catalog();
    purge_old_tombstones(catalog).await;
    drop_expired_tokens(catalog).await;
    for (kind, keep) in [(kind::EVENTS, EVENTS_MAX), (kind::JOBS, JOBS_MAX)] {
        let Ok(mut documents) = catalog.list(kind).await else { continue };
        documents.retain(|document| kind == kind::EVENTS || status::<crate::records::JobRecord>(document).is_over());
        documents.sort_by_key(|document| document.created);
        let surplus = documents.len().saturating_sub(keep);
        for document in documents.iter().take(surplus) {
            // Another gateway tidies the same vault.
            if let Err(error) = catalog.delete(kind, &document.id, None).await {
                tracing::debug!(kind, id = document.id, %error, "old document can't be dropped");
            }
        }
    }
}

/// Revokes tokens and registration keys that ended a while ago: Terraform makes one for each run, and one that was killed leaves its own behind.
async fn drop_expired_tokens(catalog: &Catalog) {
    drop_ended(catalog, kind::TOKENS, |document| status::<TokenRecord>(document).expires).await;
    drop_ended(catalog, kind::REGISTRATION_KEYS, |document| status::<RegistrationKeyRecord>(document).expires).await;
}

async fn drop_ended(catalog: &Catalog, kind: &str, end: impl Fn(&Document) -> Option<Timestamp>) {
    let now = Timestamp::now();
    let Ok(documents) = catalog.list(kind).await else { return };
    let ended = |document: &&Arc<Document>| {
        end(document).is_some_and(|end| now.seconds_since(end) >= TOKENS_KEPT.as_secs_f64())
    };
    for document in documents.iter().filter(ended) {
        if let Err(error) = catalog.delete(kind, &document.id, None).await {
            tracing::debug!(kind, id = document.id, %error, "what has ended can't be dropped");
        }
    }
}

/// Deletes what is left of documents that were deleted long ago. Not at once: a gateway that knew a document takes one that
/// vanished without a tombstone for one that somebody took away.
async fn purge_old_tombstones(catalog: &Catalog) {
    let now = Timestamp::now();
    for kind in
        [kind::EVENTS, kind::JOBS, kind::EVIDENCE, kind::PICTURES, kind::TOKENS, kind::REGISTRATION_KEYS, kind::AGENTS]
    {
        let Ok(deleted) = catalog.list_deleted(kind).await else { continue };
        let old = |document: &&Arc<Document>| now.seconds_since(document.updated) >= TIDY_INTERVAL.as_secs_f64();
        for document in deleted.iter().filter(old) {
            if let Err(error) = catalog.purge(kind, &document.id).await {
                tracing::debug!(kind, id = document.id, %error, "a tombstone can't be dropped");
            }
        }
    }
}
