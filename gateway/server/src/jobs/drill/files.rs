//! Files on recovered volumes, by their hashes.
//!
//! A file system is looked at on a copy of its own: a test branch from the same recovery point, beside the one that the machines
//! of the test write. Mounting it replays its journal as any start of a machine would, and nobody else has it mounted.
//! The kernel of this gateway mounts it, read-only, without devices, programs or rights in it; names are looked up so
//! that no link leads out of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::digest;
use lifeboat_api::{Assertion, AssertionType, CleanupRequest, FailoverKind, FailoverRequest};
use lifeboat_model::state::JobState;
use lifeboat_model::{BranchId, GroupId, JobId, Timestamp, VolumeId};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::assertions::{of, wanted};
use super::{Run, found, partitions};
use crate::jobs::ask::Asked;
use crate::jobs::derived;
use crate::jobs::perform::{Done, Failure};
use crate::jobs::program::refusal;
use crate::records::{AnySpec, AssertionResult, kind};
use crate::view;

/// How long losetup and mount may take: journals are replayed, and blocks fetched.
const MOUNT_LIMIT: Duration = Duration::from_secs(120);

/// What is asked of a group for a look at its files.
enum CopyWanted {
    /// A test branch at this point.
    At(String),
    /// The end of that branch.
    End(BranchId),
}

impl Run<'_> {
    /// Looks at files, on copies of the volumes of their own.
    pub(super) async fn hash_files(&self) -> Result<Done, Failure> {
        let findings = self.findings();
        if findings.up.is_none() || findings.broken_off || self.is_broken_off().await? {
            self.end_copies().await?;
            return Ok(Done::new("nothing came up to look at"));
        }
        let snapshot = self.attached.snapshot();
        let mut by_group: BTreeMap<GroupId, Vec<(usize, &Assertion, VolumeId)>> = BTreeMap::new();
        for (index, one) in self.spec.spec.assertion.iter().enumerate() {
            let Some(volume) = one.volume_id.filter(|_| one.kind == AssertionType::FileHash) else { continue };
            let Some(document) = snapshot.get(kind::VOLUMES, &volume.to_string()) else { continue };
            let group = view::group_of(volume, &document.spec_as()?);
            by_group.entry(group).or_default().push((index, one, volume));
        }
        let mut results: Vec<AssertionResult> = Vec::new();
        for (group, wanted_of_it) in by_group {
            let copy = self.copy(group).await;
            for (index, one, volume) in wanted_of_it {
                let looked = match &copy {
                    Ok(branch) => self.file(*branch, volume, one).await,
                    Err(Failure::Final(why)) => Err(why.clone()),
                    Err(Failure::Passing(why)) => return Err(Failure::Passing(why.clone())),
                    Err(Failure::Cancelled) => return Err(Failure::Cancelled),
                };
                let (passed, found) = match looked {
                    Ok(found) => (true, found),
                    Err(found) => (false, found),
                };
                results.push(AssertionResult {
                    index,
                    kind: one.kind,
                    of: of(&snapshot, one),
                    wanted: wanted(one),
                    found,
                    passed,
                    at: Timestamp::now(),
                });
            }
        }
        self.end_copies().await?;
        let held = results.iter().filter(|result| result.passed).count();
        Ok(found(format!("{held} of {} hold", results.len()), move |findings| {
            findings.results.retain(|old| results.iter().all(|new| new.index != old.index));
            findings.results.extend(results.iter().cloned());
            findings.results.sort_by_key(|result| result.index);
        }))
    }

    fn copy_job(&self, group: GroupId) -> JobId {
        derived(&[b"lifeboat/v1/drill-copy\0", &self.id.to_bytes(), &group.to_bytes()])
    }

    /// A test branch of a group beside that of the test, from the same point.
    async fn copy(&self, group: GroupId) -> Result<BranchId, Failure> {
        let id = self.copy_job(group);
        if self.begun(id).await?.is_none() {
            let used = self.findings().points.into_iter().find(|point| point.group_id == group);
            let point = used.and_then(|used| used.point_id);
            let point = point.ok_or_else(|| Failure::Final("its group is in no test".to_owned()))?.to_string();
            self.begin_group(id, group, CopyWanted::At(point)).await?;
        }
        let (_, record) = self.over(id, false).await?;
        match record.state.0 {
            JobState::Succeeded => Ok(BranchId::from_bytes(id.to_bytes())),
            _ => Err(Failure::Final(format!("a copy can't be had: {}", record.cause.unwrap_or_default()))),
        }
    }

    /// Begins a job of a group: its copy, or the end of that.
    async fn begin_group(&self, id: JobId, group: GroupId, wanted: CopyWanted) -> Result<(), Failure> {
        self.attached.refresh().await?;
        let document = self.attached.snapshot().get(kind::GROUPS, &group.to_string()).cloned();
        let document = document.ok_or_else(|| Failure::Final("its group was deleted".to_owned()))?;
        let facts = view::group_facts(self.context, self.attached, &document)?;
        let asked = Asked { context: self.context, attached: self.attached, facts: &facts, job: id };
        let decided = match wanted {
            CopyWanted::At(point) => {
                asked.failover(&FailoverRequest { kind: FailoverKind::Test, point, branch_id: None }).await
            }
            CopyWanted::End(branch) => asked.cleanup(&CleanupRequest { branch_id: Some(branch.to_string()) }),
        };
        let (mut spec, steps) = decided.map_err(refusal)?;
        spec.parent = Some(self.id);
        let spec = AnySpec::Group(Box::new(spec));
        crate::jobs::begin(self.context, self.attached, id, spec, steps).await.map(drop).map_err(refusal)
    }

    /// Ends the copies, whatever became of them.
    async fn end_copies(&self) -> Result<(), Failure> {
        self.unmount_left().await;
        for point in self.findings().points {
            let copy = self.copy_job(point.group_id);
            let branch = BranchId::from_bytes(copy.to_bytes());
            if self.begun(copy).await?.is_none() {
                continue;
            }
            self.over(copy, false).await?;
            let id = derived(&[b"lifeboat/v1/drill-copy-end\0", &copy.to_bytes()]);
            if self.begun(id).await?.is_none() {
                self.attached.refresh().await?;
                let snapshot = self.attached.snapshot();
                let document = snapshot.get(kind::GROUPS, &point.group_id.to_string());
                let record: crate::records::GroupRecord =
                    document.map(|document| crate::records::status(document)).unwrap_or_default();
                if record.tests.iter().all(|test| test.branch != branch) {
                    continue;
                }
                self.begin_group(id, point.group_id, CopyWanted::End(branch)).await?;
            }
            let (spec, record) = self.over(id, false).await?;
            if record.state.0 == JobState::Failed {
                crate::jobs::retry(self.context, self.attached, id, &spec, false)
                    .await
                    .map_err(|error| Failure::Passing(error.0.detail))?;
                let cause = record.cause.unwrap_or_default();
                return Err(Failure::Passing(format!("a copy of the group {} isn't ended yet: {cause}", point.group)));
            }
        }
        Ok(())
    }

    /// Where file systems are mounted for a look.
    fn mounts(&self) -> PathBuf {
        self.context.state.path().join("drills").join(self.id.to_string())
    }

    /// Takes down what an earlier try left mounted.
    async fn unmount_left(&self) {
        let directory = self.mounts();
        let Ok(entries) = std::fs::read_dir(&directory) else { return };
        for entry in entries.flatten() {
            let _ = run("umount", &["-l".as_ref(), entry.path().as_ref()]).await;
            let _ = std::fs::remove_dir(entry.path());
        }
        let _ = std::fs::remove_dir(&directory);
    }

    /// Looks at one file.
    async fn file(&self, branch: BranchId, volume: VolumeId, one: &Assertion) -> Result<String, String> {
        let snapshot = self.attached.snapshot();
        let name = snapshot.get(kind::VOLUMES, &volume.to_string()).map(|document| document.name.clone());
        let name = name.ok_or("the volume was deleted")?;
        let mount = self.context.exported.path().ok_or("this gateway mounts no volumes: start it with --mount")?;
        let image = mount.join("branches").join(branch.to_string()).join(format!("{name}.img"));
        let at = self.mounts().join(volume.to_string());
        std::fs::create_dir_all(&at).map_err(|error| format!("{}: {error}", at.display()))?;
        let mut system = FileSystem::mount(&image, one.partition, &at).await?;
        let (path, expected) = (one.path.clone().unwrap_or_default(), one.sha256.clone().unwrap_or_default());
        let hashed = tokio::task::spawn_blocking(move || hash(&at, &path)).await.map_err(|error| error.to_string());
        system.unmount().await;
        let (sum, bytes) = hashed??;
        if sum == expected {
            Ok(format!("SHA-256 {sum}, {bytes} bytes"))
        } else {
            Err(format!("SHA-256 {sum}, {bytes} bytes"))
        }
    }
}

/// A file system that is mounted for a look.
struct FileSystem {
    device: Option<String>,
    at: Option<PathBuf>,
}

impl FileSystem {
    async fn mount(image: &Path, partition: Option<u32>, at: &Path) -> Result<Self, String> {
        let place = match partition {
            None => None,
            Some(number) => {
                let image = image.to_owned();
                let found = tokio::task::spawn_blocking(move || {
                    let mut disk = File::open(&image).map_err(|error| format!("{}: {error}", image.display()))?;
                    partitions::find(&mut disk, number)
                });
                Some(found.await.map_err(|error| error.to_string())??)
            }
        };
        let (offset, length) = place.map(|(offset, length)| (offset.to_string(), length.to_string())).unzip();
        let mut arguments = [OsStr::new("--find"), OsStr::new("--show")].to_vec();
        if let (Some(offset), Some(length)) = (&offset, &length) {
            arguments.extend(["--offset", offset, "--sizelimit", length].map(OsStr::new));
        }
        arguments.push(image.as_ref());
        let device = run("losetup", &arguments).await?.trim().to_owned();
        let mut system = Self { device: Some(device.clone()), at: None };
        let mut last = String::new();
        // XFS refuses a second one with the same id, unless it is told to: the volume itself may be mounted here.
        for options in ["ro,nodev,nosuid,noexec", "ro,nodev,nosuid,noexec,nouuid"] {
            let arguments = ["-o".as_ref(), options.as_ref(), device.as_ref(), at.as_os_str()];
            match run("mount", &arguments).await {
                Ok(_) => {
                    system.at = Some(at.to_owned());
                    return Ok(system);
                }
                Err(error) if last.is_empty() => last = error,
                Err(_) => {}
            }
        }
        system.unmount().await;
        Err(format!("its file system can't be mounted: {last}"))
    }

    async fn unmount(&mut self) {
        if let Some(at) = self.at.take() {
            if run("umount", &[at.as_ref()]).await.is_err() {
                let _ = run("umount", &["-l".as_ref(), at.as_ref()]).await;
            }
            let _ = std::fs::remove_dir(&at);
        }
        if let Some(device) = self.device.take() {
            let _ = run("losetup", &["--detach".as_ref(), device.as_ref()]).await;
        }
    }
}

impl Drop for FileSystem {
    /// When a look is given up in the middle.
    fn drop(&mut self) {
        for (program, arguments) in [
            ("umount", self.at.take().map(|at| vec!["-l".into(), at.into_os_string()])),
            ("losetup", self.device.take().map(|device| vec!["--detach".into(), OsString::from(device)])),
        ] {
            if let Some(arguments) = arguments {
                let _ = std::process::Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
            }
        }
    }
}

/// The SHA-256 of a file and its length; its name is looked up inside of `root`, wherever links lead.
fn hash(root: &Path, path: &str) -> Result<(String, u64), String> {
    let named = |error: rustix::io::Errno| format!("{path}: {error}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).map_err(named)?;
    // A pipe or a device would be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), inside).map_err(named)?);
    let failed = |error: std::io::Error| format!("{path}: {error}");
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{path} is no file"));
    }
    let mut sum = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0_u64);
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        sum.update(part);
        bytes += read as u64;
    }
    Ok((crate::auth::hex(sum.finish().as_ref()), bytes))
}

/// Runs a program of the system's, and gives what it prints.
async fn run(program: &str, arguments: &[&OsStr]) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(MOUNT_LIMIT, command.output()).await;
    let ended = ended.map_err(|_| format!("{program} took longer than {MOUNT_LIMIT:?}"))?;
    let ended = ended.map_err(|error| format!("{program} can't be run: {error}"))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&ended.stderr).trim()))
}
