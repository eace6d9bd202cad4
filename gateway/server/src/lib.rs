//! The control plane of a gateway: API, authentication, reconciliation, jobs, the mount and NBD.
//!
//! ```text
//! HTTPS ─> http (handlers write intent) ─> catalog in the vault <─ other gateways
//!                                              │
//!                     reconcile ── jobs <──────┘      (the only parts that act)
//!                         │          │
//!                         └── port ──┴─> engine        export <─ FUSE mount, NBD
//! ```
//! Owns what happens when and why; never how bytes are written. It refuses to start on a state directory that another
//! process holds, on a port that is taken, with a key that doesn't open an attached vault, or without the mount that it
//! was told to make: each with one sentence, nothing changed. A crash loses nothing: intent is in the vault, the engine
//! recovers its own files, jobs go on with the step that was under way.

mod adoption;
mod approvals;
mod audit;
mod auth;
mod barriers;
mod collect;
mod context;
mod data_path;
mod door;
mod export;
mod exports;
mod history;
mod hooks;
mod http;
mod insight;
mod instances;
mod jobs;
mod load;
pub mod local_key;
mod machines;
mod nbd;
mod notices;
mod placement;
mod points;
pub mod port;
mod reconcile;
mod records;
pub mod registration;
mod runs;
pub mod state_dir;
mod streams;
mod tls;
mod vaults;
mod view;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lifeboat_compute::Driver;
use lifeboat_export::{Mount, MountOptions};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use context::{ComputeConfig, ServeConfig, TraceCounts, host_name};
pub use data_path::Engine;
pub use exports::outward;
pub use notices::{ChannelSettings, EmailSettings, Means, NoticeSettings, SmtpSecurity, WebhookSettings};

use context::{Context, Happening};
use lifeboat_model::state::Health;
use state_dir::StateDir;

/// How long users of the mount get to leave when the gateway stops.
const UNMOUNT_GRACE: Duration = Duration::from_secs(5);
/// How long a group gets to ship what it has when the gateway stops.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a look at the catalog, or a request, may still take when the gateway stops.
const TASK_DEADLINE: Duration = Duration::from_secs(15);
/// How long keeping what was measured may take when the gateway stops.
const INSIGHT_DEADLINE: Duration = Duration::from_secs(2);
/// Time between two tries to bring a lost mount back.
const REMOUNT_INTERVAL: Duration = Duration::from_secs(2);

/// Runs a gateway until `shutdown` resolves, then stops it in order.
///
/// # Errors
/// As for [`Gateway::start`].
pub async fn serve(config: ServeConfig, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let gateway = Gateway::start(config).await?;
    shutdown.await;
    gateway.stop().await;
    Ok(())
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    context: Arc<Context>,
    address: SocketAddr,
    data_address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    http_stop: CancellationToken,
}

impl Gateway {
    /// Starts a gateway on the engine: everything is up when this returns, but groups may still be opening.
    ///
    /// # Errors
    /// One sentence each: the port is taken, the state directory is held or can't be written, an attached vault can't be
    /// opened, the mount can't be made.
    pub async fn start(settings: ServeConfig) -> anyhow::Result<Self> {
        Self::start_with(settings, Arc::new(Engine), None).await
    }

    /// Starts a gateway on another data path, and with another driver than the settings say.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_with(
        settings: ServeConfig,
        engine: Arc<dyn port::DataPath>,
        compute: Option<Arc<dyn Driver>>,
    ) -> anyhow::Result<Self> {
        StateDir::refuse_unusable(&settings.state)?;
        // The port before anything is written: taking it changes nothing.
        let listener = TcpListener::bind(&settings.listen_management).await.with_context(|| {
            format!(
                "the API can't listen on {}: choose another address with --listen-management, or stop what listens there",
                settings.listen_management
            )
        })?;
        let address = listener.local_addr().context("the API's address can't be read")?;
        let nbd_tcp = nbd::bind(settings.listen_nbd.as_deref()).await?;
        let data = door::bind(settings.listen_data.as_deref(), "agents", "--listen-data").await?;
        let data_address = data.as_ref().map(streams::address).transpose()?;
        let consistency =
            door::bind(settings.listen_consistency.as_deref(), "members of replication groups", "--listen-consistency")
                .await?;
        let consistency_address = consistency.as_ref().map(streams::address).transpose()?;
        let mut state = StateDir::take(&settings.state)?;
        state.use_key(local_key::unlock(state.path(), settings.local_key.as_ref()).await?)?;
        let gate = auth::Gate::open(&state)?;
        let identity = Arc::new(tls::Identity::open(&state, &context::host_name(), address)?);
        let nbd = nbd::Listeners::open(&state, nbd_tcp)?;
        let registration = registration::Registrar::open(&state)?;
        let vaults = vaults::Vaults::open_all(state.attachments()?).await?;
        state.note_address("management.address", address);
        if let Some(address) = data_address {
            state.note_address("data.address", address);
        }
        if let Some(address) = consistency_address {
            state.note_address("consistency.address", address);
        }
        let compute = compute.or_else(|| runs::driver(&settings, &state));
        let mut context = Context::new(settings, address.to_string(), state, gate, vaults, engine, compute);
        context.registration = registration;
        context.notices = notices::Notices::open(&context.state, context.settings.notices.clone());
        let _ = context.authority_ends.set(identity.ends());
        let context = Arc::new(context);

        let mut tasks = Vec::new();
        if let Some(path) = context.settings.mount.clone() {
            let mount = start_mount(&context, &path).await?;
            tasks.push(tokio::spawn(keep_mounted(Arc::clone(&context), path, Some(mount))));
        } else {
            tasks.push(tokio::spawn(mount_as_declared(Arc::clone(&context))));
        }
        tasks.extend(nbd.serve(&context, &identity));
        if let Some(socket) = context.settings.iscsi.clone() {
            tasks.push(tokio::spawn(exports::keep(Arc::clone(&context), socket)));
        }
        if let Some(listener) = data {
            tasks.extend(streams::start(&context, listener).await?);
        }
        tasks.push(tokio::spawn(load::watch(Arc::clone(&context))));
        tasks.push(tokio::spawn(history::watch(Arc::clone(&context))));
        tasks.extend(barriers::start(&context, consistency)?);
        tasks.push(tokio::spawn(registration::run(Arc::clone(&context))));
        tasks.extend(notices::run(&context));
        tasks.push(tokio::spawn(reconcile::supervise(Arc::clone(&context))));
        if let Some(driver) = context.compute.clone() {
            let stop = context.stop.clone();
            context.tasks.spawn(async move { stop.run_until_cancelled(driver.prepare()).await });
        }
        let doors = machines::Doors::new(&context, identity)?;
        let http_stop = CancellationToken::new();
        let router = http::router(Arc::clone(&context));
        tasks.push(tokio::spawn(http::listen::serve(listener, doors, router, http_stop.clone())));
        tracing::info!(
            %address,
            state = %context.state.path().display(),
            name = context.settings.name,
            site = context.settings.site,
            "gateway is up"
        );
        Ok(Self { context, address, data_address, tasks, http_stop })
    }

    /// Where it takes in what agents write, if it does.
    #[must_use]
    pub const fn data_address(&self) -> Option<SocketAddr> {
        self.data_address
    }

    /// Where the API answers.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its state is.
    #[must_use]
    pub fn state_path(&self) -> &Path {
        self.context.state.path()
    }

    /// How it is, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        summary(&self.context)
    }

    /// The same, found out by a task of its own on the runtime that serves everything: one that never comes back is a gateway that
    /// doesn't serve.
    pub fn summarize(&self) -> JoinHandle<String> {
        let context = Arc::clone(&self.context);
        tokio::spawn(async move { summary(&context) })
    }

    /// Stops in order: no more requests, the mount goes, groups flush and ship what they can within a bound.
    pub async fn stop(mut self) {
        tracing::info!("gateway is stopping");
        self.http_stop.cancel();
        self.context.stop.cancel();
        self.context.wake.notify_one();
        self.context.tasks.close();
        self.context.tasks.wait().await;
        for mut task in self.tasks.drain(..) {
            match tokio::time::timeout(TASK_DEADLINE, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a task ended badly"),
                // A vault that hangs. What the task was doing is done again at the next start.
                Err(_) => task.abort(),
            }
        }
        for attached in self.context.vaults.all() {
            audit::flush(&self.context, &attached).await;
            // What is lost otherwise is advice: a vault that hangs is not waited for.
            let keep = insight::keep(&self.context, &attached, true);
            let _ = tokio::time::timeout(INSIGHT_DEADLINE, keep).await;
        }
        let closing = self.context.instances.all().into_iter().map(|((group, name), open)| {
            let context = Arc::clone(&self.context);
            async move {
                open.instance.close(CLOSE_DEADLINE).await;
                context.instances.remove(&(group, name));
            }
        });
        futures::future::join_all(closing).await;
        self.context.state.remove("management.address");
        self.context.state.remove("data.address");
        self.context.state.remove(nbd::SOCKET);
        self.context.state.unlock();
        tracing::info!("gateway has stopped");
    }
}

fn summary(context: &Context) -> String {
    let (health, reasons) = context.health();
    let groups = context.instances.all().len();
    let agents = context.load.figures().and_then(|figures| figures.streams).map(|streams| streams.agents);
    let agents = agents.map_or_else(String::new, |agents| format!(", {agents} agents"));
    let because = reasons.first().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{groups} groups{agents}; {health}{because}")
}

async fn start_mount(context: &Arc<Context>, path: &Path) -> anyhow::Result<Mount> {
    let tree = Arc::new(export::Tree::new(context));
    let mount = Mount::start(path, tree, MountOptions::default())
        .await
        .with_context(|| format!("the mount {} can't be made", path.display()))?;
    context.exported.set(Some(mount.path().to_owned()));
    tracing::info!(path = %mount.path().display(), "volumes are mounted");
    Ok(mount)
}

/// Brings the mount back whenever it is lost, until the gateway stops; then takes it away.
async fn keep_mounted(context: Arc<Context>, path: std::path::PathBuf, mut mount: Option<Mount>) {
    loop {
        if let Some(mounted) = mount.take() {
            tokio::select! {
                () = context.stop.cancelled() => {
                    let outcome = mounted.unmount(UNMOUNT_GRACE).await;
                    context.exported.set(None);
                    tracing::info!(?outcome, "volumes are unmounted");
                    return;
                }
                () = mounted.ended() => {}
            }
            context.exported.set(None);
            let message = format!("the mount {} was lost; it is made again", path.display());
            for vault in context.vaults.all() {
                let event = Happening {
                    severity: Health::Warning,
                    kind: "mount.lost",
                    message: message.clone(),
                    ..Happening::default()
                };
                context.event(&vault, event).await;
            }
        }
        match start_mount(&context, &path).await {
            Ok(mounted) => mount = Some(mounted),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "mount can't be made; it is tried again");
                tokio::select! {
                    () = context.stop.cancelled() => return,
                    () = tokio::time::sleep(REMOUNT_INTERVAL) => {}
                }
            }
        }
    }
}

/// Without `--mount`, the gateway's declaration says where to mount, once there is one.
async fn mount_as_declared(context: Arc<Context>) {
    let mut changes = context.watch();
    loop {
        changes.borrow_and_update();
        let declared = context.vaults.all().iter().find_map(|attached| {
            let own = context.own_gateway(attached)?;
            let snapshot = attached.snapshot();
            let document = snapshot.get(records::kind::GATEWAYS, &own.to_string())?;
            document.spec_as::<lifeboat_api::GatewaySpec>().ok()?.mount_path
        });
        if let Some(path) = declared {
            return keep_mounted(context, path.into(), None).await;
        }
        tokio::select! {
            () = context.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// The API's description, OpenAPI 3.1.
#[must_use]
pub fn openapi() -> serde_json::Value {
    http::openapi::document()
}
