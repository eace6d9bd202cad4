//! How an agent is doing, in a file that people and programs may read: it has no port.

use std::fs;
use std::path::Path;

use lifeboat_engine::{EngineError, Group, GroupStatus};
use lifeboat_model::Timestamp;
use lifeboat_model::state::Health;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::protects::Protects;
use crate::route::Route;
use crate::{AgentConfig, keep};

const FILE: &str = "status.json";

/// How an agent is doing. Written every two seconds while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// When the rest was found to be so.
    pub time: Timestamp,
    /// `waiting` for a process server, `stopped`, or the group's state.
    pub state: String,
    /// The group.
    pub group: String,
    /// How well it is.
    pub health: Health,
    /// Why it isn't better.
    pub reasons: Vec<String>,
    /// The process server that answered last.
    pub process_server: Option<String>,
    /// Newest record that survives the loss of power here.
    pub durable: u64,
    /// Newest record in the vault.
    pub shipped: u64,
    /// Bytes that are not in the vault yet, roughly.
    pub backlog_bytes: u64,
    /// Bytes still to be copied to the vault: a new disk, or after a full journal.
    pub resync_bytes_left: Option<u64>,
    /// When the newest recovery point in the vault was taken.
    pub last_point: Option<Timestamp>,
    /// The disks.
    pub disks: Vec<Served>,
}

/// A disk that is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The volume's name: `MOUNT/volumes/NAME.img`.
    pub name: String,
    /// The disk.
    pub path: Option<String>,
    /// Its size, bytes.
    pub size_bytes: u64,
}

/// What an agent with this state directory wrote last.
///
/// # Errors
/// There is no such file, or it can't be read.
pub fn read_status(state: &Path) -> std::io::Result<AgentStatus> {
    Ok(serde_json::from_slice(&fs::read(state.join(FILE))?)?)
}

/// Tells whoever listens, and writes it down: nobody misses one that can't be written.
pub(crate) fn tell(config: &AgentConfig, told: &watch::Sender<Option<AgentStatus>>, status: &AgentStatus) {
    told.send_replace(Some(status.clone()));
    if let Err(error) = keep(&config.state.join(FILE), status) {
        tracing::debug!(%error, "the status can't be written");
    }
}

pub(crate) fn waiting(protects: &Protects, route: &Route, why: &EngineError) -> AgentStatus {
    let served = |disk: &crate::protects::Protected| Served {
        name: disk.name.clone(),
        path: Some(disk.path.display().to_string()),
        size_bytes: disk.size_bytes,
    };
    AgentStatus {
        time: Timestamp::now(),
        state: "waiting".to_owned(),
        group: protects.group.to_string(),
        health: Health::Critical,
        reasons: vec![why.to_string()],
        process_server: route.current(),
        durable: 0,
        shipped: 0,
        backlog_bytes: 0,
        resync_bytes_left: None,
        last_point: None,
        disks: protects.disks.iter().map(served).collect(),
    }
}

/// What a group is like that was found so at `time`.
pub(crate) fn of(group: &Group, time: Timestamp, found: &GroupStatus, route: &Route) -> AgentStatus {
    let disks = group.volumes().into_iter().map(|spec| Served {
        name: spec.name,
        path: spec.source.map(|path| path.display().to_string()),
        size_bytes: spec.size_bytes,
    });
    AgentStatus {
        time,
        state: found.state.to_string(),
        group: group.id().to_string(),
        health: found.health,
        reasons: found.reasons.clone(),
        process_server: route.current(),
        durable: found.durable_lsn.0,
        shipped: found.shipped_lsn.0,
        backlog_bytes: found.backlog_bytes,
        resync_bytes_left: found
            .resync
            .as_ref()
            .map(|resync| resync.progress.total_bytes.saturating_sub(resync.progress.done_bytes)),
        last_point: found.last_point.as_ref().map(|point| point.time),
        disks: disks.collect(),
    }
}

pub(crate) fn stopped(group: &Group) -> AgentStatus {
    let time = Timestamp::now();
    let found = group.status();
    AgentStatus {
        time,
        state: "stopped".to_owned(),
        group: group.id().to_string(),
        health: Health::Warning,
        reasons: vec!["the agent is stopped: nothing that is written to the disk itself is protected".to_owned()],
        process_server: None,
        durable: found.durable_lsn.0,
        shipped: found.shipped_lsn.0,
        backlog_bytes: found.backlog_bytes,
        resync_bytes_left: None,
        last_point: found.last_point.map(|point| point.time),
        disks: Vec::new(),
    }
}
