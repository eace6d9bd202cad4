//! What a gateway wants of the kernel's target, and what it is told: one JSON document a line, in both directions.

use lifeboat_model::VolumeId;
use serde::{Deserialize, Serialize};

/// Bytes of the longest line.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// What the names of all our targets begin with, before the volume's id.
pub(crate) const NAMES: &str = "iqn.2026-01.io.lifeboat:";

/// Every target that there is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// All of them, in any order.
    pub targets: Vec<Target>,
}

/// One volume as a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The volume.
    pub volume: VolumeId,
    /// Its name in the mount: its file is `volumes/NAME.img`.
    pub name: String,
    /// Names of the initiators that may use it.
    pub initiators: Vec<String>,
}

/// How what was ordered stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `address:port` that the kernel listens on; any address as `0.0.0.0` or `[::]`.
    pub portal: String,
    /// Why nothing could be done at all: the kernel has no target, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// One for each target that was ordered.
    pub targets: Vec<TargetReport>,
}

/// How one target stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// The volume.
    pub volume: VolumeId,
    /// Why it isn't there; nothing when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The name of a volume's target: the same at each gateway, so that a host that knows it finds the volume after a failover too.
#[must_use]
pub fn target_name(volume: VolumeId) -> String {
    format!("{NAMES}{}", serial(volume))
}

/// The serial number by which hosts know the disk: 32 hexadecimal digits.
#[must_use]
pub fn serial(volume: VolumeId) -> String {
    volume.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_with_the_volume_and_are_names_of_targets() {
        let volume = VolumeId::from_bytes([0xab; 16]);
        assert_eq!(serial(volume), "ab".repeat(16));
        assert_eq!(target_name(volume), format!("iqn.2026-01.io.lifeboat:{}", "ab".repeat(16)));
    }

    #[test]
    fn what_later_versions_add_is_no_trouble() {
        let text = r#"{"portal": "0.0.0.0:3260", "targets": [{"volume": "VOLUME", "sessions": 2}], "kernel": "6.12"}"#;
        let volume = VolumeId::from_bytes([1; 16]);
        let report: Report = serde_json::from_str(&text.replace("VOLUME", &volume.to_string())).unwrap();
        assert_eq!(report.targets, [TargetReport { volume, trouble: None }]);
    }
}
