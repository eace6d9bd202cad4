//! The kernel's list of mounts, and taking a mount away for good.
//!
//! Owns unmounting in every state: in use, its server dead (ENOTCONN), or not there at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::Run;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// File system type, `fuse.lifeboat` or `ext4` for example.
    pub kind: String,
    /// What is mounted: a device or a name.
    pub source: String,
}

/// Every mount that this process sees, in the order of mounting.
///
/// # Errors
/// When the kernel's list can't be read.
pub fn all() -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read the list of mounts")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Whether something is mounted exactly there. Never touches the mount itself, which may hang or be dead.
///
/// # Errors
/// As [`all`].
pub fn is_mounted(target: &Path) -> Result<bool> {
    Ok(all()?.iter().any(|mount| mount.target == target))
}

/// Takes away everything mounted at or below `root`, latest first; lazily where it is in use or its server is dead.
/// Says on standard error what it could not do, as it runs in cleanup.
pub fn unmount_below(root: &Path) {
    // A second round finds what a first one uncovered (mounts stacked at one place).
    for _ in 0..3 {
        let Ok(mounts) = all() else { return };
        let mut targets: Vec<_> = mounts.into_iter().filter(|mount| mount.target.starts_with(root)).collect();
        if targets.is_empty() {
            return;
        }
        targets.reverse();
        for mount in targets {
            if let Err(error) = unmount(&mount) {
                eprintln!("unmount {}: {error:#}", mount.target.display());
            }
        }
    }
}

fn unmount(mount: &Mount) -> Result<()> {
    let limit = Duration::from_secs(20);
    let plain = Run::new("umount").arg(&mount.target).within(limit).outcome();
    if plain.is_ok_and(|outcome| outcome.status.success()) {
        return Ok(());
    }
    if mount.kind.starts_with("fuse") {
        let lazy = Run::new("fusermount3").args(["-u", "-z"]).arg(&mount.target).within(limit).outcome();
        if lazy.is_ok_and(|outcome| outcome.status.success()) {
            return Ok(());
        }
    }
    Run::new("umount").args(["-l"]).arg(&mount.target).within(limit).ok().map(drop)
}

fn parse(line: &str) -> Option<Mount> {
    // id parent major:minor root target options [optional fields] - type source super-options
    let (left, right) = line.split_once(" - ")?;
    let target = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    Some(Mount {
        target: PathBuf::from(unescape(target)),
        kind: right.next()?.to_owned(),
        source: unescape(right.next()?),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_list_is_read() {
        let line =
            "61 23 0:45 / /tmp/a\\040b/mnt rw,nosuid,nodev,relatime shared:1 - fuse.lifeboat lifeboat rw,user_id=0";
        assert_eq!(
            parse(line),
            Some(Mount { target: "/tmp/a b/mnt".into(), kind: "fuse.lifeboat".into(), source: "lifeboat".into() })
        );
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn the_root_is_mounted_and_a_plain_directory_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mounted(Path::new("/")).unwrap());
        assert!(!is_mounted(dir.path()).unwrap());
    }
}
