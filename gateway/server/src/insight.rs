//! What writes look like, kept in the vault, and what is said about it.
//!
//! ```text
//! engine: ledger of a branch ──every 5 minutes, and when something begins to look encrypted──> catalog: insights/BRANCH
//!                            <─put back after a restart, or at another gateway───────────────┘
//! ```
//! A document for each branch, whose revisions the catalog prunes; nothing is written while nothing is. A crash loses what
//! was measured since the last one, five minutes at most, and the ledger has a gap there. Each suspicion becomes an event
//! `volume.suspicious` once: the document says which ones did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_api::WrittenBefore;
use lifeboat_engine::insight::{Entry, Ledger, Measure, Suggestion, Suspicion, suggest, suspicions};
use lifeboat_model::state::Health;
use lifeboat_model::{BLOCK_SIZE_U64, BranchId, GroupId, Lsn, Timestamp, VolumeId};
use lifeboat_vault::{Vault, VaultError, VaultErrorKind};
use serde::{Deserialize, Serialize};

use crate::context::{Context, Happening};
use crate::port::{Instance, PointFact};
use crate::records::kind;
use crate::vaults::AttachedVault;

/// The documents' kind. No gateway keeps a copy of them.
const INSIGHTS: &str = "insights";
/// Time between two revisions while things are quiet.
const KEEP_EVERY: Duration = Duration::from_secs(300);
/// How long a suspicion is a reason to be less than healthy.
const WARN_SECONDS: f64 = 24.0 * 3600.0;

/// What the document of a branch says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    ledger: Ledger,
    /// Which suspicions are events already: volume and beginning.
    announced: Vec<(VolumeId, Timestamp)>,
}

/// What is known of the documents of the branches that are written here.
#[derive(Debug, Default)]
pub(crate) struct Insights(Mutex<HashMap<BranchId, Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    at: Instant,
    /// How far the document goes.
    lsn: Lsn,
    announced: Vec<(VolumeId, Timestamp)>,
}

impl Insights {
    fn get(&self, branch: BranchId) -> Option<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&branch).cloned()
    }

    fn set(&self, branch: BranchId, kept: Kept) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(branch, kept);
    }
}

fn end(ledger: &Ledger) -> Lsn {
    ledger.entries().last().map_or(Lsn::ZERO, |last| last.lsn)
}

/// Keeps what this gateway's groups in a vault measured, as far as it is due, or in any case.
pub(crate) async fn keep(context: &Context, attached: &AttachedVault, in_any_case: bool) {
    let Ok(vault) = attached.vault() else { return };
    for ((group, _), open) in context.instances.all() {
        let here = attached.snapshot().get(kind::GROUPS, &group.to_string()).map(|document| document.name.clone());
        let Some(name) = here else { continue };
        if let Err(error) = keep_one(context, attached, &vault, (group, &name), &open.instance, in_any_case).await {
            tracing::debug!(%group, %error, "what was measured can't be kept now: it is tried again");
        }
    }
}

async fn keep_one(
    context: &Context,
    attached: &AttachedVault,
    vault: &Vault,
    (group, name): (GroupId, &str),
    instance: &Arc<dyn Instance>,
    in_any_case: bool,
) -> Result<(), VaultError> {
    let Some((branch, _)) = instance.insight() else { return Ok(()) };
    let kept = match context.insights.get(branch) {
        Some(kept) => kept,
        None => {
            let found = read(vault, branch).await?.unwrap_or_default();
            let kept = Kept { at: Instant::now(), lsn: end(&found.ledger), announced: found.announced };
            instance.restore_insight(branch, found.ledger);
            context.insights.set(branch, kept.clone());
            kept
        }
    };
    let Some((still, ledger)) = instance.insight() else { return Ok(()) };
    if still != branch {
        return Ok(());
    }
    let fresh: Vec<Suspicion> =
        suspicions(&ledger).into_iter().filter(|found| !is_announced(&kept.announced, found)).collect();
    let due = end(&ledger) > kept.lsn && (in_any_case || kept.at.elapsed() >= KEEP_EVERY);
    if !due && fresh.is_empty() {
        return Ok(());
    }
    let mut announced = kept.announced;
    announced.extend(fresh.iter().map(|found| (found.volume, found.since)));
    let lsn = end(&ledger);
    write(vault, branch, name, Record { ledger, announced: announced.clone() }).await?;
    context.insights.set(branch, Kept { at: Instant::now(), lsn, announced });
    for found in fresh {
        announce(context, attached, (group, name), &found).await;
    }
    Ok(())
}

/// Whether a suspicion is an event already. Its beginning may be found to be earlier than it was thought at first.
fn is_announced(announced: &[(VolumeId, Timestamp)], found: &Suspicion) -> bool {
    announced.iter().any(|(volume, at)| *volume == found.volume && *at >= found.since && *at <= found.until)
}

async fn read(vault: &Vault, branch: BranchId) -> Result<Option<Record>, VaultError> {
    match vault.catalog().get(INSIGHTS, &branch.to_string()).await {
        Ok(document) => Ok(Some(document.status_as().unwrap_or_default())),
        Err(error) if error.kind() == VaultErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn write(vault: &Vault, branch: BranchId, name: &str, record: Record) -> Result<(), VaultError> {
    let Ok(status) = serde_json::to_value(record) else { return Ok(()) };
    let (catalog, id) = (vault.catalog(), branch.to_string());
    match catalog.update_status(INSIGHTS, &id, &mut |_| Some(status.clone())).await {
        Err(error) if error.kind() == VaultErrorKind::NotFound => {
            catalog.create(INSIGHTS, &id, name, serde_json::json!({}), status).await.map(drop)
        }
        done => done.map(drop),
    }
}

async fn announce(context: &Context, attached: &AttachedVault, (group, name): (GroupId, &str), found: &Suspicion) {
    let said = sentence(volume_name(attached, found.volume), found);
    let event = Happening {
        severity: Health::Warning,
        kind: "volume.suspicious",
        message: format!("{}: `lifeboat point suggest --group {name}` says what is older", said),
        group: Some(group),
        volume: Some(found.volume),
        ..Happening::default()
    };
    context.event(attached, event).await;
}

/// What is suspected, in a sentence.
fn sentence(name: Option<String>, found: &Suspicion) -> String {
    let name = name.unwrap_or_else(|| found.volume.to_string());
    format!(
        "the volume {name} looks as if it was being encrypted since {} (about {} MiB turned random, confidence {})",
        found.since,
        found.bytes >> 20,
        found.confidence.as_str()
    )
}

pub(crate) fn volume_name(attached: &AttachedVault, volume: VolumeId) -> Option<String> {
    attached.snapshot().get(kind::VOLUMES, &volume.to_string()).map(|document| document.name.clone())
}

/// What is suspected of volumes lately, as reasons to be less than healthy.
pub(crate) fn reasons(context: &Context, found: &[Suspicion]) -> Vec<String> {
    let now = Timestamp::now();
    let lately = found.iter().filter(|found| now.seconds_since(found.until) < WARN_SECONDS);
    let vaults = context.vaults.all();
    let name = |volume| vaults.iter().find_map(|attached| volume_name(attached, volume));
    lately.map(|found| sentence(name(found.volume), found)).collect()
}

/// What was measured of a branch: what was kept, and what an instance here has measured since.
async fn whole(context: &Context, vault: &Vault, group: GroupId, branch: BranchId) -> Result<Ledger, VaultError> {
    let kept = read(vault, branch).await?.unwrap_or_default().ledger;
    let own = context.instances.of(group).into_iter().filter_map(|(_, open)| open.instance.insight());
    let mut ledger = own.into_iter().find(|(id, _)| *id == branch).map(|(_, ledger)| ledger).unwrap_or_default();
    ledger.put_before(kept);
    Ok(ledger)
}

/// What was written of each volume in the interval that ends with a point, where it was measured.
///
/// # Errors
/// The vault can't be read.
pub(crate) async fn before(
    context: &Context,
    vault: &Vault,
    group: GroupId,
    point: &PointFact,
) -> Result<Vec<(VolumeId, WrittenBefore)>, VaultError> {
    let ledger = whole(context, vault, group, point.branch).await?;
    let covers = |entry: &&Entry| entry.from < point.time && point.time <= entry.until;
    let Some(entry) = ledger.entries().iter().find(covers) else { return Ok(Vec::new()) };
    let share =
        |part: u64, measure: &Measure| if measure.sampled == 0 { 0.0 } else { part as f64 / measure.sampled as f64 };
    let shown = entry.volumes.iter().map(|(volume, measure)| {
        let written = WrittenBefore {
            since: entry.from,
            until: entry.until,
            bytes: measure.written.saturating_mul(BLOCK_SIZE_U64),
            random: share(measure.random, measure),
            dense: share(measure.dense, measure),
            rewritten: share(measure.rewritten, measure),
        };
        (*volume, written)
    });
    Ok(shown.collect())
}

/// The point to recover from: what was measured on the branches of the points counts, what was kept and what an instance
/// here has measured since.
///
/// # Errors
/// The vault can't be read.
pub(crate) async fn suggestion(
    context: &Context,
    vault: &Vault,
    group: GroupId,
    points: &[PointFact],
) -> Result<Suggestion<PointFact>, VaultError> {
    let mut branches: Vec<(BranchId, Lsn)> = Vec::new();
    for point in points {
        match branches.last_mut() {
            Some((branch, lsn)) if *branch == point.branch => *lsn = point.lsn,
            _ => branches.push((point.branch, point.lsn)),
        }
    }
    let newest = branches.last().map(|(branch, _)| *branch);
    let mut history = Ledger::default();
    for (branch, until) in branches {
        let mut ledger = whole(context, vault, group, branch).await?;
        if Some(branch) != newest {
            // What was written behind a fork is no part of this history.
            ledger.cut(until);
        }
        ledger.put_before(history);
        history = ledger;
    }
    Ok(suggest(points, |point| point.time, &history))
}
