//! Beginning a tenure: claim the epoch, cut the one before, find the state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lifeboat_format::epoch::Purpose;
use lifeboat_format::segment::SegmentHash;
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, SegmentSeq};
use lifeboat_vault::Vault;

use super::map::Maps;
use super::{BranchWriter, Fenced, Open, Opened, ShipError, ShipSettings, Working, fenced_by};
use crate::branch::{Ahead, BranchLog, Claim, End, Origin, Position, State, Target, claim_epoch, complete_cuts};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::Kept;
use crate::segments::{Reader, ReaderLimits};

impl BranchWriter {
    /// Begins a tenure: claims an epoch, says where the one before ended, and reads the state there. Keys of the group
    /// are made if it has none yet.
    ///
    /// # Errors
    /// `Fenced` when another gateway has the branch ([`Open::Resume`]) or claimed it at the same moment; `Retry` when the
    /// vault can't be reached: call again with the same arguments; `NotFound` for a branch or an origin that isn't there;
    /// `Tampered` when the history fails its checks.
    pub async fn open(
        vault: &Arc<Vault>,
        group: GroupId,
        branch: BranchId,
        gateway: GatewayId,
        open: Open,
        settings: ShipSettings,
    ) -> Result<(Self, Opened), ShipError> {
        if matches!(open, Open::New { origin: None }) {
            vault.group_key(group).await.map_err(cause::vault)?;
        }
        let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
        Self::open_with(reader, branch, gateway, open, settings).await
    }

    /// [`Self::open`] through a reader, whose caches then serve this writer too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        reader: Arc<Reader>,
        branch: BranchId,
        gateway: GatewayId,
        open: Open,
        settings: ShipSettings,
    ) -> Result<(Self, Opened), ShipError> {
        let epoch = match open {
            Open::New { origin } => claim_new(&reader, branch, gateway, origin).await?,
            Open::Continue => {
                let log = BranchLog::read(&reader, branch).await?;
                refuse_dropped(&log)?;
                claim_next(&reader, branch, gateway, log.newest()).await?
            }
            Open::Unchallenged { epoch } => {
                let log = BranchLog::read(&reader, branch).await?;
                refuse_dropped(&log)?;
                if log.newest() > epoch {
                    return Err(ShipError::Fenced(fenced_by(&reader, branch, log.newest()).await?));
                }
                if log.newest() < epoch {
                    return Err(rolled_back(branch, log.newest(), epoch).into());
                }
                claim_next(&reader, branch, gateway, epoch).await?
            }
            Open::Resume { epoch, durable_lsn } => {
                let log = BranchLog::read(&reader, branch).await?;
                refuse_dropped(&log)?;
                check_resume(&reader, &log, gateway, epoch, durable_lsn).await?;
                claim_next(&reader, branch, gateway, log.newest()).await?
            }
        };
        let log = complete_cuts(&reader, branch, epoch).await?;
        let End { position, hash } = log.end(&reader, Epoch(epoch.0.saturating_sub(1)).max(Epoch(1))).await?;
        let state = load(&reader, position).await?;
        if state.hash != hash {
            return Err(cause::tampered(format!("the log of branch {branch} doesn't end as its cut says")).into());
        }
        Ok(Self::begin(reader, gateway, settings, epoch, position, state))
    }

    /// [`Self::open`] of a new branch, where the state that it forks from has been read: the branch stands there, so that
    /// nothing of it has to be read again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn fork(
        reader: Arc<Reader>,
        branch: BranchId,
        gateway: GatewayId,
        origin: Origin,
        mut state: State,
        settings: ShipSettings,
    ) -> Result<(Self, Opened), ShipError> {
        let claim = Claim { writer: gateway, purpose: Purpose::Write, origin: Some(origin), promoted_to: None };
        if claim_epoch(&reader, branch, Epoch(1), claim).await?.is_none() {
            // An earlier try's, which may have written to it.
            return Self::open_with(reader, branch, gateway, Open::New { origin: Some(origin) }, settings).await;
        }
        check_origin(&reader, branch, gateway, Some(origin)).await?;
        state.points.clear();
        state.hash = SegmentHash::ZERO;
        let at = Position { branch, epoch: Epoch(1), seq: SegmentSeq(0), lsn: origin.at.lsn };
        Ok(Self::begin(reader, gateway, settings, Epoch(1), at, state))
    }

    /// A tenure of an epoch that was claimed, on a branch whose log ends at `end` in that state.
    fn begin(
        reader: Arc<Reader>,
        gateway: GatewayId,
        settings: ShipSettings,
        epoch: Epoch,
        end: Position,
        state: State,
    ) -> (Self, Opened) {
        let shipped = Position { branch: end.branch, epoch, seq: SegmentSeq(0), lsn: end.lsn };
        let opened = Opened {
            epoch,
            end,
            last_point: state.points.last().cloned(),
            volumes: state.volumes.iter().map(|(volume, state)| (*volume, state.changes.blocks())).collect(),
        };
        let maps = Maps::new(reader.vault().now(), state.segments);
        let writer = Self {
            reader,
            settings,
            gateway,
            shipped,
            hash: state.hash,
            working: Working::Loaded(state.volumes),
            pending: None,
            points: state.points,
            maps,
            fenced: None,
            to_carry: VecDeque::new(),
            measures: BTreeMap::new(),
            checks: super::sample::Checks::default(),
            totals: super::Totals::default(),
        };
        (writer, opened)
    }
}

async fn load(reader: &Reader, position: Position) -> Result<State> {
    State::load(reader, Target { position, point: None }, Ahead::Nothing).await
}

/// Claims epoch 1 of a fresh branch, or goes on with one that this gateway began.
async fn claim_new(
    reader: &Reader,
    branch: BranchId,
    gateway: GatewayId,
    origin: Option<Origin>,
) -> Result<Epoch, ShipError> {
    if let Some(origin) = origin {
        refuse_unkept(reader, &origin).await?;
        // A branch whose origin can't be read would be a branch that nobody can open.
        State::load(reader, Target { position: origin.at, point: origin.point }, Ahead::Nothing).await?;
    }
    let claim = Claim { writer: gateway, purpose: Purpose::Write, origin, promoted_to: None };
    if claim_epoch(reader, branch, Epoch(1), claim).await?.is_some() {
        check_origin(reader, branch, gateway, origin).await?;
        return Ok(Epoch(1));
    }
    let log = BranchLog::read(reader, branch).await?;
    refuse_dropped(&log)?;
    refuse_others(&log, Epoch(0), gateway)?;
    if log.origin() != origin {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!("branch {branch} exists and forks elsewhere: give a new branch a new id"),
        )
        .into());
    }
    check_origin(reader, branch, gateway, origin).await?;
    claim_next(reader, branch, gateway, log.newest()).await
}

fn refuse_dropped(log: &BranchLog) -> Result<()> {
    if log.dropped { Err(crate::points::given_up(log.branch)) } else { Ok(()) }
}

/// Whether the fork's position is still kept, asked once the branch stands: whoever collects garbage either sees the branch,
/// or had dropped the position before, which is seen here (the argument is in `gc.rs`). A branch that may not be is given
/// up.
async fn check_origin(reader: &Reader, branch: BranchId, gateway: GatewayId, origin: Option<Origin>) -> Result<()> {
    let Some(origin) = origin else { return Ok(()) };
    match refuse_unkept(reader, &origin).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            crate::branch::give_up(reader, branch, gateway).await?;
            Err(error)
        }
        done => done,
    }
}

pub(crate) async fn refuse_unkept(reader: &Reader, origin: &Origin) -> Result<()> {
    let (kept, parent) = futures::try_join!(Kept::read(reader), BranchLog::read(reader, origin.at.branch))?;
    if kept.allows(origin) && !parent.dropped {
        return Ok(());
    }
    Err(EngineError::new(
        ErrorKind::NotFound,
        format!(
            "position {} of branch {} is no longer kept: the retention schedule has dropped it; fork at a point that is listed",
            origin.at.lsn, origin.at.branch
        ),
    ))
}

/// Claims the epoch after `newest`; whoever was faster has the branch.
async fn claim_next(reader: &Reader, branch: BranchId, gateway: GatewayId, newest: Epoch) -> Result<Epoch, ShipError> {
    let epoch = newest.next();
    let claim = Claim { writer: gateway, purpose: Purpose::Write, origin: None, promoted_to: None };
    if claim_epoch(reader, branch, epoch, claim).await?.is_some() {
        Ok(epoch)
    } else {
        Err(ShipError::Fenced(fenced_by(reader, branch, epoch).await?))
    }
}

/// Refuses if another gateway has claimed an epoch after `epoch`.
fn refuse_others(log: &BranchLog, epoch: Epoch, gateway: GatewayId) -> Result<(), ShipError> {
    let other = log.epochs.iter().rev().find(|entry| {
        entry.intent.place.epoch > epoch && (entry.intent.writer != gateway || entry.intent.purpose == Purpose::Fence)
    });
    match other {
        None => Ok(()),
        Some(entry) => Err(ShipError::Fenced(Fenced {
            by_epoch: entry.intent.place.epoch,
            gateway: entry.intent.writer,
            promoted_to: entry.intent.promoted_to,
        })),
    }
}

fn rolled_back(branch: BranchId, newest: Epoch, opened: Epoch) -> EngineError {
    cause::tampered(format!(
        "branch {branch} has no epoch after {newest}, but this gateway opened epoch {opened}: the vault was rolled back"
    ))
}

async fn check_resume(
    reader: &Reader,
    log: &BranchLog,
    gateway: GatewayId,
    epoch: Epoch,
    durable_lsn: lifeboat_model::Lsn,
) -> Result<(), ShipError> {
    refuse_others(log, epoch, gateway)?;
    let branch = log.branch;
    if log.newest() < epoch {
        return Err(rolled_back(branch, log.newest(), epoch).into());
    }
    let end = log.end(reader, log.newest()).await?;
    if end.position.lsn > durable_lsn {
        return Err(EngineError::new(
            ErrorKind::Damaged,
            format!(
                "the vault holds branch {branch} up to position {}, this gateway's journal only up to {durable_lsn}: \
                 its disks were rolled back or replaced; rehydrate the group from the vault",
                end.position.lsn
            ),
        )
        .into());
    }
    Ok(())
}
