//! The process server of this gateway: takes in what mobility agents write, and ships it.
//!
//! ```text
//! agent ══ TLS, certificates of the vault's authority on both sides ══> listener ─> engine's relay ─> cache, vault
//!                                                                          └─ catalog: agent as a gateway, group, volumes; reports
//! ```
//! It listens only where `--listen-data` says, and lets nobody in without a certificate. Who is revoked, or whose certificate ends,
//! loses its line within seconds. An agent may declare a group of its own and write that, nothing else. In the catalog it stands as a gateway
//! that no process takes up, so that its group is shown, failed over and mounted like any other; what only the agent could
//! do is refused where it is asked for.
//!
//! A crash leaves what was cached; [`start`] takes it up again.

mod room;
mod spread;
#[cfg(test)]
mod tests;
mod told;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use lifeboat_api::validate::Validate;
use lifeboat_api::{
    AuditKind, FieldError, GatewaySpec, GroupSpec, JobKind, JobState, Principal, PrincipalKind, VolumeSource,
    VolumeSpec,
};
use lifeboat_engine::relay::{
    Admission, Admitted, Declare, PROTOCOLS, ProcessServer, ProcessServerConfig, Standing, StreamStatus,
};
use lifeboat_engine::{EngineError, ErrorKind, GroupStatus, RetrySettings};
use lifeboat_identity::{Demand, Peer};
use lifeboat_model::state::Health;
use lifeboat_model::{AgentId, GatewayId, GroupId, PolicyId, Timestamp, VolumeId};
use lifeboat_vault::{Document, VaultError, VaultErrorKind};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::audit::{self, Entry};
use crate::context::{Context, Happening, host_name};
use crate::data_path;
use crate::door::Door;
use crate::machines;
use crate::port::HeldVolume;
use crate::reconcile;
use crate::records::{
    ActiveRecord, AgentSpecRecord, AnySpec, FlowRecord, GatewayRecord, GroupRecord, HOME_INSTANCE, JobRecord, Observed,
    PointRecord, Step, kind, status,
};
use crate::vaults::AttachedVault;
use crate::view;
pub(crate) use room::{known, shown};
pub(crate) use told::AgentInstance;

/// Time between two looks at the streams: one that is new is soon a protected group.
const TELL: Duration = Duration::from_secs(1);
/// How often a stream that doesn't change is told of.
const REPORT_INTERVAL: Duration = Duration::from_secs(20);
/// Share of the free space that cached records may take, by its inverse, and the bounds of that.
const CACHE_SHARE: u64 = 4;
const CACHE_BYTES: std::ops::RangeInclusive<u64> = (256 << 20)..=(64 << 30);

/// Where a process server listens.
///
/// # Errors
/// What the system says.
pub(crate) fn address(listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    listener.local_addr().context("the address for agents can't be read")
}

/// Where agents reach it, as far as that can be told from here: as its settings say, by the address that it listens on, or on
/// every address by this machine's name.
fn reached_at(context: &Context, listening: SocketAddr) -> String {
    match &context.settings.data_address {
        Some(address) => address.clone(),
        None if listening.ip().is_unspecified() => format!("{}:{}", host_name(), listening.port()),
        None => listening.to_string(),
    }
}

/// Takes up what was cached, and serves agents until the context is stopped.
///
/// # Errors
/// The directory of the cache can't be used.
pub(crate) async fn start(context: &Arc<Context>, listener: TcpListener) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let tls = machines::config(context, Demand::Certificate, &PROTOCOLS)?;
    let config = ProcessServerConfig {
        admission: Arc::new(Gatekeeper(Arc::clone(context))),
        machine: context.state.machine(),
        dir: context.state.path().join("streams"),
        cache_bytes: context.settings.cache_bytes.unwrap_or_else(|| {
            (context.state.free_bytes() / CACHE_SHARE).clamp(*CACHE_BYTES.start(), *CACHE_BYTES.end())
        }),
        retry: RetrySettings::default(),
    };
    let server = ProcessServer::open(config).await.context("what was cached for agents can't be taken up")?;
    let _ = context.data_address.set(reached_at(context, address(&listener)?));
    let _ = context.process_server.set(Arc::clone(&server));
    let door = Door { listener, tls: TlsAcceptor::from(tls), protocols: &PROTOCOLS, whose: "agent's" };
    let (owner, serving, to_close) = (Arc::clone(context), Arc::clone(&server), Arc::clone(&server));
    let serve = move |stream, peer: Peer| {
        let (context, server) = (Arc::clone(&owner), Arc::clone(&serving));
        async move { line(&context, &server, stream, &peer).await }
    };
    let accepting = door.keep(context.stop.clone(), serve, async move { to_close.close().await });
    let telling = tell(Arc::clone(context), Arc::clone(&server));
    let spreading = room::keep(Arc::clone(context), server);
    Ok(vec![tokio::spawn(accepting), tokio::spawn(telling), tokio::spawn(spreading)])
}

async fn line(
    context: &Context,
    server: &Arc<ProcessServer>,
    stream: TlsStream<TcpStream>,
    peer: &Peer,
) -> anyhow::Result<()> {
    let agent: AgentId = peer.name.id.parse().map_err(|_| anyhow::anyhow!("{} is no agent", peer.name))?;
    let agent = GatewayId::from_bytes(agent.to_bytes());
    tokio::select! {
        () = server.serve(Box::new(stream), agent) => Ok(()),
        why = machines::refused(context, peer) => Err(anyhow::anyhow!("{}: {why}", peer.name)),
        () = context.stop.cancelled() => Ok(()),
    }
}

/// Decides by the catalog.
struct Gatekeeper(Arc<Context>);

impl Gatekeeper {
    /// [`Admission::admit`], and only while the group is held by a job that is one for it; `otherwise` says of the group, by its name, why
    /// not.
    async fn admit_while(
        &self,
        agent: GatewayId,
        group: GroupId,
        is_for_it: impl Fn(&Document) -> bool + Send,
        otherwise: impl Fn(&str) -> String + Send,
    ) -> Result<Admitted, EngineError> {
        let admitted = self.admit(agent, group).await?;
        let found = self.0.require(kind::GROUPS, "group", &group.to_string()).await;
        let (attached, document) = found.map_err(|refused| error(ErrorKind::Retry, refused.0.detail))?;
        let record: GroupRecord = status(&document);
        let snapshot = attached.snapshot();
        match record.job.and_then(|job| snapshot.get(kind::JOBS, &job.to_string())) {
            Some(job) if is_for_it(job) => Ok(admitted),
            _ => Err(error(ErrorKind::Retry, otherwise(&document.name))),
        }
    }
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gatekeeper")
    }
}

fn error(kind: ErrorKind, why: String) -> EngineError {
    EngineError::new(kind, why)
}

fn undeclarable(what: &str, wrong: &[FieldError]) -> EngineError {
    let why: Vec<String> = wrong.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
    error(ErrorKind::Invalid, format!("{what} can't be declared: {}", why.join("; ")))
}

fn catalog(error: VaultError) -> EngineError {
    let kind = match error.kind() {
        VaultErrorKind::Retry => ErrorKind::Retry,
        VaultErrorKind::Conflict | VaultErrorKind::AlreadyExists => ErrorKind::Invalid,
        _ => ErrorKind::Denied,
    };
    EngineError::new(kind, error.to_string()).with_source(error)
}

fn agent_id(agent: GatewayId) -> AgentId {
    AgentId::from_bytes(agent.to_bytes())
}

#[async_trait]
impl Admission for Gatekeeper {
    async fn admit(&self, agent: GatewayId, group: GroupId) -> Result<Admitted, EngineError> {
        let context = &self.0;
        // An agent that was revoked has what it cached shipped all the same: it was let in when it sent it.
        let Some((attached, document)) = context.find(kind::GROUPS, &group.to_string()).await else {
            let unread = context.vaults.all().iter().any(|vault| !vault.snapshot().is_read());
            let kind = if unread { ErrorKind::Retry } else { ErrorKind::NotFound };
            return Err(error(kind, format!("the group {group} isn't declared in a vault of this process server")));
        };
        let snapshot = attached.snapshot();
        let volumes = view::volumes_of(&snapshot, group);
        if volumes.is_empty() || volumes.iter().any(|(_, spec)| spec.gateway_id != agent) {
            return Err(error(ErrorKind::Denied, format!("the group {} is not {}'s", document.name, agent_id(agent))));
        }
        let settings =
            reconcile::place_of(context, &attached, group, std::path::PathBuf::new(), agent).map_err(catalog)?;
        Ok(Admitted {
            vault: Arc::new(settings.vault),
            volumes: volumes.into_iter().map(|(id, _)| id).collect(),
            settings: data_path::ship_settings(&settings.settings),
        })
    }

    /// An agent reads history while its group is brought back to it, and never otherwise: whoever stole its identity learns nothing
    /// that isn't about to be on its disks.
    async fn recall(&self, agent: GatewayId, group: GroupId) -> Result<Admitted, EngineError> {
        let brings_back = |job: &Document| {
            job.spec_as::<AnySpec>().is_ok_and(|spec| {
                matches!(spec.kind(), JobKind::Failback | JobKind::Reprotect) && spec.gateway() == agent
            })
        };
        let otherwise = |name: &str| format!("the group {name} isn't being brought back to {}", agent_id(agent));
        self.admit_while(agent, group, brings_back, otherwise).await
    }

    /// An agent is told what its volumes' blocks are hashed with, and where it differs, while a job has it compare and never otherwise.
    async fn compare(&self, agent: GatewayId, group: GroupId) -> Result<Admitted, EngineError> {
        let compares = |job: &Document| {
            let steps = status::<JobRecord>(job).steps;
            let is_its = job.spec_as::<AnySpec>().is_ok_and(|spec| spec.gateway() == agent);
            is_its && steps.iter().any(|step| step.step == Step::Compare && step.state == JobState::Running)
        };
        let otherwise =
            |name: &str| format!("nobody has the group {name} compared with the disks of {}", agent_id(agent));
        self.admit_while(agent, group, compares, otherwise).await
    }

    async fn declare(&self, agent: GatewayId, declared: &Declare) -> Result<(), EngineError> {
        let context = &self.0;
        let id = agent_id(agent).to_string();
        let Some((attached, document)) = context.find(kind::AGENTS, &id).await else {
            return Err(error(ErrorKind::Denied, format!("{id} isn't an agent of a vault of this process server")));
        };
        let agent_spec: AgentSpecRecord = document.spec_as().map_err(catalog)?;
        let snapshot = attached.snapshot();
        let own = |spec: &VolumeSpec| spec.gateway_id == agent && spec.group_id == Some(declared.group);
        let volumes = view::volumes_of(&snapshot, declared.group);
        let known = snapshot.get(kind::GROUPS, &declared.group.to_string()).is_some();
        if known && volumes.iter().any(|(_, spec)| !own(spec)) {
            return Err(error(ErrorKind::Denied, format!("{} is not {id}'s group", declared.group)));
        }
        if let Some(other) = snapshot.of(kind::VOLUMES).iter().find(|volume| {
            let spec = volume.spec_as::<VolumeSpec>();
            spec.is_ok_and(|spec| spec.gateway_id == agent && spec.group_id != Some(declared.group))
        }) {
            let why = format!(
                "{id} protects the volume {} in another group already: an agent has one; begin with the state directory that knows it, \
                 or delete that volume",
                other.name
            );
            return Err(error(ErrorKind::Invalid, why));
        }
        let there = |disk: VolumeId| volumes.iter().any(|(volume, _)| *volume == disk);
        if known && declared.disks.iter().all(|disk| there(disk.id)) {
            return Ok(());
        }
        let policy = snapshot.of(kind::POLICIES).iter().find(|policy| policy.name == declared.policy);
        let policy = policy.and_then(|policy| policy.id.parse::<PolicyId>().ok()).ok_or_else(|| {
            error(ErrorKind::Invalid, format!("there is no policy {:?}: declare it, or name another", declared.policy))
        })?;
        let gateway = GatewaySpec {
            site_id: agent_spec.site_id,
            name: document.name.clone(),
            roles: Some(Vec::new()),
            mount_path: None,
        };
        let record = GatewayRecord {
            agent: true,
            process_id: Some(id.clone()),
            last_seen: Some(Timestamp::now()),
            ..GatewayRecord::default()
        };
        let group = GroupSpec {
            vault_id: attached.id(),
            site_id: agent_spec.site_id,
            name: declared.name.clone(),
            policy_id: policy,
            app_consistency: None,
            shared_points: None,
        };
        group.validate().map_err(|wrong| undeclarable(&format!("the group {:?}", declared.name), &wrong))?;
        let mut disks = Vec::new();
        for disk in declared.disks.iter().filter(|disk| !there(disk.id)) {
            let spec = VolumeSpec {
                name: disk.name.clone(),
                gateway_id: agent,
                size_bytes: disk.size_bytes,
                group_id: Some(declared.group),
                policy_id: None,
                cache_bytes: None,
                source: Some(VolumeSource { path: disk.path.clone() }),
                export: None,
            };
            spec.validate().map_err(|wrong| undeclarable(&format!("the disk {}", disk.path), &wrong))?;
            disks.push((disk.id.to_string(), spec));
        }
        let writing = async {
            write(&attached, kind::GATEWAYS, &agent.to_string(), &document.name, &gateway, &record).await?;
            let (id, fresh) = (declared.group.to_string(), GroupRecord::default());
            write(&attached, kind::GROUPS, &id, &declared.name, &group, &fresh).await?;
            for (id, spec) in &disks {
                write(&attached, kind::VOLUMES, id, &spec.name, spec, &serde_json::json!({})).await?;
            }
            Ok(())
        };
        let what = format!(
            "declare the group {} ({}), with {}",
            declared.name,
            declared.group,
            disks.iter().map(|(_, spec)| spec.name.as_str()).collect::<Vec<_>>().join(", ")
        );
        let who = Principal { kind: PrincipalKind::Agent, id: Some(id), name: document.name.clone() };
        written_down(context, who, what, writing).await?;
        attached.refresh().await.map_err(catalog)?;
        let message = format!(
            "the agent {} protects {} disks as the group {}",
            document.name,
            declared.disks.len(),
            declared.name
        );
        let event = Happening { kind: "agent.declared", message, group: Some(declared.group), ..Happening::default() };
        context.event(&attached, event).await;
        context.wrote(&attached).await;
        Ok(())
    }

    async fn standing(&self, agent: GatewayId) -> Standing {
        room::standing(&self.0, agent_id(agent))
    }
}

/// Does what an agent asked for between two records of the audit log, like a request.
async fn written_down(
    context: &Arc<Context>,
    who: Principal,
    what: String,
    act: impl Future<Output = Result<(), EngineError>>,
) -> Result<(), EngineError> {
    let request = Some(uuid::Uuid::new_v4().to_string());
    let asked = Entry { who: Some(who), what: Some(what), request, ..Entry::new(context, AuditKind::Asked) };
    audit::record(context, asked.clone()).await.map_err(|refused| error(ErrorKind::Retry, refused.0.detail))?;
    let done = act.await;
    let detail = done.as_ref().map_or_else(|error| format!("refused: {error}"), |()| "declared".to_owned());
    let (kind, time) = (AuditKind::Answered, Timestamp::now());
    audit::note(context, Entry { kind, time, detail: Some(detail), ..asked });
    done
}

/// Writes a document unless it stands there already: an agent that lost the answer asks again.
async fn write(
    attached: &AttachedVault,
    kind: &'static str,
    id: &str,
    name: &str,
    spec: &(impl Serialize + Sync),
    status: &(impl Serialize + Sync),
) -> Result<(), EngineError> {
    let json = |error: serde_json::Error| self::error(ErrorKind::Invalid, error.to_string());
    let (spec, status) = (serde_json::to_value(spec).map_err(json)?, serde_json::to_value(status).map_err(json)?);
    let vault = attached.vault().map_err(catalog)?;
    let documents = vault.catalog();
    if attached.snapshot().get(kind, id).is_some() {
        return Ok(());
    }
    if let Some(other) = documents.find_by_name(kind, name).await.map_err(catalog)?
        && other.id != id
    {
        let why =
            format!("the name {name} is taken in the vault ({}): give the agent, group or disk another one", other.id);
        return Err(error(ErrorKind::Invalid, why));
    }
    match documents.create(kind, id, name, spec, status).await {
        Ok(_) => Ok(()),
        Err(_) if documents.get(kind, id).await.is_ok() => Ok(()),
        Err(other) => Err(catalog(other)),
    }
}

/// Tells the other gateways how the streams are, until the context is stopped.
async fn tell(context: Arc<Context>, server: Arc<ProcessServer>) {
    let mut upkeep = told::Upkeep::default();
    loop {
        upkeep.look(&context, server.attendants()).await;
        for stream in server.status().await.into_iter().filter(|stream| stream.open) {
            let heard = server.attendant(stream.group).and_then(|attendant| attendant.status());
            if let Err(error) = report(&context, &stream, heard).await {
                tracing::debug!(group = %stream.group, %error, "a stream's state can't be told");
            }
        }
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(TELL) => {}
        }
    }
}

async fn report(context: &Context, stream: &StreamStatus, heard: Option<GroupStatus>) -> Result<(), VaultError> {
    let group = stream.group.to_string();
    let Some((attached, document)) = context.find(kind::GROUPS, &group).await else { return Ok(()) };
    let record: GroupRecord = status(&document);
    let own = ActiveRecord { gateway: stream.agent, branch: stream.branch, instance: HOME_INSTANCE.to_owned() };
    // A branch that was begun and given up is the agent's as well.
    let others = |active: &ActiveRecord| active.gateway != stream.agent;
    if record.active.as_ref().is_some_and(others) {
        // Failed over: whoever has it tells of it.
        return Ok(());
    }
    // A stream that its agent has left may know an older branch than whoever has the agent now.
    if !stream.attached && record.active.as_ref().is_some_and(|active| active.branch != stream.branch) {
        return Ok(());
    }
    let snapshot = attached.snapshot();
    let now = observed(&snapshot, stream, heard);
    let due = record.observed.as_ref().is_none_or(|before| {
        before.health != now.health
            || before.latest_point.is_none() != now.latest_point.is_none()
            || now.time.seconds_since(before.time) >= REPORT_INTERVAL.as_secs_f64()
    });
    if record.active.as_ref() == Some(&own) && !due {
        return Ok(());
    }
    let vault = attached.vault()?;
    vault
        .catalog()
        .update_status(kind::GROUPS, &group, &mut |found| {
            let mut found: GroupRecord = status(found);
            if found.active.as_ref().is_some_and(others) {
                return None;
            }
            found.active = Some(own.clone());
            found.observed = Some(now.clone());
            serde_json::to_value(&found).ok()
        })
        .await?;
    if stream.attached {
        vault
            .catalog()
            .update_status(kind::GATEWAYS, &stream.agent.to_string(), &mut |found| {
                let mut found: GatewayRecord = status(found);
                found.last_seen = Some(Timestamp::now());
                serde_json::to_value(&found).ok()
            })
            .await?;
    }
    attached.refresh().await?;
    context.notify_watchers();
    Ok(())
}

/// What a process server knows of an agent's group; `heard`: what the agent said itself. What it has not sent, only it can tell.
fn observed(snapshot: &crate::vaults::Snapshot, stream: &StreamStatus, heard: Option<GroupStatus>) -> Observed {
    let mut reasons = Vec::new();
    match &heard {
        Some(heard) => reasons.extend(heard.reasons.iter().map(|why| format!("the agent says: {why}"))),
        None if stream.attached => {}
        None => reasons.push("the agent isn't connected to a process server".to_owned()),
    }
    if !stream.trouble.is_empty() {
        reasons.push(format!("the process server can't ship: {}", stream.trouble));
    }
    let volumes = view::volumes_of(snapshot, stream.group).into_iter().map(|(id, spec)| HeldVolume {
        id,
        name: spec.name,
        size_bytes: spec.size_bytes,
        source: spec.source.map(|source| source.path.into()),
    });
    Observed {
        gateway: stream.agent,
        time: Timestamp::now(),
        health: match &heard {
            Some(heard) => heard.health.max(if stream.trouble.is_empty() { Health::Healthy } else { Health::Warning }),
            None if reasons.is_empty() => Health::Healthy,
            None => Health::Warning,
        },
        reasons,
        landed_rpo_seconds: heard.as_ref().and_then(|heard| heard.landed_rpo_seconds),
        latest_point: stream.last_point.as_ref().map(|point| PointRecord::from(&data_path::fact(point))),
        backlog_bytes: heard.as_ref().map_or(stream.cached_bytes, |heard| heard.backlog_bytes),
        journal_bytes_used: heard.as_ref().map_or(0, |heard| heard.journal_bytes_used),
        churn_bytes_per_second: heard.as_ref().map_or(0.0, |heard| heard.churn_bytes_per_second),
        flow: FlowRecord::from(&stream.flow),
        hydrated_bytes: None,
        resync: heard.and_then(|heard| heard.resync).map(view::resync),
        mount_path: None,
        nbd_address: None,
        exports: BTreeMap::new(),
        volumes: volumes.collect(),
    }
}
