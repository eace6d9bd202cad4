//! A fuzzing target for every decoder: bytes from anywhere must give a value or an error, never a panic, an allocation
//! without bound or a loop without end (I-10).
//!
//! Development only. A target is a function of bytes, so that a fuzzer drives it (`make fuzz`), and an ordinary test
//! replays what a fuzzer found (`tests/replay.rs` over `corpus/`). Checksums, MACs and encryption would stop a fuzzer at
//! the gate: [`sealed`] puts them right, under a fixed key, so that what the fuzzer invents is what the decoder decodes.
//! Where a decoder and an encoder face each other, what was decoded must encode to something that decodes to the same.

mod nbd;
mod sealed;

use std::sync::LazyLock;

use lifeboat_format::at_rest::{MARKER_LEN, Marker, open_text};
use lifeboat_format::dirty::DirtyMap;
use lifeboat_format::epoch::{EpochCut, EpochIntent};
use lifeboat_format::gc::{BranchDrop, DeleteIntent, KeptPoints, PointMark, RecordHeader};
use lifeboat_format::inspect::describe;
use lifeboat_format::journal::{BatchHeader, FileHeader, JOURNAL_BLOCK, check_payload, decode_point, encode_point};
use lifeboat_format::keys::LocalKey;
use lifeboat_format::local::{GroupState, PresenceHeader, STATE_SLOT, newest_state};
use lifeboat_format::map::{MapHeader, MapObject, MapTrailer};
use lifeboat_format::rebuilt::{REBUILT_HEADER_LEN, RebuiltHeader, RebuiltObject};
use lifeboat_format::segment::{SegmentHeader, SegmentObject, SegmentTrailer};
use lifeboat_format::stream;
use lifeboat_model::{Timestamp, VolumeId};
use lifeboat_vault::{Access, KeySource, Vault, VaultOptions, VaultSettings, open_store};

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// Every target, by its name: that of its directory under `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("journal-file", journal_file),
    ("journal-batch", journal_batch),
    ("journal-point", journal_point),
    ("segment", segment),
    ("segment-header", segment_header),
    ("segment-trailer", segment_trailer),
    ("segment-index", segment_index),
    ("segment-frame", segment_frame),
    ("rebuilt", rebuilt),
    ("rebuilt-header", rebuilt_header),
    ("rebuilt-index", rebuilt_index),
    ("map", map),
    ("map-header", map_header),
    ("map-trailer", map_trailer),
    ("map-footer", map_footer),
    ("map-node", map_node),
    ("epoch-intent", epoch_intent),
    ("epoch-cut", epoch_cut),
    ("group-state", group_state),
    ("presence", presence),
    ("at-rest", at_rest),
    ("dirty-map", dirty_map),
    ("stream-frame", stream_frame),
    ("kept-points", kept_points),
    ("delete-intent", delete_intent),
    ("point-mark", point_mark),
    ("branch-drop", branch_drop),
    ("record-header", record_header),
    ("text", text),
    ("vault-document", vault_document),
    ("document", document),
    ("inspect", inspect),
    ("nbd-negotiation", nbd::negotiation),
    ("nbd-request", nbd::request),
];

fn journal_file(data: &[u8]) {
    let _ = FileHeader::decode(data);
    if let Ok(header) = FileHeader::decode(&sealed::checksum_at(data, JOURNAL_BLOCK, 60)) {
        assert_eq!(FileHeader::decode(&header.encode()), Ok(header));
    }
}

fn journal_batch(data: &[u8]) {
    let _ = BatchHeader::decode(data);
    let block = sealed::batch(data);
    if let Ok((header, checksum)) = BatchHeader::decode(&block) {
        let _ = check_payload(&header, &block);
        let (again, sum) = header.encode().expect("what was read can be written");
        let decoded = BatchHeader::decode(&again).expect("what was written can be read");
        assert_eq!(decoded, (header, sum));
        let _ = checksum;
    }
}

fn journal_point(data: &[u8]) {
    if let Ok((id, time, kind, label)) = decode_point(data) {
        assert_eq!(encode_point(id, time, kind, &label), data);
    }
}

fn segment(data: &[u8]) {
    let _ = SegmentObject::open(data, &sealed::segment_place(), &sealed::group_key());
}

fn segment_header(data: &[u8]) {
    let _ = SegmentHeader::decode_any(data);
    let bytes = sealed::checksum_at(data, lifeboat_format::segment::SEGMENT_HEADER_LEN, 192);
    if let Ok(header) = SegmentHeader::decode_any(&bytes) {
        assert_eq!(header.encode(), bytes);
    }
}

fn segment_trailer(data: &[u8]) {
    let bytes = sealed::trailer(data, *b"LBSE");
    if let Ok(trailer) = SegmentTrailer::decode(&bytes, sealed::object_len(&bytes)) {
        assert!(trailer.index_range().end <= trailer.total_len());
    }
}

fn segment_index(data: &[u8]) {
    let bytes = sealed::segment(data);
    if let Ok(object) = SegmentObject::open(&bytes, &sealed::segment_place(), &sealed::group_key()) {
        let keys = sealed::volume_keys();
        let _ = object.verify(|_| Some(&keys));
        for entry in &object.index.frames {
            assert!(entry.blocks().count() <= lifeboat_format::segment::FRAME_BLOCKS_MAX);
        }
    }
}

fn segment_frame(data: &[u8]) {
    sealed::frame(data);
}

fn rebuilt(data: &[u8]) {
    let _ = RebuiltObject::open(data, &sealed::rebuilt_place(), &sealed::group_key());
}

fn rebuilt_header(data: &[u8]) {
    let _ = RebuiltHeader::decode_any(data);
    let bytes = sealed::checksum_at(data, REBUILT_HEADER_LEN, REBUILT_HEADER_LEN - 4);
    if let Ok(header) = RebuiltHeader::decode_any(&bytes) {
        assert_eq!(header.encode(), bytes);
    }
}

fn rebuilt_index(data: &[u8]) {
    let bytes = sealed::rebuilt(data);
    if let Ok(object) = RebuiltObject::open(&bytes, &sealed::rebuilt_place(), &sealed::group_key()) {
        let keys = sealed::volume_keys();
        let _ = object.verify(|_| Some(&keys));
        let index = &object.index;
        assert_eq!(index.blocks().count(), index.block_count());
        for block in index.blocks() {
            let found = index.slots_of(block.frame).find(|at| at.slot == block.slot);
            assert_eq!(found.and_then(|at| index.block(at)), Some(block), "a block is found by its place");
        }
    }
}

fn map(data: &[u8]) {
    if let Ok(object) = MapObject::open(data, &sealed::map_place(), &sealed::group_key()) {
        object.read_all().for_each(drop);
    }
}

fn map_header(data: &[u8]) {
    let _ = MapHeader::decode_any(data);
    let bytes = sealed::checksum_at(data, lifeboat_format::map::MAP_HEADER_LEN, 128);
    if let Ok(header) = MapHeader::decode_any(&bytes) {
        assert_eq!(header.encode(), bytes);
    }
}

fn map_trailer(data: &[u8]) {
    let bytes = sealed::trailer(data, *b"LBME");
    let _ = MapTrailer::decode(&bytes, sealed::object_len(&bytes));
}

fn map_footer(data: &[u8]) {
    let bytes = sealed::map(data);
    if let Ok(object) = MapObject::open(&bytes, &sealed::map_place(), &sealed::group_key()) {
        object.read_all().for_each(drop);
    }
}

fn map_node(data: &[u8]) {
    if let Some(node) = sealed::node(data) {
        let hasher = sealed::hasher();
        let _ = (node.hash(&hasher), node.level());
    }
}

fn epoch_intent(data: &[u8]) {
    let _ = EpochIntent::decode_any(data);
    // Up to the purpose; the nonce, which is the salt of the keys, follows the writer.
    let bytes = sealed::epoch(data, 78);
    if let Ok(intent) = EpochIntent::decode_any(&bytes) {
        let proved = EpochIntent::decode(&bytes, &intent.place, &sealed::group_key());
        assert_eq!(proved.as_ref(), Ok(&intent));
        assert_eq!(intent.encode(&sealed::group_key()), bytes);
    }
}

fn epoch_cut(data: &[u8]) {
    let _ = EpochCut::decode_any(data);
    let bytes = sealed::epoch(data, 118);
    if let Ok(cut) = EpochCut::decode_any(&bytes) {
        assert_eq!(EpochCut::decode(&bytes, &cut.place, &sealed::group_key()).as_ref(), Ok(&cut));
        assert_eq!(cut.encode(&sealed::group_key()), bytes);
    }
}

fn group_state(data: &[u8]) {
    let _ = GroupState::decode(data);
    let page = sealed::state(data);
    if let Ok(state) = GroupState::decode(&page) {
        let again = state.encode().expect("what was read can be written");
        assert_eq!(GroupState::decode(&again), Ok(state));
    }
    let mut slots = data.to_vec();
    slots.resize(2 * STATE_SLOT, 0);
    let _ = newest_state(&page, slots.get(STATE_SLOT..).unwrap_or_default());
}

fn presence(data: &[u8]) {
    let _ = PresenceHeader::decode(data);
    let bytes = sealed::checksum_at(data, lifeboat_format::local::PRESENCE_HEADER_LEN, 4092);
    if let Ok(header) = PresenceHeader::decode(&bytes) {
        assert_eq!(header.encode(), bytes);
        assert!(header.file_len() >= 8192);
    }
}

fn at_rest(data: &[u8]) {
    let bytes = sealed::checksum_at(data, MARKER_LEN, MARKER_LEN - 4);
    if let Ok(marker) = Marker::decode(&bytes) {
        assert_eq!(marker.encode(), bytes);
        assert!(marker.open(&LocalKey::from_bytes([1; 32])).is_err());
    }
    let _ = Marker::decode(data);
    let _ = open_text(&LocalKey::from_bytes([1; 32]), "vaults.json", data);
    // Any bytes are a file's; what was encrypted comes back.
    let mut file = data.to_vec();
    file.resize(file.len().next_multiple_of(16), 0);
    let cipher = Marker::new(&LocalKey::from_bytes([1; 32]), [2; 16])
        .open(&LocalKey::from_bytes([1; 32]))
        .expect("its own key")
        .file("name");
    let offset = u64::from(data.first().copied().unwrap_or(0)) * 16;
    let plain = file.clone();
    cipher.decrypt(offset, &mut file);
    file.clone_from(&plain);
    cipher.encrypt(offset, &mut file);
    cipher.decrypt(offset, &mut file);
    assert_eq!(file, plain);
}

fn dirty_map(data: &[u8]) {
    let _ = DirtyMap::decode(data);
    let bytes = sealed::dirty(data);
    if let Ok(map) = DirtyMap::decode(&bytes) {
        assert_eq!(map.encode().as_ref(), Ok(&bytes));
    }
}

/// A head, and a body of each kind: the first byte says which.
fn stream_frame(data: &[u8]) {
    let _ = stream::FrameHead::decode(data);
    let Some((kind, body)) = data.split_first() else { return };
    let again = match kind % 8 {
        0 => stream::Open::decode(body).map(|open| open.encode()),
        1 => stream::Opened::decode(body).map(|opened| opened.encode()),
        2 => stream::Records::decode(body).map(|records| records.encode()),
        3 => stream::Progress::decode(body).map(|progress| progress.encode()),
        4 => stream::End::decode(body).map(|end| end.encode()),
        5 => stream::Tenure::decode(body).map(|tenure| tenure.encode()),
        6 => stream::Standing::decode(body).map(|standing| standing.encode()),
        _ => stream::Declare::decode(body).map(|declare| declare.encode()),
    };
    if let Ok(frame) = again {
        let frame = frame.expect("what was read can be written");
        let (head, again) = frame.split_at(stream::FRAME_HEAD_LEN);
        let head = stream::FrameHead::decode(head).expect("a head");
        assert_eq!((head.verify(again), again), (Ok(()), body));
    }
}

fn kept_points(data: &[u8]) {
    let place = sealed::record_place();
    if let Ok(kept) = KeptPoints::decode(&sealed::record(data, *b"LBKP"), &place, &sealed::group_key()) {
        let again = kept.encode(&place, sealed::SALT, &sealed::group_key()).expect("what was read can be written");
        assert_eq!(KeptPoints::decode(&again, &place, &sealed::group_key()), Ok(kept));
    }
}

fn delete_intent(data: &[u8]) {
    let place = sealed::record_place();
    if let Ok(intent) = DeleteIntent::decode(&sealed::record(data, *b"LBDI"), &place, &sealed::group_key()) {
        let again = intent.encode(&place, sealed::SALT, &sealed::group_key()).expect("what was read can be written");
        assert_eq!(DeleteIntent::decode(&again, &place, &sealed::group_key()), Ok(intent));
    }
}

fn point_mark(data: &[u8]) {
    let place = sealed::record_place();
    if let Ok(mark) = PointMark::decode(&sealed::record(data, *b"LBPM"), &place, &sealed::group_key()) {
        let again = mark.encode(&place, sealed::SALT, &sealed::group_key()).expect("what was read can be written");
        assert_eq!(PointMark::decode(&again, &place, &sealed::group_key()), Ok(mark));
    }
}

fn branch_drop(data: &[u8]) {
    let place = sealed::record_place();
    if let Ok(drop) = BranchDrop::decode(&sealed::record(data, *b"LBBD"), &place, &sealed::group_key()) {
        let again = drop.encode(&place, sealed::SALT, &sealed::group_key()).expect("what was read can be written");
        assert_eq!(BranchDrop::decode(&again, &place, &sealed::group_key()), Ok(drop));
    }
}

/// Everything in front of a record's body, and a body that is no record's: what the decompressor gets is the fuzzer's.
fn record_header(data: &[u8]) {
    let _ = RecordHeader::decode_any(data);
    for magic in [*b"LBKP", *b"LBDI", *b"LBPM", *b"LBBD"] {
        let bytes = sealed::record_header(data, magic);
        if let Ok(header) = RecordHeader::decode_any(&bytes) {
            let opened = KeptPoints::decode(&bytes, &header.place, &sealed::group_key());
            assert!(opened.is_err(), "a record that nobody sealed was accepted");
        }
    }
    let _ = KeptPoints::decode(&sealed::record_of(data, *b"LBKP"), &sealed::record_place(), &sealed::group_key());
}

/// Texts with a form of their own, as they come in requests and documents.
fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(volume) = text.parse::<VolumeId>() {
        assert_eq!(volume.to_string().parse(), Ok(volume));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse(), Ok(time), "{text:?} is another time when it is said again");
    }
}

/// An open vault, to prove documents against.
struct Opened {
    runtime: tokio::runtime::Runtime,
    vault: Vault,
}

static OPENED: LazyLock<Opened> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let vault = runtime.block_on(async {
        let store = open_store("memory:", Access::Create).await.expect("a store");
        let key = KeySource::Passphrase("correct horse battery".to_owned().into());
        let vault = Vault::create(store, VaultSettings::new("fuzz"), &key, VaultOptions::for_tests());
        vault.await.expect("a vault")
    });
    Opened { runtime, vault }
});

/// Any document of a vault, under a name of each kind: what it says before anything is proved, and that nothing passes.
fn document(data: &[u8]) {
    const NAMES: [&str; 3] = [
        "catalog/sites/one/000000000001.json",
        "keys/vol-01010101010101010101010101010101/00000001",
        "keys/grp-09090909090909090909090909090909/00000001",
    ];
    let Opened { runtime, vault } = &*OPENED;
    for name in NAMES {
        for bytes in [data.to_vec(), sealed::document(data, name)] {
            let proved = runtime.block_on(vault.check_document(name, &bytes));
            assert!(
                !matches!(proved, Ok(Some(lifeboat_vault::Proved::Key { .. }))),
                "a key that nobody made was accepted"
            );
        }
    }
}

/// The vault's own document, which is read before a key is at hand.
fn vault_document(data: &[u8]) {
    const NAME: &str = "vault/00000001.json";
    for bytes in [data.to_vec(), sealed::document(data, NAME)] {
        let _ = OPENED.runtime.block_on(async {
            let store = open_store("memory:", Access::Create).await?;
            store.create(NAME, bytes.into()).await?;
            Vault::inspect(&*store).await
        });
    }
}

fn inspect(data: &[u8]) {
    if let Ok(description) = describe(data) {
        assert!(!description.to_string().is_empty());
    }
    let _ = describe(&sealed::any(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(name: &str) -> Vec<u8> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A target whose bytes stop at a checksum fuzzes the checksum.
    #[test]
    fn what_is_sealed_gets_past_every_check() {
        let (group, place) = (sealed::group_key(), sealed::segment_place());
        let bytes = sealed::segment(&seed("segment-index/all"));
        let object = SegmentObject::open(&bytes, &place, &group).expect("an index");
        assert_eq!((object.index.frames.len(), object.index.operations.len()), (1, 5));
        let bytes = sealed::rebuilt(&seed("rebuilt-index/two"));
        let object = RebuiltObject::open(&bytes, &sealed::rebuilt_place(), &group).expect("an index");
        assert_eq!((object.index.frames.len(), object.index.block_count()), (2, 3));
        let bytes = sealed::map(&seed("map-footer/head"));
        let object = MapObject::open(&bytes, &sealed::map_place(), &group).expect("a footer");
        assert_eq!((object.footer.roots.len(), object.footer.points.len()), (1, 1));
        for node in ["leaf", "inner"] {
            assert!(sealed::node(&seed(&format!("map-node/{node}"))).is_some(), "{node}");
        }
        let intent = sealed::epoch(&seed("epoch-intent/branch"), 78);
        let found = EpochIntent::decode_any(&intent).expect("an intent");
        assert!(EpochIntent::decode(&intent, &found.place, &group).is_ok());
        let cut = sealed::epoch(&seed("epoch-cut/cut"), 118);
        let found = EpochCut::decode_any(&cut).expect("a cut");
        assert!(EpochCut::decode(&cut, &found.place, &group).is_ok());
        assert!(BatchHeader::decode(&sealed::batch(&seed("journal-batch/vector"))).is_ok());
        assert!(DirtyMap::decode(&sealed::dirty(&seed("dirty-map/two"))).is_ok());
        let record = |name: &str, magic: &[u8; 4]| sealed::record(&seed(name), *magic);
        let at = sealed::record_place();
        assert!(KeptPoints::decode(&record("kept-points/one", b"LBKP"), &at, &group).is_ok());
        assert!(DeleteIntent::decode(&record("delete-intent/two", b"LBDI"), &at, &group).is_ok());
        assert!(PointMark::decode(&record("point-mark/pinned", b"LBPM"), &at, &group).is_ok());
        assert!(BranchDrop::decode(&record("branch-drop/one", b"LBBD"), &at, &group).is_ok());
        assert!(RecordHeader::decode_any(&sealed::record_header(&seed("record-header/kept"), *b"LBKP")).is_ok());
        let named = |name: &str| {
            let bytes = sealed::document(&seed("vault-document/vault"), name);
            OPENED.runtime.block_on(async {
                let store = open_store("memory:", Access::Create).await.expect("a store");
                store.create("vault/00000001.json", bytes.into()).await.expect("written");
                Vault::inspect(&*store).await
            })
        };
        assert!(named("vault/00000001.json").is_ok());
        assert!(named("vault/00000002.json").is_err(), "the sum binds a document to its name");
    }
}
