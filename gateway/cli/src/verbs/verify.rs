//! `lifeboat point verify`: is a disk what a recovery point holds, and is a point whole in the vault?
//!
//! Needs the vault and its key, and no gateway. The root hash depends on a volume's content alone, so the same hash
//! computed from a disk and recorded in a point proves that both are equal, byte for byte. Without a disk, every block of
//! the point is read back from the vault and hashed: what comes out must be the root that was recorded. Reads only.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lifeboat_engine::branch::{list_branches, written_last};
use lifeboat_engine::points::{PointInfo, find_point, list_points};
use lifeboat_engine::view::{BlockRun, PointView, VolumeAtPoint, root_of_file};
use lifeboat_format::hash::{BlockHasher, RootHasher};
use lifeboat_model::{BLOCK_SIZE, BranchId, GroupId, PointId, RootHash, Timestamp, VolumeId};
use lifeboat_vault::{Access, Vault, VaultOptions, open_store};
use serde::Serialize;

use super::key::KeyArgs;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, is_watched};
use crate::progress::Amount;
use crate::render::{Table, clean, fields, size};

/// Blocks read from the vault at a time.
const CHUNK_BLOCKS: u64 = 1024;

/// What to compare.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// A point's id, `latest`, or a time (the newest point not after it)
    #[arg(value_name = "ID|latest|TIME", default_value = "latest")]
    point: String,
    /// The group, by id or name, or by one of its volumes
    #[arg(long, value_name = "ID|NAME")]
    group: String,
    /// The volume, by id or name; may be left out when the point has only one
    #[arg(long, value_name = "ID|NAME")]
    volume: Option<String>,
    /// A disk or an image of it, which nobody writes meanwhile; reads the point back from the vault when left out
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,
    /// On this branch; the one that was written last when left out
    #[arg(long, value_name = "ID")]
    branch: Option<BranchId>,
    /// The vault, as this machine sees it: file:///absolute/directory
    #[arg(long, value_name = "URL")]
    vault: String,
    #[command(flatten)]
    key: KeyArgs,
}

/// What was compared with what.
#[derive(Debug, Serialize)]
struct Report {
    equal: bool,
    group_id: GroupId,
    point_id: PointId,
    point_time: Timestamp,
    branch_id: BranchId,
    volumes: Vec<Compared>,
    /// Volumes that the point had and whose keys were destroyed since.
    erased: Vec<VolumeId>,
}

#[derive(Debug, Serialize)]
struct Compared {
    volume_id: VolumeId,
    name: Option<String>,
    size_bytes: u64,
    /// The disk; the vault itself when absent.
    source: Option<String>,
    equal: bool,
    root_recorded: String,
    root_found: String,
}

pub(crate) async fn run(args: VerifyArgs, output: Output) -> Result<()> {
    let store = open_store(&args.vault, Access::Open).await?;
    let vault = Arc::new(Vault::open(store, &args.key.for_here()?, VaultOptions::default()).await?);
    let group = group(&vault, &args.group).await?;
    let point = point(&vault, group, args.branch, &args.point).await?;
    let view = PointView::open(Arc::clone(&vault), group, &point).await?;
    let wanted = match &args.volume {
        Some(text) => Some(volume(&vault, text).await?),
        None => None,
    };
    let volumes = chosen(view.volumes(), wanted, args.source.is_some(), &point)?;
    let mut report = Report {
        equal: true,
        group_id: group,
        point_id: point.id,
        point_time: point.time,
        branch_id: point.branch,
        volumes: Vec::new(),
        erased: view.erased().iter().copied().collect(),
    };
    let names = names(&vault).await?;
    for at_point in volumes {
        let recorded = at_point.root.ok_or_else(|| {
            Failure::failed(format!("the point {} records no root for {}: choose another one", point.id, at_point.id))
        })?;
        let called = names.get(&at_point.id.to_string()).cloned().unwrap_or_else(|| at_point.id.to_string());
        let found = match &args.source {
            Some(path) => {
                let mut hashed = Amount::new(is_watched(), clean(&format!("{}: hashed", path.display())));
                root_of_file(&vault, at_point.id, path, move |done, all| hashed.reached(done, all)).await?
            }
            None => {
                let mut back = Amount::new(is_watched(), clean(&format!("{called}: read back")));
                read_back(&vault, &view, &at_point, |done, all| back.reached(done, all)).await?
            }
        };
        report.equal &= found == recorded;
        report.volumes.push(Compared {
            volume_id: at_point.id,
            name: names.get(&at_point.id.to_string()).cloned(),
            size_bytes: at_point.size_blocks.saturating_mul(u64::try_from(BLOCK_SIZE).unwrap_or(4096)),
            source: args.source.as_ref().map(|path| path.display().to_string()),
            equal: found == recorded,
            root_recorded: recorded.to_string(),
            root_found: found.to_string(),
        });
    }
    output.show(&report, || shown(&report))?;
    if report.equal {
        return Ok(());
    }
    Err(Failure::failed(match &args.source {
        Some(path) => format!("{} is not what the recovery point of {} holds", path.display(), point.time),
        None => format!(
            "the vault doesn't give back what the recovery point of {} recorded: its data is damaged",
            point.time
        ),
    }))
}

fn shown(report: &Report) -> String {
    let mut table = Table::new(&["VOLUME", "SIZE", "RESULT", "ROOT RECORDED", "ROOT FOUND"]);
    for one in &report.volumes {
        table.row([
            one.name.clone().unwrap_or_else(|| one.volume_id.to_string()),
            size(one.size_bytes),
            if one.equal { "equal" } else { "different" }.to_owned(),
            one.root_recorded.clone(),
            one.root_found.clone(),
        ]);
    }
    for id in &report.erased {
        table.row([id.to_string(), String::new(), "erased".to_owned(), String::new(), String::new()]);
    }
    let pairs =
        [("point", format!("{} ({})", report.point_time, report.point_id)), ("branch", report.branch_id.to_string())];
    format!("{}{}", fields(&pairs), table.or("the point has no volumes"))
}

/// The volumes to look at: one for a disk, else all.
fn chosen(
    all: Vec<VolumeAtPoint>,
    wanted: Option<VolumeId>,
    one: bool,
    point: &PointInfo,
) -> Result<Vec<VolumeAtPoint>> {
    if let Some(id) = wanted {
        let found: Vec<VolumeAtPoint> = all.into_iter().filter(|volume| volume.id == id).collect();
        if found.is_empty() {
            return Err(Failure::not_found(format!("the recovery point of {} has no volume {id}", point.time)));
        }
        return Ok(found);
    }
    if one && all.len() != 1 {
        let count = all.len();
        return Err(Failure::usage(format!("the point has {count} volumes: say with --volume which one --source is")));
    }
    Ok(all)
}

async fn names(vault: &Arc<Vault>) -> Result<HashMap<String, String>> {
    let all = vault.catalog().list("volumes").await?;
    Ok(all.iter().map(|document| (document.id.clone(), document.name.clone())).collect())
}

async fn volume(vault: &Arc<Vault>, text: &str) -> Result<VolumeId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let found = vault.catalog().find_by_name("volumes", text).await?;
    found.and_then(|document| document.id.parse().ok()).ok_or_else(|| {
        Failure::not_found(format!("the vault declares no volume {text:?}: for one that was deleted, give its id"))
    })
}

/// The group that a text names.
pub(crate) async fn group(vault: &Arc<Vault>, text: &str) -> Result<GroupId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if let Some(document) = vault.catalog().find_by_name("groups", text).await?
        && let Ok(id) = document.id.parse()
    {
        return Ok(id);
    }
    let unknown =
        || Failure::not_found(format!("the vault declares no group {text:?}: for one that was deleted, give its id"));
    let id = volume(vault, text).await.map_err(|_| unknown())?;
    let document = vault.catalog().get("volumes", &id.to_string()).await?;
    let of_its_own = GroupId::from_bytes(id.to_bytes());
    Ok(document.spec["group_id"].as_str().and_then(|text| text.parse().ok()).unwrap_or(of_its_own))
}

/// The point that a text names.
async fn point(vault: &Arc<Vault>, group: GroupId, branch: Option<BranchId>, text: &str) -> Result<PointInfo> {
    if let Ok(id) = text.parse::<PointId>() {
        return Ok(find_point(vault, group, id).await?);
    }
    let until: Option<Timestamp> = match text {
        "latest" => None,
        time => Some(time.parse().map_err(|_| {
            Failure::usage(clean(&format!(
                "{time:?} is none of latest, a point's id or a time such as 2026-11-20T10:05:00Z"
            )))
        })?),
    };
    let branch = match branch {
        Some(branch) => branch,
        None => written_last(&list_branches(vault, group).await?)
            .ok_or_else(|| Failure::not_found(format!("the group {group} has no history in the vault yet")))?,
    };
    let points = list_points(vault, group, branch).await?;
    let found = points.into_iter().rev().find(|point| until.is_none_or(|until| point.time <= until));
    found.ok_or_else(|| Failure::new(Exit::NotFound, format!("no recovery point on {branch} fits {text:?}")))
}

/// The root of what the vault gives back for a volume at a point.
async fn read_back(
    vault: &Arc<Vault>,
    view: &Arc<PointView>,
    volume: &VolumeAtPoint,
    mut reached: impl FnMut(u64, u64),
) -> Result<RootHash> {
    let keys = vault.volume_keys(volume.id).await?.keys;
    let mut root = RootHasher::new(BlockHasher::new(&keys.hash), volume.size_blocks);
    let defect = |error: lifeboat_format::FormatError| Failure::failed(format!("{}: {error}", volume.id));
    let mut lba = 0;
    while lba < volume.size_blocks {
        let blocks = CHUNK_BLOCKS.min(volume.size_blocks.saturating_sub(lba));
        for run in view.read_blocks(volume.id, lba, blocks).await? {
            match run {
                BlockRun::Zero(extent) => root.push_zeros(extent.blocks).map_err(defect)?,
                BlockRun::Data { data, .. } => {
                    for block in data.as_chunks::<BLOCK_SIZE>().0 {
                        root.push(block).map_err(defect)?;
                    }
                }
            }
        }
        lba = lba.saturating_add(blocks);
        let bytes = |blocks: u64| blocks.saturating_mul(u64::try_from(BLOCK_SIZE).unwrap_or(4096));
        reached(bytes(lba), bytes(volume.size_blocks));
    }
    root.finish().map_err(defect)
}

#[cfg(test)]
mod tests {
    use lifeboat_engine::branch::{BranchInfo, Origin, Position};
    use lifeboat_model::{Epoch, Lsn, SegmentSeq};

    use super::*;

    fn branch(id: u8, origin: Option<u8>, promoted_to: Option<u8>) -> BranchInfo {
        let id_of = |byte: u8| BranchId::from_bytes([byte; 16]);
        let at = |byte| Position { branch: id_of(byte), epoch: Epoch(1), seq: SegmentSeq(1), lsn: Lsn(1) };
        BranchInfo {
            id: id_of(id),
            origin: origin.map(|parent| Origin { at: at(parent), point: None }),
            epochs: Vec::new(),
            promoted_to: promoted_to.map(id_of),
        }
    }

    #[test]
    fn the_history_goes_on_along_promotions_and_not_along_tests() {
        let branches =
            [branch(1, None, Some(3)), branch(2, Some(1), None), branch(3, Some(1), None), branch(4, Some(3), None)];
        assert_eq!(written_last(&branches), Some(BranchId::from_bytes([3; 16])));
        assert_eq!(written_last(&[]), None);
        let circle = [branch(1, None, Some(2)), branch(2, Some(1), Some(1))];
        assert!(written_last(&circle).is_some());
    }
}
