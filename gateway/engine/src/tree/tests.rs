//! The tree against a plain vector of blocks.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_format::hash::RootHasher;
use lifeboat_format::keys::HashKey;
use lifeboat_format::map::MapObjectRef;
use lifeboat_model::{BLOCK_SIZE, BlockHash, BranchId, Epoch, Lsn, MapId, SegmentId, SegmentSeq};

use super::*;

/// A xorshift generator: the same seed gives the same run.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Stored nodes in a table: a map object without bytes.
#[derive(Debug)]
struct Nodes {
    hasher: Arc<BlockHasher>,
    table: Mutex<HashMap<NodeRef, Node>>,
    loads: AtomicUsize,
}

impl Nodes {
    fn new(hasher: &Arc<BlockHasher>) -> Self {
        Self { hasher: Arc::clone(hasher), table: Mutex::default(), loads: AtomicUsize::new(0) }
    }

    fn loads(&self) -> usize {
        self.loads.swap(0, Ordering::Relaxed)
    }

    fn keep(&self, tree: &mut Tree) {
        tree.store(&mut &*self).expect("a table takes every node");
        assert!(!tree.is_fresh());
    }
}

impl NodeSink for &Nodes {
    fn put(&mut self, hasher: &BlockHasher, spot: Spot, node: Arc<Node>) -> Result<NodeRef> {
        // Through the stored form and back, as a map object would take it.
        let stored = node::to_stored(&node, spot.level).expect("a node was stored before its children");
        let mut table = self.table.lock().unwrap();
        let object = MapObjectRef {
            branch: BranchId::from_bytes([2; 16]),
            lsn: Lsn(1),
            id: MapId::from_bytes([4; 16]),
            salt: [5; 16],
        };
        let at = NodeRef {
            object: Arc::new(object),
            node: u32::try_from(table.len()).unwrap(),
            offset: 0,
            stored_len: 1,
            raw_len: 1,
            hash: stored.hash(hasher),
        };
        table.insert(at.clone(), node::from_stored(&stored));
        Ok(at)
    }
}

#[async_trait]
impl NodeStore for Nodes {
    async fn load(&self, wanted: &NodeAt) -> Result<Arc<Node>> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let node = self.table.lock().unwrap().get(&wanted.node).cloned().expect("a stored node");
        verify_node(&self.hasher, wanted, &node)?;
        Ok(Arc::new(node))
    }
}

pub(crate) fn hasher() -> Arc<BlockHasher> {
    Arc::new(BlockHasher::new(&HashKey::from_bytes([7; 32])))
}

fn slot(hasher: &BlockHasher, content: u64) -> Slot {
    let mut block = [0_u8; BLOCK_SIZE];
    block[..8].copy_from_slice(&content.to_le_bytes());
    let segment = SegmentId {
        branch: BranchId::from_bytes([3; 16]),
        epoch: Epoch(1 + content % 3),
        seq: SegmentSeq(1 + content % 1000),
    };
    let at = Location {
        segment,
        frame: u32::try_from(content % 90_000).unwrap(),
        slot: u8::try_from(content % 16).unwrap(),
    };
    Slot { hash: hasher.block(&block), at }
}

/// Root and lookups straight from the blocks.
fn root_of(hasher: &Arc<BlockHasher>, blocks: &[Option<Slot>]) -> RootHash {
    let mut root = RootHasher::new(BlockHasher::clone(hasher), u64::try_from(blocks.len()).unwrap());
    for block in blocks {
        root.push_hash(block.map_or(BlockHash::ZERO, |slot| slot.hash)).unwrap();
    }
    root.finish().unwrap()
}

async fn content(tree: &Tree, store: &Nodes) -> Vec<Option<Slot>> {
    let mut blocks = Vec::new();
    for run in tree.lookup(store, Extent { lba: 0, blocks: u64::MAX }).await.unwrap() {
        match run {
            Run::Zero(extent) => {
                assert_eq!(usize::try_from(extent.lba).unwrap(), blocks.len());
                blocks.extend((0..extent.blocks).map(|_| None));
            }
            Run::Block { lba, slot } => {
                assert_eq!(usize::try_from(lba).unwrap(), blocks.len());
                blocks.push(Some(slot));
            }
        }
    }
    blocks
}

async fn diff_blocks(from: &Tree, to: &Tree, store: &Nodes) -> Vec<u64> {
    let mut diff = from.diff(to);
    let mut found = Vec::new();
    while let Some(extent) = diff.next(store).await.unwrap() {
        found.extend(extent.lba..extent.end());
    }
    assert_eq!(diff.position(), to.blocks());
    found
}

fn expected_diff(from: &[Option<Slot>], to: &[Option<Slot>]) -> Vec<u64> {
    (0..to.len())
        .filter(|&lba| from.get(lba).copied().flatten().map(|s| s.hash) != to[lba].map(|s| s.hash))
        .map(|lba| u64::try_from(lba).unwrap())
        .collect()
}

/// A batch of changes, and the same to the model.
fn batch(dice: &mut Dice, hasher: &BlockHasher, model: &mut [Option<Slot>]) -> Vec<Change> {
    let size = u64::try_from(model.len()).unwrap();
    let mut changes = Vec::new();
    let mut lba = dice.below(size);
    while lba < size && changes.len() < 700 {
        let change = match dice.below(8) {
            0 => {
                let reach = if dice.below(4) == 0 { size - lba } else { (size - lba).min(1 + dice.below(1500)) };
                Change::zero(Extent { lba, blocks: reach })
            }
            _ => Change::block(lba, slot(hasher, 1 + dice.below(1 << 40))),
        };
        for lba in change.extent.lba..change.extent.end() {
            model[usize::try_from(lba).unwrap()] = match change.to {
                To::Zero => None,
                To::Block(slot) => Some(slot),
            };
        }
        lba = change.extent.end() + if dice.below(3) == 0 { dice.below(3000) } else { 0 };
        changes.push(change);
        if dice.below(40) == 0 {
            break;
        }
    }
    changes
}

#[tokio::test]
async fn equals_a_vector_of_blocks_under_generated_updates() {
    for seed in 1..=12_u64 {
        let hasher = hasher();
        let store = Nodes::new(&hasher);
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mut model: Vec<Option<Slot>> = vec![None; usize::try_from(1 + dice.below(2000)).unwrap()];
        let mut tree =
            Tree::empty(VolumeId::from_bytes([1; 16]), Arc::clone(&hasher), u64::try_from(model.len()).unwrap());
        let mut earlier = vec![(tree.clone(), model.clone())];
        for step in 0..25 {
            match dice.below(10) {
                0 => {
                    let size = match dice.below(3) {
                        0 => 1 + dice.below(u64::try_from(model.len()).unwrap()),
                        1 => u64::try_from(model.len()).unwrap() + dice.below(600),
                        _ => u64::try_from(model.len()).unwrap() + dice.below(140_000),
                    };
                    tree.resize(&store, size).await.unwrap();
                    model.resize(usize::try_from(size).unwrap(), None);
                }
                1 | 2 => store.keep(&mut tree),
                _ => {
                    let changes = batch(&mut dice, &hasher, &mut model);
                    tree.update(&store, &changes).await.unwrap();
                }
            }
            assert_eq!(tree.root_hash(), root_of(&hasher, &model), "seed {seed}, step {step}");
            if step % 5 == 0 {
                assert_eq!(content(&tree, &store).await, model, "seed {seed}, step {step}");
                earlier.push((tree.clone(), model.clone()));
            }
        }
        for (from, from_model) in &earlier {
            assert_eq!(content(from, &store).await, *from_model, "a clone changed with its original");
            assert_eq!(diff_blocks(from, &tree, &store).await, expected_diff(from_model, &model), "seed {seed}");
            assert_eq!(diff_blocks(&tree, from, &store).await, expected_diff(&model, from_model), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn what_is_overwritten_or_zeroed_as_a_whole_is_never_loaded() {
    let hasher = hasher();
    let store = Nodes::new(&hasher);
    let blocks = 512 * 300;
    let mut tree = Tree::empty(VolumeId::from_bytes([1; 16]), Arc::clone(&hasher), blocks);
    let all: Vec<Change> = (0..blocks).map(|lba| Change::block(lba, slot(&hasher, lba + 1))).collect();
    tree.update(&store, &all).await.unwrap();
    store.keep(&mut tree);
    assert_eq!(store.loads(), 0);

    let leaf: Vec<Change> = (512..1024).map(|lba| Change::block(lba, slot(&hasher, lba + 9))).collect();
    tree.update(&store, &leaf).await.unwrap();
    assert_eq!(store.loads(), 2, "root and inner node, not the leaf");

    store.keep(&mut tree);
    tree.update(&store, &[Change::zero(Extent { lba: 512, blocks: 512 * 299 })]).await.unwrap();
    assert_eq!(store.loads(), 2, "root and first inner node, no leaf");
    tree.update(&store, &[Change::zero(Extent { lba: 0, blocks })]).await.unwrap();
    assert_eq!(store.loads(), 0);
    assert_eq!(tree.root_hash(), RootHash::ZERO);
}

#[tokio::test]
async fn equal_subtrees_are_not_read_by_a_diff_and_a_walk_goes_on_where_it_stopped() {
    let hasher = hasher();
    let store = Nodes::new(&hasher);
    let blocks = 512 * 600;
    let mut from = Tree::empty(VolumeId::from_bytes([1; 16]), Arc::clone(&hasher), blocks);
    let some: Vec<Change> = (0..blocks).step_by(100).map(|lba| Change::block(lba, slot(&hasher, lba + 1))).collect();
    from.update(&store, &some).await.unwrap();
    store.keep(&mut from);
    let mut to = from.clone();
    let lbas = [3, 4, 512 * 100 + 7, 512 * 599 + 511];
    let changes: Vec<Change> = lbas.iter().map(|&lba| Change::block(lba, slot(&hasher, lba + 77))).collect();
    to.update(&store, &changes).await.unwrap();
    store.keep(&mut to);
    store.loads();

    assert_eq!(diff_blocks(&from, &to, &store).await, lbas);
    assert!(store.loads() <= 40, "three leaves on each side, their inner nodes, and what was loaded ahead");
    assert_eq!(diff_blocks(&to, &to, &store).await, [0_u64; 0]);
    assert_eq!(store.loads(), 0);

    let mut rest = from.diff(&to);
    rest.skip_to(5);
    assert_eq!(rest.next(&store).await.unwrap(), Some(Extent { lba: lbas[2], blocks: 1 }));
    let mut rest = from.diff(&to);
    rest.skip_to(4);
    assert_eq!(rest.next(&store).await.unwrap(), Some(Extent { lba: 4, blocks: 1 }));
}

#[tokio::test]
async fn a_swapped_node_is_refused() {
    let hasher = hasher();
    let store = Nodes::new(&hasher);
    let mut tree = Tree::empty(VolumeId::from_bytes([1; 16]), Arc::clone(&hasher), 2000);
    tree.update(&store, &[Change::block(0, slot(&hasher, 1)), Change::block(600, slot(&hasher, 2))]).await.unwrap();
    store.keep(&mut tree);
    let leaves: Vec<NodeRef> = store
        .table
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, node)| matches!(node, Node::Leaf(_)))
        .map(|(at, _)| at.clone())
        .collect();
    let [first, second] = &leaves[..] else { panic!("two leaves") };
    {
        let mut table = store.table.lock().unwrap();
        let (a, b) = (table[first].clone(), table[second].clone());
        table.insert(first.clone(), b);
        table.insert(second.clone(), a);
    }
    let error = tree.lookup(&store, Extent { lba: 0, blocks: 1 }).await.expect_err("the leaf is another one");
    assert_eq!(error.kind(), ErrorKind::Tampered);
}

/// Few blocks or many, set, replaced and taken out in any order: a leaf is what an array would be.
#[test]
fn a_leaf_holds_what_was_set_however_much_that_is() {
    let hasher = hasher();
    for (seed, most) in [(1, 3), (2, 100), (3, 140), (4, 512)] {
        let (mut dice, mut leaf, mut model) = (Dice(seed), Leaf::default(), vec![None; 512]);
        for round in 0..4000 {
            let index = dice.below(most);
            let mut new = slot(&hasher, round + 1);
            new.at.segment.seq = SegmentSeq(round / 50 + 1);
            let new = (dice.below(3) > 0).then_some(new);
            leaf.set(index, new);
            model[usize::try_from(index).unwrap()] = new;
            if round % 100 == 0 {
                let all: Vec<(u16, Slot)> = (0..).zip(&model).filter_map(|(at, slot)| Some((at, (*slot)?))).collect();
                assert_eq!(leaf.iter().collect::<Vec<_>>(), all);
                assert!(
                    (0..520_u64).all(|at| leaf.get(at) == model.get(usize::try_from(at).unwrap()).copied().flatten())
                );
                assert_eq!(leaf.is_zero(), all.is_empty());
                let hash = |at: usize| model[at].map_or(BlockHash::ZERO, |slot| slot.hash);
                assert!(leaf.hashes().iter().enumerate().all(|(at, found)| *found == hash(at)));
            }
        }
        if most == 3 {
            assert!(Node::Leaf(leaf).memory() < 2000, "three blocks take little");
        }
    }
}

#[test]
fn a_leaf_forgets_segments_that_no_block_names() {
    let hasher = hasher();
    let mut leaf = Leaf::default();
    let mut model = vec![None; 512];
    for round in 0..20_000_u64 {
        let index = round * 37 % 512;
        let mut slot = slot(&hasher, round + 1);
        slot.at.segment.seq = SegmentSeq(round + 1);
        leaf.set(index, Some(slot));
        model[usize::try_from(index).unwrap()] = Some(slot);
    }
    assert!((0..512_u64).all(|index| leaf.get(index) == model[usize::try_from(index).unwrap()]));
    assert!(Node::Leaf(leaf).memory() < 96 << 10);
}
