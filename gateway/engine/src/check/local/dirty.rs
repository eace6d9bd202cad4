//! The dirty map against the group's state: two files of which the newer sound one counts, while there is a resync.

use std::sync::Arc;

use lifeboat_format::FormatError;
use lifeboat_format::dirty::DirtyMap;
use lifeboat_format::local::{GroupState, Resync};

use super::LocalReport;
use crate::check::report::{Fault, of_format};
use crate::dirty::{NAMES, read_file};
use crate::disk::Disk;

const KIND: &str = "dirty map";
const ALL_DIRTY: &str = "nothing is lost: the next start takes every block of the group for one that the vault lacks, and the \
                         resync reads all of the images";
const NOT_OPENED: &str = "the group can't be opened here until the file is put right or taken away; without any, the resync reads \
                          all of the images";

/// Checks the files of the dirty map. Without a resync they mean nothing, and are not looked at.
pub(super) fn check(disk: &Arc<dyn Disk>, state: &GroupState, report: &mut LocalReport) {
    let Some(resync) = &state.resync else { return };
    let found: Vec<(&str, Found)> = NAMES.iter().map(|name| (*name, read(disk, name))).collect();
    let sound = |found: &Found| matches!(found, Found::Map(map) if counts(map, state, resync));
    let has_sound = found.iter().any(|(_, found)| sound(found));
    let mut said = false;
    for (name, found) in &found {
        let path = disk.path().join(name);
        report.files = report.files.saturating_add(u64::from(!matches!(found, Found::Missing)));
        match found {
            Found::Missing => {}
            Found::Unreadable(error) => {
                report.damaged(&path, KIND, Fault::Unreadable, error.clone(), NOT_OPENED);
                said = true;
            }
            Found::Broken(error @ FormatError::NewerVersion { .. }) => {
                report.damaged(&path, KIND, of_format(error).fault, error.to_string(), NOT_OPENED);
                said = true;
            }
            Found::Map(map) if map.group != state.group => {
                let detail = format!("it belongs to {}", map.group);
                report.damaged(&path, KIND, Fault::Misplaced, detail, NOT_OPENED);
                said = true;
            }
            Found::Broken(error) if has_sound => {
                report.note(&path, format!("torn, as a crash leaves it; the other one counts: {error}"));
            }
            Found::Broken(error) => {
                report.damaged(&path, KIND, of_format(error).fault, of_format(error).detail, ALL_DIRTY);
                said = true;
            }
            // One of before, which the next one is written over.
            Found::Map(_) => {}
        }
    }
    if !has_sound && !said {
        let detail = format!(
            "the state says that records up to {} were given up into it, and no map that holds them is there",
            resync.collapsed
        );
        report.damaged(&disk.path().join(NAMES[0]), KIND, Fault::Missing, detail, ALL_DIRTY);
    }
}

/// One file.
enum Found {
    Missing,
    Unreadable(String),
    Broken(FormatError),
    Map(DirtyMap),
}

fn counts(map: &DirtyMap, state: &GroupState, resync: &Resync) -> bool {
    map.group == state.group && map.collapsed >= resync.collapsed
}

fn read(disk: &Arc<dyn Disk>, name: &str) -> Found {
    match read_file(disk, name) {
        Err(error) => Found::Unreadable(error.to_string()),
        Ok(None) => Found::Missing,
        Ok(Some(read)) => read.map_or_else(Found::Broken, Found::Map),
    }
}
