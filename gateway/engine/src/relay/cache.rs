//! What a process server keeps of a stream on its disk until the vault has it.
//!
//! ```text
//! <group>/tenure-<epoch>     whose records these are, under which epoch they are shipped: the newest sound one counts
//!         records-<after>    a Records frame as it came
//! ```
//! A frame counts as cached once its file and its name are synced. Order: old records go before the tenure that supersedes them
//! is written, and their names' absence is synced first, so that records always belong to the newest tenure. A crash leaves
//! a torn last file, which nobody was told of; it is cut. A file that is damaged with sound ones behind it is named in the
//! log, and it and what follows are given up: the agent has all of it, and the vault's log goes on with a record's successor only.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_format::stream::{FRAME_HEAD_LEN, FrameHead, FrameKind, Records, Tenure};
use lifeboat_model::{Lsn, Timestamp};

use crate::disk::{Disk, Io};
use crate::error::{EngineError, ErrorKind, Result};

const TENURE: &str = "tenure-";
const RECORDS: &str = "records-";

/// One cached frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) after: Lsn,
    pub(super) last: Lsn,
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Ships by itself: a point ends it, or the agent needs the room.
    pub(super) complete: bool,
    /// Records were given up before its first one: nothing is merged across that.
    pub(super) gap: bool,
    /// When it came, or was found again after a restart.
    pub(super) since: Timestamp,
}

impl Entry {
    pub(super) fn of(records: &Records<'_>, bytes: u64, since: Timestamp) -> Self {
        Self {
            after: records.after,
            last: records.last,
            bytes,
            complete: records.push || records.ends_with_point(),
            gap: !records.sizes.is_empty(),
            since,
        }
    }
}

/// The files of one stream.
#[derive(Debug)]
pub(super) struct Cache {
    disk: Arc<dyn Disk>,
}

impl Cache {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// What an earlier process left: the newest tenure, and its records in order as far as they follow one another.
    pub(super) fn restore(&self) -> Result<Option<(Tenure, Vec<Entry>)>> {
        let mut names = self.names()?;
        names.sort();
        let tenure = names
            .iter()
            .rev()
            .filter(|name| name.starts_with(TENURE))
            .find_map(|name| self.tenure(name).inspect_err(|error| tracing::warn!(%error, "no tenure")).ok());
        let Some(tenure) = tenure else { return Ok(None) };
        let mut entries: Vec<Entry> = Vec::new();
        let files: Vec<&String> = names.iter().filter(|name| name.starts_with(RECORDS)).collect();
        for (at, name) in files.iter().enumerate() {
            let entry = self.entry(name).and_then(|entry| match entries.last() {
                Some(before) if before.last != entry.after => {
                    Err(damaged(self, name, "it doesn't follow the one before"))
                }
                _ => Ok(entry),
            });
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) if at + 1 == files.len() => {
                    tracing::warn!(%error, "a record that was being cached at the end is cut off");
                    self.disk.remove(name).map_err(|error| self.failed("remove", name, error))?;
                }
                Err(error) => {
                    tracing::error!(%error, files = files.len() - at, "cached records are damaged: the agent has to send them again");
                    for name in files.iter().skip(at) {
                        self.disk.remove(name).map_err(|error| self.failed("remove", name, error))?;
                    }
                    break;
                }
            }
        }
        Ok(Some((tenure, entries)))
    }

    /// Begins a tenure without records.
    pub(super) fn begin(&self, tenure: &Tenure) -> Result<()> {
        let old: Vec<String> = self.names()?.into_iter().filter(|name| name.starts_with(RECORDS)).collect();
        for name in &old {
            self.disk.remove(name).map_err(|error| self.failed("remove", name, error))?;
        }
        if !old.is_empty() {
            self.sync_names()?;
        }
        self.renew(tenure)
    }

    /// Goes on with the records that are there under another tenure.
    pub(super) fn renew(&self, tenure: &Tenure) -> Result<()> {
        let name = format!("{TENURE}{:016x}", tenure.epoch.0);
        self.write(&name, &tenure.encode().map_err(super::wire::refused)?)?;
        for old in self.names()?.into_iter().filter(|old| old.starts_with(TENURE) && *old != name) {
            self.disk.remove(&old).map_err(|error| self.failed("remove", &old, error))?;
        }
        Ok(())
    }

    /// Keeps a frame; it survives the loss of power when this returns.
    pub(super) fn put(&self, after: Lsn, frame: &[u8]) -> Result<()> {
        let name = records_name(after);
        let written = self.write(&name, frame);
        if written.is_err() {
            // What is torn would be cut at the next start; the space may be what is missing.
            let _ = self.disk.remove(&name);
        }
        written
    }

    /// The frame that begins after that record, verified.
    pub(super) fn get(&self, after: Lsn) -> Result<Bytes> {
        self.frame(&records_name(after), FrameKind::Records)
    }

    /// The vault has it. A name that a crash brings back is found to be shipped already.
    pub(super) fn remove(&self, after: Lsn) -> Result<()> {
        let name = records_name(after);
        self.disk.remove(&name).map_err(|error| self.failed("remove", &name, error))
    }

    /// The time here.
    pub(super) fn now(&self) -> Timestamp {
        self.disk.now()
    }

    fn names(&self) -> Result<Vec<String>> {
        self.disk.list().map_err(|error| self.failed("list", "", error))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let failed = |error| self.failed("write", name, error);
        let file = self.disk.open(name, true, Io::Buffered).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.write_at(bytes, 0).map_err(failed)?;
        file.sync().map_err(failed)?;
        self.sync_names()
    }

    fn sync_names(&self) -> Result<()> {
        self.disk.sync_names().map_err(|error| self.failed("sync", "", error))
    }

    fn tenure(&self, name: &str) -> Result<Tenure> {
        Tenure::decode(&self.frame(name, FrameKind::Tenure)?).map_err(|error| damaged(self, name, error))
    }

    fn entry(&self, name: &str) -> Result<Entry> {
        let body = self.frame(name, FrameKind::Records)?;
        let records = Records::decode(&body).map_err(|error| damaged(self, name, error))?;
        if records_name(records.after) != name {
            return Err(damaged(self, name, "it is another one's content"));
        }
        Ok(Entry::of(&records, (body.len() + FRAME_HEAD_LEN) as u64, self.now()))
    }

    /// The body of the frame in a file.
    fn frame(&self, name: &str, kind: FrameKind) -> Result<Bytes> {
        let failed = |error| self.failed("read", name, error);
        let file = self.disk.open(name, false, Io::Buffered).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut bytes = vec![0; FRAME_HEAD_LEN];
        if len < FRAME_HEAD_LEN as u64 {
            return Err(damaged(self, name, "it is cut short"));
        }
        file.read_at(&mut bytes, 0).map_err(failed)?;
        let head = FrameHead::decode(&bytes).map_err(|error| damaged(self, name, error))?;
        // An encrypted disk rounds lengths up.
        let whole = (FRAME_HEAD_LEN + head.body_len) as u64;
        if head.kind != kind || (len != whole && len != whole.next_multiple_of(16)) {
            return Err(damaged(self, name, "it is cut short, or no such frame"));
        }
        let mut body = vec![0; head.body_len];
        file.read_at(&mut body, FRAME_HEAD_LEN as u64).map_err(failed)?;
        head.verify(&body).map_err(|error| damaged(self, name, error))?;
        Ok(Bytes::from(body))
    }

    fn failed(&self, what: &str, name: &str, error: std::io::Error) -> EngineError {
        EngineError::io(format!("{what} {}", self.disk.path().join(name).display()), error)
    }
}

fn records_name(after: Lsn) -> String {
    format!("{RECORDS}{:016x}", after.0)
}

fn damaged(cache: &Cache, name: &str, why: impl std::fmt::Display) -> EngineError {
    EngineError::new(ErrorKind::Damaged, format!("{}: {why}", cache.disk.path().join(name).display()))
}
