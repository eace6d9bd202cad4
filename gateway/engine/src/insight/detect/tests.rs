//! Figures as attacks and honest work give them.

use lifeboat_model::{Lsn, PointId};

use super::*;
use crate::insight::PointInsight;

const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);

fn time(number: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(number * 5_000_000).unwrap())
}

fn id(number: u64) -> PointId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    PointId::from_bytes(id)
}

/// A ledger with one interval after the other.
fn ledger(measures: impl IntoIterator<Item = Measure>) -> Ledger {
    let mut ledger = Ledger::default();
    for (number, measure) in (1..).zip(measures) {
        let insight =
            PointInsight { point: id(number), lsn: Lsn(number), time: time(number), volumes: vec![(VOLUME, measure)] };
        ledger.push(insight, time(0));
    }
    ledger
}

/// Where in the write order the suggested point of these is.
fn suggested(points: impl IntoIterator<Item = u64>, ledger: &Ledger) -> Suggestion<u64> {
    let points: Vec<u64> = points.into_iter().collect();
    suggest(&points, |number| time(*number), ledger)
}

/// All of `blocks` in the sample.
fn written(blocks: u64) -> Measure {
    Measure { written: blocks, sampled: blocks, ..Measure::default() }
}

fn rewritten(blocks: u64, random: u64, checked: u64, turned: u64) -> Measure {
    let base = Measure { rewritten: blocks, random, dense: random, ..written(blocks) };
    Measure { rewritten_dense: random, rewritten_random: random, checked, turned, ..base }
}

#[test]
fn an_encryption_in_place_is_found_and_the_point_before_it() {
    let quiet = [written(100); 20];
    let attack = [rewritten(900, 600, 16, 16); 10];
    let found = suggested(1..=30, &ledger(quiet.into_iter().chain(attack)));
    assert_eq!(found.point, Some(20));
    assert_eq!(found.confidence, Confidence::High);
    let [suspicion] = found.suspicions.as_slice() else { panic!("{:?}", found.suspicions) };
    assert_eq!((suspicion.since, suspicion.until), (time(20), time(30)));
    assert_eq!(suspicion.bytes, 6000 * 4096);
}

#[test]
fn an_interval_that_holds_the_first_encrypted_file_only_is_not_clean() {
    let first = rewritten(30, 3, 0, 0);
    let attack = [rewritten(900, 600, 16, 16); 10];
    let ledger = ledger([written(100); 20].into_iter().chain([first]).chain(attack));
    assert_eq!(suggested(1..=31, &ledger).point, Some(20));
}

#[test]
fn a_slow_one_is_found_from_its_beginning() {
    let slow = [rewritten(60, 40, 2, 2); 40];
    let ledger = ledger([written(100); 5].into_iter().chain(slow));
    let found = suspicions(&ledger);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].since, time(5), "found after 26 intervals, begun with the first");
}

#[test]
fn when_retention_has_dropped_the_point_before_an_older_one_is_suggested() {
    let ledger = ledger([written(100); 20].into_iter().chain([rewritten(900, 600, 16, 16); 10]));
    assert_eq!(suggested([3, 9, 25, 30], &ledger).point, Some(9));
    assert_eq!(suggested([25, 30], &ledger).point, None, "no point is old enough");
}

#[test]
fn copies_and_what_is_given_up_for_them_count() {
    let fresh = Measure { random: 1000, dense: 1000, ..written(1000) };
    let freed = Measure { freed: 1000, freed_checked: 4, freed_plain: 4, ..Measure::default() };
    let attack = [fresh, freed].repeat(5);
    let found = suspicions(&ledger([written(10); 3].into_iter().chain(attack)));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].since, found[0].confidence), (time(3), Confidence::Low));
    // A backup that is made and an old one that is deleted: it was random before.
    let pruned = Measure { freed_plain: 0, ..freed };
    assert_eq!(suspicions(&ledger([fresh, pruned].repeat(5))), []);
}

#[test]
fn honest_work_is_not_suspected() {
    let never = |what: &str, measures: Vec<Measure>| assert_eq!(suspicions(&ledger(measures)), [], "{what}");
    never("a database", vec![rewritten(5000, 0, 0, 0); 100]);
    never("a video", vec![Measure { random: 5000, dense: 5000, ..written(5000) }; 100]);
    never("an encrypted volume", vec![rewritten(5000, 5000, 16, 0); 100]);
    never("an encrypted volume that nobody looked into", vec![rewritten(5000, 5000, 0, 0); 100]);
    let archive =
        Measure { rewritten_dense: 900, rewritten_random: 700, random: 700, dense: 900, ..rewritten(1000, 0, 16, 16) };
    never("archives where other files were", vec![archive; 100]);
    never("a key file now and then", vec![rewritten(20, 20, 4, 4), written(10)]);
}

#[test]
fn two_attacks_are_two_and_the_first_counts() {
    let pause = vec![written(10); 200];
    let attack = vec![rewritten(900, 600, 16, 16); 3];
    let ledger = ledger([written(10)].into_iter().chain(attack.clone()).chain(pause).chain(attack));
    assert_eq!(suspicions(&ledger).len(), 2);
    assert_eq!(suggested(1..=207, &ledger).point, Some(1));
}

#[test]
fn without_figures_nothing_is_claimed() {
    let found = suggested(1..=3, &Ledger::default());
    assert_eq!((found.point, found.confidence), (Some(3), Confidence::Low));
    let found = suggested(1..=3, &ledger([written(10); 3]));
    assert_eq!((found.point, found.confidence), (Some(3), Confidence::Medium));
}
