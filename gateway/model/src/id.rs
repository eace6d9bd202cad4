//! Identifiers: 128-bit, time-ordered, opaque, compared exactly.
//!
//! Their text form is a short prefix and 32 hexadecimal digits (`vol-0193…`), so that an identifier pasted in the
//! wrong place is refused by its kind. Minting uses UUID version 7: ids made later sort later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Timestamp;

/// A text that is no identifier of the kind expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind} id: expected `{prefix}-` and 32 hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What stands before the digits in the text form.
            pub const PREFIX: &'static str = $prefix;

            /// A new identifier, unique everywhere, later than those made before it on this machine.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default identifier would be a different one each time")]
            pub fn new() -> Self {
                Self(*uuid::Uuid::now_v7().as_bytes())
            }

            /// The identifier with these 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes, as they stand in every binary format.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{:032x}"), u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, $prefix)
                    .map(Self)
                    .ok_or_else(|| ParseIdError { text: text.to_owned(), kind: $kind, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A vault: one format version, one master key, one catalog, in one object store prefix.
    VaultId, "vlt", "vault";
    /// A site: a place that can lose everything at once.
    SiteId, "site", "site";
    /// A gateway: one `lifeboat serve` and its state directory.
    GatewayId, "gw", "gateway";
    /// A replication policy.
    PolicyId, "pol", "policy";
    /// A consistency group: the volumes that share one write order, one journal and one log.
    GroupId, "grp", "group";
    /// A protected volume.
    VolumeId, "vol", "volume";
    /// A branch: a history that forks at a recovery point.
    BranchId, "br", "branch";
    /// A recovery point.
    PointId, "pt", "recovery point";
    /// A map object in the vault.
    MapId, "map", "map";
    /// A network of a site.
    NetworkId, "net", "network";
    /// A network mapping.
    NetworkMappingId, "nmap", "network mapping";
    /// A machine.
    MachineId, "mch", "machine";
    /// A recovery plan.
    PlanId, "plan", "recovery plan";
    /// A drill.
    DrillId, "drill", "drill";
    /// A job.
    JobId, "job", "job";
    /// An event.
    EventId, "evt", "event";
    /// A token of the API.
    TokenId, "tok", "token";
    /// A registration key: what a machine enrols with, once.
    RegistrationKeyId, "rgk", "registration key";
    /// A mobility agent.
    AgentId, "agt", "agent";
    /// A second person's word for what destroys.
    ApprovalId, "apr", "approval";
}

/// What stands behind the version of a shared point's id: twelve bits that chance seldom gives.
const SHARED: u16 = 0x5a9;

impl PointId {
    /// The id of a point that several groups take as one, at that time by the clock of whoever has them take it. UUID version 8, so
    /// that it is known by its form; `random` keeps it apart from others of the same millisecond.
    #[must_use]
    pub fn shared(time: Timestamp, random: [u8; 8]) -> Self {
        let [.., a, b, c, d, e, f] = time.as_micros().div_euclid(1000).to_be_bytes();
        let [high, low] = (0x8000 | SHARED).to_be_bytes();
        let [first, rest @ ..] = random;
        let mut bytes = [a, b, c, d, e, f, high, low, 0x80 | (first & 0x3f), 0, 0, 0, 0, 0, 0, 0];
        bytes[9..].copy_from_slice(&rest);
        Self(bytes)
    }

    /// For the id of a point that groups share: when it was taken, by the clock of whoever had them take it. The same in every group,
    /// whatever their own clocks said; milliseconds.
    #[must_use]
    pub fn shared_at(self) -> Option<Timestamp> {
        let [a, b, c, d, e, f, high, low, variant, ..] = self.0;
        let shared = u16::from_be_bytes([high, low]) == (0x8000 | SHARED) && variant & 0xc0 == 0x80;
        let millis = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        shared.then(|| Timestamp::from_micros(millis.saturating_mul(1000)))
    }

    /// Whether it is the id of a point that groups share.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self.shared_at().is_some()
    }
}

fn parse(text: &str, prefix: &str) -> Option<[u8; 16]> {
    let digits = text.strip_prefix(prefix)?.strip_prefix('-')?;
    let canonical = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !canonical {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_points_id_is_known_by_its_form_and_tells_its_time() {
        let time = Timestamp::from_micros(1_764_000_000_123_456);
        let id = PointId::shared(time, [0xff; 8]);
        assert_eq!(id.shared_at(), Some(Timestamp::from_micros(1_764_000_000_123_000)));
        assert_eq!(id.to_string(), "pt-019ab697e87b85a9bfffffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(PointId::shared(time.plus(std::time::Duration::from_millis(1)), [0; 8]) > id, "later ones sort later");
        assert_ne!(PointId::shared(time, [1; 8]), PointId::shared(time, [2; 8]));
        for other in [PointId::new(), PointId::from_bytes([0; 16]), PointId::from_bytes([0xff; 16])] {
            assert!(!other.is_shared(), "{other}");
        }
    }

    #[test]
    fn text_form_round_trips_and_keeps_kinds_apart() {
        let id = VolumeId::from_bytes([0x01, 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!(id.to_string(), "vol-019300000000000000000000000000ff");
        assert_eq!(id.to_string().parse::<VolumeId>(), Ok(id));
        assert!(id.to_string().parse::<GroupId>().is_err());
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "vol-", "vol-019300000000000000000000000000FF", "vol-0193", "019300000000000000000000000000ff"]
        {
            assert!(text.parse::<VolumeId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let first = JobId::new();
        let second = JobId::new();
        assert!(first < second);
    }
}
