//! Groups whose history is reached through a process server: a mobility agent runs the engine in front of a server's disk and
//! has no credential of the vault.
//!
//! ```text
//! agent: Group ─ RelayedWriter ══ line (frames) ══ process server: Stream ─ cache on disk ─ BranchWriter ─> vault
//!            <─ cached up to …, in the vault up to … ─
//! ```
//! # What holds
//! The agent gives journal space back for what the *vault* has (I-4). The cache of a process server is for going on while the
//! agent's server or the line is gone, and never a reason to forget anything: a process server that dies with its disk
//! loses nothing, since another one opens the branch's next epoch, finds the end of the log in the vault, and the agent
//! sends from there. Epochs are opened in the agent's name: who of two process servers may ship, the vault decides (I-5).
//!
//! # Going on after a crash
//! A process server that comes back ships what it had cached, agent or no agent, unless *any* epoch was opened since: then
//! somebody else has asked the vault and the agent, and knows better. A line that breaks and comes back goes on behind what
//! is cached, in the same epoch, and asks the vault for nothing.
//!
//! # Where an agent goes
//! To the process server that it was at, as long as that answers. A process server may ask it to go ([`ProcessServer::send_away`]): the line
//! ends between two records, and the next tenure is opened elsewhere, as after a crash. What was cached for a tenure that
//! another process server has taken on is given up: the agent sends it there.
//!
//! # What an agent is told
//! A second line, beside the stream: see `control.rs`. It is there whatever state the group is in, also released and fenced, when
//! nothing is streamed.
//!
//! # Barriers
//! Groups of several machines take a point at one moment: see `barrier.rs`.
//!
//! # The way back
//! A process server reads the history for an agent whose group was taken over, and the agent brings its disks forward: see
//! `recall.rs`.
//!
//! # Comparing
//! A process server says which blocks of a disk differ from a point, by hashes: see `compare.rs`.
//!
//! # What doesn't go through a line
//! Reading the history otherwise: views, failover to here, garbage collection, marks of points. Such calls are refused for a
//! group behind a line ([`Reach::vault`](crate::reach::Reach::vault)); a gateway that has the vault does them.

mod barrier;
mod cache;
mod compare;
mod control;
mod line;
mod recall;
mod serve;
mod stream;
mod wire;
mod writer;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_format::stream::{End, FrameKind};
use lifeboat_model::{BranchId, GatewayId, GroupId, Timestamp, VolumeId};
use lifeboat_vault::Vault;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;
use crate::ship::ShipSettings;

pub use barrier::{BARRIER_PROTOCOL, Barriers, Coordinators, Members, Missed, SharedPoint, follow};
pub(crate) use compare::Comparing;
pub use control::{Attendant, Ruled, attend, take_part};
pub use lifeboat_format::stream::{
    ADDRESS_BYTES_MAX, Abilities, Declare, DeclaredDisk, KnownServer, Rules, SERVERS_MAX, Standing, Window,
};
pub(crate) use recall::{Aim, Piece, Recalling};
pub use serve::{ProcessServer, ProcessServerConfig};
pub use stream::StreamStatus;
pub use writer::RelayedWriter;

/// What agents and process servers have always spoken, by its name in the handshake (ALPN).
pub const PROTOCOL: &[u8] = b"lifeboat-stream/1";
/// The same, with the question how a process server is doing.
pub const PROTOCOL_SURVEYED: &[u8] = b"lifeboat-stream/2";
/// That too, and agents say what they can do, and go by what their policy says.
pub const PROTOCOL_RULED: &[u8] = b"lifeboat-stream/3";
/// All of it, the newest first.
pub const PROTOCOLS: [&[u8]; 3] = [PROTOCOL_RULED, PROTOCOL_SURVEYED, PROTOCOL];

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection between an agent and a process server, on which both know who the other one is.
pub type Line = Box<dyn Duplex>;

/// How an agent comes to its process servers.
#[async_trait]
pub trait Relay: Send + Sync + fmt::Debug {
    /// A line to a process server that answers, and its name for people. Called again after a line broke: another one is
    /// to be tried then.
    ///
    /// # Errors
    /// `Retry` when none answers.
    async fn connect(&self) -> Result<(Line, String)>;

    /// A line beside the one that the group streams on: to the same process server, if that answers. It leaves the other one as it is.
    ///
    /// # Errors
    /// `Retry` when none answers; `Invalid` where none speaks [`PROTOCOL_RULED`].
    async fn connect_beside(&self) -> Result<(Line, String)> {
        self.connect().await
    }

    /// A process server, by the name that [`Self::connect`] gave it, has asked this agent to go to another one: next time the others
    /// come first. It takes the agent in again where there is no other.
    fn sent_away(&self, _server: &str) {}

    /// The time here.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// The bytes of an identifier that nobody has.
    fn new_id(&self) -> [u8; 16] {
        BranchId::new().to_bytes()
    }
}

/// Asks a process server how it is doing, on a line that has just been made and speaks [`PROTOCOL_SURVEYED`] or what came after.
///
/// # Errors
/// `Retry` when the line breaks.
pub async fn survey(line: &mut Line, server: &str) -> Result<Standing> {
    line::write(line, server, &lifeboat_format::stream::survey()).await?;
    let received = line::read(line, server, |kind| matches!(kind, FrameKind::Standing | FrameKind::End)).await?;
    if received.kind == FrameKind::Standing {
        return Standing::decode(&received.body()).map_err(wire::refused);
    }
    let end = End::decode(&received.body()).map_err(wire::refused)?;
    Err(wire::ended(server, &end).into())
}

/// Declares what an agent protects on a line that has just been made, and waits until it stands in the catalog.
///
/// # Errors
/// Why it can't be declared so; `Retry` when the line breaks.
pub async fn declare(line: &mut Line, server: &str, declared: &Declare) -> Result<()> {
    line::write(line, server, &declared.encode().map_err(wire::refused)?).await?;
    let received = line::read(line, server, |kind| matches!(kind, FrameKind::Declared | FrameKind::End)).await?;
    if received.kind == FrameKind::Declared {
        return Ok(());
    }
    let end = End::decode(&received.body()).map_err(wire::refused)?;
    Err(wire::ended(server, &end).into())
}

/// What an agent's stream needs of the gateway that takes it in.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The vault of its group.
    pub vault: Arc<Vault>,
    /// The volumes that it may write.
    pub volumes: Vec<VolumeId>,
    /// How it is shipped.
    pub settings: ShipSettings,
}

/// Who may stream what.
#[async_trait]
pub trait Admission: Send + Sync + fmt::Debug {
    /// Asked whenever a stream's tenure is opened, and before each look at what was cached.
    ///
    /// # Errors
    /// `NotFound` and `Denied` when the group is not this agent's; `Retry` while that can't be told.
    async fn admit(&self, agent: GatewayId, group: GroupId) -> Result<Admitted>;

    /// Asked when an agent wants history for its disks, or begins a branch that isn't its own yet.
    ///
    /// # Errors
    /// As [`Self::admit`]; `Retry` while nobody brings the group back to this agent.
    async fn recall(&self, agent: GatewayId, group: GroupId) -> Result<Admitted>;

    /// Asked when an agent wants its disks compared with the history.
    ///
    /// # Errors
    /// As [`Self::admit`]; `Retry` while nobody has the group compared.
    async fn compare(&self, agent: GatewayId, group: GroupId) -> Result<Admitted> {
        self.recall(agent, group).await
    }

    /// Has what an agent protects stand in the catalog; what stands there already is left as it is.
    ///
    /// # Errors
    /// `Denied` and `Invalid` when it can't be declared so; `Retry` while that can't be told.
    async fn declare(&self, agent: GatewayId, declared: &Declare) -> Result<()>;

    /// How this process server is doing, for an agent that may come, and which other ones there are for it. What the streams
    /// tell is filled in by who asks.
    async fn standing(&self, _agent: GatewayId) -> Standing {
        Standing::default()
    }
}
