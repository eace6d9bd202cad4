//! One call at a time for each run: a start and a stop of the same machine never meet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::RunId;

/// Whose turn it is, by run. The inner lock guards the map only and is never held across an await.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn of a call that changes this run; it lasts as long as the guard.
    pub(crate) async fn take(&self, id: &RunId) -> OwnedMutexGuard<()> {
        self.of(id).lock_owned().await
    }

    /// The turn of a call that changes this run, if nobody has it.
    pub(crate) fn try_take(&self, id: &RunId) -> Option<OwnedMutexGuard<()>> {
        self.of(id).try_lock_owned().ok()
    }

    fn of(&self, id: &RunId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whatever nobody holds or waits for can go; so the map is as long as there are calls.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(id.clone()).or_default())
    }
}
