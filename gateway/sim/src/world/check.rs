//! What a third party sees: with the vault and its key alone, every recovery point of every branch.

use lifeboat_engine::branch::{self, Position};
use lifeboat_engine::points::{PointInfo, list_points_with};
use lifeboat_engine::segments::{Reader, ReaderLimits};
use lifeboat_engine::view::PointView;
use lifeboat_format::hash::{BlockHasher, RootHasher};
use lifeboat_model::RootHash;

use super::*;

impl World {
    /// A vault handle that shares nothing with the gateways.
    pub(super) fn blank_reader(&self) -> Checked<Arc<Vault>> {
        vault_at(self.store.perfect_link(), false, self.seed ^ 0xb1a4, 0)
            .map_err(|error| Violation(format!("a third party can't open the vault: {error}")))
    }

    /// Contents at a position.
    pub(super) async fn stamps_at(&self, vault: &Arc<Vault>, at: Position) -> Result<Stamps, EngineError> {
        let reader = Reader::open(vault, GROUP, ReaderLimits::default()).await?;
        let view = PointView::open_at(&reader, at).await?;
        self.view_stamps(&view).await
    }

    async fn view_stamps(&self, view: &Arc<PointView>) -> Result<Stamps, EngineError> {
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
        let fail = |error: EngineError| Violation(format!("the vault can't be read: {:?}: {error}", error.kind()));
        if let Some(first) = self.store.violations().first() {
            return Err(Violation(first.clone()));
        }
        let vault = self.blank_reader()?;
        if vault.existing_group_key(GROUP).await.is_err() {
            return Ok(());
        }
        let reader = Reader::open(&vault, GROUP, ReaderLimits::default()).await.map_err(fail)?;
        let branches = branch::list_branches_with(&reader).await.map_err(fail)?;
        for info in branches {
            let points = match list_points_with(&reader, info.id).await {
                Ok(points) => points,
                // A cut that its claimer has not written yet.
                Err(error) if error.kind() == ErrorKind::Retry => continue,
                Err(error) => return Err(fail(error)),
            };
            let mut before = Lsn::ZERO;
            for point in &points {
                promise!(point.lsn > before, "points of {} are out of order at {}", info.id, point.lsn);
                before = point.lsn;
                if point.branch == info.id {
                    self.check_point(&reader, point).await?;
                }
            }
            let confirmed: Vec<Confirmed> = {
                let known = self.known.borrow();
                known.confirmed.iter().filter(|one| one.branch == info.id).cloned().collect()
            };
            for one in confirmed {
                promise!(
                    points.iter().any(|point| point.id == one.point),
                    "the point at {} of {} had landed, and is not in its history",
                    one.lsn,
                    info.id
                );
            }
        }
        Ok(())
    }

    async fn check_point(&self, reader: &Arc<Reader>, point: &PointInfo) -> Checked {
        let fail = |error: EngineError| {
            Violation(format!("the point at {} of {} can't be read: {error}", point.lsn, point.branch))
        };
        let view = PointView::open_point(reader, point).await.map_err(fail)?;
        let found = self.view_stamps(&view).await.map_err(fail)?;
        self.tally.borrow_mut().points_compared += 1;
        let histories: Vec<usize> = {
            let known = self.known.borrow();
            match known.of_branch.get(&point.branch) {
                Some(history) => vec![*history],
                // An orphan branch whose maker died before it could say its name.
                None => (0..known.histories.len()).collect(),
            }
        };
        let matches = histories.iter().any(|history| {
            self.history(*history, |history| {
                let (least, most) = history.held_at(point.lsn);
                history.find(&found, least, most).is_some()
            })
        });
        if !matches {
            let (least, most) = self.history(histories[0], |history| history.held_at(point.lsn));
            let expected = self.history(histories[0], |history| history.state(most));
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
            let expected = self.root_of(reader, volume.id, &found[at]).await?;
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
        let fail = |error: EngineError| Violation(format!("the tail of {} can't be read: {error}", self.name(gateway)));
        let vault = self.blank_reader()?;
        let kept = self.history(local, |history| history.flushed);
        let branch = orphan.or_else(|| {
            let known = self.known.borrow();
            known.of_branch.iter().find(|(_, history)| **history == local).map(|(branch, _)| *branch)
        });
        // Its branch went on in other hands: it was released in good order, or it is another's by now.
        let Some(branch) = branch else { return Ok(()) };
        self.known.borrow_mut().of_branch.insert(branch, local);
        let end = branch::log_end(&vault, GROUP, branch).await.map_err(fail)?;
        let found = self.stamps_at(&vault, end).await.map_err(fail)?;
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
