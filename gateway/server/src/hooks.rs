//! Hooks: the programs that quiet a group's applications around an application-consistent point, and those that are the
//! actions of recovery plans.
//!
//! A declaration names files, never paths or commands: only what an administrator of this machine has put into the
//! gateway's directory of hooks is ever run. How a program is run, and which one is refused, is `lifeboat_program`'s.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_api::AppConsistency;
use lifeboat_api::validate::parse_duration;
use lifeboat_engine::quiesce::{AppPoints, Quiesce};
use lifeboat_model::GroupId;
pub(crate) use lifeboat_program::run_in as run;

/// The hooks of the groups that run here: the same object as long as a declaration says the same.
#[derive(Debug, Default)]
pub(crate) struct Hooks(Mutex<HashMap<GroupId, Arc<Scripts>>>);

impl Hooks {
    /// How a group takes application-consistent points.
    pub(crate) fn of(&self, group: GroupId, wanted: Scripts, every: Option<Duration>) -> AppPoints {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known.entry(group).or_insert_with(|| Arc::new(wanted.clone()));
        if **kept != wanted {
            *kept = Arc::new(wanted);
        }
        AppPoints { every, timeout: kept.timeout, hooks: Arc::clone(kept) as Arc<dyn Quiesce> }
    }
}

/// The programs of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scripts {
    programs: lifeboat_program::Hooks,
    timeout: Duration,
}

impl Scripts {
    pub(crate) fn new(directory: &Path, declared: &AppConsistency, group: &str, mount: Option<PathBuf>) -> Self {
        let programs = lifeboat_program::Hooks {
            directory: directory.to_owned(),
            pre: declared.pre_script.clone(),
            post: declared.post_script.clone(),
            group: group.to_owned(),
            mount,
        };
        Self { programs, timeout: parse_duration(&declared.timeout).unwrap_or(Duration::from_secs(30)) }
    }
}

#[async_trait]
impl Quiesce for Scripts {
    async fn freeze(&self) -> Result<(), String> {
        self.programs.before().await
    }

    async fn thaw(&self) -> Result<(), String> {
        self.programs.after().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(pre: &str) -> Scripts {
        let declared = AppConsistency { pre_script: Some(pre.to_owned()), post_script: None, timeout: "5s".to_owned() };
        Scripts::new(Path::new("/hooks"), &declared, "ledger", Some("/mnt/lifeboat".into()))
    }

    #[test]
    fn the_same_declaration_gives_the_same_hooks() {
        let hooks = Hooks::default();
        let group = GroupId::new();
        let one = hooks.of(group, scripts("a"), None);
        assert_eq!(one, hooks.of(group, scripts("a"), None));
        assert_ne!(one, hooks.of(group, scripts("b"), None));
    }
}
