//! A small estate, declared through the API: one vault, one policy, one group with its volumes, and a gateway at home.
//!
//! What tests of the data path begin with; tests of Terraform declare theirs by Terraform. A second gateway joins by
//! [`Estate::add_standby`] and knows nothing until it opens the vault ([`Estate::open_vault_at_standby`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use lifeboat_api::types::{
    EncryptionKey, FailbackMode, FailbackRequest, FailoverKind, FailoverRequest, Gateway as GatewayView, GatewaySpec,
    Group, GroupSpec, Job, KeySourceKind, Point, PointRequest, Policy, PolicySpec, ProtectionState, RetentionRule,
    Site, SiteSpec, VaultCreate, Volume, VolumeSpec,
};
use lifeboat_api::{Client, ClientConfig, ClientError};

use crate::eventually;
use crate::gateway::Gateway;
use crate::hosts::Host;
use crate::scratch::Scratch;

/// The name of the group.
pub const GROUP: &str = "ledger";
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// Gateways, and what is declared on them.
#[derive(Debug)]
pub struct Estate {
    /// The gateway at home, site `onprem`.
    pub primary: Gateway,
    standby: Option<Gateway>,
    vault_id: String,
    group_id: String,
    vault_url: String,
    key_file: PathBuf,
    recovery: Place,
    // Dropped last: the mounts are inside.
    scratch: Scratch,
}

/// Where a gateway runs: on this machine itself by default.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// A host of its own.
    pub host: Option<Host>,
    /// Where its API listens and this process reaches it; an address of the host's own choice when absent.
    pub listen: Option<SocketAddr>,
    /// Further arguments of `lifeboat serve`.
    pub args: Vec<String>,
    /// Variables of its environment: how the vault's storage is reached, for example.
    pub environment: Vec<(String, String)>,
    /// Where the vault's storage answers it, when that isn't the provider's own address.
    pub storage_endpoint: Option<String>,
    /// Its state directory; one in the estate's own when absent.
    pub state: Option<PathBuf>,
}

impl Place {
    /// A gateway there, not started yet.
    ///
    /// # Errors
    /// As [`Gateway::prepare`].
    pub fn prepare(&self, site: &str, name: &str, dir: &Path) -> Result<Gateway> {
        let mut gateway = Gateway::prepare(site, name, dir)?;
        if let Some(state) = &self.state {
            gateway.keep_in(state);
        }
        if let Some(host) = &self.host {
            gateway.on(host);
        }
        if let Some(address) = self.listen {
            gateway.listen_at(address);
        }
        for arg in &self.args {
            gateway.arg(arg);
        }
        for (name, value) in &self.environment {
            gateway.env(name, value);
        }
        Ok(gateway)
    }
}

/// The API client, for code that isn't asynchronous.
#[derive(Debug)]
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Api {
    /// A client of this gateway alone.
    ///
    /// # Errors
    /// When its token or certificate can't be read.
    pub fn of(gateway: &Gateway) -> Result<Self> {
        let variables = gateway.client_environment();
        let config = ClientConfig::from_variables(|name| {
            let (_, value) = variables.iter().find(|(variable, _)| variable == name)?;
            value.to_str().map(str::to_owned)
        })
        .context("configure a client")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        Ok(Self { runtime, client: Client::new(&config).context("make a client")? })
    }

    /// Runs one call to its end.
    ///
    /// # Errors
    /// The API's own.
    pub fn call<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
        self.runtime.block_on(work(&self.client))
    }
}

impl Estate {
    /// Starts the gateway at home and protects volumes (name, bytes) in one group, with a recovery point every
    /// second.
    ///
    /// # Errors
    /// When this machine can't mount, or a step fails; with the end of the gateway's log.
    pub fn protect(label: &str, volumes: &[(&str, u64)]) -> Result<Self> {
        let scratch = Scratch::new(label)?;
        let vault_url = format!("file://{}", scratch.path().join("vault").display());
        Self::protect_in(scratch, vault_url, [Place::default(), Place::default()], volumes)
    }

    /// The same, with the vault in object storage that the gateways find by these variables of their environment.
    ///
    /// # Errors
    /// As [`Self::protect`].
    pub fn protect_remotely(
        label: &str,
        vault_url: &str,
        environment: Vec<(String, String)>,
        volumes: &[(&str, u64)],
    ) -> Result<Self> {
        let place = Place { environment, ..Place::default() };
        Self::protect_between(label, vault_url, [place.clone(), place], volumes)
    }

    /// The same, with each gateway in a place of its own: home, and the recovery site that comes later.
    ///
    /// # Errors
    /// As [`Self::protect`].
    pub fn protect_between(label: &str, vault_url: &str, places: [Place; 2], volumes: &[(&str, u64)]) -> Result<Self> {
        Self::protect_in(Scratch::new(label)?, vault_url.to_owned(), places, volumes)
    }

    fn protect_in(
        scratch: Scratch,
        vault_url: String,
        [home, recovery]: [Place; 2],
        volumes: &[(&str, u64)],
    ) -> Result<Self> {
        let key_file = scratch.write_key("vault.key")?;
        let mut primary = home.prepare("onprem", "primary", &scratch.path().join("onprem"))?;
        primary.restart()?;
        let vault = (&*vault_url, home.storage_endpoint.as_deref());
        let declared = declare(&primary, vault, &key_file, volumes).with_context(|| primary.log_tail())?;
        let (vault_id, group_id) = declared;
        Ok(Self { primary, standby: None, vault_id, group_id, vault_url, key_file, recovery, scratch })
    }

    /// Declares the site `recovery` with the gateway `standby`, and starts its process, which is blank.
    ///
    /// # Errors
    /// When a step fails.
    pub fn add_standby(&mut self) -> Result<()> {
        let vault_id = self.vault_id.parse().map_err(|_| anyhow::anyhow!("{} is no vault id", self.vault_id))?;
        Api::of(&self.primary)?.call(async |client| {
            let site = SiteSpec { vault_id, name: "recovery".into(), description: None };
            let site: Site = client.create(&site).await?;
            let spec = GatewaySpec { site_id: site.id, name: "standby".into(), roles: None, mount_path: None };
            client.create::<GatewayView>(&spec).await.map(drop)
        })?;
        let mut standby = self.recovery.prepare("recovery", "standby", &self.scratch.path().join("recovery"))?;
        standby.restart()?;
        self.standby = Some(standby);
        Ok(())
    }

    /// Opens the vault at the recovery site by its key file, and waits until the gateway took up its declaration.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn open_vault_at_standby(&self) -> Result<()> {
        let standby = self.standby()?;
        let key = self.key_file.display().to_string();
        let mut open = vec!["vault", "open", &self.vault_url, "--key-file", &key];
        open.extend(self.recovery.storage_endpoint.iter().flat_map(|endpoint| ["--storage-endpoint", endpoint]));
        standby.run(&open)?.ok()?;
        let api = Api::of(standby)?;
        eventually("the standby gateway to take up its declaration", SETTLES_WITHIN, || {
            let found = api.call(async |client| client.find_by_name::<GatewayView>("standby").await)?;
            Ok(found.filter(|gateway| gateway.status.registered).map(drop))
        })
        .with_context(|| standby.log_tail())
    }

    /// The gateway at the recovery site.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn standby(&self) -> Result<&Gateway> {
        self.standby.as_ref().context("the estate has no second gateway: add_standby comes first")
    }

    /// The gateway at the recovery site, to be killed or stopped.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn standby_mut(&mut self) -> Result<&mut Gateway> {
        self.standby.as_mut().context("the estate has no second gateway: add_standby comes first")
    }

    /// The id of the vault.
    #[must_use]
    pub fn vault_id(&self) -> &str {
        &self.vault_id
    }

    /// The directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The vault's directory.
    #[must_use]
    pub fn vault_dir(&self) -> PathBuf {
        self.scratch.path().join("vault")
    }

    /// The vault's URL.
    #[must_use]
    pub fn vault_url(&self) -> &str {
        &self.vault_url
    }

    /// The vault's key file.
    #[must_use]
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// The group's recovery points as `gateway` sees them, newest first.
    ///
    /// # Errors
    /// The API's own.
    pub fn points(&self, gateway: &Gateway) -> Result<Vec<Point>> {
        let query = [("group", self.group_id.clone())];
        let points = Api::of(gateway)?.call(async |client| client.list::<Point>("/v1/points", &query).await)?;
        Ok(points)
    }

    /// Takes a recovery point now and waits until it has landed.
    ///
    /// # Errors
    /// When the job fails.
    pub fn take_point(&self, gateway: &Gateway, label: &str) -> Result<Job> {
        self.verb(gateway, "point", &PointRequest { label: label.to_owned(), ..PointRequest::default() })
    }

    /// Fails the group over to the recovery site.
    ///
    /// # Errors
    /// When the job fails.
    pub fn fail_over(&self, kind: FailoverKind, point: &str) -> Result<Job> {
        self.verb(self.standby()?, "failover", &FailoverRequest { kind, point: point.to_owned(), branch_id: None })
    }

    /// Fails the group back to its home.
    ///
    /// # Errors
    /// When the job fails.
    pub fn fail_back(&self, mode: FailbackMode) -> Result<Job> {
        self.verb(&self.primary, "failback", &FailbackRequest::new(mode))
    }

    /// Runs a verb on the group and waits for its job.
    ///
    /// # Errors
    /// When the job doesn't succeed, with its cause.
    pub fn verb(&self, gateway: &Gateway, verb: &str, body: &impl serde::Serialize) -> Result<Job> {
        let job = Api::of(gateway)?.call(async |client| {
            let job = client.group_verb(&self.group_id, verb, body).await?;
            client.wait_for_job(&job.id.to_string(), |_| ()).await
        })?;
        let state = serde_json::to_value(job.state).context("a job's state")?;
        if state != "succeeded" {
            let cause = job.cause.as_deref().unwrap_or("no cause given");
            bail!("the {} job ended {state}: {cause}\n{}", job.kind, gateway.log_tail());
        }
        Ok(job)
    }

    /// Waits until a recovery point newer than `since` is in the vault.
    ///
    /// # Errors
    /// When none comes.
    pub fn point_after(&self, gateway: &Gateway, since: Timestamp) -> Result<Point> {
        eventually("a new recovery point", SETTLES_WITHIN, || {
            let since = since.as_microsecond();
            Ok(self.points(gateway)?.into_iter().find(|point| point.time.as_micros() > since))
        })
        .with_context(|| gateway.log_tail())
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        // The logs are removed with the directory: a failing test shows their ends before.
        if std::thread::panicking() {
            for gateway in std::iter::once(&self.primary).chain(self.standby.as_ref()) {
                eprintln!("{}", gateway.log_tail());
            }
        }
    }
}

/// Declares everything for [`Estate::protect`]; gives the ids of the vault and the group.
fn declare(
    primary: &Gateway,
    (vault_url, endpoint): (&str, Option<&str>),
    key_file: &Path,
    volumes: &[(&str, u64)],
) -> Result<(String, String)> {
    let api = Api::of(primary)?;
    let create = VaultCreate {
        name: "main".into(),
        storage_url: vault_url.to_owned(),
        storage_endpoint: endpoint.map(str::to_owned),
        storage_region: None,
        storage_credentials: None,
        storage_proxy: None,
        encryption: EncryptionKey {
            key_source: KeySourceKind::KeyFile,
            passphrase: None,
            key_file: Some(key_file.display().to_string()),
            kms_key: None,
        },
        soft_delete_days: 14,
        immutability: None,
        second_approval: false,
        attach: false,
    };
    let (vault_id, group_id) = api.call(async |client| {
        let vault = client.create_vault(&create).await?;
        let site: Site =
            client.create(&SiteSpec { vault_id: vault.id, name: "onprem".into(), description: None }).await?;
        let gateway: GatewayView = client
            .create(&GatewaySpec { site_id: site.id, name: "primary".into(), roles: None, mount_path: None })
            .await?;
        let policy: Policy = client
            .create(&PolicySpec {
                vault_id: vault.id,
                name: "standard".into(),
                recovery_point_interval: "1s".into(),
                app_consistent_interval: None,
                retention: vec![RetentionRule { every: "all".into(), keep_for: "1h".into() }],
                rpo_threshold: "1m".into(),
                resync: None,
                bandwidth_limit: Vec::new(),
                compression: "auto".into(),
            })
            .await?;
        let group: Group = client
            .create(&GroupSpec {
                vault_id: vault.id,
                site_id: site.id,
                name: GROUP.into(),
                policy_id: policy.id,
                app_consistency: None,
                shared_points: None,
            })
            .await?;
        for (name, size_bytes) in volumes {
            let spec = VolumeSpec {
                name: (*name).to_owned(),
                gateway_id: gateway.id,
                size_bytes: *size_bytes,
                group_id: Some(group.id),
                policy_id: None,
                cache_bytes: None,
                source: None,
                export: None,
            };
            client.create::<Volume>(&spec).await?;
        }
        Ok((vault.id.to_string(), group.id.to_string()))
    })?;
    for (name, size) in volumes {
        eventually(&format!("volume {name} to be protected"), SETTLES_WITHIN, || {
            let volume = api.call(async |client| client.find_by_name::<Volume>(name).await)?;
            let status = volume.context("the volume is not listed")?.status;
            ensure!(status.state != ProtectionState::Failed, "volume {name}: {}", status.reasons.join("; "));
            let file = primary.volume(name);
            let served = std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() == *size);
            Ok((status.state == ProtectionState::Protected && served).then_some(()))
        })?;
    }
    Ok((vault_id, group_id))
}
