//! Bugs planted on purpose: each has to be caught, or the harness proves nothing.

use lifeboat_sim::disk::Lie;
use lifeboat_sim::scenario::{Plan, random_run};
use lifeboat_sim::{Planted, Violation};

/// The first violation within a hundred seeds.
fn catch(planted: Planted, lies: &[Lie]) -> Option<(u64, Violation)> {
    let plan = Plan { planted, lies: lies.to_vec(), probes: 6, ..Plan::default() };
    (0..100).find_map(|seed| random_run(seed, &plan).err().map(|violation| (seed, violation)))
}

fn caught(planted: Planted, lies: &[Lie], symptoms: &[&str]) {
    let (seed, violation) = catch(planted, lies).unwrap_or_else(|| panic!("{planted:?} {lies:?} was not caught"));
    eprintln!("{planted:?} {lies:?}: seed {seed}: {violation}");
    let text = violation.to_string();
    assert!(symptoms.iter().any(|symptom| text.contains(symptom)), "caught for another reason: {text}");
}

#[test]
fn a_sound_run_is_not_accused() {
    assert_eq!(catch(Planted::Nothing, &[]), None);
}

#[test]
fn reclaiming_everything_is_caught() {
    caught(Planted::ReclaimsEverything, &[], &["lost record", "can't be read back"]);
}

#[test]
fn reclaiming_what_the_vault_lacks_is_caught() {
    caught(Planted::ReclaimsUnshipped, &[], &["lost record", "can't be read back"]);
}

#[test]
fn a_watermark_saved_too_early_is_caught() {
    caught(Planted::SavesWatermarkEarly, &[], &["holds"]);
}

#[test]
fn destaging_before_it_is_durable_is_caught() {
    caught(Planted::DestagesBeforeDurable, &[], &["was written by", "belongs to no record", "holds"]);
}

#[test]
fn shipping_before_it_is_durable_is_caught() {
    caught(Planted::ShipsBeforeDurable, &[], &["the vault has", "must not be lost", "another record"]);
}

#[test]
fn acknowledging_before_the_kernel_has_it_is_caught() {
    caught(Planted::AcknowledgesEarly, &[], &["must not be lost"]);
}

#[test]
fn flushing_without_a_sync_is_caught() {
    caught(Planted::FlushesWithoutSync, &[], &["must not be lost", "flushed"]);
}

#[test]
fn a_record_left_out_of_replay_is_caught() {
    caught(Planted::SkipsARecord, &[], &["holds", "ends before record"]);
}

#[test]
fn a_fill_over_newer_data_is_caught() {
    caught(Planted::FillOverwrites, &[], &["holds", "not ["]);
}

#[test]
fn a_growth_that_is_not_saved_is_caught() {
    caught(Planted::ForgetsSizes, &[], &["blocks, not", "holds"]);
}

#[test]
fn a_journal_disk_that_lies_about_sync_is_caught() {
    caught(Planted::Nothing, &[Lie::Sync("journal-")], &["must not be lost", "lost record"]);
}

#[test]
fn an_image_disk_that_lies_about_sync_is_caught() {
    caught(Planted::Nothing, &[Lie::Sync(".img")], &["holds", "mixture"]);
}

#[test]
fn a_presence_map_that_is_not_synced_is_caught() {
    caught(Planted::Nothing, &[Lie::Sync(".present")], &["holds"]);
}

#[test]
fn names_that_are_never_durable_are_caught() {
    caught(Planted::Nothing, &[Lie::Names], &["can't be opened", "must not be lost", "holds"]);
}

#[test]
fn lost_and_misdirected_writes_are_caught() {
    caught(Planted::Nothing, &[Lie::LostWrite("journal-", 40)], &["lost", "can't be read back", "holds"]);
    caught(Planted::Nothing, &[Lie::LostWrite(".img", 40)], &["not [", "holds"]);
    caught(Planted::Nothing, &[Lie::LostWrite(".present", 8)], &["holds"]);
    caught(Planted::Nothing, &[Lie::Misdirected(".img", 40)], &["not [", "holds"]);
    caught(Planted::Nothing, &[Lie::Misdirected("journal-", 40)], &["lost", "can't be read back", "holds"]);
}

#[test]
fn flipped_bits_are_caught() {
    caught(Planted::Nothing, &[Lie::Flipped("journal-", 40)], &["lost", "can't be read back", "holds"]);
    caught(Planted::Nothing, &[Lie::Flipped(".img", 40)], &["mixture"]);
}
