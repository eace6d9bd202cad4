//! The keyed Merkle hash of a volume: blocks, leaves, inner nodes, and the root of a whole disk.
//!
//! ```text
//! level n   root                     H("inner" ‖ level ‖ 256 × 32 bytes)      all children zero → zero
//!  …        inner nodes, 256 children each
//! level 0   leaves: 512 blocks       H("leaf" ‖ 512 × 16 bytes)               all blocks zero → zero
//!           blocks: 4096 bytes       first 16 bytes of H(block)               all bytes zero → zero
//! ```
//! H is BLAKE3 keyed with the volume's hash key. The depth follows from the volume's size alone, and blocks past its
//! end count as zero, so that the root depends on content only: computed from a disk it equals a point's.

use lifeboat_model::{BLOCK_SIZE, BlockHash, LEAF_BLOCKS, MAP_FANOUT, RootHash};
use zeroize::Zeroize;

use crate::FormatError;
use crate::keys::HashKey;

/// Slots of a leaf.
pub const LEAF_SLOTS: usize = 512;

const _: () = assert!(LEAF_BLOCKS == 512 && MAP_FANOUT == 256 && BLOCK_SIZE == 4096, "version 1 fixes these");

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole chunks at a time, without a way out inside: the compiler turns each into wide loads.
    let mut chunks = bytes.chunks_exact(128);
    chunks.all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
        && bytes.chunks_exact(128).remainder().iter().all(|byte| *byte == 0)
}

/// Levels of inner nodes above the leaves of a volume of so many blocks: 0 when one leaf covers it.
#[must_use]
pub const fn tree_levels(size_blocks: u64) -> u8 {
    let leaves = size_blocks.div_ceil(LEAF_BLOCKS);
    let mut levels = 0_u8;
    let mut covered = 1_u64;
    while covered < leaves {
        covered = covered.saturating_mul(256);
        levels = levels.saturating_add(1);
    }
    levels
}

/// Leaf that holds a block, and the block's slot in it.
#[must_use]
pub fn leaf_of(lba: u64) -> (u64, u16) {
    let slot = u16::try_from(lba & 511).unwrap_or(0);
    (lba >> 9, slot)
}

/// Which child of the inner node at `level` (1 = right above the leaves) leads to leaf `leaf`.
#[must_use]
pub fn child_of(leaf: u64, level: u8) -> u8 {
    let shift = u32::from(level.saturating_sub(1)).saturating_mul(8);
    u8::try_from(leaf.checked_shr(shift).unwrap_or(0) & 255).unwrap_or(0)
}

/// Blocks under one node at `level` (0 = leaf).
#[must_use]
pub fn blocks_under(level: u8) -> u64 {
    LEAF_BLOCKS.saturating_mul(256_u64.saturating_pow(u32::from(level)))
}

/// Hashes the blocks and nodes of one volume.
#[derive(Clone)]
pub struct BlockHasher {
    key: [u8; 32],
}

impl std::fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockHasher(..)")
    }
}

impl Drop for BlockHasher {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl BlockHasher {
    /// A hasher for the volume with this key.
    #[must_use]
    pub fn new(key: &HashKey) -> Self {
        Self { key: *key.expose() }
    }

    /// Hash of one block; [`BlockHash::ZERO`] for a block of zeroes and for no other.
    #[must_use]
    pub fn block(&self, block: &[u8; BLOCK_SIZE]) -> BlockHash {
        if is_zero(block) {
            return BlockHash::ZERO;
        }
        let [hash, _] = halves(blake3::keyed_hash(&self.key, block).as_bytes());
        // A hash that comes out as zero would make content read as nothing. It has never been seen, and won't be.
        if hash == [0; 16] { BlockHash([0xff; 16]) } else { BlockHash(hash) }
    }

    /// Hash of a leaf from its blocks' hashes.
    #[must_use]
    pub fn leaf(&self, blocks: &[BlockHash; LEAF_SLOTS]) -> RootHash {
        if blocks.iter().all(BlockHash::is_zero) {
            return RootHash::ZERO;
        }
        let mut bytes = Vec::with_capacity(8200);
        bytes.extend_from_slice(b"leaf");
        blocks.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        RootHash(*blake3::keyed_hash(&self.key, &bytes).as_bytes())
    }

    /// Hash of the inner node at `level` (1 = right above the leaves) from its children's hashes.
    #[must_use]
    pub fn inner(&self, level: u8, children: &[RootHash; MAP_FANOUT]) -> RootHash {
        if children.iter().all(RootHash::is_zero) {
            return RootHash::ZERO;
        }
        let mut bytes = Vec::with_capacity(8200);
        bytes.extend_from_slice(b"inner");
        bytes.push(level);
        children.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        RootHash(*blake3::keyed_hash(&self.key, &bytes).as_bytes())
    }

    /// The root at depth `to` of a volume whose root at depth `from` is `root`, after growing: the old root becomes
    /// the first child, again and again.
    #[must_use]
    pub fn wrap(&self, root: RootHash, from: u8, to: u8) -> RootHash {
        let mut hash = root;
        for level in from.saturating_add(1)..=to {
            let mut children = [RootHash::ZERO; MAP_FANOUT];
            if let Some(first) = children.first_mut() {
                *first = hash;
            }
            hash = self.inner(level, &children);
        }
        hash
    }
}

fn halves(hash: &[u8; 32]) -> [[u8; 16]; 2] {
    let (mut low, mut high) = ([0; 16], [0; 16]);
    let (first, second) = hash.split_at(16);
    low.copy_from_slice(first);
    high.copy_from_slice(second);
    [low, high]
}

/// Computes the root of a volume from its blocks, given in address order: what proves a disk equal to a point.
///
/// Holds one unfinished node a level: some 40 KiB whatever the volume's size.
#[derive(Debug, Clone)]
pub struct RootHasher {
    hasher: BlockHasher,
    size_blocks: u64,
    done_blocks: u64,
    leaf: Vec<BlockHash>,
    /// Hashes of finished children of the unfinished node at level `index + 1`.
    levels: Vec<Vec<RootHash>>,
}

impl RootHasher {
    /// For a volume of `size_blocks` blocks.
    #[must_use]
    pub fn new(hasher: BlockHasher, size_blocks: u64) -> Self {
        let levels = vec![Vec::new(); usize::from(tree_levels(size_blocks))];
        Self { hasher, size_blocks, done_blocks: 0, leaf: Vec::with_capacity(LEAF_SLOTS), levels }
    }

    /// The next block.
    pub fn push(&mut self, block: &[u8; BLOCK_SIZE]) -> Result<(), FormatError> {
        self.push_hash(self.hasher.block(block))
    }

    /// The next block, by its hash.
    pub fn push_hash(&mut self, hash: BlockHash) -> Result<(), FormatError> {
        self.advance(1)?;
        self.place(hash);
        Ok(())
    }

    /// The next `count` blocks are zero. Takes time by the number of nodes touched, not of blocks.
    pub fn push_zeros(&mut self, count: u64) -> Result<(), FormatError> {
        let mut at = self.done_blocks;
        self.advance(count)?;
        let mut left = count;
        while left > 0 {
            let level = self.largest_zero(at, left);
            let step = match level {
                Some(level) => {
                    self.rise(level, RootHash::ZERO);
                    blocks_under(level)
                }
                None => {
                    self.place(BlockHash::ZERO);
                    1
                }
            };
            at = at.saturating_add(step);
            left = left.saturating_sub(step);
        }
        Ok(())
    }

    /// The root. Every block of the volume must have been given.
    pub fn finish(mut self) -> Result<RootHash, FormatError> {
        if self.done_blocks != self.size_blocks {
            return Err(FormatError::Truncated {
                what: "volume",
                needed: self.size_blocks,
                available: self.done_blocks,
            });
        }
        let levels = tree_levels(self.size_blocks);
        let mut hash = None;
        if !self.leaf.is_empty() || levels == 0 {
            hash = Some(self.close_leaf());
        }
        for (level, mut children) in (1..=levels).zip(std::mem::take(&mut self.levels)) {
            children.extend(hash.take());
            // Only the topmost node exists whatever it holds: below it, no children means that no node was begun.
            if !children.is_empty() || level == levels {
                hash = Some(self.hasher.inner(level, &padded(&children)));
            }
        }
        Ok(hash.unwrap_or(RootHash::ZERO))
    }

    fn advance(&mut self, count: u64) -> Result<(), FormatError> {
        let done = self.done_blocks.saturating_add(count);
        if done > self.size_blocks {
            return Err(FormatError::TooLarge { what: "volume", found: done, limit: self.size_blocks });
        }
        self.done_blocks = done;
        Ok(())
    }

    /// Highest level, below the root, of a node that begins at block `at` and lies within the next `left` blocks.
    fn largest_zero(&self, at: u64, left: u64) -> Option<u8> {
        (0..tree_levels(self.size_blocks)).rev().find(|&level| {
            let blocks = blocks_under(level);
            at.checked_rem(blocks) == Some(0) && blocks <= left
        })
    }

    fn place(&mut self, hash: BlockHash) {
        self.leaf.push(hash);
        if self.leaf.len() == LEAF_SLOTS && !self.levels.is_empty() {
            let leaf = self.close_leaf();
            self.rise(0, leaf);
        }
    }

    fn close_leaf(&mut self) -> RootHash {
        let mut blocks = [BlockHash::ZERO; LEAF_SLOTS];
        blocks.iter_mut().zip(self.leaf.drain(..)).for_each(|(slot, hash)| *slot = hash);
        self.hasher.leaf(&blocks)
    }

    /// Hands a finished node at `level` to its parent, and the parent to its own when that is full.
    fn rise(&mut self, level: u8, hash: RootHash) {
        let mut hash = hash;
        let mut level = level;
        let top = tree_levels(self.size_blocks);
        while let Some(siblings) = self.levels.get_mut(usize::from(level)) {
            siblings.push(hash);
            level = level.saturating_add(1);
            if siblings.len() < MAP_FANOUT || level >= top {
                return;
            }
            let children = padded(siblings);
            siblings.clear();
            hash = self.hasher.inner(level, &children);
        }
    }
}

fn padded(children: &[RootHash]) -> [RootHash; MAP_FANOUT] {
    let mut all = [RootHash::ZERO; MAP_FANOUT];
    all.iter_mut().zip(children).for_each(|(slot, hash)| *slot = *hash);
    all
}
