//! Which recovery point is older than an encryption that nobody asked for.

use lifeboat_model::{GroupId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Point;

/// The recovery point to recover from after an encryption by somebody who shouldn't, as far as the gateways measured. Advice:
/// look into the point before you rely on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CleanPoint {
    /// The group.
    #[schema(value_type = String)]
    pub group_id: GroupId,
    /// The newest point before anything suspicious; the newest of all when nothing is. Absent when no point is that old.
    pub point: Option<Point>,
    /// How sure it is that this point is clean and newer ones are not: `low`, `medium` or `high`.
    pub confidence: String,
    /// Why this one, in a sentence.
    pub reason: String,
    /// Since when what is written has been measured; absent when it never was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub measured_since: Option<Timestamp>,
    /// What looks as if it was being encrypted, in order of its beginning.
    pub suspicions: Vec<SuspicionView>,
}

/// A volume that looks as if it was being encrypted: what was there was replaced by random bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SuspicionView {
    /// The volume.
    #[schema(value_type = String)]
    pub volume_id: VolumeId,
    /// Its name; absent when it was removed.
    pub volume: Option<String>,
    /// When it began: between the point of this time and the next one.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The newest point that shows it.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Bytes that turned random, about.
    pub bytes: u64,
    /// `low`, `medium` or `high`.
    pub confidence: String,
}
