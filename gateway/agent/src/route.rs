//! The way of an agent to its process servers: an ordered list, begun at a place that its id decides, so that many agents with
//! the same list spread; on to the next one when one doesn't answer or sends the agent away.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_engine::relay::{Declare, Line, PROTOCOL, Relay, declare};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_identity::Machine;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// A line that lasted less sent the agent away: the next process server is tried first.
const GOOD_LINE: Duration = Duration::from_secs(10);

/// The process servers of an agent.
pub(crate) struct Route {
    machine: Arc<Machine>,
    tls: TlsConnector,
    servers: Vec<String>,
    declared: Declare,
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    /// The one that is tried first.
    next: usize,
    /// The one that answered last, and when.
    last: Option<(usize, Instant)>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("servers", &self.servers).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Route {
    /// The way to these servers.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub(crate) fn new(machine: &Arc<Machine>, servers: &[String], declared: Declare) -> anyhow::Result<Self> {
        let next = first(&declared.agent.to_bytes(), servers.len());
        Ok(Self {
            tls: TlsConnector::from(machine.tls(&[PROTOCOL])?),
            machine: Arc::clone(machine),
            servers: servers.to_vec(),
            declared,
            place: Mutex::new(Place { next, last: None }),
        })
    }

    /// The process server that answered last.
    pub(crate) fn current(&self) -> Option<String> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.last.and_then(|(at, _)| self.servers.get(at).cloned())
    }

    /// A line on which a process server can tell this agent what to do, and that server's name: where its stream is, if that answers.
    ///
    /// # Errors
    /// `Retry` when none answers.
    pub(crate) async fn attending(&self) -> Result<(Line, String), EngineError> {
        let begin = {
            let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            place.last.map_or(place.next, |(at, _)| at)
        };
        let mut failures = Vec::new();
        for at in self.order(begin) {
            let Some(server) = self.servers.get(at) else { continue };
            match self.dial(server).await {
                Ok(line) => return Ok((line, server.clone())),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(nobody(&failures))
    }

    /// The whole list, from a place in it on.
    fn order(&self, begin: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.servers.len();
        (begin..begin + count).map(move |at| at % count.max(1))
    }

    async fn reach(&self, server: &str) -> Result<Line, EngineError> {
        let mut line = self.dial(server).await?;
        declare(&mut line, server, &self.declared).await?;
        Ok(line)
    }

    async fn dial(&self, server: &str) -> Result<Line, EngineError> {
        let broken = |why: String| EngineError::new(ErrorKind::Retry, format!("{server}: {why}"));
        let late = || broken("no answer".to_owned());
        let connecting = timeout(CONNECT_PATIENCE, TcpStream::connect(server)).await.map_err(|_| late())?;
        let stream = connecting.map_err(|error| broken(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| broken(error.to_string()))?;
        let shaking = self.tls.connect(self.machine.server_name(), stream);
        let stream = timeout(HANDSHAKE_PATIENCE, shaking).await.map_err(|_| late())?;
        Ok(Box::new(stream.map_err(|error| broken(error.to_string()))?))
    }
}

/// Where in a list of so many an agent begins.
fn first(id: &[u8], servers: usize) -> usize {
    // Ids begin with their time: what is at the end differs between machines that enrolled together.
    let sum = id.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    sum.checked_rem(servers).unwrap_or(0)
}

#[async_trait]
impl Relay for Route {
    async fn connect(&self) -> Result<(Line, String), EngineError> {
        let count = self.servers.len();
        let begin = {
            let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            if place.last.is_some_and(|(at, since)| at == place.next && since.elapsed() < GOOD_LINE) {
                place.next = (place.next + 1) % count.max(1);
            }
            place.next
        };
        let mut failures = Vec::new();
        for at in self.order(begin) {
            let Some(server) = self.servers.get(at) else { continue };
            match self.reach(server).await {
                Ok(line) => {
                    let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
                    *place = Place { next: at, last: Some((at, Instant::now())) };
                    return Ok((line, server.clone()));
                }
                // What is wrong with what is declared is wrong everywhere.
                Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(nobody(&failures))
    }
}

fn nobody(failures: &[String]) -> EngineError {
    EngineError::new(ErrorKind::Retry, format!("no process server takes this agent: {}", failures.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_spread_over_their_process_servers() {
        let mut of = [0; 3];
        for agent in 0_u8..=255 {
            of[first(&[1, 2, 3, agent], 3)] += 1;
        }
        assert!(of.iter().all(|agents| (80..=90).contains(agents)), "{of:?}");
        assert_eq!(first(&[7; 16], 0), 0);
    }
}
