//! The delete intent: objects that are to be deleted once a time has passed, if nothing needs them then either.

use lifeboat_model::{GatewayId, Timestamp};

use super::sealed::{self, INTENT, RecordPlace};
use crate::FormatError;
use crate::keys::{GroupKey, Salt};
use crate::wire::{Put, Reader};

/// Most objects of one intent.
pub const INTENT_OBJECTS_MAX: usize = 1 << 17;
const NAME_LEN_MAX: usize = 255;
const OBJECT_LEN_MIN: usize = 11;

/// Why an object is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No kept position needs it.
    Unreferenced,
    /// It was written past the end of its writer's tenure, or never became part of a history.
    Orphan,
    /// Its branch was given up.
    Dropped,
    /// What is needed of it stands in a pack.
    Packed,
    /// A newer revision has taken its place.
    Superseded,
}

impl Reason {
    const ALL: [Self; 5] = [Self::Unreferenced, Self::Orphan, Self::Dropped, Self::Packed, Self::Superseded];

    fn code(self) -> u8 {
        match self {
            Self::Unreferenced => 1,
            Self::Orphan => 2,
            Self::Dropped => 3,
            Self::Packed => 4,
            Self::Superseded => 5,
        }
    }
}

/// One object of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its name below `groups/<group>/`.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Why.
    pub reason: Reason,
}

/// What is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteIntent {
    /// Revision of the list of kept points that it was computed from: the number in its own name.
    pub revision: u64,
    /// The gateway that decided it.
    pub gateway: GatewayId,
    /// When.
    pub time: Timestamp,
    /// The objects.
    pub objects: Vec<Doomed>,
}

impl DeleteIntent {
    /// The object's bytes.
    pub fn encode(&self, place: &RecordPlace, salt: Salt, key: &GroupKey) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        out.put_u64(self.revision);
        out.put(&self.gateway.to_bytes());
        out.put_i64(self.time.as_micros());
        out.put_count(INTENT.what, self.objects.len(), INTENT_OBJECTS_MAX)?;
        for object in &self.objects {
            out.put_text(INTENT.what, &object.name, NAME_LEN_MAX)?;
            out.put_u64(object.size);
            out.put_u8(object.reason.code());
        }
        sealed::seal(&INTENT, place, salt, key, &out)
    }

    /// Proves and decodes the object found under the name that `expected` says.
    pub fn decode(bytes: &[u8], expected: &RecordPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let body = sealed::open(&INTENT, bytes, expected, key)?;
        let mut reader = Reader::new(INTENT.what, &body);
        let revision = reader.u64()?;
        let gateway = GatewayId::from_bytes(reader.array()?);
        let time = Timestamp::from_micros(reader.i64()?);
        let count = reader.count(INTENT_OBJECTS_MAX, OBJECT_LEN_MIN)?;
        let mut objects = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, size, code) = (reader.text(NAME_LEN_MAX)?, reader.u64()?, reader.u8()?);
            let reason = Reason::ALL.into_iter().find(|reason| reason.code() == code);
            objects.push(Doomed { name, size, reason: reason.ok_or_else(|| reader.corrupt("no such reason"))? });
        }
        reader.finish()?;
        Ok(Self { revision, gateway, time, objects })
    }
}
