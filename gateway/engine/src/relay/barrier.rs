//! Points that several groups share: whoever coordinates a replication group has all of its groups stand still for a moment, and
//! take a point with the same id in it.
//!
//! ```text
//!               all quiet            all hold            ┌─ T ─┐          each marks and goes on by itself
//! coordinator ─ Quiet ─> … <─ done ─ Hold ─> … <─ done ──┘     └─ Mark ─> … <─ the point's place ─
//! ```
//! # Why it is one cut
//! A member that answers Hold gives no write a place until it marks or lets go, and marks only if it has held all along
//! (`write_path/hold.rs`). Mark is asked for after the last answer to Hold, so there is a moment T at which all of those who mark were holding:
//! a write is before the shared point if and only if it had its place before T. What an application wrote after it
//! was told of another write, on whichever machine, comes after that one's place: so the cut has no effect without its cause.
//! Nobody's clock takes part in that.
//!
//! # Members that are late, lost or cut off
//! Each lets go by its own clock. One that did so refuses the mark. If any refuses or is silent, the others may have marked: their points
//! are points like others, and share the id with those who marked in the same moment. What is shared by which groups is therefore seen in
//! their histories, and in nothing that the coordinator remembers: whoever recovers needs the vault only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use lifeboat_format::stream::{Attend, FrameKind, Part};
use lifeboat_model::{GatewayId, GroupId, Lsn, PointId, Timestamp};
use tokio::time::Instant;

use super::control::{Attendant, Attendants, take_part};
use super::{Line, line, wire};
use crate::error::{EngineError, ErrorKind, Result};
use crate::group::Group;
use crate::points::PointInfo;

/// Pauses between tries to find a coordinator; a line that lasted as long as the longest begins anew.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How often a member that isn't at the first coordinator looks for an earlier one.
const LOOK_EARLIER: Duration = Duration::from_secs(15);

/// What members and coordinators speak, by its name in the handshake (ALPN).
pub const BARRIER_PROTOCOL: &[u8] = b"lifeboat-barrier/1";

/// Who may take part with which group.
#[async_trait]
pub trait Members: Send + Sync + fmt::Debug {
    /// Asked when a member's line begins.
    ///
    /// # Errors
    /// `NotFound` and `Denied` when the group is not this machine's; `Retry` while that can't be told.
    async fn admit(&self, machine: GatewayId, group: GroupId) -> Result<()>;
}

/// How a member comes to those who may coordinate it.
#[async_trait]
pub trait Coordinators: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// A line to one of them, and its name for people. All members try them in the same order, so that they meet at one.
    ///
    /// # Errors
    /// Why there is none.
    async fn connect(&self, which: usize) -> Result<(Line, String)>;
}

/// Takes part in barriers for as long as it is polled: at the first coordinator that answers, and soon at an earlier one that is back.
pub async fn follow(group: &Arc<Group>, machine: GatewayId, coordinators: &dyn Coordinators) {
    let mut pause = AGAIN.0;
    let mut found = None;
    loop {
        let begun = Instant::now();
        let (line, name, at) = match found.take() {
            Some(found) => found,
            None => match first(coordinators, coordinators.count()).await {
                Ok(found) => found,
                Err(why) => {
                    tracing::debug!(group = %group.id(), %why, again_in_ms = pause.as_millis(), "no barriers");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                    continue;
                }
            },
        };
        tracing::info!(group = %group.id(), coordinator = name, "takes part in barriers");
        let why = tokio::select! {
            why = take_part(group, machine, line, &name) => why.to_string(),
            earlier = earlier(coordinators, at) => {
                group.leave_barriers();
                found = Some(earlier);
                "an earlier coordinator is back".to_owned()
            }
        };
        pause = if begun.elapsed() >= AGAIN.1 { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
        tracing::info!(group = %group.id(), coordinator = name, why, "takes part in no barriers there any more");
        if found.is_none() {
            tokio::time::sleep(pause).await;
        }
    }
}

type Found = (Line, String, usize);

/// A line to the first of so many that answers.
async fn first(coordinators: &dyn Coordinators, count: usize) -> Result<Found> {
    let mut failures = Vec::new();
    for at in 0..count {
        match coordinators.connect(at).await {
            Ok((line, name)) => return Ok((line, name, at)),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(EngineError::new(ErrorKind::Retry, format!("nobody coordinates barriers: {}", failures.join("; "))))
}

/// Waits until one before `at` answers.
async fn earlier(coordinators: &dyn Coordinators, at: usize) -> Found {
    if at == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_EARLIER).await;
        if let Ok(found) = first(coordinators, at).await {
            return found;
        }
    }
}

/// The members whose lines are here.
#[derive(Debug)]
pub struct Barriers {
    members: Arc<dyn Members>,
    attendants: Attendants,
}

/// A point that groups share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPoint {
    /// Its id in each of them.
    pub id: PointId,
    /// Its place in each of them.
    pub points: Vec<PointInfo>,
    /// The longest that writes may have waited.
    pub held: Duration,
}

/// Why there is no point that all share, by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which groups, and why; never empty.
    pub why: BTreeMap<GroupId, String>,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut why = self.why.iter();
        if let Some((group, reason)) = why.next() {
            write!(f, "{group}: {reason}")?;
        }
        why.try_for_each(|(group, reason)| write!(f, "; {group}: {reason}"))
    }
}

impl Barriers {
    /// Lets members in by `members`.
    #[must_use]
    pub fn new(members: Arc<dyn Members>) -> Arc<Self> {
        Arc::new(Self { members, attendants: Attendants::default() })
    }

    /// Speaks with a member until its line is over; gives why it is. `machine`: who it proved to be.
    pub async fn serve(&self, line: Line, machine: GatewayId) -> EngineError {
        let peer = machine.to_string();
        let (mut input, mut output) = tokio::io::split(line);
        let begun = async {
            let first = line::read(&mut input, &peer, |kind| kind == FrameKind::Attend).await?;
            let attend = Attend::decode(&first.body()).map_err(wire::refused)?;
            if attend.agent != machine {
                let why = format!("{machine} speaks for {}: a machine speaks for itself", attend.agent);
                return Err(EngineError::new(ErrorKind::Denied, why));
            }
            self.members.admit(machine, attend.group).await?;
            Ok(attend)
        };
        let why = match begun.await {
            Ok(attend) => self.attendants.serve(attend, &peer, &mut input, &mut output).await,
            Err(why) => why,
        };
        let end = crate::ship::ShipError::Engine(EngineError::new(why.kind(), why.to_string()));
        if let Ok(end) = wire::end(&end).encode() {
            let _ = line::write(&mut output, &peer, &end).await;
        }
        why
    }

    /// The groups whose members are here.
    #[must_use]
    pub fn here(&self) -> Vec<GroupId> {
        self.attendants.all().iter().map(|member| member.group()).collect()
    }

    /// The newest record of a group, as its member said last: seconds old.
    #[must_use]
    pub fn last(&self, group: GroupId) -> Option<Lsn> {
        Some(self.attendants.of(group)?.status()?.last_lsn)
    }

    /// Ends all lines.
    pub fn close(&self) {
        self.attendants.close();
    }

    /// Has groups take a point that they share. `quiet`: how long applications may take to hold still, if they are to; `limit`: how long
    /// writes wait at most. `time` and `random` make the point's id.
    ///
    /// # Errors
    /// Which groups didn't take it; no write waits any more then, or for no longer than the limit.
    pub async fn take(
        &self,
        groups: &[GroupId],
        quiet: Option<Duration>,
        limit: Duration,
        (time, random): (Timestamp, [u8; 8]),
    ) -> Result<SharedPoint, Missed> {
        let id = PointId::shared(time, random);
        let found: Vec<(GroupId, Option<Arc<Attendant>>)> =
            groups.iter().map(|group| (*group, self.attendants.of(*group))).collect();
        let away = found.iter().filter(|(_, member)| member.is_none());
        let away: BTreeMap<_, _> = away.map(|(group, _)| (*group, "it isn't connected".to_owned())).collect();
        if !away.is_empty() {
            return Err(Missed { why: away });
        }
        let members: Vec<Arc<Attendant>> = found.into_iter().filter_map(|(_, member)| member).collect();
        let round = Round { id, members: &members, done: false };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if let Some(quiet) = quiet {
            // Those who are quiet first wait for the others, and then for the hold.
            round.all(Part::Quiet { limit_ms: millis(quiet + limit) }, quiet).await?;
        }
        let begun = Instant::now();
        round.all(Part::Hold { limit_ms: millis(limit) }, limit).await?;
        let points = round.all(Part::Mark, limit).await?;
        let mut round = round;
        round.done = true;
        Ok(SharedPoint { id, points: points.into_iter().flatten().collect(), held: begun.elapsed() })
    }
}

/// One barrier: whichever way it ends, also by a caller that goes away, nobody is left waiting for its next part.
struct Round<'a> {
    id: PointId,
    members: &'a [Arc<Attendant>],
    done: bool,
}

impl Round<'_> {
    /// Asks all for the same part.
    async fn all(&self, part: Part, patience: Duration) -> Result<Vec<Option<PointInfo>>, Missed> {
        let asked = self.members.iter().map(|member| async {
            let answer = tokio::time::timeout(patience, member.barrier(self.id, part)).await;
            let answer = answer.unwrap_or_else(|_| {
                let why = format!("it has not answered within {} ms", patience.as_millis());
                Err(EngineError::new(ErrorKind::Retry, why))
            });
            answer.map_err(|error| (member.group(), error.to_string()))
        });
        let (mut done, mut why) = (Vec::new(), BTreeMap::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(point) => done.push(point),
                Err((group, error)) => drop(why.insert(group, error)),
            }
        }
        if why.is_empty() { Ok(done) } else { Err(Missed { why }) }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.members.iter().for_each(|member| member.tell_to_let_go(self.id));
        }
    }
}
