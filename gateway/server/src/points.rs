//! Recovery points as readers see them: listed from the vault, and kept for a short while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_model::{BranchId, GroupId, PointId};
use lifeboat_vault::Vault;

use crate::port::{DataPath, EngineResult, PointFact, PointVolumes};

/// How old a list may be.
const LIST_AGE_MAX: Duration = Duration::from_secs(2);
/// Points whose trees stay open.
const VIEWS_MAX: usize = 32;

type List = Arc<Vec<PointFact>>;
type Opened = ((GroupId, PointId), Arc<dyn PointVolumes>);

#[derive(Debug, Default)]
pub(crate) struct PointCache {
    lists: Mutex<HashMap<(GroupId, BranchId), (Instant, List)>>,
    /// By group too: groups that take a point together give it one id.
    views: Mutex<Vec<Opened>>,
}

impl PointCache {
    /// The points of a branch and its ancestors, oldest first.
    pub(crate) async fn list(
        &self,
        engine: &dyn DataPath,
        vault: &Vault,
        group: GroupId,
        branch: BranchId,
    ) -> EngineResult<List> {
        if let Some((taken, list)) = self.lists.lock().unwrap_or_else(PoisonError::into_inner).get(&(group, branch))
            && taken.elapsed() < LIST_AGE_MAX
        {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(engine.points(vault, group, branch).await?);
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|_, (taken, _)| taken.elapsed() < LIST_AGE_MAX);
        lists.insert((group, branch), (Instant::now(), Arc::clone(&list)));
        Ok(list)
    }

    /// Forgets the lists of a group: it took a point, or branched.
    pub(crate) fn stale(&self, group: GroupId) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _), _| *id != group);
    }

    /// The volumes at a point; the last ones asked for stay open.
    pub(crate) async fn view(
        &self,
        engine: &dyn DataPath,
        vault: &Vault,
        group: GroupId,
        point: &PointFact,
    ) -> EngineResult<Arc<dyn PointVolumes>> {
        let found = {
            let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            views.iter().find(|(id, _)| *id == (group, point.id)).map(|(_, view)| Arc::clone(view))
        };
        if let Some(view) = found {
            return Ok(view);
        }
        let view = engine.view(vault, group, point).await?;
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|(id, _)| *id != (group, point.id));
        if views.len() >= VIEWS_MAX {
            views.remove(0);
        }
        views.push(((group, point.id), Arc::clone(&view)));
        Ok(view)
    }
}
