//! What writes look like: whether a volume is being encrypted by somebody who shouldn't, and which recovery point is older.
//!
//! ```text
//! segment ─ship/sample─> Measure of each volume ─point─> PointInsight ─> Ledger ─detect─> Suspicion ─suggest─> point
//! ```
//! - [`measure`]: what one block looks like, and the figures of one volume between two points.
//! - [`ledger`]: those figures over time, bounded: the older they are the more of them are one.
//! - [`detect`]: what in a ledger looks like an encryption, and the point before it.
//!
//! Everything here is advice. It is computed from samples while segments are built, it costs no request in normal times, and
//! losing it loses nothing else: figures that were not kept are missing from the ledger, which says since when it measures.
//! Nothing is ever recovered, deleted or stopped because of it.

pub mod detect;
pub mod ledger;
pub mod measure;

use lifeboat_model::{Lsn, PointId, Timestamp, VolumeId};

pub use detect::{Confidence, Suggestion, Suspicion, suggest, suspicions};
pub use ledger::{Entry, Ledger};
pub use measure::{Measure, Texture, texture};

/// What was written between two recovery points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointInsight {
    /// The point at the end.
    pub point: PointId,
    /// Its place in the write order.
    pub lsn: Lsn,
    /// Its time.
    pub time: Timestamp,
    /// What was written of each volume.
    pub volumes: Vec<(VolumeId, Measure)>,
}
