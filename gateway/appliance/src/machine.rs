//! The system itself: its disks and media, what is mounted, what is written. Runs at every boot, before network and gateway.
//!
//! ```text
//! media (read-only, unmounted again) ── settings of now ┐
//! data disk: check, mount, grow ────── settings of before ┴─> kept on the data disk, then applied
//! ```
//! Whatever fails ends the boot's first step with one sentence, and neither network settings nor a gateway's follow: a gateway that runs
//! without its disk or under another name would be worse than none.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::disk::{self, BYTES_MIN, Choice, Disk, EDGE_BYTES, Holds};
use crate::network::Said;
use crate::plan::{DATA, Hardware, MOUNT, Plan, STATE, plan};
use crate::properties::{Hidden, Properties, Registration, Settings};
use crate::{live, nocloud, ovf};

/// Longest document that is read from a medium.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
/// Where media are looked at.
const MEDIUM: &str = "/run/lifeboat-medium";
/// Blocks of the kernel's sizes of disks.
const SECTOR: u64 = 512;
/// User and group of the gateway, as the image has them.
const GATEWAY_USER: u32 = 990;
const SETTINGS_VERSION: u32 = 1;
/// What the gateway takes in at its start, in its state directory.
const LEFT: &str = "register.json";

/// The file of settings on the data disk.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    settings: Settings,
}

/// What a boot came to, for people.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// The host name.
    pub name: String,
    /// Sentences that a person should see.
    pub notes: Vec<String>,
}

/// Does everything.
///
/// # Errors
/// One sentence with its causes: what failed, and what a person does about it.
pub fn boot() -> Result<Report> {
    let mut notes = Vec::new();
    let properties = media()?;
    notes.extend(properties.unknown.iter().map(|key| format!("the property {key} is unknown and counts for nothing")));
    let device = data_disk(&mut notes)?;
    mount_data(&device)?;
    let said = Said::of(&properties.settings);
    let settings = settings(Path::new(DATA), properties.settings)?;
    let (settings, _) = live::with_network(settings, &said, Path::new(DATA), &mut notes);
    live::remember(&said)?;
    let state = Path::new(STATE);
    directory(state, 0o700)?;
    chown(state, Some(GATEWAY_USER), Some(GATEWAY_USER)).context("give the state directory to the gateway")?;
    if !administrators_token(state, properties.admin_token.as_ref())? {
        notes
            .push("there is no administrator's token: nobody can use this gateway until `admin_token` is given".into());
    }
    notes.extend(registration(state, &properties.registration)?);
    let plan = plan(&settings, &hardware());
    apply(&plan, Path::new("/"))?;
    Ok(Report { name: plan.name, notes })
}

/// What all media say; of those that say the same, the first one's counts.
fn media() -> Result<Properties> {
    let mut properties = Properties::default();
    let mut devices: Vec<PathBuf> = names("/sys/class/block")?
        .into_iter()
        .filter(|name| name.starts_with("sr"))
        .map(|name| Path::new("/dev").join(name))
        .collect();
    // NoCloud's documents may be on any disk with this label.
    for label in ["cidata", "CIDATA"] {
        let device = fs::canonicalize(Path::new("/dev/disk/by-label").join(label));
        devices.extend(device.ok().filter(|device| !devices.contains(device)));
    }
    directory(Path::new(MEDIUM), 0o700)?;
    for device in devices {
        let mounted = ["iso9660", "udf", "vfat"].iter().any(|kind| {
            run("mount", &["-t", kind, "-o", "ro,nosuid,nodev,noexec", &device.display().to_string(), MEDIUM]).is_ok()
        });
        // A drive without a disc, or a disc of another kind.
        if !mounted {
            continue;
        }
        let said = medium(Path::new(MEDIUM));
        run("umount", &[MEDIUM])?;
        properties.and(said.with_context(|| format!("the settings on {} can't be used", device.display()))?);
    }
    properties.settings.check()?;
    Ok(properties)
}

/// What a medium says.
fn medium(root: &Path) -> Result<Properties> {
    let mut properties = match document(root, "ovf-env.xml")? {
        Some(text) => ovf::read(&text).map_err(|why| anyhow!("{why}"))?,
        None => Properties::default(),
    };
    let read = |name: &str| Ok::<_, anyhow::Error>(document(root, name)?.unwrap_or_default());
    let (meta, user, network) = (read("meta-data")?, read("user-data")?, read("network-config")?);
    properties.and(nocloud::read(&meta, &user, &network).map_err(|why| anyhow!("{why}"))?);
    Ok(properties)
}

fn document(root: &Path, name: &str) -> Result<Option<String>> {
    let mut text = String::new();
    match File::open(root.join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened
            .and_then(|file| file.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text))
            .with_context(|| format!("read {name}"))?,
    };
    ensure!(text.len() as u64 <= DOCUMENT_BYTES_MAX, "{name} is larger than {} KiB", DOCUMENT_BYTES_MAX >> 10);
    Ok(Some(text))
}

/// The device with the data disk's file system; makes it where there is an empty disk and none that is ours.
fn data_disk(notes: &mut Vec<String>) -> Result<PathBuf> {
    let mut disks = Vec::new();
    for name in names("/sys/class/block")? {
        let about = Path::new("/sys/class/block").join(&name);
        let kind = ["loop", "ram", "sr", "dm-", "zram", "fd", "nbd", "md"];
        if kind.iter().any(|kind| name.starts_with(kind)) || about.join("partition").exists() {
            continue;
        }
        let sectors: u64 = number(&about.join("size"))?;
        let is_read_only = number(&about.join("ro"))? != 0;
        let holds = match holds(&Path::new("/dev").join(&name), sectors * SECTOR) {
            Ok(holds) if !is_read_only => holds,
            _ => Holds::Something,
        };
        disks.push(Disk { name, bytes: sectors * SECTOR, holds });
    }
    match disk::choose(&disks).map_err(|why| anyhow!("{why}"))? {
        Choice::Use(name) => Ok(Path::new("/dev").join(name)),
        Choice::Format(name) => {
            let device = Path::new("/dev").join(&name);
            run("mkfs.ext4", &["-q", "-L", disk::LABEL, "-m", "0", &device.display().to_string()])
                .with_context(|| format!("make the file system of the data disk {name}"))?;
            notes.push(format!("the empty disk {name} is the data disk from now on"));
            Ok(device)
        }
    }
}

/// What a disk holds, by its two ends.
fn holds(device: &Path, bytes: u64) -> Result<Holds> {
    if bytes < BYTES_MIN.min(EDGE_BYTES * 2) {
        return Ok(Holds::Something);
    }
    let mut file = File::open(device)?;
    let mut edge = vec![0; usize::try_from(EDGE_BYTES)?];
    file.read_exact(&mut edge)?;
    if disk::is_ours(&edge) {
        return Ok(Holds::Ours);
    }
    let is_empty = |edge: &[u8]| edge.iter().all(|byte| *byte == 0);
    let mut all = is_empty(&edge);
    file.seek(SeekFrom::Start(bytes - EDGE_BYTES))?;
    file.read_exact(&mut edge)?;
    all &= is_empty(&edge);
    Ok(if all { Holds::Nothing } else { Holds::Something })
}

/// Checks, mounts, and grows it into what the disk has.
fn mount_data(device: &Path) -> Result<()> {
    let device = device.display().to_string();
    if is_mounted(DATA)? {
        return Ok(());
    }
    // 0: nothing to do; 1: repaired. What is more is for a person.
    let checked = Command::new("e2fsck").args(["-p", &device]).stdin(Stdio::null()).output().context("run e2fsck")?;
    if !matches!(checked.status.code(), Some(0 | 1)) {
        bail!(
            "the file system of the data disk {device} needs a person: {}",
            String::from_utf8_lossy(&checked.stdout).lines().last().unwrap_or("e2fsck says nothing")
        );
    }
    run("mount", &["-t", "ext4", "-o", "nosuid,nodev,noexec,noatime", &device, DATA])
        .with_context(|| format!("mount the data disk {device}"))?;
    // Does nothing where the disk hasn't grown.
    run("resize2fs", &[&device]).with_context(|| format!("grow the file system of {device} into its disk"))
}

/// Whether something is mounted there.
pub(crate) fn is_mounted(place: &str) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read what is mounted")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(place)))
}

/// What counts from now on: what was said over what was kept. It is kept before it is used.
fn settings(data: &Path, said: Settings) -> Result<Settings> {
    let home = data.join("appliance");
    directory(&home, 0o700)?;
    let path = home.join("settings.json");
    let before = kept(data)?;
    let settings = said.over(before);
    settings.check()?;
    let kept = Kept { version: SETTINGS_VERSION, settings: settings.clone() };
    write(&path, &serde_json::to_vec_pretty(&kept)?, 0o600)?;
    Ok(settings)
}

/// What was kept on the data disk; nothing at its first boot.
pub(crate) fn kept(data: &Path) -> Result<Settings> {
    let path = data.join("appliance/settings.json");
    let Some(kept) = live::read::<Kept>(&path)? else { return Ok(Settings::default()) };
    ensure!(
        kept.version <= SETTINGS_VERSION,
        "{} is of version {}, which a newer appliance wrote: start that one",
        path.display(),
        kept.version
    );
    Ok(kept.settings)
}

/// Puts the token where a gateway finds its own, if it has none yet; whether it has one now.
fn administrators_token(state: &Path, token: Option<&Hidden>) -> Result<bool> {
    let path = state.join("admin.token");
    if path.exists() {
        return Ok(true);
    }
    let Some(token) = token else { return Ok(false) };
    write(&path, format!("{}\n", token.expose()).as_bytes(), 0o600)?;
    chown(&path, Some(GATEWAY_USER), Some(GATEWAY_USER)).context("give the administrator's token to the gateway")?;
    Ok(true)
}

/// Leaves for the gateway what it registers with; what a person should know of it. What the gateway has done already it does not do again,
/// so the same is left at every boot at which it is said.
fn registration(state: &Path, said: &Registration) -> Result<Option<String>> {
    let vault_key = match (&said.vault_key, &said.vault_passphrase) {
        (Some(text), _) => {
            let path = state.join("vault.key");
            let bytes = STANDARD.decode(text.expose()).context("read the property vault_key")?;
            private(&path, &bytes)?;
            Some(json!({ "key_source": "key_file", "key_file": path }))
        }
        (None, Some(passphrase)) => Some(json!({ "key_source": "passphrase", "passphrase": passphrase.expose() })),
        (None, None) => None,
    };
    let Some(key) = &said.key else { return Ok(None) };
    if said.endpoints.is_empty() {
        return Ok(Some(
            "a registration key was given without `endpoint`, the address of a gateway that has the vault: it isn't used".to_owned(),
        ));
    }
    let mut left = json!({ "version": 1, "endpoints": said.endpoints, "key": key.expose() });
    if let Some(vault_key) = vault_key {
        left["vault_key"] = vault_key;
    }
    if !said.storage_credentials.is_empty() {
        let credentials = said.storage_credentials.iter().map(|(name, value)| (name.clone(), value.expose().into()));
        left["storage_credentials"] = Value::Object(credentials.collect());
    }
    private(&state.join(LEFT), left.to_string().as_bytes())?;
    // What became of it is the gateway's to say, from its first start on.
    let new = !state.join("registration.json").exists();
    Ok(new.then(|| format!("this gateway registers by key at {}", said.endpoints.join(", "))))
}

/// A file for the gateway alone.
fn private(path: &Path, content: &[u8]) -> Result<()> {
    write(path, content, 0o600)?;
    let owner = fs::metadata(path.parent().unwrap_or(path)).context("look at the state directory")?;
    chown(path, Some(owner.uid()), Some(owner.gid())).with_context(|| format!("give {} to the gateway", path.display()))
}

fn apply(plan: &Plan, root: &Path) -> Result<()> {
    write_files(plan, root)?;
    if root == Path::new("/") {
        rustix::system::sethostname(plan.name.as_bytes()).context("set the host name")?;
        // The mount's place is in the image; who may mount there is decided here.
        chown(MOUNT, Some(GATEWAY_USER), Some(GATEWAY_USER)).ok();
    }
    Ok(())
}

pub(crate) fn write_files(plan: &Plan, root: &Path) -> Result<()> {
    for file in &plan.files {
        let path = root.join(file.path.strip_prefix("/").unwrap_or(&file.path));
        directory(path.parent().unwrap_or(root), 0o755)?;
        write(&path, file.content.as_bytes(), 0o644)?;
    }
    Ok(())
}

pub(crate) fn hardware() -> Hardware {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut interfaces: Vec<(u64, String)> = names("/sys/class/net")
        .unwrap_or_default()
        .into_iter()
        .filter(|name| text(&format!("/sys/class/net/{name}/type")) == "1")
        .filter(|name| Path::new(&format!("/sys/class/net/{name}/device")).exists())
        .map(|name| (number(Path::new(&format!("/sys/class/net/{name}/ifindex"))).unwrap_or(u64::MAX), name))
        .collect();
    interfaces.sort();
    let mac = interfaces.first().map(|(_, name)| text(&format!("/sys/class/net/{name}/address")));
    Hardware { identifier: text("/sys/class/dmi/id/product_uuid"), mac: mac.filter(|mac| !mac.is_empty()) }
}

fn names(directory: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {directory}"))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn number(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} has no number", path.display()))
}

pub(crate) fn directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("protect {}", path.display()))
}

/// Written beside and renamed: it is there whole, or as it was.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let draft = path.with_extension("draft");
    let written = (|| {
        fs::remove_file(&draft)
            .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&draft)?;
        // Whatever this process's mask is: others read some of them.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    })();
    written.with_context(|| format!("write {}", path.display()))
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let ended = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', " ");
        bail!("{program} ended with {}: {said}", ended.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept_and_what_is_said_later_comes_before_them() {
        let dir = tempfile::tempdir().unwrap();
        let site = |name: &str| Settings { site: Some(name.to_owned()), ..Settings::default() };
        let named = Settings { name: Some("gw".into()), ..Settings::default() };
        assert_eq!(settings(dir.path(), named.clone()).unwrap(), named);
        let both = settings(dir.path(), site("a")).unwrap();
        assert_eq!((both.name.as_deref(), both.site.as_deref()), (Some("gw"), Some("a")));
        assert_eq!(settings(dir.path(), Settings::default()).unwrap(), both);
        let path = dir.path().join("appliance/settings.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, r#"{"version": 2, "settings": {}}"#).unwrap();
        assert!(settings(dir.path(), Settings::default()).unwrap_err().to_string().contains("newer appliance"));
        fs::write(&path, "{").unwrap();
        assert!(settings(dir.path(), Settings::default()).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn what_the_gateway_registers_with_is_left_for_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut properties = Properties::default();
        let mut set = |key: &str, value: &str| properties.set(key, value).unwrap();
        assert_eq!(registration(dir.path(), &Registration::default()).unwrap(), None);
        set("registration_key", "lbr_secret");
        set("storage_credentials", "AWS_ACCESS_KEY_ID=AK,AWS_SECRET_ACCESS_KEY=SK");
        set("vault_key", &STANDARD.encode([7; 32]));
        let said = registration(dir.path(), &properties.registration).unwrap().unwrap();
        assert!(said.contains("without `endpoint`") && !dir.path().join(LEFT).exists(), "{said}");
        let mut set = |key: &str, value: &str| properties.set(key, value).unwrap();
        set("endpoint", "gw-a,gw-b:8443");
        let said = registration(dir.path(), &properties.registration).unwrap().unwrap();
        assert!(said.contains("https://gw-a, https://gw-b:8443") && !said.contains("secret"), "{said}");
        let left: Value = serde_json::from_slice(&fs::read(dir.path().join(LEFT)).unwrap()).unwrap();
        let key = dir.path().join("vault.key");
        assert_eq!(
            left,
            json!({
                "version": 1, "endpoints": ["https://gw-a", "https://gw-b:8443"], "key": "lbr_secret",
                "vault_key": {"key_source": "key_file", "key_file": key},
                "storage_credentials": {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"},
            })
        );
        assert_eq!(fs::read(&key).unwrap(), [7; 32]);
        for path in [key, dir.path().join(LEFT)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(dir.path().join("registration.json"), "{}").unwrap();
        assert_eq!(registration(dir.path(), &properties.registration).unwrap(), None, "said once");
    }

    #[test]
    fn a_medium_may_have_either_kind_of_documents_or_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(medium(dir.path()).unwrap(), Properties::default());
        fs::write(dir.path().join("user-data"), "#cloud-config\nlifeboat:\n  site: b\n").unwrap();
        fs::write(dir.path().join("meta-data"), "local-hostname: gw\n").unwrap();
        assert_eq!(medium(dir.path()).unwrap().settings.name.as_deref(), Some("gw"));
        let environment = r#"<Environment><PropertySection><Property key="lifeboat.site" value="a"/></PropertySection></Environment>"#;
        fs::write(dir.path().join("ovf-env.xml"), environment).unwrap();
        assert_eq!(medium(dir.path()).unwrap().settings.site.as_deref(), Some("a"), "the OVF environment comes first");
        fs::write(dir.path().join("meta-data"), vec![b'#'; 2 << 20]).unwrap();
        assert!(format!("{:#}", medium(dir.path()).unwrap_err()).contains("larger than"));
    }

    #[test]
    fn what_a_disk_holds_is_told_by_its_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(BYTES_MIN).unwrap();
        assert_eq!(holds(&path, BYTES_MIN).unwrap(), Holds::Nothing);
        use std::os::unix::fs::FileExt;
        file.write_all_at(b"x", BYTES_MIN - 1).unwrap();
        assert_eq!(holds(&path, BYTES_MIN).unwrap(), Holds::Something, "a table's second copy");
        file.write_all_at(&[0], BYTES_MIN - 1).unwrap();
        file.write_all_at(b"LABELONE", 512).unwrap();
        assert_eq!(holds(&path, BYTES_MIN).unwrap(), Holds::Something);
        assert!(holds(&path, 1 << 40).is_err(), "it is shorter than it says");
    }

    #[test]
    fn files_are_written_whole_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = plan(&Settings::default(), &Hardware::default());
        for _ in 0..2 {
            apply(&wanted, dir.path()).unwrap();
        }
        let text = fs::read_to_string(dir.path().join("run/lifeboat-settings/gateway.toml")).unwrap();
        assert!(text.contains("state = \"/data/gateway\""), "{text}");
        assert!(!administrators_token(dir.path(), None).unwrap());
    }
}
