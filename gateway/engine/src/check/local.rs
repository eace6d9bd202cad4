//! Checking the local files of groups: state, journal, dirty map, presence maps, images. Reads only, through a disk that refuses to
//! write; meant for a gateway that is stopped, since a running one changes what is being looked at.
//!
//! ```text
//! group.state   one sound slot is enough: the other one may be torn by a crash
//! journal       every batch from the oldest record that is still needed; where the chain breaks it is a torn tail, unless
//!               a later batch says that what is missing was durable: then the disk has lost data
//! presence      header against the state; the bits have no checksum
//! dirty map     while there is a resync: one of its two files holds what was given up
//! images        there, and as long as the state says
//! ```

mod dirty;
mod journal;
mod read_only;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_format::local::{GroupState, PRESENCE_HEADER_LEN, PresenceHeader, STATE_SLOT, StateVolume, newest_state};
use lifeboat_model::{BLOCK_SIZE_U64, GroupId, Lsn, state};
use serde::Serialize;

use super::report::{Damage, Fault, Note, of_format};
use crate::at_rest::{LocalKey, revealed};
use crate::disk::{Disk, Io};
use crate::error::{EngineError, Result};
use crate::image::{image_len, image_name};
pub use journal::JournalReport;
pub use read_only::ReadOnlyDisk;

const STATE: &str = "group.state";

/// One group's local files, as they were found.
#[derive(Clone, Debug, Serialize)]
pub struct LocalGroup {
    /// Where they are.
    pub directory: PathBuf,
    /// The group; none when its state can't be read.
    pub group: Option<GroupId>,
    /// What the gateway did with it.
    pub phase: Option<state::GroupState>,
    /// Up to here the images hold every record.
    pub image_lsn: Option<Lsn>,
    /// Up to here the vault has every record.
    pub shipped_lsn: Option<Lsn>,
    /// The journal.
    pub journal: Option<JournalReport>,
}

/// What a check of a state directory found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LocalReport {
    /// Nothing is damaged.
    pub sound: bool,
    /// Files that were looked at.
    pub files: u64,
    /// The damage.
    pub damage: Vec<Damage>,
    /// What is no damage.
    pub notes: Vec<Note>,
    /// The groups.
    pub groups: Vec<LocalGroup>,
}

impl LocalReport {
    fn damaged(&mut self, file: &Path, kind: &'static str, fault: Fault, detail: String, costs: impl Into<String>) {
        self.push(file, kind, (fault, None, None), detail, costs);
    }

    fn push(
        &mut self,
        file: &Path,
        kind: &'static str,
        (fault, part, offset): (Fault, Option<String>, Option<u64>),
        detail: String,
        costs: impl Into<String>,
    ) {
        self.damage.push(Damage {
            number: self.damage.len(),
            object: file.display().to_string(),
            kind,
            fault,
            part,
            offset,
            detail,
            costs: Vec::new(),
            consequence: Some(costs.into()),
        });
    }

    fn note(&mut self, file: &Path, text: impl Into<String>) {
        self.notes.push(Note { object: file.display().to_string(), text: text.into() });
    }
}

/// Checks every group under a gateway's state directory.
///
/// # Errors
/// `NotFound` without such a directory, what the disk says of the directories themselves. What is wrong with files is in
/// the report; so is a directory that is encrypted with another key than the one given.
pub fn check_state_directory(state: &Path, key: Option<&LocalKey>) -> Result<LocalReport> {
    let mut report = LocalReport::default();
    let failed = |path: &Path| {
        let shown = path.display().to_string();
        move |error| EngineError::io(format!("read {shown}"), error)
    };
    std::fs::read_dir(state).map_err(failed(state))?;
    let groups = state.join("groups");
    let mut found: Vec<PathBuf> = Vec::new();
    if groups.is_dir() {
        for group in subdirectories(&groups).map_err(failed(&groups))? {
            found.extend(subdirectories(&group).map_err(failed(&group))?);
        }
    } else {
        report.note(&groups, "no group has files here");
    }
    for directory in found {
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(&directory));
        match revealed(disk, key) {
            Ok(disk) => check_group(&disk, &mut report),
            Err(error) => report.damaged(
                &directory,
                "encrypted directory",
                Fault::Unreadable,
                error.to_string(),
                "the group can't be opened here: its volumes are in the vault up to what was shipped",
            ),
        }
    }
    report.sound = report.damage.is_empty();
    Ok(report)
}

fn subdirectories(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Checks the files of one group, which are all on `disk`.
pub fn check_group(disk: &Arc<dyn Disk>, report: &mut LocalReport) {
    let mut group = LocalGroup {
        directory: disk.path(),
        group: None,
        phase: None,
        image_lsn: None,
        shipped_lsn: None,
        journal: None,
    };
    if let Some(state) = read_state(disk, report) {
        group.group = Some(state.group);
        group.phase = Some(state.phase.state());
        group.image_lsn = Some(state.image_lsn);
        group.shipped_lsn = Some(state.shipped.lsn);
        group.journal = journal::check(disk, &state, report);
        dirty::check(disk, &state, report);
        for volume in &state.volumes {
            check_volume(disk, volume, report);
        }
    }
    report.groups.push(group);
}

/// The newest sound state.
fn read_state(disk: &Arc<dyn Disk>, report: &mut LocalReport) -> Option<GroupState> {
    let path = disk.path().join(STATE);
    let costs = "the group can't be opened here: recover its volumes from the vault; writes that were not shipped are in \
                 the journal and the images, which nobody can make use of without the state";
    report.files = report.files.saturating_add(1);
    let mut slots = vec![0; STATE_SLOT.saturating_mul(2)];
    let read = disk.open(STATE, false, Io::Buffered).and_then(|file| {
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(slots.len());
        file.read_at(slots.get_mut(..len).unwrap_or_default(), 0)
    });
    if let Err(error) = read {
        let fault = if error.kind() == std::io::ErrorKind::NotFound { Fault::Missing } else { Fault::Unreadable };
        report.damaged(&path, "group state", fault, error.to_string(), costs);
        return None;
    }
    let (a, b) = slots.split_at_checked(STATE_SLOT)?;
    match newest_state(a, b) {
        Ok(Some(state)) => {
            for (slot, name) in [(a, "A"), (b, "B")] {
                let blank = lifeboat_format::hash::is_zero(slot);
                if let (false, Err(error)) = (blank, GroupState::decode(slot)) {
                    report.note(
                        &path,
                        format!("slot {name} is torn, as a crash leaves it; the other one counts: {error}"),
                    );
                }
            }
            Some(state)
        }
        Ok(None) => {
            report.damaged(&path, "group state", Fault::Damaged, "both slots are empty".to_owned(), costs);
            None
        }
        Err(error) => {
            let verdict = of_format(&error);
            report.damaged(&path, "group state", verdict.fault, format!("both slots fail: {}", verdict.detail), costs);
            None
        }
    }
}

fn check_volume(disk: &Arc<dyn Disk>, volume: &StateVolume, report: &mut LocalReport) {
    let name = image_name(volume.id);
    let path = disk.path().join(&name);
    report.files = report.files.saturating_add(1);
    let wanted = volume.blocks.saturating_mul(BLOCK_SIZE_U64);
    match image_len(disk, volume.id) {
        Ok(len) if len < wanted => report.note(
            &path,
            format!(
                "{len} bytes long where {wanted} are declared: an interrupted growth, which the next start completes"
            ),
        ),
        Ok(_) => {}
        Err(error) => {
            let fault = if error.kind() == std::io::ErrorKind::NotFound { Fault::Missing } else { Fault::Unreadable };
            let costs = format!("{} ({}) has to be recovered from the vault", volume.name, volume.id);
            report.damaged(&path, "image", fault, error.to_string(), costs);
        }
    }
    if volume.lazy {
        check_presence(disk, volume, report);
    }
}

fn check_presence(disk: &Arc<dyn Disk>, volume: &StateVolume, report: &mut LocalReport) {
    const KIND: &str = "presence map";
    let name = format!("{}.present", volume.id);
    let path = disk.path().join(&name);
    let costs = format!(
        "nobody knows which blocks of {} ({}) are here: fail over anew from the vault; what was written here and not \
         shipped is lost",
        volume.name, volume.id
    );
    report.files = report.files.saturating_add(1);
    let mut header = vec![0; PRESENCE_HEADER_LEN];
    let read = disk.open(&name, false, Io::Buffered).and_then(|file| {
        file.read_at(&mut header, 0)?;
        file.len()
    });
    let len = match read {
        Ok(len) => len,
        Err(error) => {
            let fault = match error.kind() {
                std::io::ErrorKind::NotFound => Fault::Missing,
                std::io::ErrorKind::UnexpectedEof => Fault::Length,
                _ => Fault::Unreadable,
            };
            report.damaged(&path, KIND, fault, error.to_string(), costs);
            return;
        }
    };
    match PresenceHeader::decode(&header) {
        Err(error) => {
            let verdict = of_format(&error);
            report.damaged(&path, KIND, verdict.fault, verdict.detail, costs);
        }
        Ok(header) if header.volume != volume.id => {
            let detail = format!("it belongs to {}", header.volume);
            report.damaged(&path, KIND, Fault::Misplaced, detail, costs);
        }
        Ok(header) if len < header.file_len() => {
            let detail = format!("it has {len} bytes, and its bits need {}", header.file_len());
            report.damaged(&path, KIND, Fault::Length, detail, costs);
        }
        Ok(_) => {}
    }
}
