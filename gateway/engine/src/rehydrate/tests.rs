//! Rehydration into an image in memory, against the model.

use std::sync::Mutex;

use lifeboat_model::BLOCK_SIZE;
use lifeboat_vault::{Effect, OpKind, Rule};

use super::*;
use crate::segments::ReaderLimits;
use crate::ship::tests::harness::{Bench, Model, Script, gateway, same};
use crate::ship::{BranchWriter, Open};

/// A local image.
#[derive(Debug, Default)]
struct Image {
    model: Mutex<Model>,
    cursors: Mutex<Vec<Cursor>>,
    /// Blocks it may still take before it fails.
    room: Mutex<Option<u64>>,
}

impl Image {
    fn of(model: &Model) -> Arc<Self> {
        Arc::new(Self { model: Mutex::new(model.clone()), ..Self::default() })
    }

    fn content(&self) -> Model {
        self.model.lock().unwrap().clone()
    }

    fn put(&self, volume: VolumeId, lba: u64, data: &[u8]) -> Result<()> {
        if let Some(room) = self.room.lock().unwrap().as_mut() {
            let blocks = u64::try_from(data.len() / BLOCK_SIZE).unwrap();
            *room = room
                .checked_sub(blocks)
                .ok_or_else(|| EngineError::new(ErrorKind::NoSpace, "the test's disk is full"))?;
        }
        let start = usize::try_from(lba).unwrap() * BLOCK_SIZE;
        self.model.lock().unwrap().get_mut(&volume).unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[async_trait]
impl ImageSink for Image {
    async fn resize(&self, volume: VolumeId, blocks: u64) -> Result<()> {
        self.model.lock().unwrap().entry(volume).or_default().resize(usize::try_from(blocks).unwrap() * BLOCK_SIZE, 0);
        Ok(())
    }
    async fn write(&self, volume: VolumeId, lba: u64, data: Bytes) -> Result<()> {
        self.put(volume, lba, &data)
    }
    async fn zero(&self, volume: VolumeId, extent: Extent) -> Result<()> {
        self.put(volume, extent.lba, &vec![0; usize::try_from(extent.blocks).unwrap() * BLOCK_SIZE])
    }
    async fn progress(&self, cursor: Cursor) -> Result<()> {
        let mut cursors = self.cursors.lock().unwrap();
        assert!(cursors.last().is_none_or(|last| *last <= cursor), "progress went back");
        cursors.push(cursor);
        Ok(())
    }
}

#[async_trait]
impl ImageReader for Image {
    async fn blocks(&self, volume: VolumeId) -> Result<u64> {
        let model = self.model.lock().unwrap();
        Ok(model.get(&volume).map_or(0, |content| u64::try_from(content.len() / BLOCK_SIZE).unwrap()))
    }
    async fn read(&self, volume: VolumeId, extent: Extent) -> Result<Bytes> {
        let model = self.model.lock().unwrap();
        let (from, to) = (usize::try_from(extent.lba).unwrap(), usize::try_from(extent.end()).unwrap());
        Ok(Bytes::copy_from_slice(&model[&volume][from * BLOCK_SIZE..to * BLOCK_SIZE]))
    }
}

/// Blocks that differ, within the target's size; a block that `from` hasn't got counts as zeroes.
fn differing(from: &Model, to: &Model) -> u64 {
    let zeroes = [0_u8; BLOCK_SIZE];
    let count = to.iter().map(|(volume, content)| {
        let from = from.get(volume).map_or(&[][..], |content| content.as_chunks::<BLOCK_SIZE>().0);
        let to = content.as_chunks::<BLOCK_SIZE>().0;
        to.iter().enumerate().filter(|(at, block)| from.get(*at).unwrap_or(&zeroes) != *block).count()
    });
    u64::try_from(count.sum::<usize>()).unwrap()
}

struct Scene {
    bench: Bench,
    script: Script,
    reader: Arc<Reader>,
    views: Vec<Arc<PointView>>,
}

async fn scene(seed: u64) -> Scene {
    let bench = Bench::new().await;
    let script = Script::new(seed).with(9);
    let (mut writer, _): (BranchWriter, _) = bench.open(gateway(1), Open::New { origin: None }).await.unwrap();
    for interval in &script.intervals {
        writer.append(interval).await.unwrap();
        if writer.map_due() {
            writer.write_map().await.unwrap();
        }
    }
    let reader = Reader::open(&bench.vault, bench.group, ReaderLimits::default()).await.unwrap();
    let mut views = Vec::new();
    for point in bench.points().await {
        views.push(PointView::open_point(&reader, &point).await.unwrap());
    }
    Scene { bench, script, reader, views }
}

#[tokio::test]
async fn a_delta_moves_exactly_the_blocks_that_differ_forwards_and_backwards() {
    for seed in [2, 19] {
        let scene = scene(seed).await;
        for (from, to) in [(0, 8), (8, 0), (3, 5), (5, 3), (4, 4)] {
            let (before, after) = (&scene.script.points[from].2, &scene.script.points[to].2);
            let image = Image::of(before);
            let source = Source::Delta { base: scene.views[from].clone(), dirty: BTreeMap::new() };
            let limits = RehydrateLimits { batch_blocks: 50, batches: 3 };
            let stats = rehydrate(&scene.views[to], source, &*image, None, limits).await.unwrap();
            let mut content = image.content();
            content.retain(|volume, _| after.contains_key(volume));
            assert!(same(&content, after), "from {from} to {to}");
            let known: Model =
                after.iter().filter(|(v, _)| before.contains_key(v)).map(|(v, c)| (*v, c.clone())).collect();
            let fresh: usize =
                after.iter().filter(|(v, _)| !before.contains_key(v)).map(|(_, c)| c.len() / BLOCK_SIZE).sum();
            let expected = differing(before, &known) + u64::try_from(fresh).unwrap();
            assert_eq!(stats.blocks_moved, expected, "seed {seed}, from {from} to {to}");
        }
    }
}

#[tokio::test]
async fn what_the_image_wrote_after_its_base_is_moved_too_and_only_that() {
    let scene = scene(29).await;
    let (from, to) = (6, 7);
    let image = Image::of(&scene.script.points[from].2);
    let volume = crate::ship::tests::harness::volume(1);
    let mut dirty = ExtentSet::new();
    for extent in [Extent { lba: 5, blocks: 3 }, Extent { lba: 40, blocks: 200 }] {
        dirty.insert(extent);
        image.put(volume, extent.lba, &vec![0xee; usize::try_from(extent.blocks).unwrap() * BLOCK_SIZE]).unwrap();
    }
    let mut union = dirty.clone();
    let mut walk = diff(&scene.views[from], &scene.views[to], volume).await.unwrap();
    while let Some(extent) = walk.next().await.unwrap() {
        union.insert(extent);
    }
    let other: u64 = differing(&scene.script.points[from].2, &scene.script.points[to].2) - {
        let mut one = scene.script.points[to].2.clone();
        one.retain(|id, _| *id == volume);
        differing(&scene.script.points[from].2, &one)
    };
    let source = Source::Delta { base: scene.views[from].clone(), dirty: BTreeMap::from([(volume, dirty)]) };
    let stats = rehydrate(&scene.views[to], source, &*image, None, RehydrateLimits::default()).await.unwrap();
    assert!(same(&image.content(), &scene.script.points[to].2));
    assert_eq!(stats.blocks_moved, union.blocks() + other);
}

#[tokio::test]
async fn comparing_hashes_moves_only_differences_and_nothing_when_equal() {
    let scene = scene(37).await;
    for from in [0, 7, 8] {
        let before = &scene.script.points[from].2;
        let after = &scene.script.points[8].2;
        let image = Image::of(before);
        let source = Source::Compare(image.clone());
        let stats = rehydrate(&scene.views[8], source, &*image, None, RehydrateLimits::default()).await.unwrap();
        assert!(same(&image.content(), after));
        assert_eq!(stats.blocks_moved, differing(before, after));
        let all: usize = after.values().map(|content| content.len() / BLOCK_SIZE).sum();
        assert_eq!(stats.blocks_compared, u64::try_from(all).unwrap());
        if from == 8 {
            assert_eq!(stats.bytes_fetched, 0);
        }
    }
    let image = Image::of(&Model::new());
    let stats = rehydrate(&scene.views[8], Source::Full, &*image, None, RehydrateLimits::default()).await.unwrap();
    assert!(same(&image.content(), &scene.script.points[8].2));
    assert_eq!(stats.blocks_compared, 0);
}

/// The sink fails after any number of blocks; the next run goes on from its last cursor, on another task.
#[tokio::test]
async fn a_rehydration_that_died_goes_on_from_its_cursor() {
    let scene = scene(43).await;
    let (before, after) = (scene.script.points[1].2.clone(), scene.script.points[8].2.clone());
    let limits = RehydrateLimits { batch_blocks: 40, batches: 3 };
    for source in ["delta", "full", "compare"] {
        let make = |image: &Arc<Image>| match source {
            "delta" => Source::Delta { base: scene.views[1].clone(), dirty: BTreeMap::new() },
            "full" => Source::Full,
            _ => Source::Compare(image.clone()),
        };
        for room in (0..2000).step_by(97) {
            let image = Image::of(&before);
            *image.room.lock().unwrap() = Some(room);
            let first = rehydrate(&scene.views[8], make(&image), &*image, None, limits).await;
            *image.room.lock().unwrap() = None;
            let cursor = image.cursors.lock().unwrap().last().copied();
            if let Err(error) = first {
                assert_eq!(error.kind(), ErrorKind::NoSpace);
                let (target, source, sink) = (scene.views[8].clone(), make(&image), image.clone());
                let run = async move { rehydrate(&target, source, &*sink, cursor, limits).await };
                tokio::spawn(run).await.unwrap().unwrap();
            }
            assert!(same(&image.content(), &after), "{source}, failed after {room} blocks");
        }
    }
}

#[tokio::test]
async fn a_vault_that_fails_in_between_is_an_error_and_the_next_run_ends_it() {
    let scene = scene(47).await;
    let (before, after) = (&scene.script.points[0].2, &scene.script.points[8].2);
    for nth in 1..40 {
        let reader = Reader::open(&scene.bench.vault, scene.bench.group, ReaderLimits::default()).await.unwrap();
        let base = PointView::open_at(&reader, scene.views[0].position()).await.unwrap();
        let target = PointView::open_at(&reader, scene.views[8].position()).await.unwrap();
        let image = Image::of(before);
        scene.bench.faults.inject(Rule::new(Effect::FailBefore).on(OpKind::GetRange).nth(nth).times(1));
        let source = Source::Delta { base, dirty: BTreeMap::new() };
        let first = rehydrate(&target, source.clone(), &*image, None, RehydrateLimits::default()).await;
        scene.bench.faults.clear();
        if let Err(error) = first {
            assert_eq!(error.kind(), ErrorKind::Retry);
            let cursor = image.cursors.lock().unwrap().last().copied();
            rehydrate(&target, source, &*image, cursor, RehydrateLimits::default()).await.unwrap();
        }
        assert!(same(&image.content(), after));
    }
    assert_eq!(scene.reader.group(), scene.bench.group);
}
