//! Every byte of every kind of object, flipped, cut off, added to, exchanged, put back from an older state, taken away: a
//! check reports it, and no view ever shows a wrong byte. One seed is fixed, one is new at each run and printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_format::epoch::{EpochCut, EpochIntent, EpochPlace};
use lifeboat_format::keys::GroupKey;
use lifeboat_format::map::{MapObject, MapPlace};
use lifeboat_format::segment::{SegmentObject, SegmentPlace};
use lifeboat_model::{BranchId, SegmentId};
use lifeboat_vault::Vault;

use super::estate::Estate;
use crate::check::{CheckOptions, Report, check_vault};
use crate::segments::names;
use crate::tree::tests::Dice;

const FIXED: u64 = 0x1f_be_a7;

/// Decoded alone; `LIFEBOAT_CORRUPTIONS` makes it a long run.
const DECODED: u64 = 20_000;
/// Checked as a whole vault.
const CHECKED: u64 = 60;

fn seeds() -> [u64; 2] {
    let id = lifeboat_model::PointId::new().to_bytes();
    let fresh = id.iter().rev().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let fresh = std::env::var("LIFEBOAT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(fresh.max(1));
    println!("fresh seed: LIFEBOAT_SEED={fresh}");
    [FIXED, fresh]
}

fn cases(usual: u64) -> u64 {
    let wanted = std::env::var("LIFEBOAT_CORRUPTIONS").ok().and_then(|text| text.parse::<u64>().ok());
    wanted.map_or(usual, |wanted| wanted.saturating_mul(usual) / DECODED).max(1) / 2
}

/// What is done to one object, as bytes: none takes it away.
fn spoil(dice: &mut Dice, bytes: &Bytes) -> Vec<u8> {
    let mut spoilt = bytes.to_vec();
    let len = u64::try_from(spoilt.len()).unwrap();
    match dice.below(10) {
        0 => spoilt.truncate(usize::try_from(dice.below(len)).unwrap()),
        1 => {
            let more = 1 + dice.below(300);
            (0..more).for_each(|_| spoilt.push(u8::try_from(dice.below(256)).unwrap()));
        }
        2 => {
            // A stretch of zeroes, as a disk that lost a sector gives it.
            let at = usize::try_from(dice.below(len)).unwrap();
            let end = (at + 1 + usize::try_from(dice.below(512)).unwrap()).min(spoilt.len());
            spoilt[at..end].fill(0);
        }
        _ => {
            for _ in 0..=dice.below(3) {
                let at = usize::try_from(dice.below(len)).unwrap();
                spoilt[at] ^= 1 << dice.below(8);
            }
        }
    }
    spoilt
}

/// Decodes everything that an object holds, as strictly as a check with the data does.
async fn prove(vault: &Vault, key: &str, bytes: &[u8], keys: &Keys) -> Result<(), String> {
    let mut parts = key.split('/');
    let branch = parts.nth(2).and_then(|name| name.parse::<BranchId>().ok());
    let Some(branch) = branch else {
        let proved = vault.check_document(key, bytes).await.map_err(|error| error.to_string())?;
        return proved.map(drop).ok_or_else(|| "no document".to_owned());
    };
    let (id, group) = (vault.id(), keys.group_id);
    match parts.next() {
        Some("log") => {
            let (epoch, seq) = names::parse_segment(key).expect("a segment");
            let place = SegmentPlace { vault: id, group, id: SegmentId { branch, epoch, seq } };
            let object = SegmentObject::open(bytes, &place, &keys.group).map_err(|error| error.to_string())?;
            object.verify(|volume| keys.volumes.get(&volume.volume)).map_err(|error| error.to_string())
        }
        Some("map") => {
            let (lsn, map) = names::parse_map(key).expect("a map");
            let place = MapPlace { vault: id, group, branch, lsn, id: map };
            let object = MapObject::open(bytes, &place, &keys.group).map_err(|error| error.to_string())?;
            object.read_all().try_for_each(|node| node.map(drop)).map_err(|error| error.to_string())
        }
        _ => {
            let (epoch, cut) = names::parse_epoch(key).expect("an epoch");
            let place = EpochPlace { vault: id, group, branch, epoch };
            if cut {
                EpochCut::decode(bytes, &place, &keys.group).map(drop).map_err(|error| error.to_string())
            } else {
                EpochIntent::decode(bytes, &place, &keys.group).map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

struct Keys {
    group_id: lifeboat_model::GroupId,
    group: GroupKey,
    volumes: BTreeMap<lifeboat_model::VolumeId, lifeboat_format::keys::VolumeKeys>,
}

impl Keys {
    async fn of(estate: &Estate) -> Self {
        let vault = &estate.bench.vault;
        let mut volumes = BTreeMap::new();
        for number in 1..=3 {
            let id = super::estate::volume(number);
            volumes.insert(id, vault.volume_keys(id).await.unwrap().keys);
        }
        Self { group_id: estate.bench.group, group: vault.group_key(estate.bench.group).await.unwrap(), volumes }
    }
}

#[tokio::test]
async fn no_flipped_cut_or_added_byte_of_any_object_passes_as_what_was_written() {
    for seed in seeds() {
        let estate = Estate::new(21).await;
        let keys = Keys::of(&estate).await;
        let vault = &estate.bench.vault;
        let objects: Vec<(&String, &Bytes)> = estate.objects().iter().collect();
        for (key, bytes) in &objects {
            prove(vault, key, bytes, &keys).await.unwrap_or_else(|error| panic!("{key} is sound: {error}"));
        }
        let mut dice = Dice(seed);
        for case in 0..cases(DECODED) {
            let (key, bytes) = objects[usize::try_from(dice.below(u64::try_from(objects.len()).unwrap())).unwrap()];
            let spoilt = spoil(&mut dice, bytes);
            if spoilt != *bytes {
                assert!(
                    prove(vault, key, &spoilt, &keys).await.is_err(),
                    "seed {seed}, case {case}: {key} was accepted"
                );
            }
        }
        // Under another name: every object of the vault, except the same document's own name.
        for _ in 0..500 {
            let pick = |dice: &mut Dice| usize::try_from(dice.below(u64::try_from(objects.len()).unwrap())).unwrap();
            let (one, other) = (objects[pick(&mut dice)], objects[pick(&mut dice)]);
            if one.0 != other.0 && one.1 != other.1 {
                assert!(prove(vault, one.0, other.1, &keys).await.is_err(), "{} passes as {}", other.0, one.0);
            }
        }
    }
}

/// Whether a vault that lost this object can still be told from one that never had it. The newest end of something has no
/// witness in the vault: a gateway that knows of it does.
fn has_witness(key: &str, objects: &BTreeMap<String, Bytes>) -> bool {
    let (directory, name) = key.rsplit_once('/').unwrap();
    let last =
        objects.keys().rfind(|other| other.starts_with(&format!("{directory}/"))).is_some_and(|last| last == key);
    let first =
        objects.keys().find(|other| other.starts_with(&format!("{directory}/"))).is_some_and(|first| first == key);
    match key.split('/').next().unwrap() {
        "vault" => !last,
        // The oldest revisions of a document may be pruned, and the newest has no witness.
        "catalog" => !last && !first,
        // The chain `two` names the end of `one`, and nobody that of `two`.
        "audit" => directory == "audit/one",
        // A destroyed key looks the same; what is left of the group is noted.
        "keys" => false,
        _ => match directory.rsplit('/').next().unwrap() {
            // A map is found by its name alone, unless a later one has nodes in it: told by the check where it matters.
            "map" => false,
            "log" => {
                let cut = |key: &str| objects.contains_key(key);
                let epoch: u64 = name.split_once('-').unwrap().0.parse().unwrap();
                let branch = directory.strip_suffix("/log").unwrap();
                // The last of an epoch that no cut ended; and what is past the cut.
                let newest_of_epoch = objects
                    .keys()
                    .rfind(|other| other.starts_with(&format!("{directory}/{epoch:08}-")))
                    .is_some_and(|last| last == key);
                !newest_of_epoch || (cut(&format!("{branch}/epoch/{:08}.cut", epoch + 1)) && !is_late(key))
            }
            // The newest claim, or its cut, may not have been made yet.
            _ => !last,
        },
    }
}

/// The segment that a fenced writer of the estate put past its cut.
fn is_late(key: &str) -> bool {
    key.ends_with("/log/00000002-000000000005")
}

async fn check(vault: &Arc<Vault>, broken: &[(String, lifeboat_vault::VaultError)]) -> Report {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    check_vault(vault, broken, &options, &Arc::default()).await
}

#[tokio::test]
async fn a_check_finds_whatever_was_done_to_an_object_and_no_view_shows_a_wrong_byte() {
    // Pauses between attempts cost no time.
    tokio::time::pause();
    for seed in seeds() {
        let estate = Estate::new(22).await;
        let keys: Vec<String> = estate.objects().keys().cloned().collect();
        let mut dice = Dice(seed);
        for case in 0..cases(CHECKED) {
            let pick = |dice: &mut Dice| {
                keys[usize::try_from(dice.below(u64::try_from(keys.len()).unwrap())).unwrap()].clone()
            };
            let key = pick(&mut dice);
            let bytes = estate.get(&key).await;
            let expected;
            let what = match dice.below(5) {
                0 => {
                    expected = has_witness(&key, estate.objects());
                    estate.remove(&key).await;
                    "removed"
                }
                1 => {
                    let other = pick(&mut dice);
                    let theirs = estate.get(&other).await;
                    expected = theirs != bytes;
                    estate.put(&key, theirs).await;
                    estate.put(&other, bytes).await;
                    "exchanged"
                }
                _ => {
                    let spoilt = spoil(&mut dice, &bytes);
                    expected = spoilt != bytes;
                    estate.put(&key, spoilt.into()).await;
                    "spoilt"
                }
            };
            let (vault, broken) = estate.open_soundest().await;
            let report = check(&vault, &broken).await;
            assert!(report.complete, "seed {seed}, case {case}: {:?}", report.incomplete_because);
            assert!(!expected || !report.sound, "seed {seed}, case {case}: {key} was {what}, and nothing is reported");
            let of_group = key.starts_with("groups/") && what == "spoilt";
            if of_group {
                let named = report.damage.iter().any(|damage| damage.object == key);
                assert!(named || !expected, "seed {seed}, case {case}: {key} isn't named: {:#?}", report.damage);
            }
            // What the check says of the points is what a reader finds.
            let group_is_open = report.groups.iter().any(|group| !group.branches.is_empty());
            if group_is_open && what == "spoilt" && broken.is_empty() && dice.below(4) == 0 {
                estate.hold_against_views(&report).await;
            }
            estate.heal().await;
        }
    }
}
