//! A vault in memory, a model of every byte, and scripts of intervals.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use lifeboat_format::hash::{BlockHasher, RootHasher};
use lifeboat_model::{
    BLOCK_SIZE, BranchId, Extent, GatewayId, GroupId, Lsn, PointId, PointKind, RootHash, Timestamp, VolumeId,
};
use lifeboat_vault::{
    Access, FaultyStore, KeySource, ObjectMeta, Store, StoreError, Vault, VaultOptions, VaultSettings, open_store,
};

use crate::points::{PointInfo, list_points};
use crate::record::{LogRecord, Op, PointMark};
use crate::ship::{BranchWriter, Interval, MapPolicy, Open, Opened, ShipError, ShipSettings};
use crate::tree::tests::Dice;
use crate::view::{BlockRun, PointView};

/// The content of a group's volumes.
pub(crate) type Model = BTreeMap<VolumeId, Vec<u8>>;

pub(crate) fn volume(number: u8) -> VolumeId {
    VolumeId::from_bytes([number; 16])
}

pub(crate) fn gateway(number: u8) -> GatewayId {
    GatewayId::from_bytes([number; 16])
}

/// A vault with faults to order, and a group with volumes 1 and 2.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) faults: Arc<FaultyStore>,
    pub(crate) hook: Arc<HookStore>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) group: GroupId,
    pub(crate) branch: BranchId,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(VaultOptions::for_tests()).await
    }

    pub(crate) async fn with(options: VaultOptions) -> Self {
        let faults = FaultyStore::new(open_store("memory:", Access::Create).await.unwrap());
        let hook = Arc::new(HookStore { inner: faults.clone(), hook: Mutex::default() });
        let passphrase = KeySource::Passphrase("correct horse battery".to_owned().into());
        let vault = Vault::create(hook.clone(), VaultSettings::new("test"), &passphrase, options);
        let vault = Arc::new(vault.await.unwrap());
        let group = GroupId::from_bytes([9; 16]);
        vault.group_key(group).await.unwrap();
        for number in 1..=3 {
            vault.create_volume_keys(volume(number)).await.unwrap();
        }
        faults.reset_counts();
        Self { faults, hook, vault, group, branch: BranchId::from_bytes([8; 16]) }
    }

    pub(crate) async fn open(&self, gateway: GatewayId, open: Open) -> Result<(BranchWriter, Opened), ShipError> {
        self.open_on(self.branch, gateway, open).await
    }

    pub(crate) async fn open_on(
        &self,
        branch: BranchId,
        gateway: GatewayId,
        open: Open,
    ) -> Result<(BranchWriter, Opened), ShipError> {
        let settings =
            ShipSettings { map: MapPolicy { segments: 5, ..MapPolicy::default() }, ..ShipSettings::default() };
        BranchWriter::open(&self.vault, self.group, branch, gateway, open, settings).await
    }

    pub(crate) async fn points(&self) -> Vec<PointInfo> {
        list_points(&self.vault, self.group, self.branch).await.unwrap()
    }

    pub(crate) async fn hasher(&self, volume: VolumeId) -> BlockHasher {
        BlockHasher::new(&self.vault.volume_keys(volume).await.unwrap().keys.hash)
    }

    pub(crate) async fn root(&self, volume: VolumeId, content: &[u8]) -> RootHash {
        let blocks = content.as_chunks::<BLOCK_SIZE>().0;
        let mut root = RootHasher::new(self.hasher(volume).await, u64::try_from(blocks.len()).unwrap());
        blocks.iter().for_each(|block| root.push(block).unwrap());
        root.finish().unwrap()
    }

    /// The whole content that a view shows.
    pub(crate) async fn content(view: &Arc<PointView>) -> Model {
        let mut model = Model::new();
        for volume in view.volumes() {
            let mut content = Vec::new();
            for run in view.read_blocks(volume.id, 0, u64::MAX).await.unwrap() {
                match run {
                    BlockRun::Zero(extent) => {
                        content.resize(content.len() + usize::try_from(extent.blocks).unwrap() * BLOCK_SIZE, 0);
                    }
                    BlockRun::Data { data, .. } => content.extend_from_slice(&data),
                }
            }
            assert_eq!(u64::try_from(content.len() / BLOCK_SIZE).unwrap(), volume.size_blocks);
            model.insert(volume.id, content);
        }
        model
    }

    /// The point, mounted, equals the model byte for byte, and so do its root hashes.
    pub(crate) async fn check_point(&self, point: &PointInfo, model: &Model) {
        let view = PointView::open(self.vault.clone(), self.group, point).await.unwrap();
        assert!(same(&Self::content(&view).await, model), "point {} at {}", point.label, point.lsn);
        for volume in view.volumes() {
            let root = self.root(volume.id, &model[&volume.id]).await;
            assert_eq!(volume.root, Some(root), "{} at {}", volume.id, point.lsn);
            assert_eq!(view.tree(volume.id).await.unwrap().root_hash(), root);
        }
    }

    /// Every listed point is as the script says, and the newest ones are all there.
    pub(crate) async fn check_points(&self, script: &Script, until: Lsn) {
        let points = self.points().await;
        let expected: Vec<PointId> =
            script.points.iter().filter(|(lsn, _, _)| *lsn <= until).map(|(_, id, _)| *id).collect();
        assert_eq!(points.iter().map(|point| point.id).collect::<Vec<_>>(), expected);
        for point in &points {
            self.check_point(point, script.at(point.id)).await;
        }
    }
}

/// Equality that doesn't print megabytes.
pub(crate) fn same(left: &Model, right: &Model) -> bool {
    left == right
}

/// Intervals of records, and what the volumes hold at each point.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    dice: Dice,
    /// Time of its first point; the others follow 5 s after one another.
    pub(crate) start: i64,
    pub(crate) lsn: Lsn,
    pub(crate) model: Model,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) points: Vec<(Lsn, PointId, Model)>,
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            start: 1_700_000_000_000_000,
            lsn: Lsn::ZERO,
            model: Model::new(),
            intervals: Vec::new(),
            points: Vec::new(),
        }
    }

    /// A script that goes on from a state.
    pub(crate) fn from(seed: u64, lsn: Lsn, model: Model) -> Self {
        Self { lsn, model, ..Self::new(seed) }
    }

    /// With `count` intervals.
    pub(crate) fn with(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.interval();
        }
        self
    }

    pub(crate) fn at(&self, id: PointId) -> &Model {
        &self.points.iter().find(|(_, point, _)| *point == id).expect("a point of the script").2
    }

    /// Every record so far, those after `lsn` only: what a journal holds.
    pub(crate) fn after(&self, lsn: Lsn) -> Vec<Interval> {
        self.intervals.iter().filter(|interval| interval.last_lsn > lsn).cloned().collect()
    }

    fn push(&mut self, records: &mut Vec<LogRecord>, op: Op) {
        self.lsn = self.lsn.next();
        apply(&mut self.model, &op);
        records.push(LogRecord { lsn: self.lsn, op });
    }

    /// One more interval, which ends with a point.
    pub(crate) fn interval(&mut self) {
        let mut records = Vec::new();
        if self.model.is_empty() {
            self.push(&mut records, Op::Resize { volume: volume(1), blocks: 1300 });
            self.push(&mut records, Op::Resize { volume: volume(2), blocks: 70 });
        }
        for _ in 0..2 + self.dice.below(20) {
            let op = self.op();
            self.push(&mut records, op);
        }
        self.point(&mut records);
        self.intervals.push(Interval { records, last_lsn: self.lsn, ..Interval::default() });
    }

    fn point(&mut self, records: &mut Vec<LogRecord>) {
        let number = i64::try_from(self.points.len()).unwrap();
        let mark = PointMark {
            id: PointId::new(),
            time: Timestamp::from_micros(self.start + number * 5_000_000),
            kind: PointKind::CrashConsistent,
            label: format!("number {number}"),
            consistent: true,
        };
        let id = mark.id;
        self.push(records, Op::Point(mark));
        self.points.push((self.lsn, id, self.model.clone()));
    }

    fn op(&mut self) -> Op {
        let known: Vec<VolumeId> = self.model.keys().copied().collect();
        let pick = usize::try_from(self.dice.below(u64::try_from(known.len()).unwrap())).unwrap();
        let volume = known[pick];
        let size = u64::try_from(self.model[&volume].len() / BLOCK_SIZE).unwrap();
        let lba = self.dice.below(size);
        let reach = if self.dice.below(6) == 0 { 600 } else { 30 };
        let blocks = 1 + self.dice.below((size - lba).min(reach));
        match self.dice.below(12) {
            0 => Op::Zero { volume, extent: Extent { lba, blocks } },
            1 => Op::Trim { volume, extent: Extent { lba, blocks } },
            2 if self.dice.below(4) == 0 => Op::Resize { volume, blocks: size + self.dice.below(900) },
            3 if self.dice.below(8) == 0 => Op::Resize { volume, blocks: 1 + self.dice.below(size) },
            4 if self.dice.below(4) == 0 && !self.model.contains_key(&VolumeId::from_bytes([3; 16])) => {
                Op::Resize { volume: VolumeId::from_bytes([3; 16]), blocks: 40 }
            }
            5 => Op::Write { volume, lba, data: vec![0; BLOCK_SIZE].into() },
            _ => {
                let blocks = blocks.min(24);
                let mut data = vec![0_u8; usize::try_from(blocks).unwrap() * BLOCK_SIZE];
                for block in data.chunks_mut(BLOCK_SIZE) {
                    let value = self.dice.below(u64::MAX);
                    if !value.is_multiple_of(7) {
                        block[..8].copy_from_slice(&value.to_le_bytes());
                        block[BLOCK_SIZE / 2] = 1;
                    }
                }
                Op::Write { volume, lba, data: data.into() }
            }
        }
    }
}

/// What a record does to the model.
pub(crate) fn apply(model: &mut Model, op: &Op) {
    let range = |extent: &Extent| -> Range<usize> {
        usize::try_from(extent.lba).unwrap() * BLOCK_SIZE..usize::try_from(extent.end()).unwrap() * BLOCK_SIZE
    };
    match op {
        Op::Write { volume, lba, data } => {
            let start = usize::try_from(*lba).unwrap() * BLOCK_SIZE;
            model.get_mut(volume).unwrap()[start..start + data.len()].copy_from_slice(data);
        }
        Op::Zero { volume, extent } | Op::Trim { volume, extent } => {
            model.get_mut(volume).unwrap()[range(extent)].fill(0);
        }
        // It holds what is there.
        Op::Copy { .. } => {}
        Op::Resize { volume, blocks } => {
            model.entry(*volume).or_default().resize(usize::try_from(*blocks).unwrap() * BLOCK_SIZE, 0);
        }
        Op::Point(_) => {}
    }
}

/// The model after every record up to `lsn`.
pub(crate) fn model_at(script: &Script, lsn: Lsn) -> Model {
    let mut model = Model::new();
    let records = script.intervals.iter().flat_map(|interval| &interval.records);
    records.filter(|record| record.lsn <= lsn).for_each(|record| apply(&mut model, &record.op));
    model
}

type Hook = BoxFuture<'static, ()>;

/// A store that lets something else happen right before its n-th request.
pub(crate) struct HookStore {
    inner: Arc<dyn Store>,
    hook: Mutex<Option<(u64, Hook)>>,
}

impl std::fmt::Debug for HookStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookStore")
    }
}

impl HookStore {
    /// `hook` runs before the n-th request from now, counted from 1.
    pub(crate) fn before(&self, n: u64, hook: impl Future<Output = ()> + Send + 'static) {
        *self.hook.lock().unwrap() = Some((n, Box::pin(hook)));
    }

    /// Whether the hook is still waiting for its request.
    pub(crate) fn waiting(&self) -> bool {
        self.hook.lock().unwrap().is_some()
    }

    async fn step(&self) {
        let due = {
            let mut hook = self.hook.lock().unwrap();
            if let Some((left, _)) = hook.as_mut() {
                *left -= 1;
            }
            if hook.as_ref().is_some_and(|(left, _)| *left == 0) { hook.take() } else { None }
        };
        if let Some((_, hook)) = due {
            hook.await;
        }
    }
}

#[async_trait]
impl Store for HookStore {
    fn url(&self) -> &str {
        self.inner.url()
    }
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.step().await;
        self.inner.create(key, bytes).await
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.step().await;
        self.inner.get(key, max_bytes).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.step().await;
        self.inner.get_range(key, range).await
    }
    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        self.step().await;
        self.inner.get_tail(key, max_bytes).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.step().await;
        self.inner.list(prefix).await
    }
    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.step().await;
        self.inner.list_after(prefix, after).await
    }
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.step().await;
        self.inner.list_dirs(prefix).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.step().await;
        self.inner.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.step().await;
        self.inner.delete(key).await
    }
}
