//! Replication groups: groups of several gateways and agents that take recovery points at one moment.
//!
//! ```text
//! group here, with shared_points ─ follow ─ TLS, certificates of the vault's authority ─> port 20004 of a coordinator (perhaps this one)
//! coordinator: catalog (who belongs together, how often) ─> every so often: engine's barrier over the lines that are here
//! ```
//! Every gateway that listens may coordinate. Members try coordinators in one order and stay with the first that answers, so
//! that all of them meet at one; two that both have members take no point, since neither has all. Who has which group is the catalog's
//! to say: a line is for the machine where the group is active, wherever that is.
//!
//! Nothing is kept: what groups share is in their histories (`engine/src/relay/barrier.rs`). When nothing was shared for a while, an event says why,
//! and the groups' documents do until something is again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{GroupSpec, PolicySpec, default_shared_every};
use lifeboat_engine::relay::{BARRIER_PROTOCOL, Barriers, Coordinators, Line, Members, Missed, SharedPoint};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_identity::{Demand, MachineKind, Peer, gateway_config, server_name};
use lifeboat_model::state::Health;
use lifeboat_model::{AgentId, GatewayId, GroupId, Lsn, SiteId, Timestamp, VaultId};
use lifeboat_vault::{Document, VaultError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::context::{Context, Happening};
use crate::door::Door;
use crate::machines;
use crate::port::Instance;
use crate::records::{GatewayRecord, GroupRecord, UnsharedRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

/// How long writes wait at most for a point that groups share.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// Time between two looks at who belongs together.
const LOOK: Duration = Duration::from_millis(500);
/// How long nothing is shared, at least, before anybody is told: a machine that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long hooks of a group without a time of its own may take.
const HOOKS_MAX: Duration = Duration::from_secs(30);

/// What this gateway knows of the replication groups that it coordinates.
#[derive(Debug, Default)]
pub(crate) struct Replication(Mutex<BTreeMap<Key, Account>>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) vault: VaultId,
    pub(crate) site: SiteId,
    pub(crate) name: String,
}

/// How a replication group is doing here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) taken: u64,
    pub(crate) missed: u64,
    /// When the last point was taken that all have.
    pub(crate) last: Option<Timestamp>,
    /// How long writes waited for it, at most.
    pub(crate) held: Duration,
    /// A barrier is under way.
    busy: bool,
    tried: Option<Instant>,
    /// The last barrier for which applications were quiet, or were to be.
    quieted: Option<Instant>,
    /// The newest record of each member after the last point: while it is the same nothing was written.
    at: BTreeMap<GroupId, Lsn>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug)]
struct Trouble {
    begun: Instant,
    since: Timestamp,
    told: bool,
}

impl Replication {
    /// All of them.
    pub(crate) fn all(&self) -> Vec<(Key, Account)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(key, account)| (key.clone(), account.clone())).collect()
    }

    fn with<T>(&self, key: &Key, change: impl FnOnce(&mut Account) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(key.clone()).or_default())
    }

    fn keep(&self, here: &[Key]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, account| account.busy || here.contains(key));
    }
}

/// Coordinates barriers, if there is a port for their members, and has the groups that are active here take part in barriers.
///
/// # Errors
/// TLS can't be set up.
pub(crate) fn start(context: &Arc<Context>, listener: Option<TcpListener>) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    let mut servers = context.settings.consistency_servers.clone();
    if let Some(listener) = listener {
        if servers.is_empty() {
            servers.push(
                reached_from_here(listener.local_addr().context("the port's address can't be read")?).to_string(),
            );
        }
        let tls = TlsAcceptor::from(machines::config_for_all(context, Demand::Certificate, &[BARRIER_PROTOCOL])?);
        let barriers = Barriers::new(Arc::new(Gatekeeper(Arc::clone(context))));
        let door = Door { listener, tls, protocols: &[BARRIER_PROTOCOL], whose: "member's" };
        let (serving, to_close) = (Arc::clone(&barriers), Arc::clone(&barriers));
        let owner = Arc::clone(context);
        let serve = move |stream, peer: Peer| {
            let (context, barriers) = (Arc::clone(&owner), Arc::clone(&serving));
            async move {
                let machine = who(&context, &peer).with_context(|| format!("{} has no place here", peer.name))?;
                tokio::select! {
                    why = barriers.serve(Box::new(stream), machine) => tracing::info!(%machine, %why, "the line of a member is over"),
                    why = machines::refused(&context, &peer) => anyhow::bail!("{}: {why}", peer.name),
                    () = context.stop.cancelled() => {}
                }
                Ok(())
            }
        };
        let closing = async move { to_close.close() };
        tasks.push(tokio::spawn(door.keep(context.stop.clone(), serve, closing)));
        tasks.push(tokio::spawn(coordinate(Arc::clone(context), barriers)));
    }
    if !servers.is_empty() {
        tasks.push(tokio::spawn(follow_all(Arc::clone(context), servers)));
    }
    Ok(tasks)
}

/// An address as this machine itself reaches it.
fn reached_from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The machine that showed a certificate, as the catalog knows it.
fn who(context: &Context, peer: &Peer) -> Option<GatewayId> {
    match peer.name.kind {
        MachineKind::Agent => peer.name.id.parse().ok().map(|agent: AgentId| GatewayId::from_bytes(agent.to_bytes())),
        MachineKind::Gateway => {
            let snapshot = context.vaults.get(peer.name.vault)?.snapshot();
            snapshot.of(kind::GATEWAYS).iter().find_map(|document| {
                let record: GatewayRecord = status(document);
                (record.process_id.as_deref() == Some(&*peer.name.id)).then(|| document.id.parse().ok()).flatten()
            })
        }
    }
}

/// Decides by the catalog.
struct Gatekeeper(Arc<Context>);

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gatekeeper")
    }
}

#[async_trait]
impl Members for Gatekeeper {
    async fn admit(&self, machine: GatewayId, group: GroupId) -> Result<(), EngineError> {
        let context = &self.0;
        let Some((_, document)) = context.find(kind::GROUPS, &group.to_string()).await else {
            let unread = context.vaults.all().iter().any(|vault| !vault.snapshot().is_read());
            let kind = if unread { ErrorKind::Retry } else { ErrorKind::NotFound };
            return Err(EngineError::new(kind, format!("the group {group} isn't declared in a vault of this gateway")));
        };
        let record: GroupRecord = status(&document);
        if record.active.is_some_and(|active| active.gateway == machine) {
            return Ok(());
        }
        // Said in the catalog soon, if it is so.
        Err(EngineError::new(ErrorKind::Retry, format!("the group {} isn't active at {machine}", document.name)))
    }
}

/// The way of a group here to its coordinators.
struct Servers<'a> {
    context: &'a Context,
    vault: &'a AttachedVault,
    servers: &'a [String],
}

#[async_trait]
impl Coordinators for Servers<'_> {
    fn count(&self) -> usize {
        self.servers.len()
    }

    async fn connect(&self, which: usize) -> Result<(Line, String), EngineError> {
        let failed = |why: String| EngineError::new(ErrorKind::Retry, why);
        let server = self.servers.get(which).ok_or_else(|| failed("there is no such coordinator".to_owned()))?;
        let authority = self.vault.authority().await.map_err(|error| failed(error.to_string()))?;
        let tls = gateway_config(&authority, self.context.state.process_id(), &[BARRIER_PROTOCOL]).map_err(failed)?;
        let stream = lifeboat_identity::connect(&tls, &server_name(self.vault.id()), server).await.map_err(failed)?;
        Ok((Box::new(stream), server.clone()))
    }
}

type Following = BTreeMap<(GroupId, String), (Arc<dyn Instance>, JoinHandle<()>)>;

/// Has each group that is active here, and shares points, take part.
async fn follow_all(context: Arc<Context>, servers: Vec<String>) {
    let servers: Arc<[String]> = servers.into();
    let mut following = Following::new();
    loop {
        let wanted = active_here(&context);
        following.retain(|key, (instance, task)| {
            let stays =
                !task.is_finished() && wanted.iter().any(|(id, _, _, found)| id == key && Arc::ptr_eq(found, instance));
            if !stays {
                task.abort();
            }
            stays
        });
        for (key, vault, own, instance) in wanted {
            following.entry(key).or_insert_with(|| {
                let (context, servers, followed) = (Arc::clone(&context), Arc::clone(&servers), Arc::clone(&instance));
                let task = tokio::spawn(async move {
                    followed.follow(own, &Servers { context: &context, vault: &vault, servers: &servers }).await;
                });
                (instance, task)
            });
        }
        tokio::select! {
            () = context.stop.cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    following.into_values().for_each(|(_, task)| task.abort());
}

type Active = ((GroupId, String), Arc<AttachedVault>, GatewayId, Arc<dyn Instance>);

fn active_here(context: &Context) -> Vec<Active> {
    let mut found = Vec::new();
    for attached in context.vaults.all() {
        let Some(own) = context.own_gateway(&attached) else { continue };
        let snapshot = attached.snapshot();
        for (id, _, record) in sharing(&snapshot) {
            if let Some(active) = record.active.filter(|active| active.gateway == own)
                && let Some(open) = context.instances.get(id, &active.instance)
            {
                found.push(((id, active.instance), Arc::clone(&attached), own, open.instance));
            }
        }
    }
    found
}

/// The groups that take points together with others.
pub(crate) fn sharing(snapshot: &Snapshot) -> Vec<(GroupId, GroupSpec, GroupRecord)> {
    let read = |document: &Arc<Document>| Some((view::id(document).ok()?, document.spec_as().ok()?, status(document)));
    // Looked at often, and few of many do.
    let shares = |document: &&Arc<Document>| !document.spec["shared_points"].is_null();
    snapshot.of(kind::GROUPS).iter().filter(shares).filter_map(read).collect()
}

/// A replication group as declared.
struct Declared {
    key: Key,
    members: Vec<(GroupId, String)>,
    every: Duration,
    /// Time between two points with quiet applications, and how long they may take to be quiet.
    quiet: Option<(Duration, Duration)>,
    /// Its documents say that nothing is shared.
    is_told: bool,
}

fn declared(attached: &AttachedVault) -> Vec<Declared> {
    let snapshot = attached.snapshot();
    let mut all: BTreeMap<Key, Declared> = BTreeMap::new();
    for (id, spec, record) in sharing(&snapshot) {
        let Some(shared) = &spec.shared_points else { continue };
        let key = Key { vault: attached.id(), site: spec.site_id, name: shared.replication_group.clone() };
        let or = |text: &str, otherwise: Duration| parse_duration(text).unwrap_or(otherwise);
        let every = or(&shared.every, or(&default_shared_every(), PATIENCE));
        let group = all.entry(key.clone()).or_insert_with(|| Declared {
            key,
            members: Vec::new(),
            every,
            quiet: None,
            is_told: false,
        });
        group.every = group.every.min(every);
        group.is_told |= record.unshared.is_some();
        group.members.push((id, spec.name.clone()));
        let policy = snapshot.get(kind::POLICIES, &spec.policy_id.to_string());
        let policy = policy.and_then(|policy| policy.spec_as::<PolicySpec>().ok());
        let interval = policy.and_then(|policy| parse_duration(&policy.app_consistent_interval?).ok());
        let active =
            record.active.and_then(|active| snapshot.get(kind::GATEWAYS, &active.gateway.to_string()).cloned());
        let agent = active.map(|document| status::<GatewayRecord>(&document)).filter(|record| record.agent);
        let hooks = match agent {
            // Those of its own machine, whatever is declared for gateways.
            Some(agent) => agent.hooks_ms.map(Duration::from_millis),
            None => spec.app_consistency.as_ref().map(|app| or(&app.timeout, HOOKS_MAX)),
        };
        if let (Some(hooks), Some(interval)) = (hooks, interval) {
            let (least, longest) = group.quiet.unwrap_or((interval, Duration::ZERO));
            group.quiet = Some((least.min(interval), longest.max(hooks)));
        }
    }
    all.into_values().collect()
}

/// Takes points at their intervals until the context is stopped.
async fn coordinate(context: Arc<Context>, barriers: Arc<Barriers>) {
    loop {
        let here = barriers.here();
        let mut kept = Vec::new();
        for attached in context.vaults.all() {
            let groups = declared(&attached);
            // Whoever shows a certificate needs the authority to be known.
            if !groups.is_empty()
                && let Err(error) = attached.authority().await
            {
                tracing::debug!(%error, "the vault's authority isn't known");
            }
            for group in groups {
                if !group.members.iter().any(|(id, _)| here.contains(id)) {
                    continue;
                }
                kept.push(group.key.clone());
                if let Some(quiet) = context.replication.with(&group.key, |account| due(account, &group, &barriers)) {
                    let (context, barriers, attached) =
                        (Arc::clone(&context), Arc::clone(&barriers), Arc::clone(&attached));
                    context
                        .tasks
                        .clone()
                        .spawn(async move { take(&context, &barriers, &attached, group, quiet).await });
                }
            }
        }
        context.replication.keep(&kept);
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Whether a barrier is due; if so whether applications are to be quiet, and for how long they may take.
fn due(account: &mut Account, group: &Declared, barriers: &Barriers) -> Option<Option<Duration>> {
    let quiet = group.quiet.filter(|(every, _)| account.quieted.is_none_or(|at| at.elapsed() >= *every));
    let is_due = account.tried.is_none_or(|at| at.elapsed() >= group.every) || quiet.is_some();
    if account.busy || !is_due {
        return None;
    }
    account.tried = Some(Instant::now());
    let last = |id: &GroupId| barriers.last(*id);
    let idle = group.members.len() == account.at.len()
        && group.members.iter().all(|(id, _)| last(id).is_some() && last(id) == account.at.get(id).copied());
    if idle && account.trouble.is_none() {
        // The last point still stands for what they hold.
        return None;
    }
    account.busy = true;
    if quiet.is_some() {
        account.quieted = Some(Instant::now());
    }
    Some(quiet.map(|(_, limit)| limit))
}

async fn take(
    context: &Arc<Context>,
    barriers: &Barriers,
    attached: &Arc<AttachedVault>,
    group: Declared,
    quiet: Option<Duration>,
) {
    let ids: Vec<GroupId> = group.members.iter().map(|(id, _)| *id).collect();
    let [random @ .., _, _, _, _, _, _, _, _] = *uuid::Uuid::new_v4().as_bytes();
    let taken = tokio::select! {
        taken = barriers.take(&ids, quiet, HOLD_MAX, (Timestamp::now(), random)) => taken,
        () = context.stop.cancelled() => return,
    };
    match taken {
        Ok(point) => shared(context, attached, &group, point).await,
        Err(missed) => not_shared(context, attached, &group, &missed).await,
    }
    context.replication.with(&group.key, |account| account.busy = false);
}

async fn shared(context: &Context, attached: &AttachedVault, group: &Declared, point: SharedPoint) {
    tracing::debug!(replication_group = group.key.name, id = %point.id, held = ?point.held, "groups share a point");
    context.replication.with(&group.key, |account| {
        account.taken += 1;
        account.last = point.id.shared_at();
        account.held = point.held;
        account.at = point.points.iter().map(|point| (point.group, point.lsn)).collect();
        account.trouble = None;
    });
    if !group.is_told {
        return;
    }
    let message = format!("the groups of the replication group {} share recovery points again", group.key.name);
    tell(context, attached, group, Health::Healthy, "shared-points.resumed", message, None).await;
}

async fn not_shared(context: &Context, attached: &AttachedVault, group: &Declared, missed: &Missed) {
    let name = |id: &GroupId| {
        let found = group.members.iter().find(|(member, _)| member == id);
        found.map_or_else(|| id.to_string(), |(_, name)| name.clone())
    };
    let why: Vec<String> = missed.why.iter().map(|(id, why)| format!("{}: {why}", name(id))).collect();
    let why = why.join("; ");
    tracing::info!(replication_group = group.key.name, why, "no point was shared");
    let since = context.replication.with(&group.key, |account| {
        account.missed += 1;
        let trouble = account.trouble.get_or_insert_with(|| Trouble {
            begun: Instant::now(),
            since: account.last.unwrap_or_else(Timestamp::now),
            told: false,
        });
        let due = !trouble.told && trouble.begun.elapsed() >= PATIENCE;
        trouble.told |= due;
        due.then_some(trouble.since)
    });
    let Some(since) = since else { return };
    let message = format!(
        "the groups of the replication group {} have shared no recovery point since {since} ({why}): points of each go on",
        group.key.name
    );
    let record = UnsharedRecord { since, why };
    tell(context, attached, group, Health::Warning, "shared-points.missed", message, Some(record)).await;
}

/// An event, and what the groups' documents say.
async fn tell(
    context: &Context,
    attached: &AttachedVault,
    group: &Declared,
    severity: Health,
    kind: &'static str,
    message: String,
    unshared: Option<UnsharedRecord>,
) {
    for (id, name) in &group.members {
        if let Err(error) = note(attached, *id, unshared.as_ref()).await {
            tracing::warn!(group = name, %error, "what became of shared points can't be written down");
        }
    }
    if let Err(error) = attached.refresh().await {
        tracing::debug!(%error, "catalog can't be read back");
    }
    context.event(attached, Happening { severity, kind, message, ..Happening::default() }).await;
    context.notify_watchers();
}

async fn note(attached: &AttachedVault, id: GroupId, unshared: Option<&UnsharedRecord>) -> Result<(), VaultError> {
    let (vault, id) = (attached.vault()?, id.to_string());
    let mut change = |found: &Document| {
        let mut record: GroupRecord = status(found);
        if record.unshared.as_ref() == unshared {
            return None;
        }
        record.unshared = unshared.cloned();
        serde_json::to_value(&record).ok()
    };
    vault.catalog().update_status(kind::GROUPS, &id, &mut change).await.map(drop)
}
