//! The kernel's target as a directory tree: what has to be made and written there for a volume, and how it is taken away.
//!
//! ```text
//! core/fileio_N/ID         control: file, size; wwn: serial number; enable
//! iscsi/TARGET/tpgt_1      np/PORTAL   lun/lun_0 -> core/…   acls/INITIATOR/lun_0 -> lun_0   enable
//! ```
//! Making goes down this list, taking away goes up, and each step that is done already is no fault: whatever is found in the middle
//! can be taken away. A flush of an initiator is an fsync of the file (`fd_buffered_io`: the disk says that it has a write cache),
//! an UNMAP a hole in it.
//!
//! Source: Documentation/target in Linux, drivers/target/target_core_configfs.c, drivers/target/iscsi/iscsi_target_configfs.c.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::order::NAMES;

/// Our number among the adapters of files: other programs count theirs from 0.
const ADAPTER: &str = "core/fileio_7133";
const TARGETS: &str = "iscsi";
/// The only logical unit of a target, and what the link to it is called.
const UNIT: &str = "lun_0";
const LINK: &str = "volume";

/// The kernel's tree, or what stands for it.
pub trait Tree {
    /// Makes a directory. One that is there is an error of the kind `AlreadyExists`.
    ///
    /// # Errors
    /// The kernel refuses.
    fn make(&self, path: &str) -> io::Result<()>;
    /// Removes a directory.
    ///
    /// # Errors
    /// The kernel refuses.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes a symbolic link at `path` to `to`, both below the root.
    ///
    /// # Errors
    /// The kernel refuses.
    fn link(&self, to: &str, path: &str) -> io::Result<()>;
    /// Removes a symbolic link.
    ///
    /// # Errors
    /// The kernel refuses.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Writes a value.
    ///
    /// # Errors
    /// The kernel refuses.
    fn write(&self, path: &str, text: &str) -> io::Result<()>;
    /// Names in a directory.
    ///
    /// # Errors
    /// There is no such directory.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
}

/// The kernel's tree.
#[derive(Debug)]
pub struct Kernel(PathBuf);

impl Default for Kernel {
    fn default() -> Self {
        Self(PathBuf::from("/sys/kernel/config/target"))
    }
}

impl Tree for Kernel {
    fn make(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir(self.0.join(path))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_dir(self.0.join(path))
    }

    fn link(&self, to: &str, path: &str) -> io::Result<()> {
        std::os::unix::fs::symlink(self.0.join(to), self.0.join(path))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(path))
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // One write with all of it, and nothing made new: the file is the kernel's.
        use std::io::Write as _;
        std::fs::OpenOptions::new().write(true).open(self.0.join(path))?.write_all(text.as_bytes())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(self.0.join(path))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's iSCSI target refuses {step} ({path}): {source}")]
pub struct Refused {
    step: &'static str,
    path: String,
    source: io::Error,
}

/// A user name and a password that initiators show (CHAP, RFC 3720).
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chap").field("user", &self.user).finish_non_exhaustive()
    }
}

/// One target as the kernel is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The volume's id as a serial number, [`crate::serial`].
    pub serial: String,
    /// The file that it is.
    pub file: PathBuf,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Who may use it.
    pub initiators: BTreeSet<String>,
}

impl Disk {
    fn store(&self) -> String {
        format!("{ADAPTER}/{}", self.serial)
    }

    fn portal_group(&self) -> String {
        format!("{TARGETS}/{NAMES}{}/tpgt_1", self.serial)
    }
}

/// The kernel's target, through its tree.
#[derive(Debug)]
pub struct Lio<T> {
    tree: T,
    portal: String,
    chap: Option<Chap>,
}

impl<T: Tree> Lio<T> {
    /// `portal`: `address:port` to listen on. With `chap`, initiators have to show that.
    pub const fn new(tree: T, portal: String, chap: Option<Chap>) -> Self {
        Self { tree, portal, chap }
    }

    /// What the kernel listens on once there is a target.
    pub fn portal(&self) -> &str {
        &self.portal
    }

    /// Makes a target and lets initiators in.
    ///
    /// # Errors
    /// The kernel refuses a step; nothing of the target is left then, as far as it can be taken away.
    pub fn set_up(&self, disk: &Disk) -> Result<(), Refused> {
        self.make_all(disk).inspect_err(|_| {
            // What is left is said by the next try, which finds it.
            let _ = self.take_down(&disk.serial);
        })
    }

    fn make_all(&self, disk: &Disk) -> Result<(), Refused> {
        let (store, group) = (disk.store(), disk.portal_group());
        self.make("an adapter of files", ADAPTER)?;
        self.make("a file as a disk", &store)?;
        let file = format!("fd_dev_name={},fd_dev_size={},fd_buffered_io=1", disk.file.display(), disk.size_bytes);
        self.write("the file", &format!("{store}/control"), &file)?;
        self.write("a serial number", &format!("{store}/wwn/vpd_unit_serial"), &disk.serial)?;
        self.write("to open the file", &format!("{store}/enable"), "1")?;
        self.write("holes", &format!("{store}/attrib/emulate_tpu"), "1")?;
        self.make("iSCSI", TARGETS)?;
        self.make("a target", &format!("{TARGETS}/{NAMES}{}", disk.serial))?;
        self.make("a portal group", &group)?;
        // Nobody but whom we name, and with the password if there is one.
        self.write("to know who comes", &format!("{group}/attrib/generate_node_acls"), "0")?;
        let asks = if self.chap.is_some() { "1" } else { "0" };
        self.write("to say whether a password is asked for", &format!("{group}/attrib/authentication"), asks)?;
        self.make("a logical unit", &format!("{group}/lun/{UNIT}"))?;
        self.link(&store, &format!("{group}/lun/{UNIT}/{LINK}"))?;
        self.make("to listen", &format!("{group}/np/{}", self.portal))?;
        for initiator in &disk.initiators {
            self.admit(disk, initiator)?;
        }
        self.write("to begin", &format!("{group}/enable"), "1")
    }

    fn admit(&self, disk: &Disk, initiator: &str) -> Result<(), Refused> {
        let group = disk.portal_group();
        let acl = format!("{group}/acls/{initiator}");
        self.make("an initiator", &acl)?;
        if let Some(chap) = &self.chap {
            self.write("a user name", &format!("{acl}/auth/userid"), &chap.user)?;
            self.write("a password", &format!("{acl}/auth/password"), &chap.password)?;
        }
        self.make("an initiator's logical unit", &format!("{acl}/{UNIT}"))?;
        self.link(&format!("{group}/lun/{UNIT}"), &format!("{acl}/{UNIT}/{LINK}"))?;
        // It has its value already where the kernel lets write from the start.
        self.write("to let write", &format!("{acl}/{UNIT}/write_protect"), "0")
    }

    fn dismiss(&self, group: &str, initiator: &str) -> Result<(), Refused> {
        let acl = format!("{group}/acls/{initiator}");
        self.unlink(&format!("{acl}/{UNIT}/{LINK}"))?;
        self.remove(&format!("{acl}/{UNIT}"))?;
        self.remove(&acl)
    }

    /// Lets other initiators in, and these no more; whoever stays notices nothing. `disk` has the new ones.
    ///
    /// # Errors
    /// The kernel refuses a step.
    pub fn change_initiators(&self, before: &BTreeSet<String>, disk: &Disk) -> Result<(), Refused> {
        for gone in before.difference(&disk.initiators) {
            self.dismiss(&disk.portal_group(), gone)?;
        }
        for new in disk.initiators.difference(before) {
            self.admit(disk, new)?;
        }
        Ok(())
    }

    /// Takes a target away, and the kernel's hold on its file: sessions end, initiators try again. What isn't there is no fault.
    ///
    /// # Errors
    /// The kernel refuses a step.
    pub fn take_down(&self, serial: &str) -> Result<(), Refused> {
        let target = format!("{TARGETS}/{NAMES}{serial}");
        let group = format!("{target}/tpgt_1");
        if self.tree.list(&group).is_ok() {
            // One that never began can't be ended.
            let _ = self.tree.write(&format!("{group}/enable"), "0");
            for initiator in self.list(&format!("{group}/acls")) {
                self.dismiss(&group, &initiator)?;
            }
            self.unlink(&format!("{group}/lun/{UNIT}/{LINK}"))?;
            self.remove(&format!("{group}/lun/{UNIT}"))?;
            for portal in self.list(&format!("{group}/np")) {
                self.remove(&format!("{group}/np/{portal}"))?;
            }
            self.remove(&group)?;
        }
        self.remove(&target)?;
        self.remove(&format!("{ADAPTER}/{serial}"))
    }

    /// Takes away whatever of ours is there.
    ///
    /// # Errors
    /// The kernel refuses a step; the rest was tried nevertheless.
    pub fn clear(&self) -> Result<(), Refused> {
        let targets = self.list(TARGETS).into_iter().filter_map(|name| name.strip_prefix(NAMES).map(str::to_owned));
        // An adapter has two files of the kernel's beside its disks.
        let stores = self.list(ADAPTER).into_iter().filter(|name| name.len() == 32);
        let ours: BTreeSet<String> = targets.chain(stores).collect();
        let mut done = Ok(());
        for serial in ours {
            done = done.and(self.take_down(&serial));
        }
        done.and_then(|()| self.remove(ADAPTER))
    }

    /// Names of directories: whatever else is there is the kernel's.
    fn list(&self, path: &str) -> Vec<String> {
        self.tree.list(path).unwrap_or_default()
    }

    fn make(&self, step: &'static str, path: &str) -> Result<(), Refused> {
        match self.tree.make(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(|source| refused(step, path, source)),
        }
    }

    fn link(&self, to: &str, path: &str) -> Result<(), Refused> {
        match self.tree.link(to, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(|source| refused("a link", path, source)),
        }
    }

    fn write(&self, step: &'static str, path: &str, text: &str) -> Result<(), Refused> {
        self.tree.write(path, text).map_err(|source| refused(step, path, source))
    }

    fn remove(&self, path: &str) -> Result<(), Refused> {
        gone(self.tree.remove(path)).map_err(|source| refused("to remove", path, source))
    }

    fn unlink(&self, path: &str) -> Result<(), Refused> {
        gone(self.tree.unlink(path)).map_err(|source| refused("to remove", path, source))
    }
}

fn refused(step: &'static str, path: &str, source: io::Error) -> Refused {
    Refused { step, path: path.to_owned(), source }
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether a file lies on FUSE, as those of a gateway's mount do: nothing else is ever handed to the kernel.
///
/// # Errors
/// It can't be looked at.
pub(crate) fn is_on_fuse(file: &Path) -> io::Result<bool> {
    const FUSE: i64 = 0x6573_5546;
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    Ok(i64::from(rustix::fs::statfs(file)?.f_type) == FUSE)
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
