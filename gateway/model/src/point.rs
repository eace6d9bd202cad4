//! Recovery points: their kinds and the hashes that prove their content.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a recovery point came to be, which says what a database finds in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// Taken by interval: what a machine finds after its power was cut.
    CrashConsistent,
    /// Taken between hooks that quiesced the applications.
    AppConsistent,
    /// Taken on request.
    Manual,
    /// The last point of a tenure that ended in order: nothing was written after it.
    Final,
}

impl PointKind {
    /// The byte that stands for it in binary formats.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::CrashConsistent => 1,
            Self::AppConsistent => 2,
            Self::Manual => 3,
            Self::Final => 4,
        }
    }

    /// The kind that a byte stands for.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::CrashConsistent),
            2 => Some(Self::AppConsistent),
            3 => Some(Self::Manual),
            4 => Some(Self::Final),
            _ => None,
        }
    }

    /// The word used in the API, the CLI and Terraform.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CrashConsistent => "crash-consistent",
            Self::AppConsistent => "app-consistent",
            Self::Manual => "manual",
            Self::Final => "final",
        }
    }
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Root of a volume's Merkle map: the same for the same content, wherever it was computed. All zero for a volume of
/// zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootHash(pub [u8; 32]);

impl RootHash {
    /// The hash of a subtree that holds zeroes only.
    pub const ZERO: RootHash = RootHash([0; 32]);

    /// Whether the subtree holds zeroes only.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Keyed hash of one block. All zero for a block of zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub [u8; 16]);

impl BlockHash {
    /// The hash of a block of zeroes.
    pub const ZERO: BlockHash = BlockHash([0; 16]);

    /// Whether it stands for a block of zeroes.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
