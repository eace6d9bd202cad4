//! What is encrypted in an object of a vault, in words: for whoever looks into one object.
//!
//! Proves the object first; nothing that fails its checks is shown. No key is shown, and no content of a volume: of a frame,
//! where its blocks belong and whether they are what the index says.

use std::sync::Arc;

use lifeboat_format::epoch::{EPOCH_LEN_MAX, EpochCut, EpochIntent, EpochPlace};
use lifeboat_format::keys::{DataKey, GroupKey};
use lifeboat_format::map::{Child, MapObject, MapPlace, Node};
use lifeboat_format::rebuilt::{RebuiltObject, RebuiltPlace};
use lifeboat_format::segment::{FrameEntry, Operation, SegmentObject, SegmentPlace};
use lifeboat_model::{BlockHash, BranchId, GroupId, SegmentId, VolumeId};
use lifeboat_vault::{Proved, Vault};

use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::segments::names;

/// Names and values, in the order of the format.
pub type Fields = Vec<(String, String)>;

/// Proves the object `name`, and says what it holds.
///
/// # Errors
/// `Tampered` and the like for an object that fails its checks, `Invalid` for a name that no object has.
pub async fn reveal(vault: &Arc<Vault>, name: &str, bytes: &[u8]) -> Result<Fields> {
    let mut parts = name.split('/');
    if parts.next() != Some("groups") {
        return match vault.check_document(name, bytes).await.map_err(cause::vault)? {
            Some(Proved::Outdated { master }) => {
                Ok(vec![("proved".to_owned(), format!("no: master key {master} was replaced since"))])
            }
            Some(_) => Ok(vec![("proved".to_owned(), "yes".to_owned())]),
            None => Err(unknown(name)),
        };
    }
    let group: GroupId = parts.next().and_then(|part| part.parse().ok()).ok_or_else(|| unknown(name))?;
    let branch: BranchId = parts.next().and_then(|part| part.parse().ok()).ok_or_else(|| unknown(name))?;
    let key = vault.existing_group_key(group).await.map_err(cause::vault)?;
    let refused = |error| cause::object(name, error);
    match parts.next() {
        Some("log") => {
            let (epoch, seq) = names::parse_segment(name).ok_or_else(|| unknown(name))?;
            let place = SegmentPlace { vault: vault.id(), group, id: SegmentId { branch, epoch, seq } };
            let object = SegmentObject::open(bytes, &place, &key).map_err(refused)?;
            Ok(segment(vault, &object).await)
        }
        Some("rebuilt") => {
            let (epoch, seq, generation) = names::parse_rebuilt(name).ok_or_else(|| unknown(name))?;
            let segment = SegmentPlace { vault: vault.id(), group, id: SegmentId { branch, epoch, seq } };
            let object = RebuiltObject::open(bytes, &RebuiltPlace { segment, generation }, &key).map_err(refused)?;
            Ok(rebuilt(vault, &object).await)
        }
        Some("map") => {
            let (lsn, id) = names::parse_map(name).ok_or_else(|| unknown(name))?;
            let place = MapPlace { vault: vault.id(), group, branch, lsn, id };
            Ok(map(&MapObject::open(bytes, &place, &key).map_err(refused)?))
        }
        Some("epoch") => epoch(name, bytes, (vault, group, branch), &key).map_err(refused),
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> EngineError {
    EngineError::new(
        ErrorKind::Invalid,
        format!("{name} is no name of an object: give the whole name, as a listing shows it"),
    )
}

fn epoch(
    name: &str,
    bytes: &[u8],
    (vault, group, branch): (&Vault, GroupId, BranchId),
    key: &GroupKey,
) -> Result<Fields, lifeboat_format::FormatError> {
    let too_long = lifeboat_format::FormatError::TooLarge {
        what: "epoch object",
        found: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        limit: EPOCH_LEN_MAX,
    };
    let (epoch, cut) = names::parse_epoch(name).ok_or(too_long)?;
    let place = EpochPlace { vault: vault.id(), group, branch, epoch };
    if cut {
        EpochCut::decode(bytes, &place, key)?;
    } else {
        EpochIntent::decode(bytes, &place, key)?;
    }
    // All of it is in clear text: what is added is that it is true.
    Ok(vec![("proved".to_owned(), "yes".to_owned())])
}

async fn segment(vault: &Vault, object: &SegmentObject<'_>) -> Fields {
    let mut fields = vec![("proved".to_owned(), "yes".to_owned())];
    for volume in &object.index.volumes {
        let text = format!(
            "{}: {} blocks when the segment begins, data key {}",
            volume.volume, volume.size_blocks, volume.key
        );
        fields.push(("volume".to_owned(), text));
    }
    for entry in &object.index.frames {
        let state = frame_state(vault, object, entry).await;
        let runs: Vec<String> = entry.runs.iter().map(|run| format!("{}+{}", run.lba, run.count)).collect();
        let packed = if entry.is_compressed() { "compressed" } else { "raw" };
        let volume =
            object.index.volume_of(entry).map_or_else(|error| error.to_string(), |volume| volume.volume.to_string());
        let text = format!(
            "{} at byte {}, {} bytes, {packed}, of {volume}, blocks {}: {state}",
            entry.frame.0,
            entry.offset,
            entry.stored_len,
            runs.join(" ")
        );
        fields.push(("frame".to_owned(), text));
    }
    for operation in &object.index.operations {
        let text = match operation {
            Operation::Frame(frame) => format!("frame {}", frame.0),
            Operation::Zero { volume, extent } => format!("zero {volume} {}+{}", extent.lba, extent.blocks),
            Operation::Trim { volume, extent } => format!("trim {volume} {}+{}", extent.lba, extent.blocks),
            Operation::Resize { volume, size_blocks } => format!("resize {volume} to {size_blocks} blocks"),
            Operation::Point(point) => {
                let roots: Vec<String> = point
                    .volumes
                    .iter()
                    .map(|volume| {
                        let root = volume.root.map_or_else(|| "unknown".to_owned(), |root| root.to_string());
                        format!("{} {} blocks root {root}", volume.volume, volume.size_blocks)
                    })
                    .collect();
                format!(
                    "point {} at {} of {}, {}, consistent {}, label {:?}: {}",
                    point.id,
                    point.lsn,
                    point.time,
                    point.kind,
                    point.consistent,
                    point.label,
                    roots.join(", ")
                )
            }
        };
        fields.push(("operation".to_owned(), text));
    }
    fields
}

/// Whether a frame decrypts and its blocks are those of the index.
async fn frame_state(vault: &Vault, object: &SegmentObject<'_>, entry: &FrameEntry) -> String {
    let Ok(volume) = object.index.volume_of(entry) else { return "of no volume".to_owned() };
    let hashes = entry.hashes.iter().copied();
    state_of(vault, (volume.volume, volume.key), hashes, |data| object.frame(entry.frame, data)).await
}

/// Whether what `open` gives with the data key are the blocks that have these hashes.
async fn state_of(
    vault: &Vault,
    (volume, key): (VolumeId, u32),
    hashes: impl Iterator<Item = BlockHash>,
    open: impl FnOnce(&DataKey) -> Result<Vec<u8>, lifeboat_format::FormatError>,
) -> String {
    let (keys, data) = match (vault.volume_keys(volume).await, vault.data_key(volume, key).await) {
        (Ok(keys), Ok(data)) => (keys.keys, data),
        (Err(error), _) | (_, Err(error)) => return error.to_string(),
    };
    match open(&data) {
        Err(error) => error.to_string(),
        Ok(raw) => {
            let hasher = lifeboat_format::hash::BlockHasher::new(&keys.hash);
            let equal = raw.as_chunks().0.iter().zip(hashes).all(|(block, hash)| hasher.block(block) == hash);
            if equal { "sound".to_owned() } else { "a block isn't the one that the index names".to_owned() }
        }
    }
}

async fn rebuilt(vault: &Vault, object: &RebuiltObject<'_>) -> Fields {
    let mut fields = vec![("proved".to_owned(), "yes".to_owned())];
    for volume in &object.index.volumes {
        fields.push(("volume".to_owned(), format!("{}: data key {}", volume.volume, volume.key)));
    }
    for number in 0..u32::try_from(object.index.frames.len()).unwrap_or(u32::MAX) {
        let Ok((entry, volume)) = object.index.frame(number) else { continue };
        let hashes = entry.blocks.iter().map(|block| block.hash);
        let state = state_of(vault, (volume.volume, volume.key), hashes, |data| object.frame(number, data)).await;
        let slots: Vec<String> = entry.blocks.iter().map(|block| format!("{}/{}", block.frame.0, block.slot)).collect();
        let text = format!(
            "{number} at byte {}, {} bytes, of {}, frame/slot {}: {state}",
            entry.offset,
            entry.stored_len,
            volume.volume,
            slots.join(" ")
        );
        fields.push(("frame".to_owned(), text));
    }
    fields
}

fn map(object: &MapObject<'_>) -> Fields {
    let mut fields = vec![("proved".to_owned(), "yes".to_owned())];
    let at = object.footer.position;
    let text =
        format!("position {}, after segment {} of epoch {}, seal hash {}", at.lsn, at.seq, at.epoch, at.segment_hash);
    fields.push(("covers".to_owned(), text));
    for root in &object.footer.roots {
        let place = match &root.root {
            Child::Zero => "zeroes only".to_owned(),
            Child::Node(node) => format!("node {} of {}, hash {}", node.node, node.object.id, node.hash),
        };
        let text = format!("{}: {} blocks, {} levels, {place}", root.volume, root.size_blocks, root.levels());
        fields.push(("root".to_owned(), text));
    }
    for point in &object.footer.points {
        let text = format!(
            "{} at {} of {}, {}, label {:?}, in segment {} of epoch {}",
            point.id, point.lsn, point.time, point.kind, point.label, point.seq, point.epoch
        );
        fields.push(("point".to_owned(), text));
    }
    for (number, node) in object.read_all().enumerate() {
        let text = match node {
            Err(error) => error.to_string(),
            Ok(Node::Leaf(leaf)) => {
                let blocks = leaf.blocks().count();
                format!("leaf, {blocks} blocks in {} segments", leaf.segments().len())
            }
            Ok(Node::Inner(inner)) => {
                let children = inner.children().iter().filter(|child| !matches!(child, Child::Zero)).count();
                format!("inner node of level {}, {children} children", inner.level())
            }
        };
        fields.push(("node".to_owned(), format!("{number}: {text}")));
    }
    fields
}
