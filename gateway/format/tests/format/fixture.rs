//! One small object of each kind, from fixed inputs.

use lifeboat_format::at_rest::{Marker, seal_text};
use lifeboat_format::dirty::{DirtyMap, DirtyVolume};
use lifeboat_format::epoch::{EpochCut, EpochIntent, EpochPlace, Origin, Purpose};
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::journal::{BatchHeader, Entry, EntryOp, FileHeader, encode_point};
use lifeboat_format::keys::{DataKey, GroupKey, HashKey, LocalKey, VolumeKeys};
use lifeboat_format::local::{
    GroupState, Phase, Place, PresenceHeader, Rehydrate, Resync, ResyncCause, STATE_SLOT, StateVolume,
};
use lifeboat_format::map::{
    BlockLocation, InnerNode, LeafEditor, LogPosition, MapBuilder, MapFooter, MapParams, MapPlace, RetainedPoint,
    SealedMap, VolumeRoot,
};
use lifeboat_format::rebuilt::{RebuiltBuilder, RebuiltParams, RebuiltPlace, SealedRebuilt};
use lifeboat_format::segment::{
    FrameBlock, FrameNo, PointVolume, RecoveryPoint, SealedSegment, SegmentBuilder, SegmentHash, SegmentParams,
    SegmentPlace,
};
use lifeboat_format::stream::compare::{Compare, Keyed, KeyedVolume, Leaf, Leaves, Unequal};
use lifeboat_format::stream::recall::{
    Begin, Blocks, BranchPlace, Dirty, Fetch, Fetched, OwnEnd, Reached, Recall, Target, own_end_is,
};
use lifeboat_format::stream::{
    Abilities, Answer, Ask, Asked, Attend, Declare, DeclaredDisk, Done, End, FencedBy, KnownServer, Open, Opened, Part,
    Place as StreamPlace, Progress, Record, Records, Refusal, Report, Reported, ReportedResync, Rules, Standing,
    Tenure, Window,
};
use lifeboat_model::{
    BLOCK_SIZE, BlockHash, BranchId, Epoch, Extent, ExtentSet, GatewayId, GroupId, Lsn, MapId, PointId, PointKind,
    RootHash, SegmentId, SegmentSeq, Timestamp, VaultId, VolumeId,
};

pub(crate) const VAULT: VaultId = VaultId::from_bytes([0x11; 16]);
pub(crate) const GROUP: GroupId = GroupId::from_bytes([0x22; 16]);
pub(crate) const BRANCH: BranchId = BranchId::from_bytes([0x33; 16]);
pub(crate) const VOLUME: VolumeId = VolumeId::from_bytes([0x44; 16]);
pub(crate) const OTHER_VOLUME: VolumeId = VolumeId::from_bytes([0x55; 16]);
pub(crate) const GATEWAY: GatewayId = GatewayId::from_bytes([0x77; 16]);
pub(crate) const POINT: PointId = PointId::from_bytes([0x66; 16]);
/// Number of the key in [`volume_keys`] as segments of [`VOLUME`] name it.
pub(crate) const DATA_KEY: u32 = 7;
pub(crate) const TIME: Timestamp = Timestamp::from_micros(1_795_082_700_000_000);

pub(crate) fn group_key() -> GroupKey {
    GroupKey::from_bytes([0xa1; 32])
}

pub(crate) fn volume_keys() -> VolumeKeys {
    VolumeKeys { data: DataKey::from_bytes([0xb2; 32]), hash: HashKey::from_bytes([0xc3; 32]) }
}

pub(crate) fn hasher() -> BlockHasher {
    BlockHasher::new(&volume_keys().hash)
}

/// A block that zstd can make small.
pub(crate) fn text_block(number: u8) -> [u8; BLOCK_SIZE] {
    let mut block = [b'.'; BLOCK_SIZE];
    block[..4].copy_from_slice(b"page");
    block[4] = number;
    block
}

/// A block that zstd can't make smaller.
pub(crate) fn noise_block(seed: u64) -> [u8; BLOCK_SIZE] {
    let mut block = [0; BLOCK_SIZE];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut block {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[3];
    }
    block
}

pub(crate) fn segment_place() -> SegmentPlace {
    SegmentPlace { vault: VAULT, group: GROUP, id: SegmentId { branch: BRANCH, epoch: Epoch(3), seq: SegmentSeq(14) } }
}

pub(crate) fn segment_builder() -> SegmentBuilder {
    let params = SegmentParams {
        place: segment_place(),
        first_lsn: Lsn(1001),
        previous: SegmentHash([0x77; 32]),
        salt: [0x88; 16],
        writer_nonce: [0x99; 16],
        level: 1,
    };
    SegmentBuilder::new(params, &group_key())
}

pub(crate) fn push_blocks(builder: &mut SegmentBuilder, volume: VolumeId, blocks: &[(u64, [u8; BLOCK_SIZE])]) {
    let hasher = hasher();
    let blocks: Vec<_> =
        blocks.iter().map(|(lba, data)| FrameBlock { lba: *lba, data, hash: hasher.block(data) }).collect();
    builder.push_frame(volume, &volume_keys().data, &blocks).expect("a frame");
}

pub(crate) fn point(lsn: u64) -> RecoveryPoint {
    RecoveryPoint {
        id: POINT,
        lsn: Lsn(lsn),
        time: TIME,
        kind: PointKind::CrashConsistent,
        consistent: true,
        label: "naïve café".to_owned(),
        volumes: vec![
            PointVolume { volume: VOLUME, size_blocks: 2048, root: Some(lifeboat_model::RootHash([0xee; 32])) },
            PointVolume { volume: OTHER_VOLUME, size_blocks: 1 << 20, root: None },
        ],
    }
}

/// Every kind of operation; one compressed frame, and with `noise` one raw frame.
pub(crate) fn segment(noise: bool) -> SealedSegment {
    let mut builder = segment_builder();
    builder.add_volume(VOLUME, 1024, DATA_KEY).expect("a volume");
    builder.add_volume(OTHER_VOLUME, 1 << 20, 1).expect("a volume");
    push_blocks(&mut builder, VOLUME, &[(3, text_block(1)), (4, text_block(2)), (1000, text_block(3))]);
    builder.push_zero(VOLUME, Extent { lba: 8, blocks: 2 }).expect("a run");
    builder.push_trim(OTHER_VOLUME, Extent { lba: 0, blocks: 1 << 20 }).expect("a run");
    builder.push_resize(VOLUME, 2048).expect("a size");
    if noise {
        builder.reserve_frame();
        push_blocks(&mut builder, OTHER_VOLUME, &[(77, noise_block(5))]);
    }
    builder.push_point(point(1005)).expect("a point");
    builder.seal(Lsn(1005), TIME).expect("seals")
}

pub(crate) fn rebuilt_place() -> RebuiltPlace {
    RebuiltPlace { segment: segment_place(), generation: 2 }
}

/// Blocks of two frames in one, and one of another volume; the last is raw with `noise`.
pub(crate) fn rebuilt(noise: bool) -> SealedRebuilt {
    let params =
        RebuiltParams { place: rebuilt_place(), segment_hash: SegmentHash([0x78; 32]), salt: [0x89; 16], level: 1 };
    let mut builder = RebuiltBuilder::new(params, &group_key());
    let (hasher, data) = (hasher(), volume_keys().data);
    let (one, two) = (text_block(1), text_block(2));
    let three = if noise { noise_block(5) } else { text_block(3) };
    let blocks = [(FrameNo(0), 1, hasher.block(&one), &one), (FrameNo(4), 15, hasher.block(&two), &two)];
    builder.push_frame(VOLUME, (DATA_KEY, &data), &blocks).expect("a frame");
    builder.push_frame(OTHER_VOLUME, (1, &data), &[(FrameNo(2), 0, hasher.block(&three), &three)]).expect("a frame");
    builder.seal(TIME).expect("seals")
}

pub(crate) fn map_place() -> MapPlace {
    MapPlace { vault: VAULT, group: GROUP, branch: BRANCH, lsn: Lsn(1005), id: MapId::from_bytes([0xab; 16]) }
}

/// Two volumes: one with a leaf under an inner node, one empty.
pub(crate) fn map() -> SealedMap {
    let hasher = hasher();
    let mut builder = MapBuilder::new(MapParams { place: map_place(), salt: [0xcd; 16] }, &group_key());
    let mut leaf = LeafEditor::default();
    for (slot, frame_slot) in [(3, 0), (4, 1), (488, 2)] {
        let location = BlockLocation { segment: segment_place().id, frame: FrameNo(0), slot: frame_slot };
        leaf.set(slot, location, BlockHash([frame_slot + 1; 16]));
    }
    let mut inner = InnerNode::new(1);
    inner.set_child(0, builder.push_leaf(leaf.freeze(), &hasher).expect("a leaf"));
    let root = builder.push_inner(inner, &hasher).expect("a node");
    let footer = MapFooter {
        position: LogPosition {
            epoch: Epoch(3),
            seq: SegmentSeq(14),
            lsn: Lsn(1005),
            segment_hash: SegmentHash([0x12; 32]),
        },
        roots: vec![
            VolumeRoot { volume: VOLUME, size_blocks: 2048, root },
            VolumeRoot { volume: OTHER_VOLUME, size_blocks: 1, root: lifeboat_format::map::Child::Zero },
        ],
        points: vec![RetainedPoint {
            id: POINT,
            lsn: Lsn(1005),
            time: TIME,
            kind: PointKind::Manual,
            consistent: true,
            label: "before the upgrade".to_owned(),
            epoch: Epoch(3),
            seq: SegmentSeq(14),
        }],
    };
    builder.seal(footer).expect("seals")
}

pub(crate) fn epoch_place() -> EpochPlace {
    EpochPlace { vault: VAULT, group: GROUP, branch: BRANCH, epoch: Epoch(4) }
}

pub(crate) fn intent(origin: bool) -> EpochIntent {
    EpochIntent {
        place: epoch_place(),
        writer: GatewayId::from_bytes([0x41; 16]),
        nonce: [0x42; 16],
        time: TIME,
        purpose: if origin { Purpose::Write } else { Purpose::Fence },
        origin: origin.then_some(Origin {
            branch: BranchId::from_bytes([0x43; 16]),
            point: POINT,
            lsn: Lsn(1005),
            epoch: Epoch(3),
            seq: SegmentSeq(14),
        }),
        promoted_to: (!origin).then_some(BranchId::from_bytes([0x45; 16])),
    }
}

pub(crate) fn cut() -> EpochCut {
    EpochCut {
        place: epoch_place(),
        epoch: Epoch(3),
        last_seq: SegmentSeq(14),
        last_lsn: Lsn(1005),
        last_hash: SegmentHash([0x46; 32]),
        nonce: [0x42; 16],
    }
}

fn place(branch: u8) -> Place {
    Place { branch: BranchId::from_bytes([branch; 16]), epoch: Epoch(3), seq: SegmentSeq(14), lsn: Lsn(1005) }
}

/// Every optional field there, or none.
pub(crate) fn state(generation: u64, full: bool) -> GroupState {
    let rehydrate = Rehydrate {
        branch: BranchId::from_bytes([0x45; 16]),
        orphan: Some(BranchId::from_bytes([0x47; 16])),
        base: Some(place(0x33)),
        target: Some(place(0x45)),
        cursor: Some((VOLUME, 1536)),
        full: true,
    };
    GroupState {
        group: GROUP,
        gateway: GatewayId::from_bytes([0x41; 16]),
        generation,
        phase: if full { Phase::Rehydrating } else { Phase::Active },
        branch: BRANCH,
        epoch: Epoch(3),
        journal_first: Lsn(1),
        image_lsn: Lsn(900),
        shipped: place(0x33),
        volumes: vec![
            StateVolume { id: VOLUME, name: "db".to_owned(), blocks: 2048, lazy: false },
            StateVolume { id: OTHER_VOLUME, name: String::new(), blocks: 1 << 20, lazy: true },
        ],
        origin: full.then(|| place(0x43)),
        rehydrate: full.then_some(rehydrate),
        resync: full.then_some(Resync {
            since: TIME,
            cause: ResyncCause::JournalFull,
            collapsed: Lsn(950),
            total_blocks: 4096,
        }),
    }
}

/// What version 1 of a state holds.
pub(crate) fn state_v1(generation: u64, full: bool) -> GroupState {
    GroupState { resync: None, ..state(generation, full) }
}

pub(crate) fn dirty() -> DirtyMap {
    let runs = [Extent { lba: 0, blocks: 8 }, Extent { lba: 1024, blocks: 512 }];
    DirtyMap {
        group: GROUP,
        generation: 3,
        collapsed: Lsn(950),
        volumes: vec![
            DirtyVolume { id: VOLUME, blocks: 2048, dirty: runs.into_iter().collect() },
            DirtyVolume { id: OTHER_VOLUME, blocks: 1 << 20, dirty: ExtentSet::new() },
        ],
    }
}

pub(crate) fn stream_open() -> Open {
    Open { group: GROUP, branch: BRANCH, agent: GATEWAY, epoch: Some(Epoch(4)), durable: Lsn(960), shipped: Lsn(940) }
}

pub(crate) fn stream_place() -> StreamPlace {
    StreamPlace { epoch: Epoch(4), seq: SegmentSeq(17), lsn: Lsn(950) }
}

pub(crate) fn stream_point() -> RetainedPoint {
    RetainedPoint {
        id: POINT,
        lsn: Lsn(950),
        time: TIME,
        kind: PointKind::Manual,
        consistent: true,
        label: "before the upgrade".into(),
        epoch: Epoch(4),
        seq: SegmentSeq(17),
    }
}

pub(crate) fn stream_opened() -> Opened {
    Opened {
        epoch: Epoch(5),
        end: stream_place(),
        cached: Lsn(955),
        points: vec![stream_point()],
        volumes: vec![(VOLUME, 2048), (OTHER_VOLUME, 1 << 20)],
    }
}

/// Every kind of record, a gap among them, and a point at the end.
pub(crate) fn stream_records<'a>(block: &'a [u8], point: &'a [u8]) -> Records<'a> {
    let none = VolumeId::from_bytes([0; 16]);
    let record = |lsn, op, volume, lba, blocks, payload| Record { lsn: Lsn(lsn), op, volume, lba, blocks, payload };
    Records {
        after: Lsn(955),
        last: Lsn(966),
        push: true,
        sizes: vec![(VOLUME, 2048)],
        records: vec![
            record(960, EntryOp::Resize, VOLUME, 0, 4096, &[]),
            record(961, EntryOp::Write, VOLUME, 7, 1, block),
            record(962, EntryOp::Zero, VOLUME, 8, 500, &[]),
            record(963, EntryOp::Trim, VOLUME, 600, 9, &[]),
            record(964, EntryOp::Copy, VOLUME, 1000, 1, block),
            record(965, EntryOp::Copy, VOLUME, 1001, 3, &[]),
            record(966, EntryOp::Point, none, 0, 0, point),
        ],
    }
}

pub(crate) fn stream_progress() -> Progress {
    Progress {
        cached: Lsn(966),
        shipped: stream_place(),
        points: vec![stream_point()],
        trouble: "the vault is away".into(),
    }
}

pub(crate) fn stream_end() -> End {
    let fenced = FencedBy { epoch: Epoch(6), gateway: GATEWAY, promoted_to: Some(BRANCH) };
    End { kind: 5, text: "another gateway has the branch".into(), fenced: Some(fenced) }
}

pub(crate) fn stream_tenure() -> Tenure {
    Tenure { group: GROUP, branch: BRANCH, agent: GATEWAY, epoch: Epoch(5), end: Lsn(950) }
}

pub(crate) fn stream_declare() -> Declare {
    let disk = |id, name: &str, path: &str| DeclaredDisk {
        id,
        size_bytes: 8 << 20,
        name: name.to_owned(),
        path: path.to_owned(),
    };
    Declare {
        group: GROUP,
        agent: GATEWAY,
        name: "erp".into(),
        policy: "gold".into(),
        disks: vec![disk(VOLUME, "erp-data", "/dev/vdb"), disk(OTHER_VOLUME, "erp-log", "/srv/log.raw")],
    }
}

pub(crate) fn stream_attend() -> Attend {
    Attend { group: GROUP, agent: GATEWAY, abilities: None }
}

pub(crate) fn stream_compare() -> Compare {
    Compare { group: GROUP, agent: GATEWAY, at: stream_branch_place() }
}

pub(crate) fn stream_keyed() -> Keyed {
    let keyed = |volume, blocks| KeyedVolume { volume, blocks, key: HashKey::from_bytes([0x5a; 32]) };
    Keyed { volumes: vec![keyed(VOLUME, 2048), keyed(OTHER_VOLUME, 0)] }
}

pub(crate) fn stream_leaves() -> Leaves {
    Leaves { volume: VOLUME, first: 2, hashes: vec![RootHash([0x11; 32]), RootHash::ZERO] }
}

pub(crate) fn stream_unequal() -> Unequal {
    Unequal { leaves: vec![2] }
}

pub(crate) fn stream_leaf() -> Leaf {
    let mut blocks = Box::new([BlockHash::ZERO; 512]);
    blocks[7] = BlockHash([0x22; 16]);
    Leaf { volume: VOLUME, leaf: 2, blocks }
}

pub(crate) fn stream_attend_able() -> Attend {
    Attend { abilities: Some(Abilities { hooks_ms: Some(30_000), compares: true }), ..stream_attend() }
}

pub(crate) fn stream_report() -> Report {
    Report {
        state: Reported::Standby,
        branch: BRANCH,
        epoch: Epoch(5),
        last: Lsn(970),
        durable: Lsn(966),
        shipped: Lsn(950),
        backlog_bytes: 3 << 20,
        journal_bytes: 5 << 20,
        churn_bytes_per_second: 7000,
        rpo_ms: Some(2500),
        health: 1,
        reasons: vec!["the vault is away".into(), "the journal is nearly full".into()],
        point: Some(stream_point()),
        resync: Some(ReportedResync {
            since: TIME,
            cause: 2,
            done_bytes: 1 << 20,
            total_bytes: 4 << 20,
            waits_for: "the vault".into(),
        }),
        progress: Some((1 << 20, 8 << 20)),
    }
}

/// Everything that an agent is asked for.
pub(crate) fn stream_asks() -> Vec<(&'static str, Ask)> {
    vec![
        ("ask-point", Asked::Point { kind: PointKind::Manual, label: "before the upgrade".into() }),
        ("ask-release", Asked::Release { patience_ms: 300_000 }),
        ("ask-resume", Asked::Resume),
        ("ask-resync", Asked::Resync { now: true }),
        ("ask-doubt", Asked::Doubt),
        ("ask-rehydrate", Asked::Rehydrate { branch: BRANCH, full: true }),
        ("ask-take-over", Asked::TakeOver),
        ("ask-barrier-quiet", Asked::Barrier { point: POINT, part: Part::Quiet { limit_ms: 30_000 } }),
        ("ask-barrier-hold", Asked::Barrier { point: POINT, part: Part::Hold { limit_ms: 2_000 } }),
        ("ask-barrier-mark", Asked::Barrier { point: POINT, part: Part::Mark }),
        ("ask-barrier-let-go", Asked::Barrier { point: POINT, part: Part::LetGo }),
        (
            "ask-rules",
            Asked::Rules(Rules {
                point_ms: 5_000,
                app_point_ms: Some(14_400_000),
                journal_percent: 50,
                resync: Some(Window { minutes: (1_320, 360), zone: "Europe/Zurich".into() }),
            }),
        ),
        ("ask-compare", Asked::Compare { begin: true }),
    ]
    .into_iter()
    .zip(7..)
    .map(|((name, what), number)| (name, Ask { number, what }))
    .collect()
}

pub(crate) fn stream_answers() -> Vec<(&'static str, Answer)> {
    let refusal = Refusal { kind: 1, text: "the vault is away".into() };
    let point = Some((BRANCH, stream_point()));
    let done = Done {
        point,
        orphan: Some(BranchId::from_bytes([0x44; 16])),
        blocks_compared: 2048,
        blocks_moved: 17,
        bytes_fetched: 70_000,
    };
    vec![
        ("answer-point", Answer { number: 7, outcome: Ok(done) }),
        ("answer-done", Answer { number: 9, outcome: Ok(Done::default()) }),
        ("answer-refused", Answer { number: 8, outcome: Err(refusal) }),
    ]
}

pub(crate) fn stream_branch_place() -> BranchPlace {
    BranchPlace { branch: BRANCH, place: stream_place() }
}

pub(crate) fn stream_begins() -> Vec<(&'static str, Begin)> {
    let begin =
        |origin| Begin { group: GROUP, branch: BranchId::from_bytes([0x44; 16]), agent: GATEWAY, origin, at: Lsn(950) };
    vec![
        ("begin-fork", begin(Some((stream_branch_place(), None)))),
        ("begin-fork-at-point", begin(Some((stream_branch_place(), Some(POINT))))),
        ("begin-on", begin(None)),
    ]
}

pub(crate) fn stream_recall() -> Recall {
    Recall { group: GROUP, agent: GATEWAY }
}

pub(crate) fn stream_own_end() -> OwnEnd {
    OwnEnd { branch: BRANCH, epoch: Epoch(4) }
}

pub(crate) fn stream_dirty() -> Dirty {
    Dirty { volume: VOLUME, extents: vec![Extent { lba: 7, blocks: 3 }, Extent { lba: 600, blocks: 1 }] }
}

pub(crate) fn stream_reached() -> Reached {
    Reached { volume: VOLUME, lba: 512 }
}

pub(crate) fn stream_fetches() -> Vec<(&'static str, Fetch)> {
    let nothing = Fetch { branch: BRANCH, base: None, target: None, cursor: None, full: true };
    let (base, cursor) = (Some(stream_branch_place()), Some(stream_reached()));
    vec![("fetch", Fetch { base, target: Some(Lsn(960)), cursor, full: false, ..nothing }), ("fetch-full", nothing)]
}

pub(crate) fn stream_target() -> Target {
    let volumes = vec![(VOLUME, 2048), (OTHER_VOLUME, 1 << 20)];
    Target { branch: BRANCH, point: stream_point(), begun: true, full: false, volumes }
}

pub(crate) fn stream_blocks(data: Option<&[u8]>) -> Blocks<'_> {
    Blocks { volume: VOLUME, extent: Extent { lba: 7, blocks: 1 }, data }
}

pub(crate) fn stream_fetched() -> Fetched {
    Fetched { blocks_compared: 2048, blocks_moved: 17, bytes_fetched: 70_000 }
}

pub(crate) fn stream_standing() -> Standing {
    let server = |address: &str, same_site| KnownServer { address: address.to_owned(), same_site };
    Standing {
        health: 1,
        agents: 17,
        cache_bytes: 3 << 30,
        cache_bytes_limit: 64 << 30,
        servers: vec![server("ps-a.example.org:9443", true), server("[2001:db8::7]:9443", false)],
    }
}

/// A frame of each kind that has a body.
pub(crate) fn stream_frames() -> Vec<(&'static str, Vec<u8>)> {
    let (block, point) = (text_block(1), journal_point());
    vec![
        ("open", stream_open().encode()),
        ("opened", stream_opened().encode()),
        ("records", stream_records(&block, &point).encode()),
        ("progress", stream_progress().encode()),
        ("end", stream_end().encode()),
        ("tenure", stream_tenure().encode()),
        ("declare", stream_declare().encode()),
        ("attend", stream_attend().encode()),
        ("attend-able", stream_attend_able().encode()),
        ("compare", stream_compare().encode()),
        ("keyed", stream_keyed().encode()),
        ("leaves", stream_leaves().encode()),
        ("unequal", stream_unequal().encode()),
        ("leaf", stream_leaf().encode()),
        ("report", stream_report().encode()),
        ("recall", stream_recall().encode()),
        ("own-end", stream_own_end().encode()),
        ("own-end-is", own_end_is(&stream_branch_place())),
        ("dirty", stream_dirty().encode()),
        ("target", stream_target().encode()),
        ("blocks", stream_blocks(Some(&block)).encode()),
        ("blocks-zero", stream_blocks(None).encode()),
        ("reached", stream_reached().encode()),
        ("fetched", stream_fetched().encode()),
        ("standing", stream_standing().encode()),
    ]
    .into_iter()
    .chain(stream_asks().into_iter().map(|(name, ask)| (name, ask.encode())))
    .chain(stream_begins().into_iter().map(|(name, begin)| (name, begin.encode())))
    .chain(stream_fetches().into_iter().map(|(name, fetch)| (name, fetch.encode())))
    .chain(stream_answers().into_iter().map(|(name, answer)| (name, answer.encode())))
    .map(|(name, frame)| (name, frame.expect("within the limits")))
    .collect()
}

pub(crate) fn state_file() -> Vec<u8> {
    let mut file = state(6, true).encode().expect("within the limits");
    file.resize(STATE_SLOT, 0);
    file.extend(state(5, false).encode().expect("within the limits"));
    file.resize(2 * STATE_SLOT, 0);
    file
}

pub(crate) fn presence() -> PresenceHeader {
    PresenceHeader { volume: VOLUME, size_blocks: 100_000, generation: 2 }
}

pub(crate) fn journal_file_header() -> FileHeader {
    FileHeader { group: GROUP, number: 12, first_lsn: Lsn(1001), incarnation: 7, length: 64 << 20, time: TIME }
}

/// What version 1 of a batch holds.
pub(crate) fn journal_batch_header_v1() -> BatchHeader {
    let mut header = journal_batch_header();
    header.entries.truncate(5);
    header
}

pub(crate) fn journal_batch_header() -> BatchHeader {
    let point = journal_point();
    let volume = VolumeId::from_bytes([0; 16]);
    BatchHeader {
        group: GROUP,
        incarnation: 7,
        epoch: Epoch(3),
        first_lsn: Lsn(1001),
        previous_checksum: 0x1234_5678,
        durable_lsn: Lsn(1000),
        time: TIME,
        entries: vec![
            Entry::with_payload(VOLUME, EntryOp::Write, 3, 1, &text_block(1)).expect("fits"),
            Entry::bare(VOLUME, EntryOp::Zero, 8, 2),
            Entry::bare(OTHER_VOLUME, EntryOp::Trim, 0, 1 << 20),
            Entry::bare(VOLUME, EntryOp::Resize, 0, 2048),
            Entry::with_payload(volume, EntryOp::Point, 0, 0, &point).expect("fits"),
            Entry::with_payload(VOLUME, EntryOp::Copy, 5, 1, &text_block(2)).expect("fits"),
            Entry::bare(OTHER_VOLUME, EntryOp::Copy, 64, 256),
            Entry::with_payload(volume, EntryOp::PointInResync, 0, 0, &point).expect("fits"),
        ],
    }
}

pub(crate) fn journal_point() -> Vec<u8> {
    encode_point(POINT.to_bytes(), TIME, PointKind::Manual.code(), "before the upgrade")
}

pub(crate) fn journal_batch() -> Vec<u8> {
    let header = journal_batch_header();
    let mut batch = header.encode().expect("encodes").0.to_vec();
    for payload in [text_block(1).to_vec(), journal_point(), text_block(2).to_vec(), journal_point()] {
        batch.extend_from_slice(&payload);
        batch.resize(batch.len().next_multiple_of(4096), 0);
    }
    assert_eq!(batch.len(), header.total_len());
    batch
}

pub(crate) fn local_key() -> LocalKey {
    LocalKey::from_bytes([0x77; 32])
}

pub(crate) fn at_rest_marker() -> Marker {
    Marker::new(&local_key(), [0x78; 16])
}

pub(crate) fn at_rest_text() -> Vec<u8> {
    seal_text(&local_key(), "vaults.json", [0x79; 16], b"[]").expect("short")
}

/// A dirty map as it lies in an encrypted directory.
pub(crate) fn at_rest_file() -> Vec<u8> {
    let mut bytes = dirty().encode().expect("within the limits");
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    at_rest_marker().open(&local_key()).expect("its key").file("dirty-a").encrypt(0, &mut bytes);
    bytes
}
