//! How a process server is doing, asked before a line is used for anything: so that an agent goes where there is room.
//!
//! Spoken in version 2 of the protocol alone, by its name in the handshake: either side that knows version 1 only is not asked.

use super::{FrameKind, STREAM, frame};
use crate::FormatError;
use crate::wire::{Put, Reader};

/// Process servers that one Standing names, at most.
pub const SERVERS_MAX: usize = 64;
/// Longest `host:port`, bytes.
pub const ADDRESS_BYTES_MAX: usize = 261;

const SERVER_LEN_MIN: usize = 3;

/// A process server of the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownServer {
    /// `host:port` at which agents reach it.
    pub address: String,
    /// Whether it stands at the site of the agent that asked.
    pub same_site: bool,
}

/// How a process server is doing, and which ones there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// 0 healthy, 1 warning, 2 critical; others count as critical.
    pub health: u8,
    /// Agents that stream to it.
    pub agents: u32,
    /// Bytes in its cache.
    pub cache_bytes: u64,
    /// Bytes that its cache may have.
    pub cache_bytes_limit: u64,
    /// The process servers of the vault that are heard of, as far as they say where they are reached; this one may be among them.
    pub servers: Vec<KnownServer>,
}

impl Standing {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u8(self.health);
        body.put_u32(self.agents);
        body.put_u64(self.cache_bytes);
        body.put_u64(self.cache_bytes_limit);
        body.put_count(STREAM.what, self.servers.len(), SERVERS_MAX)?;
        for server in &self.servers {
            body.put_flag(server.same_site);
            body.put_text(STREAM.what, &server.address, ADDRESS_BYTES_MAX)?;
        }
        frame(FrameKind::Standing, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let mut standing = Self {
            health: reader.u8()?,
            agents: reader.u32()?,
            cache_bytes: reader.u64()?,
            cache_bytes_limit: reader.u64()?,
            servers: Vec::new(),
        };
        let count = reader.count(SERVERS_MAX, SERVER_LEN_MIN)?;
        standing.servers.reserve(count);
        for _ in 0..count {
            let same_site = reader.flag()?;
            standing.servers.push(KnownServer { address: reader.text(ADDRESS_BYTES_MAX)?, same_site });
        }
        reader.finish()?;
        Ok(standing)
    }
}
