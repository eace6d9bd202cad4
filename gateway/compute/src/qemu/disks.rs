//! The files and devices behind a machine's disks.
//!
//! A file in a mount has a weakness: when the process that serves the mount ends, whoever has the file open has it for
//! nothing. The machine stands still then. Once the file system is mounted again there is another file under the same
//! path, and QEMU can be made to go on with that one, failed requests included. So a restart of a gateway costs a
//! machine with files a pause, as one with NBD disks. It is the caller's promise that a path means the same disk
//! while a run lasts.
//!
//! Looking at a path may take for ever when its file system is away: such a look has a limit.

use std::fs;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;

use serde_json::json;

use super::line::{self, DiskFacts};
use super::process::Process;
use super::qmp::{Qmp, QmpError};
use crate::{Disk, DiskSource};

const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// What can be said of a disk before QEMU opens it; what is wrong with it QEMU says better.
pub(super) fn facts(source: &DiskSource) -> Option<DiskFacts> {
    let DiskSource::File { path } = source else { return None };
    let device = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    let direct = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).is_ok();
    Some(DiskFacts { device, direct })
}

/// The disks whose path leads to another file by now than any that QEMU has open.
pub(super) async fn replaced(process: &Process, disks: Vec<Disk>) -> Vec<(usize, DiskSource)> {
    let open = process.open_files();
    let look = tokio::task::spawn_blocking(move || {
        let other = |disk: &Disk| match &disk.source {
            DiskSource::File { path } => fs::metadata(path).is_ok_and(|there| !open.holds(&there)),
            DiskSource::Nbd { .. } => false,
        };
        disks.into_iter().enumerate().filter(|(_, disk)| other(disk)).map(|(n, disk)| (n, disk.source)).collect()
    });
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(Ok(replaced)) => replaced,
        _ => Vec::new(),
    }
}

/// Gives a machine's disk other bytes, and lets go of those before.
///
/// `blockdev-reopen` would be the documented way, and flushes what it replaces first: after a write that was not flushed it
/// fails when the file is dead. Setting the device's node flushes nothing.
pub(super) async fn exchange(
    qmp: &mut Qmp,
    n: usize,
    mark: &str,
    source: &DiskSource,
    known: Option<DiskFacts>,
) -> Result<(), QmpError> {
    let (from, disk) = (format!("source{n}-{mark}"), format!("disk{n}-{mark}"));
    qmp.execute("blockdev-add", line::source(&from, source, known)).await?;
    let set = async {
        qmp.execute("blockdev-add", line::disk(&disk, &from)).await?;
        let path = format!("/machine/peripheral/{}", line::device(n));
        qmp.execute("qom-set", json!({"path": path, "property": "drive", "value": disk})).await
    }
    .await;
    let nodes = qmp.execute("query-named-block-nodes", json!({"flat": true})).await?;
    let names: Vec<&str> =
        nodes.as_array().into_iter().flatten().filter_map(|node| node.get("node-name")?.as_str()).collect();
    // A disk before what it stands on.
    for kind in ["disk", "source"] {
        let first = format!("{kind}{n}");
        let of_disk =
            |name: &&str| **name == first || name.strip_prefix(&first).is_some_and(|rest| rest.starts_with('-'));
        for name in names.iter().copied().filter(|name| of_disk(name)) {
            // What is in use stays: that is the new one, or after a failure the old one.
            let _ = qmp.execute("blockdev-del", json!({"node-name": name})).await;
        }
    }
    set.map(|_| ())
}
