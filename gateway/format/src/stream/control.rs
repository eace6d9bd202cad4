//! What an agent is told, and what it says of itself: the frames of the line beside its stream.
//!
//! An [`Ask`] has a number that its [`Answer`] repeats; several may be under way. A line that breaks leaves open whether
//! what was asked is done: asking the same again comes to the same, so nothing has to be remembered about it.

use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, PointId, PointKind, Timestamp};

use super::{FrameKind, STREAM, TEXT_BYTES_MAX, bounded, frame, put_points, take_points};
use crate::map::RetainedPoint;
use crate::wire::{Put, Reader};
use crate::{FormatError, LABEL_BYTES_MAX};

/// Reasons of one report, at most.
pub const REASONS_MAX: usize = 16;
/// Length of an [`Attend`] that says nothing of abilities, bytes.
const ATTEND_LEN: usize = 32;
/// Longest name of a time zone, bytes.
const ZONE_BYTES_MAX: usize = 64;

/// Opens a line on which an agent hears what it is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attend {
    /// The group.
    pub group: GroupId,
    /// The agent.
    pub agent: GatewayId,
    /// What it can do that agents before version 3 of the protocol couldn't; none on a line of before.
    pub abilities: Option<Abilities>,
}

/// What an agent can do, from version 3 of the protocol on. All of them go by [`Rules`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It has hooks for its applications, each of which may take so many milliseconds.
    pub hooks_ms: Option<u64>,
    /// It has its disks compared with the vault when it is asked to.
    pub compares: bool,
}

impl Attend {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is bounded.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.agent.to_bytes());
        if let Some(abilities) = &self.abilities {
            put_ms(&mut body, abilities.hooks_ms);
            body.put_flag(abilities.compares);
        }
        frame(FrameKind::Attend, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let (group, agent) = (GroupId::from_bytes(reader.array()?), GatewayId::from_bytes(reader.array()?));
        let abilities = match body.len() {
            ATTEND_LEN => None,
            _ => Some(Abilities { hooks_ms: take_ms(&mut reader)?, compares: reader.flag()? }),
        };
        reader.finish()?;
        Ok(Self { group, agent, abilities })
    }
}

/// The state of a group at its agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reported {
    /// It serves writes.
    #[default]
    Active,
    /// Another gateway took it over.
    Fenced,
    /// It was released.
    Standby,
    /// Its disks are being brought back.
    Rehydrating,
}

impl Reported {
    const ALL: [Self; 4] = [Self::Active, Self::Fenced, Self::Standby, Self::Rehydrating];

    const fn code(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Fenced => 2,
            Self::Standby => 3,
            Self::Rehydrating => 4,
        }
    }
}

/// What the vault lacks although the log does not bring it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedResync {
    /// Since when.
    pub since: Timestamp,
    /// Why: the journal was full (1), a disk was taken in (2), blocks were compared (3), the list was lost (4).
    pub cause: u8,
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes to be copied in all.
    pub total_bytes: u64,
    /// What it waits for; empty while it copies.
    pub waits_for: String,
}

/// How a group is at its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its state.
    pub state: Reported,
    /// Its branch.
    pub branch: BranchId,
    /// Its tenure.
    pub epoch: Epoch,
    /// Newest record that was acknowledged.
    pub last: Lsn,
    /// Newest record that survives the loss of power there.
    pub durable: Lsn,
    /// Newest record that the vault has.
    pub shipped: Lsn,
    /// Bytes that the vault lacks, roughly.
    pub backlog_bytes: u64,
    /// Bytes of the journal in use.
    pub journal_bytes: u64,
    /// Bytes written per second.
    pub churn_bytes_per_second: u64,
    /// Milliseconds of acknowledged writes that a disaster now would lose; none before the first recovery point.
    pub rpo_ms: Option<u64>,
    /// How well it is: 0 healthy, 1 warning, 2 critical.
    pub health: u8,
    /// Why it isn't better.
    pub reasons: Vec<String>,
    /// The newest recovery point in the vault.
    pub point: Option<RetainedPoint>,
    /// What the vault lacks although the log does not bring it.
    pub resync: Option<ReportedResync>,
    /// How far other long work is: bytes done, bytes in all.
    pub progress: Option<(u64, u64)>,
}

impl Report {
    /// The frame. Reasons that are too many or too long are left out or cut.
    ///
    /// # Errors
    /// `TooLarge` for a label beyond the limit.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u8(self.state.code());
        body.put(&self.branch.to_bytes());
        for number in [self.epoch.0, self.last.0, self.durable.0, self.shipped.0] {
            body.put_u64(number);
        }
        for number in [self.backlog_bytes, self.journal_bytes, self.churn_bytes_per_second] {
            body.put_u64(number);
        }
        body.put_flag(self.rpo_ms.is_some());
        body.put_u64(self.rpo_ms.unwrap_or_default());
        body.put_u8(self.health);
        body.put_count(STREAM.what, self.reasons.len().min(REASONS_MAX), REASONS_MAX)?;
        for reason in self.reasons.iter().take(REASONS_MAX) {
            body.put_text(STREAM.what, bounded(reason), TEXT_BYTES_MAX)?;
        }
        put_point(&mut body, self.point.as_ref())?;
        body.put_flag(self.resync.is_some());
        if let Some(resync) = &self.resync {
            body.put_i64(resync.since.as_micros());
            body.put_u8(resync.cause);
            body.put_u64(resync.done_bytes);
            body.put_u64(resync.total_bytes);
            body.put_text(STREAM.what, bounded(&resync.waits_for), TEXT_BYTES_MAX)?;
        }
        body.put_flag(self.progress.is_some());
        if let Some((done, total)) = self.progress {
            body.put_u64(done);
            body.put_u64(total);
        }
        frame(FrameKind::Report, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let code = reader.u8()?;
        let state = Reported::ALL.into_iter().find(|state| state.code() == code);
        let state = state.ok_or_else(|| reader.corrupt("a state that there isn't"))?;
        let branch = BranchId::from_bytes(reader.array()?);
        let (epoch, last) = (Epoch(reader.u64()?), Lsn(reader.u64()?));
        let (durable, shipped) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
        let (backlog_bytes, journal_bytes, churn) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (known, rpo_ms, health) = (reader.flag()?, reader.u64()?, reader.u8()?);
        let mut reasons = Vec::new();
        for _ in 0..reader.count(REASONS_MAX, 2)? {
            reasons.push(reader.text(TEXT_BYTES_MAX)?);
        }
        let point = take_point(&mut reader)?;
        let resync = match reader.flag()? {
            false => None,
            true => Some(ReportedResync {
                since: Timestamp::from_micros(reader.i64()?),
                cause: reader.u8()?,
                done_bytes: reader.u64()?,
                total_bytes: reader.u64()?,
                waits_for: reader.text(TEXT_BYTES_MAX)?,
            }),
        };
        let progress = match reader.flag()? {
            false => None,
            true => Some((reader.u64()?, reader.u64()?)),
        };
        reader.finish()?;
        Ok(Self {
            state,
            branch,
            epoch,
            last,
            durable,
            shipped,
            backlog_bytes,
            journal_bytes,
            churn_bytes_per_second: churn,
            rpo_ms: known.then_some(rpo_ms),
            health,
            reasons,
            point,
            resync,
            progress,
        })
    }
}

/// What an agent is asked for. Asked again, each comes to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A recovery point; answered once the vault has it.
    Point {
        /// Its kind.
        kind: PointKind,
        /// Its label.
        label: String,
    },
    /// No more writes, everything into the vault, a final point; answered with that. An agent that can't within this time
    /// serves writes again.
    Release {
        /// How long that may take, milliseconds.
        patience_ms: u64,
    },
    /// Writes again, on the same branch.
    Resume,
    /// To copy what the vault lacks at once, or when it likes.
    Resync {
        /// At once.
        now: bool,
    },
    /// To look whether somebody else writes the branch.
    Doubt,
    /// To bring its disks one pass towards a branch's newest point; answered with that.
    Rehydrate {
        /// The branch.
        branch: BranchId,
        /// Every block, not only those that differ.
        full: bool,
    },
    /// To go on with the branch that its disks were brought to.
    TakeOver,
    /// Its part in a barrier.
    Barrier {
        /// The point that the barrier is for.
        point: PointId,
        /// The part.
        part: Part,
    },
    /// To go by these rules from now on, and to remember them. Only an agent that said what it can do is asked.
    Rules(Rules),
    /// To compare its disks with the vault, and copy what differs; answered with the number of blocks that do. Only an agent that said that it
    /// can is asked.
    Compare {
        /// False: to end the comparison that is under way, if any.
        begin: bool,
    },
}

/// What the policy of an agent's group says that the agent has to do itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Time between recovery points while there are writes, milliseconds.
    pub point_ms: u64,
    /// Time between points for which applications are held, milliseconds; none when there are to be none, and where whoever
    /// coordinates the replication group has them taken.
    pub app_point_ms: Option<u64>,
    /// Size of the journal, percent of the disks' size.
    pub journal_percent: u8,
    /// When what the vault lacks may be copied unasked; at any hour without.
    pub resync: Option<Window>,
}

/// Hours of every day, by the clocks of a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first minute since midnight, and the first after; a window past midnight ends the next day.
    pub minutes: (u16, u16),
    /// The zone's IANA name; UTC when empty.
    pub zone: String,
}

impl Rules {
    fn put(&self, body: &mut Vec<u8>) -> Result<(), FormatError> {
        body.put_u64(self.point_ms);
        put_ms(body, self.app_point_ms);
        body.put_u8(self.journal_percent);
        body.put_flag(self.resync.is_some());
        if let Some(window) = &self.resync {
            body.put_u16(window.minutes.0);
            body.put_u16(window.minutes.1);
            body.put_text(STREAM.what, &window.zone, ZONE_BYTES_MAX)?;
        }
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            point_ms: reader.u64()?,
            app_point_ms: take_ms(reader)?,
            journal_percent: reader.u8()?,
            resync: match reader.flag()? {
                false => None,
                true => Some(Window { minutes: (reader.u16()?, reader.u16()?), zone: reader.text(ZONE_BYTES_MAX)? }),
            },
        })
    }
}

/// A part of a barrier: what the members of a replication group are asked for, all of them one part before any of them the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To have applications hold still, and keep them so for at most this time. A group without hooks has none to ask.
    Quiet {
        /// Milliseconds.
        limit_ms: u64,
    },
    /// To take no more writes, for at most this time.
    Hold {
        /// Milliseconds.
        limit_ms: u64,
    },
    /// To give the point its place and go on; answered with the point.
    Mark,
    /// To go on without a point.
    LetGo,
}

/// Something that an agent is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its answer has the same.
    pub number: u64,
    /// What.
    pub what: Asked,
}

impl Ask {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` for a label beyond the limit.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u64(self.number);
        match &self.what {
            Asked::Point { kind, label } => {
                body.put_u8(1);
                body.put_u8(kind.code());
                body.put_text(STREAM.what, label, LABEL_BYTES_MAX)?;
            }
            Asked::Release { patience_ms } => {
                body.put_u8(2);
                body.put_u64(*patience_ms);
            }
            Asked::Resume => body.put_u8(3),
            Asked::Resync { now } => {
                body.put_u8(4);
                body.put_flag(*now);
            }
            Asked::Doubt => body.put_u8(5),
            Asked::Rehydrate { branch, full } => {
                body.put_u8(6);
                body.put(&branch.to_bytes());
                body.put_flag(*full);
            }
            Asked::TakeOver => body.put_u8(7),
            Asked::Barrier { point, part } => {
                let (code, limit_ms) = match part {
                    Part::Quiet { limit_ms } => (1, *limit_ms),
                    Part::Hold { limit_ms } => (2, *limit_ms),
                    Part::Mark => (3, 0),
                    Part::LetGo => (4, 0),
                };
                body.put_u8(8);
                body.put(&point.to_bytes());
                body.put_u8(code);
                body.put_u64(limit_ms);
            }
            Asked::Rules(rules) => {
                body.put_u8(9);
                rules.put(&mut body)?;
            }
            Asked::Compare { begin } => {
                body.put_u8(10);
                body.put_flag(*begin);
            }
        }
        frame(FrameKind::Ask, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let number = reader.u64()?;
        let what = match reader.u8()? {
            1 => {
                let code = reader.u8()?;
                let kind = PointKind::from_code(code);
                let kind = kind.ok_or_else(|| reader.corrupt("a kind of point that there isn't"))?;
                Asked::Point { kind, label: reader.text(LABEL_BYTES_MAX)? }
            }
            2 => Asked::Release { patience_ms: reader.u64()? },
            3 => Asked::Resume,
            4 => Asked::Resync { now: reader.flag()? },
            5 => Asked::Doubt,
            6 => Asked::Rehydrate { branch: BranchId::from_bytes(reader.array()?), full: reader.flag()? },
            7 => Asked::TakeOver,
            8 => {
                let (point, code, limit_ms) = (PointId::from_bytes(reader.array()?), reader.u8()?, reader.u64()?);
                let part = match (code, limit_ms) {
                    (1, limit_ms) => Part::Quiet { limit_ms },
                    (2, limit_ms) => Part::Hold { limit_ms },
                    (3, 0) => Part::Mark,
                    (4, 0) => Part::LetGo,
                    _ => return Err(reader.corrupt("a part of a barrier that there isn't")),
                };
                Asked::Barrier { point, part }
            }
            9 => Asked::Rules(Rules::take(&mut reader)?),
            10 => Asked::Compare { begin: reader.flag()? },
            _ => return Err(reader.corrupt("something that no agent is asked for")),
        };
        reader.finish()?;
        Ok(Self { number, what })
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The recovery point that it comes to, with its branch.
    pub point: Option<(BranchId, RetainedPoint)>,
    /// The branch that keeps what the agent had not shipped.
    pub orphan: Option<BranchId>,
    /// Blocks of which it is known whether they differ.
    pub blocks_compared: u64,
    /// Blocks written to the agent's disks; of a comparison: those that differ.
    pub blocks_moved: u64,
    /// Bytes read from the vault for them.
    pub bytes_fetched: u64,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What whoever asked has to do: a kind of error as in [`End`](super::End).
    pub kind: u8,
    /// What happened, to what, what to do.
    pub text: String,
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The number of what was asked.
    pub number: u64,
    /// What was done, or why not.
    pub outcome: Result<Done, Refusal>,
}

impl Answer {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` for a label beyond the limit.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u64(self.number);
        body.put_flag(self.outcome.is_ok());
        match &self.outcome {
            Ok(done) => {
                let (branch, point) =
                    done.point.as_ref().map_or((None, None), |(branch, point)| (Some(branch), Some(point)));
                put_branch(&mut body, branch);
                put_point(&mut body, point)?;
                put_branch(&mut body, done.orphan.as_ref());
                for number in [done.blocks_compared, done.blocks_moved, done.bytes_fetched] {
                    body.put_u64(number);
                }
            }
            Err(refusal) => {
                body.put_u8(refusal.kind);
                body.put_text(STREAM.what, bounded(&refusal.text), TEXT_BYTES_MAX)?;
            }
        }
        frame(FrameKind::Answer, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let number = reader.u64()?;
        let outcome = match reader.flag()? {
            true => {
                let point = match (take_branch(&mut reader)?, take_point(&mut reader)?) {
                    (Some(branch), Some(point)) => Some((branch, point)),
                    (None, None) => None,
                    _ => return Err(reader.corrupt("a point without its branch, or a branch without a point")),
                };
                Ok(Done {
                    point,
                    orphan: take_branch(&mut reader)?,
                    blocks_compared: reader.u64()?,
                    blocks_moved: reader.u64()?,
                    bytes_fetched: reader.u64()?,
                })
            }
            false => Err(Refusal { kind: reader.u8()?, text: reader.text(TEXT_BYTES_MAX)? }),
        };
        reader.finish()?;
        Ok(Self { number, outcome })
    }
}

fn put_ms(out: &mut Vec<u8>, ms: Option<u64>) {
    out.put_flag(ms.is_some());
    if let Some(ms) = ms {
        out.put_u64(ms);
    }
}

fn take_ms(reader: &mut Reader<'_>) -> Result<Option<u64>, FormatError> {
    Ok(match reader.flag()? {
        false => None,
        true => Some(reader.u64()?),
    })
}

fn put_branch(out: &mut Vec<u8>, branch: Option<&BranchId>) {
    out.put_flag(branch.is_some());
    if let Some(branch) = branch {
        out.put(&branch.to_bytes());
    }
}

fn take_branch(reader: &mut Reader<'_>) -> Result<Option<BranchId>, FormatError> {
    Ok(match reader.flag()? {
        false => None,
        true => Some(BranchId::from_bytes(reader.array()?)),
    })
}

fn put_point(out: &mut Vec<u8>, point: Option<&RetainedPoint>) -> Result<(), FormatError> {
    put_points(out, point.map_or(&[], std::slice::from_ref))
}

fn take_point(reader: &mut Reader<'_>) -> Result<Option<RetainedPoint>, FormatError> {
    let mut points = take_points(reader)?;
    if points.len() > 1 {
        return Err(reader.corrupt("more than one point"));
    }
    Ok(points.pop())
}
