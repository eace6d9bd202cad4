//! A mount's life: started over nothing or over our own dead one, served, taken down.
//!
//! ```text
//! start ─> [resolve] ─ free ─────────────> [mount] ─> Serving ─ unmount: nobody uses it ──────────> gone
//!             │  ^                                       │  └── unmount: still used after `grace` ─> flushed, detached, ended
//!             │  └ detached                              └───── unmounted by someone, session broke ─> gone, `ended` tells
//!             ├ ours and dead (its gateway was killed)
//!             └ anything else there: refused, nothing is changed
//! ```
//! After a SIGKILL of the gateway the mount stays, and answers ENOTCONN to everybody; the next [`Mount::start`] recognises it by
//! its type in /proc/self/mountinfo, detaches and replaces it. A mount that is served by a living gateway, or one that does
//! not answer, is never touched.
//!
//! While the session ends, requests that were read are answered; those that were not get ENOTCONN. Detaching a mount that is
//! in use breaks its connection, so that nobody waits for an answer; without root it can't be broken, and whoever still
//! has a file open gets ENOTCONN from us for as long as this process lives.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Session, SessionACL};
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::device::{self, FS_KIND};
use crate::fs::ExportFs;
use crate::fuse::{Gate, Shell};
use crate::mountinfo::{self, MountEntry};
use crate::options::MountOptions;
use crate::tree::ExportTree;

/// How long a mount may take to answer before we call it hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Threads that read requests, at most; as many as there are processors below that. They only begin requests.
const READERS_MAX: usize = 8;
/// How long requests under way may take once the mount is being detached.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// How many dead mounts, one over the other, are taken away at a start.
const STALE_MAX: usize = 16;

/// Why a mount could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no FUSE, or hides it.
    #[error("cannot mount at {}: /dev/fuse is missing; load the kernel's fuse module (modprobe fuse), or give the container the device", .path.display())]
    NoFuseDevice {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount helper is not installed.
    #[error("cannot mount at {}: fusermount3 is not in PATH; install the package fuse3", .path.display())]
    NoFusermount {
        /// The mount point.
        path: PathBuf,
    },
    /// `allow_other` without root needs the administrator's consent.
    #[error("cannot mount at {} with allow_other: the line user_allow_other is missing in /etc/fuse.conf; add it, run the gateway as root, or leave allow_other out", .path.display())]
    AllowOtherRefused {
        /// The mount point.
        path: PathBuf,
    },
    /// The directory above the mount point is not there.
    #[error("cannot mount at {}: its parent directory cannot be used ({source}); create it first", .path.display())]
    NoParent {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The mount point could not be created or looked at.
    #[error("cannot use {} as mount point: {source}; choose a directory that the gateway may create or read", .path.display())]
    Unusable {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The mount point is a file.
    #[error("cannot mount at {}: it is not a directory; choose another mount point", .path.display())]
    NotADirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// There are files that the mount would hide.
    #[error("cannot mount at {}: the directory is not empty, and the mount would hide what is in it; empty it, or choose another mount point", .path.display())]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
    },
    /// Another file system is there.
    #[error("cannot mount at {}: {found} is mounted there; unmount it, or choose another mount point", .path.display())]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// Its type and source.
        found: String,
    },
    /// Another gateway serves this mount point.
    #[error("cannot mount at {}: another gateway is serving it; stop that gateway, or choose another mount point", .path.display())]
    Served {
        /// The mount point.
        path: PathBuf,
    },
    /// A mount of ours neither answers nor is dead.
    #[error("cannot mount at {}: the gateway that mounted it does not answer; stop that process, or detach the mount with: umount -l {}", .path.display(), .path.display())]
    Hung {
        /// The mount point.
        path: PathBuf,
    },
    /// The dead mount of an earlier gateway could not be taken away.
    #[error("cannot replace the dead mount at {}: {source}; detach it with: umount -l {}", .path.display(), .path.display())]
    StaleStays {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused to mount.
    #[error("cannot mount at {}: {source}. Mounting takes root, or a mount point owned by the gateway's user", .path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How an unmount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it any more.
    Clean,
    /// It was in use after the grace period: everything written was flushed, the mount is gone from the name space, and whoever
    /// still has a file open gets ENOTCONN.
    Detached {
        /// How many files were open.
        open_files: usize,
    },
    /// It was not there any more: unmounted before, or by someone else.
    AlreadyGone,
}

/// A mount that is served by this process. [`Mount::unmount`] it; dropping it detaches it without waiting for anybody.
pub struct Mount {
    path: PathBuf,
    device: String,
    fs: Arc<ExportFs>,
    /// What lets requests in.
    gate: Gate,
    /// True once the session has ended.
    ended: watch::Receiver<bool>,
    tell_ended: watch::Sender<bool>,
    /// Whether it has been taken out of the name space by us; also makes concurrent unmounts one.
    taken_down: tokio::sync::Mutex<bool>,
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("path", &self.path).field("serving", &self.is_serving()).finish_non_exhaustive()
    }
}

impl Mount {
    /// Mounts `tree` at `mountpoint` and serves it on the current tokio runtime (which needs I/O, time, and a thread
    /// that never blocks on the mount itself). Creates the mount point when only its last component is missing, and replaces
    /// a mount of ours whose process has died. Returns once the mount answers.
    ///
    /// # Errors
    /// [`MountError`]: what is in the way, and what to do. Nothing is left mounted.
    pub async fn start(
        mountpoint: &Path,
        tree: Arc<dyn ExportTree>,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        check_system(mountpoint, &options)?;
        let path = claim(mountpoint).await?;
        let allow_other = options.allow_other;
        let fs = Arc::new(ExportFs::new(tree, options));
        let (tell_ended, ended) = watch::channel(false);
        let gate = Gate::default();
        let mut mount = Self {
            path: path.clone(),
            device: String::new(),
            fs,
            gate,
            ended,
            tell_ended,
            taken_down: tokio::sync::Mutex::new(true),
        };
        let refused = |source| MountError::Refused { path: path.clone(), source };
        let at = path.clone();
        let connection = spawn_blocking(move || device::mount(&at, allow_other))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(refused)?;
        // From here on dropping it takes the mount away.
        *mount.taken_down.get_mut() = false;
        mount.serve(connection).await.map_err(refused)?;
        mount.device = mount.own_device().map_err(refused)?;
        tracing::info!(path = %mount.path.display(), "mounted");
        Ok(mount)
    }

    /// Where it is mounted: absolute, symbolic links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether requests are being answered.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !*self.ended.borrow()
    }

    /// How many files are open in it.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.fs.open_files()
    }

    /// Waits until it stops being served, for whatever reason: unmounted by us or by someone else, or the session broke.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the supervisor is gone, and the session with it.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Takes the mount down: waits up to `grace` for its users to leave, then flushes what is open for writing, detaches it
    /// and ends the session. When it returns nothing is mounted and no new request is served.
    pub async fn unmount(&self, grace: Duration) -> Unmounted {
        let mut taken_down = self.taken_down.lock().await;
        if *taken_down {
            return Unmounted::AlreadyGone;
        }
        let deadline = Instant::now() + grace;
        let mut answer = loop {
            if !self.is_mounted() {
                break Unmounted::AlreadyGone;
            }
            match self.unmount_once(false).await {
                Ok(()) => break Unmounted::Clean,
                Err(error) => tracing::debug!(path = %self.path.display(), %error, "not unmounted yet"),
            }
            if Instant::now() >= deadline {
                break self.detach().await;
            }
            tokio::time::sleep(POLL_EVERY).await;
        };
        // A file may outlive the mount in the name space: someone else detached it.
        if answer == Unmounted::AlreadyGone && self.fs.open_files() > 0 {
            self.fs.flush_open_files().await;
            answer = Unmounted::Detached { open_files: self.fs.open_files() };
        }
        *taken_down = true;
        self.gate.close();
        self.fs.close();
        // The kernel has closed the connection: the session ends by itself, unless the connection couldn't be broken.
        if tokio::time::timeout(FINISH_WITHIN, self.ended()).await.is_err() {
            self.tell_ended.send_replace(true);
        }
        tracing::info!(path = %self.path.display(), ?answer, "unmounted");
        answer
    }

    async fn detach(&self) -> Unmounted {
        let open_files = self.fs.open_files();
        // First nobody gets in any more, then what got in comes to its end, then nothing is missing from the flush.
        self.gate.close();
        self.fs.close();
        let _ = tokio::time::timeout(FINISH_WITHIN, self.gate.emptied()).await;
        let unflushed = self.fs.flush_open_files().await;
        tracing::warn!(
            path = %self.path.display(), open_files, unflushed,
            "the mount is still in use: detaching it; its users get an error"
        );
        if let Err(error) = self.unmount_once(true).await {
            // Nobody is served nevertheless: once this process has gone the mount is a dead one, which the next start replaces.
            tracing::error!(path = %self.path.display(), %error, "the mount could not be detached; run umount -l on it");
        }
        Unmounted::Detached { open_files }
    }

    /// Whether our file system is (still) what is mounted at the path.
    fn is_mounted(&self) -> bool {
        mountinfo::mounts_at(&self.path).is_ok_and(|mounts| mounts.iter().any(|mount| mount.device == self.device))
    }

    async fn unmount_once(&self, lazy: bool) -> std::io::Result<()> {
        let path = self.path.clone();
        spawn_blocking(move || unmount_path(&path, lazy))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    /// Has the first words with the kernel, and starts the threads that serve it.
    ///
    /// The mount is not asked whether it answers: a thread of this process that waits for an answer of this process can't be
    /// killed, and keeps the connection open, so that a SIGKILL in that moment would leave a process that never ends and a
    /// mount that nobody can use or replace (seen in a test).
    async fn serve(&self, connection: OwnedFd) -> std::io::Result<()> {
        let readers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, READERS_MAX);
        let shell = Shell::new(Arc::clone(&self.fs), self.gate.clone(), Handle::current(), readers);
        let mut config = fuser::Config::default();
        config.n_threads = Some(readers);
        config.clone_fd = true;
        // Who may use the mount, the kernel decides by the mount's own options.
        config.acl = SessionACL::All;
        let begin = spawn_blocking(move || Session::from_fd(shell, connection, SessionACL::All, config));
        let session = tokio::time::timeout(ANSWER_WITHIN, begin)
            .await
            .map_err(|_| std::io::Error::other("the kernel does not talk to the new mount"))?
            .map_err(std::io::Error::other)??;
        let (fs, gate, tell_ended, path) =
            (Arc::clone(&self.fs), self.gate.clone(), self.tell_ended.clone(), self.path.clone());
        std::thread::Builder::new().name("fuse-session".to_owned()).spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(path = %path.display(), %error, "the mount's session broke");
            }
            gate.close();
            fs.close();
            tell_ended.send_replace(true);
        })?;
        Ok(())
    }

    /// The device number of what was mounted a moment ago.
    fn own_device(&self) -> std::io::Result<String> {
        let mounts = mountinfo::mounts_at(&self.path)?;
        match mounts.into_iter().next_back() {
            Some(mount) if mount.kind == FS_KIND => Ok(mount.device),
            _ => Err(std::io::Error::other("the new mount is not in /proc/self/mountinfo")),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if *self.taken_down.get_mut() {
            return;
        }
        if self.device.is_empty() || self.is_mounted() {
            // Detaching waits for nobody, so that it may run here.
            if let Err(error) = unmount_path(&self.path, true) {
                tracing::error!(path = %self.path.display(), %error, "the mount could not be detached; run umount -l on it");
            }
        }
        self.gate.close();
        self.fs.close();
    }
}

fn check_system(path: &Path, options: &MountOptions) -> Result<(), MountError> {
    let path = path.to_owned();
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoFuseDevice { path });
    }
    let in_path = std::env::var_os("PATH")
        .is_some_and(|dirs| std::env::split_paths(&dirs).any(|dir| dir.join("fusermount3").is_file()));
    if !in_path {
        return Err(MountError::NoFusermount { path });
    }
    if options.allow_other && !rustix::process::geteuid().is_root() {
        let conf = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        if !conf.lines().any(|line| line.trim() == "user_allow_other") {
            return Err(MountError::AllowOtherRefused { path });
        }
    }
    Ok(())
}

/// Makes sure that the mount point is an empty directory with nothing mounted on it, and returns its real path.
async fn claim(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let path = mountinfo::resolve(mountpoint)
        .map_err(|source| MountError::NoParent { path: mountpoint.to_owned(), source })?;
    for _ in 0..STALE_MAX {
        let mounts =
            mountinfo::mounts_at(&path).map_err(|source| MountError::Unusable { path: path.clone(), source })?;
        let Some(top) = mounts.into_iter().next_back() else { return claim_directory(path) };
        remove_if_stale(&path, &top).await?;
    }
    let source = std::io::Error::other("too many dead mounts, one over the other");
    Err(MountError::StaleStays { path, source })
}

async fn remove_if_stale(path: &Path, top: &MountEntry) -> Result<(), MountError> {
    if top.kind != FS_KIND {
        let found = format!("{} ({})", top.kind, top.source);
        return Err(MountError::Occupied { path: path.to_owned(), found });
    }
    match probe(path).await {
        Liveness::Alive => Err(MountError::Served { path: path.to_owned() }),
        Liveness::Hung => Err(MountError::Hung { path: path.to_owned() }),
        Liveness::Dead(error) => {
            tracing::warn!(path = %path.display(), %error, "replacing the mount of a gateway that has died");
            let at = path.to_owned();
            spawn_blocking(move || unmount_path(&at, true))
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error)))
                .map_err(|source| MountError::StaleStays { path: path.to_owned(), source })
        }
    }
}

fn claim_directory(path: PathBuf) -> Result<PathBuf, MountError> {
    let unusable = |source| MountError::Unusable { path: path.clone(), source };
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir(&path).map_err(unusable)?;
        }
        Err(error) => return Err(unusable(error)),
        Ok(metadata) if !metadata.is_dir() => return Err(MountError::NotADirectory { path }),
        Ok(_) => {
            if std::fs::read_dir(&path).map_err(unusable)?.next().is_some() {
                return Err(MountError::NotEmpty { path });
            }
        }
    }
    Ok(path)
}

enum Liveness {
    Alive,
    /// The process behind it is gone.
    Dead(std::io::Error),
    Hung,
}

/// Asks the mount for its root's attributes, on a thread of its own that may hang with it.
async fn probe(path: &Path) -> Liveness {
    let (tell, told) = tokio::sync::oneshot::channel();
    let at = path.to_owned();
    let thread = std::thread::Builder::new().name("mount-probe".to_owned()).spawn(move || {
        // The kernel may answer metadata from its cache; a listing always asks.
        let _ = tell.send(std::fs::read_dir(at).map(drop));
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "cannot ask the mount: no thread");
        return Liveness::Hung;
    }
    match tokio::time::timeout(ANSWER_WITHIN, told).await {
        Ok(Ok(Ok(()))) => Liveness::Alive,
        Ok(Ok(Err(error))) => match error.raw_os_error() {
            Some(libc::ENOTCONN | libc::ECONNABORTED) => Liveness::Dead(error),
            // It refuses us, so it lives.
            _ => Liveness::Alive,
        },
        Ok(Err(_)) | Err(_) => Liveness::Hung,
    }
}

/// umount2(2), and fusermount3 when we may not. Lazily also breaks the connection (that is what MNT_FORCE does to FUSE), which
/// ends whoever waits for an answer.
fn unmount_path(path: &Path, lazy: bool) -> std::io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH | UnmountFlags::FORCE } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => {
            let output = std::process::Command::new("fusermount3")
                .arg(if lazy { "-uz" } else { "-u" })
                .arg("--")
                .arg(path)
                .output()?;
            if output.status.success() {
                return Ok(());
            }
            Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
        other => Ok(other?),
    }
}
