//! Checking a vault: every object proved, every claim that one object makes of another compared, and for each damage
//! what it costs.
//!
//! ```text
//! documents   vault/, keys/, catalog/: every revision's MAC, the chain of revisions
//! group       the listings of a group, its epochs and cuts, the order of its branches
//! history     one branch along its log: chain, cuts, indexes; the roots that points recorded against trees replayed
//! maps        map objects: every node; every node reachable from a head against what the log gives
//! rebuilt     what stands for segments that collecting garbage has rebuilt
//! data        frames: decrypted, every block hashed (with `read_data`)
//! lost        which blocks are unreadable at the position at hand, and what is to blame
//! local       the files of a state directory
//! report      what was found
//! ```
//! Reads only; nothing is repaired here. Segments are read in order, a few ahead, and folded at once: memory grows with the
//! longest listing of one branch and with what one map holds, not with the vault. References point backwards (a map
//! names older segments, a branch its parent), so one walk in that order knows of every damage before it comes to
//! whatever depends on it.
//!
//! **A vault that is written to meanwhile.** Maps are listed before the log, and the log before the epochs, so that
//! what one names is in the listing of the other. What is missing all the same is looked for once more before it is
//! reported: it may have landed, or been given up, since.

mod data;
mod documents;
mod group;
mod history;
pub mod local;
mod lost;
mod maps;
mod rebuilt;
mod report;
pub mod reveal;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_model::{BranchId, Extent, ExtentSet, GroupId, VolumeId};
use lifeboat_vault::{ObjectMeta, StoreClass, Vault, VaultError, VaultErrorKind};
use tokio_util::sync::CancellationToken;

use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};

use report::Verdict;
pub use report::{BranchReport, Cost, Damage, EXTENTS_MAX, Fault, GroupReport, LISTED_MAX, Note, PointName, Report};

/// Pauses before a request that failed is made again.
const PAUSES_MS: [u64; 3] = [100, 400, 1600];
/// So many requests that fail one after the other mean that the vault can't be reached.
const FAILURES_MAX: u64 = 16;

/// What is to be checked.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// This group only; everything when none.
    pub group: Option<GroupId>,
    /// Read every frame too, and hash every block: as many bytes as the vault has.
    pub read_data: bool,
    /// Ends the check early; what was found until then is reported.
    pub stop: CancellationToken,
}

/// How far a check is, for whoever watches. Totals grow while listings come in.
#[derive(Debug, Default)]
pub struct CheckProgress {
    objects: AtomicU64,
    total: AtomicU64,
    bytes: AtomicU64,
    damage: AtomicU64,
    stage: Mutex<String>,
}

impl CheckProgress {
    /// Objects looked at.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Objects known to be there.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed).max(self.objects())
    }

    /// Bytes read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Damages found.
    #[must_use]
    pub fn damage(&self) -> u64 {
        self.damage.load(Ordering::Relaxed)
    }

    /// What is being looked at.
    #[must_use]
    pub fn stage(&self) -> String {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Checks a vault. What could not be finished is said in the report; nothing is an error.
///
/// `broken` are documents that are known not to open, as [`Vault::open_soundest`] gives them.
pub async fn check_vault(
    vault: &Arc<Vault>,
    broken: &[(String, VaultError)],
    options: &CheckOptions,
    progress: &Arc<CheckProgress>,
) -> Report {
    let inquiry = Inquiry {
        vault: Arc::clone(vault),
        options: options.clone(),
        progress: Arc::clone(progress),
        failures: AtomicU64::new(0),
        findings: Mutex::default(),
    };
    let mut groups = Vec::new();
    let ended = inquiry.run(broken, &mut groups).await;
    inquiry.into_report(groups, ended.err())
}

/// One check: what it asks, and what it has found.
#[derive(Debug)]
struct Inquiry {
    vault: Arc<Vault>,
    options: CheckOptions,
    progress: Arc<CheckProgress>,
    failures: AtomicU64,
    findings: Mutex<Findings>,
}

#[derive(Debug, Default)]
struct Findings {
    damage: Vec<Damage>,
    damage_total: u64,
    notes: Vec<Note>,
    notes_total: u64,
    costs: HashMap<(usize, BranchId, Option<VolumeId>), Charge>,
    /// Damage of keys, by owner.
    keys: HashMap<String, usize>,
    /// Ids of the catalog's documents that aren't deleted.
    live: HashSet<String>,
    /// Names of groups whose garbage is collected: what is not there costs something only if a point needs it.
    collected: HashSet<String>,
}

/// A [`Cost`] that is still being added up.
#[derive(Debug)]
struct Charge {
    cost: Cost,
    extents: ExtentSet,
}

/// Something damaged, as whoever found it says it.
#[derive(Debug)]
struct Found<'a> {
    object: &'a str,
    kind: &'static str,
    fault: Fault,
    part: Option<String>,
    offset: Option<u64>,
    detail: String,
    consequence: Option<String>,
}

impl<'a> Found<'a> {
    fn new(object: &'a str, kind: &'static str, fault: Fault, detail: impl Into<String>) -> Self {
        Self { object, kind, fault, part: None, offset: None, detail: detail.into(), consequence: None }
    }

    fn verdict(object: &'a str, kind: &'static str, verdict: Verdict) -> Self {
        let part = verdict.part.map(str::to_owned);
        Self { part, ..Self::new(object, kind, verdict.fault, verdict.detail) }
    }

    fn costs(mut self, consequence: impl Into<String>) -> Self {
        self.consequence = Some(consequence.into());
        self
    }
}

impl Inquiry {
    async fn run(&self, broken: &[(String, VaultError)], groups: &mut Vec<GroupReport>) -> Result<()> {
        documents::check(self, broken).await?;
        let store = self.vault.store();
        for name in self.patiently(async || store.list_dirs("").await.map_err(cause::store)).await? {
            if !matches!(name.as_str(), "vault" | "keys" | "catalog" | "audit" | "groups") {
                self.note(&format!("{name}/"), "no part of a vault: left alone");
            }
        }
        for name in self.patiently(async || store.list_dirs("groups").await.map_err(cause::store)).await? {
            let Ok(group) = name.parse::<GroupId>() else {
                self.note(&format!("groups/{name}/"), "no name of a group: left alone");
                continue;
            };
            if self.options.group.is_none_or(|wanted| wanted == group) {
                groups.push(group::check(self, group).await?);
            }
        }
        Ok(())
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a damage down, and gives its number.
    fn damage(&self, found: Found<'_>) -> usize {
        let mut findings = self.findings();
        findings.damage_total = findings.damage_total.saturating_add(1);
        self.progress.damage.fetch_add(1, Ordering::Relaxed);
        let number = findings.damage.len();
        if number >= LISTED_MAX {
            // What comes past the list's end is counted, and its costs are charged to the last one on it.
            return number.saturating_sub(1);
        }
        let Found { object, kind, fault, part, offset, detail, consequence } = found;
        findings.damage.push(Damage {
            number,
            object: object.to_owned(),
            kind,
            fault,
            part,
            offset,
            detail,
            costs: Vec::new(),
            consequence,
        });
        number
    }

    fn note(&self, object: &str, text: impl Into<String>) {
        let mut findings = self.findings();
        findings.notes_total = findings.notes_total.saturating_add(1);
        if findings.notes.len() < LISTED_MAX {
            findings.notes.push(Note { object: object.to_owned(), text: text.into() });
        }
    }

    /// Charges a damage with a point that it spoils: the blocks of a volume, or the whole point.
    fn charge(
        &self,
        damage: usize,
        (group, branch): (GroupId, BranchId),
        volume: Option<VolumeId>,
        point: PointName,
        blocks: Option<&[Extent]>,
    ) {
        let mut findings = self.findings();
        let charge = findings.costs.entry((damage, branch, volume)).or_insert_with(|| Charge {
            cost: Cost {
                group,
                branch,
                volume,
                points: 0,
                first: point,
                last: point,
                blocks: 0,
                extents: Vec::new(),
                extents_total: 0,
            },
            extents: ExtentSet::new(),
        });
        charge.cost.points = charge.cost.points.saturating_add(1);
        charge.cost.last = point;
        // None: the same blocks as at the point before.
        if let Some(blocks) = blocks {
            blocks.iter().for_each(|extent| charge.extents.insert(*extent));
            let count = blocks.iter().map(|extent| extent.blocks).fold(0, u64::saturating_add);
            charge.cost.blocks = charge.cost.blocks.max(count);
        }
    }

    fn listed(&self, count: usize) {
        self.progress.total.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn looked_at(&self, bytes: u64) {
        self.progress.objects.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn stage(&self, text: String) {
        *self.progress.stage.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Makes a request again a few times when it fails for a reason that may pass.
    async fn patiently<T>(&self, request: impl AsyncFn() -> Result<T>) -> Result<T> {
        for pause in PAUSES_MS {
            if self.options.stop.is_cancelled() {
                return Err(EngineError::new(ErrorKind::Closed, "it was interrupted"));
            }
            match request().await {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                        () = self.options.stop.cancelled() => {}
                    }
                }
                done => return self.answered(done).await,
            }
        }
        self.answered(request().await).await
    }

    /// Ends the check when nothing is answered any more; a single object that can't be read doesn't.
    async fn answered<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Err(error) if error.kind().is_unanswered() => {
                if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES_MAX || self.is_reached().await {
                    return Err(error);
                }
                Err(EngineError::new(ErrorKind::Closed, format!("the vault can't be read: {error}")).with_source(error))
            }
            done => {
                self.failures.store(0, Ordering::Relaxed);
                done
            }
        }
    }

    /// Whether the vault answers at all: its own document is read, whatever it says.
    async fn is_reached(&self) -> bool {
        let answer = self.vault.refresh().await;
        let reached = !answer.is_err_and(|error| cause::vault(error).kind().is_unanswered());
        if reached {
            self.failures.store(0, Ordering::Relaxed);
        }
        reached
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let store = self.vault.store();
        self.patiently(async || store.list(prefix).await.map_err(cause::store)).await
    }

    /// Whether an object is there now.
    async fn is_there(&self, key: &str) -> Result<bool> {
        let store = self.vault.store();
        let found = self.patiently(async || store.head(key).await.map_err(cause::store)).await;
        match found {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A whole object; what a longer one than `max_bytes` holds is damage, and read all the same up to the limit.
    async fn get(&self, key: &str, size: u64, max_bytes: u64) -> Result<Read> {
        if size > max_bytes {
            return Ok(Read::TooLong);
        }
        let store = self.vault.store();
        let read = self.patiently(async || match store.get(key, max_bytes).await {
            Ok(bytes) => Ok(Read::Bytes(bytes)),
            Err(error) if error.class() == StoreClass::NotFound => Ok(Read::Gone),
            Err(error) => Err(cause::store(error)),
        });
        match read.await {
            Err(error) if error.kind().is_unanswered() => Ok(Read::Unreadable(error.to_string())),
            read => read,
        }
    }

    fn into_report(self, groups: Vec<GroupReport>, ended: Option<EngineError>) -> Report {
        let findings = self.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Findings { mut damage, mut damage_total, notes, notes_total, costs, collected, .. } = findings;
        let mut costs: Vec<_> = costs.into_iter().collect();
        costs.sort_by_key(|((number, branch, volume), _)| (*number, *branch, *volume));
        for ((number, ..), Charge { mut cost, extents }) in costs {
            cost.extents_total = u64::try_from(extents.iter().count()).unwrap_or(u64::MAX);
            cost.extents = extents.iter().take(EXTENTS_MAX).collect();
            if let Some(damage) = damage.get_mut(number) {
                damage.costs.push(cost);
            }
        }
        // Collecting garbage leaves maps that name what is gone: nobody starts from those any more.
        let before = damage.len();
        damage.retain(|found| !(found.costs.is_empty() && is_collected(found, &collected)));
        let gone = u64::try_from(before.saturating_sub(damage.len())).unwrap_or(u64::MAX);
        damage_total = damage_total.saturating_sub(gone);
        Report {
            sound: damage_total == 0,
            complete: ended.is_none(),
            incomplete_because: ended.map(|error| error.to_string()),
            vault: Some(self.vault.id()),
            read_data: self.options.read_data,
            objects: self.progress.objects(),
            bytes_read: self.progress.bytes(),
            damage,
            damage_total,
            notes,
            notes_total,
            groups,
        }
    }
}

/// Whether a missing object is one that collecting garbage deletes.
fn is_collected(found: &Damage, groups: &HashSet<String>) -> bool {
    let mut parts = found.object.split('/');
    let of = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some("groups"), Some(group), Some(_), Some("log" | "map")) = of else { return false };
    found.fault == Fault::Missing && groups.contains(group)
}

/// What reading an object gave.
#[derive(Debug)]
enum Read {
    Bytes(Bytes),
    /// Longer than any such object.
    TooLong,
    /// Not there any more.
    Gone,
    /// The storage doesn't give it back.
    Unreadable(String),
}

/// What an error of the vault crate says about an object.
fn of_vault(error: &VaultError) -> Fault {
    match error.kind() {
        VaultErrorKind::NewerFormat => Fault::NewerVersion,
        VaultErrorKind::NotFound => Fault::Missing,
        VaultErrorKind::WrongKey => Fault::WrongKey,
        VaultErrorKind::Retry | VaultErrorKind::Fatal | VaultErrorKind::Denied | VaultErrorKind::NoBucket => {
            Fault::Unreadable
        }
        _ => Fault::Authentication,
    }
}
