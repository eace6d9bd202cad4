//! The names of exports: the mount's tree, flattened.
//!
//! ```text
//! NAME, volumes/NAME          File::Volume     nbd://host/db
//! points/GROUP/TIME/NAME      File::Point      nbd://host/points/crm/2026-11-20T10:05:00Z/db
//! branches/BRANCH/NAME        File::Branch     nbd://host/branches/01J…/db
//! ```
//! A name that no file of the mount could have is no export.

use crate::inode::Node;
use crate::tree::{Dir, FILE_SUFFIX, File};

/// The file that a client means; `None` for what can't be one.
#[must_use]
pub fn parse(name: &str) -> Option<File> {
    let parts: Vec<&str> = name.splitn(5, '/').collect();
    let (dir, volume) = match *parts.as_slice() {
        [volume] | ["volumes", volume] => (Dir::Volumes, volume),
        ["points", group, time, volume] => (Dir::Point { group: known(group)?, time: known(time)? }, volume),
        ["branches", branch, volume] => (Dir::Branch { branch: known(branch)? }, volume),
        _ => return None,
    };
    match Node::child(&dir, &format!("{volume}{FILE_SUFFIX}"))? {
        Node::File(file) => Some(file),
        Node::Dir(_) => None,
    }
}

/// The name of the export for a file: [`parse`] gives the file again.
#[must_use]
pub fn of(file: &File) -> String {
    match file {
        File::Volume { volume } => volume.clone(),
        File::Point { group, time, volume } => format!("points/{group}/{time}/{volume}"),
        File::Branch { branch, volume } => format!("branches/{branch}/{volume}"),
    }
}

/// A directory's name, if a directory can have it.
fn known(name: &str) -> Option<String> {
    Node::child(&Dir::Points, name).map(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_of_the_mount_and_back() {
        for name in ["db", "points/crm/2026-11-20T10:05:00Z/db", "branches/b1/db"] {
            assert_eq!(of(&parse(name).unwrap()), name);
        }
        assert_eq!(parse("volumes/db"), parse("db"));
    }

    #[test]
    fn what_is_no_file_is_no_export() {
        let long = "x".repeat(300);
        for name in [
            "",
            "/",
            "/db",
            "volumes/",
            "volumes/a/b",
            "points/crm/db",
            "points//t/db",
            "points/../t/db",
            "a\0b",
            &long,
        ] {
            assert_eq!(parse(name), None, "{name:?}");
        }
        assert_eq!(parse("points/g/t/v/w"), None);
    }
}
