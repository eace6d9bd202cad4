//! Vaults with every kind of object and history, checked whole, and damaged in every way.

mod corruption;
mod estate;

use std::sync::Arc;

use crate::segments::names;
use bytes::Bytes;
use lifeboat_format::segment::SEGMENT_HEADER_LEN;
use lifeboat_model::BranchId;

use super::*;
use estate::Estate;

fn options(read_data: bool) -> CheckOptions {
    CheckOptions { read_data, ..CheckOptions::default() }
}

async fn checked(vault: &Arc<Vault>, read_data: bool) -> Report {
    check_vault(vault, &[], &options(read_data), &Arc::default()).await
}

/// The one damage that a report has.
fn only(report: &Report) -> &Damage {
    assert!(!report.sound && report.complete, "{report:?}");
    let [damage] = &report.damage[..] else { panic!("{:#?}", report.damage) };
    damage
}

fn points(report: &Report, branch: BranchId) -> (u64, u64) {
    let found = report.groups[0].branches.iter().find(|found| found.branch == branch).expect("the branch");
    (found.points, found.points_sound)
}

#[tokio::test]
async fn a_sound_vault_is_sound_whatever_its_history() {
    for seed in [1, 2, 3] {
        let estate = Estate::new(seed).await;
        for read_data in [false, true] {
            let report = checked(&estate.bench.vault, read_data).await;
            assert!(report.sound && report.complete, "{:#?}", report.damage);
            assert_eq!(report.notes.len(), 0, "{:?}", report.notes);
            assert_eq!(report.objects, u64::try_from(estate.keys().await.len()).expect("few"));
            let branches = &report.groups[0].branches;
            assert_eq!(branches.len(), 3);
            assert_eq!(branches.iter().map(|branch| branch.segments_beyond).sum::<u64>(), 1);
            for branch in branches {
                let expected = estate.points_of(branch.branch);
                assert_eq!((branch.points, branch.points_sound), (expected, expected), "{}", branch.branch);
                assert_eq!(branch.newest, branch.newest_sound);
            }
        }
    }
}

#[tokio::test]
async fn a_frame_that_is_damaged_costs_its_blocks_until_they_are_written_again() {
    let estate = Estate::new(4).await;
    let key = estate.segment(estate.bench.branch, 3);
    estate.flip(&key, SEGMENT_HEADER_LEN + 5).await;
    let indexes = checked(&estate.bench.vault, false).await;
    assert!(indexes.sound, "frames are looked into with read_data alone: {:?}", indexes.damage);
    let report = checked(&estate.bench.vault, true).await;
    let damage = only(&report);
    assert_eq!((damage.object.as_str(), damage.fault), (key.as_str(), Fault::Authentication));
    assert_eq!(damage.offset, Some(u64::try_from(SEGMENT_HEADER_LEN).expect("small")));
    assert_eq!(damage.part.as_deref(), Some("frame 0"));
    let cost = &damage.costs[0];
    assert!(cost.blocks >= 1 && cost.blocks <= 16 && !cost.extents.is_empty(), "{cost:?}");
    estate.hold_against_views(&report).await;
    // Exactly the blocks that the report names can't be read at the first point that it names.
    let volume = cost.volume.expect("blocks of a volume");
    let unreadable = estate.unreadable(cost.first.id, volume).await;
    assert_eq!(unreadable, cost.blocks);
}

#[tokio::test]
async fn a_segment_that_is_gone_costs_the_points_up_to_the_next_map() {
    let estate = Estate::new(5).await;
    let branch = estate.bench.branch;
    let key = estate.segment(branch, 7);
    estate.remove(&key).await;
    let report = checked(&estate.bench.vault, true).await;
    let damage = only(&report);
    assert_eq!((damage.object.as_str(), damage.fault), (key.as_str(), Fault::Missing));
    let whole = damage.costs.iter().find(|cost| cost.volume.is_none() && cost.branch == branch).expect("points lost");
    // Maps stand after segments 5 and 10: the points of 7, 8, 9 are gone, that of 10 is the map's.
    assert_eq!(whole.points, 3, "{damage:#?}");
    estate.hold_against_views(&report).await;
}

#[tokio::test]
async fn a_damaged_map_costs_nothing_that_the_log_still_gives() {
    let estate = Estate::new(6).await;
    let maps = estate.maps(estate.bench.branch).await;
    let (newest, oldest) = (maps.last().expect("a map"), &maps[0]);
    let len = estate.get(newest).await.len();
    estate.flip(newest, len - 30).await;
    let report = checked(&estate.bench.vault, true).await;
    assert_eq!(report.damage[0].object, *newest);
    estate.hold_against_views(&report).await;
    estate.heal().await;
    // A node of an old map is shared by newer ones.
    estate.flip(oldest, 140).await;
    let report = checked(&estate.bench.vault, false).await;
    let damage = &report.damage[0];
    assert_eq!(
        (damage.object.as_str(), damage.part.as_deref(), damage.offset),
        (oldest.as_str(), Some("node 0"), Some(132))
    );
    estate.hold_against_views(&report).await;
}

#[tokio::test]
async fn objects_that_change_places_or_come_from_another_history_are_told() {
    let estate = Estate::new(7).await;
    let branch = estate.bench.branch;
    let (one, two) = (estate.segment(branch, 2), estate.segment(branch, 4));
    let (first, second) = (estate.get(&one).await, estate.get(&two).await);
    estate.put(&one, second).await;
    estate.put(&two, first).await;
    let report = checked(&estate.bench.vault, false).await;
    assert_eq!(report.damage_total, 2, "{:#?}", report.damage);
    assert!(report.damage.iter().all(|damage| damage.fault == Fault::Misplaced), "{:#?}", report.damage);
}

#[tokio::test]
async fn what_is_newer_is_not_called_damaged_and_what_is_foreign_is_left_alone() {
    let estate = Estate::new(8).await;
    let key = estate.segment(estate.bench.branch, 2);
    let mut bytes = estate.get(&key).await.to_vec();
    bytes[4] = 99;
    estate.put(&key, bytes.into()).await;
    let report = checked(&estate.bench.vault, false).await;
    assert_eq!(report.damage[0].fault, Fault::NewerVersion);
    estate.heal().await;
    let group = estate.bench.group;
    for name in ["lost/found", "groups/readme/x", &format!("groups/{group}/{}/log/00000001-1.tmp", estate.bench.branch)]
    {
        estate.put(name, Bytes::from_static(b"x")).await;
    }
    let report = checked(&estate.bench.vault, false).await;
    assert!(report.sound, "{:#?}", report.damage);
    assert_eq!(report.notes_total, 3, "{:?}", report.notes);
}

#[tokio::test]
async fn keys_that_are_gone_are_a_loss_unless_the_volume_was_erased() {
    let estate = Estate::new(9).await;
    let volume = estate::volume(2);
    estate.remove(&format!("keys/{volume}/00000001")).await;
    let report = checked(&estate.fresh_vault().await, true).await;
    let damage = only(&report);
    assert_eq!(damage.fault, Fault::Missing);
    assert!(!damage.costs.is_empty() && damage.costs.iter().all(|cost| cost.volume == Some(volume)), "{damage:#?}");
    estate.heal().await;
    estate.bench.vault.erase_volume(volume, "a test").await.expect("erased");
    let report = checked(&estate.fresh_vault().await, true).await;
    assert!(report.sound, "erased on purpose: {:#?}", report.damage);
    assert!(report.notes.iter().any(|note| note.text.contains("was erased")), "{:?}", report.notes);
}

#[tokio::test]
async fn epochs_are_held_against_each_other_and_against_the_log() {
    let estate = Estate::new(10).await;
    let (group, branch) = (estate.bench.group, estate.bench.branch);
    for (key, whole) in [
        (names::intent(group, branch, lifeboat_model::Epoch(1)), true),
        (names::cut(group, branch, lifeboat_model::Epoch(2)), true),
        (names::intent(group, branch, lifeboat_model::Epoch(2)), true),
    ] {
        estate.remove(&key).await;
        let report = checked(&estate.fresh_vault().await, false).await;
        assert!(report.damage.iter().any(|damage| damage.object == key && damage.fault == Fault::Missing), "{key}");
        assert_eq!(points(&report, branch).1 == 0, whole, "{key}");
        estate.heal().await;
    }
}

#[tokio::test]
async fn a_vault_that_is_written_to_meanwhile_gives_no_alarm() {
    let estate = Estate::new(11).await;
    let vault = Arc::clone(&estate.bench.vault);
    // Before every request of the check, the writer ships one interval more, and now and then writes a map.
    for n in (1..60).step_by(3) {
        let next = estate.one_more().await;
        estate.bench.hook.before(n, next);
        let report = checked(&vault, n % 2 == 0).await;
        assert!(report.sound && report.complete, "request {n}: {:#?}", report.damage);
    }
}

#[tokio::test]
async fn a_vault_that_answers_late_is_waited_for_and_one_that_never_answers_ends_the_check() {
    use lifeboat_vault::{Effect, OpKind, Rule};
    tokio::time::pause();
    let estate = Estate::new(12).await;
    estate.bench.faults.inject(Rule::new(Effect::FailBefore).on(OpKind::Get).times(2));
    let report = checked(&estate.bench.vault, false).await;
    assert!(report.sound && report.complete, "{:#?}", report.damage);
    estate.bench.faults.inject(Rule::new(Effect::FailBefore));
    let report = checked(&estate.bench.vault, false).await;
    assert!(!report.complete && report.incomplete_because.is_some());
}

#[tokio::test]
async fn a_check_that_is_stopped_says_so() {
    let estate = Estate::new(13).await;
    let options = options(false);
    options.stop.cancel();
    let report = check_vault(&estate.bench.vault, &[], &options, &Arc::default()).await;
    assert!(!report.complete);
    assert_eq!(report.incomplete_because.as_deref(), Some("it was interrupted"));
}

#[tokio::test]
async fn a_vault_whose_newest_document_is_damaged_is_checked_by_an_older_one() {
    let estate = Estate::new(14).await;
    let newest = "vault/00000002.json";
    let len = estate.get(newest).await.len();
    estate.flip(newest, len / 2).await;
    let (vault, broken) = estate.open_soundest().await;
    assert_eq!(broken.len(), 1);
    let report = check_vault(&vault, &broken, &options(false), &Arc::default()).await;
    let damage = only(&report);
    assert_eq!(damage.object, newest);
    assert!(damage.consequence.as_deref().is_some_and(|text| text.contains("can't be opened for writing")));
}
