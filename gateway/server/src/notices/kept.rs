//! What is kept of notices over restarts: queues, and the conditions that were told. `notices.json` in the state directory,
//! version 1; a file that can't be read is set aside, and said.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lifeboat_model::state::Health;
use lifeboat_model::{GroupId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ChannelSettings, FILE, Notice, NoticeState, QUEUE_MAX};
use crate::state_dir::StateDir;

const VERSION: u32 = 1;
/// One condition is told as raised so often within [`FLAP_WINDOW`], and no more.
const FLAP_MAX: usize = 5;
const FLAP_WINDOW: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    #[serde(default)]
    channels: BTreeMap<String, Queue>,
    #[serde(default)]
    conditions: BTreeMap<String, Lasting>,
    /// When conditions were raised within the last hour.
    #[serde(default)]
    raised: BTreeMap<String, Vec<Timestamp>>,
}

/// What a channel has still to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Notice>,
    #[serde(default)]
    pub(super) dropped: u64,
    #[serde(default)]
    pub(super) last_sent: Option<Timestamp>,
}

/// A condition as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// What it is about: the same as long as it is the same.
    pub(super) key: String,
    pub(super) kind: &'static str,
    pub(super) severity: Health,
    pub(super) message: String,
    /// What is said when it is over.
    pub(super) over: String,
    pub(super) group: Option<GroupId>,
}

/// A condition that lasts, or has lasted until a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lasting {
    kind: String,
    severity: Health,
    over: String,
    group: Option<GroupId>,
    /// Since when it has been there with this severity.
    since: Timestamp,
    /// Since when it hasn't been there.
    gone: Option<Timestamp>,
    /// What was told of it.
    told: Option<Told>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    occurrence: String,
    severity: Health,
    last: Timestamp,
}

/// When things are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    pub(super) settle: Duration,
    pub(super) remind_after: Option<Duration>,
}

impl Kept {
    pub(super) fn read(state: &StateDir, channels: &[ChannelSettings]) -> Self {
        let found = match state.secret(FILE) {
            Ok(None) => return Self { version: VERSION, ..Self::default() },
            Ok(Some(text)) => serde_json::from_slice::<Self>(&text).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match found {
            Ok(mut kept) if kept.version == VERSION => {
                // A channel that is configured no more takes its queue along.
                kept.channels.retain(|name, _| channels.iter().any(|channel| channel.name == *name));
                kept
            }
            found => {
                let why =
                    found.map_or_else(|error| format!("{error:#}"), |kept| format!("it has version {}", kept.version));
                tracing::error!(
                    file = FILE,
                    why,
                    "notices that were not sent can't be read: the file is set aside, and they are not sent"
                );
                let path = state.path().join(FILE);
                if let Err(error) = std::fs::rename(&path, path.with_extension("unreadable")) {
                    tracing::warn!(%error, "it can't be set aside");
                }
                Self { version: VERSION, ..Self::default() }
            }
        }
    }

    pub(super) fn write(&self, state: &StateDir) {
        let written = serde_json::to_vec(self).map_err(anyhow::Error::from);
        if let Err(error) = written.and_then(|text| state.write_secret(FILE, &text)) {
            tracing::error!(
                error = format!("{error:#}"),
                "notices can't be kept: a restart would lose those not yet sent"
            );
        }
    }

    pub(super) fn channel(&self, name: &str) -> Option<&Queue> {
        self.channels.get(name)
    }

    /// Puts a notice at the end of a queue; the oldest goes when it is full.
    pub(super) fn queue(&mut self, channel: &str, notice: Notice) {
        let queue = self.channels.entry(channel.to_owned()).or_default();
        while queue.waiting.len() >= QUEUE_MAX {
            queue.waiting.pop_front();
            queue.dropped += 1;
        }
        queue.waiting.push_back(notice);
    }

    /// A channel has a notice.
    pub(super) fn sent(&mut self, channel: &str, id: &str, now: Timestamp) {
        let Some(queue) = self.channels.get_mut(channel) else { return };
        queue.waiting.retain(|notice| notice.id != id);
        queue.last_sent = Some(now);
    }

    /// Compares what is found with what was told; gives what is to be told now. `blank` makes a notice of this gateway.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        found: &[Condition],
        manners: Manners,
        blank: &dyn Fn(NoticeState, &str, Health, String) -> Notice,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let settled = |since: Timestamp| now.seconds_since(since) >= manners.settle.as_secs_f64();
        for times in self.raised.values_mut() {
            times.retain(|at| now.seconds_since(*at) < FLAP_WINDOW.as_secs_f64());
        }
        self.raised.retain(|_, times| !times.is_empty());
        for condition in found {
            let lasting = self.conditions.entry(condition.key.clone()).or_insert_with(|| Lasting {
                kind: condition.kind.to_owned(),
                severity: condition.severity,
                over: condition.over.clone(),
                group: condition.group,
                since: now,
                gone: None,
                told: None,
            });
            lasting.gone = None;
            lasting.over.clone_from(&condition.over);
            if lasting.severity != condition.severity {
                (lasting.severity, lasting.since) = (condition.severity, now);
            }
            let news = lasting.told.as_ref().is_none_or(|told| told.severity != lasting.severity);
            let raised = self.raised.get(&condition.key).map_or(0, Vec::len);
            let due = |told: &Told| {
                manners.remind_after.is_some_and(|after| now.seconds_since(told.last) >= after.as_secs_f64())
            };
            let (state, message) = if news && settled(lasting.since) && raised < FLAP_MAX {
                let last = raised + 1 == FLAP_MAX;
                self.raised.entry(condition.key.clone()).or_default().push(now);
                let flaps = "; it comes and goes, and its next beginnings are not told for up to an hour";
                (NoticeState::Raised, format!("{}{}", condition.message, if last { flaps } else { "" }))
            } else if !news && lasting.told.as_ref().is_some_and(due) {
                (NoticeState::Reminder, condition.message.clone())
            } else {
                continue;
            };
            let mut notice = blank(state, &lasting.kind, lasting.severity, message);
            notice.group = lasting.group;
            if let Some(told) = &lasting.told {
                notice.occurrence.clone_from(&told.occurrence);
            }
            lasting.told = Some(Told { occurrence: notice.occurrence.clone(), severity: lasting.severity, last: now });
            notices.push(notice);
        }
        self.conditions.retain(|key, lasting| {
            if found.iter().any(|condition| condition.key == *key) {
                return true;
            }
            let gone = *lasting.gone.get_or_insert(now);
            let Some(told) = &lasting.told else { return false };
            if !settled(gone) {
                return true;
            }
            let mut notice = blank(NoticeState::Cleared, &lasting.kind, told.severity, lasting.over.clone());
            notice.group = lasting.group;
            notice.occurrence.clone_from(&told.occurrence);
            notices.push(notice);
            false
        });
        notices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANNERS: Manners = Manners { settle: Duration::from_secs(30), remind_after: Some(Duration::from_secs(3600)) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
    }

    fn blank(state: NoticeState, kind: &str, severity: Health, message: String) -> Notice {
        let id = super::super::fresh();
        Notice {
            version: 1,
            occurrence: id.clone(),
            id,
            time: at(0),
            state,
            kind: kind.to_owned(),
            severity,
            message,
            gateway: "gw".to_owned(),
            site: None,
            group: None,
            volume: None,
            job: None,
        }
    }

    fn exceeded(severity: Health) -> Condition {
        Condition {
            key: "group.rpo/1".to_owned(),
            kind: "group.rpo",
            severity,
            message: "too long".to_owned(),
            over: "in bounds".to_owned(),
            group: None,
        }
    }

    fn look(kept: &mut Kept, second: i64, found: &[Condition]) -> Vec<(NoticeState, String)> {
        let told = kept.look(at(second), found, MANNERS, &blank);
        told.into_iter().map(|notice| (notice.state, notice.occurrence)).collect()
    }

    #[test]
    fn what_lasts_is_told_once_reminded_of_and_its_end_is_told() {
        let (mut kept, there) = (Kept::default(), [exceeded(Health::Warning)]);
        assert_eq!(look(&mut kept, 0, &there), vec![]);
        assert_eq!(look(&mut kept, 29, &there), vec![], "it may pass");
        let raised = look(&mut kept, 30, &there);
        let [(NoticeState::Raised, occurrence)] = raised.as_slice() else { panic!("{raised:?}") };
        // A restart in between changes nothing.
        let text = serde_json::to_vec(&kept).unwrap();
        let mut kept: Kept = serde_json::from_slice(&text).unwrap();
        assert_eq!(look(&mut kept, 600, &there), vec![]);
        assert_eq!(look(&mut kept, 3630, &there), vec![(NoticeState::Reminder, occurrence.clone())]);
        assert_eq!(look(&mut kept, 3700, &[]), vec![]);
        assert_eq!(look(&mut kept, 3710, &there), vec![], "it wasn't gone for long");
        assert_eq!(look(&mut kept, 3720, &[]), vec![]);
        assert_eq!(look(&mut kept, 3750, &[]), vec![(NoticeState::Cleared, occurrence.clone())]);
        assert_eq!(look(&mut kept, 4000, &[]), vec![]);
    }

    #[test]
    fn a_change_of_severity_is_told_and_what_passes_is_not() {
        let mut kept = Kept::default();
        assert_eq!(look(&mut kept, 0, &[exceeded(Health::Warning)]), vec![]);
        assert_eq!(look(&mut kept, 10, &[]), vec![], "it passed, and nobody knows");
        for second in [20, 50] {
            look(&mut kept, second, &[exceeded(Health::Warning)]);
        }
        assert_eq!(look(&mut kept, 60, &[exceeded(Health::Critical)]), vec![]);
        let worse = look(&mut kept, 90, &[exceeded(Health::Critical)]);
        assert!(matches!(worse.as_slice(), [(NoticeState::Raised, _)]), "{worse:?}");
    }

    #[test]
    fn what_comes_and_goes_is_told_five_times_an_hour() {
        let (mut kept, mut raised) = (Kept::default(), 0);
        for round in 0..20 {
            for (offset, there) in [(0, true), (30, true), (60, false), (90, false)] {
                let found = if there { vec![exceeded(Health::Warning)] } else { vec![] };
                let told = look(&mut kept, round * 120 + offset, &found);
                raised += told.iter().filter(|(state, _)| *state == NoticeState::Raised).count();
            }
        }
        assert_eq!(raised, 5);
    }

    #[test]
    fn a_full_queue_gives_its_oldest_up() {
        let mut kept = Kept::default();
        for number in 0..QUEUE_MAX + 3 {
            kept.queue("ops", blank(NoticeState::Happened, "x", Health::Warning, number.to_string()));
        }
        let queue = kept.channel("ops").unwrap();
        assert_eq!((queue.waiting.len(), queue.dropped), (QUEUE_MAX, 3));
        assert_eq!(queue.waiting.front().unwrap().message, "3");
    }
}
