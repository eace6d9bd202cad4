//! The names of a group's objects, and reading them back. A name that doesn't read back belongs to something else and
//! is left alone.

use lifeboat_format::map::MapObjectRef;
use lifeboat_model::{BranchId, Epoch, GroupId, Lsn, MapId, PointId, SegmentId, SegmentSeq};

/// Below it is everything of a group.
pub(crate) fn group(group: GroupId) -> String {
    format!("groups/{group}")
}

/// Below it are the lists of kept points.
pub(crate) fn kept(group: GroupId) -> String {
    format!("groups/{group}/gc/kept")
}

/// A list of kept points.
pub(crate) fn kept_revision(group: GroupId, revision: u64) -> String {
    format!("groups/{group}/gc/kept/{revision:012}")
}

/// Below it are the delete intents.
pub(crate) fn delete_intents(group: GroupId) -> String {
    format!("groups/{group}/gc/intent")
}

/// A delete intent.
pub(crate) fn delete_intent(group: GroupId, revision: u64) -> String {
    format!("groups/{group}/gc/intent/{revision:012}")
}

/// Below it are the marks of points.
pub(crate) fn marks(group: GroupId) -> String {
    format!("groups/{group}/marks")
}

/// A revision of a point's mark.
pub(crate) fn mark(group: GroupId, point: PointId, revision: u64) -> String {
    format!("groups/{group}/marks/{point}-{revision:06}")
}

/// Says that a branch was given up. It stands among the branch's epochs, so that whoever lists those sees it.
pub(crate) fn dropped(group: GroupId, branch: BranchId) -> String {
    format!("groups/{group}/{branch}/epoch/dropped")
}

/// Revision of a list of kept points, or of a delete intent.
pub(crate) fn parse_revision(key: &str) -> Option<u64> {
    number(key.rsplit('/').next()?, 12)
}

/// Point and revision of a mark.
pub(crate) fn parse_mark(key: &str) -> Option<(PointId, u64)> {
    let (point, revision) = key.rsplit('/').next()?.rsplit_once('-')?;
    Some((point.parse().ok()?, number(revision, 6)?))
}

/// Below it are a branch's epochs.
pub(crate) fn epochs(group: GroupId, branch: BranchId) -> String {
    format!("groups/{group}/{branch}/epoch")
}

/// The claim of an epoch.
pub(crate) fn intent(group: GroupId, branch: BranchId, epoch: Epoch) -> String {
    format!("groups/{group}/{branch}/epoch/{:08}", epoch.0)
}

/// The cut that the opener of `epoch` made.
pub(crate) fn cut(group: GroupId, branch: BranchId, epoch: Epoch) -> String {
    format!("groups/{group}/{branch}/epoch/{:08}.cut", epoch.0)
}

/// Below it is a branch's log.
pub(crate) fn log(group: GroupId, branch: BranchId) -> String {
    format!("groups/{group}/{branch}/log")
}

/// A segment.
pub(crate) fn segment(group: GroupId, id: SegmentId) -> String {
    format!("groups/{group}/{}/log/{:08}-{:012}", id.branch, id.epoch.0, id.seq.0)
}

/// Below it are the rebuilt ones of a segment.
pub(crate) fn rebuilt_of(group: GroupId, id: SegmentId) -> String {
    format!("{}/{:08}-{:012}", rebuilt_all(group, id.branch), id.epoch.0, id.seq.0)
}

/// Below it are the rebuilt segments of a branch.
pub(crate) fn rebuilt_all(group: GroupId, branch: BranchId) -> String {
    format!("groups/{group}/{branch}/rebuilt")
}

/// A rebuilt segment.
pub(crate) fn rebuilt(group: GroupId, id: SegmentId, generation: u64) -> String {
    format!("{}/{generation:06}", rebuilt_of(group, id))
}

/// Below it are a branch's maps.
pub(crate) fn maps(group: GroupId, branch: BranchId) -> String {
    format!("groups/{group}/{branch}/map")
}

/// A map object.
pub(crate) fn map(group: GroupId, branch: BranchId, lsn: Lsn, id: MapId) -> String {
    format!("groups/{group}/{branch}/map/{:020}-{id}", lsn.0)
}

/// The map object that a node is in.
pub(crate) fn map_of(group: GroupId, object: &MapObjectRef) -> String {
    map(group, object.branch, object.lsn, object.id)
}

/// Epoch, and whether it is the cut.
pub(crate) fn parse_epoch(key: &str) -> Option<(Epoch, bool)> {
    let name = key.rsplit('/').next()?;
    let (digits, cut) = name.strip_suffix(".cut").map_or((name, false), |digits| (digits, true));
    Some((Epoch(number(digits, 8)?), cut))
}

/// Epoch and number of a segment.
pub(crate) fn parse_segment(key: &str) -> Option<(Epoch, SegmentSeq)> {
    let (epoch, seq) = key.rsplit('/').next()?.split_once('-')?;
    Some((Epoch(number(epoch, 8)?), SegmentSeq(number(seq, 12)?)))
}

/// Epoch and number of the segment that a rebuilt one stands for, and its generation.
pub(crate) fn parse_rebuilt(key: &str) -> Option<(Epoch, SegmentSeq, u64)> {
    let (segment, generation) = key.rsplit_once('/')?;
    let (epoch, seq) = parse_segment(segment)?;
    Some((epoch, seq, number(generation, 6)?))
}

/// Position and id of a map object.
pub(crate) fn parse_map(key: &str) -> Option<(Lsn, MapId)> {
    let (lsn, id) = key.rsplit('/').next()?.split_once('-')?;
    Some((Lsn(number(lsn, 20)?), id.parse().ok()?))
}

/// A number in at least `width` digits; more only where it needs them.
fn number(digits: &str, width: usize) -> Option<u64> {
    let plain = digits.len() >= width && digits.bytes().all(|byte| byte.is_ascii_digit());
    let padded = digits.len() > width && digits.starts_with('0');
    (plain && !padded).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_left_alone() {
        let (group, branch) = (GroupId::from_bytes([1; 16]), BranchId::from_bytes([2; 16]));
        let id = SegmentId { branch, epoch: Epoch(7), seq: SegmentSeq(12_345_678_901) };
        assert_eq!(parse_segment(&segment(group, id)), Some((id.epoch, id.seq)));
        assert_eq!(parse_rebuilt(&rebuilt(group, id, 3)), Some((id.epoch, id.seq, 3)));
        assert_eq!(parse_epoch(&intent(group, branch, Epoch(3))), Some((Epoch(3), false)));
        assert_eq!(parse_epoch(&cut(group, branch, Epoch(3))), Some((Epoch(3), true)));
        let map_id = MapId::from_bytes([9; 16]);
        assert_eq!(parse_map(&map(group, branch, Lsn(u64::MAX), map_id)), Some((Lsn(u64::MAX), map_id)));
        let point = PointId::from_bytes([7; 16]);
        assert_eq!(parse_mark(&mark(group, point, 3)), Some((point, 3)));
        assert_eq!(parse_revision(&kept_revision(group, 12)), Some(12));
        assert_eq!(parse_epoch(&dropped(group, branch)), None);
        for other in ["epoch/0000003", "epoch/000000003", "epoch/00000003.tmp", "epoch/+0000003"] {
            assert_eq!(parse_epoch(other), None, "{other}");
        }
        assert_eq!(parse_segment("log/00000001-0000000000001"), None);
    }
}
