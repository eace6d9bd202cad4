//! The helper: listens for its gateway, and makes the kernel have the targets that this one orders.
//!
//! ```text
//! no gateway ──it connects──> line ──order──> kernel, report ──> line …
//!      └<── the line ends, another gateway comes, or we stop: every target goes
//! ```

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lifeboat_model::VolumeId;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::lio::{Disk, Lio, Tree, is_on_fuse};
use crate::order::{MESSAGE_BYTES_MAX, Order, Report, Target, TargetReport, serial};

/// The longest name of a file that the kernel's target takes.
const FILE_BYTES_MAX: usize = 255;

/// The files of volumes, by their names.
pub trait Files {
    /// The file of a volume, and its size in bytes.
    ///
    /// # Errors
    /// In words: there is no such file, or it is none that may be handed out.
    fn find(&self, name: &str) -> Result<(PathBuf, u64), String>;
}

/// The mount of a gateway.
#[derive(Debug)]
pub struct Mounted(pub PathBuf);

impl Files for Mounted {
    fn find(&self, name: &str) -> Result<(PathBuf, u64), String> {
        // As gateways name volumes; what has a meaning for paths or for the kernel's target is none of them.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(format!("{name:?} is no name of a volume"));
        }
        let file = self.0.join("volumes").join(format!("{name}.img"));
        let text = file.to_string_lossy();
        if text.len() > FILE_BYTES_MAX || text.contains([',', '\n', ' ']) {
            return Err(format!(
                "the kernel's target can't take the file {text}: mount volumes at a path of up to 150 bytes, without commas and spaces"
            ));
        }
        let looked = || -> io::Result<(bool, u64)> {
            let meta = std::fs::symlink_metadata(&file)?;
            Ok((meta.is_file() && is_on_fuse(&file)?, meta.len()))
        };
        match looked() {
            Ok((true, size)) => Ok((file, size)),
            Ok((false, _)) => {
                Err(format!("{text} is no volume: no gateway is mounted there (--mount of the iSCSI helper)"))
            }
            Err(error) => Err(format!(
                "{text} can't be looked at: {error} (--mount of the iSCSI helper says where volumes are mounted)"
            )),
        }
    }
}

/// A helper over a kernel's target.
#[derive(Debug)]
pub struct Helper<T, F> {
    lio: Lio<T>,
    files: F,
    held: BTreeMap<VolumeId, Disk>,
}

impl<T: Tree, F: Files> Helper<T, F> {
    /// One that has no targets yet, of which its predecessor may have left some.
    pub const fn new(lio: Lio<T>, files: F) -> Self {
        Self { lio, files, held: BTreeMap::new() }
    }

    /// Makes the kernel have these targets and no others of ours.
    pub fn apply(&mut self, order: &Order) -> Report {
        let gone: Vec<VolumeId> = self
            .held
            .keys()
            .filter(|held| order.targets.iter().all(|target| target.volume != **held))
            .copied()
            .collect();
        for volume in gone {
            self.take_down(volume);
        }
        let targets = order
            .targets
            .iter()
            .map(|target| TargetReport { volume: target.volume, trouble: self.bring_up(target).err() });
        Report { targets: targets.collect(), portal: self.lio.portal().to_owned(), trouble: None }
    }

    fn bring_up(&mut self, target: &Target) -> Result<(), String> {
        let volume = target.volume;
        let disk = match self.files.find(&target.name) {
            Ok((file, size_bytes)) => Disk {
                serial: serial(volume),
                file,
                size_bytes,
                initiators: target.initiators.iter().cloned().collect(),
            },
            Err(why) => {
                // A target without its file only answers with errors.
                self.take_down(volume);
                return Err(why);
            }
        };
        let done = match self.held.get(&volume) {
            Some(held) if *held == disk => return Ok(()),
            Some(held) if (&held.file, held.size_bytes) == (&disk.file, disk.size_bytes) => {
                self.lio.change_initiators(&held.initiators, &disk)
            }
            Some(_) => self.lio.take_down(&disk.serial).and_then(|()| self.lio.set_up(&disk)),
            None => self.lio.set_up(&disk),
        };
        match done {
            Ok(()) => {
                tracing::info!(volume = target.name, size_bytes = disk.size_bytes, "served over iSCSI");
                self.held.insert(volume, disk);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(volume = target.name, %error, "can't be served over iSCSI");
                // Half a change is none: the next order begins anew.
                self.take_down(volume);
                Err(error.to_string())
            }
        }
    }

    fn take_down(&mut self, volume: VolumeId) {
        if let Err(error) = self.lio.take_down(&serial(volume)) {
            tracing::warn!(%volume, %error, "a target can't be taken away");
        } else if let Some(disk) = self.held.remove(&volume) {
            tracing::info!(file = %disk.file.display(), "no longer served over iSCSI");
        }
    }

    /// Takes everything away, also what a predecessor left.
    pub fn clear(&mut self) {
        self.held.clear();
        if let Err(error) = self.lio.clear() {
            tracing::warn!(%error, "a target can't be taken away");
        }
    }
}

/// A socket that its owner and the owner's group may open, in place of one that a dead process left.
///
/// # Errors
/// It can't be made.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves gateways, one at a time, until it is told to stop. Then every target is gone.
pub async fn run<T, F>(mut helper: Helper<T, F>, listener: UnixListener, stop: CancellationToken)
where
    T: Tree + Send,
    F: Files + Send,
{
    helper.clear();
    let mut next = None;
    loop {
        let stream = match next.take() {
            Some(stream) => stream,
            None => tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a gateway can't be accepted");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    }
                },
            },
        };
        next = tokio::select! {
            () = stop.cancelled() => break,
            // A gateway that was killed may be back before its line is seen to end.
            Ok((newer, _)) = listener.accept() => Some(newer),
            ended = serve(&mut helper, stream) => {
                match ended {
                    Ok(()) => tracing::info!("the gateway has gone"),
                    Err(error) => tracing::warn!(%error, "the gateway's line broke"),
                }
                None
            }
        };
        helper.clear();
    }
    helper.clear();
}

async fn serve<T: Tree, F: Files>(helper: &mut Helper<T, F>, stream: UnixStream) -> io::Result<()> {
    tracing::info!("a gateway has come");
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut stream).take(MESSAGE_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let order: Order = serde_json::from_slice(&line)?;
        let report = helper.apply(&order);
        let mut text = serde_json::to_vec(&report)?;
        text.push(b'\n');
        stream.get_mut().write_all(&text).await?;
    }
}

#[cfg(test)]
mod tests;
