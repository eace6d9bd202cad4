//! The data path: every protected write from the moment it arrives to the moment it is a recovery point in a vault,
//! and back.
//!
//! ```text
//! front end ─write──> group (assigns LSN) ─> journal ─durable─> image (destage, by address)
//!                                              └─durable─> shipper ─segment─> vault
//! vault ─segments, map─> tree (any recovery point) ─> read-only volume, branch, rehydrated image
//! ```
//! It knows blocks, records, points, branches and epochs. It never knows HTTP, FUSE, Terraform or policies' names.
//! Disk, object store and clock come from outside, so that a seed replays a run.

mod adopt;
pub mod at_rest;
pub mod blocking;
pub mod branch;
mod cause;
pub mod check;
pub mod dirty;
pub mod disk;
pub mod error;
pub mod gc;
pub mod group;
pub mod image;
pub mod insight;
pub mod journal;
pub mod machine;
pub mod marks;
pub mod meter;
mod overlay;
pub mod pace;
pub mod planted;
pub mod points;
pub mod quiesce;
pub mod reach;
pub mod record;
pub mod rehydrate;
pub mod relay;
pub mod segments;
pub mod ship;
mod state;
mod sync;
pub mod tree;
pub mod view;
pub mod volume;
pub mod write_path;

pub use error::{EngineError, ErrorKind};
pub use group::{
    FailOver, FlowStatus, Group, GroupConfig, GroupSettings, GroupStatus, Progress, RehydrateMode, Rehydrated,
    ResyncCause, ResyncSettings, ResyncStatus, RetrySettings, VolumeSpec,
};
pub use reach::Reach;
pub use record::{LogRecord, Op, PointMark};
pub use volume::BlockVolume;
