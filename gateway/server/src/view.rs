//! What the API shows, computed from the gateway's copy of the catalog and from the instances that are open here.
//!
//! For a group that this gateway serves the engine itself is asked; for others the account that the serving gateway left
//! in the catalog is told, with its time.

mod approval;
mod drill;
mod identity;
mod machine;
mod network;
mod plan;
mod token;

pub(crate) use approval::approval;
pub(crate) use drill::{drill, drill_expires, drill_misfits, kept_test};
pub(crate) use identity::{agent, agent_of, gateway_of, registration_key};
pub(crate) use machine::{Misfits, machine, machines, macs, misfits, place};
pub(crate) use network::{declared as declared_network, mapping, mapping_name, network, site_name};
pub(crate) use plan::{plan, plan_misfits, volumes_of as volumes_of_plan};
pub(crate) use token::token;

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{
    ExportStatus, FailoverView, Gateway, GatewayReport, GatewayStatus, Group, GroupSpec, GroupStatus, Job, JobKind,
    Point, Policy, PolicySpec, PolicyStatus, ProtectionState, ProtectionStatus, ResyncCause, ResyncState, ResyncStatus,
    Site, SiteSpec, SiteStatus, TestView, Vault, VaultSpec, VaultStatus, Volume, VolumeSpec, VolumeStatus, summarise,
};
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{GatewayId, GroupId, JobId, PointId, PolicyId, Timestamp, VolumeId};
use lifeboat_vault::{Document, VaultError};
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::port::{HeldVolume, PointFact};
use crate::records::{
    ActiveRecord, AnySpec, GatewayRecord, GroupRecord, JobRecord, Observed, PointRecord, Subject, VolumeRecord, kind,
    status,
};
use crate::vaults::{AttachedVault, Snapshot};

/// A gateway that wasn't heard of for so long has missed two reports.
pub(crate) const SILENCE_WARNING: Duration = Duration::from_secs(60);
/// A gateway that wasn't heard of for so long counts as lost.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(120);

fn spec<T: DeserializeOwned>(document: &Document) -> Result<T, VaultError> {
    document.spec_as()
}

/// The id of a document.
pub(crate) fn id<T: std::str::FromStr>(document: &Document) -> Result<T, VaultError> {
    document.id.parse().map_err(|_| {
        lifeboat_vault::StoreError::new(
            lifeboat_vault::StoreClass::Fatal,
            format!("the document {}/{} has an id that makes no sense", document.kind, document.id),
        )
        .into()
    })
}

/// The ids of the documents of a kind whose spec has `field` = `value`.
pub(crate) fn referring<'a>(
    snapshot: &'a Snapshot,
    kind: &str,
    field: &'a str,
    value: &'a str,
) -> impl Iterator<Item = &'a std::sync::Arc<Document>> {
    snapshot
        .of(kind)
        .iter()
        .filter(move |document| document.spec.get(field).and_then(serde_json::Value::as_str) == Some(value))
}

fn ids<T: std::str::FromStr>(documents: impl Iterator<Item = impl AsRef<Document>>) -> Vec<T> {
    documents.filter_map(|document| document.as_ref().id.parse().ok()).collect()
}

pub(crate) fn vault(attached: &AttachedVault) -> Vault {
    let attachment = &attached.attachment;
    let snapshot = attached.snapshot();
    let document = snapshot.get(kind::VAULTS, &attachment.id.to_string()).cloned();
    let opened = attached.vault().ok();
    let trouble = attached.trouble();
    let declared = document.as_ref().and_then(|document| spec::<VaultSpec>(document).ok());
    let info = opened.as_ref().map(lifeboat_vault::Vault::info);
    Vault {
        id: attachment.id,
        generation: document.as_ref().map_or(1, |document| document.generation),
        created: document.as_ref().map(|document| document.created).unwrap_or_default(),
        updated: document.as_ref().map(|document| document.updated).unwrap_or_default(),
        spec: declared.unwrap_or_else(|| VaultSpec {
            name: attachment.name.clone(),
            storage_url: attachment.url.clone(),
            storage_endpoint: attachment.endpoint.clone(),
            storage_region: attachment.region.clone(),
            encryption: attachment.view(),
            soft_delete_days: info.as_ref().map_or(14, |info| info.soft_delete_days),
            immutability: None,
            second_approval: false,
        }),
        status: VaultStatus {
            vault_uuid: attachment.id,
            format_version: info.map_or(1, |info| info.format_version),
            health: if trouble.is_some() { Health::Critical } else { Health::Healthy },
            reasons: trouble.into_iter().collect(),
            bytes_stored: None,
            attached_url: attachment.url.clone(),
        },
    }
}

pub(crate) fn site(attached: &AttachedVault, document: &Document) -> Result<Site, VaultError> {
    let snapshot = attached.snapshot();
    Ok(Site {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: spec::<SiteSpec>(document)?,
        status: SiteStatus { gateway_ids: ids(referring(&snapshot, kind::GATEWAYS, "site_id", &document.id)) },
    })
}

/// Whether a gateway is heard of.
pub(crate) fn is_alive(record: &GatewayRecord, silence_max: Duration) -> bool {
    record.process_id.is_some()
        && record.last_seen.is_some_and(|seen| Timestamp::now().seconds_since(seen) <= silence_max.as_secs_f64())
}

/// A gateway by its name, for people.
pub(crate) fn gateway_name(context: &Context, gateway: GatewayId) -> String {
    let id = gateway.to_string();
    let known = context.vaults.all().iter().find_map(|vault| vault.snapshot().get(kind::GATEWAYS, &id).cloned());
    known.map_or_else(|| format!("the gateway {id}"), |document| format!("the gateway {}", document.name))
}

pub(crate) fn gateway(context: &Context, document: &Document) -> Result<Gateway, VaultError> {
    let record: GatewayRecord = status(document);
    let own = record.process_id.as_deref() == Some(context.state.process_id());
    let (mut health, mut reasons) = (record.health, record.reasons.clone());
    if own {
        (health, reasons) = context.health();
    } else if record.process_id.is_none() {
        health = Health::Warning;
        reasons = vec!["no process has registered under its name and site yet".to_owned()];
    } else if !is_alive(&record, SILENCE_MAX) {
        health = Health::Critical;
        let seen = record.last_seen.map_or_else(|| "never".to_owned(), |seen| seen.to_string());
        reasons = vec![format!("not heard of for more than {SILENCE_MAX:?} (last: {seen})")];
    } else if !is_alive(&record, SILENCE_WARNING) {
        health = health.max(Health::Warning);
        reasons.push(format!("not heard of for more than {SILENCE_WARNING:?}"));
    }
    // Its own figures are those of this moment.
    let process_server = match context.data_address.get().filter(|_| own) {
        Some(address) => context.load.now(address),
        None if own => None,
        None => record.process_server,
    };
    if let Some(replaced) = &record.replaced {
        let by = gateway_name(context, replaced.by);
        reasons.push(format!("replaced by {by} at {}: it serves nothing any more, and can be deleted", replaced.since));
    }
    Ok(Gateway {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: spec(document)?,
        status: GatewayStatus {
            registered: record.process_id.is_some(),
            version: record.version,
            health,
            reasons,
            addresses: record.addresses,
            last_seen: record.last_seen,
            process_id: record.process_id,
            mount_path: record.mount_path,
            compute: record.compute,
            evidence_key: record.evidence_key,
            process_server: process_server.map(Into::into),
            replaced_by: record.replaced.map(|replaced| replaced.by),
        },
    })
}

pub(crate) fn policy(attached: &AttachedVault, document: &Document) -> Result<Policy, VaultError> {
    let snapshot = attached.snapshot();
    Ok(Policy {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: spec::<PolicySpec>(document)?,
        status: PolicyStatus { group_ids: ids(referring(&snapshot, kind::GROUPS, "policy_id", &document.id)) },
    })
}

/// The volumes declared in a group.
pub(crate) fn volumes_of(snapshot: &Snapshot, group: GroupId) -> Vec<(VolumeId, VolumeSpec)> {
    snapshot
        .of(kind::VOLUMES)
        .iter()
        .filter_map(|document| {
            let volume: VolumeId = document.id.parse().ok()?;
            let spec: VolumeSpec = document.spec_as().ok()?;
            (group_of(volume, &spec) == group).then_some((volume, spec))
        })
        .collect()
}

/// Declared volumes as a group is to hold them.
pub(crate) fn held(volumes: &[(VolumeId, VolumeSpec)]) -> Vec<HeldVolume> {
    volumes
        .iter()
        .map(|(id, spec)| HeldVolume {
            id: *id,
            name: spec.name.clone(),
            size_bytes: spec.size_bytes,
            source: spec.source.as_ref().map(|source| source.path.clone().into()),
        })
        .collect()
}

/// Where a group is at home: where a failback took it, else where its volumes are declared.
pub(crate) fn home_of(record: &GroupRecord, volumes: &[(VolumeId, VolumeSpec)]) -> Option<GatewayId> {
    let declared = volumes.first().map(|(_, spec)| spec.gateway_id);
    declared.map(|declared| record.home.unwrap_or(declared))
}

/// The disks that volumes are to be built on at home: their sources were changed while the group was away.
pub(crate) fn new_disks(
    snapshot: &Snapshot,
    volumes: &[(VolumeId, VolumeSpec)],
) -> BTreeMap<VolumeId, std::path::PathBuf> {
    let of = |(id, spec): &(VolumeId, VolumeSpec)| {
        let record: VolumeRecord = status(snapshot.get(kind::VOLUMES, &id.to_string())?);
        let path = &spec.source.as_ref()?.path;
        // A crash may have come between writing the one and the other.
        (record.disk.as_ref() == Some(path)).then(|| (*id, path.into()))
    };
    volumes.iter().filter_map(of).collect()
}

/// The group of a volume: its own choice, or the one made for it.
pub(crate) fn group_of(volume: VolumeId, spec: &VolumeSpec) -> GroupId {
    spec.group_id.unwrap_or_else(|| GroupId::from_bytes(volume.to_bytes()))
}

/// A group with all that is known of it.
#[derive(Debug)]
pub(crate) struct GroupFacts {
    pub(crate) id: GroupId,
    pub(crate) spec: GroupSpec,
    pub(crate) record: GroupRecord,
    pub(crate) volumes: Vec<(VolumeId, VolumeSpec)>,
    pub(crate) home: Option<GatewayId>,
    pub(crate) state: ProtectionState,
    pub(crate) job: Option<JobId>,
    pub(crate) active_site: Option<(lifeboat_model::SiteId, String)>,
    pub(crate) account: Option<Account>,
    pub(crate) health: Health,
    pub(crate) reasons: Vec<String>,
    pub(crate) rpo_threshold: Duration,
}

/// How a group is doing: told by the engine, or by the gateway that serves it.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) observed: Observed,
}

/// Everything about a group.
pub(crate) fn group_facts(
    context: &Context,
    attached: &AttachedVault,
    document: &Document,
) -> Result<GroupFacts, VaultError> {
    let snapshot = attached.snapshot();
    let group: GroupId = id(document)?;
    let spec: GroupSpec = spec(document)?;
    let record: GroupRecord = status(document);
    let volumes = volumes_of(&snapshot, group);
    let home = home_of(&record, &volumes);
    let working = record.job.and_then(|job| job_kind(&snapshot, job));
    let state = protection_state(&record, home, working);
    let active_site = record.active.as_ref().and_then(|active| site_of(&snapshot, active.gateway));
    let policy = policy_of(&snapshot, &spec, &record);
    let rpo_threshold = policy
        .as_ref()
        .and_then(|policy| parse_duration(&policy.rpo_threshold).ok())
        .unwrap_or(Duration::from_secs(300));
    let own = context.own_gateway(attached);
    let account = account(context, &record, group, own);
    let mut facts = GroupFacts {
        id: group,
        spec,
        job: record.job.or(record.failed_job),
        record,
        volumes,
        home,
        state,
        active_site,
        account,
        health: Health::Healthy,
        reasons: Vec::new(),
        rpo_threshold,
    };
    judge(context, &snapshot, &mut facts, own);
    let active =
        facts.record.active.as_ref().and_then(|active| snapshot.get(kind::GATEWAYS, &active.gateway.to_string()));
    let agent = active.map(|document| status::<GatewayRecord>(document)).filter(|record| record.agent);
    facts.reasons.extend(policy.iter().flat_map(|policy| not_applied(policy, &facts.spec, agent.as_ref())));
    if let Some(policy) = policy.filter(|_| declared_policy(&snapshot, facts.spec.policy_id).is_none()) {
        facts
            .reasons
            .push(format!("its policy {} was deleted, and goes on to govern it: give it another", policy.name));
        facts.health = facts.health.max(Health::Warning);
    }
    Ok(facts)
}

/// A policy that is declared.
pub(crate) fn declared_policy(snapshot: &Snapshot, policy: PolicyId) -> Option<PolicySpec> {
    snapshot.get(kind::POLICIES, &policy.to_string())?.spec_as().ok()
}

/// What governs a group: the policy that it names, also after that was deleted.
pub(crate) fn policy_of(snapshot: &Snapshot, spec: &GroupSpec, record: &GroupRecord) -> Option<PolicySpec> {
    let last = || record.last_policy.clone().filter(|last| last.id == spec.policy_id);
    declared_policy(snapshot, spec.policy_id).or_else(|| last().map(|last| last.spec))
}

fn job_kind(snapshot: &Snapshot, job: JobId) -> Option<JobKind> {
    let document = snapshot.get(kind::JOBS, &job.to_string())?;
    let record: JobRecord = status(document);
    (!record.is_over()).then(|| document.spec_as::<AnySpec>().ok().map(|spec| spec.kind())).flatten()
}

fn protection_state(record: &GroupRecord, home: Option<GatewayId>, working: Option<JobKind>) -> ProtectionState {
    match (working, &record.active) {
        (Some(JobKind::EnableProtection), _) => ProtectionState::Creating,
        (
            Some(
                JobKind::PlannedFailover
                | JobKind::UnplannedFailover
                | JobKind::ChangePoint
                | JobKind::ReplaceGateway
                | JobKind::MoveGroup,
            ),
            Some(_),
        ) => ProtectionState::FailingOver,
        (Some(JobKind::Failback), _) => ProtectionState::FailingBack,
        (_, None) if record.failed_job.is_some() => ProtectionState::Failed,
        (_, None) => ProtectionState::Pending,
        (_, Some(active)) if home.is_none() || home == Some(active.gateway) => ProtectionState::Protected,
        _ => ProtectionState::FailedOver,
    }
}

/// The site of a gateway: id and name.
pub(crate) fn site_of(snapshot: &Snapshot, gateway: GatewayId) -> Option<(lifeboat_model::SiteId, String)> {
    let gateway = snapshot.get(kind::GATEWAYS, &gateway.to_string())?;
    let site = gateway.spec.get("site_id")?.as_str()?;
    let document = snapshot.get(kind::SITES, site)?;
    Some((site.parse().ok()?, document.name.clone()))
}

/// What is known of how a group is doing.
fn account(context: &Context, record: &GroupRecord, group: GroupId, own: Option<GatewayId>) -> Option<Account> {
    let active = record.active.as_ref()?;
    if own == Some(active.gateway)
        && let Some(observed) = observe(context, group, active)
    {
        return Some(Account { observed });
    }
    record.observed.clone().filter(|observed| observed.gateway == active.gateway).map(|observed| Account { observed })
}

/// What the engine says about the group that this gateway serves.
pub(crate) fn observe(context: &Context, group: GroupId, active: &ActiveRecord) -> Option<Observed> {
    let open = context.instances.get(group, &active.instance)?;
    let found = open.instance.status();
    let mut reasons = found.reasons;
    let mut health = found.health;
    if found.state == GroupState::Fenced {
        health = health.max(Health::Critical);
        reasons.push("fenced: another gateway has taken the group over; it is read-only here".to_owned());
    }
    let suspected = crate::insight::reasons(context, &found.suspicions);
    if !suspected.is_empty() {
        health = health.max(Health::Warning);
        reasons.extend(suspected);
    }
    let volumes = open.instance.volumes();
    let exports: BTreeMap<VolumeId, ExportStatus> =
        volumes.iter().filter_map(|held| Some((held.id, context.exports.of(context, held.id)?))).collect();
    for held in &volumes {
        let lacking = exports.get(&held.id).into_iter().flat_map(|export| &export.reasons);
        reasons.extend(lacking.map(|why| format!("other hosts can't use the volume {}: {why}", held.name)));
    }
    if exports.values().any(|export| !export.reasons.is_empty()) {
        health = health.max(Health::Warning);
    }
    Some(Observed {
        gateway: active.gateway,
        time: Timestamp::now(),
        health,
        reasons,
        landed_rpo_seconds: found.landed_rpo_seconds,
        latest_point: found.last_point.as_ref().map(PointRecord::from),
        backlog_bytes: found.backlog_bytes,
        journal_bytes_used: found.journal_bytes_used,
        churn_bytes_per_second: found.churn_bytes_per_second,
        flow: (&found.flow).into(),
        hydrated_bytes: found.hydrated_bytes,
        resync: found.resync.map(resync),
        mount_path: context.exported.path().map(|path| path.display().to_string()),
        nbd_address: context.exported.nbd(),
        exports,
        volumes,
    })
}

/// A resync as the API shows it.
pub(crate) fn resync(found: lifeboat_engine::ResyncStatus) -> ResyncStatus {
    ResyncStatus {
        cause: match found.cause {
            lifeboat_engine::ResyncCause::JournalFull => ResyncCause::JournalFull,
            lifeboat_engine::ResyncCause::Initial => ResyncCause::Initial,
            lifeboat_engine::ResyncCause::Compared => ResyncCause::Compared,
            lifeboat_engine::ResyncCause::ListLost => ResyncCause::ListLost,
        },
        state: if found.waits_for.is_some() { ResyncState::Waiting } else { ResyncState::Copying },
        since: found.since,
        bytes_left: found.progress.total_bytes.saturating_sub(found.progress.done_bytes),
        bytes_total: found.progress.total_bytes,
        waits_for: found.waits_for,
    }
}

/// What a policy asks for and isn't done where the group is: said, never passed over. `agent`: who has it, if that is one.
fn not_applied(policy: &PolicySpec, group: &GroupSpec, agent: Option<&GatewayRecord>) -> Vec<String> {
    let mut reasons = Vec::new();
    let wants_app_points = policy.app_consistent_interval.is_some();
    match agent {
        Some(agent) if agent.heard.is_some() && !agent.follows_policy => reasons.push(
            "the agent is of an older version, and goes by the intervals, the size of the journal and the hours for resyncs of its own \
             settings, not by the policy's: bring it up to date"
                .to_owned(),
        ),
        Some(agent) if agent.heard.is_some() && wants_app_points && agent.hooks_ms.is_none() => reasons.push(
            "the policy asks for application-consistent points, and the agent has no hooks: name them in its settings (pre_script, \
             post_script)"
                .to_owned(),
        ),
        None if wants_app_points && group.app_consistency.is_none() => reasons.push(
            "the policy asks for application-consistent points, and the group has no hooks: declare app_consistency"
                .to_owned(),
        ),
        _ => {}
    }
    reasons
}

/// Adds health and reasons to what is known of a group.
fn judge(context: &Context, snapshot: &Snapshot, facts: &mut GroupFacts, own: Option<GatewayId>) {
    let mut add = |health: Health, reason: String| {
        facts.health = facts.health.max(health);
        facts.reasons.push(reason);
    };
    if let Some(account) = &facts.account {
        let observed = &account.observed;
        for reason in &observed.reasons {
            add(observed.health, reason.clone());
        }
        if observed.reasons.is_empty() && observed.health != Health::Healthy {
            add(observed.health, format!("the gateway that serves it reports {}", observed.health));
        }
        let threshold = facts.rpo_threshold.as_secs_f64();
        if let Some(rpo) = observed.landed_rpo_seconds.filter(|rpo| *rpo > threshold) {
            add(
                Health::Warning,
                format!("a disaster now would lose {rpo:.0} s of writes, more than the policy's {threshold:.0} s"),
            );
        }
    }
    for failure in context.instances.failures(facts.id) {
        add(Health::Critical, failure);
    }
    if let Some(shared) = &facts.spec.shared_points {
        let name = &shared.replication_group;
        if let Some(unshared) = &facts.record.unshared {
            let (since, why) = (unshared.since, &unshared.why);
            add(
                Health::Warning,
                format!("no recovery point was taken with the replication group {name} since {since}: {why}"),
            );
        }
        let records = snapshot.of(kind::GATEWAYS).iter().map(|document| status::<GatewayRecord>(document));
        if !records.into_iter().any(|record| record.coordinates) {
            let why = format!(
                "nobody coordinates the replication group {name}: start a gateway of the vault with --listen-consistency"
            );
            add(Health::Warning, why);
        }
    }
    if facts.volumes.is_empty() {
        add(Health::Healthy, "it has no volumes yet".to_owned());
    }
    let watched = facts.record.active.as_ref().map(|active| active.gateway).or(facts.home);
    if let Some(gateway) = watched.filter(|gateway| Some(*gateway) != own) {
        let document = snapshot.get(kind::GATEWAYS, &gateway.to_string());
        let record: GatewayRecord = document.map(|document| status(document)).unwrap_or_default();
        let name = document.map_or_else(|| gateway.to_string(), |document| document.name.clone());
        if record.process_id.is_none() {
            add(
                Health::Warning,
                format!("the gateway {name} has not registered: start `lifeboat serve --name {name}` with this vault"),
            );
        } else if !is_alive(&record, SILENCE_MAX) {
            add(Health::Critical, format!("the gateway {name} was not heard of for more than {SILENCE_MAX:?}"));
        }
    }
    if let Some(job) = facts.record.failed_job.and_then(|job| snapshot.get(kind::JOBS, &job.to_string())) {
        let record: JobRecord = status(job);
        let severity = if facts.record.active.is_none() { Health::Critical } else { Health::Warning };
        add(severity, format!("the last job failed: {}", record.cause.unwrap_or_default()));
    }
    if facts.record.released {
        add(Health::Warning, "released: nobody can write it until it is resumed or failed over".to_owned());
    }
    let home = facts.home;
    if let Some(active) = &facts.record.active
        && own == home
        && own != Some(active.gateway)
    {
        let site = facts.active_site.as_ref().map_or("another site", |(_, name)| name.as_str());
        add(Health::Healthy, format!("active at {site}; read-only here until it fails back"));
    }
}

pub(crate) fn group(context: &Context, attached: &AttachedVault, document: &Document) -> Result<Group, VaultError> {
    let facts = group_facts(context, attached, document)?;
    let own = context.own_gateway(attached);
    let active = facts.record.active.as_ref();
    Ok(Group {
        id: facts.id,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        status: GroupStatus {
            state: facts.state,
            implicit: facts.record.implicit,
            volume_ids: facts.volumes.iter().map(|(id, _)| *id).collect(),
            home_gateway_id: facts.home,
            active_gateway_id: active.map(|active| active.gateway),
            active_site_id: facts.active_site.as_ref().map(|(id, _)| *id),
            active_site: facts.active_site.as_ref().map(|(_, name)| name.clone()),
            active_branch_id: active.map(|active| active.branch),
            committed: facts.record.committed,
            released: facts.record.released,
            failover: facts.record.failover.as_ref().map(|failover| FailoverView {
                kind: failover.kind.clone(),
                job_id: failover.job,
                point_id: failover.point,
                point_time: failover.point_time,
            }),
            tests: facts
                .record
                .tests
                .iter()
                .map(|test| TestView {
                    job_id: test.job,
                    branch_id: test.branch,
                    gateway_id: test.gateway,
                    point_id: test.point,
                    point_time: test.point_time,
                    path: (own == Some(test.gateway))
                        .then(|| context.exported.path())
                        .flatten()
                        .map(|mount| mount.join("branches").join(test.branch.to_string()).display().to_string()),
                })
                .collect(),
            health: facts.health,
            reasons: facts.reasons,
            job_id: facts.job,
        },
        spec: facts.spec,
    })
}

pub(crate) fn volume(context: &Context, attached: &AttachedVault, document: &Document) -> Result<Volume, VaultError> {
    let spec: VolumeSpec = spec(document)?;
    let volume: VolumeId = id(document)?;
    let group = group_of(volume, &spec);
    let snapshot = attached.snapshot();
    let facts = snapshot
        .get(kind::GROUPS, &group.to_string())
        .map(|document| group_facts(context, attached, document))
        .transpose()?;
    let status = facts.map_or_else(
        || VolumeStatus { group_id: Some(group), ..VolumeStatus::default() },
        |facts| volume_status(&facts, volume, &spec),
    );
    Ok(Volume {
        id: volume,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec,
        status,
    })
}

fn volume_status(facts: &GroupFacts, volume: VolumeId, spec: &VolumeSpec) -> VolumeStatus {
    let active = facts.record.active.as_ref();
    let observed = facts.account.as_ref().map(|account| &account.observed);
    let held: Option<&HeldVolume> = observed.and_then(|o| o.volumes.iter().find(|held| held.id == volume));
    // A volume that joined a group lately is pending although its group is protected.
    let state = match facts.state {
        ProtectionState::Protected | ProtectionState::FailedOver if observed.is_some() && held.is_none() => {
            ProtectionState::Pending
        }
        state => state,
    };
    let mount = observed.and_then(|observed| observed.mount_path.as_deref());
    let nbd = observed.and_then(|observed| observed.nbd_address.as_deref());
    VolumeStatus {
        state,
        group_id: Some(facts.id),
        path: held.and(mount).map(|mount| format!("{mount}/volumes/{}.img", spec.name)),
        nbd_url: held.and(nbd).map(|address| crate::nbd::url(address, &spec.name)),
        export: held.and(observed).and_then(|observed| observed.exports.get(&volume).cloned()),
        size_bytes: held.map(|held| held.size_bytes),
        home_gateway_id: facts.home,
        active_gateway_id: active.map(|active| active.gateway),
        active_site_id: facts.active_site.as_ref().map(|(id, _)| *id),
        active_site: facts.active_site.as_ref().map(|(_, name)| name.clone()),
        health: facts.health,
        reasons: facts.reasons.clone(),
        landed_rpo_seconds: observed.and_then(|observed| observed.landed_rpo_seconds),
        latest_recovery_point: observed.and_then(|o| o.latest_point.as_ref()).map(|point| point.time),
        latest_recovery_point_id: observed.and_then(|o| o.latest_point.as_ref()).map(|point| point.id),
        job_id: facts.job,
    }
}

/// Seconds of writes that a disaster at `begun` would have lost by going on from a point, at most: its age; or less, where
/// the gateway that serves the group has said how much of what came after its newest point, which this is, wasn't safe.
pub(crate) fn lost(begun: Timestamp, point: (Option<PointId>, Timestamp), observed: Option<&Observed>) -> f64 {
    let age = begun.seconds_since(point.1).max(0.0);
    let newest = observed.filter(|seen| seen.latest_point.as_ref().map(|latest| latest.id) == point.0);
    let Some((seen, landed)) = newest.and_then(|seen| Some((seen.time, seen.landed_rpo_seconds?))) else { return age };
    age.min(landed + begun.seconds_since(seen).max(0.0))
}

pub(crate) fn protection(context: &Context, facts: &GroupFacts) -> ProtectionStatus {
    let observed = facts.account.as_ref().map(|account| &account.observed);
    let now = Timestamp::now();
    let newest = observed.and_then(|observed| observed.latest_point.as_ref());
    let flow = observed.map(|observed| observed.flow).unwrap_or_default();
    ProtectionStatus {
        group_id: facts.id,
        group: facts.spec.name.clone(),
        state: facts.state,
        active_gateway_id: facts.record.active.as_ref().map(|active| active.gateway),
        active_site: facts.active_site.as_ref().map(|(_, name)| name.clone()),
        health: facts.health,
        reasons: facts.reasons.clone(),
        landed_rpo_seconds: observed.and_then(|observed| observed.landed_rpo_seconds),
        applied_rpo_seconds: newest.map(|point| lost(now, (Some(point.id), point.time), observed)),
        oldest_unshipped_seconds: flow.oldest_unshipped_seconds,
        rpo_threshold_seconds: facts.rpo_threshold.as_secs_f64(),
        latest_recovery_point: observed
            .and_then(|observed| observed.latest_point.as_ref())
            .map(|record| point(context, facts.id, &facts.spec.name, &PointFact::from(record))),
        backlog_bytes: observed.map_or(0, |observed| observed.backlog_bytes),
        journal_bytes_used: observed.map_or(0, |observed| observed.journal_bytes_used),
        journal_bytes_limit: flow.journal_bytes_limit,
        journal_full_in_seconds: flow.journal_full_in_seconds,
        churn_bytes_per_second: observed.map_or(0.0, |observed| observed.churn_bytes_per_second),
        shipped_bytes_per_second: flow.shipped_bytes_per_second,
        compression_ratio: flow.compression_ratio,
        hydrated_bytes: observed.and_then(|observed| observed.hydrated_bytes),
        resync: observed.and_then(|observed| observed.resync.clone()),
        observed: observed.map_or(now, |observed| observed.time),
    }
}

/// A point; its directory in the mount is named after its time.
pub(crate) fn point(context: &Context, group: GroupId, group_name: &str, point: &PointFact) -> Point {
    Point {
        id: point.id,
        group_id: group,
        branch_id: point.branch,
        time: point.time,
        kind: point.kind,
        label: point.label.clone(),
        pinned: point.pinned,
        shared: point.id.is_shared(),
        lsn: point.lsn.0,
        epoch: point.epoch.0,
        path: context
            .exported
            .path()
            .map(|mount| mount.join("points").join(group_name).join(point.time.to_string()).display().to_string()),
        volumes: None,
    }
}

pub(crate) fn job(document: &Document) -> Result<Job, VaultError> {
    let spec: AnySpec = spec(document)?;
    let record: JobRecord = status(document);
    let (plan_id, machine_id, drill_id, parent_id) = match &spec {
        AnySpec::Drill(spec) => (Some(spec.plan), None, Some(spec.drill), None),
        AnySpec::Program(spec) => match spec.subject {
            Subject::Plan(plan) => (Some(plan), None, None, spec.parent),
            Subject::Machine(machine) => (None, Some(machine), None, spec.parent),
            Subject::Gateway(_) => (None, None, None, spec.parent),
        },
        AnySpec::Group(spec) => (None, None, None, spec.parent),
    };
    Ok(Job {
        id: id(document)?,
        revision: document.revision,
        kind: spec.kind(),
        name: spec.name().to_owned(),
        group_id: spec.group(),
        plan_id,
        machine_id,
        drill_id,
        parent_id,
        gateway_id: spec.gateway(),
        state: record.state.0,
        created: document.created,
        started: record.started,
        finished: record.finished,
        steps: record.steps.iter().map(crate::records::StepRecord::view).collect(),
        cause: record.cause,
        result: record.result,
    })
}

/// The answering gateway's account of itself.
/// How well every group of every vault is protected.
pub(crate) fn protection_of_all(context: &Context) -> Vec<ProtectionStatus> {
    let mut all = Vec::new();
    for attached in &context.vaults.all() {
        for document in attached.snapshot().of(kind::GROUPS) {
            if let Ok(facts) = group_facts(context, attached, document) {
                all.push(protection(context, &facts));
            }
        }
    }
    all
}

pub(crate) fn report(context: &Context) -> GatewayReport {
    let (health, reasons) = context.health();
    let vaults = context.vaults.all();
    let protection_of_all = protection_of_all(context);
    let vaults_shown: Vec<Vault> = vaults.iter().map(|attached| vault(attached)).collect();
    let summary = summarise((health, &reasons), &vaults_shown, &protection_of_all, Timestamp::now());
    GatewayReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: context.state.process_id().to_owned(),
        name: context.settings.name.clone(),
        site: context.settings.site.clone(),
        gateway_ids: vaults.iter().filter_map(|vault| context.own_gateway(vault)).collect(),
        mount_path: context.exported.path().map(|path| path.display().to_string()),
        ready: context.is_ready(),
        health,
        reasons,
        vaults: vaults_shown,
        certificate_expires: context.authority_ends.get().copied(),
        notices: context.notices.shown(),
        protection: protection_of_all,
        summary: Some(summary),
    }
}
