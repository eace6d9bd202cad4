//! Gateways that say nothing any more: an alarm, once for each level, told by one of those that are still there.
//!
//! ```text
//! reports every 20 s ── none for SILENCE_WARNING ──> warning ── none for SILENCE_MAX ──> critical ── its own next report ──> heard
//! ```
//! How long another gateway has been silent is counted by this gateway's clock, and only while it reads the catalog itself: neither
//! clocks that differ nor an outage of the vault make one look dead. That it was told stands in the silent gateway's document, by
//! compare and swap, so that it is told once however many gateways there are, and stays told over their restarts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_model::state::Health;
use lifeboat_model::{GatewayId, Timestamp};
use lifeboat_vault::VaultError;

use crate::context::{Context, Happening};
use crate::records::{GatewayRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view::{SILENCE_MAX, SILENCE_WARNING};

/// A stretch between two looks counts for no more than this: whatever is beyond it, this gateway itself was away.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// How long gateways have said nothing, as far as was seen here.
#[derive(Debug, Default)]
pub(crate) struct Silences(Mutex<HashMap<GatewayId, Silence>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silence {
    /// What it said last.
    last: Option<Timestamp>,
    /// For how long nothing else.
    lasted: Duration,
    looked: Instant,
}

impl Silence {
    fn begin(last: Option<Timestamp>, now: Instant) -> Self {
        Self { last, lasted: Duration::ZERO, looked: now }
    }

    /// Looks again.
    fn look(self, last: Option<Timestamp>, now: Instant) -> Self {
        if self.last != last {
            return Self::begin(last, now);
        }
        let since = now.saturating_duration_since(self.looked).min(LOOK_MAX);
        Self { lasted: self.lasted + since, looked: now, ..self }
    }

    fn level(&self) -> Health {
        match self.lasted {
            lasted if lasted >= SILENCE_MAX => Health::Critical,
            lasted if lasted >= SILENCE_WARNING => Health::Warning,
            _ => Health::Healthy,
        }
    }
}

impl Silences {
    fn look(&self, gateway: GatewayId, last: Option<Timestamp>) -> Health {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.entry(gateway).or_insert_with(|| Silence::begin(last, now));
        *found = found.look(last, now);
        found.level()
    }
}

/// Tells of gateways that have become silent, or more so.
pub(super) async fn look(context: &Context, attached: &AttachedVault, snapshot: &Snapshot) {
    let Some(own) = context.own_gateway(attached) else { return };
    for document in snapshot.of(kind::GATEWAYS) {
        let record: GatewayRecord = status(document);
        let Ok(id) = document.id.parse::<GatewayId>() else { continue };
        if record.agent || record.process_id.is_none() || id == own {
            continue;
        }
        let level = context.silences.look(id, record.last_seen);
        if level <= record.silence.unwrap_or_default() {
            continue;
        }
        match note(attached, &document.id, &record, level).await {
            Ok(true) => {
                let seen = record.last_seen.map_or_else(|| "never".to_owned(), |seen| seen.to_string());
                let message = format!(
                    "the gateway {} says nothing any more (last heard of: {seen}): see whether its process runs and reaches the vault",
                    document.name
                );
                let event = Happening { severity: level, kind: "gateway.silent", message, ..Happening::default() };
                context.event(attached, event).await;
                context.notify_watchers();
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(gateway = document.name, %error, "its silence can't be told"),
        }
    }
}

/// Whether it was this gateway that wrote it down.
async fn note(attached: &AttachedVault, id: &str, known: &GatewayRecord, level: Health) -> Result<bool, VaultError> {
    let vault = attached.vault()?;
    let mut told = false;
    vault
        .catalog()
        .update_status(kind::GATEWAYS, id, &mut |found| {
            let mut found: GatewayRecord = status(found);
            told = found.last_seen == known.last_seen && found.silence.unwrap_or_default() < level;
            found.silence = Some(level);
            told.then(|| serde_json::to_value(&found).ok()).flatten()
        })
        .await?;
    attached.refresh().await?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_only_while_somebody_listens() {
        let begun = Instant::now();
        let at = |second: u64| begun + Duration::from_secs(second);
        let last = Some(Timestamp::from_micros(7));
        let listen = |mut silence: Silence, from: u64, to: u64| {
            for second in (from..=to).step_by(2) {
                silence = silence.look(last, at(second));
            }
            silence
        };
        let silence = listen(Silence::begin(last, at(0)), 2, 58);
        assert_eq!(silence.level(), Health::Healthy);
        let silence = listen(silence, 60, 62);
        assert_eq!(silence.level(), Health::Warning);
        // The vault was away for an hour: who else was silent then is not known.
        let silence = silence.look(last, at(3662));
        assert_eq!(silence.level(), Health::Warning);
        let silence = listen(silence, 3664, 3712);
        assert_eq!(silence.level(), Health::Critical);
        assert_eq!(silence.look(Some(Timestamp::from_micros(8)), at(3714)).level(), Health::Healthy, "it spoke");
    }
}
