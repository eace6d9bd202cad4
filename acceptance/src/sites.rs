//! Two sites: a gateway on a host of its own at each, a vault in object storage that each reaches over a line of its own, one group
//! of two volumes and a recovery plan over them.
//!
//! ```text
//! host of `primary` ──line── faults ──┐
//!                                     ├── object storage (a double of Google's)
//! host of `standby` ──line── faults ──┘
//! ```
//! Owns the vault's server and the lines; the gateways are the [`Estate`]'s. [`Sites::carry`] asks the plan for something and sees it
//! through, whatever strikes on the way ([`crate::ambush`]): killed gateways are started again, cut lines mended.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_api::types::{
    BootGroup, ChangePointRequest, CommitRequest, FailbackMode, FailbackRequest, FailoverKind, Job, Plan,
    PlanCleanupRequest, PlanFailoverRequest, PlanSpec, ReprotectRequest, Site, Volume,
};
use lifeboat_api::{Client, ClientError, JobState};
use lifeboat_lab::{FaultProxy, GcsDouble};

use crate::ambush::{Ambush, Side, Strike, Weapon};
use crate::estate::{Api, Estate, Place};
use crate::eventually;
use crate::gateway::Gateway;
use crate::hosts::Host;

/// The volumes.
pub const VOLUMES: [(&str, u64); 2] = [("data", 4 << 20), ("log", 2 << 20)];
const PLAN: &str = "shop";
/// A job of small volumes takes seconds; with a kill or a cut in each step, and others on the machine, minutes.
const JOB_WITHIN: Duration = Duration::from_secs(120);
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a job that is struck now and then.
const LOOK: Duration = Duration::from_millis(150);

/// What is asked of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A test failover.
    Test,
    /// Its end.
    Cleanup,
    /// A planned failover.
    Planned,
    /// An unplanned failover to this point.
    Unplanned(String),
    /// Another point.
    ChangePoint(String),
    /// The end of a failover.
    Commit,
    /// The first half of the way home.
    Reprotect,
    /// The way home.
    Failback(FailbackMode),
}

impl Verb {
    async fn ask(&self, client: &Client, plan: &str) -> Result<Job, ClientError> {
        let failover = |kind, point: &str| PlanFailoverRequest {
            kind,
            point: point.to_owned(),
            ttl: "1h".into(),
            test_network_id: None,
        };
        match self {
            Self::Test => client.verb::<Plan>(plan, "failover", &failover(FailoverKind::Test, "latest")).await,
            Self::Planned => client.verb::<Plan>(plan, "failover", &failover(FailoverKind::Planned, "latest")).await,
            Self::Unplanned(point) => {
                client.verb::<Plan>(plan, "failover", &failover(FailoverKind::Unplanned, point)).await
            }
            Self::Cleanup => client.verb::<Plan>(plan, "cleanup", &PlanCleanupRequest::default()).await,
            Self::ChangePoint(point) => {
                client.verb::<Plan>(plan, "change-point", &ChangePointRequest { point: point.clone() }).await
            }
            Self::Commit => client.verb::<Plan>(plan, "commit", &CommitRequest {}).await,
            Self::Reprotect => client.verb::<Plan>(plan, "reprotect", &ReprotectRequest {}).await,
            Self::Failback(mode) => client.verb::<Plan>(plan, "failback", &FailbackRequest::new(*mode)).await,
        }
    }
}

/// Two sites and what is between them.
#[derive(Debug)]
pub struct Sites {
    /// The gateways, and what is declared.
    pub estate: Estate,
    /// What lies in wait on the lines.
    pub ambush: Ambush,
    /// How long a line that was cut stays so.
    pub cut_for: Duration,
    /// Everything that struck so far.
    pub strikes: Vec<Strike>,
    plan: String,
    told: Receiver<Strike>,
    hosts: [Host; 2],
    _lines: [FaultProxy; 2],
    _storage: GcsDouble,
    // Dropped last: the lines run on it.
    _runtime: tokio::runtime::Runtime,
}

impl Sites {
    /// Makes both sites, protects the volumes and declares the plan.
    ///
    /// # Errors
    /// When this machine can't do that, or a step fails.
    pub fn new(label: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let storage = runtime.block_on(GcsDouble::start("vaults"))?;
        let hosts = [Host::new()?, Host::new()?];
        let line = |host: &Host| runtime.block_on(FaultProxy::start_at(host.upstream().into(), storage.address()));
        let lines = [line(&hosts[0])?, line(&hosts[1])?];
        let (ambush, told) = Ambush::lay(&lines, hosts.clone());
        let place = |side: usize| Place {
            host: hosts.get(side).cloned(),
            listen: None,
            args: ["--reconcile-interval", "500ms"].map(str::to_owned).to_vec(),
            environment: [
                GcsDouble::CREDENTIALS[0],
                ("LIFEBOAT_ALLOW_HTTP_STORAGE", "1"),
                // A request that is lost in a cut line is given up while the line is still cut, now and then.
                ("LIFEBOAT_STORAGE_STALL_SECONDS", "2"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            storage_endpoint: lines.get(side).map(FaultProxy::endpoint),
            state: None,
        };
        let mut estate = Estate::protect_between(label, "gs://vaults/acme", [place(0), place(1)], &VOLUMES)?;
        estate.add_standby()?;
        estate.open_vault_at_standby()?;
        let plan = declare_plan(&estate)?;
        Ok(Self {
            estate,
            ambush,
            cut_for: Duration::from_millis(1500),
            strikes: Vec::new(),
            plan,
            told,
            hosts,
            _lines: lines,
            _storage: storage,
            _runtime: runtime,
        })
    }

    /// The gateway of a site.
    ///
    /// # Errors
    /// There is none.
    pub fn gateway(&self, side: Side) -> Result<&Gateway> {
        match side {
            Side::Home => Ok(&self.estate.primary),
            Side::Away => self.estate.standby(),
        }
    }

    /// The same, to be killed or started.
    ///
    /// # Errors
    /// There is none.
    pub fn gateway_mut(&mut self, side: Side) -> Result<&mut Gateway> {
        match side {
            Side::Home => Ok(&mut self.estate.primary),
            Side::Away => self.estate.standby_mut(),
        }
    }

    /// The host of a site.
    #[must_use]
    pub fn host(&self, side: Side) -> &Host {
        let [home, away] = &self.hosts;
        match side {
            Side::Home => home,
            Side::Away => away,
        }
    }

    /// The files of the volumes at a site.
    ///
    /// # Errors
    /// There is no gateway.
    pub fn files(&self, side: Side) -> Result<Vec<PathBuf>> {
        let gateway = self.gateway(side)?;
        Ok(VOLUMES.iter().map(|(name, _)| gateway.volume(name)).collect())
    }

    /// What the volumes hold at a site, once they are open there.
    ///
    /// # Errors
    /// They don't open.
    pub fn contents(&self, side: Side) -> Result<Vec<Vec<u8>>> {
        contents(&self.files(side)?)
    }

    /// Asks for it without waiting.
    ///
    /// # Errors
    /// It is refused.
    pub fn ask(&self, verb: &Verb) -> Result<Job> {
        let asked = Api::of(self.gateway(Side::Away)?)?.call(async |client| verb.ask(client, &self.plan).await);
        asked.with_context(|| format!("ask for {verb:?}"))
    }

    /// Asks for it, and sees its job through to success: what is killed on the way is started again, what is cut is mended.
    ///
    /// # Errors
    /// It is refused, fails, or takes too long.
    pub fn carry(&mut self, verb: &Verb) -> Result<Job> {
        let (started, before) = (Instant::now(), self.strikes.len());
        let job = self.ask(verb)?;
        let job = self.see_through(&job).with_context(|| format!("carry {verb:?} out"))?;
        let (strikes, took) = (self.strikes.len() - before, started.elapsed().as_secs_f64());
        eprintln!("{verb:?}: {took:.1} s, {strikes} strikes");
        Ok(job)
    }

    /// Sees a job through to success.
    ///
    /// # Errors
    /// It fails or takes too long.
    pub fn see_through(&mut self, job: &Job) -> Result<Job> {
        let (id, started) = (job.id.to_string(), Instant::now());
        loop {
            while let Ok(strike) = self.told.recv_timeout(LOOK) {
                self.recover(strike)?;
            }
            // A gateway that was struck just now answers nothing; the next look follows its start.
            let found = Api::of(self.gateway(Side::Away)?)?.call(async |client| client.job(&id).await);
            match found {
                Ok(job) if job.is_over() => {
                    let (state, cause) = (job.state, job.cause.as_deref().unwrap_or_default());
                    ensure!(state == JobState::Succeeded, "{} {id} ended {state}: {cause}", job.kind);
                    // A site may have been struck in the moment in which the other one showed that the job is over.
                    self.recover_from_strikes()?;
                    return Ok(job);
                }
                Ok(job) if started.elapsed() > JOB_WITHIN => bail!("not over after {JOB_WITHIN:?}: {job:#?}"),
                Err(error) if started.elapsed() > JOB_WITHIN => return Err(error).context("look at the job"),
                _ => {}
            }
        }
    }

    /// What a job serves: the files of the volumes, in order.
    ///
    /// # Errors
    /// It serves others.
    pub fn served(&self, job: &Job) -> Result<Vec<PathBuf>> {
        let file = |name: &str| job.result.paths.iter().find(|path| path.ends_with(&format!("/{name}.img")));
        let found: Vec<PathBuf> = VOLUMES.iter().filter_map(|(name, _)| file(name)).map(PathBuf::from).collect();
        ensure!(found.len() == VOLUMES.len(), "{} serves {:?}", job.kind, job.result.paths);
        Ok(found)
    }

    /// Ends the ambush, and recovers from what still struck.
    ///
    /// # Errors
    /// What was struck doesn't come back.
    pub fn stand_down(&mut self) -> Result<()> {
        self.ambush.strike(|_| None);
        self.recover_from_strikes()
    }

    fn recover_from_strikes(&mut self) -> Result<()> {
        while let Ok(strike) = self.told.try_recv() {
            self.recover(strike)?;
        }
        Ok(())
    }

    fn recover(&mut self, strike: Strike) -> Result<()> {
        let began = Instant::now();
        self.bring_back(&strike).with_context(|| format!("after {strike:?}"))?;
        eprintln!("  {strike}: {:.1} s", began.elapsed().as_secs_f64());
        self.strikes.push(strike);
        Ok(())
    }

    fn bring_back(&mut self, strike: &Strike) -> Result<()> {
        match strike.weapon {
            Weapon::Kill => {
                self.gateway_mut(strike.side)?.kill9()?;
                self.ambush.spare(strike.side);
                self.gateway_mut(strike.side)?.restart()
            }
            Weapon::Cut(_) => {
                // The cut lasts so long: that is what is tried, and nothing is waited for.
                std::thread::sleep(self.cut_for);
                self.host(strike.side).mend()
            }
        }
    }

    /// Waits until the volumes can be written at one site and not at the other.
    ///
    /// # Errors
    /// It doesn't come to that.
    pub fn one_writer(&self, side: Side) -> Result<()> {
        let other = if side == Side::Home { Side::Away } else { Side::Home };
        for path in self.files(side)? {
            eventually(&format!("{} to take writes", path.display()), SETTLES_WITHIN, || {
                Ok(File::options().write(true).open(&path).is_ok().then_some(()))
            })?;
        }
        for path in self.files(other)? {
            eventually(&format!("{} to refuse writes", path.display()), SETTLES_WITHIN, || {
                let Ok(file) = File::options().read(true).write(true).open(&path) else { return Ok(Some(())) };
                // What is there is written again: it changes nothing where it should have been refused.
                let mut block = vec![0; 4096];
                let taken = file.read_exact_at(&mut block, 0).is_ok() && file.write_all_at(&block, 0).is_ok();
                Ok((!taken).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits until each side has what it needs and nothing else, while everything is active at `side`: the home copy, the
    /// recovery copy while that is the active one, and so many tests; in the mounts and in the gateways' directories.
    ///
    /// # Errors
    /// Something stays.
    pub fn nothing_is_left(&self, side: Side, tests: usize) -> Result<()> {
        let away = usize::from(side == Side::Away) + tests;
        for (at, copies, branches) in [(Side::Home, 1, 0), (Side::Away, away, away)] {
            let gateway = self.gateway(at)?;
            let what = format!("{copies} copies and {branches} branches to be at {}", gateway.name());
            let mut found = (Vec::new(), Vec::new());
            eventually(&what, SETTLES_WITHIN, || {
                let groups = names(&gateway.state().join("groups"));
                let instances = groups.iter().flat_map(|group| names(group)).collect::<Vec<_>>();
                found = (instances, names(&gateway.mount().join("branches")));
                Ok((found.0.len() == copies && found.1.len() == branches).then_some(()))
            })
            .with_context(|| format!("there are {found:?}"))?;
        }
        Ok(())
    }

    /// Takes a recovery point and gives its id.
    ///
    /// # Errors
    /// It can't be taken.
    pub fn point(&self, side: Side, label: &str) -> Result<String> {
        let job = self.estate.take_point(self.gateway(side)?, label)?;
        Ok(job.result.point_id.context("a point without an id")?.to_string())
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        // Nothing hangs while the gateways stop.
        self.ambush.strike(|_| None);
        for side in Side::ALL {
            self.ambush.spare(side);
            let _ = self.host(side).mend();
        }
    }
}

/// What is in a directory; nothing when it isn't there.
fn names(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|one| one.path()).collect())
}

/// What files hold, once they can all be read.
///
/// # Errors
/// They can't.
pub fn contents(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    eventually("the volumes to be open", SETTLES_WITHIN, || {
        Ok(files.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>().ok())
    })
}

fn declare_plan(estate: &Estate) -> Result<String> {
    let vault_id = estate.vault_id().parse().map_err(|_| anyhow::anyhow!("no vault id"))?;
    let plan = Api::of(&estate.primary)?.call(async |client| {
        let mut volume_ids = Vec::new();
        for (name, _) in VOLUMES {
            volume_ids.extend(client.find_by_name::<Volume>(name).await?.map(|volume| volume.id));
        }
        let site = async |name: &str| client.find_by_name::<Site>(name).await.map(|site| site.expect("declared").id);
        let boot = BootGroup {
            name: None,
            machine_ids: Vec::new(),
            volume_ids,
            pre_action: Vec::new(),
            post_action: Vec::new(),
        };
        let spec = PlanSpec {
            vault_id,
            name: PLAN.into(),
            source_site_id: site("onprem").await?,
            target_site_id: site("recovery").await?,
            shutdown: None,
            boot_group: vec![boot],
        };
        client.create::<Plan>(&spec).await
    })?;
    // The other gateway knows of it as well before anything is asked of it.
    let api = Api::of(estate.standby()?)?;
    eventually("the plan at the recovery site", SETTLES_WITHIN, || {
        Ok(api.call(async |client| client.find_by_name::<Plan>(PLAN).await)?.map(drop))
    })?;
    Ok(plan.id.to_string())
}
