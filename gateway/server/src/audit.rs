//! The audit log as this gateway writes it: who asked for what, from where, and how it was answered.
//!
//! ```text
//! request that changes something ── asked: waits until it is in a vault ──> handler ──> answer ── answered: with the next batch
//!                                      └─ no vault takes it: the request is refused and nothing is done
//! ```
//! So nothing is changed that nobody was written down for. Records of requests at the same time share an object. What needn't be
//! waited for (answers, refusals) is kept in memory until the next batch, up to [`KEPT_MAX`]; a crash forgets those, and a record
//! without an answer says so itself. Every attached vault has the whole of it: a gateway with several vaults waits for
//! one that takes it, and gives the others theirs later.
//!
//! Where its own chain ends is also kept in the state directory. A vault whose chain ends earlier was rolled back or cut: that is
//! an event and a trouble of this gateway, and the chain goes on behind what was known, so that the gap stays visible.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lifeboat_api::{AuditKind, AuditRecord, Principal, ProblemCode, Timestamp};
use lifeboat_model::VaultId;
use lifeboat_model::state::Health;
use lifeboat_vault::{AuditHead, VaultError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::context::{Context, Happening};
use crate::http::error::{ApiError, ApiResult};
use crate::vaults::AttachedVault;

/// How long a request waits for its record.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long what needn't be waited for may wait for others.
const LINGER: Duration = Duration::from_millis(500);
/// Records kept for a vault that takes none.
const KEPT_MAX: usize = 4096;
/// Records in a batch.
const BATCH_MAX: usize = 256;
/// How often the chains of other gateways are looked at, to vouch for them.
const OTHERS_EVERY: Duration = Duration::from_secs(300);
/// Longest text of a record, characters.
const TEXT_MAX: usize = 512;
/// How long a batch may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// The same when the gateway stops.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// What is kept of a record: what [`AuditRecord`] shows, but for its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) time: Timestamp,
    pub(crate) gateway: String,
    pub(crate) kind: AuditKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) who: Option<Principal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) what: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl Entry {
    pub(crate) fn new(context: &Context, kind: AuditKind) -> Self {
        Self {
            time: Timestamp::now(),
            gateway: context.settings.name.clone(),
            kind,
            who: None,
            from: None,
            what: None,
            request: None,
            status: None,
            problem: None,
            detail: None,
        }
    }

    /// As it is shown.
    pub(crate) fn shown(self, vault_id: VaultId, id: String) -> AuditRecord {
        let Self { time, gateway, kind, who, from, what, request, status, problem, detail } = self;
        AuditRecord { id, vault_id, time, gateway, kind, who, from, what, request, status, problem, detail }
    }

    fn bounded(mut self) -> Self {
        for text in [&mut self.what, &mut self.detail].into_iter().flatten() {
            if let Some((at, _)) = text.char_indices().nth(TEXT_MAX) {
                text.truncate(at);
                text.push('…');
            }
        }
        self
    }
}

type Reply = oneshot::Sender<Result<(), String>>;

struct Waiting {
    entry: Entry,
    /// Who waits for it; nobody for what may be written later.
    reply: Option<Reply>,
}

/// The log of one vault.
#[derive(Default)]
struct Line {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Records that found no room.
    left_out: Mutex<u64>,
    /// One at a time writes what waits.
    writing: tokio::sync::Mutex<Progress>,
    lingering: AtomicBool,
}

#[derive(Default)]
struct Progress {
    /// Whether the chain's end was held against what was known here.
    begun: bool,
    others_at: Option<Instant>,
}

/// What this gateway writes down.
#[derive(Default)]
pub(crate) struct Audit {
    lines: Mutex<HashMap<VaultId, Arc<Line>>>,
    /// What was found cut off, by vault.
    cut: Mutex<HashMap<VaultId, String>>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    fn line(&self, vault: VaultId) -> Arc<Line> {
        Arc::clone(self.lines.lock().unwrap_or_else(PoisonError::into_inner).entry(vault).or_default())
    }

    /// What is wrong with the log.
    pub(crate) fn troubles(&self) -> Vec<(Health, String)> {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.values().map(|what| (Health::Critical, what.clone())).collect()
    }

    /// Forgets a vault that isn't attached any more.
    pub(crate) fn forget(&self, vault: VaultId) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&vault);
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).remove(&vault);
    }
}

/// Writes a record down in every vault, and waits until one of them has it. Without a vault there is nothing to wait for.
///
/// # Errors
/// `Unavailable`: no vault takes it. What was asked must not be done then.
pub(crate) async fn record(context: &Arc<Context>, entry: Entry) -> ApiResult<()> {
    let entry = entry.bounded();
    let mut answers = FuturesUnordered::new();
    for attached in context.vaults.all() {
        let (reply, answer) = oneshot::channel();
        push(context, &attached, Waiting { entry: entry.clone(), reply: Some(reply) });
        answers.push(answer);
    }
    if answers.is_empty() {
        return Ok(());
    }
    let mut why = "it takes too long".to_owned();
    let one = async {
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => why = error,
                Err(_) => why = "the gateway is stopping".to_owned(),
            }
        }
        false
    };
    if tokio::time::timeout(PATIENCE, one).await.unwrap_or(false) {
        return Ok(());
    }
    Err(ApiError::new(
        ProblemCode::Unavailable,
        format!(
            "the request can't be written down in the audit log, so nothing was done: {why}; try again when the vault is there"
        ),
    ))
}

/// Writes a record down with the next batch.
pub(crate) fn note(context: &Arc<Context>, entry: Entry) {
    let entry = entry.bounded();
    for attached in context.vaults.all() {
        push(context, &attached, Waiting { entry: entry.clone(), reply: None });
    }
}

fn push(context: &Arc<Context>, attached: &Arc<AttachedVault>, waiting: Waiting) {
    let line = context.audit.line(attached.id());
    let patient = waiting.reply.is_none();
    {
        let mut queue = line.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= KEPT_MAX {
            if patient {
                *line.left_out.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            } else if let Some(reply) = waiting.reply {
                let _ = reply.send(Err(format!("{KEPT_MAX} records wait already")));
            }
            return;
        }
        queue.push_back(waiting);
    }
    if patient && line.lingering.swap(true, Ordering::AcqRel) {
        return;
    }
    let (context, attached) = (Arc::clone(context), Arc::clone(attached));
    let (stop, tasks) = (context.stop.clone(), context.tasks.clone());
    tasks.spawn(async move {
        if patient {
            // At a stop what waits is written at once.
            let _ = tokio::time::timeout(LINGER, stop.cancelled()).await;
            line.lingering.store(false, Ordering::Release);
        }
        write(&context, &attached, &line).await;
    });
}

/// Writes what waits for a vault that may be there again; at a stop, what is left.
pub(crate) async fn flush(context: &Arc<Context>, attached: &Arc<AttachedVault>) {
    let line = context.audit.line(attached.id());
    write(context, attached, &line).await;
}

async fn write(context: &Arc<Context>, attached: &Arc<AttachedVault>, line: &Line) {
    let mut progress = line.writing.lock().await;
    let mut head = None;
    loop {
        let mut batch: Vec<Waiting> = {
            let mut queue = line.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let count = queue.len().min(BATCH_MAX - 1);
            queue.drain(..count).collect()
        };
        let left_out = std::mem::take(&mut *line.left_out.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() && left_out == 0 {
            break;
        }
        let mut entries: Vec<Entry> = batch.iter().map(|waiting| waiting.entry.clone()).collect();
        if left_out > 0 {
            let detail = format!("{left_out} records found no room while the vault took none");
            entries.push(Entry { detail: Some(detail), ..Entry::new(context, AuditKind::LeftOut) });
        }
        let written = tokio::select! {
            written = append(context, attached, &mut progress, entries) => written.map_err(|error| error.to_string()),
            () = too_long(context) => Err(format!("the vault {} took too long", attached.attachment.name)),
        };
        let failed = match written {
            Ok(written) => {
                batch.into_iter().filter_map(|waiting| waiting.reply).for_each(|reply| drop(reply.send(Ok(()))));
                head = Some(written);
                continue;
            }
            Err(failed) => failed,
        };
        tracing::debug!(vault = %attached.id(), failed, "the audit log can't be written");
        *line.left_out.lock().unwrap_or_else(PoisonError::into_inner) += left_out;
        for waiting in &mut batch {
            if let Some(reply) = waiting.reply.take() {
                let _ = reply.send(Err(failed.clone()));
                // It was refused, unless another vault took it: then this one has it later.
            }
        }
        let mut queue = line.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        batch.into_iter().rev().for_each(|waiting| queue.push_front(waiting));
        return;
    }
    let Some(head) = head else { return };
    remember(context, attached, &head);
    vouch(context, attached, &mut progress).await;
}

async fn append(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    progress: &mut Progress,
    mut entries: Vec<Entry>,
) -> Result<AuditHead, VaultError> {
    let vault = attached.vault()?;
    let writer = context.state.process_id();
    if !progress.begun {
        let detail = match known(context, attached.id()) {
            Some(known) => compare(context, attached, &known).await?,
            None => None,
        };
        let first = entries.first().map_or_else(Timestamp::now, |entry| entry.time);
        entries.insert(0, Entry { time: first, detail, ..Entry::new(context, AuditKind::Began) });
    }
    let head = vault.audit().append(writer, entries.iter().map(to_value).collect()).await?;
    progress.begun = true;
    Ok(head)
}

fn to_value(entry: &Entry) -> serde_json::Value {
    serde_json::to_value(entry).unwrap_or_default()
}

/// A vault that hangs is not waited for; less so when the gateway stops.
async fn too_long(context: &Context) {
    let stopping = async {
        context.stop.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    let _ = tokio::time::timeout(BATCH_TIMEOUT, stopping).await;
}

/// Holds the end of this gateway's chain against what it was when it was written last.
async fn compare(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    known: &AuditHead,
) -> Result<Option<String>, VaultError> {
    let log = attached.vault()?.audit().clone();
    let found = log.head(&known.writer).await?;
    let whole = match &found {
        Some(found) if found.first == known.first => found.hash == known.hash,
        Some(found) => found.last > known.last,
        None => false,
    };
    if whole {
        return Ok(None);
    }
    log.go_on_after(known).await?;
    let ends = found
        .map_or_else(|| "nothing of it is there".to_owned(), |found| format!("it ends with record {}", found.last));
    let what = format!(
        "the audit log of this gateway in the vault {} was cut or exchanged: record {} had been written, and {ends}; compare the vault \
         with a copy, and keep both",
        attached.attachment.name, known.last
    );
    context.audit.cut.lock().unwrap_or_else(PoisonError::into_inner).insert(attached.id(), what.clone());
    let event =
        Happening { severity: Health::Critical, kind: "audit.cut", message: what.clone(), ..Happening::default() };
    context.event(attached, event).await;
    Ok(Some(what))
}

/// Looks now and then where the chains of other gateways end: what is written here vouches for them then.
async fn vouch(context: &Context, attached: &AttachedVault, progress: &mut Progress) {
    if progress.others_at.is_some_and(|at| at.elapsed() < OTHERS_EVERY) {
        return;
    }
    let Ok(vault) = attached.vault() else { return };
    progress.others_at = Some(Instant::now());
    let looked = tokio::time::timeout(BATCH_TIMEOUT, vault.audit().note_others(context.state.process_id())).await;
    if let Ok(Err(error)) = looked {
        tracing::debug!(vault = %attached.id(), %error, "the audit logs of other gateways can't be looked at");
    }
}

fn file(vault: VaultId) -> String {
    format!("audit-{vault}.json")
}

fn known(context: &Context, vault: VaultId) -> Option<AuditHead> {
    let text = std::fs::read(context.state.path().join(file(vault))).ok()?;
    serde_json::from_slice(&text).ok()
}

fn remember(context: &Context, attached: &AttachedVault, head: &AuditHead) {
    let written = serde_json::to_vec(head)
        .map_err(anyhow::Error::from)
        .and_then(|text| context.state.write(&file(attached.id()), &text, 0o600));
    if let Err(error) = written {
        tracing::warn!(%error, "where the audit log ends can't be noted in the state directory");
    }
}

#[cfg(test)]
mod tests;
