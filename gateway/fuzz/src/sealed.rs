//! Bytes that pass every check in front of a decoder: checksums, MACs and encryption put right, under fixed keys.
//!
//! Written from `docs/format.md`, not from the builders, which refuse most of what a fuzzer invents. That makes it a second
//! reading of the format as well: where it is wrong, nothing gets past the checks and `tests/replay.rs` fails.

use aws_lc_rs::{aead, digest, hmac};
use lifeboat_format::gc::RecordPlace;
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::keys::{DataKey, GroupKey, HashKey, Salt, VolumeKeys, commitment, derive};
use lifeboat_format::map::{MAP_HEADER_LEN, MapHeader, MapKeys, MapObjectRef, MapPlace, Node, NodeRef};
use lifeboat_format::rebuilt::{REBUILT_HEADER_LEN, RebuiltHeader, RebuiltPlace};
use lifeboat_format::segment::{
    FrameNo, SEGMENT_HEADER_LEN, SEGMENT_VERSION, SegmentHash, SegmentHeader, SegmentObject, SegmentPlace, TRAILER_LEN,
};
use lifeboat_model::{
    BranchId, Epoch, GroupId, Lsn, MapId, RootHash, SegmentId, SegmentSeq, Timestamp, VaultId, VolumeId,
};

pub(crate) const SALT: Salt = [5; 16];
const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);
/// Blocks of the one frame.
const FRAME_LEN: u32 = 16 * 4096;

pub(crate) fn group_key() -> GroupKey {
    GroupKey::from_bytes([7; 32])
}

pub(crate) fn volume_keys() -> VolumeKeys {
    VolumeKeys { data: DataKey::from_bytes([8; 32]), hash: HashKey::from_bytes([9; 32]) }
}

pub(crate) fn hasher() -> BlockHasher {
    BlockHasher::new(&volume_keys().hash)
}

pub(crate) fn segment_place() -> SegmentPlace {
    let id = SegmentId { branch: BranchId::from_bytes([4; 16]), epoch: Epoch(1), seq: SegmentSeq(1) };
    SegmentPlace { vault: VaultId::from_bytes([2; 16]), group: GroupId::from_bytes([3; 16]), id }
}

pub(crate) fn rebuilt_place() -> RebuiltPlace {
    RebuiltPlace { segment: segment_place(), generation: 1 }
}

pub(crate) fn map_place() -> MapPlace {
    let SegmentPlace { vault, group, id } = segment_place();
    MapPlace { vault, group, branch: id.branch, lsn: Lsn(9), id: MapId::from_bytes([6; 16]) }
}

/// `data` cut or filled up to `len` bytes, with the CRC of everything before `at` put there.
pub(crate) fn checksum_at(data: &[u8], len: usize, at: usize) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(len, 0);
    put_checksum(&mut bytes, at);
    bytes
}

fn put_checksum(bytes: &mut [u8], at: usize) {
    let sum = crc32c::crc32c(bytes.get(..at).unwrap_or_default());
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

/// A journal batch: magic, its length and the checksums of header and payloads put right.
pub(crate) fn batch(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().clamp(4096, 1 << 20).next_multiple_of(4096), 0);
    put(&mut bytes, 0, b"LBJB");
    put(&mut bytes, 4, &1_u16.to_le_bytes());
    let count = u32_at(&bytes, 28) % 84;
    put(&mut bytes, 28, &count.to_le_bytes());
    let mut start = 4096_usize;
    for entry in 0..usize::try_from(count).unwrap_or(0) {
        let at = 96 + entry * 48;
        let len = usize::try_from(u32_at(&bytes, at + 40)).unwrap_or(usize::MAX);
        let payload = bytes.get(start..start.saturating_add(len)).map(crc32c::crc32c);
        if let Some(sum) = payload.filter(|_| len > 0) {
            put(&mut bytes, at + 20, &sum.to_le_bytes());
        }
        start = start.saturating_add(len.saturating_add(4095) / 4096 * 4096);
    }
    put(&mut bytes, 56, &u64::try_from(start).unwrap_or(u64::MAX).to_le_bytes());
    let head = crc32c::crc32c(bytes.get(..92).unwrap_or_default());
    let sum = crc32c::crc32c_append(head, bytes.get(96..4096).unwrap_or_default());
    put(&mut bytes, 92, &sum.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at.saturating_add(field.len())) {
        target.copy_from_slice(field);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at.saturating_add(4)).and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_le_bytes)
}

/// A trailer with its checksum and its end magic.
pub(crate) fn trailer(data: &[u8], magic: [u8; 4]) -> Vec<u8> {
    let mut bytes = checksum_at(data, TRAILER_LEN, 92);
    put(&mut bytes, 96, &magic);
    bytes
}

/// The length of the whole object that a trailer names.
pub(crate) fn object_len(trailer: &[u8]) -> u64 {
    let field = trailer.get(20..28).and_then(|field| field.try_into().ok());
    field.map_or(0, u64::from_le_bytes)
}

/// A group state: whole pages, magic, version, length and checksum put right.
pub(crate) fn state(data: &[u8]) -> Vec<u8> {
    let len = data.len().clamp(4096, 65_536).next_multiple_of(4096);
    let mut bytes = data.to_vec();
    bytes.resize(len, 0);
    put(&mut bytes, 0, b"LBGS");
    put(&mut bytes, 8, &u32::try_from(len).unwrap_or(0).to_le_bytes());
    put_checksum(&mut bytes, len - 4);
    bytes
}

/// A dirty map: magic, version, its length and its checksum put right.
pub(crate) fn dirty(data: &[u8]) -> Vec<u8> {
    let mut bytes = b"LBDM\x01\x00\x00\x00".to_vec();
    bytes.extend_from_slice(&u64::try_from(data.len() + 20).unwrap_or(u64::MAX).to_le_bytes());
    bytes.extend_from_slice(data);
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

pub(crate) fn record_place() -> RecordPlace {
    let SegmentPlace { vault, group, .. } = segment_place();
    RecordPlace { vault, group, name: "gc/kept/00000001".to_owned() }
}

/// A record of the group whose body, before compression, is `body`.
pub(crate) fn record(body: &[u8], magic: [u8; 4]) -> Vec<u8> {
    sealed_record(&compress(body), len32(body), magic)
}

/// A record whose decompressor gets `data`, and is told that sixteen pages come out.
pub(crate) fn record_of(data: &[u8], magic: [u8; 4]) -> Vec<u8> {
    sealed_record(data, FRAME_LEN, magic)
}

fn sealed_record(compressed: &[u8], raw_len: u32, magic: [u8; 4]) -> Vec<u8> {
    let RecordPlace { vault, group, name } = record_place();
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(&vault.to_bytes());
    bytes.extend_from_slice(&group.to_bytes());
    bytes.extend_from_slice(&SALT);
    bytes.extend_from_slice(&commitment(&group_key(), &SALT));
    bytes.extend_from_slice(&raw_len.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    let key = derive(group_key().expose(), &SALT, b"lifeboat/v1/gc");
    let stored = encrypt(key, 0, &bytes, compressed);
    bytes.extend_from_slice(&stored);
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// A record with `data` behind magic and version, and its checksum put right.
pub(crate) fn record_header(data: &[u8], magic: [u8; 4]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.extend_from_slice(data);
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// An epoch object with `data` as its fields, and commitment, checksum and MAC behind them; the nonce is at `nonce_at`.
pub(crate) fn epoch(data: &[u8], nonce_at: usize) -> Vec<u8> {
    let mut bytes = data.get(..data.len().min(400)).unwrap_or_default().to_vec();
    let salt: Salt = bytes.get(nonce_at..nonce_at + 16).and_then(|field| field.try_into().ok()).unwrap_or_default();
    bytes.extend_from_slice(&commitment(&group_key(), &salt));
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    let mac = hmac::sign(&mac_key(&salt), &bytes);
    bytes.extend_from_slice(mac.as_ref());
    bytes
}

fn mac_key(salt: &Salt) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &derive(group_key().expose(), salt, b"lifeboat/v1/mac"))
}

/// AES-256-GCM under a derived key.
fn encrypt(key: [u8; 32], number: u64, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &key).expect("32 bytes"));
    let mut bytes = plain.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut bytes).expect("short enough");
    bytes
}

fn compress(raw: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(raw, 1).expect("compressible")
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Header, payload and encrypted index with the trailer that proves them.
fn close(header: &[u8], payload: &[u8], index: &[u8], raw_len: u32, count: u32, magic: [u8; 4]) -> Vec<u8> {
    let mut bytes = [header, payload, index].concat();
    let offset = u64::try_from(header.len() + payload.len()).unwrap_or(u64::MAX);
    let total = u64::try_from(bytes.len() + TRAILER_LEN).unwrap_or(u64::MAX);
    let mut trailer = offset.to_le_bytes().to_vec();
    trailer.extend_from_slice(&len32(index).to_le_bytes());
    trailer.extend_from_slice(&raw_len.to_le_bytes());
    trailer.extend_from_slice(&count.to_le_bytes());
    trailer.extend_from_slice(&total.to_le_bytes());
    let hash = *blake3::Hasher::new().update(header).update(index).update(&trailer).finalize().as_bytes();
    trailer.extend_from_slice(&hash);
    trailer.extend_from_slice(hmac::sign(&mac_key(&SALT), &[&magic[..], &hash].concat()).as_ref());
    let sum = crc32c::crc32c(&trailer);
    trailer.extend_from_slice(&sum.to_le_bytes());
    trailer.extend_from_slice(&magic);
    bytes.extend_from_slice(&trailer);
    bytes
}

fn segment_header() -> Vec<u8> {
    let header = SegmentHeader {
        version: SEGMENT_VERSION,
        place: segment_place(),
        first_lsn: Lsn(1),
        last_lsn: Lsn(1 << 40),
        time: Timestamp::from_micros(1),
        salt: SALT,
        writer_nonce: [1; 16],
        commitment: commitment(&group_key(), &SALT),
        previous: SegmentHash::ZERO,
    };
    header.encode()
}

/// A segment whose index, before compression, is `raw`. Frames that it names are filled with zeroes; their number is where
/// the list of frames says it.
pub(crate) fn segment(raw: &[u8]) -> Vec<u8> {
    let volumes = usize::try_from(u32_at(raw, 0)).unwrap_or(0).min(200);
    let frames = u32_at(raw, 4 + volumes * 28);
    let payload = frames_len(raw, 4 + volumes * 28 + 4, frames);
    sealed_segment(raw, frames, &vec![0; payload])
}

/// Bytes that the frames of a directory take, as far as they can be walked.
fn frames_len(raw: &[u8], mut at: usize, count: u32) -> usize {
    let mut len = 0_usize;
    for _ in 0..count.min(1000) {
        len = len.saturating_add(usize::try_from(u32_at(raw, at + 12)).unwrap_or(0));
        let Some(runs) = raw.get(at + 23) else { break };
        at += 24 + usize::from(*runs) * 9;
    }
    len.min(1 << 20)
}

fn sealed_segment(raw: &[u8], count: u32, payload: &[u8]) -> Vec<u8> {
    let header = segment_header();
    let aad = [&header[..], &len32(raw).to_le_bytes(), &count.to_le_bytes()].concat();
    let key = derive(group_key().expose(), &SALT, b"lifeboat/v1/index");
    let index = encrypt(key, 0, &aad, &compress(raw));
    close(&header, payload, &index, len32(raw), count, *b"LBSE")
}

/// A rebuilt segment whose index, before compression, is `raw`. Frames that it names are filled with zeroes.
pub(crate) fn rebuilt(raw: &[u8]) -> Vec<u8> {
    let header = RebuiltHeader {
        place: rebuilt_place(),
        time: Timestamp::from_micros(1),
        salt: SALT,
        commitment: commitment(&group_key(), &SALT),
        segment_hash: SegmentHash([2; 32]),
    }
    .encode();
    let volumes = usize::try_from(u32_at(raw, 0)).unwrap_or(0).min(200);
    let mut at = 4 + volumes * 20;
    let count = u32_at(raw, at);
    at += 4;
    let mut payload = 0_usize;
    for _ in 0..count.min(1000) {
        payload = payload.saturating_add(usize::try_from(u32_at(raw, at)).unwrap_or(0));
        let Some(blocks) = raw.get(at + 7) else { break };
        at += 8 + usize::from(*blocks) * 5;
    }
    let aad = [&header[..], &len32(raw).to_le_bytes(), &count.to_le_bytes()].concat();
    let key = derive(group_key().expose(), &SALT, b"lifeboat/v1/index");
    let index = encrypt(key, 0, &aad, &compress(raw));
    close(&header, &vec![0; payload.min(1 << 20)], &index, len32(raw), count, *b"LBRE")
}

/// A segment with one frame of sixteen blocks, compressed: the fuzzer's bytes are what a decompressor gets.
pub(crate) fn frame(data: &[u8]) {
    let data = data.get(..data.len().min(60_000)).unwrap_or_default();
    if data.is_empty() {
        return;
    }
    let mut aad = Vec::new();
    let SegmentPlace { vault, group, id } = segment_place();
    aad.extend_from_slice(&vault.to_bytes());
    aad.extend_from_slice(&group.to_bytes());
    aad.extend_from_slice(&id.branch.to_bytes());
    aad.extend_from_slice(&id.epoch.0.to_le_bytes());
    aad.extend_from_slice(&id.seq.0.to_le_bytes());
    aad.extend_from_slice(&SALT);
    aad.extend_from_slice(&0_u32.to_le_bytes());
    aad.extend_from_slice(&VOLUME.to_bytes());
    aad.extend_from_slice(&FRAME_LEN.to_le_bytes());
    aad.push(1);
    let key = derive(volume_keys().data.expose(), &SALT, b"lifeboat/v1/frame");
    let stored = encrypt(key, 0, &aad, data);
    let mut raw = 1_u32.to_le_bytes().to_vec();
    raw.extend_from_slice(&VOLUME.to_bytes());
    raw.extend_from_slice(&16_u64.to_le_bytes());
    raw.extend_from_slice(&1_u32.to_le_bytes());
    raw.extend_from_slice(&1_u32.to_le_bytes());
    raw.extend_from_slice(&0_u32.to_le_bytes());
    raw.extend_from_slice(&u64::try_from(SEGMENT_HEADER_LEN).unwrap_or(0).to_le_bytes());
    raw.extend_from_slice(&len32(&stored).to_le_bytes());
    raw.extend_from_slice(&FRAME_LEN.to_le_bytes());
    raw.push(1);
    raw.extend_from_slice(&0_u16.to_le_bytes());
    raw.push(1);
    raw.extend_from_slice(&0_u64.to_le_bytes());
    raw.push(16);
    raw.extend_from_slice(&[1; 16 * 16]);
    raw.extend_from_slice(&1_u32.to_le_bytes());
    raw.push(1);
    raw.extend_from_slice(&0_u32.to_le_bytes());
    let bytes = sealed_segment(&raw, 1, &stored);
    let object =
        SegmentObject::open(&bytes, &segment_place(), &group_key()).expect("everything but the frame is sound");
    let plain = object.frame(FrameNo(0), &volume_keys().data);
    assert!(plain.is_err() || plain.is_ok_and(|plain| plain.len() == 16 * 4096));
}

fn map_object() -> MapObjectRef {
    let MapPlace { branch, lsn, id, .. } = map_place();
    MapObjectRef { branch, lsn, id, salt: SALT }
}

fn map_aad() -> Vec<u8> {
    let MapPlace { vault, group, branch, lsn, id } = map_place();
    let mut aad = [vault.to_bytes(), group.to_bytes(), branch.to_bytes()].concat();
    aad.extend_from_slice(&lsn.0.to_le_bytes());
    aad.extend_from_slice(&id.to_bytes());
    aad.extend_from_slice(&SALT);
    aad
}

fn map_key() -> [u8; 32] {
    derive(group_key().expose(), &SALT, b"lifeboat/v1/map")
}

/// A map object without nodes whose footer, before compression, is `raw`.
pub(crate) fn map(raw: &[u8]) -> Vec<u8> {
    let header = MapHeader { place: map_place(), salt: SALT, commitment: commitment(&group_key(), &SALT) }.encode();
    debug_assert_eq!(header.len(), MAP_HEADER_LEN);
    // The list of nodes is the footer's last: without nodes, a count of 0 ends it.
    let aad = [&map_aad()[..], b"footer", &len32(raw).to_le_bytes(), &0_u32.to_le_bytes()].concat();
    let footer = encrypt(map_key(), u64::MAX, &aad, &compress(raw));
    close(&header, &[], &footer, len32(raw), 0, *b"LBME")
}

/// The node that decodes from `raw`, if one does.
pub(crate) fn node(raw: &[u8]) -> Option<Node> {
    let raw = raw.get(..raw.len().min(65_536)).unwrap_or_default();
    let aad = [&map_aad()[..], &0_u32.to_le_bytes(), &len32(raw).to_le_bytes()].concat();
    let stored = encrypt(map_key(), 0, &aad, &compress(raw));
    let object = map_object();
    let keys = MapKeys::new(map_place().vault, map_place().group, &object, &group_key());
    let reference = NodeRef {
        object: std::sync::Arc::new(object),
        node: 0,
        offset: 0,
        stored_len: len32(&stored),
        raw_len: len32(raw),
        hash: RootHash::ZERO,
    };
    keys.open_node(&reference, &stored).ok()
}

/// A document whose content is `data`, in the envelope of version 2 with the right sum and some MAC.
pub(crate) fn document(content: &[u8], name: &str) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"lifeboat/v2/sum");
    context.update(&u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
    context.update(name.as_bytes());
    context.update(&1_u32.to_le_bytes());
    context.update(content);
    let sum = context.finish();
    let mut bytes = b"{\"format_version\":2,\"master\":1,\"sum\":\"".to_vec();
    bytes.extend_from_slice(base64(sum.as_ref().get(..16).unwrap_or_default()).as_bytes());
    bytes.extend_from_slice(b"\",\"mac\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"content\":");
    bytes.extend_from_slice(content);
    bytes.push(b'}');
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().chain([0, 0].iter()).take(3).fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for index in 0..4 {
            let digit = DIGITS.get(word >> (18 - 6 * index) & 63).copied().unwrap_or(b'=');
            text.push(if index <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// What the magic in front asks for, put right.
pub(crate) fn any(data: &[u8]) -> Vec<u8> {
    match data.get(..4) {
        Some(b"LBJF") => checksum_at(data, data.len().max(4096), 60),
        Some(b"LBJB") => batch(data),
        Some(b"LBGS") => state(data),
        Some(b"LBPB") => checksum_at(data, data.len().max(4096), 4092),
        Some(b"LBSG") => checksum_at(data, data.len().max(SEGMENT_HEADER_LEN + TRAILER_LEN), 192),
        Some(b"LBRS") => checksum_at(data, data.len().max(REBUILT_HEADER_LEN + TRAILER_LEN), REBUILT_HEADER_LEN - 4),
        Some(b"LBMP") => checksum_at(data, data.len().max(MAP_HEADER_LEN + TRAILER_LEN), 128),
        Some(b"LBEI") => epoch(data, 78),
        Some(b"LBEC") => epoch(data, 118),
        Some(b"LBDM") => dirty(data.get(16..).unwrap_or_default()),
        Some(magic @ (b"LBKP" | b"LBDI" | b"LBPM" | b"LBBD")) => {
            let magic = magic.first_chunk().copied().unwrap_or_default();
            record_header(data.get(6..).unwrap_or_default(), magic)
        }
        _ => data.to_vec(),
    }
}
