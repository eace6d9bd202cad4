//! A tree in memory, mounted on a temporary directory for one test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of the doubles")]

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_export::{ExportTree, Mount, MountOptions};
use tokio::runtime::Runtime;

use crate::support::MemoryTree;

/// How long a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The mount, its runtime and its directory; unmounted when it goes.
pub struct Served {
    pub tree: Arc<MemoryTree>,
    pub runtime: Runtime,
    pub mount: Option<Mount>,
    pub dir: PathBuf,
    _above: tempfile::TempDir,
}

impl Served {
    pub fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let tree = Arc::new(MemoryTree::default());
        let dir = above.path().join("mount");
        let mount = runtime.block_on(start(&dir, &tree)).unwrap();
        let dir = mount.path().to_owned();
        Self { tree, runtime, mount: Some(mount), dir, _above: above }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    pub fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            self.runtime.block_on(mount.unmount(Duration::ZERO));
        }
    }
}

pub async fn start(dir: &Path, tree: &Arc<MemoryTree>) -> Result<Mount, lifeboat_export::MountError> {
    Mount::start(dir, Arc::clone(tree) as Arc<dyn ExportTree>, MountOptions::default()).await
}

pub fn open(path: &Path, flags: i32) -> std::io::Result<std::fs::File> {
    let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
    std::fs::OpenOptions::new().read(true).write(write).custom_flags(flags & !libc::O_ACCMODE).open(path)
}

/// Polls until `done`, and fails after the deadline.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
