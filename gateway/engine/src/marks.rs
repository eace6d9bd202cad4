//! What people say of single points: pins and labels.
//!
//! A mark is a record in the vault with a revision; the newest counts. It repeats where the point stands, so that a pinned
//! point is listed whatever became of the lists that it was on. Every gateway sees it, and so does whoever collects garbage:
//! a pinned point is kept until it is unpinned or its time is over.
//!
//! Order: the pin is written first, then the list of kept points is read. A point that was dropped in between is refused,
//! and the pin taken back; the argument why one side always sees the other is in `gc.rs`. A crash between the two leaves a
//! pin on a point that may be gone: it protects what is left and offers nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::LABEL_BYTES_MAX;
use lifeboat_format::gc::{KeptPosition, PointMark, RECORD_LEN_MAX};
use lifeboat_model::{BranchId, GatewayId, GroupId, PointId, Timestamp};
use lifeboat_vault::{Vault, create_exact};

use crate::branch::{self, Position};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::{Kept, record_place};
use crate::points::{PointInfo, find_point_with};
use crate::segments::{Reader, ReaderLimits, names};

/// Marks read at a time.
const PARALLEL: usize = 32;

/// A pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Until when; for good without.
    pub until: Option<Timestamp>,
    /// Why; at most 255 bytes.
    pub reason: String,
}

/// Pins a point: no retention schedule drops it before `pin.until`.
///
/// # Errors
/// `NotFound` for a point that isn't offered, also if it was dropped at the same moment; `Invalid` for a reason that is too
/// long; `Retry` when the vault can't be reached.
pub async fn pin(
    vault: &Arc<Vault>,
    group: GroupId,
    point: PointId,
    gateway: GatewayId,
    pin: &Pin,
) -> Result<PointInfo> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    check_text("reason", &pin.reason)?;
    let found = change(&reader, point, gateway, |mark| {
        mark.pinned = true;
        mark.until = pin.until;
        mark.reason.clone_from(&pin.reason);
    })
    .await?;
    if Kept::read(&reader).await?.offers(&found) {
        return Ok(found);
    }
    change_known(&reader, &found, gateway, |mark| mark.pinned = false).await?;
    Err(EngineError::new(
        ErrorKind::NotFound,
        format!("point {point} was dropped by the retention schedule a moment ago: choose another one"),
    ))
}

/// Takes a pin back: from then on the retention schedule decides. Without a pin nothing changes.
///
/// # Errors
/// As [`pin`].
pub async fn unpin(vault: &Arc<Vault>, group: GroupId, point: PointId, gateway: GatewayId) -> Result<PointInfo> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    change(&reader, point, gateway, |mark| {
        mark.pinned = false;
        mark.until = None;
    })
    .await
}

/// Calls a point by another name; at most 255 bytes.
///
/// # Errors
/// As [`pin`].
pub async fn relabel(
    vault: &Arc<Vault>,
    group: GroupId,
    point: PointId,
    gateway: GatewayId,
    label: &str,
) -> Result<PointInfo> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    check_text("label", label)?;
    change(&reader, point, gateway, |mark| label.clone_into(&mut mark.label)).await
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let len = text.len();
    Err(EngineError::new(
        ErrorKind::Invalid,
        format!("a {what} has at most {LABEL_BYTES_MAX} bytes and no control characters, this one has {len}"),
    ))
}

async fn change(
    reader: &Reader,
    point: PointId,
    gateway: GatewayId,
    apply: impl Fn(&mut PointMark) + Send + Sync,
) -> Result<PointInfo> {
    let found = find_point_with(reader, point).await?;
    change_known(reader, &found, gateway, apply).await
}

/// Writes the next revision; whoever else does so at the same moment is gone on top of.
async fn change_known(
    reader: &Reader,
    point: &PointInfo,
    gateway: GatewayId,
    apply: impl Fn(&mut PointMark) + Send + Sync,
) -> Result<PointInfo> {
    for _ in 0..16 {
        let known = Marks::read(reader).await?.marks.remove(&point.id);
        let now = reader.vault().now();
        let mut mark = known.unwrap_or_else(|| fresh(point));
        apply(&mut mark);
        mark.revision = mark.revision.saturating_add(1);
        (mark.gateway, mark.time) = (gateway, now);
        let key = names::mark(reader.group(), point.id, mark.revision);
        let bytes = mark
            .encode(&record_place(reader, &key), branch::random(reader.vault())?, reader.key())
            .map_err(|error| cause::object(&key, error))?;
        match create_exact(&**reader.vault().store(), &key, Bytes::from(bytes)).await {
            Ok(_) => return Ok(PointInfo { pinned: is_pinned(&mark, now), label: mark.label, ..point.clone() }),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(cause::store(error)),
        }
    }
    Err(EngineError::new(
        ErrorKind::Retry,
        format!("point {} was marked by others 16 times at the same moment: try again", point.id),
    ))
}

fn fresh(point: &PointInfo) -> PointMark {
    PointMark {
        revision: 0,
        gateway: GatewayId::from_bytes([0; 16]),
        time: Timestamp::default(),
        point: point.id,
        branch: point.branch,
        at: KeptPosition { epoch: point.epoch, seq: point.seq, lsn: point.lsn },
        taken: point.time,
        kind: point.kind,
        label: point.label.clone(),
        pinned: false,
        until: None,
        reason: String::new(),
    }
}

fn is_pinned(mark: &PointMark, now: Timestamp) -> bool {
    mark.pinned && mark.until.is_none_or(|until| until > now)
}

/// The newest mark of every point that has one.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) marks: HashMap<PointId, PointMark>,
}

impl Marks {
    /// Reads them: one listing, and what the reader hasn't read before.
    pub(crate) async fn read(reader: &Reader) -> Result<Self> {
        let found = reader.vault().store().list(&names::marks(reader.group())).await.map_err(cause::store)?;
        let mut newest: BTreeMap<PointId, u64> = BTreeMap::new();
        for (point, revision) in found.iter().filter_map(|object| names::parse_mark(&object.key)) {
            let known = newest.entry(point).or_default();
            *known = revision.max(*known);
        }
        let marks = stream::iter(newest)
            .map(|(point, revision)| async move {
                let key = names::mark(reader.group(), point, revision);
                let bytes = match reader.small(&key, RECORD_LEN_MAX).await {
                    Ok(bytes) => bytes,
                    // Deleted since the listing: nobody pins the point, and nobody lists it.
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                };
                let mark = PointMark::decode(&bytes, &record_place(reader, &key), reader.key())
                    .map_err(|error| cause::object(&key, error))?;
                if mark.point != point || mark.revision != revision {
                    return Err(cause::tampered(format!("{key} speaks of another point or revision")));
                }
                Ok(Some((point, mark)))
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|mark| async move { Ok::<_, EngineError>(mark) })
            .try_collect()
            .await?;
        Ok(Self { marks })
    }

    /// The pins that hold.
    pub(crate) fn pins(&self, now: Timestamp) -> impl Iterator<Item = &PointMark> + '_ {
        self.marks.values().filter(move |mark| is_pinned(mark, now))
    }

    /// Lays pins and labels over the points of a branch up to `until`, and adds pinned ones that no list has any more.
    pub(crate) fn lay_over(
        &self,
        kept: &Kept,
        now: Timestamp,
        branch: BranchId,
        until: Position,
        points: &mut Vec<PointInfo>,
    ) {
        for point in points.iter_mut() {
            if let Some(mark) = self.marks.get(&point.id) {
                point.label.clone_from(&mark.label);
                point.pinned = is_pinned(mark, now);
            }
        }
        let within = |mark: &PointMark| {
            mark.branch == branch
                && (mark.at.epoch, mark.at.seq) <= (until.epoch, until.seq)
                && mark.at.lsn <= until.lsn
        };
        let group = points.first().map(|point| point.group);
        let missing: Vec<PointInfo> = self
            .pins(now)
            .filter(|mark| within(mark) && points.iter().all(|point| point.id != mark.point))
            .map(|mark| listed(mark, group.unwrap_or(kept.group())))
            .filter(|point| kept.offers(point))
            .collect();
        if !missing.is_empty() {
            points.extend(missing);
            points.sort_by_key(|point| (point.lsn, point.id));
        }
    }
}

fn listed(mark: &PointMark, group: GroupId) -> PointInfo {
    let PointMark { point, branch, at, taken, kind, label, .. } = mark.clone();
    PointInfo {
        id: point,
        group,
        branch,
        epoch: at.epoch,
        seq: at.seq,
        lsn: at.lsn,
        time: taken,
        kind,
        label,
        pinned: true,
        consistent: true,
    }
}
