//! The way of an agent to those who coordinate its replication group.

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_engine::relay::{BARRIER_PROTOCOL, Coordinators, Line, follow};
use lifeboat_engine::{EngineError, ErrorKind, Group};
use lifeboat_identity::{Machine, connect};
use lifeboat_model::GatewayId;
use tokio_rustls::rustls::ClientConfig;

/// Gateways that may coordinate it, in the order of all members.
pub(crate) struct Servers {
    machine: Arc<Machine>,
    tls: Arc<ClientConfig>,
    servers: Vec<String>,
}

impl Servers {
    /// The way to these.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub(crate) fn new(machine: &Arc<Machine>, servers: &[String]) -> anyhow::Result<Self> {
        let tls = machine.tls(&[BARRIER_PROTOCOL])?;
        Ok(Self { machine: Arc::clone(machine), tls, servers: servers.to_vec() })
    }

    /// Has the group take part in barriers, for as long as this is polled.
    pub(crate) async fn followed_by(&self, group: &Arc<Group>, agent: GatewayId) {
        if self.servers.is_empty() {
            std::future::pending::<()>().await;
        }
        follow(group, agent, self).await;
    }
}

#[async_trait]
impl Coordinators for Servers {
    fn count(&self) -> usize {
        self.servers.len()
    }

    async fn connect(&self, which: usize) -> Result<(Line, String), EngineError> {
        let failed = |why: String| EngineError::new(ErrorKind::Retry, why);
        let server = self.servers.get(which).ok_or_else(|| failed("there is no such coordinator".to_owned()))?;
        let stream = connect(&self.tls, &self.machine.server_name(), server).await.map_err(failed)?;
        Ok((Box::new(stream), server.clone()))
    }
}
