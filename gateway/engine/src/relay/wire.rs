//! The engine's values as frames have them, and back.

use std::error::Error as _;

use bytes::Bytes;
use lifeboat_format::FormatError;
use lifeboat_format::journal::{EntryOp, decode_point, encode_point};
use lifeboat_format::stream::{End, FRAME_PAYLOAD, FRAME_RECORDS_MAX, FencedBy, Place, Record, Records};
use lifeboat_model::{BranchId, Extent, Lsn, PointId, PointKind, VolumeId};

use crate::branch::Position;
use crate::error::{EngineError, ErrorKind, Result};
use crate::record::{LogRecord, Op, PointMark};
use crate::ship::{Fenced, Interval, ShipError};

/// The frames of an interval that begins after `after`, each with the position that it reaches.
pub(super) fn frames(after: Lsn, interval: &Interval, push: bool) -> Result<Vec<(Lsn, Vec<u8>)>> {
    let payloads: Vec<Bytes> = interval.records.iter().map(|record| payload(&record.op)).collect();
    let mut frames = Vec::new();
    let mut open = Records { after, sizes: interval.sizes.clone(), ..Records::default() };
    let mut bytes = 0;
    for (record, payload) in interval.records.iter().zip(&payloads) {
        if bytes >= FRAME_PAYLOAD || open.records.len() >= FRAME_RECORDS_MAX {
            let next = Records { after: open.last, ..Records::default() };
            let full = std::mem::replace(&mut open, next);
            frames.push((full.last, full.encode().map_err(refused)?));
            bytes = 0;
        }
        bytes += payload.len();
        open.last = record.lsn;
        open.records.push(entry(record, payload));
    }
    open.last = interval.last_lsn;
    open.push = push;
    frames.push((open.last, open.encode().map_err(refused)?));
    Ok(frames)
}

fn payload(op: &Op) -> Bytes {
    match op {
        Op::Write { data, .. } | Op::Copy { data: Some(data), .. } => data.clone(),
        Op::Point(mark) => encode_point(mark.id.to_bytes(), mark.time, mark.kind.code(), &mark.label).into(),
        Op::Zero { .. } | Op::Trim { .. } | Op::Copy { data: None, .. } | Op::Resize { .. } => Bytes::new(),
    }
}

fn entry<'a>(record: &LogRecord, payload: &'a [u8]) -> Record<'a> {
    let none = VolumeId::from_bytes([0; 16]);
    let (op, volume, lba, blocks) = match &record.op {
        Op::Write { volume, lba, data } => {
            (EntryOp::Write, *volume, *lba, data.len() as u64 / lifeboat_model::BLOCK_SIZE_U64)
        }
        Op::Zero { volume, extent } => (EntryOp::Zero, *volume, extent.lba, extent.blocks),
        Op::Trim { volume, extent } => (EntryOp::Trim, *volume, extent.lba, extent.blocks),
        Op::Copy { volume, extent, .. } => (EntryOp::Copy, *volume, extent.lba, extent.blocks),
        Op::Resize { volume, blocks } => (EntryOp::Resize, *volume, 0, *blocks),
        Op::Point(mark) if mark.consistent => (EntryOp::Point, none, 0, 0),
        Op::Point(_) => (EntryOp::PointInResync, none, 0, 0),
    };
    Record { lsn: record.lsn, op, volume, lba, blocks, payload }
}

/// The records of a frame whose body this is.
pub(super) fn log_records(body: &Bytes, records: &Records<'_>) -> Result<Vec<LogRecord>> {
    records.records.iter().map(|record| Ok(LogRecord { lsn: record.lsn, op: op(body, record)? })).collect()
}

fn op(body: &Bytes, record: &Record<'_>) -> Result<Op> {
    let volume = record.volume;
    let extent = Extent { lba: record.lba, blocks: record.blocks };
    let data = || body.slice_ref(record.payload);
    Ok(match record.op {
        EntryOp::Write => Op::Write { volume, lba: record.lba, data: data() },
        EntryOp::Zero => Op::Zero { volume, extent },
        EntryOp::Trim => Op::Trim { volume, extent },
        EntryOp::Copy => Op::Copy { volume, extent, data: (!record.payload.is_empty()).then(data) },
        EntryOp::Resize => Op::Resize { volume, blocks: record.blocks },
        EntryOp::Point | EntryOp::PointInResync => {
            let wrong = || EngineError::new(ErrorKind::Invalid, "a recovery point that is none");
            let (id, time, kind, label) = decode_point(record.payload).map_err(|_| wrong())?;
            let kind = PointKind::from_code(kind).ok_or_else(wrong)?;
            let consistent = record.op == EntryOp::Point;
            Op::Point(PointMark { id: PointId::from_bytes(id), time, kind, label, consistent })
        }
    })
}

pub(super) fn refused(error: FormatError) -> EngineError {
    EngineError::new(ErrorKind::Invalid, format!("the stream can't hold this: {error}")).with_source(error)
}

pub(super) fn place(position: Position) -> Place {
    Place { epoch: position.epoch, seq: position.seq, lsn: position.lsn }
}

pub(super) fn position(branch: BranchId, place: Place) -> Position {
    Position { branch, epoch: place.epoch, seq: place.seq, lsn: place.lsn }
}

/// Why a line ends, for the other side.
pub(super) fn end(error: &ShipError) -> End {
    match error {
        ShipError::Fenced(fenced) => End {
            kind: code(ErrorKind::Fenced),
            text: error.to_string(),
            fenced: Some(FencedBy { epoch: fenced.by_epoch, gateway: fenced.gateway, promoted_to: fenced.promoted_to }),
        },
        ShipError::Engine(error) => {
            let kind = if error.source().is_some_and(|source| source.is::<Elsewhere>()) {
                ELSEWHERE
            } else {
                code(error.kind())
            };
            End { kind, text: error.to_string(), fenced: None }
        }
    }
}

/// What the other side said when it ended the line.
pub(super) fn ended(peer: &str, end: &End) -> ShipError {
    match end.fenced {
        Some(by) => ShipError::Fenced(Fenced { by_epoch: by.epoch, gateway: by.gateway, promoted_to: by.promoted_to }),
        None => EngineError::new(kind(end.kind), format!("{peer}: {}", end.text)).into(),
    }
}

/// The kind of an end after which another process server is to be tried; for who doesn't know it, something to try again.
pub(super) const ELSEWHERE: u8 = 12;

/// Marks the error of a line whose agent is asked to go to another process server.
#[derive(Debug, thiserror::Error)]
#[error("another process server has more room")]
pub(super) struct Elsewhere;

const KINDS: [ErrorKind; 11] = [
    ErrorKind::Retry,
    ErrorKind::Denied,
    ErrorKind::Invalid,
    ErrorKind::NotFound,
    ErrorKind::Fenced,
    ErrorKind::NoSpace,
    ErrorKind::Damaged,
    ErrorKind::Tampered,
    ErrorKind::WrongKey,
    ErrorKind::NewerFormat,
    ErrorKind::Closed,
];

pub(super) fn code(kind: ErrorKind) -> u8 {
    KINDS.iter().zip(1_u8..).find(|(known, _)| **known == kind).map_or(1, |(_, code)| code)
}

/// A kind of a newer version is something to try again.
pub(super) fn kind(code: u8) -> ErrorKind {
    KINDS.iter().zip(1_u8..).find(|(_, known)| *known == code).map_or(ErrorKind::Retry, |(kind, _)| *kind)
}
