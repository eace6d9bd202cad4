//! One group: its listings, the epochs of its branches, and the order in which they are walked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use lifeboat_format::epoch::{EPOCH_LEN_MAX, EpochCut, EpochIntent, EpochPlace, Origin, Purpose};
use lifeboat_model::{BranchId, Epoch, GroupId, Lsn, MapId, SegmentId, SegmentSeq};
use lifeboat_vault::ObjectMeta;

use super::history::{self, Known, Standing};
use super::report::{DELETE_INTENT, KEPT, of_format};
use super::{Fault, Found, GroupReport, Inquiry, Read};
use crate::cause;
use crate::error::{ErrorKind, Result};
use crate::gc::{Kept, repair};
use crate::segments::{Reader, ReaderLimits, names};

/// Epoch objects read at a time.
const PARALLEL: usize = 16;
const INTENT: &str = "epoch intent";
const CUT: &str = "epoch cut";

/// A branch's objects, as listings name them, and its epochs, as far as they are sound.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) id: BranchId,
    /// Map objects: position, id, length; ascending.
    pub(super) maps: Vec<(Lsn, MapId, u64)>,
    /// Segments: epoch, number → length.
    pub(super) segments: BTreeMap<(Epoch, SegmentSeq), u64>,
    /// Rebuilt segments: epoch, number → generation → length.
    pub(super) rebuilt: BTreeMap<(Epoch, SegmentSeq), BTreeMap<u64, u64>>,
    pub(super) intents: BTreeMap<Epoch, EpochIntent>,
    /// By the epoch that opened.
    pub(super) cuts: BTreeMap<Epoch, EpochCut>,
    /// A damage of its epochs: while it stands, nobody can open any point of the branch.
    pub(super) closed_by: Option<usize>,
}

impl Branch {
    pub(super) fn origin(&self) -> Option<Origin> {
        self.intents.get(&Epoch(1)).and_then(|intent| intent.origin)
    }

    pub(super) fn newest(&self) -> Epoch {
        let told = self.intents.keys().chain(self.cuts.keys()).next_back().copied();
        told.max(self.segments.keys().next_back().map(|(epoch, _)| *epoch)).unwrap_or_default()
    }

    /// The cut that ended `epoch`.
    pub(super) fn cut_of(&self, epoch: Epoch) -> Option<&EpochCut> {
        self.cuts.get(&epoch.next())
    }

    /// Whether a segment is in the history, as far as is known.
    pub(super) fn counts(&self, epoch: Epoch, seq: SegmentSeq) -> bool {
        self.cut_of(epoch).is_none_or(|cut| seq <= cut.last_seq)
    }

    /// The segments that must be there, in the order of the log: all up to each cut, and up to the last one that is
    /// there in an epoch that has none.
    pub(super) fn expected(&self) -> impl Iterator<Item = SegmentId> + '_ {
        (1..=self.newest().0).map(Epoch).flat_map(move |epoch| {
            let there = self.segments.range((epoch, SegmentSeq(0))..=(epoch, SegmentSeq(u64::MAX)));
            let last = match self.cut_of(epoch) {
                Some(cut) => cut.last_seq,
                None => there.map(|((_, seq), _)| *seq).next_back().unwrap_or_default(),
            };
            (1..=last.0).map(move |seq| SegmentId { branch: self.id, epoch, seq: SegmentSeq(seq) })
        })
    }

    /// Segments past a cut.
    pub(super) fn beyond(&self) -> impl Iterator<Item = (SegmentId, u64)> + '_ {
        self.segments
            .iter()
            .filter(|((epoch, seq), _)| !self.counts(*epoch, *seq))
            .map(|((epoch, seq), len)| (SegmentId { branch: self.id, epoch: *epoch, seq: *seq }, *len))
    }
}

pub(super) async fn check(inquiry: &Inquiry, group: GroupId) -> Result<GroupReport> {
    inquiry.stage(format!("{group}: epochs"));
    let mut report = GroupReport { group, branches: Vec::new() };
    let limits = ReaderLimits::default();
    let reader = match inquiry.patiently(async || Reader::open(&inquiry.vault, group, limits).await).await {
        Ok(reader) => reader,
        // Reported with the keys.
        Err(error) if error.kind() != ErrorKind::Closed && is_damaged(inquiry, group) => return Ok(report),
        Err(error) if error.kind() == ErrorKind::Closed || error.kind().is_unanswered() => return Err(error),
        Err(error) => {
            without_key(inquiry, group, error.kind() == ErrorKind::NotFound);
            return Ok(report);
        }
    };
    let store = inquiry.vault.store();
    let prefix = format!("groups/{group}");
    let mut branches: Vec<Branch> = Vec::new();
    for name in inquiry.patiently(async || store.list_dirs(&prefix).await.map_err(cause::store)).await? {
        match name.parse::<BranchId>() {
            Ok(id) => branches.push(read_branch(inquiry, &reader, id).await?),
            Err(_) if matches!(name.as_str(), "gc" | "marks") => {}
            Err(_) => inquiry.note(&format!("{prefix}/{name}/"), "no name of a branch: left alone"),
        }
    }
    let mut known = Known::new(&branches, kept_points(inquiry, &reader).await?);
    intents(inquiry, &reader).await?;
    for branch in in_order(branches) {
        report.branches.push(history::check(inquiry, &reader, &branch, &mut known).await?);
    }
    Ok(report)
}

/// The list of kept points: what it has dropped is offered to nobody.
async fn kept_points(inquiry: &Inquiry, reader: &Reader) -> Result<Option<Kept>> {
    let group = reader.group();
    match inquiry.patiently(async || Kept::read(reader).await).await {
        Ok(kept) => {
            if kept.revision() > 0 {
                inquiry.findings().collected.insert(group.to_string());
            }
            Ok(Some(kept))
        }
        Err(error) if error.kind() == ErrorKind::Closed || error.kind().is_unanswered() => Err(error),
        Err(error) => {
            let object = names::kept(group);
            let costs = format!(
                "the points of {group} can't be listed, and its garbage can't be collected; `vault check --repair` writes the list anew"
            );
            inquiry.damage(Found::verdict(&object, KEPT, super::report::of_engine(&error)).costs(costs));
            Ok(None)
        }
    }
}

/// Delete intents: one that can't be read stops collecting, and costs nothing else.
async fn intents(inquiry: &Inquiry, reader: &Reader) -> Result<()> {
    let found = match inquiry.patiently(async || repair::intents(reader).await).await {
        Err(error) if error.kind().is_unanswered() => return Err(error),
        found => found?,
    };
    for (object, error) in found {
        let costs =
            format!("the garbage of {} can't be collected; `vault check --repair` takes it away", reader.group());
        inquiry.damage(Found::verdict(&object, DELETE_INTENT, super::report::of_engine(&error)).costs(costs));
    }
    Ok(())
}

fn is_damaged(inquiry: &Inquiry, group: GroupId) -> bool {
    inquiry.findings().keys.contains_key(&group.to_string())
}

/// A group whose key doesn't open, or is gone.
fn without_key(inquiry: &Inquiry, group: GroupId, gone: bool) {
    let live = inquiry.findings().live.contains(&group.to_string());
    let object = format!("keys/{group}");
    if gone && !live {
        inquiry.note(
            &object,
            format!("{group} has no key: it was destroyed, and what is left of the group is unreadable"),
        );
    } else if gone {
        let found = Found::new(&object, "wrapped key", Fault::Missing, "the group is declared, and it has no key");
        inquiry.damage(found.costs(format!("no recovery point of {group} can be opened until its key is restored")));
    }
    // A key that is there and doesn't open was reported with the keys.
}

async fn read_branch(inquiry: &Inquiry, reader: &Arc<Reader>, id: BranchId) -> Result<Branch> {
    let group = reader.group();
    let mut branch = Branch {
        id,
        maps: Vec::new(),
        segments: BTreeMap::new(),
        rebuilt: BTreeMap::new(),
        intents: BTreeMap::new(),
        cuts: BTreeMap::new(),
        closed_by: None,
    };
    // In this order: see the head of `check`.
    let maps = inquiry.list(&names::maps(group, id)).await?;
    let log = inquiry.list(&names::log(group, id)).await?;
    let rebuilt = inquiry.list(&names::rebuilt_all(group, id)).await?;
    let epochs = inquiry.list(&names::epochs(group, id)).await?;
    inquiry.listed([maps.len(), log.len(), rebuilt.len(), epochs.len()].iter().sum());
    let foreign = |object: &ObjectMeta, what: &str| {
        inquiry.note(&object.key, format!("no name of {what}: left alone"));
    };
    for object in &maps {
        match names::parse_map(&object.key) {
            Some((lsn, map)) if names::map(group, id, lsn, map) == object.key => {
                branch.maps.push((lsn, map, object.size));
            }
            _ => foreign(object, "a map"),
        }
    }
    for object in &log {
        match names::parse_segment(&object.key) {
            Some((epoch, seq)) if names::segment(group, SegmentId { branch: id, epoch, seq }) == object.key => {
                branch.segments.insert((epoch, seq), object.size);
            }
            _ => foreign(object, "a segment"),
        }
    }
    for object in &rebuilt {
        match names::parse_rebuilt(&object.key) {
            Some((epoch, seq, generation))
                if names::rebuilt(group, SegmentId { branch: id, epoch, seq }, generation) == object.key =>
            {
                branch.rebuilt.entry((epoch, seq)).or_default().insert(generation, object.size);
            }
            _ => foreign(object, "a rebuilt segment"),
        }
    }
    read_epochs(inquiry, reader, &mut branch, &epochs).await?;
    let prefix = format!("groups/{group}/{id}");
    let store = inquiry.vault.store();
    for name in inquiry.patiently(async || store.list_dirs(&prefix).await.map_err(cause::store)).await? {
        if !matches!(name.as_str(), "epoch" | "log" | "map" | "rebuilt") {
            inquiry.note(&format!("{prefix}/{name}/"), "no part of a branch: left alone");
        }
    }
    Ok(branch)
}

async fn read_epochs(inquiry: &Inquiry, reader: &Reader, branch: &mut Branch, objects: &[ObjectMeta]) -> Result<()> {
    let group = reader.group();
    let mut named: BTreeMap<(Epoch, bool), u64> = BTreeMap::new();
    for object in objects {
        match names::parse_epoch(&object.key) {
            Some((epoch, cut)) if epoch_name(group, branch.id, epoch, cut) == object.key => {
                named.insert((epoch, cut), object.size);
            }
            _ if object.key == names::dropped(group, branch.id) => {}
            _ => inquiry.note(&object.key, "no name of an epoch: left alone"),
        }
    }
    let wanted: Vec<((Epoch, bool), u64)> = named.iter().map(|(name, size)| (*name, *size)).collect();
    let id = branch.id;
    let mut read = stream::iter(wanted)
        .map(|((epoch, cut), size)| async move {
            let key = epoch_name(group, id, epoch, cut);
            let read = inquiry.get(&key, size, EPOCH_LEN_MAX).await;
            (epoch, cut, key, size, read)
        })
        .buffered(PARALLEL);
    while let Some((epoch, cut, key, size, read)) = read.next().await {
        inquiry.looked_at(size);
        take_epoch(inquiry, reader, branch, (epoch, cut), &key, read?);
    }
    missing_epochs(inquiry, reader, branch, &named).await
}

fn take_epoch(
    inquiry: &Inquiry,
    reader: &Reader,
    branch: &mut Branch,
    (epoch, cut): (Epoch, bool),
    key: &str,
    read: Read,
) {
    let place = EpochPlace { vault: inquiry.vault.id(), group: reader.group(), branch: branch.id, epoch };
    let kind = if cut { CUT } else { INTENT };
    let found = match read {
        Read::Bytes(bytes) if cut => {
            EpochCut::decode(&bytes, &place, reader.key()).map(|found| branch.cuts.insert(epoch, found).is_some())
        }
        Read::Bytes(bytes) => {
            EpochIntent::decode(&bytes, &place, reader.key()).map(|found| branch.intents.insert(epoch, found).is_some())
        }
        Read::TooLong => {
            branch.close(inquiry.damage(Found::new(key, kind, Fault::Length, "it is longer than any epoch object")));
            return;
        }
        Read::Unreadable(why) => {
            branch.close(inquiry.damage(Found::new(key, kind, Fault::Unreadable, why)));
            return;
        }
        Read::Gone => {
            branch.close(inquiry.damage(Found::new(key, kind, Fault::Missing, "it was listed, and is gone")));
            return;
        }
    };
    if let Err(error) = found {
        branch.close(inquiry.damage(Found::verdict(key, kind, of_format(&error))));
    }
}

impl Branch {
    fn close(&mut self, damage: usize) {
        self.closed_by.get_or_insert(damage);
    }
}

/// Epochs that something else proves to have been there.
async fn missing_epochs(
    inquiry: &Inquiry,
    reader: &Reader,
    branch: &mut Branch,
    named: &BTreeMap<(Epoch, bool), u64>,
) -> Result<()> {
    let group = reader.group();
    let newest = named
        .keys()
        .map(|(epoch, _)| *epoch)
        .max()
        .max(branch.segments.keys().next_back().map(|(epoch, _)| *epoch))
        .unwrap_or_default();
    for epoch in (1..=newest.0).map(Epoch) {
        let has_segments =
            branch.segments.range((epoch, SegmentSeq(0))..=(epoch, SegmentSeq(u64::MAX))).next().is_some();
        if !named.contains_key(&(epoch, false)) {
            let key = epoch_name(group, branch.id, epoch, false);
            let why = "later epochs or segments of this epoch are there, and its claim isn't";
            relook(inquiry, reader, branch, (epoch, false), &key, why).await?;
        }
        if epoch.0 > 1 && !named.contains_key(&(epoch, true)) {
            let key = epoch_name(group, branch.id, epoch, true);
            let promoted = branch
                .intents
                .get(&epoch)
                .is_some_and(|intent| intent.purpose == Purpose::Fence && intent.promoted_to.is_some());
            if has_segments || epoch < newest {
                let why = "the epoch was written in, or ended, and what it cut off isn't said";
                relook(inquiry, reader, branch, (epoch, true), &key, why).await?;
            } else if promoted && !inquiry.is_there(&key).await? {
                inquiry
                    .note(&key, "the failover that claimed this epoch hasn't said yet what counts of the one before");
            } else {
                inquiry.note(
                    &key,
                    "whoever claimed this epoch hasn't said yet what counts of the one before; the next one will",
                );
            }
        }
    }
    Ok(())
}

/// Looks for an epoch object once more, and reports it when it is missing.
async fn relook(
    inquiry: &Inquiry,
    reader: &Reader,
    branch: &mut Branch,
    name: (Epoch, bool),
    key: &str,
    why: &str,
) -> Result<()> {
    match inquiry.get(key, 0, EPOCH_LEN_MAX).await? {
        Read::Gone => {
            let kind = if name.1 { CUT } else { INTENT };
            branch.close(inquiry.damage(Found::new(key, kind, Fault::Missing, why)));
        }
        read => take_epoch(inquiry, reader, branch, name, key, read),
    }
    Ok(())
}

fn epoch_name(group: GroupId, branch: BranchId, epoch: Epoch, cut: bool) -> String {
    if cut { names::cut(group, branch, epoch) } else { names::intent(group, branch, epoch) }
}

/// Parents before their children. Branches of a circle, which only damage makes, come last.
fn in_order(mut branches: Vec<Branch>) -> Vec<Branch> {
    let mut ordered: Vec<Branch> = Vec::with_capacity(branches.len());
    let mut done: HashSet<BranchId> = HashSet::new();
    let all: HashSet<BranchId> = branches.iter().map(|branch| branch.id).collect();
    branches.sort_by_key(|branch| branch.id);
    while !branches.is_empty() {
        let ready = |branch: &Branch, done: &HashSet<BranchId>| {
            branch.origin().is_none_or(|origin| done.contains(&origin.branch) || !all.contains(&origin.branch))
        };
        let (now, later): (Vec<Branch>, Vec<Branch>) = branches.into_iter().partition(|branch| ready(branch, &done));
        let stuck = now.is_empty();
        branches = later;
        let now = if stuck { std::mem::take(&mut branches) } else { now };
        done.extend(now.iter().map(|branch| branch.id));
        ordered.extend(now);
    }
    ordered
}

/// Where children fork off: by parent, then (epoch, segment, point).
pub(super) type Forks = HashMap<BranchId, Vec<(BranchId, Origin)>>;

pub(super) fn forks(branches: &[Branch]) -> Forks {
    let mut forks = Forks::new();
    for branch in branches {
        if let Some(origin) = branch.origin() {
            forks.entry(origin.branch).or_default().push((branch.id, origin));
        }
    }
    forks
}

/// Where a branch begins: empty, or as its parent was at the fork.
pub(super) fn beginning(inquiry: &Inquiry, reader: &Reader, branch: &Branch, known: &mut Known) -> Standing {
    let Some(origin) = branch.origin() else {
        let mut standing = Standing::empty(Lsn::ZERO);
        if branch.intents.is_empty() {
            // Without its first epoch nobody can say what the branch begins with.
            standing.broken = branch.closed_by;
        }
        return standing;
    };
    if let Some(standing) = known.forked.remove(&branch.id) {
        return standing;
    }
    let key = names::intent(reader.group(), branch.id, Epoch(1));
    let detail = format!(
        "the branch forks from segment {} of epoch {} of {}, at position {}, and that history has no such place",
        origin.seq, origin.epoch, origin.branch, origin.lsn
    );
    let fault = if known.branches.contains(&origin.branch) { Fault::Contradiction } else { Fault::Missing };
    let mut standing = Standing::empty(origin.lsn);
    standing.broken = Some(inquiry.damage(Found::new(&key, INTENT, fault, detail)));
    standing
}
