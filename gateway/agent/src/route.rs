//! The way of an agent to its process servers.
//!
//! ```text
//! the one it was at, as long as that answers
//!   └─ else: all others are asked how they are ─> the least loaded; none ─> those of other sites; none ─> gateways are asked which there are
//! ```
//! An agent knows the process servers of its settings, and those that it was told of: each one that it comes to names the others
//! of the vault, and when none takes it any more, the gateways that renew its certificate do (`process-servers.json` keeps them over a
//! restart). Of those that it was told of, the ones at its own site count like its settings'; others are for when there is nobody else, for
//! example while a site is rebuilt. One that sent it away, or whose lines end at once, comes after the others for a while, and takes it
//! all the same where it is the only one.

mod choice;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_engine::relay::{
    Declare, Line, PROTOCOL, PROTOCOL_RULED, PROTOCOLS, Relay, SERVERS_MAX, Standing, declare, survey,
};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_identity::{Machine, connect};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;

use crate::keep;
use choice::{Candidate, in_order};

/// How long those that are slow to say how they are get once somebody has answered.
const SURVEY_GRACE: Duration = Duration::from_secs(4);
/// A line that lasted less sent the agent away: the other process servers are tried first.
const GOOD_LINE: Duration = Duration::from_secs(10);
/// For how long they are.
const AVOID: Duration = Duration::from_secs(600);
/// Time between two questions to gateways which process servers there are.
const ASK_AGAIN: Duration = Duration::from_secs(15);
const ASK_PATIENCE: Duration = Duration::from_secs(20);
/// Process servers that are asked how they are at a time.
const SURVEYED_MAX: usize = 16;
const FILE: &str = "process-servers.json";

/// A process server that the agent was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    address: String,
    same_site: bool,
}

/// The process servers of an agent.
pub(crate) struct Route {
    dialer: Dialer,
    /// Those of its settings, `host:port`.
    listed: Vec<String>,
    /// `https://host:port` of gateways that know which ones there are.
    gateways: Vec<String>,
    /// Keeps those that it was told of.
    file: PathBuf,
    declared: Declare,
    place: Mutex<Place>,
    /// From where it was sent away, and where it came then.
    moved: watch::Sender<Option<(String, String)>>,
}

#[derive(Debug, Default)]
struct Place {
    told: Vec<Told>,
    /// The one that answered last, and when.
    last: Option<(String, Instant)>,
    /// Those that are avoided, since when.
    avoided: BTreeMap<String, Instant>,
    /// The one that sent it away, until it has come to another one.
    sent_from: Option<String>,
    /// When gateways were asked last.
    asked: Option<Instant>,
}

/// What makes lines.
#[derive(Clone)]
struct Dialer {
    machine: Arc<Machine>,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("listed", &self.listed).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Route {
    /// The way to these servers, with those in the state directory.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub(crate) fn new(
        machine: &Arc<Machine>,
        listed: &[String],
        gateways: &[String],
        state: &Path,
        declared: Declare,
    ) -> anyhow::Result<Self> {
        let file = state.join(FILE);
        let place = Place { told: read(&file), ..Place::default() };
        Ok(Self {
            dialer: Dialer { tls: machine.tls(&PROTOCOLS)?, machine: Arc::clone(machine) },
            listed: listed.to_vec(),
            gateways: gateways.to_vec(),
            file,
            declared,
            place: Mutex::new(place),
            moved: watch::Sender::new(None),
        })
    }

    /// The process server that answered last.
    pub(crate) fn current(&self) -> Option<String> {
        self.place().last.clone().map(|(server, _)| server)
    }

    /// Resolves when the agent was sent away from this process server and has come to another one.
    pub(crate) async fn left(&self, server: &str) {
        let mut moved = self.moved.subscribe();
        let from_there =
            |moved: &Option<(String, String)>| moved.as_ref().is_some_and(|(from, to)| from == server && to != server);
        if moved.wait_for(from_there).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A line on which a process server can tell this agent what to do, that server's name, and whether it tells what the policy says:
    /// where its stream is, if that answers.
    ///
    /// # Errors
    /// `Retry` when none answers.
    pub(crate) async fn attending(&self) -> Result<(Line, String, bool), EngineError> {
        let mut failures = Vec::new();
        for again in [false, true] {
            if again && !self.ask().await {
                break;
            }
            let current = self.current();
            let known = self.known().into_iter().filter(|(server, _)| Some(server) != current.as_ref());
            let all: Vec<String> = current.clone().into_iter().chain(known.map(|(server, _)| server)).collect();
            for server in all {
                match self.dialer.dial(&server).await {
                    Ok((line, spoken)) => return Ok((line, server, spoken == PROTOCOL_RULED)),
                    Err(error) => failures.push(error.to_string()),
                }
            }
        }
        Err(nobody(&failures))
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that are known, each with whether it is one for every day; in an order that is this agent's own.
    fn known(&self) -> Vec<(String, bool)> {
        let mut all: Vec<(String, bool)> = self.listed.iter().map(|server| (server.clone(), true)).collect();
        for told in &self.place().told {
            if all.iter().all(|(server, _)| *server != told.address) {
                all.push((told.address.clone(), told.same_site));
            }
        }
        all.sort_by_key(|(_, every_day)| !every_day);
        let every_day = all.iter().filter(|(_, every_day)| *every_day).count();
        let turn = choice::turn(&self.declared.agent.to_bytes(), every_day);
        if let Some(near) = all.get_mut(..every_day) {
            near.rotate_left(turn);
        }
        all
    }

    /// Asks gateways which process servers there are. Whether somebody answered: not more often than every few seconds.
    async fn ask(&self) -> bool {
        {
            let mut place = self.place();
            if self.gateways.is_empty() || place.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
                return false;
            }
            place.asked = Some(Instant::now());
        }
        match timeout(ASK_PATIENCE, self.dialer.machine.process_servers(&self.gateways)).await {
            Ok(Ok(found)) => {
                let told = found.into_iter().map(|one| Told { address: one.address, same_site: one.same_site });
                self.learn(told.take(SERVERS_MAX).collect());
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no gateway says which process servers there are");
                false
            }
            Err(_) => false,
        }
    }

    /// Takes in which process servers there are, and keeps that.
    fn learn(&self, told: Vec<Told>) {
        {
            let mut place = self.place();
            // Nobody knows any: whoever said that may have just begun.
            if told.is_empty() || place.told == told {
                return;
            }
            place.told.clone_from(&told);
        }
        if let Err(error) = keep(&self.file, &told) {
            tracing::debug!(%error, "what the process servers are can't be kept");
        }
    }

    /// Asks these how they are; the ones that answer, in the order in which they are to be tried.
    async fn survey(&self, servers: Vec<(String, bool)>, failures: &mut Vec<String>) -> Vec<(String, Line)> {
        let mut asking = JoinSet::new();
        for (turn, (server, every_day)) in servers.into_iter().enumerate().take(SURVEYED_MAX) {
            let avoided = self.place().avoided.get(&server).map(Instant::elapsed);
            let dialer = self.dialer.clone();
            asking.spawn(async move {
                let (line, standing) = dialer.surveyed(&server).await?;
                Ok::<_, EngineError>((Candidate { server, every_day, standing, avoided, turn }, line))
            });
        }
        let (mut found, mut until) = (Vec::new(), None::<Instant>);
        loop {
            let next = match until {
                None => asking.join_next().await,
                Some(until) => match tokio::time::timeout_at(until, asking.join_next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            match next {
                None => break,
                Some(Ok(Ok(answered))) => {
                    until.get_or_insert_with(|| Instant::now() + SURVEY_GRACE);
                    found.push(answered);
                }
                Some(Ok(Err(error))) => failures.push(error.to_string()),
                Some(Err(error)) => failures.push(error.to_string()),
            }
        }
        // The one whose word is the newest that there is: they all read the same catalog.
        if let Some(standing) =
            found.iter().filter_map(|(one, _)| one.standing.as_ref()).find(|one| !one.servers.is_empty())
        {
            let told = standing.servers.iter();
            self.learn(told.map(|one| Told { address: one.address.clone(), same_site: one.same_site }).collect());
        }
        in_order(found).into_iter().map(|(candidate, line)| (candidate.server, line)).collect()
    }

    fn arrived(&self, server: &str) {
        let mut place = self.place();
        place.last = Some((server.to_owned(), Instant::now()));
        let from = place.sent_from.take();
        drop(place);
        self.moved.send_replace(from.map(|from| (from, server.to_owned())));
    }

    /// Where it was, unless that is to be avoided.
    fn stay(&self) -> Option<String> {
        let mut place = self.place();
        place.avoided.retain(|_, since| since.elapsed() < AVOID);
        let (server, since) = place.last.clone()?;
        if since.elapsed() < GOOD_LINE {
            place.avoided.insert(server.clone(), Instant::now());
        }
        (!place.avoided.contains_key(&server)).then_some(server)
    }
}

impl Dialer {
    /// A line, and what the other side speaks.
    async fn dial(&self, server: &str) -> Result<(Line, Vec<u8>), EngineError> {
        let connected = connect(&self.tls, &self.machine.server_name(), server).await;
        let stream = connected.map_err(|why| EngineError::new(ErrorKind::Retry, why))?;
        let spoken = stream.get_ref().1.alpn_protocol().unwrap_or(PROTOCOL).to_vec();
        Ok((Box::new(stream), spoken))
    }

    async fn surveyed(&self, server: &str) -> Result<(Line, Option<Standing>), EngineError> {
        let (mut line, spoken) = self.dial(server).await?;
        let standing = if spoken != PROTOCOL { Some(survey(&mut line, server).await?) } else { None };
        Ok((line, standing))
    }
}

#[async_trait]
impl Relay for Route {
    async fn connect(&self) -> Result<(Line, String), EngineError> {
        let mut failures = Vec::new();
        let stay = self.stay();
        if let Some(server) = &stay {
            let reached = async {
                let (mut line, _) = self.dialer.dial(server).await?;
                declare(&mut line, server, &self.declared).await.map(|()| line)
            };
            match reached.await {
                Ok(line) => {
                    self.arrived(server);
                    return Ok((line, server.clone()));
                }
                // What is wrong with what is declared is wrong everywhere.
                Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
                Err(error) => failures.push(error.to_string()),
            }
        }
        let mut tried = stay;
        for (far, again) in [(false, false), (true, false), (false, true), (true, true)] {
            if again && !far && !self.ask().await {
                break;
            }
            // What gateways say counts anew for the one that was tried first, too.
            tried = tried.filter(|_| !again);
            let servers = self.known().into_iter();
            let servers = servers.filter(|(server, every_day)| *every_day != far && Some(server) != tried.as_ref());
            for (server, mut line) in self.survey(servers.collect(), &mut failures).await {
                match declare(&mut line, &server, &self.declared).await {
                    Ok(()) => {
                        self.arrived(&server);
                        return Ok((line, server));
                    }
                    Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
                    Err(error) => failures.push(error.to_string()),
                }
            }
        }
        Err(nobody(&failures))
    }

    async fn connect_beside(&self) -> Result<(Line, String), EngineError> {
        let (line, server, ruled) = self.attending().await?;
        if ruled {
            return Ok((line, server));
        }
        let why = format!("the process server {server} is of an older version: bring it up to date");
        Err(EngineError::new(ErrorKind::Invalid, why))
    }

    fn sent_away(&self, server: &str) {
        let mut place = self.place();
        place.avoided.insert(server.to_owned(), Instant::now());
        place.sent_from = Some(server.to_owned());
    }
}

fn read(file: &Path) -> Vec<Told> {
    let found = fs::read(file).ok().and_then(|text| serde_json::from_slice::<Vec<Told>>(&text).ok());
    let mut found = found.unwrap_or_default();
    found.truncate(SERVERS_MAX);
    found
}

fn nobody(failures: &[String]) -> EngineError {
    EngineError::new(ErrorKind::Retry, format!("no process server takes this agent: {}", failures.join("; ")))
}
