//! Reads /proc/self/mountinfo (proc_pid_mountinfo(5)): what is mounted where, without touching the mount itself, which may
//! not answer.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// The kernel's number for this mount; it may be used again after an unmount.
    pub(crate) id: u64,
    /// Device `major:minor` of the file system.
    pub(crate) device: String,
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// Type with subtype, such as `ext4` or `fuse.lifeboat`.
    pub(crate) kind: String,
    /// What is mounted: a device or a name.
    pub(crate) source: String,
}

/// The mounts at exactly this path, the topmost last.
///
/// # Errors
/// When /proc isn't there.
pub(crate) fn mounts_at(path: &Path) -> std::io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).filter(|entry| entry.mount_point == path).collect())
}

/// `36 35 98:0 /root /mount/point options tags… - type source super-options`
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = text(fields.nth(1)?);
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|field| *field == b"-")?;
    Some(MountEntry { id, device, mount_point, kind: text(fields.next()?), source: text(fields.next()?) })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = match after {
            [a, b, c, ..] if *first == b'\\' => u8::from_str_radix(str::from_utf8(&[*a, *b, *c]).unwrap_or(""), 8).ok(),
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    out
}

/// The path as it stands in mountinfo: symbolic links resolved, without asking a mount at the path itself, which may be dead.
///
/// # Errors
/// When the parent directory isn't there.
pub(crate) fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let is_link = std::fs::read_link(&path).is_ok();
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !is_link && name.as_bytes() != b".." => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_tags_and_escapes_is_read() {
        let line =
            br"36 35 0:47 / /mnt/two\040words\134 rw,nosuid shared:1 master:2 - fuse.lifeboat lifeboat rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.id, 36);
        assert_eq!(entry.device, "0:47");
        assert_eq!(entry.mount_point, Path::new(r"/mnt/two words\"));
        assert_eq!((entry.kind.as_str(), entry.source.as_str()), ("fuse.lifeboat", "lifeboat"));
    }

    #[test]
    fn broken_lines_are_left_out() {
        for line in [
            &b""[..],
            b"36",
            b"x 35 0:47 / /mnt rw - ext4 a rw",
            b"36 35 0:47 / /mnt rw ext4 a rw",
            b"36 35 0:47 / /mnt rw -",
        ] {
            assert_eq!(parse(line), None);
        }
        assert_eq!(unescape(br"a\04"), br"a\04");
        assert_eq!(unescape(br"\999"), br"\999");
    }

    #[test]
    fn links_in_a_path_are_resolved_and_the_root_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let want = real.canonicalize().unwrap();
        assert_eq!(resolve(&dir.path().join("link")).unwrap(), want);
        assert_eq!(resolve(&dir.path().join("link/missing")).unwrap(), want.join("missing"));
        assert!(resolve(&dir.path().join("missing/missing")).is_err());
        assert!(!mounts_at(Path::new("/")).unwrap().is_empty());
        assert!(mounts_at(&want).unwrap().is_empty());
    }
}
