//! How a gateway is doing as a machine and as a process server: measured every few seconds, kept in memory, judged.
//!
//! ```text
//! kernel, file system, streams ──every SAMPLE──> figures ─> judge ─> levels ─> an event for each change, the gateway's health
//!                                                   └─> /metrics, API; and with the gateway's report into the catalog
//! ```
//! Figures change all the time and cost no document of their own: they go along with what a gateway writes anyway, every 20
//! seconds, and earlier only when a level changes (see [`Load::record`]). Alarms are for process servers, whom agents depend on; what
//! a gateway without agents measures is in its metrics alone. Nothing is kept over a restart.

mod judge;
mod measure;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{GroupSpec, ProcessServerStatus};
use lifeboat_engine::relay::{ProcessServer, StreamStatus};
use lifeboat_model::state::Health;
use lifeboat_model::{GroupId, Timestamp};

use crate::context::{Context, Happening};
use crate::records::{ProcessServerRecord, kind, status};
use crate::view;

pub(crate) use judge::Measure;
use judge::{Change, Judge};
use measure::{Memory, Window};

/// Time between two samples.
const SAMPLE: Duration = Duration::from_secs(2);
/// What the share of processor time is taken over.
const PROCESSOR_WINDOW: Duration = Duration::from_secs(60);
/// What the backlog of a group whose policy can't be read is held against: the default of policies.
const RPO_THRESHOLD: Duration = Duration::from_secs(300);

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Share of the processor time of the last minute, 0 to 1.
    pub(crate) processor: Option<f64>,
    pub(crate) memory: Option<(u64, u64)>,
    /// Bytes free and in all on the file system of the state directory.
    pub(crate) space: (u64, u64),
    /// Of a process server alone.
    pub(crate) streams: Option<Streams>,
}

/// What was measured of the streams of agents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Streams {
    /// Agents that stream.
    pub(crate) agents: u32,
    /// Bytes cached, and how many may be.
    pub(crate) cache: (u64, u64),
    /// Whether agents wait for room there.
    pub(crate) waits: bool,
    /// Age of the oldest record that could be in the vault and isn't.
    pub(crate) backlog: Option<Backlog>,
}

/// The oldest record, by what its policy bears.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backlog {
    pub(crate) age: Duration,
    pub(crate) threshold: Duration,
}

impl Backlog {
    fn percent(&self) -> f64 {
        100.0 * self.age.as_secs_f64() / self.threshold.as_secs_f64().max(1.0)
    }
}

#[derive(Debug)]
struct Seen {
    time: Timestamp,
    figures: Figures,
    levels: Vec<(Measure, Health)>,
}

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct Load(RwLock<Option<Seen>>);

impl Load {
    /// What was measured last; nothing before the first sample.
    pub(crate) fn figures(&self) -> Option<Figures> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|seen| seen.figures.clone())
    }

    /// What of it is wrong with the gateway as well: a machine that is busy does its work.
    pub(crate) fn critical(&self) -> Vec<(Health, String)> {
        let busy = |measure| measure == Measure::Processor;
        self.wrong(|measure, level| level == Health::Critical && !busy(measure))
    }

    /// What is wrong with this machine as a process server, and how badly.
    pub(crate) fn troubles(&self) -> Vec<(Health, String)> {
        self.wrong(|_, level| level != Health::Healthy)
    }

    fn wrong(&self, counts: impl Fn(Measure, Health) -> bool) -> Vec<(Health, String)> {
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = seen.as_ref() else { return Vec::new() };
        let wrong = seen.levels.iter().filter(|(measure, level)| counts(*measure, *level));
        wrong.map(|(measure, level)| (*level, seen.figures.tell(*measure))).collect()
    }

    /// The level of a measure.
    pub(crate) fn level(&self, measure: Measure) -> Health {
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let levels = seen.as_ref().map(|seen| seen.levels.as_slice()).unwrap_or_default();
        levels.iter().find(|(one, _)| *one == measure).map_or(Health::Healthy, |(_, level)| *level)
    }

    /// For the catalog: as it is where that is news, as it was otherwise. `due`: the rest of the report is written anyway.
    pub(crate) fn record(
        &self,
        address: Option<&str>,
        before: Option<&ProcessServerRecord>,
        due: bool,
    ) -> Option<ProcessServerRecord> {
        let address = address?;
        let now = self.now(address);
        let Some(before) = before else { return now };
        match now {
            Some(now) if due || before.address != now.address || before.health != now.health => Some(now),
            _ => Some(before.clone()),
        }
    }

    /// What a process server is like, reached at this address; nothing before the first sample.
    pub(crate) fn now(&self, address: &str) -> Option<ProcessServerRecord> {
        let (troubles, takes_more) = (self.troubles(), self.critical().is_empty());
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Seen { time, figures, .. } = seen.as_ref()?;
        let streams = figures.streams?;
        Some(ProcessServerRecord {
            address: address.to_owned(),
            measured: Some(*time),
            health: troubles.iter().map(|(level, _)| *level).max().unwrap_or_default(),
            reasons: troubles.into_iter().map(|(_, why)| why).collect(),
            takes_more,
            agents: streams.agents,
            processor_percent: figures.processor.map(percent),
            memory_bytes_used: figures.memory.map(|(used, _)| used),
            memory_bytes_total: figures.memory.map(|(_, total)| total),
            disk_bytes_free: figures.space.0,
            disk_bytes_total: figures.space.1,
            cache_bytes_used: streams.cache.0,
            cache_bytes_limit: streams.cache.1,
            backlog_age_seconds: streams.backlog.map(|backlog| backlog.age.as_secs()),
        })
    }

    fn set(&self, seen: Seen) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

/// Whole percent of a share.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
fn percent(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * 100.0).round() as u32
}

impl Figures {
    /// A measure in percent, nothing where it can't be told.
    fn percent(&self, measure: Measure) -> Option<f64> {
        let share = |part: u64, whole: u64| (whole > 0).then(|| 100.0 * ratio(part, whole));
        match measure {
            Measure::Processor => self.processor.map(|share| share * 100.0),
            Measure::Memory => self.memory.and_then(|(used, total)| share(used, total)),
            Measure::Space => share(self.space.1.saturating_sub(self.space.0), self.space.1),
            // Who waits for room knows best: a frame may be larger than what is left.
            Measure::Cache if self.streams.is_some_and(|streams| streams.waits) => Some(100.0),
            Measure::Cache => self.streams.and_then(|streams| share(streams.cache.0, streams.cache.1)),
            Measure::Backlog => self.streams.map(|streams| streams.backlog.map_or(0.0, |backlog| backlog.percent())),
        }
    }

    /// A measure in words.
    fn tell(&self, measure: Measure) -> String {
        let whole = |measure| self.percent(measure).map_or_else(|| "?".to_owned(), |percent| format!("{percent:.0}"));
        let streams = self.streams.unwrap_or_default();
        match measure {
            Measure::Processor => format!(
                "its processors were busy for {} % of the last {} s: add processors, or another process server",
                whole(measure),
                PROCESSOR_WINDOW.as_secs()
            ),
            Measure::Memory => format!(
                "{} % of its {} of memory are in use: add memory, or take other work off the machine",
                whole(measure),
                mib(self.memory.map_or(0, |(_, total)| total))
            ),
            Measure::Space => format!(
                "{} of {} are free on the file system of its state directory: make room there, or give it a larger one",
                mib(self.space.0),
                mib(self.space.1)
            ),
            Measure::Cache => format!(
                "{} % of its cache of {} are taken by records that the vault doesn't have yet: see whether it reaches its vault, and \
                 how fast",
                whole(measure),
                mib(streams.cache.1)
            ),
            Measure::Backlog => {
                let (age, bears) =
                    streams.backlog.map_or((0, 0), |backlog| (backlog.age.as_secs(), backlog.threshold.as_secs()));
                format!(
                    "the oldest record in its cache has waited for {age} s, where the policy bears {bears} s: see whether it reaches \
                     its vault, and how fast"
                )
            }
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[expect(clippy::cast_precision_loss, reason = "a share of so many bytes, for people and for lines at whole percents")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Measures until the context is stopped.
pub(crate) async fn watch(context: Arc<Context>) {
    let begun = Instant::now();
    let (mut judge, mut window) = (Judge::default(), Window::new(PROCESSOR_WINDOW));
    loop {
        let at = begun.elapsed();
        let server = context.process_server.get();
        let streams = match server {
            Some(server) => Some(streams(&context, server).await),
            None => None,
        };
        let figures = Figures {
            processor: window.share(at, measure::processor(&measure::kernel, at)),
            memory: measure::memory(&measure::kernel).map(|Memory { used, limit }| (used, limit)),
            space: space(context.state.path()),
            streams,
        };
        let changes = match server {
            Some(_) => judge.look(at, |measure| figures.percent(measure)),
            None => Vec::new(),
        };
        let levels = Measure::ALL.map(|measure| (measure, judge.level(measure))).to_vec();
        context.load.set(Seen { time: Timestamp::now(), figures: figures.clone(), levels });
        if !changes.is_empty() {
            // A vault that hangs holds no sample up.
            let telling = tell(Arc::clone(&context), figures, changes);
            context.tasks.spawn(context.stop.clone().run_until_cancelled_owned(telling));
            // What follows from it can't wait for the next look at the catalog.
            context.wake.notify_one();
        }
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(SAMPLE) => {}
        }
    }
}

fn space(path: &Path) -> (u64, u64) {
    rustix::fs::statvfs(path).map_or((0, 0), |found| {
        (found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize))
    })
}

async fn streams(context: &Context, server: &ProcessServer) -> Streams {
    let all = server.status().await;
    let now = Timestamp::now();
    let oldest = all.iter().filter_map(|stream| backlog(context, stream, now));
    Streams {
        agents: u32::try_from(all.iter().filter(|stream| stream.attached).count()).unwrap_or(u32::MAX),
        cache: server.cache_bytes(),
        waits: server.is_short_of_cache(),
        backlog: oldest.max_by(|a, b| a.percent().total_cmp(&b.percent())),
    }
}

fn backlog(context: &Context, stream: &StreamStatus, now: Timestamp) -> Option<Backlog> {
    let age = Duration::try_from_secs_f64(now.seconds_since(stream.oldest?)).unwrap_or_default();
    Some(Backlog { age, threshold: threshold(context, stream.group).unwrap_or(RPO_THRESHOLD) })
}

/// What the policy of a group bears.
fn threshold(context: &Context, group: GroupId) -> Option<Duration> {
    context.vaults.all().iter().find_map(|attached| {
        let snapshot = attached.snapshot();
        let document = snapshot.get(kind::GROUPS, &group.to_string())?;
        let spec: GroupSpec = document.spec_as().ok()?;
        let policy = view::policy_of(&snapshot, &spec, &status(document))?;
        parse_duration(&policy.rpo_threshold).ok()
    })
}

/// One event for each change of a level, worse or better, in each vault where this gateway is declared.
async fn tell(context: Arc<Context>, figures: Figures, changes: Vec<Change>) {
    let name = &context.settings.name;
    for Change { measure, from, to } in changes {
        let message = match to > from {
            true => format!("the process server {name} is {to}: {}", figures.tell(measure)),
            false => format!("the process server {name} is {to} again in its {measure}"),
        };
        for attached in context.vaults.all().iter().filter(|attached| context.own_gateway(attached).is_some()) {
            let (kind, message) = ("process_server.health", message.clone());
            context.event(attached, Happening { severity: to, kind, message, ..Happening::default() }).await;
        }
    }
}

impl From<ProcessServerRecord> for ProcessServerStatus {
    fn from(record: ProcessServerRecord) -> Self {
        Self {
            address: record.address,
            health: record.health,
            reasons: record.reasons,
            measured: record.measured,
            agents: record.agents,
            processor_percent: record.processor_percent,
            memory_bytes_used: record.memory_bytes_used,
            memory_bytes_total: record.memory_bytes_total,
            disk_bytes_free: record.disk_bytes_free,
            disk_bytes_total: record.disk_bytes_total,
            cache_bytes_used: record.cache_bytes_used,
            cache_bytes_limit: record.cache_bytes_limit,
            backlog_age_seconds: record.backlog_age_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(agents: u32, level: Health) -> Seen {
        let streams = Streams { agents, cache: (agents.into(), 100), ..Streams::default() };
        let figures = Figures { space: (50, 100), streams: Some(streams), ..Figures::default() };
        Seen { time: Timestamp::now(), figures, levels: vec![(Measure::Cache, level)] }
    }

    #[test]
    fn figures_that_change_cost_no_revision_of_their_own() {
        let load = Load::default();
        assert_eq!(load.record(Some("a:9443"), None, true), None, "nothing was measured yet");
        load.set(seen(3, Health::Healthy));
        let first = load.record(Some("a:9443"), None, false).unwrap();
        assert_eq!((first.agents, first.health, first.address.as_str()), (3, Health::Healthy, "a:9443"));
        load.set(seen(4, Health::Healthy));
        assert_eq!(load.record(Some("a:9443"), Some(&first), false).as_ref(), Some(&first), "not for this");
        assert_eq!(load.record(Some("a:9443"), Some(&first), true).unwrap().agents, 4, "but with the report");
        assert_eq!(load.record(Some("b:9443"), Some(&first), false).unwrap().agents, 4, "or with another address");
        load.set(seen(5, Health::Critical));
        let worse = load.record(Some("a:9443"), Some(&first), false).unwrap();
        assert_eq!((worse.agents, worse.health, worse.reasons.len()), (5, Health::Critical, 1), "or another level");
        assert_eq!(load.record(None, Some(&first), true), None, "a gateway that is none any more");
    }

    #[test]
    fn a_backlog_is_held_against_what_the_policy_bears() {
        let of = |age, threshold| Backlog { age: Duration::from_secs(age), threshold: Duration::from_secs(threshold) };
        let streams = Streams { backlog: Some(of(90, 60)), ..Streams::default() };
        let figures = Figures { streams: Some(streams), ..Figures::default() };
        assert_eq!(figures.percent(Measure::Backlog), Some(150.0));
        assert_eq!(Figures { streams: Some(Streams::default()), ..figures }.percent(Measure::Backlog), Some(0.0));
        assert_eq!(Figures::default().percent(Measure::Backlog), None, "no process server, nothing to tell");
    }
}
