//! What the agent goes by: the settings of its own machine first, then what its policy says, as a process server told it last.
//!
//! What was told is kept in `rules.json`, written under a temporary name and renamed: an agent that starts while nobody is there to
//! tell it anything goes by the rules of before, and copies nothing outside of its window. Programs are of this machine alone: which
//! ones there are stands in its own settings, and no process server can name one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_engine::quiesce::{AppPoints, Quiesce};
use lifeboat_engine::relay::{Abilities, Ruled, Rules, Window};
use lifeboat_engine::{Group, GroupSettings, ResyncSettings, RetrySettings};
use lifeboat_model::Hours;
use lifeboat_program::Hooks;
use serde::{Deserialize, Serialize};

use crate::{AgentConfig, keep};

const FILE: &str = "rules.json";
/// Time between recovery points where neither this machine nor a policy says one.
const POINT_INTERVAL: Duration = Duration::from_secs(5);
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Size of the journal, percent of the disks, where neither says one.
const JOURNAL_PERCENT: u8 = 50;
/// The journal: a share of the disks, at most a quarter of what is free, within bounds.
const JOURNAL_BYTES: std::ops::RangeInclusive<u64> = (64 << 20)..=(16 << 30);

/// The programs of this machine that hold its applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppHooks {
    /// The directory that they are in.
    pub directory: PathBuf,
    /// File name of the one that runs before a point.
    pub pre: Option<String>,
    /// File name of the one that runs after it, whatever came of it.
    pub post: Option<String>,
    /// How long each may take.
    pub timeout: Duration,
}

/// The rules as they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    point_ms: u64,
    #[serde(default)]
    app_point_ms: Option<u64>,
    journal_percent: u8,
    #[serde(default)]
    resync: Option<KeptWindow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptWindow {
    minutes: (u16, u16),
    zone: String,
}

/// What an agent goes by.
#[derive(Debug)]
pub(crate) struct Settings {
    file: PathBuf,
    point_interval: Option<Duration>,
    journal_bytes: Option<u64>,
    disk_bytes: u64,
    state: PathBuf,
    /// What nobody says anything else of; shared, so that the same settings are equal.
    others: GroupSettings,
    /// The same object for as long as the agent runs.
    hooks: Option<(Arc<dyn Quiesce>, Duration)>,
    told: Mutex<Option<Rules>>,
}

impl Settings {
    /// Those of this machine, and the rules that were kept.
    pub(crate) fn new(config: &AgentConfig, disk_bytes: u64) -> Self {
        let file = config.state.join(FILE);
        let hooks = config.hooks.as_ref().map(|hooks| {
            let programs = Hooks {
                directory: hooks.directory.clone(),
                pre: hooks.pre.clone(),
                post: hooks.post.clone(),
                group: config.group_name(),
                mount: Some(config.mount.clone()),
            };
            if let Err(why) = programs.check() {
                tracing::warn!(why, "there will be no application-consistent points until this is mended");
            }
            (Arc::new(Programs(programs)) as Arc<dyn Quiesce>, hooks.timeout)
        });
        Self {
            told: Mutex::new(read(&file)),
            file,
            point_interval: config.point_interval,
            journal_bytes: config.journal_bytes,
            disk_bytes,
            state: config.state.clone(),
            others: GroupSettings {
                retry: RetrySettings {
                    pauses: [100, 500, 1000, 2000, 5000, 15_000].map(Duration::from_millis).to_vec(),
                    ..RetrySettings::default()
                },
                ..GroupSettings::default()
            },
            hooks,
        }
    }

    /// How the group is run.
    pub(crate) fn of_group(&self) -> GroupSettings {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Whatever was told: a round of hooks or a point is never followed by the next one at once.
        let interval = |ms: u64| Duration::from_millis(ms).max(INTERVAL_MIN);
        let point_interval = told.as_ref().map_or(POINT_INTERVAL, |told| interval(told.point_ms));
        let percent = told.as_ref().map_or(JOURNAL_PERCENT, |told| told.journal_percent);
        let free = rustix::fs::statvfs(&self.state).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
        let wanted = (self.disk_bytes / 100).saturating_mul(u64::from(percent)).min(free / 4);
        let journal = wanted.clamp(*JOURNAL_BYTES.start(), *JOURNAL_BYTES.end());
        let every = told.as_ref().and_then(|told| told.app_point_ms).map(interval);
        let app_points = self.hooks.as_ref().map(|(hooks, timeout)| AppPoints {
            every,
            timeout: *timeout,
            hooks: Arc::clone(hooks),
        });
        GroupSettings {
            point_interval: self.point_interval.unwrap_or(point_interval),
            journal_bytes: self.journal_bytes.unwrap_or(journal),
            app_points,
            resync: ResyncSettings {
                hours: told.and_then(|told| told.resync).and_then(hours),
                ..self.others.resync.clone()
            },
            ..self.others.clone()
        }
    }

    fn keep(&self, rules: &Rules) {
        if let Err(error) = keep(&self.file, &kept(rules)) {
            tracing::warn!(%error, "what the policy says can't be kept for the next start");
        }
    }
}

impl Ruled for Settings {
    fn abilities(&self) -> Abilities {
        let ms = |timeout: &Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Abilities { hooks_ms: self.hooks.as_ref().map(|(_, timeout)| ms(timeout)), compares: true }
    }

    fn follow(&self, group: &Group, rules: Rules) {
        let before = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.replace(rules.clone())
        };
        if before.as_ref() != Some(&rules) {
            tracing::info!(?rules, "goes by what the policy says");
            self.keep(&rules);
        }
        group.set_settings(self.of_group());
    }
}

/// Hooks as the engine knows them.
#[derive(Debug)]
struct Programs(Hooks);

#[async_trait]
impl Quiesce for Programs {
    async fn freeze(&self) -> Result<(), String> {
        self.0.before().await
    }

    async fn thaw(&self) -> Result<(), String> {
        self.0.after().await
    }
}

/// A zone that this machine doesn't know closes no window: what the vault lacks is copied at any hour then.
fn hours(window: Window) -> Option<Hours> {
    let zone = (!window.zone.is_empty()).then_some(&*window.zone);
    match Hours::new(&[], Some(window.minutes), zone) {
        Ok(hours) => Some(hours),
        Err(error) => {
            tracing::warn!(%error, "the policy's window for resyncs is not known here: they run at any hour");
            None
        }
    }
}

fn kept(rules: &Rules) -> Kept {
    Kept {
        point_ms: rules.point_ms,
        app_point_ms: rules.app_point_ms,
        journal_percent: rules.journal_percent,
        resync: rules.resync.as_ref().map(|window| KeptWindow { minutes: window.minutes, zone: window.zone.clone() }),
    }
}

fn read(file: &Path) -> Option<Rules> {
    let kept: Kept = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some(Rules {
        point_ms: kept.point_ms,
        app_point_ms: kept.app_point_ms,
        journal_percent: kept.journal_percent,
        resync: kept.resync.map(|window| Window { minutes: window.minutes, zone: window.zone }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            point_ms: 30_000,
            app_point_ms: Some(3_600_000),
            journal_percent: 20,
            resync: Some(Window { minutes: (60, 120), zone: "Europe/Zurich".to_owned() }),
        }
    }

    #[test]
    fn what_was_told_is_kept_and_the_machines_own_settings_go_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = Settings::new(&AgentConfig::of_tests(dir.path(), &["disk"]), 1 << 20);
        assert_eq!(fresh.of_group().point_interval, POINT_INTERVAL);
        assert!(fresh.of_group().resync.hours.is_none() && fresh.of_group().app_points.is_none());
        fresh.keep(&rules());
        let after = Settings::new(&AgentConfig::of_tests(dir.path(), &["disk"]), 1 << 20).of_group();
        assert_eq!(after.point_interval, Duration::from_secs(30));
        assert_eq!(after.resync.hours, Hours::new(&[], Some((60, 120)), Some("Europe/Zurich")).ok());
        assert!(after.app_points.is_none(), "an interval makes no hooks");
        let hooks = AppHooks {
            directory: dir.path().into(),
            pre: Some("a".into()),
            post: None,
            timeout: Duration::from_secs(7),
        };
        let own = AgentConfig {
            point_interval: Some(Duration::from_secs(2)),
            journal_bytes: Some(1 << 30),
            hooks: Some(hooks),
            ..AgentConfig::of_tests(dir.path(), &["disk"])
        };
        let settings = Settings::new(&own, 1 << 20);
        assert_eq!(settings.abilities(), Abilities { hooks_ms: Some(7000), compares: true });
        let group = settings.of_group();
        assert_eq!((group.point_interval, group.journal_bytes), (Duration::from_secs(2), 1 << 30));
        let app = group.app_points.clone().unwrap();
        assert_eq!((app.every, app.timeout), (Some(Duration::from_secs(3600)), Duration::from_secs(7)));
        assert_eq!(group, settings.of_group(), "asked again, nothing has changed");
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert_eq!(
            Settings::new(&AgentConfig::of_tests(dir.path(), &["disk"]), 1 << 20).of_group().point_interval,
            POINT_INTERVAL
        );
    }

    #[test]
    fn the_journal_is_a_share_of_the_disks_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let of =
            |disks: u64| Settings::new(&AgentConfig::of_tests(dir.path(), &["disk"]), disks).of_group().journal_bytes;
        assert_eq!(of(1 << 20), 64 << 20);
        assert!(of(u64::MAX) <= 16 << 30);
    }
}
