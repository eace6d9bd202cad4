//! A small vault with everything in it: two tenures, maps, a failover and its branch, an orphan's tail, a late segment,
//! settings and declarations that changed; and what every point of it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::{BranchId, Epoch, PointId, SegmentId, SegmentSeq, VolumeId};
use lifeboat_vault::{KeySource, Store, Vault, VaultError, VaultOptions, VaultSettings};
use serde_json::json;

use crate::branch::{Origin, end_of_tenure, fence};
use crate::check::Report;
use crate::points::{PointInfo, list_points};
use crate::segments::names;
use crate::ship::tests::harness::{Bench, Model, Script, gateway};
use crate::ship::{BranchWriter, Open};
use crate::view::PointView;

pub(super) use crate::ship::tests::harness::volume;

pub(super) struct Estate {
    pub(super) bench: Bench,
    /// Every point, and what the volumes held.
    pub(super) points: Vec<(PointInfo, Model)>,
    /// Every object as it was written.
    objects: BTreeMap<String, Bytes>,
    writer: Arc<tokio::sync::Mutex<(BranchWriter, Script)>>,
}

async fn ship(writer: &mut BranchWriter, script: &Script) {
    for interval in script.after(writer.shipped().lsn) {
        writer.append(&interval).await.expect("shipped");
        if writer.map_due() {
            writer.write_map().await.expect("a map");
        }
    }
}

impl Estate {
    pub(super) async fn new(seed: u64) -> Self {
        let bench = Bench::new().await;
        let mut script = Script::new(seed.wrapping_mul(2_654_435_761).max(1)).with(12);
        let (mut writer, _) = bench.open(gateway(1), Open::New { origin: None }).await.expect("a writer");
        ship(&mut writer, &script).await;
        let (mut writer, _) = bench.open(gateway(1), Open::Continue).await.expect("a tenure");
        script = script.with(4);
        ship(&mut writer, &script).await;

        // A failover, while the old writer still has something to ship.
        let branch = BranchId::from_bytes([77; 16]);
        fence(&bench.vault, bench.group, bench.branch, gateway(2), branch).await.expect("fenced");
        let late = script.clone().with(1);
        let [interval] = &late.after(script.lsn)[..] else { panic!("one interval") };
        assert!(writer.append(interval).await.is_err(), "the writer was fenced");
        let points = list_points(&bench.vault, bench.group, bench.branch).await.expect("points");
        let fork = &points[13];
        let origin = Some(Origin { at: fork.position(), point: Some(fork.id) });
        let mut own = Script::from(seed + 100, fork.lsn, script.at(fork.id).clone()).with(7);
        let (mut writer, _) = bench.open_on(branch, gateway(2), Open::New { origin }).await.expect("a branch");
        ship(&mut writer, &own).await;
        let (mut writer, _) = bench.open_on(branch, gateway(1), Open::Continue).await.expect("taken over");
        own = own.with(2);
        ship(&mut writer, &own).await;

        // What the old writer had not shipped.
        let end = end_of_tenure(&bench.vault, bench.group, bench.branch, Epoch(2)).await.expect("asked");
        let origin = Some(Origin { at: end.expect("over"), point: None });
        let orphan = BranchId::from_bytes([78; 16]);
        let tail = Script::from(seed + 200, script.lsn, script.model.clone()).with(2);
        let (mut keeper, _) = bench.open_on(orphan, gateway(1), Open::New { origin }).await.expect("an orphan");
        ship(&mut keeper, &tail).await;

        bench.vault.update_settings(VaultSettings::new("renamed")).await.expect("changed");
        let catalog = bench.vault.catalog();
        for id in ["one", "two"] {
            catalog.create("sites", id, id, json!({"a": 1}), json!({})).await.expect("made");
            for n in 2..5 {
                catalog.update_spec("sites", id, n - 1, id, json!({"a": n})).await.expect("changed");
            }
        }
        catalog.delete("sites", "two", None).await.expect("deleted");
        let audit = bench.vault.audit();
        for n in 0..3 {
            audit.append("one", vec![json!({"asked": n}), json!({"answered": n})]).await.expect("written down");
        }
        audit.note_others("two").await.expect("looked at");
        audit.append("two", vec![json!({"asked": "what one ends with"})]).await.expect("written down");

        let mut points = Vec::new();
        for (branch, script) in [(bench.branch, &script), (branch, &own), (orphan, &tail)] {
            for point in list_points(&bench.vault, bench.group, branch).await.expect("points") {
                if point.branch == branch {
                    let model = script.at(point.id).clone();
                    points.push((point, model));
                }
            }
        }
        let mut estate =
            Self { bench, points, objects: BTreeMap::new(), writer: Arc::new(tokio::sync::Mutex::new((writer, own))) };
        for key in estate.keys().await {
            let bytes = estate.get(&key).await;
            estate.objects.insert(key, bytes);
        }
        estate
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.bench.faults.inner()
    }

    pub(super) fn objects(&self) -> &BTreeMap<String, Bytes> {
        &self.objects
    }

    pub(super) async fn keys(&self) -> Vec<String> {
        self.store().list("").await.expect("listed").into_iter().map(|object| object.key).collect()
    }

    pub(super) async fn get(&self, key: &str) -> Bytes {
        self.store().get(key, u64::MAX).await.expect("read")
    }

    pub(super) async fn put(&self, key: &str, bytes: Bytes) {
        self.store().delete(key).await.expect("deleted");
        self.store().create(key, bytes).await.expect("written");
    }

    pub(super) async fn remove(&self, key: &str) {
        assert!(self.objects.contains_key(key), "{key}");
        self.store().delete(key).await.expect("deleted");
    }

    pub(super) async fn flip(&self, key: &str, at: usize) {
        let mut bytes = self.get(key).await.to_vec();
        bytes[at] ^= 1;
        self.put(key, bytes.into()).await;
    }

    /// Brings every object back.
    pub(super) async fn heal(&self) {
        for key in self.keys().await {
            if !self.objects.contains_key(&key) {
                self.store().delete(&key).await.expect("deleted");
            }
        }
        for (key, bytes) in &self.objects {
            let now = self.store().get(key, u64::MAX).await;
            if now.is_ok_and(|now| now == bytes) {
                continue;
            }
            self.put(key, bytes.clone()).await;
        }
    }

    pub(super) fn segment(&self, branch: BranchId, seq: u64) -> String {
        names::segment(self.bench.group, SegmentId { branch, epoch: Epoch(1), seq: SegmentSeq(seq) })
    }

    pub(super) async fn maps(&self, branch: BranchId) -> Vec<String> {
        let found = self.store().list(&names::maps(self.bench.group, branch)).await.expect("listed");
        found.into_iter().map(|object| object.key).collect()
    }

    pub(super) fn points_of(&self, branch: BranchId) -> u64 {
        u64::try_from(self.points.iter().filter(|(point, _)| point.branch == branch).count()).expect("few")
    }

    fn key(&self) -> KeySource {
        KeySource::Passphrase("correct horse battery".to_owned().into())
    }

    /// The vault as somebody sees it who has read nothing of it yet.
    pub(super) async fn fresh_vault(&self) -> Arc<Vault> {
        let store: Arc<dyn Store> = self.bench.faults.clone();
        Arc::new(Vault::open(store, &self.key(), VaultOptions::for_tests()).await.expect("opens"))
    }

    pub(super) async fn open_soundest(&self) -> (Arc<Vault>, Vec<(String, VaultError)>) {
        let store: Arc<dyn Store> = self.bench.faults.clone();
        let opened = Vault::open_soundest(store, &self.key(), VaultOptions::for_tests()).await;
        let (vault, broken) = opened.expect("an older revision opens");
        (Arc::new(vault), broken)
    }

    /// Ships an interval, and a map when one is due.
    pub(super) async fn one_more(&self) -> impl Future<Output = ()> + Send + 'static {
        let writer = Arc::clone(&self.writer);
        async move {
            let (writer, script) = &mut *writer.lock().await;
            script.interval();
            ship(writer, script).await;
        }
    }

    /// Whether everything of a point can be read; what can be read must be what was written.
    pub(super) async fn is_whole(&self, vault: &Arc<Vault>, point: &PointInfo, model: &Model) -> bool {
        let Ok(view) = PointView::open(Arc::clone(vault), self.bench.group, point).await else { return false };
        let mut whole = view.volumes().len() == model.len();
        for volume in view.volumes() {
            let expected = &model[&volume.id];
            let Ok(runs) = view.read_blocks(volume.id, 0, u64::MAX).await else {
                whole = false;
                continue;
            };
            assert!(same_content(&runs, expected), "wrong bytes of {} at point {}", volume.id, point.id);
        }
        whole
    }

    /// Blocks of a volume at a point that can't be read one by one.
    pub(super) async fn unreadable(&self, point: PointId, volume: VolumeId) -> u64 {
        let (point, model) = self.points.iter().find(|(known, _)| known.id == point).expect("a point");
        let view = PointView::open(self.fresh_vault().await, self.bench.group, point).await.expect("opens");
        let blocks = u64::try_from(model[&volume].len() / lifeboat_model::BLOCK_SIZE).expect("few");
        let mut lost = 0;
        for lba in 0..blocks {
            lost += u64::from(view.read_blocks(volume, lba, 1).await.is_err());
        }
        lost
    }

    /// What a report says of the points must be what views see: as many whole points, and never a wrong byte.
    pub(super) async fn hold_against_views(&self, report: &Report) {
        let vault = self.fresh_vault().await;
        for branch in &report.groups[0].branches {
            let mut whole = 0;
            for (point, model) in self.points.iter().filter(|(point, _)| point.branch == branch.branch) {
                whole += u64::from(self.is_whole(&vault, point, model).await);
            }
            assert_eq!(branch.points_sound, whole, "{} of {}: {:#?}", branch.branch, branch.points, report.damage);
        }
    }
}

fn same_content(runs: &[crate::view::BlockRun], expected: &[u8]) -> bool {
    let block = lifeboat_model::BLOCK_SIZE;
    let mut at = 0;
    for run in runs {
        let len = usize::try_from(run.extent().blocks).expect("few") * block;
        let Some(part) = expected.get(at..at + len) else { return false };
        let equal = match run {
            crate::view::BlockRun::Zero(_) => part.iter().all(|byte| *byte == 0),
            crate::view::BlockRun::Data { data, .. } => part == &data[..],
        };
        if !equal {
            return false;
        }
        at += len;
    }
    at == expected.len()
}
