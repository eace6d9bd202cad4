//! Somebody encrypts the files of a file system, and honest people do what looks like it: the first is found within a few
//! points, and the point before it suggested; the others are left in peace.

mod lab;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use lab::Lab;
use lifeboat_engine::insight::{Suggestion, suggest};
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::{BlockVolume, Group, VolumeSpec};
use lifeboat_model::PointKind;

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;
const FILES: usize = 320;
const FILE_BYTES: usize = 128 << 10;

/// A protected volume, and what it holds.
struct Site {
    lab: Lab,
    group: Arc<Group>,
    volume: Arc<dyn BlockVolume>,
    model: Vec<u8>,
}

impl Site {
    async fn new(bytes: usize) -> Self {
        let lab = Lab::new().await;
        let spec = VolumeSpec { id: lab.volume, name: "disk".into(), size_bytes: bytes as u64, source: None };
        let mut config = lab.config(lab.primary);
        config.settings.journal_bytes = 512 << 20;
        let group = Group::create(config, vec![spec]).await.expect("creates the group");
        let volume = lab::volume(&group, &lab);
        Self { lab, group, volume, model: vec![0; bytes] }
    }

    /// Writes what differs from what the volume holds, and takes a point. With `discard`, what became zero is trimmed.
    async fn become_(&mut self, content: &[u8], discard: bool) -> PointInfo {
        let blocks = content.len() / BLOCK;
        let range = |block: usize| block * BLOCK..(block + 1) * BLOCK;
        let differs = |model: &[u8], block: usize| model[range(block)] != content[range(block)];
        let empty = |block: usize| content[range(block)].iter().all(|byte| *byte == 0);
        let mut block = 0;
        while block < blocks {
            if !differs(&self.model, block) {
                block += 1;
                continue;
            }
            let (first, trim) = (block, discard && empty(block));
            while block < blocks
                && block - first < 64
                && differs(&self.model, block)
                && (discard && empty(block)) == trim
            {
                block += 1;
            }
            let bytes = first * BLOCK..block * BLOCK;
            let (at, len) = (bytes.start as u64, bytes.len() as u64);
            if trim {
                self.volume.zero(at, len, true).await.expect("trims");
            } else {
                self.volume.write(at, Bytes::copy_from_slice(&content[bytes.clone()])).await.expect("writes");
            }
            self.model[bytes.clone()].copy_from_slice(&content[bytes]);
        }
        self.group.take_point(PointKind::Manual, "").await.expect("a point")
    }

    async fn suggestion(&self) -> Suggestion<PointInfo> {
        let (branch, ledger) = self.group.insight().expect("it is measured");
        let points = list_points(&self.lab.vault, self.lab.group, branch).await.expect("lists");
        suggest(&points, |point| point.time, &ledger)
    }

    /// Nothing is suspected, and the newest point is as good as any.
    async fn in_peace(&self, what: &str) {
        let found = self.suggestion().await;
        assert_eq!(found.suspicions, [], "{what}");
        assert_eq!(found.point.expect("a point").lsn, self.group.status().last_point.expect("one").lsn);
    }
}

/// Random bytes that a seed repeats.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text as people write it, about: words of unequal frequency.
fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: &[&str] =
        &["invoice ", "the ", "of ", "customer ", "and ", "2026", "total ", "in ", "a ", "shipment\n"];
    let dice = random(seed, len / 2);
    let words = dice.iter().flat_map(|byte| match byte {
        0..=199 => WORDS[usize::from(*byte) % WORDS.len()].as_bytes().to_vec(),
        _ => format!("{byte:03}-{} ", u32::from(*byte) * 7919 % 10_007).into_bytes(),
    });
    words.take(len).collect()
}

fn run(program: &str, args: &[&str], input: Option<&Path>) -> String {
    let mut command = Command::new(program);
    command.args(args);
    if let Some(input) = input {
        command.stdin(std::fs::File::open(input).expect("opens"));
    }
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}: `make deps` installs it"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// An ext4 file system in a file, with documents in it; changed without a mount, and so without root.
struct Ext4 {
    image: PathBuf,
    dir: tempfile::TempDir,
}

impl Ext4 {
    fn new(mib: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let documents = dir.path().join("documents");
        std::fs::create_dir(&documents).expect("a directory");
        let programs = std::fs::read(std::env::current_exe().expect("a path")).expect("reads");
        let archives = zstd::bulk::compress(&programs, 1).expect("compresses");
        let mut archives = archives.chunks_exact(FILE_BYTES).cycle();
        for file in 0..FILES {
            let bytes = match file % 4 {
                // What office programs and cameras make is compressed already.
                0 => archives.next().expect("programs are not that small").to_vec(),
                _ => text(file as u64, FILE_BYTES),
            };
            std::fs::write(documents.join(format!("f{file}")), bytes).expect("writes");
        }
        let image = dir.path().join("image");
        let (path, from) = (image.display().to_string(), documents.display().to_string());
        let size = format!("{mib}M");
        run("mkfs.ext4", &["-q", "-b", "4096", "-E", "lazy_itable_init=0", "-d", &from, &path, &size], None);
        Self { image, dir }
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.image).expect("reads")
    }

    /// What debugfs says to commands, one after the other.
    fn debug(&self, writable: bool, commands: &str) -> String {
        let script = self.dir.path().join("commands");
        std::fs::write(&script, commands).expect("writes");
        let (script, image) = (script.display().to_string(), self.image.display().to_string());
        let mut args = if writable { vec!["-w"] } else { Vec::new() };
        args.extend(["-f", &script, &image]);
        run("debugfs", &args, None)
    }

    /// The blocks of files, in order.
    fn blocks(&self, names: impl IntoIterator<Item = String>) -> Vec<Vec<usize>> {
        let script: String = names.into_iter().map(|name| format!("blocks /{name}\n")).collect();
        let said = self.debug(false, &script);
        // Each command is repeated, and its answer follows.
        let answers = said.split("debugfs: ").skip(1).filter_map(|answer| answer.split_once('\n'));
        let numbers = |answer: &str| answer.split_whitespace().map(|number| number.parse().expect("a block")).collect();
        answers.map(|(_, answer)| numbers(answer)).collect()
    }

    fn blocks_of(&self, files: impl IntoIterator<Item = usize>) -> Vec<Vec<usize>> {
        self.blocks(files.into_iter().map(|file| format!("f{file}")))
    }

    /// Blocks of all files that are there.
    fn in_use(&self) -> BTreeSet<usize> {
        let listed = self.debug(false, "ls -p /\n");
        let names = listed.lines().filter_map(|line| line.split('/').nth(5)).filter(|name| name.starts_with('f'));
        self.blocks(names.map(str::to_owned)).into_iter().flatten().collect()
    }

    /// Writes an encrypted copy beside a file, then deletes the file.
    fn copy_and_delete(&self, files: std::ops::Range<usize>) {
        let mut script = String::new();
        for file in files {
            let copy = self.dir.path().join(format!("copy{file}"));
            std::fs::write(&copy, random(1_000_000 + file as u64, FILE_BYTES)).expect("writes");
            script += &format!("write {} f{file}.locked\nrm f{file}\n", copy.display());
        }
        self.debug(true, &script);
    }
}

/// An office at work: a few files are changed.
fn edit(content: &mut [u8], fs: &Ext4, round: usize) {
    for blocks in fs.blocks_of((round..FILES).step_by(29)) {
        for (index, block) in blocks.into_iter().enumerate().take(3) {
            content[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&text((round * 100 + index) as u64, BLOCK));
        }
    }
}

/// Encrypts the first `most` blocks of each file where they are; the number of points until it was found.
async fn attacked_in_place(most: usize) -> usize {
    let fs = Ext4::new(96);
    let mut content = fs.content();
    let mut site = Site::new(content.len()).await;
    site.become_(&content, false).await;
    for round in 0..4 {
        edit(&mut content, &fs, round);
        site.become_(&content, false).await;
    }
    site.in_peace("an office").await;
    let clean = site.group.status().last_point.expect("a point");
    for batch in 0..8 {
        for blocks in fs.blocks_of(batch * FILES / 8..(batch + 1) * FILES / 8) {
            for block in blocks.into_iter().take(most) {
                content[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&random(block as u64, BLOCK));
            }
        }
        site.become_(&content, false).await;
        let found = site.suggestion().await;
        if !found.suspicions.is_empty() {
            assert_eq!(found.point.expect("a point").lsn, clean.lsn, "the newest point before the attack");
            return batch + 1;
        }
    }
    panic!("never found: {:?}", site.group.insight());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_encrypted_where_they_are_are_found_at_once() {
    assert!(attacked_in_place(usize::MAX).await <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_which_only_the_head_is_encrypted_are_found_soon() {
    let points = attacked_in_place(8).await;
    assert!(points <= 5, "after {points} points");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_copied_encrypted_and_deleted_are_found() {
    for discard in [false, true] {
        // Little is free, so that space is used again.
        let fs = Ext4::new(if discard { 160 } else { 72 });
        let mut site = Site::new(fs.content().len()).await;
        site.become_(&fs.content(), false).await;
        site.in_peace("a new file system").await;
        let clean = site.group.status().last_point.expect("a point");
        let mut found = None;
        for batch in 0..8 {
            let files = batch * FILES / 8..(batch + 1) * FILES / 8;
            let freed = fs.blocks_of(files.clone());
            fs.copy_and_delete(files.clone());
            let kept = fs.in_use();
            let mut content = fs.content();
            if discard {
                for block in freed.into_iter().flatten().filter(|block| !kept.contains(block)) {
                    content[block * BLOCK..(block + 1) * BLOCK].fill(0);
                }
                std::fs::write(&fs.image, &content).expect("writes");
            }
            site.become_(&content, discard).await;
            let suggestion = site.suggestion().await;
            if !suggestion.suspicions.is_empty() {
                let point = suggestion.point.expect("a point");
                let seen = &suggestion.suspicions;
                assert!(point.lsn >= clean.lsn, "discard {discard}: {point:?} is older than {clean:?}: {seen:?}");
                found = Some((batch, point.lsn, clean.lsn));
                break;
            }
        }
        let (batch, point, clean) =
            found.unwrap_or_else(|| panic!("discard {discard}: never found: {:?}", site.group.insight()));
        assert!(batch <= 5, "found after {} points", batch + 1);
        // Where space was used again only later, the copies before that look like any new file.
        assert!(!discard || point == clean, "discard: {point} instead of {clean}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_at_work_is_left_in_peace() {
    let dir = tempfile::tempdir().expect("a directory");
    let (database, script) = (dir.path().join("db"), dir.path().join("script"));
    let mut site = Site::new(64 * MIB).await;
    for round in 0..6 {
        let mut sql =
            String::from("PRAGMA synchronous=OFF; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, a, b, c);\n");
        // Names, amounts, and hashes: what is random in a database is not all of it.
        sql += "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 30000) \
                INSERT INTO t (a, b, c) SELECT 'customer ' || abs(random() % 100000), random(), hex(randomblob(20)) FROM n; COMMIT;\n";
        sql += "UPDATE t SET b = random(), c = hex(randomblob(20)) WHERE id % 3 = abs(random()) % 3;\n";
        std::fs::write(&script, sql).expect("writes");
        run("sqlite3", &[&database.display().to_string()], Some(&script));
        let mut content = std::fs::read(&database).expect("reads");
        content.resize(64 * MIB, 0);
        site.become_(&content, false).await;
        site.in_peace(&format!("a database, round {round}")).await;
    }
    let (_, ledger) = site.group.insight().expect("measured");
    let rewritten: u64 = ledger.entries().iter().map(|entry| entry.volumes[0].1.rewritten).sum();
    assert!(rewritten > 100, "the database rewrote its pages: {rewritten} in the samples");
}

/// Documents and programs as people wrote them: those of this repository.
fn sources() -> Vec<u8> {
    let mut bytes = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut open = vec![root.clone(), root.join("../docs")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("lists") {
            let path = entry.expect("an entry").path();
            let text = path.extension().is_some_and(|kind| kind == "rs" || kind == "md" || kind == "json");
            match path.is_dir() {
                true if !path.ends_with("target") => open.push(path),
                false if text => bytes.extend(std::fs::read(path).expect("reads")),
                _ => {}
            }
        }
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).expect("writes");
    run("gzip", &["-6", "-k", &path.display().to_string()], None);
    std::fs::read(dir.path().join("file.gz")).expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_videos_and_encrypted_volumes_are_left_in_peace() {
    // Archives where other files were, one after the other: of programs, and of what is in this repository.
    let programs = std::fs::read(std::env::current_exe().expect("a path")).expect("reads");
    let mut site = Site::new(64 * MIB).await;
    let mut content = text(1, 64 * MIB);
    site.become_(&content, false).await;
    let zstd = |bytes: &[u8], level| zstd::bulk::compress(bytes, level).expect("compresses");
    let archives = [zstd(&programs, 1), zstd(&sources(), 1), gzip(&programs), gzip(&sources()), zstd(&sources(), 9)];
    let mut at = 0;
    for (round, mut archive) in archives.into_iter().enumerate() {
        archive.truncate(12 * MIB);
        content[at..at + archive.len()].copy_from_slice(&archive);
        at += archive.len().next_multiple_of(BLOCK);
        site.become_(&content, false).await;
        site.in_peace(&format!("archive {round}")).await;
    }
    // Videos: random in new space, then others in their place.
    let mut site = Site::new(32 * MIB).await;
    let mut content = vec![0; 32 * MIB];
    for round in 0..8 {
        let at = usize::try_from(round % 4).expect("small") * 8 * MIB;
        content[at..at + 8 * MIB].copy_from_slice(&random(round, 8 * MIB));
        site.become_(&content, false).await;
        site.in_peace(&format!("video {round}")).await;
    }
    // A volume that its owner encrypted from the start, and works with.
    let mut site = Site::new(32 * MIB).await;
    let mut content = random(99, 32 * MIB);
    for round in 0..6 {
        for block in (round..8192).step_by(5) {
            content[block * BLOCK..(block + 1) * BLOCK]
                .copy_from_slice(&random((round * 10_000 + block) as u64, BLOCK));
        }
        site.become_(&content, false).await;
        site.in_peace(&format!("an encrypted volume, round {round}")).await;
    }
}
