//! fio's own verification over a gateway that dies: what was acknowledged is there, nothing else is, and a recovery point is a moment.
//!
//! ```text
//! write    8 jobs, each a region, one write after the other, every block with fio's header and checksum     → SIGKILL
//! verify   fio reads what it was acknowledged (it kept a record of that) and holds headers and checksums against it
//! survey   every block of the volume: as before this round, or a whole block of this round at its own place; of each job all writes that
//!          were acknowledged, by their numbers (fio itself takes an older block of the same place for right)
//! cut      a recovery point: of each job a beginning of its writes, and of all jobs together one moment
//! ```
//! fio stops at the first failed write of a job and leaves a record of the writes that were acknowledged until then; the verification reads
//! that. A job has one write at a time: so its writes have their place in the volume's write order by their numbers, and the time at which
//! one was begun tells that the one before it had been acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command::{Daemon, Run};
use crate::eventually;

/// Of a block with a header, in bytes.
pub const BLOCK: usize = 4096;
/// Of the volume, in bytes: eight regions.
pub const SIZE: u64 = 8 * REGION;
const REGION: u64 = 4 << 20;
/// Jobs that write 4 KiB at a time and sync often; two more write 32 KiB at a time.
const SMALL: u64 = 6;
const LARGE_BYTES: u64 = 32 << 10;
const HEADER: usize = 44;
const MAGIC: u16 = 0xacca;
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What a round writes: the same seed writes the same to the same places.
#[derive(Debug)]
pub struct Round {
    dir: PathBuf,
    job_file: PathBuf,
}

/// What fio says of its jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of writes that were acknowledged, of each job in their order.
    pub written: Vec<u64>,
    /// Bytes of blocks that were read and found right.
    pub verified: u64,
    /// Jobs that a failed write ended.
    pub failed_jobs: usize,
}

impl Round {
    /// A round over this volume, with what it keeps in `dir`, which is made. A paced one takes some seconds.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn new(dir: &Path, volume: &Path, seed: u64, paced: bool) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let pace = if paced { "rate_iops=150\n" } else { "" };
        let jobs = format!(
            "[global]\nfilename={}\nrw=randwrite\nioengine=psync\nallow_file_create=0\nrandseed={seed}\nsize={REGION}\n\
             offset_increment={REGION}\nverify=crc32c\nverify_interval={BLOCK}\nverify_fatal=1\n\
             [small]\nbs={BLOCK}\nnumjobs={SMALL}\nfdatasync=16\n{pace}\
             [large]\nbs={LARGE_BYTES}\nnumjobs=2\noffset={}\nfsync=8\n{}",
            volume.display(),
            SMALL * REGION,
            if paced { "rate_iops=20\n" } else { "" },
        );
        let job_file = dir.join("jobs.fio");
        std::fs::write(&job_file, jobs).with_context(|| format!("write {}", job_file.display()))?;
        Ok(Self { dir: dir.to_owned(), job_file })
    }

    fn args(&self, more: &[&str], output: &Path) -> Vec<String> {
        let own = |path: &Path| path.display().to_string();
        let mut args = vec![own(&self.job_file), format!("--aux-path={}", own(&self.dir))];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.extend(["--output-format=json".to_owned(), format!("--output={}", own(output))]);
        args
    }

    /// Begins to write.
    ///
    /// # Errors
    /// fio isn't there.
    pub fn write(&self) -> Result<Writing> {
        let output = self.dir.join("write.json");
        let args = self.args(&["--do_verify=0", "--verify_state_save=1"], &output);
        let args: Vec<_> = args.into_iter().map(Into::into).collect();
        let fio = Daemon::start("fio", Path::new("fio"), &args, &[], &self.dir.join("write.log"))?;
        Ok(Writing { fio, output })
    }

    /// Reads every block whose write was acknowledged, and holds it against what was written.
    ///
    /// # Errors
    /// A block isn't what was written, with fio's words.
    pub fn verify(&self) -> Result<Figures> {
        let output = self.dir.join("verify.json");
        let args = self.args(&["--verify_only", "--verify_state_load=1"], &output);
        let outcome = Run::new("fio").args(args).within(ENDS_WITHIN).outcome()?;
        if !outcome.status.success() {
            return Err(outcome.failure().context("what was acknowledged is not in the volume"));
        }
        figures(&output)
    }
}

/// fio while it writes.
#[derive(Debug)]
pub struct Writing {
    fio: Daemon,
    output: PathBuf,
}

impl Writing {
    /// Waits until this many bytes were taken from it, or it has written everything.
    ///
    /// # Errors
    /// It doesn't get there.
    pub fn reach(&self, bytes: u64) -> Result<()> {
        let pid = self.fio.pid();
        eventually(&format!("fio to write {bytes} bytes"), ENDS_WITHIN, || {
            let over = self.fio.ended()?.is_some();
            Ok((over || written_by_children(pid) >= bytes).then_some(()))
        })
        .with_context(|| self.fio.log_tail(20))
    }

    /// Whether it still writes.
    ///
    /// # Errors
    /// The system can't tell.
    pub fn goes_on(&self) -> Result<bool> {
        Ok(self.fio.ended()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It doesn't end, or doesn't say what it did.
    pub fn end(self) -> Result<Figures> {
        eventually("fio to end", ENDS_WITHIN, || self.fio.ended()).with_context(|| self.fio.log_tail(20))?;
        figures(&self.output).with_context(|| self.fio.log_tail(20))
    }
}

/// What the jobs of a fio handed to `write` and its kind, and had taken.
fn written_by_children(pid: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let written = |child: &str| -> Option<u64> {
        // A child that has just ended says nothing any more.
        let text = std::fs::read_to_string(format!("/proc/{child}/io")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()
    };
    children.split_whitespace().filter_map(written).sum()
}

fn figures(output: &Path) -> Result<Figures> {
    let text = std::fs::read_to_string(output).with_context(|| format!("read {}", output.display()))?;
    // What goes wrong may be said before the document.
    let document = text.find("{\n").and_then(|at| text.get(at..)).context("fio printed no figures")?;
    let document = serde_json::Deserializer::from_str(document).into_iter::<Value>().next();
    let document = document.context("fio printed no figures")?.context("fio's figures")?;
    let mut found = Figures::default();
    for job in document["jobs"].as_array().context("fio's figures have no jobs")? {
        found.written.push(job["write"]["io_bytes"].as_u64().context("what a job wrote")?);
        found.verified += job["read"]["io_bytes"].as_u64().context("what a job read")?;
        found.failed_jobs += usize::from(job["error"].as_i64() != Some(0));
    }
    Ok(found)
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// Which job wrote it.
    job: u16,
    /// Which of the job's writes.
    number: u16,
    /// When that was begun, in nanoseconds of fio's clock.
    begun: u64,
}

/// Reads the header of a block that has to be whole and in its place.
fn stamp(bytes: &[u8], offset: u64) -> Result<Stamp> {
    let field = |at: usize, len: usize| {
        let bytes = bytes.get(at..at + len).unwrap_or_default();
        bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    ensure!(
        bytes.len() == BLOCK && field(0, 2) == u64::from(MAGIC),
        "no write put there what begins with {:?}",
        bytes.get(..16)
    );
    ensure!(field(16, 8) == offset, "it belongs to offset {}", field(16, 8));
    ensure!(field(4, 4) == BLOCK as u64, "its header says {} bytes", field(4, 4));
    let sums = [(bytes.get(..36), field(36, 4)), (bytes.get(HEADER..), field(40, 4))];
    for (part, sum) in sums {
        ensure!(u64::from(crc32c(part.unwrap_or_default())) == sum, "it is torn: its checksum is of other bytes");
    }
    let narrow = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Ok(Stamp {
        job: narrow(field(32, 2)),
        number: narrow(field(34, 2)),
        begun: field(24, 4) * 1_000_000_000 + field(28, 4),
    })
}

/// The Castagnoli polynomial, reflected, without the last inversion: as fio has it.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let (mut at, mut first) = (0, 0_u32);
        while at < table.len() {
            let (mut value, mut bit) = (first, 0);
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            (at, first) = (at + 1, first + 1);
        }
        table
    };
    bytes.iter().fold(!0, |sum, byte| sum >> 8 ^ TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)])
}

/// What a round left in the volume.
#[derive(Debug)]
pub struct Survey {
    /// The volume as it was before.
    before: Vec<u8>,
    /// As it is now.
    after: Vec<u8>,
    /// The blocks that the round wrote, by job and number.
    written: BTreeMap<u16, BTreeMap<u16, Write>>,
}

#[derive(Clone, Debug, Default)]
struct Write {
    begun: u64,
    /// Numbers of its blocks.
    blocks: Vec<usize>,
}

impl Survey {
    /// Looks at every block: as before, or whole, of a job of this round and in its place. Of each job everything has to be there that was
    /// acknowledged ([`Figures::written`]).
    ///
    /// # Errors
    /// A block is neither, or a write is lost.
    pub fn new(before: Vec<u8>, after: Vec<u8>, acknowledged: &[u64]) -> Result<Self> {
        ensure!(before.len() == after.len(), "the volume's size has changed");
        let mut written: BTreeMap<u16, BTreeMap<u16, Write>> = BTreeMap::new();
        for (block, (old, new)) in before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate() {
            if old == new {
                continue;
            }
            let stamp = stamp(new, (block * BLOCK) as u64).with_context(|| format!("block {block}"))?;
            let write = written.entry(stamp.job).or_default().entry(stamp.number).or_default();
            write.begun = stamp.begun;
            write.blocks.push(block);
        }
        let survey = Self { before, after, written };
        survey.beginnings(&survey.after).context("the volume")?;
        for (job, acknowledged) in (1_u16..).zip(acknowledged) {
            let whole = if u64::from(job) <= SMALL { 1 } else { usize::try_from(LARGE_BYTES)? / BLOCK };
            let writes = survey.written.get(&job).into_iter().flat_map(BTreeMap::values);
            let there = writes.filter(|write| write.blocks.len() == whole).count() as u64 * (whole * BLOCK) as u64;
            ensure!(
                there >= *acknowledged,
                "{acknowledged} bytes of job {job} were acknowledged, and {there} are there"
            );
        }
        Ok(survey)
    }

    /// Blocks that the round wrote.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.written.values().flat_map(BTreeMap::values).map(|write| write.blocks.len()).sum()
    }

    /// The volume as it is now.
    #[must_use]
    pub fn into_volume(self) -> Vec<u8> {
        self.after
    }

    /// Holds a recovery point of this round against it: of each job a beginning of its writes, and all of them of one moment. Gives the number of
    /// blocks that it has of the round.
    ///
    /// # Errors
    /// It is no moment of the volume's write order.
    pub fn cut(&self, point: &[u8]) -> Result<usize> {
        let ends = self.beginnings(point)?;
        // The latest write of all that the point has: whatever was acknowledged before that was begun has to be in the point too.
        let begun = |job: &u16, number: u16| self.written.get(job)?.get(&number).map(|write| write.begun);
        let latest = ends.iter().filter_map(|(job, end)| begun(job, end.checked_sub(1)?)).max().unwrap_or(0);
        for (job, end) in &ends {
            // The first write that the point lacks was acknowledged when the job began the next one.
            if let Some(next) = begun(job, end + 1) {
                ensure!(
                    next >= latest,
                    "the point has a write that was begun {} ns after write {end} of job {job} was acknowledged, and lacks that",
                    latest - next
                );
            }
        }
        let has = |block: &&usize| {
            let range = **block * BLOCK..(**block + 1) * BLOCK;
            point.get(range.clone()) == self.after.get(range)
        };
        Ok(self.written.values().flat_map(BTreeMap::values).flat_map(|write| &write.blocks).filter(has).count())
    }

    /// Of each job the number of its first write that isn't there whole: all before it are, and none behind it.
    fn beginnings(&self, volume: &[u8]) -> Result<BTreeMap<u16, u16>> {
        ensure!(volume.len() == self.after.len(), "it has {} bytes", volume.len());
        let blocks = volume.chunks(BLOCK).zip(self.before.chunks(BLOCK).zip(self.after.chunks(BLOCK)));
        for (block, (found, (before, after))) in blocks.enumerate() {
            ensure!(
                found == before || found == after,
                "block {block} is neither what it was before the round nor after it"
            );
        }
        let has = |block: &usize| {
            let range = *block * BLOCK..(*block + 1) * BLOCK;
            volume.get(range.clone()) == self.after.get(range)
        };
        let mut ends = BTreeMap::new();
        for (job, writes) in &self.written {
            let mut end = 0;
            for (at, (number, write)) in (0_u16..).zip(writes) {
                ensure!(at == *number, "write {at} of job {job} is lost, and write {number} is there");
                let found = write.blocks.iter().filter(|block| has(block)).count();
                if found > 0 {
                    ensure!(end == at, "write {end} of job {job} is lost, and write {number} is there");
                }
                if found == write.blocks.len() {
                    end = at + 1;
                }
            }
            ends.insert(*job, end);
        }
        Ok(ends)
    }
}

/// The whole volume.
///
/// # Errors
/// It can't be read.
pub fn volume(path: &Path) -> Result<Vec<u8>> {
    let bytes = crate::content::content(path)?;
    if bytes.len() as u64 == SIZE { Ok(bytes) } else { bail!("{} has {} bytes", path.display(), bytes.len()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const ALL: [u64; 8] = [REGION; 8];

    fn written(dir: &Path) -> (PathBuf, Round) {
        let path = dir.join("volume");
        File::create(&path).unwrap().set_len(SIZE).unwrap();
        let round = Round::new(&dir.join("round"), &path, 7, false).unwrap();
        let figures = round.write().unwrap().end().unwrap();
        assert_eq!(figures, Figures { written: ALL.to_vec(), verified: 0, failed_jobs: 0 });
        (path, round)
    }

    #[test]
    fn a_block_that_is_lost_or_old_or_torn_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (path, round) = written(dir.path());
        assert_eq!(round.verify().unwrap().verified, SIZE);
        let first = volume(&path).unwrap();
        let survey = Survey::new(vec![0; first.len()], first.clone(), &ALL).unwrap();
        assert_eq!(survey.blocks() as u64, SIZE / BLOCK as u64);

        // Another round over it, of which one block is what the first had written: whole, in its place, and lost.
        let again = Round::new(&dir.path().join("again"), &path, 8, false).unwrap();
        again.write().unwrap().end().unwrap();
        let second = volume(&path).unwrap();
        let lost = |survey: Result<Survey>| {
            let error = survey.unwrap_err();
            assert!(format!("{error:#}").contains("is lost"), "{error:#}");
        };
        let mut old = second.clone();
        old[..BLOCK].copy_from_slice(&first[..BLOCK]);
        lost(Survey::new(first.clone(), old, &ALL));
        // The last write of a job leaves no hole.
        let last = Survey::new(first.clone(), second.clone(), &ALL).unwrap().written[&1][&1023].blocks[0] * BLOCK;
        let mut short = second.clone();
        short[last..last + BLOCK].copy_from_slice(&first[last..last + BLOCK]);
        let error = Survey::new(first.clone(), short.clone(), &ALL).unwrap_err();
        assert!(error.to_string().contains("of job 1 were acknowledged"), "{error:#}");
        Survey::new(first.clone(), short, &[REGION - BLOCK as u64]).unwrap();

        // What is in no place of its own, fio finds too.
        File::options().write(true).open(&path).unwrap().write_all_at(&first[..BLOCK], BLOCK as u64).unwrap();
        let error = again.verify().unwrap_err();
        assert!(format!("{error:#}").contains("verify:"), "{error:#}");
        let mut torn = second.clone();
        torn[BLOCK / 2..BLOCK].copy_from_slice(&first[BLOCK / 2..BLOCK]);
        let error = Survey::new(first.clone(), torn, &ALL).unwrap_err();
        assert!(format!("{error:#}").contains("torn"), "{error:#}");
        let mut moved = second;
        moved.copy_within(..BLOCK, BLOCK);
        let error = Survey::new(first, moved, &ALL).unwrap_err();
        assert!(format!("{error:#}").contains("belongs to offset 0"), "{error:#}");
    }

    #[test]
    fn a_point_that_is_no_moment_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = written(dir.path());
        let after = volume(&path).unwrap();
        let survey = Survey::new(vec![0; after.len()], after.clone(), &ALL).unwrap();
        assert_eq!(survey.cut(&after).unwrap(), survey.blocks());
        assert_eq!(survey.cut(&vec![0; after.len()]).unwrap(), 0);
        // Every job's writes that had been acknowledged before some write was begun: a moment.
        let cut = |of: &dyn Fn(u16) -> u64| {
            let mut point = vec![0; after.len()];
            for (job, writes) in &survey.written {
                let blocks = writes.values().filter(|write| write.begun < of(*job)).flat_map(|write| &write.blocks);
                for at in blocks.map(|block| block * BLOCK) {
                    point[at..at + BLOCK].copy_from_slice(&after[at..at + BLOCK]);
                }
            }
            point
        };
        let middle = survey.written[&1][&500].begun;
        let blocks = survey.cut(&cut(&|_| middle)).unwrap();
        assert!(blocks > 500 && blocks < survey.blocks(), "{blocks}");
        // One job a hundred writes further than the others.
        let further = survey.written[&1][&600].begun;
        let error = survey.cut(&cut(&|job| if job == 1 { further } else { middle })).unwrap_err();
        assert!(error.to_string().contains("lacks that"), "{error:#}");
        // One write of a job is missing.
        let mut hole = after.clone();
        let at = survey.written[&2][&100].blocks[0] * BLOCK;
        hole[at..at + BLOCK].fill(0);
        let error = survey.cut(&hole).unwrap_err();
        assert!(error.to_string().contains("write 100 of job 2 is lost"), "{error:#}");
    }
}
