//! Branches: who may write one, and which segments belong to its history.
//!
//! ```text
//! epoch/1 ──log 1,2,3 ─┐cut of 1 (3)                     epoch/3: fence, promoted to B
//!                      └─ epoch/2 ──log 1,2,(3)─┐cut of 2 (2)      B: epoch/1, origin = a point of epoch 2
//!                                               └─ (3) landed after the cut: in nobody's history
//! ```
//! **Claim, list, cut.** Whoever opens epoch *e* creates its intent first (create-only: one winner), then lists the log
//! of *e - 1*, then writes the cut. A writer looks for a newer epoch after each put and before it counts the put. So a
//! segment that counted was there before the intent, hence in the listing, hence within the cut; what lands later is
//! past the cut and in nobody's history. A cut that its claimer didn't live to write is written by the next claimer;
//! cuts are create-only, and everybody uses the one that is there.
//!
//! Refuses: a history with a segment missing, a chain hash or a position that doesn't follow (`Tampered`).
//! A crash between two steps leaves a claim without a cut: it fences all the same, and the next opener completes it.

mod dropped;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::epoch::{self, EPOCH_LEN_MAX, EpochCut, EpochIntent, EpochPlace, Purpose};
use lifeboat_format::map::LogPosition;
use lifeboat_format::segment::SegmentHash;
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, PointId, SegmentId, SegmentSeq, Timestamp};
use lifeboat_vault::{Vault, create_exact};

use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::planted::{self, Bug};
use crate::segments::{Reader, ReaderLimits, names};

pub use dropped::drop_branch;
pub(crate) use dropped::give_up;
pub(crate) use state::{Ahead, State, Target, VolumeState, apply, expected};

/// Small objects read at a time.
const PARALLEL: usize = 16;
/// Longest line of branches, each forked from the one before. Guards against a circle in damaged data.
const LINEAGE_MAX: usize = 4096;

/// A place in a group's history between two segments: the state after segment `seq` of `epoch` of `branch`. `seq` 0 is
/// before the epoch's first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The branch.
    pub branch: BranchId,
    /// The tenure.
    pub epoch: Epoch,
    /// The last segment.
    pub seq: SegmentSeq,
    /// The last record of the group's write order.
    pub lsn: Lsn,
}

/// Where a branch forked from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The last that the branch shares with its parent.
    pub at: Position,
    /// The recovery point there; none for an orphan branch, which forks where its writer was cut off.
    pub point: Option<PointId>,
}

/// One tenure of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochInfo {
    /// The tenure.
    pub epoch: Epoch,
    /// The gateway that claimed it.
    pub gateway: GatewayId,
    /// When, by that gateway's clock.
    pub opened: Timestamp,
    /// Whether it only ends the one before, and nobody writes in it.
    pub fence: bool,
    /// The branch that goes on in this one's place.
    pub promoted_to: Option<BranchId>,
    /// Where the tenure before it ended; none for the first, and while the claimer hasn't said it.
    pub cut: Option<Position>,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    /// The branch.
    pub id: BranchId,
    /// Where it forked; none for a group's first branch.
    pub origin: Option<Origin>,
    /// Its tenures, the first one first. Never empty.
    pub epochs: Vec<EpochInfo>,
    /// The branch that goes on in its place, if a failover said so and nobody took this one up again since.
    pub promoted_to: Option<BranchId>,
}

impl BranchInfo {
    /// The newest tenure.
    #[must_use]
    pub fn head(&self) -> Option<&EpochInfo> {
        self.epochs.last()
    }

    /// The gateway of the newest tenure that isn't a fence.
    #[must_use]
    pub fn writer(&self) -> Option<GatewayId> {
        self.epochs.iter().rev().find(|epoch| !epoch.fence).map(|epoch| epoch.gateway)
    }

    /// When it was made, by its maker's clock.
    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        self.epochs.first().map(|epoch| epoch.opened)
    }
}

/// A fence that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The epoch that it took.
    pub epoch: Epoch,
    /// Where the branch's history ends.
    pub cut: Position,
}

/// The branches of a group, the oldest first. Those that were given up are left out.
///
/// # Errors
/// `Retry` when the vault can't be reached, `Tampered` when an epoch fails its checks.
pub async fn list_branches(vault: &Arc<Vault>, group: GroupId) -> Result<Vec<BranchInfo>> {
    list_branches_with(&*Reader::open(vault, group, ReaderLimits::default()).await?).await
}

/// [`list_branches`] through a reader, which remembers what it has read.
///
/// # Errors
/// As [`list_branches`].
pub async fn list_branches_with(reader: &Reader) -> Result<Vec<BranchInfo>> {
    let prefix = format!("groups/{}", reader.group());
    let names = reader.vault().store().list_dirs(&prefix).await.map_err(cause::store)?;
    let ids: Vec<BranchId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let mut branches: Vec<BranchInfo> = stream::iter(ids)
        .map(|branch| async move {
            match BranchLog::read(reader, branch).await {
                Ok(log) => Ok((!log.dropped).then(|| log.info())),
                // Nothing but the first object of a branch that is being made, or leftovers of one.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(PARALLEL)
        .try_filter_map(|found| async move { Ok::<_, EngineError>(found) })
        .try_collect()
        .await?;
    branches.sort_by_key(|branch| (branch.created(), branch.id));
    Ok(branches)
}

/// One branch.
///
/// # Errors
/// `NotFound`; otherwise as [`list_branches`].
pub async fn branch_info(vault: &Arc<Vault>, group: GroupId, branch: BranchId) -> Result<BranchInfo> {
    branch_info_with(&*Reader::open(vault, group, ReaderLimits::default()).await?, branch).await
}

/// [`branch_info`] through a reader, which remembers what it has read.
///
/// # Errors
/// As [`branch_info`].
pub(crate) async fn branch_info_with(reader: &Reader, branch: BranchId) -> Result<BranchInfo> {
    Ok(BranchLog::read(reader, branch).await?.info())
}

/// Ends the branch's tenure: its writer can neither ship nor reclaim its journal any more. Doing it again with the same
/// gateway and the same new branch finds the fence that stands.
///
/// # Errors
/// `NotFound` without such a branch, `Retry` when the vault can't be reached: do it again.
pub async fn fence(
    vault: &Arc<Vault>,
    group: GroupId,
    branch: BranchId,
    gateway: GatewayId,
    promoted_to: BranchId,
) -> Result<Fence> {
    fence_with(&*Reader::open(vault, group, ReaderLimits::default()).await?, branch, gateway, promoted_to).await
}

/// [`fence`] through a reader, which remembers what it has read.
///
/// # Errors
/// As [`fence`].
pub(crate) async fn fence_with(
    reader: &Reader,
    branch: BranchId,
    gateway: GatewayId,
    promoted_to: BranchId,
) -> Result<Fence> {
    // Somebody else may claim the same epoch at the same moment; every round somebody gets ahead.
    for _ in 0..64 {
        let mut log = BranchLog::read(reader, branch).await?;
        let standing = log.epochs.iter().find(|entry| {
            let intent = &entry.intent;
            intent.purpose == Purpose::Fence && intent.writer == gateway && intent.promoted_to == Some(promoted_to)
        });
        let epoch = match standing {
            Some(entry) => entry.intent.place.epoch,
            None => {
                let claim =
                    Claim { writer: gateway, purpose: Purpose::Fence, origin: None, promoted_to: Some(promoted_to) };
                let epoch = log.newest().next();
                let Some(intent) = claim_epoch(reader, branch, epoch, claim).await? else { continue };
                // Nobody else can have come in between: what was read and this are all epochs up to it.
                log.epochs.push(EpochEntry { intent, cut: None });
                epoch
            }
        };
        let log = write_cuts(reader, log, epoch).await?;
        let cut = log.cut_of(Epoch(epoch.0.saturating_sub(1)));
        let cut = cut.ok_or_else(|| cause::tampered(format!("epoch {epoch} of branch {branch} has no cut")))?;
        return Ok(Fence { epoch, cut: log.cut_position(cut) });
    }
    Err(EngineError::new(
        ErrorKind::Retry,
        format!(
            "branch {branch} was claimed by others 64 times while it was to be fenced: stop the other gateways, then try again"
        ),
    ))
}

/// The branch that a group's history goes on with: from the first one along every promotion. Tests and orphans fork off
/// without a promotion.
#[must_use]
pub fn written_last(branches: &[BranchInfo]) -> Option<BranchId> {
    let mut at = branches.iter().find(|branch| branch.origin.is_none())?;
    // Each step leads to another branch; more steps than branches would be a circle.
    for _ in branches {
        let next = at.promoted_to.and_then(|id| branches.iter().find(|branch| branch.id == id));
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    Some(at.id)
}

/// What of a tenure is in the branch's history: a fenced writer's tail begins after it. `None` while the gateway that
/// fenced it hasn't said it yet (ask again later), and for the tenure that isn't over.
///
/// # Errors
/// As [`list_branches`].
pub async fn end_of_tenure(
    vault: &Arc<Vault>,
    group: GroupId,
    branch: BranchId,
    epoch: Epoch,
) -> Result<Option<Position>> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let log = BranchLog::read(&reader, branch).await?;
    Ok(log.cut_of(epoch).map(|cut| log.cut_position(cut)))
}

/// Ends a fence's unfinished work, if there is any: writes the cuts that whoever claimed an epoch didn't live to write.
/// Then the end of the tenure `epoch` is known. For a fenced gateway whose fencer died.
///
/// # Errors
/// `Invalid` while no newer epoch exists; otherwise as [`list_branches`].
pub async fn settle_tenure(vault: &Arc<Vault>, group: GroupId, branch: BranchId, epoch: Epoch) -> Result<Position> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let newest = BranchLog::read(&reader, branch).await?.newest();
    let log = complete_cuts(&reader, branch, newest).await?;
    let cut = log.cut_of(epoch).ok_or_else(|| {
        EngineError::new(ErrorKind::Invalid, format!("epoch {epoch} of branch {branch} is not over: nothing to settle"))
    })?;
    Ok(log.cut_position(cut))
}

/// [`settle_tenure`] for whoever has others write in its name: the end of its newest tenure from `epoch` on, with none of
/// another writer in between.
///
/// # Errors
/// As [`settle_tenure`].
pub(crate) async fn settle_tenures(
    vault: &Arc<Vault>,
    group: GroupId,
    branch: BranchId,
    epoch: Epoch,
    writer: GatewayId,
) -> Result<Position> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let log = BranchLog::read(&reader, branch).await?;
    let own = |entry: &&EpochEntry| entry.intent.writer == writer && entry.intent.purpose == Purpose::Write;
    let later = log.epochs.iter().skip_while(|entry| entry.intent.place.epoch <= epoch);
    let last = later.take_while(own).last().map_or(epoch, |entry| entry.intent.place.epoch);
    settle_tenure(vault, group, branch, last).await
}

/// The newest position of a branch. Writes nothing.
///
/// # Errors
/// `NotFound` without such a branch; otherwise as [`list_branches`].
pub async fn log_end(vault: &Arc<Vault>, group: GroupId, branch: BranchId) -> Result<Position> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    log_end_with(&reader, branch).await
}

/// [`log_end`] through a reader.
///
/// # Errors
/// As [`log_end`].
pub async fn log_end_with(reader: &Reader, branch: BranchId) -> Result<Position> {
    let log = BranchLog::read(reader, branch).await?;
    Ok(log.end(reader, log.newest()).await?.position)
}

/// What an epoch is claimed for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) writer: GatewayId,
    pub(crate) purpose: Purpose,
    pub(crate) origin: Option<Origin>,
    pub(crate) promoted_to: Option<BranchId>,
}

/// The end of a log: a position, and the chain value that the next segment names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) position: Position,
    pub(crate) hash: SegmentHash,
}

/// Creates the intent, and gives it; none when somebody else has the epoch.
pub(crate) async fn claim_epoch(
    reader: &Reader,
    branch: BranchId,
    epoch: Epoch,
    claim: Claim,
) -> Result<Option<EpochIntent>> {
    let intent = EpochIntent {
        place: place(reader, branch, epoch),
        writer: claim.writer,
        nonce: random(reader.vault())?,
        time: reader.vault().now(),
        purpose: claim.purpose,
        origin: claim.origin.map(to_format),
        promoted_to: claim.promoted_to,
    };
    let key = names::intent(reader.group(), branch, epoch);
    let bytes = Bytes::from(intent.encode(reader.key()));
    match create_exact(&**reader.vault().store(), &key, bytes).await {
        Ok(_) => Ok(Some(intent)),
        Err(error) if error.is_already_exists() => Ok(None),
        Err(error) => Err(cause::store(error)),
    }
}

/// Writes the cuts that are missing up to that of `newest`, and gives the branch as it is then.
pub(crate) async fn complete_cuts(reader: &Reader, branch: BranchId, newest: Epoch) -> Result<BranchLog> {
    write_cuts(reader, BranchLog::read(reader, branch).await?, newest).await
}

/// [`complete_cuts`] of a branch that has been read: all of its epochs up to `newest` must be known.
async fn write_cuts(reader: &Reader, mut log: BranchLog, newest: Epoch) -> Result<BranchLog> {
    let branch = log.branch;
    let missing: Vec<EpochIntent> = log
        .epochs
        .iter()
        .filter(|entry| entry.cut.is_none() && entry.intent.place.epoch.0 > 1 && entry.intent.place.epoch <= newest)
        .map(|entry| entry.intent)
        .collect();
    for intent in missing {
        let ended = Epoch(intent.place.epoch.0.saturating_sub(1));
        let end = log.end(reader, ended).await?;
        let last_seq = if end.position.epoch == ended { end.position.seq } else { SegmentSeq(0) };
        let few = u64::from(planted::is(Bug::CutsOneTooFew));
        let last_seq = SegmentSeq(last_seq.0.saturating_sub(few));
        let cut = EpochCut {
            place: intent.place,
            epoch: ended,
            last_seq,
            last_lsn: end.position.lsn,
            last_hash: end.hash,
            nonce: intent.nonce,
        };
        let key = names::cut(reader.group(), branch, intent.place.epoch);
        let standing = match create_exact(&**reader.vault().store(), &key, Bytes::from(cut.encode(reader.key()))).await
        {
            Ok(_) => cut,
            // Somebody completed it before: theirs stands.
            Err(error) if error.is_already_exists() => read_cut(reader, &key, &intent.place).await?,
            Err(error) => return Err(cause::store(error)),
        };
        if let Some(entry) = log.epochs.iter_mut().find(|entry| entry.intent.place == intent.place) {
            entry.cut = Some(standing);
        }
    }
    Ok(log)
}

async fn read_cut(reader: &Reader, key: &str, place: &EpochPlace) -> Result<EpochCut> {
    let bytes = reader.small(key, EPOCH_LEN_MAX).await?;
    EpochCut::decode(&bytes, place, reader.key()).map_err(|error| cause::object(key, error))
}

pub(crate) async fn read_intent(reader: &Reader, branch: BranchId, epoch: Epoch) -> Result<EpochIntent> {
    let key = names::intent(reader.group(), branch, epoch);
    let bytes = reader.small(&key, EPOCH_LEN_MAX).await?;
    EpochIntent::decode(&bytes, &place(reader, branch, epoch), reader.key()).map_err(|error| cause::object(&key, error))
}

fn place(reader: &Reader, branch: BranchId, epoch: Epoch) -> EpochPlace {
    EpochPlace { vault: reader.vault().id(), group: reader.group(), branch, epoch }
}

/// Sixteen bytes that nobody has drawn before.
pub(crate) fn random(vault: &Vault) -> Result<[u8; 16]> {
    vault.random().map_err(cause::vault)
}

/// Stands for "no point" where the format has a field for one.
const NO_POINT: PointId = PointId::from_bytes([0; 16]);

fn to_format(origin: Origin) -> epoch::Origin {
    let Position { branch, epoch, seq, lsn } = origin.at;
    epoch::Origin { branch, point: origin.point.unwrap_or(NO_POINT), lsn, epoch, seq }
}

fn from_format(origin: &epoch::Origin) -> Origin {
    let at = Position { branch: origin.branch, epoch: origin.epoch, seq: origin.seq, lsn: origin.lsn };
    Origin { at, point: Some(origin.point).filter(|point| *point != NO_POINT) }
}

/// One tenure as its objects say it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpochEntry {
    pub(crate) intent: EpochIntent,
    pub(crate) cut: Option<EpochCut>,
}

/// The epochs of a branch: what decides which segments count.
#[derive(Clone, Debug)]
pub(crate) struct BranchLog {
    pub(crate) branch: BranchId,
    pub(crate) epochs: Vec<EpochEntry>,
    /// It was given up: nobody writes, offers or forks it. Branches that descend from it may still need it.
    pub(crate) dropped: bool,
}

impl BranchLog {
    /// Reads them, new ones only where the reader has read the branch before.
    pub(crate) async fn read(reader: &Reader, branch: BranchId) -> Result<Self> {
        let prefix = names::epochs(reader.group(), branch);
        let found = reader.vault().store().list(&prefix).await.map_err(cause::store)?;
        let mut epochs: BTreeMap<Epoch, bool> = BTreeMap::new();
        for (epoch, is_cut) in found.iter().filter_map(|object| names::parse_epoch(&object.key)) {
            *epochs.entry(epoch).or_default() |= is_cut;
        }
        if epochs.is_empty() {
            return Err(EngineError::new(
                ErrorKind::NotFound,
                format!("group {} has no branch {branch} in this vault", reader.group()),
            ));
        }
        let mark = names::dropped(reader.group(), branch);
        let dropped = found.iter().any(|object| object.key == mark);
        if dropped {
            dropped::check(reader, branch).await?;
        }
        let contiguous = epochs.keys().zip(1_u64..).all(|(epoch, number)| epoch.0 == number);
        if !contiguous {
            return Err(cause::tampered(format!("an epoch of branch {branch} is missing")));
        }
        let epochs: Vec<EpochEntry> = stream::iter(epochs)
            .map(|(epoch, has_cut)| async move {
                let cut = async {
                    if !has_cut {
                        return Ok(None);
                    }
                    let key = names::cut(reader.group(), branch, epoch);
                    read_cut(reader, &key, &place(reader, branch, epoch)).await.map(Some)
                };
                let (intent, cut) = futures::try_join!(read_intent(reader, branch, epoch), cut)?;
                Ok::<_, EngineError>(EpochEntry { intent, cut })
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        Ok(Self { branch, epochs, dropped })
    }

    /// The newest epoch.
    pub(crate) fn newest(&self) -> Epoch {
        self.epochs.last().map_or(Epoch(0), |entry| entry.intent.place.epoch)
    }

    pub(crate) fn entry(&self, epoch: Epoch) -> Option<&EpochEntry> {
        let index = usize::try_from(epoch.0.checked_sub(1)?).ok()?;
        self.epochs.get(index)
    }

    /// Where the branch forked.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.epochs.first()?.intent.origin.as_ref().map(from_format)
    }

    /// The cut that ended `epoch`, if it is over and its successor has said where.
    pub(crate) fn cut_of(&self, epoch: Epoch) -> Option<&EpochCut> {
        self.entry(epoch.next())?.cut.as_ref()
    }

    pub(crate) fn cut_position(&self, cut: &EpochCut) -> Position {
        Position { branch: self.branch, epoch: cut.epoch, seq: cut.last_seq, lsn: cut.last_lsn }
    }

    /// Whether segment `seq` of `epoch` is in the history, as far as is known.
    pub(crate) fn counts(&self, epoch: Epoch, seq: SegmentSeq) -> bool {
        let cut = self.cut_of(epoch).filter(|_| !planted::is(Bug::IgnoresCuts));
        self.entry(epoch).is_some() && cut.is_none_or(|cut| seq <= cut.last_seq)
    }

    /// The end of the log at the end of `epoch`, or now if it isn't over.
    pub(crate) async fn end(&self, reader: &Reader, epoch: Epoch) -> Result<End> {
        let cut_of = |epoch| self.cut_of(epoch).filter(|_| !planted::is(Bug::IgnoresCuts));
        if let Some(cut) = cut_of(epoch) {
            return Ok(End { position: self.cut_position(cut), hash: cut.last_hash });
        }
        let mut epoch = epoch;
        loop {
            if let Some(end) = self.last_segment(reader, epoch).await? {
                return Ok(end);
            }
            if epoch.0 <= 1 {
                let lsn = self.origin().map_or(Lsn::ZERO, |origin| origin.at.lsn);
                let position = Position { branch: self.branch, epoch, seq: SegmentSeq(0), lsn };
                return Ok(End { position, hash: SegmentHash::ZERO });
            }
            let before = Epoch(epoch.0.saturating_sub(1));
            if let Some(cut) = cut_of(before) {
                let position = Position { branch: self.branch, epoch, seq: SegmentSeq(0), lsn: cut.last_lsn };
                return Ok(End { position, hash: cut.last_hash });
            }
            epoch = before;
        }
    }

    /// The end of an epoch's log that is in the vault. A writer puts segments strictly one after the other, so that one
    /// which is there says that all before it were. Where nothing is newer than the newest map, the map says it all: its
    /// own last segment may be gone, if nothing of it is needed any more.
    async fn last_segment(&self, reader: &Reader, epoch: Epoch) -> Result<Option<End>> {
        let known = match self.mapped(reader, epoch).await {
            Err(error) if error.kind().is_unanswered() => return Err(error),
            // A damaged map must not be in the way of fencing: the listing alone says it as well, since the last segment
            // of an epoch that is not over is never collected.
            found => found.unwrap_or_default(),
        };
        let after = SegmentId { branch: self.branch, epoch, seq: known.map_or(SegmentSeq(0), |known| known.seq) };
        let prefix = names::log(reader.group(), self.branch);
        let after = names::segment(reader.group(), after);
        let found = reader.vault().store().list_after(&prefix, &after).await.map_err(cause::store)?;
        let newer = found
            .iter()
            .filter_map(|object| names::parse_segment(&object.key))
            .filter(|(of, _)| *of == epoch)
            .map(|(_, seq)| seq)
            .max();
        let Some(seq) = newer else {
            return Ok(known.map(|LogPosition { epoch, seq, lsn, segment_hash }| End {
                position: Position { branch: self.branch, epoch, seq, lsn },
                hash: segment_hash,
            }));
        };
        let segment = reader.segment(SegmentId { branch: self.branch, epoch, seq }, None).await?;
        let position = Position { branch: self.branch, epoch, seq, lsn: segment.header.last_lsn };
        Ok(Some(End { position, hash: segment.hash }))
    }

    /// A place in the epoch that the newest map proves to have been reached, so that a listing needn't begin at the first
    /// segment: an epoch may have hundreds of thousands. None without such a map.
    async fn mapped(&self, reader: &Reader, epoch: Epoch) -> Result<Option<LogPosition>> {
        for map in reader.list_maps(self.branch).await? {
            let at = reader.map_head(&map).await?.footer.position;
            if at.epoch == epoch && at.seq.0 > 0 && self.counts(at.epoch, at.seq) {
                return Ok(Some(at));
            }
            if at.epoch < epoch {
                break;
            }
        }
        Ok(None)
    }

    fn info(&self) -> BranchInfo {
        let epochs: Vec<EpochInfo> = self
            .epochs
            .iter()
            .map(|entry| EpochInfo {
                epoch: entry.intent.place.epoch,
                gateway: entry.intent.writer,
                opened: entry.intent.time,
                fence: entry.intent.purpose == Purpose::Fence,
                promoted_to: entry.intent.promoted_to,
                cut: entry.cut.as_ref().map(|cut| self.cut_position(cut)),
            })
            .collect();
        let promoted_to = epochs.last().and_then(|epoch| epoch.promoted_to);
        BranchInfo { id: self.branch, origin: self.origin(), epochs, promoted_to }
    }
}
