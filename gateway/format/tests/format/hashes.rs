//! The Merkle hash: the streaming root against a plain recursive one, growth, known values.

use std::collections::BTreeMap;

use lifeboat_format::hash::{
    BlockHasher, LEAF_SLOTS, RootHasher, blocks_under, child_of, is_zero, leaf_of, tree_levels,
};
use lifeboat_model::{BLOCK_SIZE, BlockHash, RootHash};
use proptest::prelude::*;

use crate::fixture::{hasher, text_block};

/// The definition, from the top down.
fn plain_root(hasher: &BlockHasher, level: u8, first: u64, blocks: &BTreeMap<u64, BlockHash>) -> RootHash {
    if blocks.range(first..first + blocks_under(level)).next().is_none() {
        return RootHash::ZERO;
    }
    if level == 0 {
        let mut hashes = [BlockHash::ZERO; LEAF_SLOTS];
        for (lba, hash) in blocks.range(first..first + 512) {
            hashes[usize::from(leaf_of(*lba).1)] = *hash;
        }
        return hasher.leaf(&hashes);
    }
    let mut children = [RootHash::ZERO; 256];
    for (at, child) in (0_u64..).zip(&mut children) {
        *child = plain_root(hasher, level - 1, first + at * blocks_under(level - 1), blocks);
    }
    hasher.inner(level, &children)
}

fn streamed_root(size_blocks: u64, blocks: &BTreeMap<u64, BlockHash>) -> RootHash {
    let mut root = RootHasher::new(hasher(), size_blocks);
    let mut at = 0;
    for (lba, hash) in blocks {
        root.push_zeros(lba - at).expect("inside");
        root.push_hash(*hash).expect("inside");
        at = lba + 1;
    }
    root.push_zeros(size_blocks - at).expect("inside");
    root.finish().expect("complete")
}

#[test]
fn depth_follows_from_the_size() {
    let depths = [(0, 0), (1, 0), (512, 0), (513, 1), (512 << 8, 1), ((512 << 8) + 1, 2), (512 << 16, 2), (1 << 34, 4)];
    for (size_blocks, levels) in depths {
        assert_eq!(tree_levels(size_blocks), levels, "{size_blocks} blocks");
    }
    assert_eq!(leaf_of(1000), (1, 488));
    assert_eq!((child_of(0x03_0201, 1), child_of(0x03_0201, 2), child_of(0x03_0201, 3)), (1, 2, 3));
}

#[test]
fn zero_is_zero_and_only_zero_is() {
    let hasher = hasher();
    assert_eq!(hasher.block(&[0; BLOCK_SIZE]), BlockHash::ZERO);
    for at in [0, 127, 128, 4095] {
        let mut block = [0; BLOCK_SIZE];
        block[at] = 1;
        assert!(!is_zero(&block) && !hasher.block(&block).is_zero(), "byte {at}");
    }
    assert!(is_zero(&[]) && is_zero(&[0; 130]) && !is_zero(&[0, 1]));
    assert_eq!(streamed_root(1 << 34, &BTreeMap::new()), RootHash::ZERO);
}

/// The definition in docs/format.md, with the hash function called directly.
#[test]
fn the_definition_is_this() {
    let key = [0xc3; 32];
    let block = text_block(9);
    let full = blake3::keyed_hash(&key, &block);
    let hash = hasher().block(&block);
    assert_eq!(hash.0, full.as_bytes()[..16]);

    let mut leaf = b"leaf".to_vec();
    leaf.extend([0; 16 * 512]);
    leaf[4 + 16 * 3..][..16].copy_from_slice(&hash.0);
    let leaf = blake3::keyed_hash(&key, &leaf);
    assert_eq!(streamed_root(512, &BTreeMap::from([(3, hash)])).0, *leaf.as_bytes());

    let mut inner = b"inner\x01".to_vec();
    inner.extend([0; 32 * 256]);
    inner[6..38].copy_from_slice(leaf.as_bytes());
    let inner = blake3::keyed_hash(&key, &inner);
    assert_eq!(streamed_root(513, &BTreeMap::from([(3, hash)])).0, *inner.as_bytes());
}

#[test]
fn a_disk_that_is_not_given_whole_has_no_root() {
    let mut root = RootHasher::new(hasher(), 10);
    root.push_zeros(9).expect("inside");
    assert!(root.clone().finish().is_err());
    root.push(&text_block(1)).expect("inside");
    assert!(root.push_zeros(1).is_err());
    assert!(root.finish().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_streamed_root_is_the_recursive_one(
        size_blocks in prop_oneof![1_u64..2000, 130_000_u64..140_000, Just(1 << 26), Just((512 << 16) + 1)],
        picks in proptest::collection::vec((any::<u64>(), 1_u8..=255), 0..12),
    ) {
        let blocks: BTreeMap<_, _> =
            picks.iter().map(|(pick, byte)| (pick % size_blocks, BlockHash([*byte; 16]))).collect();
        let plain = plain_root(&hasher(), tree_levels(size_blocks), 0, &blocks);
        prop_assert_eq!(streamed_root(size_blocks, &blocks), plain);
    }

    #[test]
    fn growing_wraps_the_root(small in 1_u64..600, grown in 600_u64..(1 << 27), at: u64, byte in 1_u8..=255) {
        let blocks = BTreeMap::from([(at % small, BlockHash([byte; 16]))]);
        let (from, to) = (tree_levels(small), tree_levels(grown));
        let wrapped = hasher().wrap(streamed_root(small, &blocks), from, to);
        prop_assert_eq!(wrapped, streamed_root(grown, &blocks));
    }
}
