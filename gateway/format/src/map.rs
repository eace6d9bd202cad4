//! Maps: packs of immutable tree nodes, and the footer from which a reader starts.
//!
//! ```text
//! 0            132                        index_offset               total_len - 100     total_len
//! │ header     │ node 0 │ node 1 │ …       │ footer (zstd, AES-GCM)   │ trailer           │
//! ```
//! A volume's tree is a radix tree over its blocks (see [`crate::hash`]): a [`LeafNode`] says for 512 blocks where each
//! is (segment, frame, slot) and what its hash is; an [`InnerNode`] names 256 children and their hashes. Nodes never
//! change: a new map writes the nodes on the paths that changed and refers to older objects for the rest. A reference
//! carries everything that reading the node takes, so no header of another object has to be fetched first.
//!
//! A footer with roots makes the object a *head*, where a reader may start; a pack without roots is a *part*, written
//! before its head because the tree didn't fit in one object.

mod footer;
mod node;
mod object;
#[cfg(test)]
mod tests;

pub use footer::{LogPosition, MapFooter, NodeEntry, RetainedPoint, VolumeRoot};
pub use node::{BlockLocation, Child, InnerNode, LeafEditor, LeafNode, LeafRun, MapObjectRef, Node, NodeRef};
pub(crate) use object::HEADER;
pub use object::{MapBuilder, MapHeader, MapKeys, MapObject, MapParams, MapPlace, MapTrailer, SealedMap, open_footer};

pub use crate::seal::TRAILER_LEN;

/// Bytes of a map object's header.
pub const MAP_HEADER_LEN: usize = 132;
/// Longest map object, in bytes.
pub const MAP_LEN_MAX: u64 = 1 << 30;
/// Longest node before compression, in bytes.
pub const MAP_NODE_LEN_MAX: u32 = 64 << 10;
/// Longest footer before compression, in bytes.
pub const MAP_FOOTER_LEN_MAX: u32 = 64 << 20;
/// Most nodes of one map object.
pub const MAP_NODES_MAX: usize = 1 << 20;
/// Most recovery points that a footer lists.
pub const MAP_POINTS_MAX: usize = 1 << 16;
