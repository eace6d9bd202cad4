//! `make soak`: the long forms of what CI runs in short, for as long as one likes, and on from there the next time.
//!
//! ```text
//! soak [--rows kills,sequences] [--minutes 30] [--count N] [--seed N] [--dir DIR] [--table] [--list]
//! ```
//! Rows take turns, a run each, until the time is over, each had `--count` runs, or all have what they are to come to. A miss is printed and
//! kept with the line that repeats it, and the exit code is 1 in the end. What can't be run at all, such as a test that isn't there or
//! doesn't compile, is no miss: the row is left out and said. The record is in `DIR` ([`soak`]), TARGET_DIR/soak otherwise.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_acceptance::binaries;
use lifeboat_acceptance::soak::{Miss, ROWS, Record, Row, Run, Runner};

/// What nextest ends with when a test has failed, and when there is none.
const TESTS_FAILED: i32 = 100;
const NO_TESTS: i32 = 4;

struct Settings {
    rows: Vec<&'static Row>,
    until: Option<Duration>,
    runs: Option<u64>,
    seed: u64,
    dir: PathBuf,
    table: bool,
    list: bool,
}

/// What a run came to.
enum Came {
    Well,
    Missed,
    /// It could not be made, and why.
    Not(String),
}

fn main() -> ExitCode {
    match settings().and_then(|settings| soak(&settings)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("soak: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closed our output isn't reading; the record is kept all the same.
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

fn settings() -> Result<Settings> {
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let mut settings = Settings {
        rows: ROWS.iter().collect(),
        until: Some(Duration::from_secs(30 * 60)),
        runs: None,
        // Room between two of them for the seeds of a long run.
        seed: fresh << 24,
        dir: PathBuf::from("target/soak"),
        table: false,
        list: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        let number = |text: String| {
            let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
            parsed.with_context(|| format!("{text:?} is no number"))
        };
        match arg.as_str() {
            "--rows" => settings.rows = value()?.split(',').map(Row::find).collect::<Result<_>>()?,
            "--minutes" => settings.until = Some(Duration::from_secs(number(value()?)? * 60)),
            "--count" => (settings.runs, settings.until) = (Some(number(value()?)?), None),
            "--seed" => settings.seed = number(value()?)?,
            "--dir" => settings.dir = value()?.into(),
            "--table" => settings.table = true,
            "--list" => settings.list = true,
            other => bail!("{other:?} is none of --rows, --minutes, --count, --seed, --dir, --table, --list"),
        }
    }
    Ok(settings)
}

fn soak(settings: &Settings) -> Result<usize> {
    if settings.list {
        ROWS.iter().for_each(|row| say(&format!("{:16} {} (in CI: {})", row.name, row.what, row.in_ci)));
        return Ok(0);
    }
    std::fs::create_dir_all(&settings.dir).with_context(|| format!("create {}", settings.dir.display()))?;
    let dir = settings.dir.canonicalize().context("the directory of the record")?;
    let mut record = Record::open(&dir)?;
    if settings.table {
        say(record.table().trim_end());
        return Ok(0);
    }
    let begun = Instant::now();
    let mut rows: Vec<(&Row, u64)> = settings.rows.iter().map(|row| (*row, 0)).collect();
    let mut missed = 0;
    while !rows.is_empty() {
        let mut stay = Vec::new();
        for (row, runs) in rows {
            if settings.until.is_some_and(|until| begun.elapsed() >= until) {
                return ended(&record, missed);
            }
            let Some(run) = record.next(row, settings.seed).filter(|_| settings.runs.is_none_or(|most| runs < most))
            else {
                continue;
            };
            let log = dir.join(format!("{}.log", row.name));
            let started = Instant::now();
            let came = carry_out(row, &run, &log).with_context(|| format!("row {}", row.name))?;
            let seconds = started.elapsed().as_secs_f64();
            let kept = match came {
                Came::Not(why) => {
                    say(&format!("{:16} left out: {why}", row.name));
                    continue;
                }
                Came::Well => None,
                Came::Missed => {
                    let kept = dir.join(format!("miss-{}-{:x}-{}.log", row.name, run.seed, record_runs(&record, row)));
                    std::fs::rename(&log, &kept).with_context(|| format!("keep {}", log.display()))?;
                    Some(Miss { seed: run.seed, count: run.count, repeat: row.repeat(&run), log: kept })
                }
            };
            if let Some(miss) = &kept {
                missed += 1;
                say(&format!(
                    "{:16} MISS, repeat it with: {}\n{:16} see {}",
                    row.name,
                    miss.repeat,
                    "",
                    miss.log.display()
                ));
            }
            record.note(row, &run, seconds, kept);
            record.save(&dir)?;
            let done = &record.rows[row.name];
            say(&format!(
                "{:16} {} of {} in {:.0} s, {} misses (this run: {} from seed {:#x} in {seconds:.0} s)",
                row.name,
                done.count,
                row.target,
                done.seconds,
                done.misses.len(),
                run.count,
                run.seed
            ));
            stay.push((row, runs + 1));
        }
        rows = stay;
    }
    ended(&record, missed)
}

fn record_runs(record: &Record, row: &Row) -> u64 {
    record.rows.get(row.name).map_or(0, |done| done.runs)
}

fn ended(record: &Record, missed: usize) -> Result<usize> {
    let all: usize = record.rows.values().map(|done| done.misses.len()).sum();
    say(&format!("{missed} misses now, {all} on record"));
    Ok(missed)
}

/// Makes a run, with everything that it says in `log`.
fn carry_out(row: &Row, run: &Run, log: &Path) -> Result<Came> {
    let output = std::fs::File::create(log).with_context(|| format!("write {}", log.display()))?;
    // It ends with this process, also when that is killed: nextest ends its tests then, and they their gateways.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    match row.runner {
        Runner::Tests(package, filter) => {
            command.args([
                "cargo-nextest",
                "nextest",
                "run",
                "--locked",
                "--no-fail-fast",
                "-p",
                package,
                "-E",
                filter,
            ]);
            command.current_dir(binaries::repository());
        }
        Runner::Simulation => {
            command.arg(binaries::simulation()?);
        }
    }
    command.envs(row.variables(run));
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output)
        .status()
        .context("start a run: are cargo-nextest and setpriv there?")?;
    let code = status.code();
    ensure!(code.is_some(), "the run was ended by a signal ({status}); it isn't counted");
    Ok(match (row.runner, code) {
        (_, Some(0)) => Came::Well,
        (Runner::Simulation, Some(1)) | (Runner::Tests(..), Some(TESTS_FAILED)) => Came::Missed,
        (Runner::Tests(..), Some(NO_TESTS)) => Came::Not("there is no such test".to_owned()),
        _ => Came::Not(format!("it couldn't be run ({status}); see {}", log.display())),
    })
}
