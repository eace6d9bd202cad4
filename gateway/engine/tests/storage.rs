//! A group over real storage servers and a line that fails as planned: what it shipped is found whole by a gateway that
//! knows nothing but the URL and the key, whatever happened to the requests.

#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::machine::Host;
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::view::PointView;
use lifeboat_engine::{BlockVolume, ErrorKind, Group, GroupConfig, GroupSettings, VolumeSpec};
use lifeboat_lab::{Azurite, Fault, FaultProxy, Moto, Seen};
use lifeboat_model::{GatewayId, GroupId, PointKind, VolumeId};
use lifeboat_vault::{
    Access, Credentials, Environment, KeySource, StorageTarget, Vault, VaultOptions, VaultSettings, open_storage,
};

const SIZE: usize = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(120);
const S3: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKLAB"), ("AWS_SECRET_ACCESS_KEY", "lab-secret")];

fn target(url: &str, endpoint: &str, credentials: &[(&str, &str)]) -> StorageTarget {
    StorageTarget {
        endpoint: Some(endpoint.to_owned()),
        credentials: Credentials::of(credentials.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()))),
        environment: Environment::of([("LIFEBOAT_STORAGE_STALL_SECONDS", "1")]),
        ..StorageTarget::new(url)
    }
}

fn key() -> KeySource {
    KeySource::Passphrase("correct horse battery".to_owned().into())
}

/// splitmix64 of a seed and a number: which requests are hit depends on nothing else.
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hits one of the first two requests and about every fourth after them, at most `times`, so that the run comes to an end.
fn plan(seed: u64, fault: Fault, times: u64) -> impl Fn(&Seen) -> Fault + Send + Sync {
    let (hits, seen_before) = (AtomicU64::new(0), AtomicU64::new(0));
    move |seen| {
        let applies = fault != Fault::StaleList || seen.is_listing();
        let number = if applies { seen_before.fetch_add(1, Ordering::Relaxed) } else { u64::MAX };
        let chosen = number == seed % 2 || mix(seed, seen.index).is_multiple_of(4);
        let hit = applies && chosen && hits.load(Ordering::Relaxed) < times;
        if hit {
            hits.fetch_add(1, Ordering::Relaxed);
            return fault;
        }
        Fault::Pass
    }
}

async fn scribble(volume: &Arc<dyn BlockVolume>, model: &mut [u8], seed: u64) {
    for number in 0..24 {
        let random = mix(seed, number);
        let at = usize::try_from(random % SIZE as u64).expect("small") / 4096 * 4096;
        let len = usize::try_from((random >> 32) % 60_000).expect("small").clamp(1, SIZE - at);
        let bytes: Vec<u8> = (0..len).map(|index| mix(random, index as u64 / 8).to_le_bytes()[index % 8]).collect();
        volume.write(at as u64, Bytes::from(bytes.clone())).await.expect("a write needs no vault");
        model[at..at + len].copy_from_slice(&bytes);
    }
    volume.flush().await.expect("nor does a flush");
}

/// Takes a point, again and again until one is in the vault: a storage that fails for a while is asked again.
async fn shipped_point(group: &Arc<Group>, what: &str) -> PointInfo {
    let began = Instant::now();
    loop {
        match group.take_point(PointKind::Manual, what).await {
            Ok(point) => return point,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry, "{what}: {error}");
                assert!(began.elapsed() < PATIENCE, "{what}: {error}");
            }
        }
    }
}

/// What a gateway sees that opens the vault for the first time: the newest point's content.
async fn recovered(
    target: &StorageTarget,
    group: GroupId,
    branch: lifeboat_model::BranchId,
    volume: VolumeId,
) -> Vec<u8> {
    let store = open_storage(target, Access::Open).await.expect("the target can be used");
    let vault = Arc::new(Vault::open(store, &key(), VaultOptions::for_tests()).await.expect("opens"));
    let points = list_points(&vault, group, branch).await.expect("lists");
    let newest = points.iter().max_by_key(|point| point.lsn).expect("has a point");
    let view = PointView::open(vault, group, newest).await.expect("mounts the newest point");
    let volume = view.volume(volume).expect("the volume is in the point");
    let mut all = Vec::new();
    while all.len() < SIZE {
        all.extend_from_slice(&volume.read(all.len() as u64, 1 << 20).await.expect("reads"));
    }
    all
}

/// One run: protect, write and ship through the bad line; recover through a good one.
async fn survives(bad: &StorageTarget, good: &StorageTarget, proxy: &FaultProxy, fault: Fault, seed: u64, times: u64) {
    let what = format!("{fault:?}, seed {seed}");
    proxy.plan(|_| Fault::Pass);
    let store = open_storage(bad, Access::Create).await.expect("the target can be used");
    let made = Vault::create(store, VaultSettings::new("lab"), &key(), VaultOptions::for_tests()).await;
    let vault = Arc::new(made.unwrap_or_else(|error| panic!("{what}: {error}")));
    let dir = tempfile::tempdir().expect("a directory");
    let (group_id, volume_id) = (GroupId::new(), VolumeId::new());
    let settings = GroupSettings {
        point_interval: Duration::from_secs(3600),
        journal_bytes: 16 << 20,
        cache_bytes: 4 << 20,
        ..GroupSettings::default()
    };
    let config = GroupConfig {
        reach: vault.into(),
        group: group_id,
        gateway: GatewayId::new(),
        dir: dir.path().join("group"),
        machine: Arc::new(Host),
        settings,
    };
    let spec = VolumeSpec { id: volume_id, name: "db".into(), size_bytes: SIZE as u64, source: None };
    let group = Group::create(config, vec![spec]).await.expect("creates the group");
    let volume = group.volume(volume_id).expect("the volume is open");
    let branch = group.status().branch;
    let mut model = vec![0; SIZE];
    let before = proxy.struck().len();
    proxy.plan(plan(seed, fault, times));
    for round in 0..3 {
        scribble(&volume, &mut model, mix(seed, 1000 + round)).await;
        shipped_point(&group, &what).await;
    }
    let struck = proxy.struck().len() - before;
    // Shipping lists nothing: a stale listing can only be met where something is opened.
    let expected = !matches!(fault, Fault::Pass | Fault::StaleList);
    assert!(struck > 0 || !expected, "{what}: nothing was hit");
    let found = recovered(good, group_id, branch, volume_id).await;
    let differs = (0..SIZE).find(|&at| found[at] != model[at]);
    assert!(differs.is_none(), "{what}: differs at byte {differs:?} after {struck} faults");
    proxy.plan(|_| Fault::Pass);
    group.close(Duration::ZERO).await;
}

const FAULTS: &[(Fault, u64)] = &[
    (Fault::ResetBefore, 8),
    (Fault::LostReply, 8),
    (Fault::Hang, 2),
    (Fault::HangAfter, 2),
    (Fault::Status(429, Some(1)), 4),
    (Fault::Status(503, Some(1)), 4),
    (Fault::Status(500, None), 8),
    (Fault::StatusAfter(500), 8),
    (Fault::Truncate, 8),
    (Fault::Slow, 8),
    (Fault::StaleList, 4),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shipped_to_s3_is_recovered_whatever_happens_on_the_line() {
    let moto = Moto::start(&["lab-bucket"]).await.expect("moto starts");
    let proxy = FaultProxy::start(moto.address()).await.expect("the proxy starts");
    for (number, (fault, times)) in FAULTS.iter().enumerate() {
        let url = format!("s3://lab-bucket/{number}");
        let bad = target(&url, &proxy.endpoint(), &S3);
        let good = target(&url, &moto.endpoint(), &S3);
        survives(&bad, &good, &proxy, *fault, 0x5eed + number as u64, *times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shipped_to_azure_is_recovered_whatever_happens_on_the_line_and_to_the_server() {
    let mut azurite = Azurite::start(&["lab-container"]).await.expect("Azurite starts");
    let proxy = FaultProxy::start(azurite.address()).await.expect("the proxy starts");
    let endpoint = Azurite::endpoint_at(proxy.address());
    let faults = [(Fault::LostReply, 8), (Fault::StatusAfter(503), 8), (Fault::Truncate, 8), (Fault::Pass, 0)];
    for (number, (fault, times)) in faults.into_iter().enumerate() {
        let url = format!("az://lab-container/{number}");
        let bad = target(&url, &endpoint, &Azurite::CREDENTIALS);
        let good = target(&url, &azurite.endpoint(), &Azurite::CREDENTIALS);
        survives(&bad, &good, &proxy, fault, 0xa2 + number as u64, times).await;
        // Ended and started again between two vaults of the same server: connections that were kept are dead.
        azurite.restart().expect("Azurite starts again");
    }
}
