//! Plain files with recorded hashes: what a copy of the disk must hold besides the database.
//!
//! Owns their making and the list of their SHA-256 sums, which is kept outside of the disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::Run;

/// The hashes of a directory of files, as `sha256sum` prints them.
#[derive(Debug, Clone)]
pub struct Documents {
    manifest: String,
    count: usize,
}

impl Documents {
    /// Writes `count` files of random content (up to 96 KiB each) into `dir`, replacing those of the same number, flushes
    /// them, and records the hashes of everything in `dir`.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write(dir: &Path, count: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut random = File::open("/dev/urandom").context("open the random source")?;
        for number in 0..count {
            let path = dir.join(format!("document-{number:04}"));
            let mut content = vec![0; 1 + (number * 7919) % (96 << 10)];
            random.read_exact(&mut content).context("read the random source")?;
            std::fs::write(&path, &content).with_context(|| format!("write {}", path.display()))?;
            File::open(&path).and_then(|file| file.sync_all()).with_context(|| format!("flush {}", path.display()))?;
        }
        File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("flush {}", dir.display()))?;
        Self::record(dir)
    }

    /// Records the hashes of everything in `dir`.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn record(dir: &Path) -> Result<Self> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
            names.push(entry.with_context(|| format!("list {}", dir.display()))?.file_name());
        }
        names.sort();
        let count = names.len();
        let manifest = Run::new("sha256sum").arg("--").args(names).dir(dir).ok()?;
        Ok(Self { manifest, count })
    }

    /// Fails unless every recorded file is in `dir` with the content that it had.
    ///
    /// # Errors
    /// Names the first files that differ or are missing.
    pub fn verify(&self, dir: &Path) -> Result<usize> {
        Run::new("sha256sum")
            .args(["--check", "--quiet", "--strict"])
            .dir(dir)
            .input(self.manifest.clone())
            .within(Duration::from_secs(120))
            .ok()
            .with_context(|| format!("documents in {}", dir.display()))?;
        Ok(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_and_a_missing_file_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let documents = Documents::write(dir.path(), 5).unwrap();
        assert_eq!(documents.verify(dir.path()).unwrap(), 5);
        std::fs::write(dir.path().join("document-0003"), "else").unwrap();
        assert!(documents.verify(dir.path()).is_err());
        let documents = Documents::record(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("document-0001")).unwrap();
        assert!(documents.verify(dir.path()).is_err());
    }
}
