//! What every part of the control plane shares: settings, state directory, vaults, instances, and the wake-up calls
//! between them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use lifeboat_api::EncryptionKey;
use lifeboat_compute::{Driver, RunId};
use lifeboat_engine::pace::{Pace, PaceRule};
use lifeboat_engine::relay::ProcessServer;
use lifeboat_model::state::Health;
use lifeboat_model::{EventId, Timestamp};
use lifeboat_model::{GatewayId, GroupId, JobId, PolicyId, VolumeId};
use lifeboat_vault::{Document, KeySource};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::auth::Gate;
use crate::barriers::Replication;
use crate::collect::Collections;
use crate::export::Exported;
use crate::exports::Exports;
use crate::history::History;
use crate::hooks::Hooks;
use crate::http::error::{ApiError, ApiResult};
use crate::http::metrics::Counters;
use crate::insight::Insights;
use crate::instances::Instances;
use crate::instances::Open;
use crate::jobs::Running;
use crate::load::Load;
use crate::machines::Revoked;
use crate::notices::{NoticeSettings, Notices};
use crate::points::PointCache;
use crate::port::{DataPath, Instance};
use crate::reconcile::Silences;
use crate::records::{EventRecord, kind};
use crate::registration::Registrar;
use crate::state_dir::StateDir;
use crate::vaults::{AttachedVault, Vaults};

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Its state directory.
    pub state: PathBuf,
    /// Where it mounts its volumes; what its declaration says, or nowhere, when absent.
    pub mount: Option<PathBuf>,
    /// Its site, by name.
    pub site: Option<String>,
    /// Its name.
    pub name: String,
    /// `address:port` of the API.
    pub listen_management: String,
    /// `address:port` of NBD: on loopback for everybody there, on other addresses with TLS for whom a volume's export names; the
    /// socket in the state directory alone when absent.
    pub listen_nbd: Option<String>,
    /// The socket of the helper for iSCSI; volumes are no targets when absent.
    pub iscsi: Option<PathBuf>,
    /// The host by which others reach exports: the address that is listened on, or by which this machine reaches others, when absent.
    pub export_address: Option<String>,
    /// `address:port` at which it is a process server for mobility agents; it is none when absent.
    pub listen_data: Option<String>,
    /// `host:port` at which agents reach that; by the address that is listened on, or this machine's name, when absent.
    pub data_address: Option<String>,
    /// Bytes of cached records that a process server may hold; by the space there is when absent.
    pub cache_bytes: Option<u64>,
    /// `address:port` at which it coordinates replication groups; it coordinates none when absent.
    pub listen_consistency: Option<String>,
    /// `host:port` of gateways that coordinate the replication groups of groups here, in the order of all members; this one alone when
    /// empty.
    pub consistency_servers: Vec<String>,
    /// Time between two looks at the catalog.
    pub reconcile_interval: Duration,
    /// Limit of a group's journal, bytes; by the volumes' size and the space there is when absent.
    pub journal_bytes: Option<u64>,
    /// Whether garbage in vaults is collected.
    pub collect_garbage: bool,
    /// The directory of the programs that may quiet applications.
    pub hooks: PathBuf,
    /// What machines are run with.
    pub compute: ComputeConfig,
    /// Programs that may be run as key management services. The API names the one, and only one of these is run.
    pub kms_programs: Vec<PathBuf>,
    /// What opens the vault that it registers with by key; what is given with the key, or found here, when absent.
    pub vault_key: Option<EncryptionKey>,
    /// What opens the key that its own files are encrypted with; they aren't when absent.
    pub local_key: Option<KeySource>,
    /// Whom it tells what happens, besides those who look.
    pub notices: NoticeSettings,
    /// What becomes of the spans of this process, for metrics; absent where no traces are asked for.
    pub traces: Option<Arc<TraceCounts>>,
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct TraceCounts {
    /// Spans that a collector took.
    pub exported: AtomicU64,
    /// Spans that were given up: the queue was full, or the collector didn't take them.
    pub dropped: AtomicU64,
}

impl ServeConfig {
    /// Settings with their defaults: this machine's name, no site, no mount, port 443 on every address.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            mount: None,
            site: None,
            name: host_name(),
            listen_management: "[::]:443".to_owned(),
            listen_nbd: None,
            iscsi: None,
            export_address: None,
            listen_data: None,
            data_address: None,
            cache_bytes: None,
            listen_consistency: None,
            consistency_servers: Vec::new(),
            reconcile_interval: Duration::from_secs(2),
            journal_bytes: None,
            collect_garbage: true,
            hooks: PathBuf::from("/etc/lifeboat/hooks"),
            compute: ComputeConfig::None,
            kms_programs: Vec::new(),
            vault_key: None,
            local_key: None,
            notices: NoticeSettings::default(),
            traces: None,
        }
    }
}

/// What machines are run with at a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ComputeConfig {
    /// None are: volumes alone.
    #[default]
    None,
    /// QEMU on this host.
    Qemu,
    /// The administrator's own programs `start`, `stop`, `status`, … in this directory.
    Script(PathBuf),
}

/// The name of this machine.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// What every part of the control plane shares.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: ServeConfig,
    /// Where the API answers.
    pub(crate) address: String,
    pub(crate) state: StateDir,
    pub(crate) gate: Gate,
    /// Its registration by key.
    pub(crate) registration: Registrar,
    pub(crate) vaults: Vaults,
    pub(crate) engine: Arc<dyn DataPath>,
    /// What machines are run with here; nothing where none can be.
    pub(crate) compute: Option<Arc<dyn Driver>>,
    pub(crate) instances: Instances,
    pub(crate) points: PointCache,
    pub(crate) exported: Exported,
    /// What other hosts use.
    pub(crate) exports: Exports,
    /// Tells the reconciler that there is something to do.
    pub(crate) wake: Notify,
    /// Tells waiting readers that something changed.
    changed: watch::Sender<u64>,
    /// What the reconciler found wrong with this gateway itself.
    troubles: RwLock<Vec<(Health, String)>>,
    reconciled: AtomicBool,
    /// Machines that nothing said may run when that was looked at last.
    pub(crate) unwanted: Mutex<HashSet<RunId>>,
    /// Machines that are being ended here since nothing says that they may run.
    pub(crate) leaving: Mutex<HashSet<RunId>>,
    /// Takes in what mobility agents write, and tells them what to do; nothing where this gateway isn't a process server.
    pub(crate) process_server: OnceLock<Arc<ProcessServer>>,
    /// Where agents reach it.
    pub(crate) data_address: OnceLock<String>,
    /// Steps of jobs that run in this process.
    pub(crate) running: Running,
    /// How this machine is doing.
    pub(crate) load: Load,
    /// How well groups were protected lately.
    pub(crate) history: History,
    /// How long other gateways have said nothing.
    pub(crate) silences: Silences,
    pub(crate) hooks: Hooks,
    pub(crate) collections: Collections,
    pub(crate) insights: Insights,
    /// The replication groups that it coordinates.
    pub(crate) replication: Replication,
    /// Who asked for what.
    pub(crate) audit: Audit,
    pub(crate) revoked: Revoked,
    pub(crate) notices: Notices,
    /// What is counted for metrics.
    pub(crate) counters: Counters,
    /// When this process began.
    pub(crate) started: Timestamp,
    /// When the authority of its API ends.
    pub(crate) authority_ends: OnceLock<Timestamp>,
    /// How fast the groups of a policy may send, and read for a resync, together.
    paces: Mutex<HashMap<PolicyId, Paces>>,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the process stops.
    pub(crate) stop: CancellationToken,
}

/// The books on one policy's limits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paces {
    /// What is sent.
    pub(crate) sent: Arc<Pace>,
    /// What is read for a resync.
    pub(crate) read: Arc<Pace>,
}

impl Context {
    pub(crate) fn new(
        settings: ServeConfig,
        address: String,
        state: StateDir,
        gate: Gate,
        vaults: Vaults,
        engine: Arc<dyn DataPath>,
        compute: Option<Arc<dyn Driver>>,
    ) -> Self {
        Self {
            settings,
            address,
            state,
            gate,
            registration: Registrar::default(),
            vaults,
            engine,
            compute,
            instances: Instances::default(),
            points: PointCache::default(),
            exported: Exported::default(),
            exports: Exports::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            troubles: RwLock::default(),
            reconciled: AtomicBool::new(false),
            unwanted: Mutex::default(),
            leaving: Mutex::default(),
            process_server: OnceLock::new(),
            data_address: OnceLock::new(),
            running: Running::default(),
            load: Load::default(),
            history: History::default(),
            silences: Silences::default(),
            hooks: Hooks::default(),
            collections: Collections::default(),
            insights: Insights::default(),
            replication: Replication::default(),
            audit: Audit::default(),
            revoked: Revoked::default(),
            notices: Notices::default(),
            counters: Counters::default(),
            started: Timestamp::now(),
            authority_ends: OnceLock::new(),
            paces: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The books on what the groups of a policy send from here, and on what they read for a resync, both under its present
    /// limits. Two books: what is read is sent as well, and would count twice in one.
    pub(crate) fn paces(&self, policy: PolicyId, rules: Vec<PaceRule>) -> Paces {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let found = paces.entry(policy).or_default();
        found.sent.set(rules.clone());
        found.read.set(rules);
        found.clone()
    }

    /// Intent was written: take a new copy of the catalog, wake the reconciler and whoever waits.
    pub(crate) async fn wrote(&self, vault: &AttachedVault) {
        if let Err(error) = vault.refresh().await {
            tracing::debug!(%error, "catalog can't be read back");
        }
        self.wake.notify_one();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// An instance is open.
    pub(crate) fn keep(&self, group: GroupId, name: &str, instance: Arc<dyn Instance>) {
        self.instances.insert((group, name.to_owned()), Open { instance });
    }

    /// Whether an instance of a group is here, open or not.
    pub(crate) fn holds(&self, group: GroupId, name: &str) -> bool {
        self.instances.get(group, name).is_some() || self.engine.exists(&self.state.group(group).join(name))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn notify_watchers(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A live document, wherever it is; looks again in the vaults when no copy has it.
    pub(crate) async fn find(&self, kind: &str, id: &str) -> Option<(Arc<AttachedVault>, Arc<Document>)> {
        for fresh in [false, true] {
            for vault in self.vaults.all() {
                if fresh && vault.refresh().await.is_err() {
                    continue;
                }
                if let Some(document) = vault.snapshot().get(kind, id) {
                    let document = Arc::clone(document);
                    return Some((vault, document));
                }
            }
        }
        None
    }

    /// A live document; an error that names it when there is none.
    pub(crate) async fn require(
        &self,
        kind: &str,
        what: &str,
        id: &str,
    ) -> ApiResult<(Arc<AttachedVault>, Arc<Document>)> {
        if let Some(found) = self.find(kind, id).await {
            return Ok(found);
        }
        let troubles: Vec<String> = self.vaults.all().iter().filter_map(|vault| vault.trouble()).collect();
        if troubles.is_empty() {
            Err(ApiError::not_found(what, id))
        } else {
            // Not known isn't the same as gone: an answer of 404 would make Terraform forget the object.
            Err(ApiError::new(
                lifeboat_api::ProblemCode::Unavailable,
                format!("whether there is a {what} {id} can't be said now: {}", troubles.join("; ")),
            ))
        }
    }

    /// The declarations in a vault that this process has taken up; one at most.
    pub(crate) fn own_gateway(&self, vault: &AttachedVault) -> Option<GatewayId> {
        let snapshot = vault.snapshot();
        snapshot.of(kind::GATEWAYS).iter().find_map(|document| {
            let record: crate::records::GatewayRecord = crate::records::status(document);
            (record.process_id.as_deref() == Some(self.state.process_id())).then(|| document.id.parse().ok()).flatten()
        })
    }

    /// Whether an agent can be told something by this gateway.
    pub(crate) fn tells(&self, agent: GatewayId) -> bool {
        let server = self.process_server.get();
        server.is_some_and(|server| server.attendants().iter().any(|attendant| attendant.agent() == agent))
    }

    /// Writes an event down, and logs it. An event that can't be written is logged only.
    pub(crate) async fn event(&self, vault: &AttachedVault, event: Happening) {
        self.counters.event(event.kind, event.severity);
        self.notices.happened(self, &event);
        match event.severity {
            Health::Healthy => {
                tracing::info!(kind = event.kind, group = ?event.group, job = ?event.job, "{}", event.message)
            }
            _ => tracing::warn!(kind = event.kind, group = ?event.group, job = ?event.job, "{}", event.message),
        }
        let record = EventRecord {
            time: Timestamp::now(),
            severity: event.severity,
            kind: event.kind.to_owned(),
            message: event.message,
            gateway: self.own_gateway(vault),
            group: event.group,
            volume: event.volume,
            job: event.job,
        };
        let written = async {
            let spec = serde_json::to_value(&record).map_err(|error| error.to_string())?;
            let vault = vault.vault().map_err(|error| error.to_string())?;
            let id = EventId::new().to_string();
            vault
                .catalog()
                .create_new(kind::EVENTS, &id, event.kind, spec, serde_json::json!({}))
                .await
                .map_err(|error| error.to_string())
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "event can't be written to the vault");
        }
    }

    pub(crate) fn set_troubles(&self, troubles: Vec<(Health, String)>) {
        *self.troubles.write().unwrap_or_else(PoisonError::into_inner) = troubles;
        self.reconciled.store(true, Ordering::Release);
    }

    /// This gateway's health and the reasons.
    pub(crate) fn health(&self) -> (Health, Vec<String>) {
        let mut troubles = self.troubles.read().unwrap_or_else(PoisonError::into_inner).clone();
        troubles.extend(self.audit.troubles());
        troubles.extend(self.registration.trouble(self));
        // What is less than critical is the process server's, and shown as such.
        troubles.extend(self.load.critical());
        troubles.extend(self.notices.troubles());
        for vault in self.vaults.all() {
            if let Some(trouble) = vault.trouble() {
                troubles.push((Health::Critical, trouble));
            }
        }
        let health = troubles.iter().map(|(health, _)| *health).max().unwrap_or_default();
        (health, troubles.into_iter().map(|(_, reason)| reason).collect())
    }

    /// Whether the first look at everything is done.
    pub(crate) fn is_ready(&self) -> bool {
        self.reconciled.load(Ordering::Acquire)
    }
}

/// Something worth remembering, to be written down.
#[derive(Debug, Default)]
pub(crate) struct Happening {
    pub(crate) severity: Health,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) group: Option<GroupId>,
    pub(crate) volume: Option<VolumeId>,
    pub(crate) job: Option<JobId>,
}
