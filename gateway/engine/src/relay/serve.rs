//! A process server: the streams of all agents that come to it, in one directory.
//!
//! ```text
//! <dir>/<group>/…     one cache a group, see cache.rs
//! ```
//! [`ProcessServer::serve`] takes a line on which the agent is known already (mutual TLS below). A stream outlives its lines, and
//! ships what it has cached whether or not its agent is there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_format::stream::compare::Compare;
use lifeboat_format::stream::recall::{Begin, Recall};
use lifeboat_format::stream::{Attend, Declare, FrameKind, Open, Standing};
use lifeboat_model::{GatewayId, GroupId};
use lifeboat_vault::Vault;
use tokio::io::{ReadHalf, WriteHalf};

use super::cache::Cache;
use super::control::{Attendant, Attendants};
use super::stream::{Attached, Budget, Stream, StreamStatus};
use super::{Admission, Line, compare, line, recall, wire};
use crate::error::{EngineError, ErrorKind, Result};
use crate::group::RetrySettings;
use crate::machine::Machine;
use crate::ship::ShipError;

/// What a process server is made of.
#[derive(Clone, Debug)]
pub struct ProcessServerConfig {
    /// Who may stream what.
    pub admission: Arc<dyn Admission>,
    /// The machine that it runs on.
    pub machine: Arc<dyn Machine>,
    /// Where it keeps what it has cached; its parent exists.
    pub dir: PathBuf,
    /// Bytes of cached records, at most. Beyond it agents wait, and their journals fill.
    pub cache_bytes: u64,
    /// Pauses between tries to ship.
    pub retry: RetrySettings,
}

/// A process server.
#[derive(Debug)]
pub struct ProcessServer {
    config: ProcessServerConfig,
    budget: Arc<Budget>,
    streams: tokio::sync::Mutex<BTreeMap<GroupId, Arc<Stream>>>,
    attendants: Attendants,
}

impl ProcessServer {
    /// Takes up what an earlier process had cached, and ships it.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn open(config: ProcessServerConfig) -> Result<Arc<Self>> {
        let opened = config.machine.open(&config.dir);
        let disk = opened.map_err(|error| EngineError::io(format!("open {}", config.dir.display()), error))?;
        let names = disk.list().map_err(|error| EngineError::io(format!("list {}", config.dir.display()), error))?;
        let budget = Arc::new(Budget::new(config.cache_bytes));
        let (streams, attendants) = Default::default();
        let this = Arc::new(Self { config, budget, streams, attendants });
        for group in names.iter().filter_map(|name| name.parse::<GroupId>().ok()) {
            this.stream(group).await?;
        }
        Ok(this)
    }

    /// Speaks with the agent at the other end of a line until one of them ends it. `agent`: who it proved to be.
    pub async fn serve(self: &Arc<Self>, line: Line, agent: GatewayId) {
        let peer = agent.to_string();
        let (mut input, mut output) = tokio::io::split(line);
        let begun = self.begin(&mut input, &mut output, &peer, agent).await;
        let why = match begun {
            Ok(Begun::Attending(attend)) => self.attendants.serve(attend, &peer, &mut input, &mut output).await.into(),
            Ok(Begun::Recalling(vault, recall)) => {
                recall::serve(&vault, recall, &peer, &mut input, &mut output).await.into()
            }
            Ok(Begun::Comparing(vault, asked)) => {
                compare::serve(&vault, asked, &peer, &mut input, &mut output).await.into()
            }
            Ok(Begun::Streaming(stream, attached)) => {
                let connection = attached.connection;
                let why = talk(&stream, attached, &peer, &mut input, &mut output).await;
                stream.detach(connection);
                why
            }
            Err(why) => why,
        };
        tracing::info!(%agent, %why, "the line of an agent is over");
        if let Ok(end) = wire::end(&why).encode() {
            let _ = line::write(&mut output, &peer, &end).await;
        }
    }

    /// The agent of a group, if it can be told something through this process server.
    #[must_use]
    pub fn attendant(&self, group: GroupId) -> Option<Arc<Attendant>> {
        self.attendants.of(group)
    }

    /// All agents that can be told something through this process server.
    #[must_use]
    pub fn attendants(&self) -> Vec<Arc<Attendant>> {
        self.attendants.all()
    }

    /// What can be seen of the streams.
    pub async fn status(&self) -> Vec<StreamStatus> {
        self.streams.lock().await.values().filter_map(|stream| stream.status()).collect()
    }

    /// Asks the agent of a group to go to another process server, which it does between two records, with both of its lines.
    /// False where it isn't connected. Whether there is another one is for the caller to know: where there is none it comes back.
    pub async fn send_away(&self, group: GroupId, why: &str) -> bool {
        let stream = self.streams.lock().await.get(&group).map(Arc::clone);
        let sent = stream.is_some_and(|stream| stream.send_away(why));
        if sent {
            tracing::info!(%group, why, "an agent is asked to go to another process server");
        }
        sent
    }

    /// Bytes of cached records, and their limit.
    #[must_use]
    pub fn cache_bytes(&self) -> (u64, u64) {
        (self.budget.used(), self.config.cache_bytes)
    }

    /// Whether agents wait for room in the cache.
    #[must_use]
    pub fn is_short_of_cache(&self) -> bool {
        self.budget.is_short()
    }

    /// Stops shipping and ends all lines; what is cached stays for the next start.
    pub async fn close(&self) {
        self.attendants.close();
        let streams = std::mem::take(&mut *self.streams.lock().await);
        for stream in streams.values() {
            stream.close().await;
        }
    }

    async fn begin(
        &self,
        input: &mut ReadHalf<Line>,
        output: &mut WriteHalf<Line>,
        peer: &str,
        agent: GatewayId,
    ) -> Result<Begun, ShipError> {
        let beginning = |kind| {
            use FrameKind as Kind;
            matches!(kind, Kind::Open | Kind::Declare | Kind::Attend | Kind::Begin | Kind::Recall | Kind::Survey)
                || kind == Kind::Compare
        };
        let mut first = line::read(input, peer, beginning).await?;
        if first.kind == FrameKind::Survey {
            let standing = self.standing(agent).await;
            line::write(output, peer, &standing.encode().map_err(wire::refused)?).await?;
            first = line::read(input, peer, |kind| kind != FrameKind::Survey && beginning(kind)).await?;
        }
        if first.kind == FrameKind::Attend {
            let attend = Attend::decode(&first.body()).map_err(wire::refused)?;
            speaks_for_itself(agent, attend.agent)?;
            self.config.admission.admit(agent, attend.group).await?;
            tracing::info!(%agent, group = %attend.group, "an agent can be told what to do");
            return Ok(Begun::Attending(attend));
        }
        if first.kind == FrameKind::Compare {
            let compare = Compare::decode(&first.body()).map_err(wire::refused)?;
            speaks_for_itself(agent, compare.agent)?;
            let vault = self.config.admission.compare(agent, compare.group).await?.vault;
            tracing::info!(%agent, group = %compare.group, "an agent compares its disks");
            return Ok(Begun::Comparing(vault, compare));
        }
        if first.kind == FrameKind::Declare {
            let declared = Declare::decode(&first.body()).map_err(wire::refused)?;
            speaks_for_itself(agent, declared.agent)?;
            self.config.admission.declare(agent, &declared).await?;
            line::write(output, peer, &lifeboat_format::stream::declared()).await?;
            let after = |kind| matches!(kind, FrameKind::Open | FrameKind::Begin | FrameKind::Recall);
            first = line::read(input, peer, after).await?;
        }
        if first.kind == FrameKind::Recall {
            let recall = Recall::decode(&first.body()).map_err(wire::refused)?;
            speaks_for_itself(agent, recall.agent)?;
            let vault = self.config.admission.recall(agent, recall.group).await?.vault;
            tracing::info!(%agent, group = %recall.group, "an agent asks for history");
            return Ok(Begun::Recalling(vault, recall));
        }
        if first.kind == FrameKind::Begin {
            let begin = Begin::decode(&first.body()).map_err(wire::refused)?;
            speaks_for_itself(agent, begin.agent)?;
            self.config.admission.recall(agent, begin.group).await?;
            let stream = self.stream(begin.group).await?;
            let attached = stream.attach_anew(&begin).await?;
            tracing::info!(%agent, group = %begin.group, branch = %begin.branch, epoch = %attached.opened.epoch, "an agent begins a branch");
            return Ok(Begun::Streaming(stream, attached));
        }
        let open = Open::decode(&first.body()).map_err(wire::refused)?;
        speaks_for_itself(agent, open.agent)?;
        // Whoever may not write the group leaves no directory behind.
        self.config.admission.admit(agent, open.group).await?;
        let stream = self.stream(open.group).await?;
        let attached = stream.attach(&open).await?;
        tracing::info!(%agent, group = %open.group, epoch = %attached.opened.epoch, cached = %attached.opened.cached, "an agent streams");
        Ok(Begun::Streaming(stream, attached))
    }

    async fn standing(&self, agent: GatewayId) -> Standing {
        let streams = self.streams.lock().await;
        let agents = streams.values().filter(|stream| stream.is_attached()).count();
        drop(streams);
        let (cache_bytes, cache_bytes_limit) = self.cache_bytes();
        let agents = u32::try_from(agents).unwrap_or(u32::MAX);
        Standing { agents, cache_bytes, cache_bytes_limit, ..self.config.admission.standing(agent).await }
    }

    async fn stream(&self, group: GroupId) -> Result<Arc<Stream>> {
        let mut streams = self.streams.lock().await;
        if let Some(stream) = streams.get(&group) {
            return Ok(Arc::clone(stream));
        }
        let dir = self.config.dir.join(group.to_string());
        let opened = self.config.machine.open(&dir);
        let disk = opened.map_err(|error| EngineError::io(format!("open {}", dir.display()), error))?;
        let (admission, budget) = (Arc::clone(&self.config.admission), Arc::clone(&self.budget));
        let stream = Stream::open(group, admission, Cache::new(disk), budget, self.config.retry.clone()).await?;
        streams.insert(group, Arc::clone(&stream));
        Ok(stream)
    }
}

impl Drop for ProcessServer {
    /// A step that is under way would go on until its end, beside whoever takes the directory up next.
    fn drop(&mut self) {
        self.streams.get_mut().values().for_each(|stream| stream.abandon());
    }
}

/// What a line is for.
enum Begun {
    /// A stream of records.
    Streaming(Arc<Stream>, Attached),
    /// Telling the agent what to do.
    Attending(Attend),
    /// Reading the history for it.
    Recalling(Arc<Vault>, Recall),
    /// Comparing its disks with the history.
    Comparing(Arc<Vault>, Compare),
}

fn speaks_for_itself(agent: GatewayId, named: GatewayId) -> Result<()> {
    if named == agent {
        return Ok(());
    }
    let why = format!("{agent} speaks for {named}: an agent speaks for itself");
    Err(EngineError::new(ErrorKind::Denied, why))
}

/// Both directions of a line, until one of them ends it.
async fn talk(
    stream: &Stream,
    attached: Attached,
    peer: &str,
    input: &mut ReadHalf<Line>,
    output: &mut WriteHalf<Line>,
) -> ShipError {
    let connection = attached.connection;
    let hearing = async {
        loop {
            let allowed = |kind| matches!(kind, FrameKind::Records | FrameKind::Look | FrameKind::Beat);
            let received = line::read(input, peer, allowed).await?;
            match received.kind {
                FrameKind::Records => stream.accept(connection, received.frame).await?,
                FrameKind::Look => stream.look(),
                _ => {}
            }
        }
    };
    let hearing = async {
        let never: Result<std::convert::Infallible, ShipError> = hearing.await;
        match never {
            Err(why) => why,
        }
    };
    tokio::select! {
        why = hearing => why,
        why = tell(stream, attached, peer, output) => why,
    }
}

/// Tells the agent how far its stream is, whenever that changes.
async fn tell(stream: &Stream, attached: Attached, peer: &str, output: &mut WriteHalf<Line>) -> ShipError {
    let mut changes = stream.changes();
    // Something may have changed since the tenure was opened.
    changes.mark_changed();
    let mut told = attached.points_told;
    let opened = attached.opened.encode().map_err(wire::refused);
    let mut frame = match opened {
        Ok(frame) => frame,
        Err(error) => return error.into(),
    };
    let mut said = None;
    loop {
        if let Err(error) = line::write(output, peer, &frame).await {
            return error.into();
        }
        loop {
            let beaten = tokio::time::timeout(line::BEAT, changes.changed()).await.is_err();
            let (progress, now) = match stream.progress(attached.connection, told) {
                Ok(progress) => progress,
                Err(why) => return why,
            };
            if !beaten && said.as_ref() == Some(&progress) {
                continue;
            }
            frame = match progress.encode() {
                Ok(frame) => frame,
                Err(error) => return wire::refused(error).into(),
            };
            told = now;
            said = Some(lifeboat_format::stream::Progress { points: Vec::new(), ..progress });
            break;
        }
    }
}
