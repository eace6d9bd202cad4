//! Logs made by a writer directly: what a group would ship, without a journal before it.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::ship::{BranchWriter, Interval, Open, ShipSettings};
use lifeboat_engine::{LogRecord, Op, PointMark};
use lifeboat_model::{BranchId, GatewayId, GroupId, Lsn, PointId, PointKind, Timestamp, VolumeId};
use lifeboat_vault::Vault;

/// A branch that is being written, with one volume.
pub struct Log {
    pub vault: Arc<Vault>,
    pub writer: BranchWriter,
    pub group: GroupId,
    pub branch: BranchId,
    pub volume: VolumeId,
    lsn: Lsn,
    records: Vec<LogRecord>,
}

impl Log {
    pub async fn new(vault: &Arc<Vault>, volume_blocks: u64, settings: ShipSettings) -> Self {
        let (group, branch, volume) = (GroupId::new(), BranchId::new(), VolumeId::new());
        vault.create_volume_keys(volume).await.unwrap();
        let open = Open::New { origin: None };
        let (writer, _) = BranchWriter::open(vault, group, branch, GatewayId::new(), open, settings).await.unwrap();
        let mut log =
            Self { vault: Arc::clone(vault), writer, group, branch, volume, lsn: Lsn::ZERO, records: Vec::new() };
        log.push(Op::Resize { volume, blocks: volume_blocks });
        log
    }

    pub fn push(&mut self, op: Op) {
        self.lsn = self.lsn.next();
        self.records.push(LogRecord { lsn: self.lsn, op });
    }

    pub fn write(&mut self, lba: u64, data: Bytes) {
        let volume = self.volume;
        self.push(Op::Write { volume, lba, data });
    }

    /// Ends the interval with a point, and takes it away.
    pub fn cut(&mut self, seconds: i64) -> Interval {
        let (id, time) = (PointId::new(), Timestamp::from_micros(seconds * 1_000_000));
        self.push(Op::Point(PointMark {
            id,
            time,
            kind: PointKind::CrashConsistent,
            label: String::new(),
            consistent: true,
        }));
        Interval { records: std::mem::take(&mut self.records), last_lsn: self.lsn, ..Interval::default() }
    }

    /// Ships an interval, and goes on with maps.
    pub async fn ship(&mut self, interval: &Interval) {
        self.writer.append(interval).await.unwrap();
        self.writer.drive_map().await.unwrap();
    }

    pub async fn points(&self) -> Vec<PointInfo> {
        list_points(&self.vault, self.group, self.branch).await.unwrap()
    }
}

/// A generator: the same seed gives the same run.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
