//! What a gateway knows of a group across restarts: one small file of two slots.
//!
//! The slot that holds the older generation is overwritten and synced, so that a crash leaves the newer one. The file is
//! written last when a group is created, so that its presence means that the group exists here, and first when a group
//! is forgotten.

use std::path::Path;
use std::sync::Arc;

use lifeboat_format::local::{GroupState as Stored, STATE_SLOT, newest_state};
use lifeboat_model::GroupId;

use crate::disk::{Disk, DiskFile, Io};
use crate::error::{EngineError, ErrorKind, Result, format_error};
use crate::machine::Machine;

pub(crate) use lifeboat_format::local::{Phase, Place, Rehydrate, StateVolume};
pub(crate) type State = Stored;

const NAME: &str = "group.state";

/// The state file of a group.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: Arc<dyn DiskFile>,
}

/// Whether a directory holds the state of a group.
pub(crate) fn exists(machine: &dyn Machine, dir: &Path) -> bool {
    machine.holds(dir, NAME)
}

impl StateFile {
    /// Writes the first state of a group.
    pub(crate) fn create(disk: &Arc<dyn Disk>, state: &mut State) -> Result<Self> {
        let context = |error| EngineError::io(format!("create {}", disk.path().join(NAME).display()), error);
        disk.remove(NAME).map_err(context)?;
        let file = disk.open(NAME, true, Io::Buffered).map_err(context)?;
        file.set_len(2 * STATE_SLOT as u64).map_err(context)?;
        let created = Self { file };
        created.save(state)?;
        disk.sync_names().map_err(context)?;
        Ok(created)
    }

    /// Whether a crash came within the first write of a state, so that nothing could rely on it yet: it goes into the second slot,
    /// every later one into the other, and neither slot was ever whole.
    pub(crate) fn is_begun_only(disk: &Arc<dyn Disk>) -> Result<bool> {
        let context = |error| EngineError::io(format!("open {}", disk.path().join(NAME).display()), error);
        let file = disk.open(NAME, false, Io::Buffered).map_err(context)?;
        if file.len().map_err(context)? < 2 * STATE_SLOT as u64 {
            return Ok(true);
        }
        let mut slots = vec![0; 2 * STATE_SLOT];
        file.read_at(&mut slots, 0).map_err(context)?;
        let (first, second) = slots.split_at(STATE_SLOT);
        if first.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        match newest_state(first, second).map_err(format_error("the state of the group")) {
            Ok(found) => Ok(found.is_none()),
            Err(error) => Ok(error.kind() == ErrorKind::Damaged),
        }
    }

    /// Reads the newest state.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` when neither slot is sound, `NewerFormat`.
    pub(crate) fn open(disk: &Arc<dyn Disk>, group: GroupId) -> Result<(Self, State)> {
        let path = disk.path().join(NAME);
        let context = |error| EngineError::io(format!("open {}", path.display()), error);
        let file = disk.open(NAME, false, Io::Buffered).map_err(context)?;
        let mut slots = vec![0; 2 * STATE_SLOT];
        file.read_at(&mut slots, 0).map_err(context)?;
        let state = newest_state(&slots[..STATE_SLOT], &slots[STATE_SLOT..])
            .map_err(format_error("the state of the group"))?
            .ok_or_else(|| {
                EngineError::new(
                    ErrorKind::Damaged,
                    format!("{} is empty: recover the volumes from the vault", path.display()),
                )
            })?;
        if state.group != group {
            return Err(EngineError::new(
                ErrorKind::Damaged,
                format!("{} belongs to {}, not to {group}: put the right directory back", path.display(), state.group),
            ));
        }
        Ok((Self { file }, state))
    }

    /// Writes the next generation of the state, durably.
    pub(crate) fn save(&self, state: &mut State) -> Result<()> {
        state.generation += 1;
        let bytes = state.encode().map_err(format_error("the state of the group"))?;
        let slot = (state.generation % 2) * STATE_SLOT as u64;
        let context = |error| EngineError::io("write the state of the group", error);
        self.file.write_at(&bytes, slot).map_err(context)?;
        self.file.sync().map_err(context)
    }
}

/// Deletes the state file: the group is unknown here from now on.
pub(crate) fn remove(disk: &Arc<dyn Disk>) -> Result<()> {
    disk.remove(NAME)
        .and_then(|()| disk.sync_names())
        .map_err(|error| EngineError::io(format!("delete the state in {}", disk.path().display()), error))
}
