//! The name space that the server lends to the mount and to NBD: which directories and files there are, and the volumes
//! behind them.
//!
//! ```text
//! /                              Dir::Root
//! ├── volumes/                   Dir::Volumes
//! │   └── db.img                 File::Volume      read-write, uncached, size of the volume
//! ├── points/                    Dir::Points
//! │   └── crm/                   Dir::PointGroup
//! │       └── 2026-11-20T10:05:00Z/  Dir::Point
//! │           └── db.img         File::Point       read-only, lazily read from the vault, cached by the kernel
//! └── branches/                  Dir::Branches
//!     └── drill-7/               Dir::Branch
//!         └── db.img             File::Branch      read-write, uncached
//! ```
//! The three parts of the first level always exist; everything below is the tree's. Names here carry no `.img`: the file
//! system adds and removes it. The tree holds no inode, handle or errno, and nothing here is kept on disk.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_engine::{BlockVolume, EngineError};
use lifeboat_model::Timestamp;

/// What the name of every exported file ends with.
pub const FILE_SUFFIX: &str = ".img";

/// The longest name of a directory or a file (with [`FILE_SUFFIX`]), in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// A directory of the mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// The mount point itself.
    Root,
    /// `volumes/`
    Volumes,
    /// `points/`
    Points,
    /// `points/GROUP/`
    PointGroup {
        /// Name of the group.
        group: String,
    },
    /// `points/GROUP/TIME/`
    Point {
        /// Name of the group.
        group: String,
        /// The point's name, as the tree listed it or as the user typed it: the tree decides what it accepts.
        time: String,
    },
    /// `branches/`
    Branches,
    /// `branches/BRANCH/`
    Branch {
        /// Name of the branch.
        branch: String,
    },
}

/// A file of the mount: one volume's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// `volumes/NAME.img`
    Volume {
        /// Name of the volume.
        volume: String,
    },
    /// `points/GROUP/TIME/NAME.img`
    Point {
        /// Name of the group.
        group: String,
        /// The point's name.
        time: String,
        /// Name of the volume.
        volume: String,
    },
    /// `branches/BRANCH/NAME.img`
    Branch {
        /// Name of the branch.
        branch: String,
        /// Name of the volume.
        volume: String,
    },
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("/"),
            Self::Volumes => f.write_str("volumes"),
            Self::Points => f.write_str("points"),
            Self::PointGroup { group } => write!(f, "points/{group}"),
            Self::Point { group, time } => write!(f, "points/{group}/{time}"),
            Self::Branches => f.write_str("branches"),
            Self::Branch { branch } => write!(f, "branches/{branch}"),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { volume } => write!(f, "volumes/{volume}{FILE_SUFFIX}"),
            Self::Point { group, time, volume } => write!(f, "points/{group}/{time}/{volume}{FILE_SUFFIX}"),
            Self::Branch { branch, volume } => write!(f, "branches/{branch}/{volume}{FILE_SUFFIX}"),
        }
    }
}

/// A directory's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirStat {
    /// Tells it from another one that had the same name before: the id of the group, point or branch.
    pub identity: [u8; 16],
    /// Modification time shown to users; `None`: when the mount was started.
    pub modified: Option<Timestamp>,
}

/// A file's attributes, known without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Tells it from another one that had the same name before. For a volume or a branch's volume: the volume's id; for a
    /// point's file: the point's id, because the kernel keeps the file's pages for as long as this stays the same.
    pub identity: [u8; 16],
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether every write is refused now: the file then shows no write permission.
    pub read_only: bool,
    /// Modification time shown to users; `None`: when the mount was started. For a point's file: the point's time.
    pub modified: Option<Timestamp>,
}

/// Total and free space shown by `df`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Size of the disk that holds the volumes.
    pub total_bytes: u64,
    /// What is free on it.
    pub free_bytes: u64,
}

/// The server's side of the mount. Called from many tasks at a time; the answers are never remembered here, only by the
/// kernel (a volume's attributes for a second, a point's for a minute).
///
/// # Errors
/// `NotFound` for what is not there (any more) becomes ENOENT; `Retry` is tried again for a bounded time, then EIO; every
/// other kind as [`crate::errno`] says.
#[async_trait]
pub trait ExportTree: Send + Sync + 'static {
    /// The names in a directory, without [`FILE_SUFFIX`], in any order. Never asked about [`Dir::Root`]. Called once per
    /// `opendir`. Names that are no file names (empty, too long, with a slash) are left out of the mount.
    async fn list(&self, dir: &Dir) -> Result<Vec<String>, EngineError>;

    /// Attributes of a directory. Asked only about [`Dir::PointGroup`], [`Dir::Point`] and [`Dir::Branch`].
    async fn stat_dir(&self, dir: &Dir) -> Result<DirStat, EngineError>;

    /// Attributes of a file. Must be cheap for a volume: asked at each lookup and, at most once a second, for each `stat`.
    async fn stat_file(&self, file: &File) -> Result<FileStat, EngineError>;

    /// The volume behind a file. Its `read_only` decides whether it may be opened for writing. It is held until the file's
    /// last close; one that ends before that answers `Closed` or `NotFound`, and the application sees ESTALE.
    async fn open(&self, file: &File) -> Result<Arc<dyn BlockVolume>, EngineError>;

    /// Whether a file that [`Self::open`] does not find is to come by itself: it is declared here, and its group is being
    /// opened. NBD clients wait for such a file for a while; in the mount it is simply not there yet.
    fn expects(&self, _file: &File) -> bool {
        false
    }

    /// What `df` shows for the mount.
    fn space(&self) -> Space {
        Space::default()
    }
}
