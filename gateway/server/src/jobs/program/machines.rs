//! The machines of a program: stopped, started, checked by this gateway's driver.
//!
//! A run has the machine's id as its name; in a test, the machine's and the job's. What was begun is found again by that.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lifeboat_api::{FailoverKind, Firmware, InterfaceRun, JobKind, MachineRun};
use lifeboat_compute::{ComputeError, Disk, DiskSource, Driver, ErrorKind, Interface, Join, Order, RunId, StopOutcome};
use lifeboat_model::{BranchId, Cidr, JobId, MachineId, Timestamp};

use super::Run;
use crate::jobs::change_recovery;
use crate::jobs::perform::{Done, Failure};
use crate::nbd;
use crate::records::{Mover, Part, Placed, RecoveryRecord, kind, status};

impl From<ComputeError> for Failure {
    fn from(error: ComputeError) -> Self {
        match error.kind() {
            ErrorKind::Retry => Self::Passing(error.to_string()),
            ErrorKind::Refused | ErrorKind::Fatal => Self::Final(error.to_string()),
        }
    }
}

/// The name of a machine's run; in a test it is that test's.
pub(crate) fn run_id(machine: MachineId, test: Option<JobId>) -> Option<RunId> {
    let text = match test {
        None => machine.to_string(),
        Some(job) => format!("{machine}.{job}"),
    };
    text.parse().ok()
}

/// The machine that a run's name names, and the test, if it is one.
pub(crate) fn run_of(id: &RunId) -> Option<(MachineId, Option<JobId>)> {
    match id.as_str().split_once('.') {
        None => Some((id.as_str().parse().ok()?, None)),
        Some((machine, job)) => Some((machine.parse().ok()?, Some(job.parse().ok()?))),
    }
}

/// Where an interface is plugged in.
fn join(placed: &Placed, test: bool) -> Join {
    let network = placed.cidr.as_ref().and_then(|text| text.parse::<Cidr>().ok());
    let router = placed.router.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
    match (&placed.bridge, network) {
        (Some(name), _) => Join::Bridge { name: name.clone() },
        (None, Some(network)) if placed.network.is_some() && network.first().is_ipv4() => {
            Join::User { network, router, isolated: test }
        }
        _ => Join::Nothing,
    }
}

impl Run<'_> {
    const fn test(&self) -> Option<JobId> {
        match self.spec.failover {
            Some(FailoverKind::Test) => Some(self.id),
            _ => None,
        }
    }

    fn run_id(&self, machine: MachineId) -> Result<RunId, Failure> {
        run_id(machine, self.test()).ok_or_else(|| Failure::Final(format!("{machine} can't name a run")))
    }

    fn driver(&self) -> Result<&Arc<dyn Driver>, Failure> {
        self.context.compute.as_ref().ok_or_else(|| {
            Failure::Final(format!(
                "this gateway ({}) runs no machines: start it with --compute qemu or --compute script, and try again",
                self.context.settings.name
            ))
        })
    }

    /// The machines of the step's boot group.
    fn movers(&self) -> Result<Vec<&Mover>, Failure> {
        match self.step.part {
            Some(Part::BootGroup(at)) => Ok(self.spec.machines_of(at)),
            _ => Err(Failure::Final("the step names no boot group".to_owned())),
        }
    }

    /// Whether the machines of this program come up at the site where they are at home.
    fn at_home(&self, mover: &Mover) -> bool {
        let snapshot = self.attached.snapshot();
        let own = self.context.own_gateway(self.attached);
        let site = own.and_then(|own| crate::view::site_of(&snapshot, own)).map(|(site, _)| site);
        site == Some(mover.spec.site_id)
    }

    /// What a machine is started with.
    fn order(&self, mover: &Mover) -> Result<Order, Failure> {
        let snapshot = self.attached.snapshot();
        let spec = &mover.spec;
        // Over NBD, so that a gateway that is restarted is waited for by the machines that use it.
        let socket = self.context.state.path().join(nbd::SOCKET);
        let socket = std::path::absolute(&socket)
            .map_err(|error| Failure::Final(format!("{} can't be found: {error}", socket.display())))?;
        let directory = self.directory(mover)?;
        let boot = spec.boot_disk();
        let disk = |(index, disk): (usize, &lifeboat_api::MachineDisk)| {
            let volume = snapshot
                .get(kind::VOLUMES, &disk.volume_id.to_string())
                .ok_or_else(|| Failure::Final(format!("the volume {} of {} was deleted", disk.volume_id, spec.name)))?;
            let export = format!("{directory}{}", volume.name);
            Ok(Disk { source: DiskSource::Nbd { socket: socket.clone(), export }, boot: boot == Some(index) })
        };
        let target = spec.target.as_ref().filter(|_| !self.at_home(mover));
        let interface = |placed: &Placed| {
            let mac = placed.mac.parse().map_err(|error| Failure::Final(format!("{error}")))?;
            let address = placed.address.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
            Ok(Interface { mac, address, join: join(placed, self.test().is_some()) })
        };
        Ok(Order {
            id: self.run_id(mover.id)?,
            name: spec.name.clone(),
            cpus: target.and_then(|target| target.cpus).unwrap_or(spec.cpus),
            memory_mib: target.and_then(|target| target.memory_mib).unwrap_or(spec.memory_mib),
            firmware: match spec.firmware {
                Firmware::Bios => lifeboat_compute::Firmware::Bios,
                Firmware::Uefi => lifeboat_compute::Firmware::Uefi,
            },
            disks: spec.disk.iter().enumerate().map(disk).collect::<Result<_, Failure>>()?,
            interfaces: mover.interfaces.iter().map(interface).collect::<Result<_, Failure>>()?,
        })
    }

    /// What the names of a machine's disks begin with over NBD.
    fn directory(&self, mover: &Mover) -> Result<String, Failure> {
        if self.test().is_none() {
            return Ok(String::new());
        }
        let member = self.spec.groups.iter().find(|member| member.group == mover.spec.group_id);
        let member = member
            .ok_or_else(|| Failure::Final(format!("the group of the machine {} isn't in it", mover.spec.name)))?;
        Ok(format!("branches/{}/", BranchId::from_bytes(member.job.to_bytes())))
    }

    /// What the driver of this gateway has against the machines.
    pub(super) async fn check_machines(&self) -> Vec<String> {
        let here = |mover: &&Mover| self.spec.gateway_of(mover.spec.group_id) == self.step.gateway;
        let movers: Vec<&Mover> = self.spec.machines.iter().filter(here).collect();
        if movers.is_empty() {
            return Vec::new();
        }
        let driver = match self.driver() {
            Ok(driver) => driver,
            Err(Failure::Final(why) | Failure::Passing(why)) => return vec![why],
            Err(Failure::Cancelled) => return Vec::new(),
        };
        let checks = movers.into_iter().map(|mover| async move {
            match self.order(mover) {
                Ok(order) => driver.check(&order).await,
                Err(Failure::Final(why) | Failure::Passing(why)) => vec![why],
                Err(Failure::Cancelled) => Vec::new(),
            }
        });
        join_all(checks).await.concat()
    }

    /// The record of a machine.
    fn machine_record(&self, machine: MachineId) -> RecoveryRecord {
        let snapshot = self.attached.snapshot();
        snapshot.get(kind::MACHINES, &machine.to_string()).map(|document| status(document)).unwrap_or_default()
    }

    pub(super) async fn start_machines(&self) -> Result<Done, Failure> {
        let own = self.context.own_gateway(self.attached);
        let own = own.ok_or_else(|| Failure::Passing("this gateway isn't registered".to_owned()))?;
        let mut movers = self.movers()?;
        movers.retain(|mover| self.spec.gateway_of(mover.spec.group_id) == own);
        let mut left = Vec::new();
        if self.spec.kind == JobKind::Failback {
            // What ran at home without us is started by whoever runs it.
            let (ours, others) = movers.into_iter().partition(|mover| self.machine_record(mover.id).managed);
            movers = ours;
            left = others;
        }
        let mut runs = Vec::new();
        if !movers.is_empty() {
            let driver = self.driver()?;
            let starts = movers.iter().map(|mover| async move {
                driver.start(&self.order(mover)?).await?;
                Ok::<_, Failure>(MachineRun {
                    machine_id: mover.id,
                    name: mover.spec.name.clone(),
                    gateway_id: own,
                    since: Timestamp::now(),
                    interfaces: mover.interfaces.iter().map(interface_run).collect(),
                })
            });
            // All of them are given their chance before one's failure counts.
            for started in join_all(starts).await {
                runs.push(started);
            }
        }
        let started: Vec<MachineRun> = runs.iter().filter_map(|run| run.as_ref().ok().cloned()).collect();
        self.write_down(&started).await?;
        runs.into_iter().collect::<Result<Vec<_>, _>>()?;
        let names = |all: Vec<&str>| all.join(", ");
        let message = match (started.is_empty(), left.is_empty()) {
            (_, true) => format!("{} run", names(started.iter().map(|run| run.name.as_str()).collect())),
            (empty, false) => {
                let left = names(left.iter().map(|mover| mover.spec.name.as_str()).collect());
                let ran = names(started.iter().map(|run| run.name.as_str()).collect());
                let ran = if empty { String::new() } else { format!("{ran} run; ") };
                format!("{ran}{left}: never run by this gateway at home, to be started where they ran")
            }
        };
        Ok(Done::with(message, move |record| {
            for run in &started {
                record.result.machines.retain(|other| other.machine_id != run.machine_id);
                record.result.machines.push(run.clone());
            }
        }))
    }

    /// Writes down what runs.
    async fn write_down(&self, runs: &[MachineRun]) -> Result<(), Failure> {
        if let Some(test) = self.test() {
            self.change_subject(|record| {
                let Some(test) = record.tests.iter_mut().find(|one| one.job == test) else { return false };
                let known = &mut test.machines;
                let before = known.len();
                known.extend(
                    runs.iter()
                        .filter(|run| !known.iter().any(|one| one.machine_id == run.machine_id))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
                known.len() != before
            })
            .await?;
            return Ok(());
        }
        for run in runs {
            let home = self.spec.machines.iter().any(|mover| mover.id == run.machine_id && self.at_home(mover));
            change_recovery(self.attached, kind::MACHINES, &run.machine_id.to_string(), |record| {
                let same = |one: &MachineRun| one.gateway_id == run.gateway_id && one.interfaces == run.interfaces;
                if record.run.as_ref().is_some_and(same) {
                    return false;
                }
                record.run = Some(run.clone());
                record.managed |= home;
                true
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn stop_machines(&self) -> Result<Done, Failure> {
        let own = self.context.own_gateway(self.attached);
        let here = |mover: &&Mover| {
            let run = self.machine_record(mover.id).run.filter(|run| Some(run.gateway_id) == own);
            run.is_some_and(|run| !self.spec.stays(mover, run.gateway_id))
        };
        let movers: Vec<&Mover> = self.movers()?.into_iter().filter(here).collect();
        if movers.is_empty() {
            return Ok(Done::new("nothing runs any more"));
        }
        let driver = self.driver()?;
        let patience = Duration::from_secs(self.spec.patience_seconds);
        let stops = movers.iter().map(|mover| async move {
            let id = run_id(mover.id, None).ok_or_else(|| Failure::Final(format!("{} can't name a run", mover.id)))?;
            let how = driver.stop(&id, patience).await?;
            driver.forget(&id).await?;
            change_recovery(self.attached, kind::MACHINES, &mover.id.to_string(), |record| {
                record.run.take_if(|run| Some(run.gateway_id) == own).is_some()
            })
            .await?;
            Ok::<_, Failure>(told(&mover.spec.name, how))
        });
        let stopped = join_all(stops).await.into_iter().collect::<Result<Vec<String>, Failure>>()?;
        Ok(Done::new(stopped.join(", ")))
    }

    /// Switches the machines of the tests off that end; nobody waits for them.
    pub(super) async fn end_test_machines(&self) -> Result<Done, Failure> {
        let subject = self.spec.subject;
        let document = self.attached.vault()?.catalog().get(subject.kind(), &subject.id()).await?;
        let record: RecoveryRecord = status(&document);
        let ending = |job: JobId| self.spec.tests.contains(&job) && record.tests.iter().any(|test| test.job == job);
        let mut ended = 0_usize;
        if let Some(driver) = &self.context.compute {
            // Also those that were started and not written down.
            for id in driver.list().await? {
                if run_of(&id).and_then(|(_, test)| test).is_some_and(ending) {
                    driver.stop(&id, Duration::ZERO).await?;
                    driver.forget(&id).await?;
                    ended += 1;
                }
            }
        }
        Ok(Done::new(format!("{ended} machines were switched off")))
    }
}

fn interface_run(placed: &Placed) -> InterfaceRun {
    InterfaceRun { network_id: placed.network, mac: placed.mac.clone(), address: placed.address.clone() }
}

fn told(name: &str, how: StopOutcome) -> String {
    match how {
        StopOutcome::WasOff => format!("{name} was off"),
        StopOutcome::Graceful => format!("{name} has stopped"),
        StopOutcome::Forced => format!("{name} was switched off"),
    }
}
