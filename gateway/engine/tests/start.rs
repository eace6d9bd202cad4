//! A group that can't be opened, and is tried again: nothing of an attempt may stay at work on its files.

#![cfg(test)]

mod lab;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, until, volume};
use lifeboat_engine::disk::{Disk, DiskFile, Io};
use lifeboat_engine::machine::{Host, Machine};
use lifeboat_engine::{Group, GroupConfig};

/// This machine, with journals that nothing can be committed to while that is wanted.
#[derive(Debug, Default)]
struct Failing {
    journal: Arc<AtomicBool>,
}

impl Machine for Failing {
    fn open(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        let inner = Host.open(dir)?;
        Ok(Arc::new(FailingDisk { inner, journal: Arc::clone(&self.journal) }))
    }

    fn has(&self, dir: &Path) -> bool {
        Host.has(dir)
    }

    fn holds(&self, dir: &Path, name: &str) -> bool {
        Host.holds(dir, name)
    }

    fn remove(&self, dir: &Path) -> io::Result<()> {
        Host.remove(dir)
    }
}

#[derive(Debug)]
struct FailingDisk {
    inner: Arc<dyn Disk>,
    journal: Arc<AtomicBool>,
}

impl Disk for FailingDisk {
    fn open(&self, name: &str, create: bool, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(name, create, io)?;
        if !name.starts_with("journal-") {
            return Ok(inner);
        }
        Ok(Arc::new(FailingFile { inner, journal: Arc::clone(&self.journal) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.inner.sync_names()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

#[derive(Debug)]
struct FailingFile {
    inner: Arc<dyn DiskFile>,
    journal: Arc<AtomicBool>,
}

impl DiskFile for FailingFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        // Opening it goes well, so that everything is at work when it fails.
        let commits = std::thread::current().name() == Some("journal-commit");
        if commits && self.journal.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(data, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
}

/// Threads of this process that work on a group's files.
fn at_work() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("lists").flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("journal-") || name == "destage").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_to_open_a_group_that_fails_leaves_nothing_at_work() {
    let lab = Lab::new().await;
    let machine = Arc::new(Failing::default());
    let config = || GroupConfig { machine: Arc::<Failing>::clone(&machine), ..lab.config(lab.primary) };
    let group = Group::create(config(), lab.specs()).await.expect("creates");
    volume(&group, &lab).write(0, Bytes::from(vec![7; 4096])).await.expect("writes");
    volume(&group, &lab).flush().await.expect("flushes");
    assert!(!at_work().is_empty());
    group.close(Duration::ZERO).await;
    drop(group);
    assert_eq!(at_work(), Vec::<String>::new());

    machine.journal.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        Group::open(config()).await.expect_err("nothing can be written to the journal");
        until("an attempt's threads to end", || at_work().is_empty()).await;
    }
    machine.journal.store(false, Ordering::SeqCst);
    let group = Group::open(config()).await.expect("opens");
    let found = volume(&group, &lab).read(0, 4096).await.expect("reads");
    assert!(found.iter().all(|byte| *byte == 7));

    // One that is only forgotten ends as well.
    drop(group);
    until("the threads of a forgotten group to end", || at_work().is_empty()).await;
}
