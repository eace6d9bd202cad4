//! A tree in memory with the manners of the kernel's, as far as they matter here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{LINK, NAMES, Tree, UNIT};

#[derive(Debug, Default)]
struct State {
    dirs: BTreeSet<String>,
    links: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
    steps: usize,
    /// This step fails, once.
    refused: Option<usize>,
    /// From this step on nothing happens any more.
    dead_at: Option<usize>,
}

/// The tree; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn steps(&self) -> usize {
        self.state().steps
    }

    /// Refuses the step of this number, from 0, once.
    pub(crate) fn refuse(&self, step: usize) {
        self.state().refused = Some(step);
    }

    pub(crate) fn die_at(&self, step: usize) {
        self.state().dead_at = Some(step);
    }

    pub(crate) fn revive(&self) {
        self.state().dead_at = None;
    }

    /// Every directory and link.
    pub(crate) fn paths(&self) -> Vec<String> {
        let state = self.state();
        state.dirs.iter().chain(state.links.keys()).cloned().collect()
    }

    pub(crate) fn value(&self, path: &str) -> String {
        self.state().values.get(path).cloned().unwrap_or_default()
    }

    /// Whether an initiator finds the volume there.
    pub(crate) fn is_serving(&self, serial: &str, initiator: &str) -> bool {
        let state = self.state();
        let group = format!("iscsi/{NAMES}{serial}/tpgt_1");
        let is_set = |path: &str, text: &str| state.values.get(path).is_some_and(|value| value == text);
        is_set(&format!("{group}/enable"), "1")
            && is_set(&format!("core/fileio_7133/{serial}/enable"), "1")
            && state.dirs.contains(&format!("{group}/np/0.0.0.0:3260"))
            && state.links.contains_key(&format!("{group}/lun/{UNIT}/{LINK}"))
            && state.links.contains_key(&format!("{group}/acls/{initiator}/{UNIT}/{LINK}"))
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let step = state.steps;
        if state.dead_at.is_some_and(|at| step >= at) {
            return Err(error(io::ErrorKind::BrokenPipe));
        }
        state.steps += 1;
        if state.refused == Some(step) {
            state.refused = None;
            return Err(error(io::ErrorKind::PermissionDenied));
        }
        Ok(state)
    }
}

/// What a directory is, by where it is: which values it has, and which directories come with it.
fn kind(path: &str) -> Option<(&'static [&'static str], &'static [&'static str])> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["core", adapter] if adapter.starts_with("fileio_") => Some((&["hba_info", "hba_mode"], &[])),
        ["core", _, _] => Some((&["control", "enable"], &["attrib", "wwn"])),
        ["iscsi"] | ["iscsi", _] => Some((&[], &[])),
        ["iscsi", _, "tpgt_1"] => Some((&["enable"], &["attrib", "lun", "np", "acls"])),
        ["iscsi", _, _, "lun", _] | ["iscsi", _, _, "np", _] => Some((&[], &[])),
        ["iscsi", _, _, "acls", _] => Some((&[], &["auth"])),
        ["iscsi", _, _, "acls", _, _] => Some((&["write_protect"], &[])),
        _ => None,
    }
}

const ATTRIBUTES: [&str; 6] = [
    "/attrib/emulate_tpu",
    "/wwn/vpd_unit_serial",
    "/attrib/generate_node_acls",
    "/attrib/authentication",
    "/auth/userid",
    "/auth/password",
];

impl Tree for Fake {
    fn make(&self, path: &str) -> io::Result<()> {
        let mut state = self.step()?;
        if state.dirs.contains(path) {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let known = ["", "core"].contains(&parent) || state.dirs.contains(parent);
        let (_, with) = kind(path).ok_or_else(|| error(io::ErrorKind::InvalidInput))?;
        if !known {
            return Err(error(io::ErrorKind::NotFound));
        }
        state.dirs.insert(path.to_owned());
        state.dirs.extend(with.iter().map(|name| format!("{path}/{name}")));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.step()?;
        if !state.dirs.contains(path) {
            return Err(error(io::ErrorKind::NotFound));
        }
        let (_, with) = kind(path).ok_or_else(|| error(io::ErrorKind::PermissionDenied))?;
        let own: Vec<String> = with.iter().map(|name| format!("{path}/{name}")).collect();
        let below = format!("{path}/");
        let busy = state.dirs.iter().any(|dir| dir.starts_with(&below) && !own.contains(dir))
            || state.links.keys().any(|link| link.starts_with(&below))
            || state.links.values().any(|to| to == path);
        if busy {
            return Err(error(io::ErrorKind::ResourceBusy));
        }
        state.dirs.retain(|dir| dir != path && !own.contains(dir));
        state.values.retain(|value, _| !value.starts_with(&below));
        Ok(())
    }

    fn link(&self, to: &str, path: &str) -> io::Result<()> {
        let mut state = self.step()?;
        // The kernel takes a disk that is open, and of a target the logical unit that has one.
        let ready = if to.starts_with("core/") {
            state.values.get(&format!("{to}/enable")).is_some_and(|value| value == "1")
        } else {
            state.links.contains_key(&format!("{to}/{LINK}"))
        };
        if !ready {
            return Err(error(io::ErrorKind::InvalidInput));
        }
        if state.links.insert(path.to_owned(), to.to_owned()).is_some() {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut state = self.step()?;
        // A unit that an initiator has may not lose its disk.
        let unit = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if state.links.values().any(|to| to == unit) {
            return Err(error(io::ErrorKind::ResourceBusy));
        }
        state.links.remove(path).map(drop).ok_or_else(|| error(io::ErrorKind::NotFound))
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let mut state = self.step()?;
        let (dir, name) = path.rsplit_once('/').unwrap_or_default();
        let here = kind(dir).is_some_and(|(values, _)| values.contains(&name));
        let attribute = ATTRIBUTES.iter().any(|end| path.ends_with(end));
        if !state.dirs.contains(dir) || !(here || attribute) {
            return Err(error(io::ErrorKind::NotFound));
        }
        let store_on = state.values.get(&format!("{dir}/enable")).is_some_and(|value| value == "1");
        let unready =
            name == "enable" && dir.starts_with("core/") && !state.values.contains_key(&format!("{dir}/control"));
        if unready || (name == "control" && store_on) {
            return Err(error(io::ErrorKind::InvalidInput));
        }
        state.values.insert(path.to_owned(), text.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        if path != "core" && !state.dirs.contains(path) {
            return Err(error(io::ErrorKind::NotFound));
        }
        let below = format!("{path}/");
        let inside = |full: &String| full.strip_prefix(&below).filter(|rest| !rest.contains('/')).map(str::to_owned);
        let values = kind(path).map_or(&[][..], |(values, _)| values).iter().map(|&name| name.to_owned());
        Ok(state.dirs.iter().filter_map(inside).chain(values).collect())
    }
}
