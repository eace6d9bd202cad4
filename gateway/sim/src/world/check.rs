//! What a third party sees: with the vault and its key alone, every recovery point of every branch.

use lifeboat_engine::branch::{self, BranchInfo};
use lifeboat_engine::points::list_points_with;
use lifeboat_engine::segments::{Reader, ReaderLimits};
use lifeboat_engine::view::PointView;
use lifeboat_format::hash::{BlockHasher, RootHasher};
use lifeboat_model::RootHash;

use super::*;

/// What was read, or the end of the function with `$otherwise`: a store that broke its promises may have lost what is asked
/// for, and only what is shown has to be right. Of any other store it is a violation.
macro_rules! readable {
    ($world:expr, $outcome:expr, $otherwise:expr, $($what:tt)+) => {
        match $outcome {
            Ok(found) => found,
            Err(error) => {
                let text = format!("{} can't be read: {error}", format_args!($($what)+));
                $world.note(text.clone());
                promise!($world.lenient, "{text}");
                return Ok($otherwise);
            }
        }
    };
}
pub(super) use readable;

impl World {
    /// A vault handle that shares nothing with the gateways.
    pub(super) fn blank_reader(&self) -> Checked<Arc<Vault>> {
        vault_at(self.store.perfect_link(), false, self.seed ^ 0xb1a4, 0)
            .map_err(|error| Violation(format!("a third party can't open the vault: {error}")))
    }

    /// Contents at a branch's end; none when a store that broke its promises has lost it.
    pub(super) async fn stamps_at_end(&self, branch: BranchId) -> Checked<Option<Stamps>> {
        let vault = readable!(self, self.blank_reader(), None, "the vault");
        let end = readable!(self, branch::log_end(&vault, GROUP, branch).await, None, "the end of {branch}");
        Ok(Some(readable!(self, self.stamps_at(&vault, end).await, None, "the content of {branch}")))
    }

    /// Contents at a position.
    pub(super) async fn stamps_at(&self, vault: &Arc<Vault>, at: Position) -> Result<Stamps, EngineError> {
        let reader = Reader::open(vault, GROUP, ReaderLimits::default()).await?;
        let view = PointView::open_at(&reader, at).await?;
        self.view_stamps(&view).await
    }

    pub(super) async fn view_stamps(&self, view: &Arc<PointView>) -> Result<Stamps, EngineError> {
        let mut stamps = Vec::new();
        for volume in 0..VOLUMES {
            stamps.push(match view.volume(volume_id(volume)) {
                Some(volume) => stamps_of(&volume).await?,
                None => Vec::new(),
            });
        }
        Ok(stamps)
    }

    /// Every point of every branch equals a state of the history that it belongs to, and every point that was confirmed is
    /// there.
    pub(super) async fn check_vault(&self) -> Checked {
        if let Some(first) = self.store.violations().first() {
            return Err(Violation(first.clone()));
        }
        let vault = readable!(self, self.blank_reader(), (), "the vault");
        if vault.existing_group_key(GROUP).await.is_err() {
            return Ok(());
        }
        let reader = Reader::open(&vault, GROUP, ReaderLimits::default()).await;
        let reader = readable!(self, reader, (), "the group's keys");
        let branches = readable!(self, branch::list_branches_with(&reader).await, (), "the list of branches");
        for info in branches {
            let points = match list_points_with(&reader, info.id).await {
                Ok(points) => points,
                // A cut that its claimer has not written yet.
                Err(error) if error.kind() == ErrorKind::Retry => continue,
                Err(error) => readable!(self, Err(error), (), "the points of {}", info.id),
            };
            let mut before = Lsn::ZERO;
            for point in &points {
                promise!(point.lsn > before, "points of {} are out of order at {}", info.id, point.lsn);
                before = point.lsn;
                if point.branch == info.id {
                    promise!(
                        self.lenient || is_within_cuts(&info, point),
                        "the point at {} lies behind the cut of epoch {} of {}, and is offered",
                        point.lsn,
                        point.epoch,
                        info.id
                    );
                    if self.looks_at(point, points.last()) {
                        self.check_point(&reader, point).await?;
                    }
                }
            }
            let confirmed: Vec<Confirmed> = {
                let known = self.known.borrow();
                known.confirmed.iter().filter(|one| one.branch == info.id && self.must_be_there(one)).cloned().collect()
            };
            for one in confirmed {
                promise!(
                    points.iter().any(|point| point.id == one.point),
                    "the point at {} of {} had landed, and is not in its history",
                    one.lsn,
                    info.id
                );
            }
            self.check_pins(&info, &points)?;
            if self.life.thins() {
                self.check_head(&reader, &info).await?;
            }
        }
        self.check_held().await
    }

    /// Whether a point is compared: all of them in a short life, in a long one the newest, the pinned, and some.
    fn looks_at(&self, point: &PointInfo, newest: Option<&PointInfo>) -> bool {
        !self.life.thins() || point.pinned || newest.is_some_and(|newest| newest.id == point.id) || self.one_in(4)
    }

    /// Whether no retention schedule can have dropped a point.
    fn must_be_there(&self, one: &Confirmed) -> bool {
        !self.life.thins() || store::now().seconds_since(one.at) <= long::YOUNG.as_secs_f64()
    }

    /// What was pinned is there and says so.
    fn check_pins(&self, info: &BranchInfo, points: &[PointInfo]) -> Checked {
        let known = self.known.borrow();
        for pinned in known.pinned.iter().filter(|pinned| pinned.branch == info.id) {
            promise!(
                points.iter().any(|point| point.id == pinned.id && point.pinned),
                "the point at {} of {} is pinned, and is not on its list",
                pinned.lsn,
                info.id
            );
        }
        Ok(())
    }

    /// The end of a branch is a state of the history that it belongs to.
    async fn check_head(&self, reader: &Arc<Reader>, info: &BranchInfo) -> Checked {
        let end = match branch::log_end_with(reader, info.id).await {
            Err(error) if error.kind() == ErrorKind::Retry => return Ok(()),
            end => readable!(self, end, (), "the end of {}", info.id),
        };
        let view = PointView::open_at(reader, end).await;
        let view = readable!(self, view, (), "the end of {} at {}", info.id, end.lsn);
        let found = self.view_stamps(&view).await;
        let found = readable!(self, found, (), "the content of {} at its end, {}", info.id, end.lsn);
        promise!(
            self.is_true_at(info.id, end.lsn, &found),
            "the end of {} at {} holds {}, which nobody wrote",
            info.id,
            end.lsn,
            shown(&found)
        );
        Ok(())
    }

    /// Whether a branch's history has had these contents at a record.
    pub(super) fn is_true_at(&self, branch: BranchId, lsn: Lsn, found: &Stamps) -> bool {
        self.histories_of(branch).into_iter().any(|history| {
            self.history(history, |history| {
                let (least, most) = history.held_at(lsn);
                history.find(found, least, most).is_some()
            })
        })
    }

    fn histories_of(&self, branch: BranchId) -> Vec<usize> {
        let known = self.known.borrow();
        match known.of_branch.get(&branch) {
            Some(history) => vec![*history],
            // An orphan branch whose maker died before it could say its name.
            None => (0..known.histories.len()).collect(),
        }
    }

    /// Whoever reads a point goes on reading it for as long as the grace is, whatever was dropped.
    async fn check_held(&self) -> Checked {
        let now = store::now();
        let held: Vec<Held> = {
            let mut known = self.known.borrow_mut();
            known.held.retain(|held| now.seconds_since(held.since) <= long::GRACE.as_secs_f64());
            known.held.clone()
        };
        if held.is_empty() {
            return Ok(());
        }
        let vault = readable!(self, self.blank_reader(), (), "the vault");
        for held in held {
            let found = self.stamps_at(&vault, held.at).await;
            let found = readable!(self, found, (), "what is being read since {:?} at {}", held.since, held.at.lsn);
            promise!(found == held.stamps, "what is being read at {} has changed", held.at.lsn);
        }
        Ok(())
    }

    async fn check_point(&self, reader: &Arc<Reader>, point: &PointInfo) -> Checked {
        let (lsn, branch) = (point.lsn, point.branch);
        let view = readable!(self, PointView::open_point(reader, point).await, (), "the point at {lsn} of {branch}");
        let found = readable!(self, self.view_stamps(&view).await, (), "the content of the point at {lsn} of {branch}");
        self.tally.borrow_mut().points_compared += 1;
        if !self.is_true_at(point.branch, point.lsn, &found) {
            let histories = self.histories_of(point.branch);
            let Some(first) = histories.first() else {
                return Err(Violation(format!(
                    "{} has a point at {}, and nobody wrote anything",
                    point.branch, point.lsn
                )));
            };
            let (least, most) = self.history(*first, |history| history.held_at(point.lsn));
            let expected = self.history(*first, |history| history.state(most));
            return Err(Violation(format!(
                "the point at {} of {} holds {}, no state after {least} to {most} operations; the last is {}",
                point.lsn,
                point.branch,
                shown(&found),
                shown(&expected)
            )));
        }
        for volume in view.volumes() {
            let Some(at) = (0..VOLUMES).find(|at| volume_id(*at) == volume.id) else { continue };
            let expected = self.root_of(reader, volume.id, &found[at]).await;
            let expected = readable!(self, expected, (), "the key of volume {at}");
            promise!(
                volume.root == Some(expected),
                "the point at {} says another root hash of volume {at} than its content has",
                point.lsn
            );
        }
        Ok(())
    }

    async fn root_of(&self, reader: &Arc<Reader>, volume: VolumeId, stamps: &[u64]) -> Checked<RootHash> {
        let keys = reader.vault().volume_keys(volume).await;
        let keys = keys.map_err(|error| Violation(format!("the keys of {volume} can't be read: {error}")))?;
        let mut hasher = RootHasher::new(BlockHasher::new(&keys.keys.hash), stamps.len() as u64);
        let defect = |error| Violation(format!("hashing: {error}"));
        for stamp in stamps {
            let bytes = bytes_of(&[*stamp]);
            match bytes.first_chunk() {
                Some(block) => hasher.push(block).map_err(defect)?,
                None => continue,
            }
        }
        hasher.finish().map_err(defect)
    }

    /// What a gateway wrote and the branch that goes on doesn't have is on its orphan branch, to the last operation.
    pub(super) async fn check_tail(&self, gateway: usize, local: usize, orphan: Option<BranchId>) -> Checked {
        let vault = readable!(self, self.blank_reader(), (), "the vault");
        let kept = if self.lenient { 0 } else { self.history(local, |history| history.flushed) };
        let branch = orphan.or_else(|| {
            let known = self.known.borrow();
            known.of_branch.iter().find(|(_, history)| **history == local).map(|(branch, _)| *branch)
        });
        // Its branch went on in other hands: it was released in good order, or it is another's by now.
        let Some(branch) = branch else { return Ok(()) };
        self.known.borrow_mut().of_branch.insert(branch, local);
        let end = readable!(self, branch::log_end(&vault, GROUP, branch).await, (), "the end of {branch}");
        let found = readable!(self, self.stamps_at(&vault, end).await, (), "the tail of {}", self.name(gateway));
        let most = self.history(local, |history| history.len());
        promise!(
            self.history(local, |history| history.find(&found, kept, most)).is_some(),
            "{}: {} of its operations had to be kept; the end of {branch} holds {}, the last state is {}",
            self.name(gateway),
            kept,
            shown(&found),
            shown(&self.history(local, |history| history.state(most)))
        );
        Ok(())
    }
}

/// What lies behind the cut of its epoch is in nobody's history.
fn is_within_cuts(info: &BranchInfo, point: &PointInfo) -> bool {
    let next = info.epochs.iter().find(|epoch| epoch.epoch == point.epoch.next());
    next.and_then(|next| next.cut).is_none_or(|cut| point.seq <= cut.seq)
}
