//! The inode table: what the kernel holds a reference to.
//!
//! A number is a hash of the path and of the identity behind it, so that it stays the same for as long as the file is the
//! same one, and another volume under an old name gets another number. Only what the kernel knows is kept (it says when it
//! forgets), so that listing ten thousand points costs nothing here. In memory only: a new mount starts empty.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::tree::{Dir, FILE_SUFFIX, File, NAME_BYTES_MAX};

/// The number of the mount's root, given by the protocol.
pub const ROOT: u64 = 1;

/// What stands behind an inode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A directory.
    Dir(Dir),
    /// A file.
    File(File),
}

impl Node {
    /// The child of `dir` with this name as it stands in the mount; `None` if no file can have that name there.
    #[must_use]
    pub fn child(dir: &Dir, name: &str) -> Option<Self> {
        if name.is_empty() || name == "." || name == ".." || name.len() > NAME_BYTES_MAX || name.contains(['/', '\0']) {
            return None;
        }
        let volume = || name.strip_suffix(FILE_SUFFIX).filter(|volume| !volume.is_empty()).map(str::to_owned);
        Some(match dir {
            Dir::Root => Self::Dir(match name {
                "volumes" => Dir::Volumes,
                "points" => Dir::Points,
                "branches" => Dir::Branches,
                _ => return None,
            }),
            Dir::Volumes => Self::File(File::Volume { volume: volume()? }),
            Dir::Points => Self::Dir(Dir::PointGroup { group: name.to_owned() }),
            Dir::PointGroup { group } => Self::Dir(Dir::Point { group: group.clone(), time: name.to_owned() }),
            Dir::Point { group, time } => {
                Self::File(File::Point { group: group.clone(), time: time.clone(), volume: volume()? })
            }
            Dir::Branches => Self::Dir(Dir::Branch { branch: name.to_owned() }),
            Dir::Branch { branch } => Self::File(File::Branch { branch: branch.clone(), volume: volume()? }),
        })
    }

    /// Whether this belongs to a recovery point: it never changes.
    #[must_use]
    pub const fn is_point(&self) -> bool {
        matches!(self, Self::Dir(Dir::Point { .. }) | Self::File(File::Point { .. }))
    }
}

/// Whether `dir` holds files rather than directories.
#[must_use]
pub const fn holds_files(dir: &Dir) -> bool {
    matches!(dir, Dir::Volumes | Dir::Point { .. } | Dir::Branch { .. })
}

/// The inode number shown in a listing, where the identity isn't known: never 0, which means *deleted*.
#[must_use]
pub fn number_in_listing(node: &Node) -> u64 {
    number(node, &[0; 16])
}

fn number(node: &Node, identity: &[u8; 16]) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    identity.hash(&mut hasher);
    hasher.finish().max(ROOT + 1)
}

#[derive(Debug)]
struct Known {
    node: Node,
    identity: [u8; 16],
    lookups: u64,
}

/// The table.
#[derive(Debug, Default)]
pub struct Inodes {
    known: HashMap<u64, Known>,
}

impl Inodes {
    /// The number of this node, which the kernel now references once more.
    pub fn enter(&mut self, node: &Node, identity: [u8; 16]) -> u64 {
        let mut number = number(node, &identity);
        loop {
            match self.known.get_mut(&number) {
                Some(known) if known.node == *node && known.identity == identity => {
                    known.lookups += 1;
                    return number;
                }
                // Two paths with one hash: the later one takes the next free number.
                Some(_) => number = number.wrapping_add(1).max(ROOT + 1),
                None => {
                    self.known.insert(number, Known { node: node.clone(), identity, lookups: 1 });
                    return number;
                }
            }
        }
    }

    /// What stands behind a number, and its identity.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<(Node, [u8; 16])> {
        if number == ROOT {
            return Some((Node::Dir(Dir::Root), [0; 16]));
        }
        self.known.get(&number).map(|known| (known.node.clone(), known.identity))
    }

    /// The kernel dropped this many references.
    pub fn forget(&mut self, number: u64, lookups: u64) {
        if let Some(known) = self.known.get_mut(&number) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                self.known.remove(&number);
            }
        }
    }

    /// How many nodes the kernel references.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }
}
