//! Notices: what people are told who don't look, through webhooks and by e-mail.
//!
//! ```text
//! events written down here ───────────────┐
//! conditions that last (watch): RPO,      ├─> one queue per channel, on disk ──> webhook: signed POST
//! health, certificates ── settled? once? ─┘      (notices.json)             └──> email: SMTP
//! ```
//! A notice is written to disk before anything is sent, and taken off once its channel has it: a crash loses none, and sends the one that
//! was under way a second time, with the same id. A channel sends in order and tries again after 5 s, twice as long each time, up to
//! 15 min. Its queue holds [`QUEUE_MAX`] notices: when it is full, the oldest goes, and is counted. What is configured is the operator's of
//! this machine; nobody can send anything through the API but a test of what is configured.

mod email;
mod kept;
mod send;
mod watch;
mod webhook;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_api::{NoticeChannel, NoticeTest};
use lifeboat_model::state::Health;
use lifeboat_model::{GroupId, JobId, Timestamp, VolumeId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::context::{Context, Happening};
use crate::state_dir::StateDir;
use kept::Kept;
pub(crate) use send::run;

/// Notices that wait in one channel's queue, at most.
pub(crate) const QUEUE_MAX: usize = 1000;
/// The file in the state directory.
pub(crate) const FILE: &str = "notices.json";
/// How long one try to send may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A channel that fails for so long is a reason not to be healthy.
const FAILING_FOR: Duration = Duration::from_secs(60);
/// The same happening is told once in this time: one that concerns several vaults is written down in each.
const SAME_FOR: Duration = Duration::from_secs(60);
const RECENT_MAX: usize = 64;

/// Whom a gateway tells, and when.
#[derive(Clone, Debug)]
pub struct NoticeSettings {
    /// The ways to people.
    pub channels: Vec<ChannelSettings>,
    /// How long a condition lasts before it is told, and is gone before its end is.
    pub settle: Duration,
    /// After how long one that lasts is told again; never when absent.
    pub remind_after: Option<Duration>,
}

impl Default for NoticeSettings {
    fn default() -> Self {
        Self { channels: Vec::new(), settle: Duration::from_secs(30), remind_after: None }
    }
}

/// One way to people.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    /// Its name, unique.
    pub name: String,
    /// How it is reached.
    pub means: Means,
    /// What is less severe is not told.
    pub severity: Health,
    /// Kinds, or beginnings of kinds that end with a dot; everything when empty.
    pub kinds: Vec<String>,
}

/// How a channel is reached.
#[derive(Clone, Debug)]
pub enum Means {
    /// A POST of JSON.
    Webhook(WebhookSettings),
    /// A mail.
    Email(EmailSettings),
}

/// Where notices are posted to.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// `https://…`; `http://…` only where that is allowed.
    pub url: String,
    /// What the signature is made with.
    pub secret: SecretString,
    /// Authorities that are trusted instead of the system's, PEM.
    pub ca: Option<PathBuf>,
}

/// Whom mails go to.
#[derive(Clone, Debug)]
pub struct EmailSettings {
    /// The mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the line is protected.
    pub security: SmtpSecurity,
    /// Name and password.
    pub login: Option<(String, SecretString)>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
    /// Authorities that are trusted instead of the system's, PEM.
    pub ca: Option<PathBuf>,
}

/// How a line to a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// TLS after STARTTLS; nothing is sent without.
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// Not at all.
    None,
}

impl Means {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Email(_) => "email",
        }
    }
}

impl ChannelSettings {
    fn wants(&self, notice: &Notice) -> bool {
        let fits =
            |kind: &String| *kind == notice.kind || (kind.ends_with('.') && notice.kind.starts_with(kind.as_str()));
        notice.severity >= self.severity && (self.kinds.is_empty() || self.kinds.iter().any(fits))
    }
}

/// What a notice says of what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NoticeState {
    /// It happened, and is over.
    Happened,
    /// It began, or its severity changed.
    Raised,
    /// It lasts.
    Reminder,
    /// It is over.
    Cleared,
    /// Nothing: somebody tries the channel.
    Test,
}

impl NoticeState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Happened => "happened",
            Self::Raised => "raised",
            Self::Reminder => "reminder",
            Self::Cleared => "cleared",
            Self::Test => "test",
        }
    }
}

/// A notice, as it is sent: its fields are promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// Of this form: 1.
    pub(crate) version: u32,
    /// The same when it is sent again.
    pub(crate) id: String,
    /// The same in all notices of one condition, from its beginning to its end.
    pub(crate) occurrence: String,
    pub(crate) time: Timestamp,
    pub(crate) state: NoticeState,
    pub(crate) kind: String,
    pub(crate) severity: Health,
    pub(crate) message: String,
    /// The name of the gateway that tells.
    pub(crate) gateway: String,
    pub(crate) site: Option<String>,
    pub(crate) group: Option<GroupId>,
    pub(crate) volume: Option<VolumeId>,
    pub(crate) job: Option<JobId>,
}

impl Notice {
    fn new(context: &Context, state: NoticeState, kind: &str, severity: Health, message: String) -> Self {
        let id = fresh();
        Self {
            version: 1,
            occurrence: id.clone(),
            id,
            time: Timestamp::now(),
            state,
            kind: kind.to_owned(),
            severity,
            message,
            gateway: context.settings.name.clone(),
            site: context.settings.site.clone(),
            group: None,
            volume: None,
            job: None,
        }
    }
}

fn fresh() -> String {
    format!("ntc-{}", uuid::Uuid::now_v7().simple())
}

/// How a channel does.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChannelFigures {
    pub(crate) name: String,
    pub(crate) means: &'static str,
    pub(crate) waiting: u64,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) dropped: u64,
    pub(crate) last_sent: Option<Timestamp>,
    pub(crate) failing_since: Option<Timestamp>,
    pub(crate) error: Option<String>,
}

#[derive(Debug)]
struct Channel {
    settings: ChannelSettings,
    wake: Notify,
    sent: AtomicU64,
    failed: AtomicU64,
    /// Since when, and why.
    trouble: Mutex<Option<(Timestamp, String)>>,
}

/// Whom this gateway tells, and what it still has to.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    settings: NoticeSettings,
    channels: Vec<Arc<Channel>>,
    kept: Mutex<Kept>,
    recent: Mutex<VecDeque<(Timestamp, String, String)>>,
}

impl Notices {
    /// Goes on with what an earlier life of this gateway hadn't sent. Without channels nothing is kept.
    pub(crate) fn open(state: &StateDir, settings: NoticeSettings) -> Self {
        let channels = settings.channels.iter().map(|channel| {
            Arc::new(Channel {
                settings: channel.clone(),
                wake: Notify::new(),
                sent: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                trouble: Mutex::default(),
            })
        });
        let channels: Vec<_> = channels.collect();
        let kept = if channels.is_empty() { Kept::default() } else { Kept::read(state, &settings.channels) };
        Self { settings, channels, kept: Mutex::new(kept), recent: Mutex::default() }
    }

    fn change<T>(&self, state: &StateDir, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.clone();
        let answer = change(&mut kept);
        // Where nobody is told, nothing is owed.
        if *kept != before && !self.channels.is_empty() {
            kept.write(state);
        }
        answer
    }

    /// Queues notices for every channel that wants them.
    fn queue(&self, kept: &mut Kept, notices: &[Notice]) {
        for channel in &self.channels {
            for notice in notices.iter().filter(|notice| channel.settings.wants(notice)) {
                kept.queue(&channel.settings.name, notice.clone());
                channel.wake.notify_one();
            }
        }
    }

    /// An event was written down here.
    pub(crate) fn happened(&self, context: &Context, event: &Happening) {
        // What lasts is watched for and told with its end.
        if self.channels.is_empty() || watch::KINDS.contains(&event.kind) || self.is_told(event) {
            return;
        }
        let mut notice = Notice::new(context, NoticeState::Happened, event.kind, event.severity, event.message.clone());
        (notice.group, notice.volume, notice.job) = (event.group, event.volume, event.job);
        self.change(&context.state, |kept| self.queue(kept, &[notice]));
    }

    fn is_told(&self, event: &Happening) -> bool {
        let now = Timestamp::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(at, ..)| now.seconds_since(*at).abs() < SAME_FOR.as_secs_f64());
        let told = recent.iter().any(|(_, kind, message)| kind == event.kind && *message == event.message);
        if !told {
            recent.truncate(RECENT_MAX - 1);
            recent.push_front((now, event.kind.to_owned(), event.message.clone()));
        }
        told
    }

    /// How each channel does.
    pub(crate) fn channels(&self) -> Vec<ChannelFigures> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = self.channels.iter().map(|channel| {
            let queue = kept.channel(&channel.settings.name);
            let trouble = channel.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ChannelFigures {
                name: channel.settings.name.clone(),
                means: channel.settings.means.as_str(),
                waiting: queue.map_or(0, |queue| queue.waiting.len() as u64),
                dropped: queue.map_or(0, |queue| queue.dropped),
                last_sent: queue.and_then(|queue| queue.last_sent),
                sent: channel.sent.load(Ordering::Relaxed),
                failed: channel.failed.load(Ordering::Relaxed),
                failing_since: trouble.as_ref().map(|(since, _)| *since),
                error: trouble.map(|(_, error)| error),
            }
        });
        figures.collect()
    }

    /// The same for the API.
    pub(crate) fn shown(&self) -> Vec<NoticeChannel> {
        let shown = self.channels().into_iter().map(|found| NoticeChannel {
            name: found.name,
            means: found.means.to_owned(),
            waiting: found.waiting,
            dropped: found.dropped,
            last_sent: found.last_sent,
            failing_since: found.failing_since,
            error: found.error,
        });
        shown.collect()
    }

    /// What is wrong with channels.
    pub(crate) fn troubles(&self) -> Vec<(Health, String)> {
        let now = Timestamp::now();
        let long = |since: Timestamp| now.seconds_since(since) >= FAILING_FOR.as_secs_f64();
        let failing = self.channels().into_iter().filter_map(|found| {
            let since = found.failing_since.filter(|since| long(*since))?;
            let error = found.error.unwrap_or_default();
            Some((
                Health::Warning,
                format!("nobody is told through the notice channel {} since {since}: {error}", found.name),
            ))
        });
        failing.collect()
    }

    /// Sends a test through each channel, past its queue.
    pub(crate) async fn test(&self, context: &Context) -> Vec<NoticeTest> {
        let message = format!("a test of the notices of the gateway {}: nothing has happened", context.settings.name);
        let tests = self.channels.iter().map(|channel| {
            let notice = Notice::new(context, NoticeState::Test, "notice.test", Health::Healthy, message.clone());
            async move {
                let sent = send::once(&channel.settings, &notice).await;
                channel.note(&sent);
                NoticeTest {
                    channel: channel.settings.name.clone(),
                    id: notice.id,
                    sent: sent.is_ok(),
                    error: sent.err(),
                }
            }
        });
        futures::future::join_all(tests).await
    }
}

impl Channel {
    /// What came of a try.
    fn note(&self, sent: &Result<(), String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(()) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
                *trouble = None;
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let since = trouble.as_ref().map_or_else(Timestamp::now, |(since, _)| *since);
                *trouble = Some((since, error.clone()));
            }
        }
    }
}
