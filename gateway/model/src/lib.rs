//! The words of Lifeboat: identifiers, units, positions, points and state machines.
//!
//! Owns what every other crate must agree on and nothing else: no I/O, no async, no clock, no randomness
//! beyond minting identifiers. A type lives here when at least two crates name it.

mod address;
mod extent;
mod hours;
mod id;
mod point;
mod position;
pub mod state;
mod time;

pub use address::{Cidr, Mac, ParseCidrError, ParseMacError};
pub use extent::{Extent, ExtentSet};
pub use hours::{Day, Hours, HoursError};
pub use id::{
    AgentId, ApprovalId, BranchId, DrillId, EventId, GatewayId, GroupId, JobId, MachineId, MapId, NetworkId,
    NetworkMappingId, ParseIdError, PlanId, PointId, PolicyId, RegistrationKeyId, SiteId, TokenId, VaultId, VolumeId,
};
pub use point::{BlockHash, PointKind, RootHash};
pub use position::{Epoch, Lsn, SegmentId, SegmentSeq};
pub use time::{ParseTimestampError, Timestamp};

/// Bytes in a block, the unit of addressing, journaling, hashing and shipping.
pub const BLOCK_SIZE: usize = 4096;
/// [`BLOCK_SIZE`] as the type that offsets and sizes use.
pub const BLOCK_SIZE_U64: u64 = 4096;
/// Blocks under one leaf of a volume's map: 2 MiB.
pub const LEAF_BLOCKS: u64 = 512;
/// Children of one inner node of a volume's map.
pub const MAP_FANOUT: usize = 256;
/// Largest volume, in blocks: 64 TiB.
pub const VOLUME_BLOCKS_MAX: u64 = (64 << 40) / BLOCK_SIZE_U64;
