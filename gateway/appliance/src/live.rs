//! What changes while the appliance runs, from its console: the network, and a log of what was done there.
//!
//! ```text
//! DATA/appliance/network.json      the network as the console set it ([`crate::network`])
//! DATA/appliance/console.log       what was done at consoles, for longer than the system's own log lasts
//! /run/lifeboat-appliance/         of this boot: what properties said, what first boot noted, tries with a wrong token
//! ```
//! A network is kept before it is applied: what a crash leaves is applied by the next boot.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::constant_time;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attempts::Attempts;
use crate::machine::{self, Report};
use crate::network::{Chosen, Network, Said, VERSION};
use crate::plan::{DATA, plan};
use crate::properties::{Hidden, Settings};

/// What belongs to this boot.
const RUN: &str = "/run/lifeboat-appliance";
/// The log's size at which it begins anew; one older is kept.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// The network as it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// It.
    pub network: Network,
    /// Whether the console set it.
    pub is_ours: bool,
}

/// What applying came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whether the gateway restarts, since it listens elsewhere now.
    pub gateway_restarts: bool,
}

/// Settings with the network that the console set, where that counts over what properties said at this boot.
pub(crate) fn with_network(settings: Settings, said: &Said, data: &Path, notes: &mut Vec<String>) -> (Settings, bool) {
    match chosen(data) {
        Ok(None) => (settings, false),
        Ok(Some(chosen)) if chosen.counts(said) => (chosen.network.within(settings), true),
        Ok(Some(_)) => {
            notes.push(
                "the hypervisor's properties say another network than when one was set at the console: theirs counts"
                    .into(),
            );
            (settings, false)
        }
        Err(error) => {
            notes.push(format!("the network that was set at the console doesn't count: {error:#}"));
            (settings, false)
        }
    }
}

fn chosen(data: &Path) -> Result<Option<Chosen>> {
    let path = data.join("appliance/network.json");
    let Some(chosen) = read::<Chosen>(&path)? else { return Ok(None) };
    ensure!(chosen.version <= VERSION, "{} is of version {}, a newer appliance's", path.display(), chosen.version);
    chosen.network.check().map_err(|why| anyhow::anyhow!("{why}"))?;
    Ok(Some(chosen))
}

/// Keeps for the console what this boot found.
pub(crate) fn remember(said: &Said) -> Result<()> {
    machine::directory(Path::new(RUN), 0o700)?;
    write(&Path::new(RUN).join("said.json"), said)
}

/// Keeps for the console how first boot ended.
///
/// # Errors
/// It can't be written.
pub fn note_boot(ended: &Result<Report>) -> Result<()> {
    machine::directory(Path::new(RUN), 0o700)?;
    let (failed, notes) = match ended {
        Ok(report) => (None, report.notes.clone()),
        Err(error) => (Some(format!("{error:#}")), Vec::new()),
    };
    write(&Path::new(RUN).join("boot.json"), &(failed, notes))
}

/// Why this boot's first step failed, and what it noted.
#[must_use]
pub fn boot_notes() -> (Option<String>, Vec<String>) {
    read(&Path::new(RUN).join("boot.json")).ok().flatten().unwrap_or_default()
}

/// Keeps for the console what became of an update.
///
/// # Errors
/// It can't be written.
pub fn note_update(text: &str) -> Result<()> {
    machine::directory(Path::new(RUN), 0o700)?;
    write(&Path::new(RUN).join("update.json"), &text)
}

/// What became of an update during this boot.
#[must_use]
pub fn update_note() -> Option<String> {
    read(&Path::new(RUN).join("update.json")).ok().flatten().filter(|text: &String| !text.is_empty())
}

/// The network as it is set now.
///
/// # Errors
/// Settings can't be read: there is no data disk.
pub fn network() -> Result<Set> {
    let said: Said = read(&Path::new(RUN).join("said.json"))?.unwrap_or_default();
    let settings = machine::kept(Path::new(DATA))?;
    let (settings, is_ours) = with_network(settings, &said, Path::new(DATA), &mut Vec::new());
    Ok(Set { network: Network::of(&settings), is_ours })
}

/// Keeps and applies a network, or forgets the one that the console set.
///
/// # Errors
/// It makes no sense, there is no data disk, or the network's service doesn't take it: then it is kept, and the next boot's.
pub fn set_network(network: Option<&Network>) -> Result<Applied> {
    let data = Path::new(DATA);
    ensure!(machine::is_mounted(DATA)?, "there is no data disk, and so no place where the network would be kept");
    let said: Said = read(&Path::new(RUN).join("said.json"))?.unwrap_or_default();
    keep(network, &said, data)?;
    let (settings, _) = with_network(machine::kept(data)?, &said, data, &mut Vec::new());
    let plan = plan(&settings, &machine::hardware());
    let gateway = plan.files.iter().find(|file| file.path.ends_with("gateway.toml"));
    let gateway_restarts =
        gateway.is_some_and(|file| fs::read_to_string(&file.path).is_ok_and(|now| now != file.content));
    machine::write_files(&plan, Path::new("/"))?;
    // Not `networkctl reload`: the end of a lease takes its address away, also if it is the fixed one now.
    machine::run("systemctl", &["restart", "systemd-networkd.service"])?;
    if gateway_restarts {
        machine::run("systemctl", &["restart", "--no-block", "lifeboat-gateway.service"])?;
    }
    Ok(Applied { gateway_restarts })
}

fn keep(network: Option<&Network>, said: &Said, data: &Path) -> Result<()> {
    let home = data.join("appliance");
    machine::directory(&home, 0o700)?;
    let path = home.join("network.json");
    match network {
        Some(network) => {
            network.check().map_err(|why| anyhow::anyhow!("{why}"))?;
            write(&path, &Chosen { version: VERSION, network: network.clone(), said: said.clone() })
        }
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => File::open(&home)?.sync_all().context("sync the appliance's settings"),
        },
    }
}

/// Whether this is the administrator's token of the gateway, without asking it: it may not be running.
///
/// # Errors
/// One sentence: it isn't, it has to be waited, or there is none.
pub fn check_token(token: &Hidden, state: &Path, now: u64) -> Result<(), String> {
    let path = Path::new(RUN).join("attempts.json");
    let attempts: Attempts = read(&path).ok().flatten().unwrap_or_default();
    let wait = attempts.wait(now);
    if wait > 0 {
        return Err(format!("too many wrong tokens: try again in {wait} s"));
    }
    let kept = fs::read_to_string(state.join("admin.token"))
        .map_err(|_| "there is no administrator's token here: it is given with the property admin_token".to_owned())?;
    let kept = kept.trim().as_bytes();
    if !kept.is_empty() && equal(kept, token.expose().as_bytes()) {
        let _ = fs::remove_file(&path);
        return Ok(());
    }
    // A count that can't be kept lets nobody in.
    write(&path, &attempts.failed(now)).map_err(|error| format!("{error:#}"))?;
    Err("that is not the administrator's token".to_owned())
}

/// Compares without telling by its time where they differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Writes down what was done at a console.
///
/// # Errors
/// There is no data disk, or it is full.
pub fn log(line: &str) -> Result<()> {
    ensure!(machine::is_mounted(DATA)?, "there is no data disk");
    append(&Path::new(DATA).join("appliance/console.log"), line)
}

fn append(path: &Path, line: &str) -> Result<()> {
    if fs::metadata(path).is_ok_and(|about| about.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all().with_context(|| format!("write {}", path.display()))
}

/// The console's log files.
#[must_use]
pub fn logs() -> Vec<PathBuf> {
    let home = Path::new(DATA).join("appliance");
    ["console.log.1", "console.log"].iter().map(|name| home.join(name)).filter(|path| path.exists()).collect()
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => {
            let bytes = read.with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display()))
        }
    }
}

pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    machine::write(path, &serde_json::to_vec_pretty(value)?, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::{Address, Properties};

    fn settings(address: &str) -> Settings {
        let mut properties = Properties::default();
        properties.set("address", address).unwrap();
        properties.settings
    }

    #[test]
    fn the_consoles_network_outlives_boots_until_the_properties_change() {
        let dir = tempfile::tempdir().unwrap();
        let (properties, mut notes) = (settings("192.0.2.10/24"), Vec::new());
        let said = Said::of(&properties);
        let ours =
            Network { address: Some(Address::try_from("198.51.100.7/24".to_owned()).unwrap()), ..Network::default() };
        keep(Some(&ours), &said, dir.path()).unwrap();
        let (now, is_ours) = with_network(properties.clone(), &said, dir.path(), &mut notes);
        assert_eq!((Network::of(&now), is_ours), (ours, true));
        let other = settings("192.0.2.11/24");
        let (now, is_ours) = with_network(other.clone(), &Said::of(&other), dir.path(), &mut notes);
        assert_eq!((now, is_ours, notes.len()), (other, false, 1));
        keep(None, &said, dir.path()).unwrap();
        keep(None, &said, dir.path()).unwrap();
        assert!(!with_network(properties, &said, dir.path(), &mut notes).1);
        // What can't be read is no reason not to start.
        for broken in ["{", r#"{"version": 9, "network": {}, "said": {}}"#] {
            fs::write(dir.path().join("appliance/network.json"), broken).unwrap();
            let before = notes.len();
            assert!(!with_network(Settings::default(), &said, dir.path(), &mut notes).1);
            assert_eq!(notes.len(), before + 1, "{broken}");
        }
    }

    #[test]
    fn a_token_is_the_whole_token() {
        assert!(equal(b"abc", b"abc"));
        for other in ["", "ab", "abcd", "abd"] {
            assert!(!equal(b"abc", other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_log_begins_anew_before_it_fills_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        fs::write(&path, vec![b'x'; usize::try_from(LOG_BYTES_MAX).unwrap() + 1]).unwrap();
        append(&path, "one").unwrap();
        append(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert!(dir.path().join("console.log.1").exists());
    }
}
