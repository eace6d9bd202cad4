//! The mobility agent: the engine in front of disks of a server that holds no credential of the vault.
//!
//! ```text
//! application ─> MOUNT/volumes/NAME.img ─> engine: journal, the disk itself ─> line (mutual TLS) ─> process server ─> vault
//! ```
//! Owns the life of one agent: its identity (by enrolment), what it protects (`protects.json` in its state directory: the ids
//! that stand for its group and disks, made once), the way to its process servers, the mount, and `status.json` for people. It
//! refuses to begin without an identity, without disks, or with other disks than it had. A crash leaves a group that is opened
//! again; the disk is the application's own, with everything that was destaged, and the journal has the rest.

mod barriers;
mod protects;
mod route;
mod rules;
mod status;
mod tree;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lifeboat_engine::machine::Machine as Host;
use lifeboat_engine::relay::attend;
use lifeboat_engine::{EngineError, ErrorKind, Group, GroupConfig, Reach, VolumeSpec};
use lifeboat_export::{Mount, MountOptions};
use lifeboat_identity::Machine;
use lifeboat_model::state::GroupState;
use lifeboat_model::{GatewayId, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use protects::Protects;
use route::Route;
pub use rules::AppHooks;
use rules::Settings;
pub use status::{AgentStatus, Served, read_status};
use tree::Disks;

/// How long users of the mount get to leave, and how long what is written may still be shipped, at a stop.
const UNMOUNT_GRACE: Duration = Duration::from_secs(5);
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two tries to begin.
const BEGIN_AGAIN: Duration = Duration::from_secs(2);
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// How often an idle agent asks whether its group was taken over.
const DOUBT_INTERVAL: Duration = Duration::from_secs(30);
/// Pauses between two lines on which it can be told something; a line that lasted as long as the longest begins anew.
const ATTEND_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Who hears how it is.
type Told = watch::Sender<Option<AgentStatus>>;

/// A disk to protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// The volume's name; by the agent's name and the disk's when absent.
    pub name: Option<String>,
    /// Where it is.
    pub path: PathBuf,
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Its state directory, with the identity that it enrolled.
    pub state: PathBuf,
    /// Where its disks are mounted, as files.
    pub mount: PathBuf,
    /// The disks.
    pub disks: Vec<DiskConfig>,
    /// The group's name; the agent's own when absent.
    pub group: Option<String>,
    /// The name of the group's policy.
    pub policy: String,
    /// `host:port` of process servers, in order.
    pub process_servers: Vec<String>,
    /// `host:port` of gateways that coordinate its replication group, in the order of all members; none when it is in none.
    pub consistency_servers: Vec<String>,
    /// Gateways that renew its certificate, and know which process servers there are: `https://host:port`.
    pub endpoints: Vec<String>,
    /// Time between recovery points while there are writes; the policy's when absent.
    pub point_interval: Option<Duration>,
    /// Limit of the journal, bytes; by the policy, the disks and the space there is when absent.
    pub journal_bytes: Option<u64>,
    /// What holds the applications for application-consistent points; there are none without.
    pub hooks: Option<AppHooks>,
    /// The machine that its journal is on: encrypted where there is a local key.
    pub host: Arc<dyn Host>,
}

/// Takes the state directory for this process, for as long as the file is kept.
///
/// # Errors
/// Another process has it; it can't be written.
pub fn hold(state: &Path) -> anyhow::Result<File> {
    let path = state.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("{} can't be written", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow::anyhow!("{} is in use by another agent: stop that one", state.display()))?;
    Ok(file)
}

/// Runs an agent until `shutdown` resolves, then stops it in order. `told` hears how it is: `waiting` until its disks are mounted, and
/// from then on every two seconds.
///
/// # Errors
/// One sentence: there is no identity, a disk can't be had, the mount can't be made, the process server refuses.
pub async fn run(
    config: AgentConfig,
    told: watch::Sender<Option<AgentStatus>>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    anyhow::ensure!(!config.disks.is_empty(), "an agent without disks protects nothing: name one with --disk");
    anyhow::ensure!(
        !config.process_servers.is_empty(),
        "an agent ships to process servers: name one with --process-server HOST:9443"
    );
    let machine = Arc::new(Machine::open(&config.state)?);
    let _alone = hold(&config.state)?;
    let agent: lifeboat_model::AgentId =
        machine.name().id.parse().map_err(|_| anyhow::anyhow!("{} is no agent", machine.name()))?;
    let agent = GatewayId::from_bytes(agent.to_bytes());
    let protects = Protects::load_or_make(&config)?;
    let declared = protects.declare(agent, &config);
    let route = Route::new(&machine, &config.process_servers, &config.endpoints, &config.state, declared)?;
    let route = Arc::new(route);
    let settings = Arc::new(Settings::new(&config, protects.size_bytes()));
    let group_config = GroupConfig {
        reach: Reach::Relay(Arc::<Route>::clone(&route)),
        group: protects.group,
        gateway: agent,
        machine: Arc::clone(&config.host),
        dir: config.state.join("group"),
        settings: settings.of_group(),
    };
    let renewing = async {
        if config.endpoints.is_empty() {
            std::future::pending::<()>().await;
        }
        machine.keep_renewed(&config.endpoints).await;
    };
    let coordinators = barriers::Servers::new(&machine, &config.consistency_servers)?;
    tokio::select! {
        done = serve(&config, group_config, &protects, (&route, &coordinators, &settings), (&told, shutdown)) => done,
        () = renewing => Ok(()),
    }
}

async fn serve(
    config: &AgentConfig,
    group_config: GroupConfig,
    protects: &Protects,
    (route, coordinators, settings): (&Arc<Route>, &barriers::Servers, &Arc<Settings>),
    (told, shutdown): (&Told, impl Future<Output = ()>),
) -> anyhow::Result<()> {
    tokio::pin!(shutdown);
    let begun = tokio::select! {
        () = &mut shutdown => return Ok(()),
        begun = begin(config, &group_config, protects, (route, told)) => begun,
    };
    let group = begun?;
    let disks = Arc::new(Disks::new(&group));
    let mount = Mount::start(&config.mount, disks, MountOptions::default())
        .await
        .with_context(|| format!("the mount {} can't be made", config.mount.display()))?;
    tracing::info!(mount = %mount.path().display(), group = %group.id(), "disks are protected");
    let ended = tokio::select! {
        () = &mut shutdown => Ok(()),
        () = mount.ended() => Err(anyhow::anyhow!("the mount {} was taken away", config.mount.display())),
        () = watch(config, &group, route, told) => Ok(()),
        () = attending(&group, group_config.gateway, route, settings) => Ok(()),
        () = coordinators.followed_by(&group, group_config.gateway) => Ok(()),
    };
    let outcome = mount.unmount(UNMOUNT_GRACE).await;
    tracing::info!(?outcome, "disks are unmounted");
    group.close(CLOSE_DEADLINE).await;
    status::tell(config, told, &status::stopped(&group));
    ended
}

/// Opens the group, or makes it: that needs a process server, and is tried until one answers.
async fn begin(
    config: &AgentConfig,
    group: &GroupConfig,
    protects: &Protects,
    (route, told): (&Route, &Told),
) -> anyhow::Result<Arc<Group>> {
    let specs: Vec<VolumeSpec> = protects.specs();
    loop {
        let begun = if Group::exists_at(group) {
            Group::open(group.clone()).await
        } else {
            Group::create(group.clone(), specs.clone()).await
        };
        match begun {
            Ok(begun) => {
                let there = begun.volumes();
                for spec in specs.into_iter().filter(|spec| there.iter().all(|one| one.id != spec.id)) {
                    begun.add_volume(spec).await.map_err(anyhow::Error::new)?;
                }
                return Ok(begun);
            }
            Err(error) if error.kind() == ErrorKind::Retry => {
                tracing::warn!(%error, "the disks can't be served yet: trying again");
                status::tell(config, told, &status::waiting(protects, route, &error));
                tokio::time::sleep(BEGIN_AGAIN).await;
            }
            Err(error) => return Err(anyhow::Error::new(error)),
        }
    }
}

/// Tells people how it goes, and asks now and then whether somebody else has the group.
async fn watch(config: &AgentConfig, group: &Arc<Group>, route: &Route, told: &Told) {
    let mut doubted = Instant::now();
    loop {
        // The time of before: whoever reads a later one knows that what had happened by then is in it.
        let time = Timestamp::now();
        let found = group.status();
        status::tell(config, told, &status::of(group, time, &found, route));
        if found.state == GroupState::Active && doubted.elapsed() >= DOUBT_INTERVAL {
            doubted = Instant::now();
            let _ = group.doubt();
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// Is there to be told what to do, over one line after the other.
async fn attending(group: &Arc<Group>, agent: GatewayId, route: &Route, settings: &Arc<Settings>) {
    let (shortest, longest) = ATTEND_AGAIN;
    let mut pause = shortest;
    loop {
        let begun = Instant::now();
        let why = match route.attending().await {
            Ok((line, server, rules)) => tokio::select! {
                why = attend(group, agent, line, &server, rules.then(|| Arc::clone(settings) as _)) => why,
                () = route.left(&server) => {
                    EngineError::new(ErrorKind::Retry, format!("{server}: the agent was asked to go elsewhere"))
                }
            },
            Err(error) => error,
        };
        pause = if begun.elapsed() >= longest { shortest } else { (pause * 2).min(longest) };
        tracing::info!(%why, again_in_ms = pause.as_millis(), "nobody can tell this agent what to do just now");
        tokio::time::sleep(pause).await;
    }
}

/// Writes what costs nothing but time when it is lost: under a temporary name, then renamed. Nothing is synced.
fn keep(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(value)?)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
impl AgentConfig {
    /// Of an agent with these disks in its state directory, and nothing else that is said.
    fn of_tests(dir: &Path, disks: &[&str]) -> Self {
        Self {
            state: dir.to_owned(),
            mount: dir.join("mount"),
            disks: disks.iter().map(|name| DiskConfig { name: None, path: dir.join(name) }).collect(),
            group: Some("erp".to_owned()),
            policy: "gold".to_owned(),
            process_servers: Vec::new(),
            consistency_servers: Vec::new(),
            endpoints: Vec::new(),
            point_interval: None,
            journal_bytes: None,
            hooks: None,
            host: lifeboat_engine::at_rest::Encrypted::host(None),
        }
    }
}

impl fmt::Display for DiskConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
