//! Which sources this gateway may adopt as volumes: those of its own machine, at the volume's home, outside its own mount.
//!
//! A source in the mount would be a volume that waits for itself: whatever asks for it must not even look at it there. Links
//! are therefore followed here one by one, and nothing is asked about a path that has reached the mount.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_model::GatewayId;

use crate::context::Context;
use crate::port::{EngineResult, HeldVolume};

/// Links that are followed, at most: as many as the system does.
const LINKS_MAX: usize = 40;

/// Refuses what this gateway may not adopt. `home`: where the volume is at home.
///
/// # Errors
/// `Invalid`.
pub(crate) fn admit(context: &Context, own: GatewayId, home: GatewayId, volume: &HeldVolume) -> EngineResult<()> {
    let Some(source) = &volume.source else { return Ok(()) };
    if own != home {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!(
                "the volume {} was adopted at its home gateway, {home}, and the vault has no recovery point with it: fail back, or \
                 delete the volume and declare another",
                volume.name
            ),
        ));
    }
    match context.exported.path() {
        Some(mount) if leads_into(source, &mount) => Err(EngineError::new(
            ErrorKind::Invalid,
            format!(
                "{} can't be adopted: it lies in the gateway's own mount, {}, and so in another volume",
                source.display(),
                mount.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses a block device that is smaller than the volume; a file grows.
///
/// # Errors
/// `Invalid`; `NotFound` where there is nothing.
pub(crate) fn is_large_enough(volume: &HeldVolume) -> EngineResult<()> {
    use std::io::Seek as _;
    let Some(source) = &volume.source else { return Ok(()) };
    let context = |error: std::io::Error| {
        EngineError::new(ErrorKind::NotFound, format!("{} can't be looked at: {error}", source.display()))
    };
    if std::fs::metadata(source).map_err(context)?.is_file() {
        return Ok(());
    }
    let mut device = std::fs::File::open(source).map_err(context)?;
    let bytes = device.seek(std::io::SeekFrom::End(0)).map_err(context)?;
    if bytes >= volume.size_bytes {
        return Ok(());
    }
    Err(EngineError::new(
        ErrorKind::Invalid,
        format!(
            "{} has {bytes} bytes, and the volume {} needs {}: enlarge it, or name another one",
            source.display(),
            volume.name,
            volume.size_bytes
        ),
    ))
}

/// Whether a path is in a mount, also by links or a loop device.
pub(crate) fn leads_into(path: &Path, mount: &Path) -> bool {
    // The mount itself is never looked at, but links may lead to where it is.
    let mount = match (mount.parent(), mount.file_name()) {
        (Some(parent), Some(name)) => resolve(parent, None).map_or_else(|| mount.to_owned(), |at| at.join(name)),
        _ => mount.to_owned(),
    };
    let Some(end) = resolve(path, Some(&mount)) else { return true };
    // A loop device leads to what is behind it.
    end.file_name().map(|name| Path::new("/sys/block").join(name).join("loop/backing_file")).is_some_and(|behind| {
        end.starts_with("/dev")
            && std::fs::read_to_string(behind).is_ok_and(|text| Path::new(&text).starts_with(&mount))
    })
}

/// Where a path leads when its links are followed; none when that is in `mount`, or never ends.
fn resolve(path: &Path, mount: Option<&Path>) -> Option<PathBuf> {
    let parts = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<VecDeque<OsString>>();
    let (mut at, mut rest, mut links) = (PathBuf::from("/"), parts(path), 0);
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => {
                at.pop();
            }
            Some(Component::RootDir) => at = PathBuf::from("/"),
            _ => at.push(&part),
        }
        if mount == Some(at.as_path()) {
            return None;
        }
        if let Ok(target) = std::fs::read_link(&at) {
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            at.pop();
            let mut through = parts(&target);
            through.append(&mut rest);
            rest = through;
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_into_the_mount_are_found_without_looking_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = std::fs::canonicalize(dir.path()).expect("is there");
        let mount = root.join("mount");
        std::os::unix::fs::symlink("mount/volumes", root.join("short")).expect("links");
        std::os::unix::fs::symlink(root.join("short/db.img"), root.join("long")).expect("links");
        std::os::unix::fs::symlink(&root, root.join("here")).expect("links");
        std::os::unix::fs::symlink("loop", root.join("loop")).expect("links");
        std::fs::write(root.join("disk.raw"), [1]).expect("writes");
        for inside in ["mount/volumes/db.img", "short/db.img", "long", "here/here/mount/x", "loop"] {
            let path = root.join(inside);
            assert!(leads_into(&path, &mount), "{inside}");
            assert!(leads_into(&path, &root.join("here/mount")), "{inside}, with the mount behind a link");
        }
        for outside in ["disk.raw", "here/disk.raw", "mountain", "missing/mount"] {
            assert!(!leads_into(&root.join(outside), &mount), "{outside}");
        }
    }
}
