//! The gateway's state directory: its lock, its identity, its secrets, the vaults that it is attached to.
//!
//! ```text
//! STATE/lock                 held while the process runs; names its process id
//! STATE/process.id           identity of this gateway's state, made once
//! STATE/ca.pem ca.key        the authority that signs the server's certificate, made once
//! STATE/admin.token          256 random bits, mode 0600, made once
//! STATE/vaults.json          attached vaults with their keys and credentials, mode 0600
//! STATE/register.json        a registration that was left for the next start, mode 0600
//! STATE/registration.json    how far the registration by key is, mode 0600
//! STATE/registering.pem      the key pair of a registration that wasn't answered yet, mode 0600
//! STATE/notices.json         notices that were not sent yet, mode 0600
//! STATE/local.key            where the gateway's files are encrypted: the key, wrapped
//! STATE/management.address   where the API answers, while it does
//! STATE/nbd.sock             where volumes are served over NBD, mode 0600
//! STATE/groups/GROUP/…       the engine's local state of each group
//! ```
//! Files are written under a temporary name, synced and renamed: after a crash each is there whole, or isn't. With a local key
//! ca.key, vaults.json, registration.json and notices.json are encrypted, and so is everything in groups/ and streams/. It refuses a directory that another process
//! has locked.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use lifeboat_api::{EncryptionKey, EncryptionView, KeySourceKind, Secret};
use lifeboat_engine::at_rest::{Encrypted, LocalKey, is_sealed_text, open_text, seal_text, system_salts};
use lifeboat_engine::machine::Machine;
use lifeboat_model::{GroupId, VaultId};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::registration::KEPT;

/// A state directory that this process holds.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    process_id: String,
    /// Held while the list of attached vaults is changed.
    attaching: Mutex<()>,
    /// What its files are encrypted with.
    key: Option<LocalKey>,
    /// Keeps the lock; the kernel gives it back when the process ends, however it ends.
    lock: File,
}

/// A vault as this gateway reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id.
    pub id: VaultId,
    /// Its name, for messages while it can't be reached.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Address of the storage service.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[serde(default)]
    pub region: Option<String>,
    /// Credentials that were given; those of the environment otherwise.
    #[serde(default)]
    pub credentials: Option<BTreeMap<String, Secret>>,
    /// The proxy that was given; that of the environment otherwise.
    #[serde(default)]
    pub proxy: Option<Secret>,
    /// What opens it.
    pub key_source: KeySourceKind,
    /// With `passphrase`.
    pub passphrase: Option<Secret>,
    /// With `key_file`.
    pub key_file: Option<String>,
    /// With `kms`.
    #[serde(default)]
    pub kms_key: Option<String>,
}

impl Attachment {
    /// What opens it, as it was sent.
    #[must_use]
    pub fn key(&self) -> EncryptionKey {
        EncryptionKey {
            key_source: self.key_source,
            passphrase: self.passphrase.clone(),
            key_file: self.key_file.clone(),
            kms_key: self.kms_key.clone(),
        }
    }

    /// Another key opens it from now on.
    pub fn set_key(&mut self, key: &EncryptionKey) {
        self.key_source = key.key_source;
        self.passphrase.clone_from(&key.passphrase);
        self.key_file.clone_from(&key.key_file);
        self.kms_key.clone_from(&key.kms_key);
    }

    /// What may be shown of it.
    #[must_use]
    pub fn view(&self) -> EncryptionView {
        EncryptionView { key_source: self.key_source, key_file: self.key_file.clone(), kms_key: self.kms_key.clone() }
    }
}

/// Free space without which a first start is refused: certificates, and the smallest journal with its spare file.
const FIRST_START_BYTES: u64 = 16 << 20;
/// Files that are encrypted where there is a local key. (The administrator's token is for people on this machine to read.)
const SECRETS: [&str; 4] = ["ca.key", "vaults.json", KEPT, crate::notices::FILE];

fn in_use(path: &Path, lock: &mut fs::File) -> anyhow::Error {
    let mut holder = String::new();
    // Who holds it is a courtesy: that it is held is what counts.
    let _ = lock.read_to_string(&mut holder);
    anyhow::anyhow!(
        "the state directory {} is in use by another gateway (process {}): stop that one, or give this one a --state of its own",
        path.display(),
        holder.trim()
    )
}

impl StateDir {
    /// Takes the directory, making it when only its last component is missing.
    ///
    /// # Errors
    /// One sentence: it can't be made, isn't writable, or another process holds it.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        Self::refuse_unusable(path)?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => bail!("the state directory {} can't be made: {error}", path.display()),
        }
        let path =
            fs::canonicalize(path).with_context(|| format!("the state directory {} can't be used", path.display()))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| anyhow::anyhow!("the state directory {} can't be written: {error}", path.display()))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(in_use(&path, &mut lock));
        }
        // Over what a former process left, whose space it has: the disk may have no other, and what is served here must be served.
        let holder = format!("{}\n", std::process::id());
        lock.write_all_at(holder.as_bytes(), 0)
            .and_then(|()| lock.set_len(holder.len() as u64))
            .map_err(|error| anyhow::anyhow!("the state directory {} can't be written: {error}", path.display()))?;
        let mut state = Self { path, process_id: String::new(), attaching: Mutex::new(()), key: None, lock };
        state.process_id = state.text_or_make("process.id", || Ok(uuid::Uuid::new_v4().to_string()))?;
        Ok(state)
    }

    /// Refuses, without changing anything, a directory that another gateway holds and a first start on a full disk. (A
    /// gateway that has worked there before starts: what it holds must be served, and its journal has its space.)
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn refuse_unusable(path: &Path) -> anyhow::Result<()> {
        if let Ok(mut lock) = fs::File::open(path.join("lock"))
            && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
        {
            return Err(in_use(path, &mut lock));
        }
        let known = path.join("process.id").exists();
        let disk = if path.exists() { path } else { path.parent().unwrap_or(path) };
        let free = rustix::fs::statvfs(disk).map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize));
        if !known && free < FIRST_START_BYTES {
            bail!(
                "the disk of the state directory {} has {} KiB free, and a gateway needs {} MiB of space to begin: free some, or choose \
                 another --state",
                path.display(),
                free >> 10,
                FIRST_START_BYTES >> 20
            );
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of this gateway's state.
    #[must_use]
    pub fn process_id(&self) -> &str {
        &self.process_id
    }

    /// Where the engine keeps what belongs to a group, one directory for each instance.
    #[must_use]
    pub fn group(&self, group: GroupId) -> PathBuf {
        self.path.join("groups").join(group.to_string())
    }

    /// Groups that have local state here.
    pub fn groups(&self) -> Vec<GroupId> {
        let Ok(entries) = fs::read_dir(self.path.join("groups")) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect()
    }

    /// From now on what is secret is encrypted with a key; what is there in clear is so at once.
    ///
    /// # Errors
    /// A file can't be read or written, or was encrypted with another key.
    pub fn use_key(&mut self, key: Option<LocalKey>) -> anyhow::Result<()> {
        self.key = key;
        if self.key.is_none() {
            return Ok(());
        }
        for name in SECRETS {
            if let Some(text) = self.read_secret(name)?
                && !is_sealed_text(&fs::read(self.path.join(name)).unwrap_or_default())
            {
                self.write_secret(name, &text)?;
            }
        }
        Ok(())
    }

    /// The machine that groups live on: their files are encrypted where there is a local key.
    #[must_use]
    pub fn machine(&self) -> Arc<dyn Machine> {
        Encrypted::host(self.key.clone())
    }

    /// Whether its files are encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    /// The text of a file; made by `make` and kept, mode 0600, when there is none.
    ///
    /// # Errors
    /// It can't be read, or can't be written.
    pub fn text_or_make(&self, name: &str, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
        let path = self.path.join(name);
        let text = match self.read_secret(name)? {
            Some(text) => text,
            None => {
                let text = make()?;
                self.write_secret(name, text.as_bytes())?;
                return Ok(text);
            }
        };
        let text = std::str::from_utf8(&text).with_context(|| format!("{} is no text", path.display()))?;
        if text.trim().is_empty() {
            bail!("{} is empty: restore it, or remove it to have a new one made", path.display());
        }
        Ok(text.trim_end().to_owned())
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// The disk is full, or can't be written.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        replace(&self.path, name, content, mode)
    }

    /// Writes an address down for whoever asks for it on this machine. It is a courtesy: on a full disk the gateway does without.
    pub(crate) fn note_address(&self, name: &str, address: SocketAddr) {
        let text = address.to_string();
        if fs::read_to_string(self.path.join(name)).is_ok_and(|known| known.trim_end() == text) {
            return;
        }
        if let Err(error) = self.write(name, text.as_bytes(), 0o644) {
            // The one of an earlier start would lead astray.
            self.remove(name);
            tracing::warn!(%address, error = format!("{error:#}"), "where the gateway answers isn't written down: name it by --endpoint");
        }
    }

    /// A file, decrypted if it is encrypted.
    pub(crate) fn secret(&self, name: &str) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        self.read_secret(name)
    }

    fn read_secret(&self, name: &str) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("{} can't be read: {error}", path.display()),
        };
        if !is_sealed_text(&bytes) {
            return Ok(Some(bytes));
        }
        let Some(key) = &self.key else {
            bail!("{} is encrypted, and local.key isn't there to open it: restore it", path.display())
        };
        // A line feed ends every file here.
        let sealed = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        open_text(key, name, sealed).map(Some).with_context(|| format!("{} can't be decrypted", path.display()))
    }

    /// Replaces a file of secrets, mode 0600; encrypted where there is a local key.
    pub(crate) fn write_secret(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        match &self.key {
            Some(key) if SECRETS.contains(&name) => {
                let salt = system_salts()().context("encrypting a file")?;
                let sealed = seal_text(key, name, salt, content).context("encrypting a file")?;
                self.write(name, &sealed, 0o600)
            }
            _ => self.write(name, content, 0o600),
        }
    }

    /// Gives the lock back: the gateway has stopped, also if a request that it broke off still holds the context.
    pub(crate) fn unlock(&self) {
        if let Err(error) = rustix::fs::flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of the state directory can't be given back before the process ends");
        }
    }

    /// Removes a file that may be there.
    pub fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.path.join(name))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "file in the state directory can't be removed");
        }
    }

    /// The vaults that this gateway is attached to.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn attachments(&self) -> anyhow::Result<Vec<Attachment>> {
        let path = self.path.join("vaults.json");
        let Some(text) = self.read_secret("vaults.json")? else { return Ok(Vec::new()) };
        serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged: remove it and attach the vaults again (`lifeboat vault open`)", path.display())
        })
    }

    /// Changes which vaults this gateway remembers that it is attached to. One change at a time: two requests may attach
    /// two vaults at once, and neither may forget the other's.
    ///
    /// # Errors
    /// The file is damaged, the disk is full or can't be written; nothing has changed then.
    pub fn change_attachments(&self, change: impl FnOnce(&mut Vec<Attachment>)) -> anyhow::Result<()> {
        let _alone = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attachments = self.attachments()?;
        change(&mut attachments);
        let text = serde_json::to_vec_pretty(&attachments).context("writing down the attached vaults")?;
        self.write_secret("vaults.json", &text)
    }

    /// Bytes free on its file system.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Bytes in all on its file system.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(0, |space| space.f_blocks.saturating_mul(space.f_frsize))
    }
}

/// Replaces a file of a directory: after a crash it is the old one or the new one. A line feed ends it.
///
/// # Errors
/// The disk is full, or can't be written.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.new"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|error: std::io::Error| {
        let _ = fs::remove_file(&temporary);
        anyhow::anyhow!("{} can't be written: {error}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_and_nothing_is_changed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let state = StateDir::take(directory.path()).expect("free");
        let id = state.process_id().to_owned();
        let error = StateDir::take(directory.path()).expect_err("held").to_string();
        assert!(
            error.contains("in use by another gateway") && error.contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(state);
        assert_eq!(StateDir::take(directory.path()).expect("free again").process_id(), id);
    }

    #[test]
    fn the_holder_is_known_by_its_own_number_alone() {
        let directory = tempfile::tempdir().expect("tempdir");
        drop(StateDir::take(directory.path()).expect("free"));
        let lock = directory.path().join("lock");
        fs::write(&lock, "4194304 and more that a former process wrote\n").expect("written");
        let _state = StateDir::take(directory.path()).expect("free");
        assert_eq!(fs::read_to_string(&lock).expect("text"), format!("{}\n", std::process::id()));
    }

    #[test]
    fn an_address_that_is_known_is_not_written_again() {
        let directory = tempfile::tempdir().expect("tempdir");
        let state = StateDir::take(directory.path()).expect("free");
        let address = "127.0.0.1:8443".parse().expect("an address");
        state.note_address("management.address", address);
        let path = directory.path().join("management.address");
        let written = fs::metadata(&path).and_then(|found| found.modified()).expect("a time");
        state.note_address("management.address", address);
        assert_eq!(fs::metadata(&path).and_then(|found| found.modified()).expect("a time"), written);
        state.note_address("management.address", "127.0.0.1:9443".parse().expect("an address"));
        assert_eq!(fs::read_to_string(&path).expect("text").trim_end(), "127.0.0.1:9443");
    }

    #[test]
    fn secrets_are_readable_by_their_owner_only() {
        let directory = tempfile::tempdir().expect("tempdir");
        let state = StateDir::take(directory.path()).expect("free");
        state.change_attachments(|_| {}).expect("written");
        for name in ["vaults.json", "process.id"] {
            let mode = fs::metadata(directory.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn vaults_that_are_attached_at_the_same_time_are_all_remembered() {
        let directory = tempfile::tempdir().expect("tempdir");
        let state = StateDir::take(directory.path()).expect("free");
        let attachment = |number: u8| Attachment {
            id: VaultId::from_bytes([number; 16]),
            name: format!("vault-{number}"),
            url: format!("file:///srv/{number}"),
            endpoint: None,
            region: None,
            credentials: None,
            proxy: None,
            key_source: KeySourceKind::KeyFile,
            passphrase: None,
            key_file: Some("/etc/vault.key".to_owned()),
            kms_key: None,
        };
        std::thread::scope(|threads| {
            for number in 1..=8 {
                let (state, attachment) = (&state, attachment(number));
                threads.spawn(move || state.change_attachments(|all| all.push(attachment)).expect("written"));
            }
        });
        let mut ids: Vec<VaultId> = state.attachments().expect("read").into_iter().map(|one| one.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=8).map(|number| VaultId::from_bytes([number; 16])).collect::<Vec<_>>());
    }

    #[test]
    fn secrets_are_encrypted_from_the_first_start_with_a_key_on() {
        let directory = tempfile::tempdir().expect("tempdir");
        let on_disk = |name: &str| fs::read(directory.path().join(name)).expect("there");
        let shows = |name: &str| on_disk(name).windows(6).any(|window| window == b"secret");
        let key = |byte: u8| Some(LocalKey::from_bytes([byte; 32]));
        let mut state = StateDir::take(directory.path()).expect("free");
        state.text_or_make("ca.key", || Ok("secret authority".to_owned())).expect("made");
        state.write("vaults.json", b"[]", 0o600).expect("written");
        assert!(shows("ca.key"));
        state.use_key(key(1)).expect("encrypted");
        assert!(!shows("ca.key") && is_sealed_text(&on_disk("vaults.json")));
        let text = state.text_or_make("ca.key", || unreachable!("it is there"));
        assert_eq!(text.expect("decrypted"), "secret authority");
        assert_eq!(state.attachments().expect("decrypted"), Vec::new());
        state.change_attachments(|_| {}).expect("written");
        assert!(is_sealed_text(&on_disk("vaults.json")));
        drop(state);

        let mut state = StateDir::take(directory.path()).expect("free");
        assert!(state.attachments().expect_err("no key").to_string().contains("is encrypted"));
        assert!(format!("{:#}", state.use_key(key(2)).expect_err("another key")).contains("can't be decrypted"));
        state.use_key(key(1)).expect("the key");
        assert_eq!(state.attachments().expect("decrypted"), Vec::new());
    }

    #[test]
    fn a_missing_parent_is_an_error_that_names_the_directory() {
        let error = StateDir::take(Path::new("/nonexistent/deep/state")).expect_err("no parent").to_string();
        assert!(error.contains("/nonexistent/deep/state"), "{error}");
    }
}
