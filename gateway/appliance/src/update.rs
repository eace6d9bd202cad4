//! An update for the slot that isn't in use: what it says of itself, whether it is to be trusted, and GRUB's block of variables.
//!
//! ```text
//! CD, label LIFEBOAT-UPD:  manifest.json   version, size and SHA-256 of each other file
//!                          manifest.sig    Ed25519 over manifest.json, where the build had a key
//!                          root  vmlinuz  initrd  slot.cfg
//! ```
//! An image knows the key that its successors are signed with, if its build was given one. What carries no signature by it is taken only
//! by somebody who names the manifest's SHA-256, which the build printed. Everything else follows from the manifest: no file that isn't in
//! it is read, and none counts unless its bytes have the sum that stands there.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// The label of the CD.
pub const LABEL: &str = "LIFEBOAT-UPD";
/// Longest manifest.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;
/// The version of the manifest that this appliance knows.
const FORMAT: u32 = 1;
/// The files of a slot: its root goes into the slot's partition, the others into its directory on the boot partition.
pub const ROOT: &str = "root";
/// See [`ROOT`].
pub const BOOT_FILES: [&str; 3] = ["vmlinuz", "initrd", "slot.cfg"];
/// Bytes of GRUB's block of variables, and how it begins.
pub const BLOCK_BYTES: usize = 1024;
const BLOCK_HEAD: &str = "# GRUB Environment Block\n";

/// What an update says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this document.
    pub format: u32,
    /// Version of the appliance.
    pub version: String,
    /// Files, by name.
    pub files: BTreeMap<String, Content>,
}

/// A file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Why an update is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By the key in the image.
    Signature,
    /// Somebody named the manifest's sum.
    Sum,
}

/// Reads a manifest that may be trusted.
///
/// # Errors
/// One sentence: it isn't trusted, isn't understood, or isn't whole.
pub fn manifest(
    bytes: &[u8],
    signature: Option<&[u8]>,
    key: Option<&[u8]>,
    named: Option<&str>,
) -> Result<(Manifest, Trust), String> {
    let sum = sha256(bytes);
    let trust = match (named, key, signature) {
        (Some(named), ..) if named.trim().eq_ignore_ascii_case(&sum) => Trust::Sum,
        (Some(_), ..) => {
            return Err(format!(
                "its manifest has the SHA-256 {sum}, and not the one that was named: it is another update"
            ));
        }
        (None, Some(key), Some(signature)) => {
            UnparsedPublicKey::new(&ED25519, key).verify(bytes, signature).map(|()| Trust::Signature).map_err(|_| {
                "its signature isn't that of the key in this image: it is not from who built this one".to_owned()
            })?
        }
        (None, key, _) => {
            let lacks = if key.is_none() { "this image has no key for updates" } else { "the update isn't signed" };
            return Err(format!(
                "{lacks}: compare the SHA-256 of its manifest with what its build printed, then run in a shell: lifeboat \
                 appliance update --sha256 {sum}"
            ));
        }
    };
    let read: Manifest =
        serde_json::from_slice(bytes).map_err(|error| format!("its manifest isn't understood: {error}"))?;
    if read.format != FORMAT {
        return Err(format!(
            "its manifest is of format {}, and this appliance knows {FORMAT}: update to a version between",
            read.format
        ));
    }
    let lacking = BOOT_FILES.iter().chain([&ROOT]).find(|name| !read.files.contains_key(**name));
    match lacking {
        Some(name) => Err(format!("its manifest names no {name}")),
        None if read.version.is_empty() || read.version.chars().any(|c| c.is_control() || c == ' ') => {
            Err("its manifest names no version".to_owned())
        }
        None => Ok((read, trust)),
    }
}

/// The key of a file of hexadecimal digits.
#[must_use]
pub fn key(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim();
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (digits.len() == 64).then(|| (0..64).step_by(2).map(byte).collect()).flatten()
}

/// SHA-256, hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The other one of two slots.
///
/// # Errors
/// It isn't one of them: this runs from no slot.
pub fn other(slot: &str) -> Result<&'static str, String> {
    match slot {
        "a" => Ok("b"),
        "b" => Ok("a"),
        _ => Err("this system runs from no slot: only an appliance's image can be updated".to_owned()),
    }
}

/// GRUB's variables: which slot is in use, which is on trial, and whether that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The one that is started.
    pub slot: String,
    /// The one that is started once.
    pub trial: Option<String>,
    /// Whether it was.
    pub tried: bool,
}

/// What a start says of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// There is none, or it wasn't started yet.
    None,
    /// This is it.
    Running,
    /// It was started, and another slot runs now.
    Failed,
}

impl Slots {
    /// Reads the block.
    ///
    /// # Errors
    /// It isn't one.
    pub fn read(block: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(block).ok().and_then(|text| text.strip_prefix(BLOCK_HEAD));
        let text =
            text.filter(|_| block.len() == BLOCK_BYTES).ok_or("the boot loader's variables aren't understood")?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(line.to_owned()).filter(|value| !value.is_empty())
        };
        let slot = value("slot").ok_or("the boot loader's variables name no slot")?;
        Ok(Self { slot, trial: value("trial"), tried: value("tried").as_deref() == Some("yes") })
    }

    /// The block. All variables are within its first sector: it is written whole or not at all.
    #[must_use]
    pub fn block(&self) -> Vec<u8> {
        let mut text = format!("{BLOCK_HEAD}slot={}\n", self.slot);
        if let Some(trial) = &self.trial {
            text.push_str(&format!("trial={trial}\ntried={}\n", if self.tried { "yes" } else { "no" }));
        }
        let mut block = text.into_bytes();
        block.resize(BLOCK_BYTES, b'#');
        block
    }

    /// What is true of a trial while `running` runs.
    #[must_use]
    pub fn of_trial(&self, running: &str) -> Trial {
        match &self.trial {
            Some(trial) if trial == running => Trial::Running,
            Some(_) if self.tried => Trial::Failed,
            _ => Trial::None,
        }
    }

    /// With one slot, and nothing on trial.
    #[must_use]
    pub fn settled(slot: &str) -> Self {
        Self { slot: slot.to_owned(), trial: None, tried: false }
    }

    /// With the other one on trial at the next start.
    #[must_use]
    pub fn trying(slot: &str, trial: &str) -> Self {
        Self { slot: slot.to_owned(), trial: Some(trial.to_owned()), tried: false }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn sound() -> Vec<u8> {
        let content = Content { bytes: 1, sha256: sha256(b"x") };
        let names = BOOT_FILES.iter().chain([&ROOT]);
        let files = names.map(|name| ((*name).to_owned(), content.clone())).collect();
        serde_json::to_vec(&Manifest { format: FORMAT, version: "0.2.0".into(), files }).unwrap()
    }

    #[test]
    fn an_update_is_trusted_by_the_images_key_or_by_a_sum_that_somebody_named() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let (bytes, key) = (sound(), pair.public_key().as_ref());
        let signature = pair.sign(&bytes);
        let signature = Some(signature.as_ref());
        assert_eq!(manifest(&bytes, signature, Some(key), None).unwrap().1, Trust::Signature);
        assert_eq!(manifest(&bytes, None, None, Some(&sha256(&bytes))).unwrap().1, Trust::Sum);
        for (signature, key, named, part) in [
            (None, Some(key), None, "isn't signed"),
            (signature, None, None, "no key for updates"),
            (None, None, None, "--sha256 "),
            (signature, Some(&[9; 32][..]), None, "isn't that of the key"),
            (Some(&[0; 64][..]), Some(key), None, "isn't that of the key"),
            (signature, Some(key), Some("00"), "another update"),
        ] {
            let refused = manifest(&bytes, signature, key, named).expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
        let mut other = bytes.clone();
        other.push(b' ');
        assert!(manifest(&other, signature, Some(key), None).is_err());
    }

    #[test]
    fn a_manifest_that_lacks_something_is_refused() {
        for (from, to, part) in [
            ("\"format\":1", "\"format\":2", "format 2"),
            ("vmlinuz", "kernel", "no vmlinuz"),
            ("0.2.0", "", "no version"),
            ("0.2.0", "0.2\\u001b", "no version"),
            ("{", "", "isn't understood"),
        ] {
            let text = String::from_utf8(sound()).unwrap().replacen(from, to, 1);
            let refused = manifest(text.as_bytes(), None, None, Some(&sha256(text.as_bytes()))).expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_boot_loaders_block_is_read_as_grub_and_the_build_write_it() {
        let mut built = b"# GRUB Environment Block\nslot=a\n".to_vec();
        built.resize(BLOCK_BYTES, b'#');
        let slots = Slots::read(&built).unwrap();
        assert_eq!((slots.clone(), slots.block()), (Slots::settled("a"), built));
        let mut trying = Slots::trying("a", "b");
        assert_eq!(trying.block().len(), BLOCK_BYTES);
        assert_eq!(Slots::read(&trying.block()).unwrap(), trying);
        assert_eq!((trying.of_trial("a"), trying.of_trial("b")), (Trial::None, Trial::Running));
        trying.tried = true;
        assert_eq!(Slots::read(&trying.block()).unwrap().of_trial("a"), Trial::Failed);
        assert_eq!(slots.of_trial("a"), Trial::None);
        for broken in [&b"slot=a\n"[..], &[b'#'; BLOCK_BYTES], b"# GRUB Environment Block\nslot=a\n"] {
            assert!(Slots::read(broken).is_err());
        }
        assert_eq!((other("a"), other("b")), (Ok("b"), Ok("a")));
        assert!(other("none").is_err());
        assert_eq!(key(&format!("{}\n", "07".repeat(32))), Some(vec![7; 32]));
        assert_eq!(key("07"), None);
    }
}
