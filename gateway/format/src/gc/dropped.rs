//! A branch that was given up: nobody writes, offers or forks it any more, and its data is garbage unless another branch
//! that descends from it needs it.

use lifeboat_model::{BranchId, GatewayId, Timestamp};

use super::sealed::{self, DROPPED, RecordPlace};
use crate::FormatError;
use crate::keys::{GroupKey, Salt};
use crate::wire::{Put, Reader};

/// That a branch was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchDrop {
    /// The branch.
    pub branch: BranchId,
    /// The gateway that gave it up.
    pub gateway: GatewayId,
    /// When.
    pub time: Timestamp,
}

impl BranchDrop {
    /// The object's bytes.
    pub fn encode(&self, place: &RecordPlace, salt: Salt, key: &GroupKey) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        out.put(&self.branch.to_bytes());
        out.put(&self.gateway.to_bytes());
        out.put_i64(self.time.as_micros());
        sealed::seal(&DROPPED, place, salt, key, &out)
    }

    /// Proves and decodes the object found under the name that `expected` says.
    pub fn decode(bytes: &[u8], expected: &RecordPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let body = sealed::open(&DROPPED, bytes, expected, key)?;
        let mut reader = Reader::new(DROPPED.what, &body);
        let drop = Self {
            branch: BranchId::from_bytes(reader.array()?),
            gateway: GatewayId::from_bytes(reader.array()?),
            time: Timestamp::from_micros(reader.i64()?),
        };
        reader.finish()?;
        Ok(drop)
    }
}
